package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

const (
	// wholeRequest is the most bytes of a request that are sent in one write,
	// before its answer is waited for: what a socket takes of a connection that
	// is new.
	wholeRequest = 16 << 10
	// pieceSize is the most that is read of a body at a time.
	pieceSize = 32 << 10
	// lastPiece is how long an upstream that has answered may take for the last
	// piece of the request.
	lastPiece = 50 * time.Millisecond
)

var requests = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// send sends the head and a body that lies in memory and is small. A body that
// does not is sent meanwhile, or when the upstream asks for it.
func (t *turn) send() error {
	r, upload := t.x.req, &t.x.upload
	buf := requests.Get().(*[]byte)
	defer requests.Put(buf)
	b := h1.AppendHead((*buf)[:0], r, t.x.authority)
	defer func() { *buf = b[:0] }()
	whole := !upload.wanted()
	if !whole && !r.ExpectContinue && upload.memory && int64(len(b))+upload.length <= wholeRequest {
		var err error
		if b, err = appendBody(b, upload); err != nil {
			return err
		}
		whole = true
	}
	if !whole {
		t.stream.SetReadDeadline(time.Time{})
	}
	err := t.write(b)
	switch {
	case err != nil:
		return t.survive(err)
	case whole:
		t.wrote()
	case r.ExpectContinue:
		t.waiting = true
		d := r.Timeouts.Continue
		if d <= 0 {
			d = continueTimeout
		}
		t.stream.SetReadDeadline(time.Now().Add(d))
	default:
		t.startUpload()
	}
	return nil
}

// appendBody appends all of a body that lies in memory.
func appendBody(b []byte, u *upload) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := u.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// write counts and keeps the time.
func (t *turn) write(p []byte) error {
	t.mu.Lock()
	t.stream.SetWriteDeadline(time.Now().Add(t.writeTime))
	t.mu.Unlock()
	// Counted before, since the answer may overtake the return.
	t.x.sent.Add(int64(len(p)))
	n, err := t.stream.Write(p)
	t.x.sent.Add(int64(n - len(p)))
	return err
}

// wrote notes that the request has left, and starts the time for the head.
func (t *turn) wrote() {
	t.x.wroteRequest()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c.tls != nil {
		// TLS answers a message of its own by itself, at any time later.
		t.stream.SetWriteDeadline(time.Time{})
	}
	if !t.headDone {
		t.stream.SetReadDeadline(time.Now().Add(t.x.req.Timeouts.Head))
	}
}

// survive notes that a write failed. It returns the error if no answer can come
// any more: an upstream that stops reading may have said why.
func (t *turn) survive(err error) error {
	t.x.upload.halt()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writeErr = err
	if errors.Is(err, os.ErrDeadlineExceeded) || t.ctx.Err() != nil {
		return err
	}
	if !t.headDone {
		t.stream.SetReadDeadline(time.Now().Add(lastWords))
	}
	return nil
}

func (t *turn) wroteError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.writeErr
}

// goOn sends a body that waited to be asked for.
func (t *turn) goOn() {
	if t.waiting {
		t.waiting = false
		t.stream.SetReadDeadline(time.Time{})
		t.startUpload()
	}
}

// startUpload sends the body while the response is read. settleUpload and
// awaitUpload wait for the end.
func (t *turn) startUpload() {
	t.uploaded = make(chan struct{})
	go func() {
		defer close(t.uploaded)
		if err := t.sendBody(); err == nil {
			t.wrote()
		} else if t.x.upload.failure() != nil || err != errHalted && t.survive(err) != nil {
			t.cut()
		}
	}()
}

// pieces hold what is being sent of a body, with what chunked framing puts
// around it.
var pieces = sync.Pool{New: func() any { return new([h1.ChunkHead + pieceSize + 2]byte) }}

// sendBody sends each piece that a read gives as it is, or as one chunk.
func (t *turn) sendBody() error {
	buf := pieces.Get().(*[h1.ChunkHead + pieceSize + 2]byte)
	defer pieces.Put(buf)
	chunked := t.x.req.Framing == fetch.FramingChunked
	for {
		n, err := t.x.upload.Read(buf[h1.ChunkHead : h1.ChunkHead+pieceSize])
		if n > 0 {
			if err := t.write(piece(buf[:h1.ChunkHead+n], chunked)); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && chunked:
			return t.write(h1.AppendEnd(buf[:0], t.x.upload.trailer))
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// piece is what of b, which begins with room for the size of a chunk, goes out.
func piece(b []byte, chunked bool) []byte {
	if !chunked {
		return b[h1.ChunkHead:]
	}
	var head [h1.ChunkHead]byte
	line := h1.AppendChunkHead(head[:0], len(b)-h1.ChunkHead)
	from := h1.ChunkHead - len(line)
	copy(b[from:], line)
	return append(b, "\r\n"...)[from:]
}

// settleUpload tells, at the end of a response, whether all of the request was
// sent. A body that lies in memory, or whose end has been read, goes out as
// long as the upstream has use for it; what is still to come from elsewhere does
// not.
func (t *turn) settleUpload() bool {
	if t.waiting {
		t.x.upload.halt()
		return false
	}
	if t.uploaded == nil {
		return t.wroteError() == nil
	}
	select {
	case <-t.uploaded:
	default:
		wanted, spent := t.x.upload.wanted(), t.x.upload.spent()
		switch {
		case wanted && (spent || t.x.upload.memory):
			t.hurry(lastWords)
		case spent:
			t.hurry(lastPiece)
		default:
			t.cut()
		}
		<-t.uploaded
	}
	return t.x.wrote.Load() > 0
}

// hurry bounds the time for each write that is left.
func (t *turn) hurry(most time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writeTime = min(t.writeTime, most)
	t.stream.SetWriteDeadline(time.Now().Add(t.writeTime))
}

// awaitUpload waits for the end of sending, once the turn was cut.
func (t *turn) awaitUpload() {
	if t.uploaded != nil {
		<-t.uploaded
	}
}

// upgraded hands the connection over after a 101.
func (t *turn) upgraded(head fetch.Head) *fetch.Response {
	t.endHead()
	t.stream.SetReadDeadline(time.Time{})
	t.stream.SetWriteDeadline(time.Time{})
	t.err = io.EOF
	t.upgrade = &upgraded{turn: t, rest: t.reader.Rest()}
	return &fetch.Response{Head: head, Body: t, Upgraded: t.upgrade}
}

// upgraded is a connection that speaks another protocol. Its end is that of the
// exchange.
type upgraded struct {
	turn *turn
	rest []byte // read with the head
	once sync.Once
}

func (u *upgraded) Read(p []byte) (n int, err error) {
	if n = copy(p, u.rest); n > 0 || len(p) == 0 {
		u.rest = u.rest[n:]
		return n, nil
	}
	if err := u.turn.stream.Ready(); err != nil {
		return 0, err
	}
	return u.turn.stream.Read(p)
}

func (u *upgraded) Write(p []byte) (int, error) { return u.turn.stream.Write(p) }

func (u *upgraded) Close() error {
	u.once.Do(func() {
		u.turn.unwatch()
		u.turn.x.complete(fetch.ClosedPolicy)
	})
	return nil
}
