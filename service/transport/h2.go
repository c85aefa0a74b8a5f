//lint:file-ignore SA1019 What replaces golang.org/x/net/http2, net/http's own copy of it, hangs all connections of a process after one frame of one upstream in the Go release this is built with (golang/go#77331).

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// What every HTTP/2 connection is bounded by.
//
// h2Window is what 256 KiB for a stream whose caller stalls leave to its window:
// 132 KiB wait for the caller, and the library keeps what is unread in pieces of
// up to 16 KiB, of which nearly all of the first and of the last may be unused.
const (
	h2Window       = 92 << 10  // bytes of a body that may wait unread
	h2ConnWindow   = 256 << 20 // of all bodies of a connection; never what holds one up
	h2FrameSize    = 64 << 10  // the largest frame that the upstream may send
	h2PingAfter    = 10 * time.Second
	h2PingTimeout  = 5 * time.Second  // a silent connection ends after both
	h2WriteTimeout = 15 * time.Second // one that takes no byte
	h2HeaderTable  = 4 << 10
)

// h2Engine puts HTTP/2 on connections: golang.org/x/net/http2, which neither
// dials nor pools here. No other file knows that library.
type h2Engine struct {
	transport *http2.Transport
	limits    fetch.Limits
	guard     guard
}

func newH2Engine(limits fetch.Limits, calls *tally, log *slog.Logger) *h2Engine {
	t, err := http2.ConfigureTransports(&http.Transport{
		DisableCompression:    true,
		ExpectContinueTimeout: continueTimeout,
		// Its limit of streams is kept per connection: the pool opens a second
		// one where the library would wait (StrictMaxConcurrentRequests).
		//
		// The library ends the connection for a field that alone is larger than
		// this, so it is more than the limit, which response holds a head to.
		MaxResponseHeaderBytes: 2 * int64(limits.MaxResponseFieldBytes),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     h2Window,
			MaxReceiveBufferPerConnection: h2ConnWindow,
			MaxReadFrameSize:              h2FrameSize,
			MaxDecoderHeaderTableSize:     h2HeaderTable,
			MaxEncoderHeaderTableSize:     h2HeaderTable,
			SendPingTimeout:               h2PingAfter,
			PingTimeout:                   h2PingTimeout,
			WriteByteTimeout:              h2WriteTimeout,
		},
	})
	if err != nil {
		panic("the HTTP/2 library refuses an unused http.Transport: " + err.Error())
	}
	return &h2Engine{transport: t, limits: limits, guard: guard{calls, log}}
}

// h2 speaks HTTP/2 on one connection.
type h2 struct {
	*h2Engine
	c  *conn
	cc *http2.ClientConn
	// answered tells that a response came on the connection.
	answered atomic.Bool
}

// on sends the connection preface (RFC 9113 section 3.4).
func (e *h2Engine) on(ctx context.Context, x *exchange, c *conn) (*h2, error) {
	h := &h2{h2Engine: e, c: c}
	var err error
	if !e.guard.call(ctx, c, func() { h.cc, err = e.transport.NewClientConn(c.net) }) {
		return nil, x.givenUp(ctx)
	}
	if err != nil {
		return nil, x.fail(fetch.ReasonConnectionReset, x.name()+" closed the connection before the request was sent", err)
	}
	return h, nil
}

func (h *h2) shared() bool { return true }

// alive tells whether the upstream's end is still open. The library reads all
// the time and takes a connection that ends out of the pool, but a request may
// be quicker.
func (h *h2) alive() bool {
	_, over := h.c.sock.look()
	return !over
}

// answer is what the library says to a request.
type answer struct {
	// refused tells that the request was not sent, as the connection takes limit
	// at a time, or is closing.
	refused, closing bool
	limit            int
	resp             *http.Response
	err              error
}

