package fetchtest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
)

// errClosedHere is who ended a connection that a step closed.
var errClosedHere = errors.New("the upstream's own step closed the connection")

// wire is the TCP connection itself, below TLS. It notes when the connection
// is over, and whether the peer ended it.
type wire struct {
	net.Conn
	number int

	once  sync.Once
	ended chan struct{} // closed when the connection is over
	by    error         // who ended it; nil is the peer; valid once ended is closed
}

// end notes that the connection is over; what the first call says counts.
func (w *wire) end(by error) {
	w.once.Do(func() {
		w.by = by
		close(w.ended)
	})
}

// hangUp closes the connection in the upstream's own name.
func (w *wire) hangUp(by error) {
	w.end(by)
	w.Conn.Close()
}

// saw notes what an error of reading or writing tells about the connection. A
// deadline tells nothing.
func (w *wire) saw(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.end(nil)
	}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.saw(err)
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.saw(err)
	return n, err
}

// Close is what a server calls when it has seen the end of the connection, so
// it blames the peer; hangUp does not.
func (w *wire) Close() error {
	w.end(nil)
	return w.Conn.Close()
}

func (w *wire) closeWrite() error { return w.Conn.(*net.TCPConn).CloseWrite() }

// reset makes the connection end with a TCP RST instead of a FIN.
func (w *wire) reset() error {
	w.end(errClosedHere)
	if err := w.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	return w.Conn.Close()
}

// Conn is a connection that an upstream accepted, as its steps see it: above
// TLS, where the upstream speaks it. Only one goroutine may use it at a time,
// but for Ended.
type Conn struct {
	net.Conn
	wire    *wire
	reader  *bufio.Reader // of Conn
	split   *rand.Rand    // nil: writes go out whole
	request *Recorded     // the last one that was read, or nil

	// ahead is closed when the goroutine that reads ahead is over; it is nil
	// when there is none. That goroutine owns reader meanwhile; join waits for it.
	ahead chan struct{}
}

func newConn(w *wire, config *tls.Config, split uint64) *Conn {
	c := &Conn{Conn: w, wire: w}
	if config != nil {
		c.Conn = tls.Server(w, config)
	}
	c.reader = bufio.NewReader(c.Conn)
	if split != 0 {
		c.split = rand.New(rand.NewPCG(split, uint64(w.number)))
	}
	return c
}

// Number returns the connection's number; the first of an upstream is 1.
func (c *Conn) Number() int { return c.wire.number }

// Ended returns a channel that is closed when the connection is over. A step
// that waits for anything else must wait for this too.
func (c *Conn) Ended() <-chan struct{} { return c.wire.ended }

// Close closes the connection in the upstream's own name.
func (c *Conn) Close() error {
	c.wire.end(errClosedHere)
	return c.Conn.Close()
}

// Read reads what the peer sent.
func (c *Conn) Read(p []byte) (int, error) {
	c.join()
	n, err := c.reader.Read(p)
	c.wire.saw(err)
	return n, err
}

// ReadByte reads one byte of what the peer sent.
func (c *Conn) ReadByte() (byte, error) {
	c.join()
	b, err := c.reader.ReadByte()
	c.wire.saw(err)
	return b, err
}

// Write sends p, in pieces if the upstream splits its writes.
func (c *Conn) Write(p []byte) (int, error) {
	if c.split == nil {
		return c.Conn.Write(p)
	}
	written := 0
	for written < len(p) {
		size := min(1<<c.split.IntN(15), len(p)-written)
		n, err := c.Conn.Write(p[written : written+size])
		written += n
		if err != nil {
			return written, err
		}
		runtime.Gosched() // lets a reader of this process see the piece alone
	}
	return written, nil
}

// readAhead waits in the background for the next byte, so that the peer's
// closing is noticed while no step reads.
func (c *Conn) readAhead() {
	if c.ahead != nil {
		return
	}
	over := make(chan struct{})
	c.ahead = over
	go func() {
		defer close(over)
		_, err := c.reader.Peek(1)
		c.wire.saw(err)
	}()
}

// join waits for readAhead's goroutine, if there is one.
func (c *Conn) join() {
	if c.ahead != nil {
		<-c.ahead
		c.ahead = nil
	}
}

// drain reads and forgets what the peer sends until it has closed: closing with
// unread bytes makes TCP reset the connection and lose what was written.
func (c *Conn) drain() { _, _ = io.Copy(io.Discard, c) }
