package listener

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// MaxWriteStall is how long a caller may take nothing of what is sent to it
// before its connection closes. It stands in for TCP_USER_TIMEOUT, which gRPC
// sets only on a connection that is not wrapped.
const MaxWriteStall = 30 * time.Second

// rearmEvery saves most writes the cost of a deadline.
const rearmEvery = time.Second

// admitted is a connection that counts until it closes.
type admitted struct {
	net.Conn
	listener *Listener
	peer     peer
	// process is at the other end of a unix socket, else nil.
	process *Process

	// idleSince is nanoseconds after the listener's start, or busy.
	idleSince atomic.Int64
	// lastSeen and index belong to byIdle, guarded by the listener's mutex.
	lastSeen int64
	index    int

	// theirs: the server has set a deadline of its own, which is to hold.
	theirs atomic.Bool
	// armed is when the deadline for writes was set last, nanoseconds after the
	// listener's start.
	armed atomic.Int64
}

// Write fails when the caller takes nothing for MaxWriteStall.
func (a *admitted) Write(p []byte) (int, error) {
	theirs := a.theirs.Load()
	if !theirs && time.Since(a.listener.start)-time.Duration(a.armed.Load()) >= rearmEvery {
		a.arm()
	}
	n, err := a.Conn.Write(p)
	if err != nil && !theirs && errors.Is(err, os.ErrDeadlineExceeded) {
		a.listener.refused(StalledWrite, "peer", a.RemoteAddr())
	}
	return n, err
}

func (a *admitted) arm() {
	a.Conn.SetWriteDeadline(time.Now().Add(MaxWriteStall))
	a.armed.Store(int64(time.Since(a.listener.start)))
}

// SetDeadline replaces MaxWriteStall until it is called with the zero time.
func (a *admitted) SetDeadline(t time.Time) error {
	return errors.Join(a.Conn.SetReadDeadline(t), a.SetWriteDeadline(t))
}

// SetWriteDeadline replaces MaxWriteStall until it is called with the zero
// time. A write that waits by then is held to MaxWriteStall too.
func (a *admitted) SetWriteDeadline(t time.Time) error {
	a.theirs.Store(!t.IsZero())
	if t.IsZero() {
		a.arm()
		return nil
	}
	return a.Conn.SetWriteDeadline(t)
}

// Close closes the connection and makes room for another.
func (a *admitted) Close() error {
	a.listener.mu.Lock()
	a.listener.leave(a)
	a.listener.mu.Unlock()
	return a.Conn.Close()
}
