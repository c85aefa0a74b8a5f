package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// continueTimeout is how long a request with Expect: 100-continue holds its
// body back (RFC 9110 section 10.1.1), unless Timeouts.Continue says so.
const continueTimeout = time.Second

// lastWords is how long an upstream that no longer reads a request may take to
// answer it, and one that has answered may read nothing of it.
const lastWords = time.Second

// h1Stream is a connection that HTTP/1.1 is spoken on: a socket, or TLS over it.
type h1Stream interface {
	h1.Stream
	io.Writer
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	// Quiet tells that nothing came, the end included. It does not wait.
	Quiet() bool
}

// h1Engine speaks HTTP/1.1 on one connection, one request at a time.
type h1Engine struct {
	c      *conn
	stream h1Stream
	reader *h1.Reader
	limits fetch.Limits
}

func newH1(c *conn, limits fetch.Limits) *h1Engine {
	e := &h1Engine{c: c, stream: c.sock, limits: limits}
	if secure, ok := c.net.(*tls.Conn); ok {
		e.stream = newSecured(secure, c.sock)
	}
	e.reader = h1.NewReader(e.stream, h1.Limits{Bytes: limits.MaxResponseFieldBytes, Fields: limits.MaxResponseFields})
	return e
}

func (e *h1Engine) shared() bool { return false }

func (e *h1Engine) alive() bool { return e.reader.Buffered() == 0 && e.stream.Quiet() }

func (e *h1Engine) roundTrip(ctx context.Context, x *exchange) (*fetch.Response, error) {
	t := &turn{h1Engine: e, ctx: ctx, x: x, writeTime: x.req.Timeouts.Write}
	t.unwatch = context.AfterFunc(ctx, t.cut)
	resp, err := t.begin()
	if err != nil {
		t.cut()
		t.awaitUpload()
		e.reader.Close()
		t.unwatch()
		return nil, err
	}
	return resp, nil
}

// turn is one request and its response on a connection of HTTP/1.1. It is the
// response's body. Whoever calls RoundTrip reads; what is long to send is sent
// meanwhile by a goroutine that the turn waits for before it ends.
type turn struct {
	*h1Engine
	ctx     context.Context
	x       *exchange
	unwatch func() bool // of ctx; false if that has ended
	// waiting tells that the request's body waits for 100 Continue.
	waiting  bool
	uploaded chan struct{} // closed when all is sent, or cannot be; nil if nothing is being sent
	upgrade  *upgraded     // what became of the connection; nil unless it changed its protocol

	resp     fetch.Response
	framing  h1.Framing
	received int64 // bytes of the body
	trailers []fetch.Field
	err      error // how the response ended; nil until then
	// fate is decided once: by Cut, or by the end of the response.
	fate atomic.Int32

	mu       sync.Mutex
	headDone bool  // the final head is there: its time is over
	writeErr error // why not all of the request was sent
	// writeTime is how long a write may take.
	writeTime time.Duration
}

// The fates of a turn; 0 is none yet.
const (
	wasCut = iota + 1
	wasRead
)

// Cut implements fetch.Body. The connection of a response that was read to its end
// may be another's by now.
func (t *turn) Cut() {
	if t.fate.CompareAndSwap(0, wasCut) {
		t.cut()
	}
}

// cut ends the turn at once, whoever reads or writes.
func (t *turn) cut() {
	t.c.cut()
	t.x.upload.halt()
}

// begin sends the request, or begins to, and reads the head of the response.
func (t *turn) begin() (*fetch.Response, error) {
	if err := t.send(); err != nil {
		return nil, t.headFailure(err)
	}
	for {
		head, err := t.head()
		if err != nil {
			return nil, err
		}
		switch {
		case head.Status == 101 && t.x.req.Framing == fetch.FramingUpgrade:
			return t.upgraded(head), nil
		case head.Status == 101:
			return nil, t.x.refusedHead(h1.Malformed("it changes to another protocol, unasked"))
		case head.Status >= 200:
			return t.response(head)
		}
		if f := t.x.interim(head, t.limits.MaxInterim); f != nil {
			return nil, f
		}
		if head.Status == 100 {
			t.goOn()
		}
	}
}

// head reads the next head. If that is long in coming, a body that waits for it
// is sent.
func (t *turn) head() (fetch.Head, error) {
	err := t.reader.Wait()
	if err == nil {
		t.x.gotByte()
		var head fetch.Head
		if head, err = t.reader.Head(); err == nil {
			return head, nil
		}
	}
	if t.waiting && errors.Is(err, os.ErrDeadlineExceeded) {
		t.goOn()
		return t.head()
	}
	return fetch.Head{}, t.headFailure(err)
}

func (t *turn) response(head fetch.Head) (*fetch.Response, error) {
	t.x.enter(fetch.StageHead)
	framing, fault := h1.FramingOf(t.x.req.Method, head)
	if fault != nil {
		return nil, t.x.refusedHead(fault)
	}
	t.endHead()
	t.x.heed(head.Status)
	t.framing = framing
	t.reader.Begin(framing, t.x.req.KeepChunks)
	t.resp = fetch.Response{Head: head, Length: framing.Length, Body: t}
	if framing.Chunked {
		t.resp.Trailers = func() []fetch.Field { return t.trailers }
	}
	if framing.Length == 0 {
		t.end(io.EOF)
	}
	return &t.resp, nil
}

