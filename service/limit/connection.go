package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// Connection is one connection of a caller. What is held for its RPCs is given
// back with it: gRPC forgets what it could not send any more.
type Connection struct {
	stall  time.Duration
	hangUp func()

	mu     sync.Mutex
	gone   bool
	leases map[*Lease]time.Time // when their RPC ended; zero if it has not
	// timer looks for answers that nobody reads; nil while there are none.
	timer *time.Timer
	// written are the bytes that the caller took, seen those at the last look.
	written atomic.Int64
	seen    int64
}

// leastRead is how many bytes a second a caller has to take, on average over the
// stall, for its connection to stay while an answer of an RPC that has ended is
// not read.
const leastRead = 1 << 10

// NewConnection returns a connection with no RPC. hangUp is called when an
// answer, of an RPC that has ended, was not read to its end for stall, and the
// caller took less than 1 KiB a second of anything meanwhile; it must lead to
// Gone.
func NewConnection(stall time.Duration, hangUp func()) *Connection {
	return &Connection{stall: stall, hangUp: hangUp, leases: map[*Lease]time.Time{}}
}

// Gone says that the connection is closed.
func (c *Connection) Gone() {
	c.mu.Lock()
	c.gone = true
	if c.timer != nil {
		c.timer.Stop()
	}
	held := make([]*Lease, 0, len(c.leases))
	for l := range c.leases {
		held = append(held, l)
	}
	c.mu.Unlock()
	for _, l := range held {
		l.Forfeit()
	}
}

// Wrote says that the caller took n bytes.
func (c *Connection) Wrote(n int) { c.written.Add(int64(n)) }

// add is called for each lease of the connection.
func (c *Connection) add(l *Lease) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		l.forfeited.Store(true)
		return
	}
	c.leases[l] = time.Time{}
}

func (c *Connection) remove(l *Lease) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.leases, l)
}

// unread notes that the RPC of l has ended and its answer is not read yet.
func (c *Connection) unread(l *Lease) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, holds := c.leases[l]; !holds {
		return // read meanwhile
	}
	c.leases[l] = time.Now()
	if c.timer == nil {
		c.seen = c.written.Load()
		c.timer = time.AfterFunc(c.stall, c.look)
	}
}

// look hangs up if an answer has waited too long for its caller.
func (c *Connection) look() {
	if c.isStalled() {
		c.hangUp()
	}
}

// isStalled tells whether an answer has waited for stall; if not, it has the
// timer look again when the next one will have.
func (c *Connection) isStalled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = nil
	var oldest time.Time
	for _, ended := range c.leases {
		if !ended.IsZero() && (oldest.IsZero() || ended.Before(oldest)) {
			oldest = ended
		}
	}
	if oldest.IsZero() || c.gone {
		return false
	}
	written := c.written.Load()
	reads := written-c.seen >= int64(c.stall.Seconds()*leastRead)
	c.seen = written
	waited := time.Since(oldest)
	switch {
	case waited < c.stall:
		c.timer = time.AfterFunc(c.stall-waited, c.look)
	case reads:
		c.timer = time.AfterFunc(c.stall, c.look)
	default:
		return true
	}
	return false
}
