package listener

import (
	"context"
	"errors"
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
// derived from it, before. What it holds goes when ctx ends.
func (l *Listener) Expect(ctx context.Context) context.Context {
	ending, end := context.WithCancelCause(ctx)
	e := &expecting{Context: ending}
	e.timer = time.AfterFunc(ReceiveTimeout, func() {
		end(errSilent)
		if context.Cause(ending) == errSilent {
			l.options.OnRefused(Silent)
		}
	})
	e.unlink = context.AfterFunc(ctx, func() { e.timer.Stop() })
	return e
}

// Received says that the request of an RPC has come. It does nothing to a
// context that does not come from Expect.
func Received(ctx context.Context) {
	if e, ok := ctx.Value(expectingKey{}).(*expecting); ok {
		e.timer.Stop()
		e.unlink()
	}
}

// expecting is the context of an RPC whose request has yet to come.
type expecting struct {
	context.Context
	timer  *time.Timer
	unlink func() bool
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
