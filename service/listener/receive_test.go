package listener_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/listener"
)

// expects is a listener, and how many RPCs it counted as silent.
func expects() (l *listener.Listener, silent func() int) {
	var refused counts
	l = listener.New(scripted{func() (net.Conn, error) { return nil, net.ErrClosed }}, listener.Options{OnRefused: refused.add})
	return l, func() int { return refused.of(listener.Silent) }
}

// TestExpect: a request that does not come is no longer waited for, and one
// that comes in time has all the time that it likes.
func TestExpect(t *testing.T) {
	ended := errors.New("the caller is gone")
	for name, c := range map[string]struct {
		becomes func(rpc context.Context, end context.CancelCauseFunc)
		after   time.Duration // when the context ends; 0: when its parent does
		want    error
		silent  int
	}{
		"it does not come": {func(context.Context, context.CancelCauseFunc) {}, listener.ReceiveTimeout, context.DeadlineExceeded, 1},
		"it comes":         {func(rpc context.Context, _ context.CancelCauseFunc) { listener.Received(rpc) }, 0, context.Canceled, 0},
		"it comes twice": {func(rpc context.Context, _ context.CancelCauseFunc) {
			inner, cancel := context.WithTimeout(rpc, time.Minute)
			defer cancel()
			listener.Received(inner)
			listener.Received(inner)
		}, 0, context.Canceled, 0},
		"the caller goes": {func(_ context.Context, end context.CancelCauseFunc) { end(ended) }, time.Second, context.Canceled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, silent := expects()
				parent, end := context.WithCancelCause(t.Context())
				began := time.Now()
				rpc := l.Expect(parent)
				child, cancel := context.WithCancel(rpc)
				defer cancel()
				time.Sleep(time.Second) // of the bubble
				c.becomes(rpc, end)
				time.AfterFunc(24*time.Hour, func() { end(ended) })
				<-child.Done()
				if c.after == 0 {
					c.after = 24*time.Hour + time.Second
				}
				if took := time.Since(began); took != c.after || !errors.Is(rpc.Err(), c.want) {
					t.Errorf("it ended after %v with %v, want %v and %v", took, rpc.Err(), c.after, c.want)
				}
				time.Sleep(time.Hour)
				if silent() != c.silent {
					t.Errorf("counted %d, want %d", silent(), c.silent)
				}
				end(ended)
			})
		})
	}
	listener.Received(t.Context()) // of no Listener
}

// BenchmarkExpect is what the bound costs an RPC.
func BenchmarkExpect(b *testing.B) {
	l, _ := expects()
	b.ReportAllocs()
	for b.Loop() {
		rpc, cancel := context.WithCancel(context.Background())
		listener.Received(l.Expect(rpc))
		cancel()
	}
}
