package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// continueTimeout is how long a request with Expect: 100-continue holds its
// body back (RFC 9110 section 10.1.1).
const continueTimeout = time.Second

// wireKey is where a context carries the wire for DialContext.
type wireKey struct{}

// newH1Engine returns what makes an HTTP/1.1 connection of a wire: net/http's
// engine, which neither dials nor pools here.
func newH1Engine(limits fetch.Limits) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			w, ok := ctx.Value(wireKey{}).(*wire)
			if !ok {
				return nil, errors.New("the HTTP/1.1 engine dials no connection of its own")
			}
			return w, nil
		},
		ExpectContinueTimeout: continueTimeout,
		// The wire holds each head to the limit; this is for all of a response.
		MaxResponseHeaderBytes: int64(limits.MaxInterim+2) * int64(limits.MaxResponseFieldBytes),
	}
}

// h1 speaks HTTP/1.1 on one connection, one request at a time.
type h1 struct {
	c    *conn
	wire *wire
	cc   *http.ClientConn
}

func newH1(ctx context.Context, t *http.Transport, c *conn, limits fetch.Limits) (*h1, error) {
	h := &h1{c: c, wire: newWire(c, limits)}
	var err error
	h.cc, err = t.NewClientConn(context.WithValue(ctx, wireKey{}, h.wire), "http", "upstream:80")
	return h, err
}

func (h *h1) shared() bool { return false }

func (h *h1) alive() bool { return h.wire.quiet() }

func (h *h1) roundTrip(ctx context.Context, x *exchange) (*fetch.Response, error) {
	u, err := h1URL(x)
	if err != nil {
		return nil, err
	}
	if err := h.wire.begin(x); err != nil {
		return nil, &unserved{full: true, dead: true, failure: x.fail(fetch.ReasonDisconnected,
			x.name+" closed the connection before the request was sent", err)}
	}
	x.upload.stalls = true
	x.unwatch = context.AfterFunc(ctx, x.upload.finish)
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				x.wroteRequest()
				h.wire.expectHead()
			}
		},
	})
	resp, err := h.cc.RoundTrip(httpRequest(x, u).WithContext(traced))
	if err != nil {
		h.c.cut()
		return nil, h.headFailure(ctx, x, err)
	}
	return h.response(ctx, x, resp), nil
}

// h1URL is a URL that net/http writes as the exact target.
func h1URL(x *exchange) (*url.URL, error) {
	target := string(x.req.Target)
	u := &url.URL{Scheme: "http", Host: x.authority, Opaque: target}
	if strings.HasPrefix(target, "//") {
		// As Opaque, this would be written after the scheme.
		path, query, ask := strings.Cut(target, "?")
		plain, err := url.PathUnescape(path)
		if err != nil {
			plain = path
		}
		u.Opaque, u.Path, u.RawPath, u.RawQuery, u.ForceQuery = "", plain, path, query, ask
	}
	if u.RequestURI() != target {
		f := x.fail(fetch.ReasonInvalidURL, "over HTTP/1.1, a target that begins with // must have only bytes that are legal in a path", nil)
		f.Stage = fetch.StageSend
		return nil, f
	}
	return u, nil
}

func (h *h1) response(ctx context.Context, x *exchange, resp *http.Response) *fetch.Response {
	x.enter(fetch.StageHead)
	head, framing := h.wire.response()
	x.heed(head.Status)
	b := &h1Body{ctx: ctx, x: x, h: h, body: resp.Body, framing: framing}
	r := &fetch.Response{Head: head, Length: framing.length, Body: b}
	if framing.chunked {
		r.Trailers = func() []fetch.Field { return trailerFields(resp.Trailer, func(name string) string { return name }) }
	}
	if framing.length == 0 {
		b.end(io.EOF)
	}
	return r
}

// closeCause says, at the end of a response, why no other may follow; empty
// means that one may.
func (h *h1) closeCause(x *exchange, f framing) fetch.CloseCause {
	switch {
	case !f.persistent:
		return fetch.ClosedPeer
	case x.wrote.Load() == 0 && !x.upload.whole():
		return fetch.ClosedError
	}
	return ""
}

// headFailure says why there is no head.
func (h *h1) headFailure(ctx context.Context, x *exchange, err error) error {
	seen := h.wire.seen()
	switch {
	case ctx.Err() != nil:
		return x.ended(ctx)
	case seen.fault != nil:
		return seen.fault
	case x.upload.failure() != nil:
		return x.upload.failure()
	}
	if f := h.connFailure(x, seen); f != nil {
		return f
	}
	switch {
	case errors.Is(seen.readErr, os.ErrDeadlineExceeded):
		return x.headTimeout(seen.readErr)
	case isEOF(seen.readErr) && !seen.received:
		return x.fail(fetch.ReasonDisconnected, x.name+" closed the connection without an answer", seen.readErr)
	case seen.readErr != nil:
		return x.fail(fetch.ReasonConnectionReset, x.name+" broke the connection before the response head was whole", seen.readErr)
	}
	return x.fail(fetch.ReasonMalformedHead, "the response head of "+x.name+" breaks the rules of HTTP", err)
}

// connFailure says what went wrong with the sending or, in TLS 1.3, still with
// the handshake, or nil.
func (h *h1) connFailure(x *exchange, seen sight) *fetch.Failure {
	if alert, ok := remoteAlert(seen.readErr); ok && isCertificateAlert(alert, h.c.asked && h.c.tls.Version == tls.VersionTLS13 && !seen.received) {
		return certificateDemanded(x, alert, seen.readErr)
	}
	switch {
	case errors.Is(seen.writeErr, os.ErrDeadlineExceeded):
		return x.writeTimeout(seen.writeErr)
	case seen.phase == phaseHead && (seen.writeErr != nil || x.wrote.Load() == 0 && isReset(seen.readErr)):
		return x.fail(fetch.ReasonWriteFailed, "the connection to "+x.name+" broke while the request was sent", errors.Join(seen.writeErr, seen.readErr))
	}
	return nil
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isEOF(err error) bool { return err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) }