// endHead stops the time for the head.
func (t *turn) endHead() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.headDone = true
}

func (t *turn) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	t.extend()
	n, err := t.reader.Read(p)
	return n, t.came(n, err)
}

func (t *turn) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if t.err != nil {
		return nil, false, t.err
	}
	t.extend()
	b, endOfChunk, err := t.reader.ReadChunk(get)
	return b, endOfChunk, t.came(len(b), err)
}

// Buffered is how many bytes of the body, at least, can be read without waiting.
func (t *turn) Buffered() int {
	if t.err != nil {
		return 0 // the connection may be another's by now
	}
	return t.reader.Buffered()
}

// extend starts the time for the next bytes of the body, if they may have to be
// waited for.
func (t *turn) extend() {
	if t.framing.Chunked || t.reader.Buffered() == 0 {
		t.stream.SetReadDeadline(time.Now().Add(t.x.req.Timeouts.Idle))
	}
}

// came counts n bytes of the body.
func (t *turn) came(n int, err error) error {
	t.received += int64(n)
	if err != nil {
		t.end(err)
	}
	return t.err
}

// end notes how the response ended and gives the connection back.
func (t *turn) end(err error) {
	if err != io.EOF {
		t.err = t.bodyFailure(err)
		t.abandon()
		return
	}
	t.err = io.EOF
	t.trailers = withoutOwn(t.reader.Trailers())
	why := t.closeCause()
	if reset := t.wroteError(); errors.Is(reset, syscall.ECONNRESET) && !t.framing.Chunked && t.framing.Length < 0 {
		// The socket tells of a reset once. What the reader took for the end of
		// a body without a length was none.
		t.err = t.bodyFailure(reset)
	}
	t.x.complete(why)
}

// abandon ends a turn whose response was not read to its end.
func (t *turn) abandon() {
	t.cut()
	t.awaitUpload()
	t.reader.Close()
	t.unwatch()
	t.x.complete(fetch.ClosedError)
}

// closeCause says, at the end of a response, why no other may follow; empty
// means that one may.
func (t *turn) closeCause() fetch.CloseCause {
	sent := t.settleUpload()
	switch {
	case !t.unwatch(), !t.fate.CompareAndSwap(0, wasRead), !sent:
		return fetch.ClosedError
	case !t.framing.Persistent, t.reader.Buffered() > 0:
		t.reader.Close()
		return fetch.ClosedPeer
	case t.x.req.Route.Partition == "" && fetch.HasLogin(t.resp.Fields, "WWW-Authenticate"):
		t.reader.Close()
		return fetch.ClosedPolicy
	}
	return ""
}

// errClosed is what a read after Close comes to.
var errClosed = errors.New("the response body is closed")

// Close gives up what was not read, and with it the connection.
func (t *turn) Close() error {
	if t.upgrade != nil {
		return t.upgrade.Close()
	}
	if t.err == nil {
		t.err = errClosed
		t.abandon()
	}
	return nil
}

// headFailure says why there is no head.
func (t *turn) headFailure(err error) error {
	if f := t.failure(err); f != nil {
		return f
	}
	received := t.x.first.Load() > 0
	var fault *h1.Fault
	switch {
	case errors.As(err, &fault):
		return t.x.refusedHead(fault)
	case t.wroteError() != nil, t.x.wrote.Load() == 0 && isReset(err):
		return t.x.fail(fetch.ReasonWriteFailed, "the connection to "+t.x.name()+" broke while the request was sent", errors.Join(t.wroteError(), err))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return t.x.headTimeout(err)
	case isEOF(err) && !received:
		return t.x.fail(fetch.ReasonDisconnected, t.x.name()+" closed the connection without an answer", err)
	}
	return t.x.fail(fetch.ReasonConnectionReset, t.x.name()+" broke the connection before the response head was whole", err)
}

// bodyFailure says why the body ended too early.
func (t *turn) bodyFailure(err error) error {
	if f := t.failure(err); f != nil {
		return f
	}
	var fault *h1.Fault
	switch {
	case errors.As(err, &fault):
		return t.x.refusedBody(fault)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return t.x.bodyTimeout(err)
	}
	return t.x.incompleteBody(t.received, t.framing.Length, err)
}

// failure says what else than the response went wrong, or nil.
func (t *turn) failure(err error) error {
	switch {
	case t.ctx.Err() != nil:
		return t.x.givenUp(t.ctx)
	case t.x.upload.failure() != nil:
		return t.x.upload.failure()
	case errors.Is(t.wroteError(), os.ErrDeadlineExceeded):
		return t.x.writeTimeout(t.wroteError())
	}
	// In TLS 1.3 the handshake fails for want of a certificate only now.
	late := t.c.asked && t.c.tls.Version == tls.VersionTLS13 && t.x.first.Load() == 0
	if alert, ok := remoteAlert(err); ok && isCertificateAlert(alert, late) {
		return certificateDemanded(t.x, alert, err)
	}
	return nil
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isEOF(err error) bool { return err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) }
