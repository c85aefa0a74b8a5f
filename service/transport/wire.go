package transport

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// phase is what a wire may read.
type phase int

const (
	phaseIdle phase = iota // nothing: no request is under way, or its response has ended
	phaseHead
	phaseBody
)

var errUnasked = errors.New("the upstream sent bytes that belong to no response")

// wire is the connection as net/http's HTTP/1.1 engine sees it. It holds every
// head to the rules that net/http is lenient about, keeps it as it was, counts,
// and keeps the time.
//
// net/http always has a read waiting, to learn of a connection's end, and would
// take what comes between two requests for the answer to the second. So a read
// without a request waits in the wire, not at the socket, and what comes
// meanwhile is seen by quiet before the connection is used again.
type wire struct {
	net.Conn
	c      *conn
	limits fetch.Limits

	mu     sync.Mutex
	change sync.Cond // parked or closed was set, or phase left idle
	phase  phase
	// reading tells that a read waits at the socket, parked that one waits here.
	reading, parked bool
	closed          bool
	spoiled         bool // bytes came that belong to no response

	// Of the request under way or the last one:
	x                 *exchange
	head              headReader
	final             *fetch.Head
	framing           framing
	left              int64 // bytes of the body that did not come yet; -1: not known
	received          bool  // a byte came
	fault             error
	readErr, writeErr error
}

func newWire(c *conn, limits fetch.Limits) *wire {
	w := &wire{Conn: c.net, c: c, limits: limits}
	w.change.L = &w.mu
	c.sock.whenClosed(func() { w.wake() })
	return w
}

// begin opens the wire for the request of x.
func (w *wire) begin(x *exchange) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	w.x, w.final, w.received, w.fault, w.readErr, w.writeErr = x, nil, false, nil, nil, nil
	w.head = headReader{maxBytes: w.limits.MaxResponseFieldBytes, maxFields: w.limits.MaxResponseFields}
	w.phase = phaseHead
	w.change.Broadcast()
	return w.Conn.SetReadDeadline(time.Time{})
}

// expectHead starts the time that the response head may take.
func (w *wire) expectHead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase == phaseHead {
		w.Conn.SetReadDeadline(time.Now().Add(w.x.req.Timeouts.Head))
	}
}

// settle closes the wire at the end of a response. A read that net/http has
// begun meanwhile comes back and waits in the wire.
func (w *wire) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phaseIdle
	if w.reading {
		w.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		if err := w.admit(); err != nil {
			return 0, err
		}
		n, err := w.Conn.Read(p)
		n, again, err := w.take(p[:n], err)
		if !again {
			return n, err
		}
	}
}

// admit lets a read through to the socket when there is something to expect.
func (w *wire) admit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.phase == phaseIdle && !w.closed {
		w.parked = true
		w.change.Broadcast()
		w.change.Wait()
	}
	w.parked = false
	if w.closed {
		if w.readErr == nil {
			w.readErr = net.ErrClosed
		}
		return net.ErrClosed
	}
	w.reading = true
	if w.phase == phaseBody {
		w.Conn.SetReadDeadline(time.Now().Add(w.x.req.Timeouts.Idle))
	}
	return nil
}

// take judges what a read brought and says how much of it net/http may have.
func (w *wire) take(p []byte, err error) (n int, again bool, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	if w.phase == phaseIdle {
		if len(p) == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, true, nil
		}
		w.spoiled = true
		return 0, false, errUnasked
	}
	if len(p) > 0 {
		w.received = true
		w.x.gotByte()
	}
	n = len(p)
	if w.phase == phaseHead {
		n, w.fault = w.screen(p)
	} else {
		n = w.takeBody(p)
	}
	if w.fault != nil {
		return 0, false, w.fault
	}
	if err == io.EOF && w.c.tls != nil && w.c.sock.sawFIN.Load() {
		err = io.ErrUnexpectedEOF
	}
	w.readErr = err
	return n, false, err
}

