package listener

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ReceiveTimeout is how long a caller may take to send the request of an RPC
// that it has begun, or the first of its requests.
const ReceiveTimeout = 30 * time.Second

// Silent is what Options.OnRefused is told of an RPC whose request did not come
// within ReceiveTimeout. Its connection stays.
const Silent = "silent_request"

// errSilent is the cause of the end of a context that Expect returned.
var errSilent = errors.New("the request did not come within " + ReceiveTimeout.String())

// Expect returns the context of an RPC that begins now. It exceeds its deadline
// after ReceiveTimeout unless Received is called with it, or with a context
// derived from it, before. What it holds goes when ctx ends, or soon after.
func (l *Listener) Expect(ctx context.Context) context.Context {
	e := &expecting{of: l, due: time.Now().Add(ReceiveTimeout)}
	e.Context, e.end = context.WithCancelCause(ctx)
	l.expected.add(e)
	return e
}

// Received says that the request of an RPC has come. It does nothing to a
// context that does not come from Expect.
func Received(ctx context.Context) {
	if e, ok := ctx.Value(expectingKey{}).(*expecting); ok {
		e.of.expected.remove(e)
	}
}

// expecting is the context of an RPC whose request has yet to come.
type expecting struct {
	context.Context
	end context.CancelCauseFunc
	of  *Listener
	due time.Time
	// before and after are its neighbours among those expected; nil once it is
	// none of them.
	before, after *expecting
}

type expectingKey struct{}

// Value returns the context itself for Received.
func (e *expecting) Value(key any) any {
	if _, ok := key.(expectingKey); ok {
		return e
	}
	return e.Context.Value(key)
}

// Err calls silence what gRPC has a status for.
func (e *expecting) Err() error {
	err := e.Context.Err()
	if err != nil && context.Cause(e.Context) == errSilent {
		return context.DeadlineExceeded
	}
	return err
}

// silent ends an RPC whose time is over.
func (e *expecting) silent() {
	e.end(errSilent)
	if context.Cause(e.Context) == errSilent {
		e.of.options.OnRefused(Silent)
	}
}

// forgetEvery is how soon an RPC that ended without a request is forgotten.
const forgetEvery = time.Second

// expected are the RPCs whose requests have yet to come. As all have the same
// time, they are due in the order in which they began, and one timer serves all.
type expected struct {
	mu sync.Mutex
	// ring is before the first and after the last.
	ring  expecting
	timer *time.Timer // runs look; nil before the first
	armed bool
}

func (x *expected) add(e *expecting) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ring.after == nil {
		x.ring.before, x.ring.after = &x.ring, &x.ring
	}
	e.before, e.after = x.ring.before, &x.ring
	e.before.after, e.after.before = e, e
	if !x.armed {
		x.arm(forgetEvery)
	}
}

func (x *expected) arm(d time.Duration) {
	x.armed = true
	if x.timer == nil {
		x.timer = time.AfterFunc(d, x.look)
	} else {
		x.timer.Reset(d)
	}
}

func (x *expected) remove(e *expecting) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unlink(e)
}

func (x *expected) unlink(e *expecting) {
	if e.before != nil {
		e.before.after, e.after.before = e.after, e.before
		e.before, e.after = nil, nil
	}
}

// look ends the RPCs that are due.
func (x *expected) look() {
	for _, e := range x.takeDue(time.Now()) {
		e.silent()
	}
}

// takeDue takes out the RPCs that are due, forgets those that have ended, and arms
// the timer for what is left.
func (x *expected) takeDue(now time.Time) (taken []*expecting) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for e := x.ring.after; e != &x.ring; {
		this := e
		e = e.after
		if isDue := !now.Before(this.due); isDue {
			taken = append(taken, this)
		} else if this.Context.Err() == nil {
			continue
		}
		x.unlink(this)
	}
	x.armed = false
	if first := x.ring.after; first != &x.ring {
		x.arm(min(forgetEvery, first.due.Sub(now)))
	}
	return taken
}
