package transport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestGuardLeavesBehind has a call that does not end with its context, but only
// with its connection.
func TestGuardLeavesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &conn{sock: newSocket(ours)}
		g := guard{new(tally), slog.New(slog.NewTextHandler(io.Discard, nil))}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if g.call(ctx, c, func() { c.sock.Read(make([]byte, 1)) }) {
			t.Error("the call is said to have returned")
		}
		if late := time.Since(began) - time.Minute; late > 50*time.Millisecond {
			t.Errorf("%s late", late)
		}
		short, stop := context.WithTimeout(t.Context(), cutAfter/2)
		defer stop()
		if g.calls.wait(short) == nil {
			t.Error("the call ended before its connection was closed")
		}
		if err := g.calls.wait(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began) - time.Minute; took > cutAfter+time.Second {
			t.Errorf("the connection was closed after %s", took)
		}
	})
}

// TestGuardFollows has a call that ends with its context: its connection stays.
func TestGuardFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := &conn{sock: newSocket(ours)}
		g := guard{new(tally), slog.New(slog.NewTextHandler(io.Discard, nil))}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !g.call(ctx, c, func() { <-ctx.Done() }) {
			t.Error("the call is said to be left behind")
		}
		<-time.After(2 * cutAfter)
		go c.sock.Write([]byte("x"))
		if _, err := io.ReadFull(theirs, make([]byte, 1)); err != nil {
			t.Errorf("the connection: %v", err)
		}
		c.cut()
		theirs.Close()
	})
}