func (h *h2) roundTrip(ctx context.Context, x *exchange) (*fetch.Response, error) {
	if x.req.Framing == fetch.FramingUpgrade {
		return nil, mistake("HTTP/2 upgrades to no other protocol (RFC 9113 section 8.6)")
	}
	s := newStream(ctx, x)
	var fault atomic.Pointer[fetch.Failure]
	req := httpRequest(x, h2URL(x)).WithContext(httptrace.WithClientTrace(s.ctx, &httptrace.ClientTrace{
		WroteHeaderField:     s.writesHeader,
		WroteHeaders:         s.wroteHeaders,
		WroteRequest:         s.wroteRequest,
		GotFirstResponseByte: x.gotByte,
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			if f := h.interim(x, status, http.Header(header)); f != nil {
				fault.Store(f)
				return f
			}
			return nil
		},
	}))
	answers := make(chan answer, 1)
	if !h.guard.call(s.ctx, h.c, func() { answers <- h.send(req) }) {
		return nil, s.failure(ctx)
	}
	a := <-answers
	s.gotHead()
	if a.err == nil && !a.refused {
		h.answered.Store(true)
		return h.response(ctx, s, a.resp)
	}
	defer s.end()
	switch {
	case ctx.Err() != nil, s.ctx.Err() != nil:
		return nil, s.failure(ctx)
	case a.refused:
		return nil, &unserved{full: true, dead: a.closing, limit: a.limit, failure: x.fail(fetch.ReasonDisconnected,
			x.name()+" takes no more requests on a connection", nil)}
	case fault.Load() != nil:
		return nil, fault.Load()
	case x.upload.failure() != nil:
		return nil, x.upload.failure()
	}
	return nil, h.headFailure(x, a.err)
}

// send runs behind the guard.
func (h *h2) send(req *http.Request) answer {
	if !h.cc.ReserveNewRequest() {
		s := h.cc.State()
		limit := int(s.MaxConcurrentStreams)
		if limit == 0 {
			// Or not known yet, and the library took no more on trust.
			limit = s.StreamsActive + s.StreamsReserved
		}
		return answer{refused: true, closing: s.Closed || s.Closing, limit: limit}
	}
	resp, err := h.cc.RoundTrip(req)
	return answer{resp: resp, err: err}
}

// h2URL is a URL of which the library takes away the origin, so that the exact
// target remains.
func h2URL(x *exchange) *url.URL {
	return &url.URL{Scheme: x.req.Scheme, Host: x.authority, Opaque: "//" + x.authority + string(x.req.Target)}
}

func (h *h2) interim(x *exchange, status int, header http.Header) *fetch.Failure {
	if status == http.StatusSwitchingProtocols {
		return x.fail(fetch.ReasonProtocolError, x.name()+" answered 101 over HTTP/2, which has no such answer", nil)
	}
	return x.interim(fetch.Head{Protocol: protocolH2, Status: status, Fields: fields(header, strings.ToLower)}, h.limits.MaxInterim)
}

func (h *h2) response(ctx context.Context, s *stream, resp *http.Response) (*fetch.Response, error) {
	s.x.enter(fetch.StageHead)
	b := &h2Body{ctx: ctx, s: s, h: h, resp: resp, length: resp.ContentLength}
	head := fetch.Head{Protocol: protocolH2, Status: resp.StatusCode, Fields: fields(resp.Header, strings.ToLower)}
	var fault *h1.Fault
	switch {
	case head.Status < 100 || head.Status > 999:
		fault = h1.Malformed("its status is not a number from 100 to 999")
	case len(head.Fields) > h.limits.MaxResponseFields:
		fault = h1.TooManyFields(h.limits.MaxResponseFields)
	case fetch.FieldBytes(head.Fields) > h.limits.MaxResponseFieldBytes:
		fault = h1.TooManyBytes(h.limits.MaxResponseFieldBytes)
	}
	if fault != nil {
		b.Close()
		return nil, s.x.refusedHead(fault)
	}
	s.x.heed(head.Status)
	if h1.IsBodiless(s.x.req.Method, head.Status) {
		b.length = 0
		b.end(io.EOF)
	}
	return &fetch.Response{Head: head, Length: b.length, Body: b, Trailers: func() []fetch.Field {
		return trailerFields(resp.Trailer, strings.ToLower)
	}}, nil
}

