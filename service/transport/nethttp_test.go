package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// netHTTP is net/http's engine on one connection: what the conformance tests
// hold the product's own against. It shares no parser with that, and loses what
// net/http loses: the order of fields and the case of their names, the bounds of
// chunks, and what comes between two responses.
type netHTTP struct {
	net.Conn // what net/http reads from and writes to
	c        *conn
	limits   fetch.Limits
	cc       *http.ClientConn

	mu                sync.Mutex
	x                 *exchange // under way, or the last one
	body              *stalling // of x
	busy              bool      // x is under way
	headDone          bool      // x has its head: the time for that is over
	readErr, writeErr error     // the connection's end, as net/http saw it
}

// connKey is where a context carries the connection for DialContext.
type connKey struct{}

// newNetHTTP returns what puts net/http's engine on a connection.
func newNetHTTP(limits fetch.Limits) func(*conn, fetch.Limits) engine {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(connKey{}).(*netHTTP), nil
		},
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: int64(limits.MaxResponseFieldBytes),
	}
	return func(c *conn, limits fetch.Limits) engine {
		e := &netHTTP{Conn: c.net, c: c, limits: limits}
		var err error
		e.cc, err = t.NewClientConn(context.WithValue(context.Background(), connKey{}, e), "http", "upstream:80")
		if err != nil {
			panic(err) // nothing is dialed here
		}
		return e
	}
}

func (e *netHTTP) shared() bool { return false }

func (e *netHTTP) alive() bool { return e.cc.Available() > 0 && e.c.sock.Quiet() }

func (e *netHTTP) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if err == io.EOF && e.c.tls != nil && e.c.sock.sawFIN.Load() {
		err = io.ErrUnexpectedEOF
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.readErr == nil {
		e.readErr = err
	}
	return n, err
}

// Write counts and keeps the time.
func (e *netHTTP) Write(p []byte) (int, error) {
	e.mu.Lock()
	x := e.x
	e.mu.Unlock()
	e.Conn.SetWriteDeadline(time.Now().Add(x.req.Timeouts.Write))
	x.sent.Add(int64(len(p)))
	n, err := e.Conn.Write(p)
	x.sent.Add(int64(n - len(p)))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writeErr == nil {
		e.writeErr = err
	}
	return n, err
}

// Close is net/http's word that it uses the connection no more. One without work
// is the pool's to close, which counts those that it ends itself.
func (e *netHTTP) Close() error {
	e.mu.Lock()
	busy, body := e.busy, e.body
	e.mu.Unlock()
	if busy {
		e.c.cut()
	}
	if body != nil {
		body.finish()
	}
	return nil
}

func (e *netHTTP) begin(x *exchange) *stalling {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.x, e.busy, e.headDone, e.body = x, true, false, &stalling{upload: &x.upload, over: make(chan struct{})}
	return e.body
}

// wrote starts the time for the head.
func (e *netHTTP) wrote(i httptrace.WroteRequestInfo) {
	if i.Err != nil {
		return
	}
	e.x.wroteRequest()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.headDone {
		e.Conn.SetReadDeadline(time.Now().Add(e.x.req.Timeouts.Head))
	}
}

func (e *netHTTP) gotHead() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.headDone = true
	e.Conn.SetReadDeadline(time.Time{})
}

func (e *netHTTP) roundTrip(ctx context.Context, x *exchange) (*fetch.Response, error) {
	body := e.begin(x)
	b := &netHTTPBody{e: e, x: x, ctx: ctx, unwatch: context.AfterFunc(ctx, body.finish)}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         e.wrote,
		GotFirstResponseByte: x.gotByte,
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			h := fetch.Head{Protocol: protocolH1, Status: status, Fields: fields(http.Header(header), asItIs)}
			if f := x.interim(h, e.limits.MaxInterim); f != nil {
				return f
			}
			return nil
		},
	})
	resp, err := e.cc.RoundTrip(e.request(body).WithContext(traced))
	if err == nil {
		e.gotHead()
		err = e.judge(resp)
	}
	if err != nil {
		e.Close()
		b.unwatch()
		return nil, e.headFailure(ctx, err)
	}
	return b.of(resp), nil
}

func asItIs(name string) string { return name }

func (e *netHTTP) request(body *stalling) *http.Request {
	target := string(e.x.req.Target)
	u := &url.URL{Scheme: "http", Host: e.x.authority, Opaque: target}
	if strings.HasPrefix(target, "//") {
		// As Opaque, this would be written after the scheme.
		path, query, ask := strings.Cut(target, "?")
		plain, _ := url.PathUnescape(path)
		u.Opaque, u.Path, u.RawPath, u.RawQuery, u.ForceQuery = "", plain, path, query, ask
	}
	r := httpRequest(e.x, u)
	r.ProtoMajor, r.ProtoMinor = 1, 1 // for Expect
	if r.Body == io.ReadCloser(&e.x.upload) {
		r.Body = body
	}
	return r
}

// judge refuses what net/http takes and the product does not.
func (e *netHTTP) judge(resp *http.Response) error {
	n := 0
	for _, values := range resp.Header {
		n += len(values)
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return h1.Malformed("it changes to another protocol, unasked")
	case n > e.limits.MaxResponseFields:
		return h1.TooManyFields(e.limits.MaxResponseFields)
	}
	return nil
}

