package transport

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// scratchSize is the most that a read waits for with bytes in hand: net/http
// fills what it is given from one chunk, however slowly that comes.
const scratchSize = 4 << 10

var scratches = sync.Pool{New: func() any { return new([scratchSize]byte) }}

// h1Body is the body of a response over HTTP/1.1.
type h1Body struct {
	ctx      context.Context
	x        *exchange
	h        *h1
	body     io.ReadCloser
	framing  framing
	received int64
	err      error // how the body ended; nil until then

	scratch *[scratchSize]byte // holds rest; nil when there is none
	rest    []byte             // read and not given yet
}

func (b *h1Body) Read(p []byte) (int, error) {
	if len(b.rest) > 0 {
		return b.give(p), nil
	}
	return b.read(p)
}

// ReadChunk waits with a buffer of 4 KiB of its own and then asks get for the
// one to return.
func (b *h1Body) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if len(b.rest) == 0 {
		b.scratch = scratches.Get().(*[scratchSize]byte)
		n, err := b.read(b.scratch[:])
		b.rest = b.scratch[:n]
		if n == 0 {
			b.give(nil)
			return nil, false, err
		}
	}
	buf := get()
	buf = buf[:cap(buf)]
	n := b.give(buf)
	// What is at the socket can be read without waiting, if nothing has to be
	// whole before it is given on.
	for n < len(buf) && b.err == nil && !b.framing.chunked && b.h.c.tls == nil && b.h.c.sock.stirred() {
		more, _ := b.read(buf[n:])
		n += more
	}
	if len(b.rest) > 0 {
		return buf[:n], false, nil
	}
	return buf[:n], false, b.err
}

// give copies from rest to p.
func (b *h1Body) give(p []byte) int {
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 && b.scratch != nil {
		scratches.Put(b.scratch)
		b.scratch, b.rest = nil, nil
	}
	return n
}

func (b *h1Body) read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.body.Read(p)
	b.received += int64(n)
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// end notes how the body ended and gives the connection back.
func (b *h1Body) end(err error) {
	if err == io.EOF {
		b.err = io.EOF
		b.h.wire.settle()
		b.x.complete(b.h.closeCause(b.x, b.framing))
		return
	}
	b.err = b.failure(err)
	b.h.c.cut()
	b.x.complete(fetch.ClosedError)
}

// failure says why the body ended too early.
func (b *h1Body) failure(err error) error {
	seen := b.h.wire.seen()
	switch {
	case b.ctx.Err() != nil:
		return b.x.ended(b.ctx)
	case b.x.upload.failure() != nil:
		return b.x.upload.failure()
	}
	if f := b.h.connFailure(b.x, seen); f != nil {
		return f
	}
	switch {
	case errors.Is(seen.readErr, os.ErrDeadlineExceeded):
		return b.x.bodyTimeout(err)
	case seen.readErr != nil:
		return b.x.incompleteBody(b.received, b.framing.length, err)
	}
	f := b.x.fail(fetch.ReasonInvalidChunk, "the chunks of the body that "+b.x.name+" sends are broken", err)
	f.Stage = fetch.StageBody
	return f
}

// errClosed is what a read after Close comes to.
var errClosed = errors.New("the response body is closed")

// Close gives up what was not read, and with it the connection.
func (b *h1Body) Close() error {
	if b.err == nil {
		b.err = errClosed
		b.h.c.cut()
		b.x.complete(fetch.ClosedError)
	}
	b.rest = nil
	b.give(nil)
	return b.body.Close()
}