// The library keeps these errors to itself. The tests with upstreams that
// bring them about notice if they change.
const (
	textGoAway       = "http2: Transport received Server's graceful shutdown GOAWAY"
	textGoAwayCode   = "http2: Transport received GOAWAY from server ErrCode:"
	textNeverUsable  = "http2: client conn could not be established"
	textUnusable     = "http2: client conn not usable"
	textHeadTooLarge = "http2: response header list larger than advertised limit"
	textRequestHead  = "request header list larger than peer's advertised limit"
)

// headFailure says why there is no response head.
func (h *h2) headFailure(x *exchange, err error) error {
	if err.Error() == textNeverUsable {
		// The library hides why, but TLS gives its last error again.
		h.c.cut()
		if _, last := h.c.net.Read(make([]byte, 1)); last != nil {
			err = last
		}
	}
	var reset http2.StreamError
	text := err.Error()
	switch {
	case errors.As(err, &reset) && reset.Code == http2.ErrCodeRefusedStream:
		return notServed(x.fail(fetch.ReasonStreamReset, x.name()+" refused the stream", err))
	case text == textGoAway:
		return &unserved{graceful: h.answered.Load(), failure: notServed(x.fail(fetch.ReasonProtocolError,
			x.name()+" ended the connection (GOAWAY) without serving the request", err))}
	case text == textUnusable:
		return &unserved{full: true, limit: unlimited, failure: notServed(x.fail(fetch.ReasonDisconnected, x.name()+" takes no more requests on the connection", err))}
	case strings.HasPrefix(text, textGoAwayCode):
		return notServed(x.fail(fetch.ReasonProtocolError, x.name()+" ended the connection with an error (GOAWAY)", err))
	case strings.HasSuffix(text, textRequestHead):
		return notServed(x.fail(fetch.ReasonWriteFailed, x.name()+" accepts no request head of this size", err))
	case reset.Cause != nil && reset.Cause.Error() == textHeadTooLarge:
		return x.refusedHead(h1.TooManyBytes(h.limits.MaxResponseFieldBytes))
	}
	if alert, ok := remoteAlert(err); ok && isCertificateAlert(alert, h.c.asked) {
		return certificateDemanded(x, alert, err)
	}
	reason, what := h2Fault(err)
	return x.fail(reason, x.name()+" "+what, err)
}

func notServed(f *fetch.Failure) *fetch.Failure {
	f.Sent = fetch.SentNo
	return f
}

// h2Fault names what ended a stream whose response was awaited.
func h2Fault(err error) (fetch.Reason, string) {
	var (
		reset  http2.StreamError
		broken http2.ConnectionError
		goAway http2.GoAwayError
	)
	switch {
	case errors.As(err, &reset) && (reset.Cause == nil || reset.Cause.Error() != "received from peer"):
		return fetch.ReasonProtocolError, fmt.Sprintf("broke the rules of HTTP/2 (%s)", reset.Code)
	case errors.As(err, &reset):
		return fetch.ReasonStreamReset, fmt.Sprintf("reset the stream (%s)", reset.Code)
	case errors.As(err, &broken):
		return fetch.ReasonProtocolError, fmt.Sprintf("broke the rules of HTTP/2 (%s)", http2.ErrCode(broken))
	case errors.As(err, &goAway) && goAway.ErrCode != http2.ErrCodeNo:
		return fetch.ReasonProtocolError, fmt.Sprintf("ended the connection with an error (%s)", goAway.ErrCode)
	case errors.As(err, &goAway), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fetch.ReasonDisconnected, "closed the connection without an answer"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fetch.ReasonWriteTimeout, fmt.Sprintf("took nothing for %s", h2WriteTimeout)
	case isReset(err), errors.Is(err, net.ErrClosed):
		return fetch.ReasonConnectionReset, "broke the connection before the response head was whole"
	case err.Error() == "http2: client connection lost", err.Error() == "http2: client connection force closed via ClientConn.Close":
		return fetch.ReasonConnectionReset, "no longer answers on the connection"
	}
	return fetch.ReasonProtocolError, "broke the rules of HTTP/2"
}