func (e *netHTTP) headFailure(ctx context.Context, err error) error {
	if strings.Contains(err.Error(), "response headers exceeded") {
		err = h1.TooManyBytes(e.limits.MaxResponseFieldBytes)
	}
	e.mu.Lock()
	readErr, writeErr, x := e.readErr, e.writeErr, e.x
	e.mu.Unlock()
	var known *fetch.Failure
	var fault *h1.Fault
	switch {
	case ctx.Err() != nil:
		return x.givenUp(ctx)
	case errors.As(err, &known):
		return known
	case x.upload.failure() != nil:
		return x.upload.failure()
	case errors.As(err, &fault):
		return x.refusedHead(fault)
	case x.sent.Load() == 0 && writeErr == nil:
		return &unserved{full: true, dead: true, failure: x.fail(fetch.ReasonDisconnected, x.name()+" closed the connection before the request was sent", err)}
	case errors.Is(writeErr, os.ErrDeadlineExceeded):
		return x.writeTimeout(writeErr)
	case writeErr != nil:
		return x.fail(fetch.ReasonWriteFailed, "the connection to "+x.name()+" broke while the request was sent", writeErr)
	case errors.Is(readErr, os.ErrDeadlineExceeded):
		return x.headTimeout(readErr)
	case isEOF(readErr) && x.first.Load() == 0:
		return x.fail(fetch.ReasonDisconnected, x.name()+" closed the connection without an answer", readErr)
	case readErr != nil:
		return x.fail(fetch.ReasonConnectionReset, x.name()+" broke the connection before the response head was whole", readErr)
	}
	return x.refusedHead(h1.Malformed("net/http says so"))
}

// netHTTPBody is the body of a response.
type netHTTPBody struct {
	e        *netHTTP
	x        *exchange
	ctx      context.Context
	unwatch  func() bool
	resp     *http.Response
	received int64
	err      error          // how the body ended; nil until then
	own      *[4 << 10]byte // holds rest; nil when there is none
	rest     []byte         // read and not given yet
	over     atomic.Bool    // by Cut or by the end
}

func (b *netHTTPBody) of(resp *http.Response) *fetch.Response {
	b.resp = resp
	b.x.enter(fetch.StageHead)
	b.x.heed(resp.StatusCode)
	_, reason, _ := strings.Cut(resp.Status, " ")
	r := &fetch.Response{Length: resp.ContentLength, Body: b, Head: fetch.Head{
		Protocol: resp.Proto, Status: resp.StatusCode, Reason: []byte(reason), Fields: fields(resp.Header, asItIs),
	}}
	if len(resp.TransferEncoding) > 0 {
		r.Trailers = func() []fetch.Field { return trailerFields(resp.Trailer, asItIs) }
	}
	if h1.IsBodiless(b.x.req.Method, resp.StatusCode) {
		r.Length = 0
	}
	if r.Length == 0 {
		b.end(io.EOF)
	}
	return r
}

var scratches = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// ReadChunk waits with a buffer of its own, for net/http tells in no other way
// that something is there.
func (b *netHTTPBody) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if b.own == nil {
		b.own = scratches.Get().(*[4 << 10]byte)
		n, err := b.Read(b.own[:])
		if n == 0 {
			b.drop()
			return nil, false, err
		}
		b.rest = b.own[:n]
	}
	p := get()
	n := copy(p[:cap(p)], b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 {
		b.drop()
	}
	return p[:n], false, nil
}

func (b *netHTTPBody) drop() {
	if b.own != nil {
		scratches.Put(b.own)
		b.own, b.rest = nil, nil
	}
}

func (b *netHTTPBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.e.Conn.SetReadDeadline(time.Now().Add(b.x.req.Timeouts.Idle))
	n, err := b.resp.Body.Read(p)
	b.received += int64(n)
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// end gives the connection back. Whether it may carry more, net/http has said
// before the end of the body.
func (b *netHTTPBody) end(err error) {
	b.unwatch()
	b.over.Store(true)
	if b.err = err; err != io.EOF {
		if err != errClosed {
			b.err = b.failure(err)
		}
		b.e.Close()
		b.x.complete(fetch.ClosedError)
		return
	}
	b.e.Conn.SetReadDeadline(time.Time{})
	b.e.body.finish()
	b.e.mu.Lock()
	b.e.busy = false
	b.e.mu.Unlock()
	switch {
	case b.resp.Close:
		b.x.complete(fetch.ClosedPeer)
	case b.e.cc.Available() == 0:
		b.x.complete(fetch.ClosedError)
	default:
		b.x.complete("")
	}
}

func (b *netHTTPBody) failure(err error) error {
	b.e.mu.Lock()
	readErr, writeErr := b.e.readErr, b.e.writeErr
	b.e.mu.Unlock()
	switch {
	case b.ctx.Err() != nil:
		return b.x.givenUp(b.ctx)
	case b.x.upload.failure() != nil:
		return b.x.upload.failure()
	case errors.Is(writeErr, os.ErrDeadlineExceeded):
		return b.x.writeTimeout(writeErr)
	case errors.Is(readErr, os.ErrDeadlineExceeded):
		return b.x.bodyTimeout(readErr)
	case readErr != nil:
		return b.x.incompleteBody(b.received, b.resp.ContentLength, err)
	}
	return b.x.refusedBody(&h1.Fault{Reason: fetch.ReasonInvalidChunk, Rule: "net/http says so"})
}

func (b *netHTTPBody) Cut() {
	if b.over.CompareAndSwap(false, true) {
		b.e.Close()
	}
}

func (b *netHTTPBody) Close() error {
	if b.err == nil {
		b.end(errClosed)
	}
	b.drop()
	return b.resp.Body.Close()
}

// stalling is a request's body as net/http reads it. A read waits for finish,
// not fails, once the body is not wanted: net/http would take the failure for
// the end of the connection, whose response is still being read.
type stalling struct {
	*upload
	over chan struct{} // closed by finish
	once sync.Once
}

func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.upload.Read(p)
	if err == errHalted {
		<-s.over
	}
	return n, err
}

func (s *stalling) finish() {
	s.halt()
	s.once.Do(func() { close(s.over) })
}
