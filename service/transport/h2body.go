package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// h2Body is the body of a response over HTTP/2.
type h2Body struct {
	ctx              context.Context
	s                *stream
	h                *h2
	resp             *http.Response
	length, received int64
	err              error // how the body ended; nil until then
	// reads counts the reads, and reading is the number of the one under way.
	reads   int64
	reading atomic.Int64
}

func (b *h2Body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := b.wait(); err != nil {
		return 0, err
	}
	return b.read(p)
}

// ReadChunk waits without a buffer.
func (b *h2Body) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if err := b.wait(); err != nil {
		return nil, false, err
	}
	buf := get()
	n, err := b.read(buf[:cap(buf)])
	return buf[:n], false, err
}

// wait returns nil when there is something to read.
func (b *h2Body) wait() error {
	if b.err != nil {
		return b.err
	}
	idle := b.s.after(b.s.x.req.Timeouts.Idle, b.s.x.bodyTimeout)
	defer idle.Stop()
	results := make(chan error, 1)
	if !b.h.guard.call(b.s.ctx, b.h.c, func() {
		_, err := b.resp.Body.Read(nil)
		results <- err
	}) {
		return b.end(b.s.failure(b.ctx))
	}
	if err := <-results; err != nil {
		return b.end(err)
	}
	return nil
}

// read takes what is there. It is not left behind like other calls, since p is
// the caller's: if it does not end with its context, the connection does, and
// with it the only thing that a read can wait for.
func (b *h2Body) read(p []byte) (int, error) {
	b.reads++
	this := b.reads
	b.reading.Store(this)
	unwatch := context.AfterFunc(b.s.ctx, func() {
		time.AfterFunc(grace, func() {
			if b.reading.Load() == this {
				b.h.c.cut()
			}
		})
	})
	n, err := b.resp.Body.Read(p)
	b.reading.Store(0)
	unwatch()
	b.received += int64(n)
	if err != nil {
		return n, b.end(err)
	}
	return n, nil
}

// end notes how the body ended and gives its place on the connection back. To
// close the library's body waits until the library has freed that place, too,
// and what came and was not read no longer counts against the connection's
// window.
func (b *h2Body) end(err error) error {
	b.err = b.failure(err)
	why := fetch.CloseCause("")
	if err != io.EOF {
		why = fetch.ClosedError
		b.s.cancel(errClosed)
	}
	b.h.guard.call(b.s.ctx, b.h.c, func() { b.resp.Body.Close() })
	b.s.end()
	b.s.x.complete(why)
	return b.err
}

// failure says why the body ended.
func (b *h2Body) failure(err error) error {
	x := b.s.x
	var known *fetch.Failure
	switch {
	case err == io.EOF:
		return io.EOF
	case b.ctx.Err() != nil:
		return x.givenUp(b.ctx)
	case b.s.ctx.Err() != nil:
		return b.s.failure(b.ctx)
	case errors.As(err, &known):
		return known
	case errors.Is(err, io.ErrUnexpectedEOF):
		return x.incompleteBody(b.received, b.length, err)
	}
	reason, what := h2Fault(err)
	if reason == fetch.ReasonDisconnected || reason == fetch.ReasonConnectionReset {
		return x.incompleteBody(b.received, b.length, err)
	}
	f := x.fail(reason, x.name()+" "+what, err)
	f.Stage = fetch.StageBody
	return f
}

// Cut implements fetch.Body.
func (b *h2Body) Cut() { b.s.cancel(errCut) }

// errCut is why the context of a stream ended that was cut.
var errCut = errors.New("the response body was cut")

// Close resets the stream if the body was not read to its end.
func (b *h2Body) Close() error {
	if b.err == nil {
		b.end(errClosed)
		b.err = errClosed
	}
	return nil
}