// screen holds the heads in p to the rules, up to the final one.
func (w *wire) screen(p []byte) (n int, _ error) {
	for n < len(p) {
		used, whole, fault := w.head.feed(p[n:])
		n += used
		if fault != nil {
			return 0, w.x.refusedHead(fault)
		}
		if !whole {
			break
		}
		h, fault := w.head.head()
		if fault != nil {
			return 0, w.x.refusedHead(fault)
		}
		if h.Status < 200 && h.Status != 101 {
			if f := w.x.interim(h, w.limits.MaxInterim); f != nil {
				return 0, f
			}
			continue
		}
		if fault = w.accept(h); fault != nil {
			return 0, w.x.refusedHead(fault)
		}
		return n + w.takeBody(p[n:]), nil
	}
	return n, nil
}

// accept takes the final head.
func (w *wire) accept(h fetch.Head) (fault *headFault) {
	if h.Status == 101 {
		return malformed("it changes to another protocol, unasked")
	}
	if w.framing, fault = framingOf(w.x.req.Method, h); fault != nil {
		return fault
	}
	w.final, w.left = &h, w.framing.length
	w.phase = phaseBody
	if w.left == 0 {
		w.phase = phaseIdle
	}
	return nil
}

// takeBody says how much of p belongs to the body.
func (w *wire) takeBody(p []byte) int {
	if w.left < 0 {
		return len(p)
	}
	n := int(min(w.left, int64(len(p))))
	w.spoiled = w.spoiled || n < len(p)
	if w.left -= int64(n); w.left == 0 {
		w.phase = phaseIdle
	}
	return n
}

// Write pretends success once the upstream stopped reading: its answer, which
// may say why, is read all the same. net/http would close the connection.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	x, failed := w.x, w.writeErr != nil
	w.mu.Unlock()
	if failed {
		return len(p), nil
	}
	w.Conn.SetWriteDeadline(time.Now().Add(x.req.Timeouts.Write))
	// Counted before, since the answer may overtake the return.
	x.sent.Add(int64(len(p)))
	n, err := w.Conn.Write(p)
	x.sent.Add(int64(n - len(p)))
	if err == nil || !w.survives(err) {
		return n, err
	}
	x.upload.halt()
	return len(p), nil
}

// survives notes the failure of a write and tells whether an answer can still
// come.
func (w *wire) survives(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeErr = err
	if w.closed || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if w.phase == phaseHead {
		w.Conn.SetReadDeadline(time.Now().Add(lastWords))
	}
	return true
}

// lastWords is how long an upstream that no longer reads a request may take to
// answer it.
const lastWords = time.Second

// quiet tells whether a request can go out: net/http is done with the last one,
// and nothing came since.
func (w *wire) quiet() bool {
	w.mu.Lock()
	if !w.parked && !w.closed {
		// net/http takes at most 50 ms to come back or to give up.
		giveUp := time.AfterFunc(time.Second, func() { w.Close() })
		defer giveUp.Stop()
	}
	for !w.parked && !w.closed {
		w.change.Wait()
	}
	ok := !w.closed && !w.spoiled
	w.mu.Unlock()
	return ok && !w.c.sock.stirred() && !w.holdsBack()
}

// holdsBack tells whether TLS has already read something that nobody asked for.
func (w *wire) holdsBack() bool {
	if w.c.tls == nil {
		return false
	}
	w.Conn.SetReadDeadline(time.Unix(1, 0))
	var one [1]byte
	n, err := w.Conn.Read(one[:])
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// Close closes the connection, at once if a request is under way.
func (w *wire) Close() error {
	if w.wake() {
		w.c.cut()
	} else {
		w.c.hangUp()
	}
	return nil
}

// wake lets all reads end, those of the request's body too, as the connection is
// closed or about to be. It tells whether a request was under way.
func (w *wire) wake() (busy bool) {
	w.mu.Lock()
	w.closed = true
	w.change.Broadcast()
	busy = w.phase != phaseIdle
	x := w.x
	w.mu.Unlock()
	if x != nil {
		x.upload.finish()
	}
	return busy
}

// response is the final head and how its body is delimited.
func (w *wire) response() (fetch.Head, framing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.final, w.framing
}

// sight is what a wire saw of a request that failed.
type sight struct {
	phase             phase
	received          bool // a byte came
	fault             error
	readErr, writeErr error
}

func (w *wire) seen() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	return sight{w.phase, w.received, w.fault, w.readErr, w.writeErr}
}
