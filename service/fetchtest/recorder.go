package fetchtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// RecorderOptions say how a recorder answers. The zero value answers every
// request, over plain TCP, with 200 and the body "ok".
type RecorderOptions struct {
	Listen Listen
	// Respond returns the step that answers a request, which was read to its
	// end; nil answers 200 with the body "ok". The connection is used again
	// after the step, unless the step ends it or the request asks for that.
	Respond func(*Recorded) Step
	// Early, if set, is called when a request's head was read and its body was
	// not, and returns a step to take before the body is read, or nil. final
	// tells that the step was the answer: the body is then read and recorded,
	// and Respond is not called. Without Early, a request that expects it
	// (RFC 9110 section 10.1.1) gets 100 Continue.
	Early func(*Recorded) (step Step, final bool)
}

// Recorder is an HTTP/1.1 upstream that keeps every request as it was on the
// wire. It reads strictly: what RFC 9112 does not let a client send is recorded
// with its Err, answered with 400, and ends the connection.
type Recorder struct {
	*Upstream
	options RecorderOptions

	mu       sync.Mutex
	requests []Recorded
	grown    chan struct{} // closed and replaced when requests grows
}

// NewRecorder starts a recorder.
func NewRecorder(t testing.TB, o RecorderOptions) *Recorder {
	t.Helper()
	if o.Respond == nil {
		o.Respond = Sequence(Answer(http.StatusOK, "ok"))
	}
	if o.Early == nil {
		o.Early = continueIfExpected
	}
	r := &Recorder{
		Upstream: newUpstream(t, o.Listen, o.Listen.tls("http/1.1")),
		options:  o,
		grown:    make(chan struct{}),
	}
	r.serve(r.converse)
	return r
}

// Sequence returns a Respond that answers the first request with the first
// step, the second with the second, and all that follow with the last one.
func Sequence(steps ...Step) func(*Recorded) Step {
	var mu sync.Mutex
	next := 0
	return func(*Recorded) Step {
		mu.Lock()
		defer mu.Unlock()
		step := steps[next]
		next = min(next+1, len(steps)-1)
		return step
	}
}

// Requests returns the requests so far, each of which was read to its end or
// has its Err set, in that order.
func (r *Recorder) Requests() []Recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Recorded(nil), r.requests...)
}

// WaitRequests waits until there are n requests and returns them. It fails when
// ctx ends first. Who got an answer to a request need not wait for it.
func (r *Recorder) WaitRequests(ctx context.Context, n int) ([]Recorded, error) {
	for {
		r.mu.Lock()
		have, grown := append([]Recorded(nil), r.requests...), r.grown
		r.mu.Unlock()
		if len(have) >= n {
			return have, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return have, fmt.Errorf("%d of %d requests came: %w", len(have), n, ctx.Err())
		}
	}
}

// converse reads and answers requests until the connection ends.
func (r *Recorder) converse(c *Conn) {
	for {
		request, answered, err := r.read(c)
		if err == io.EOF { // nothing came after the last answer
			return
		}
		request.Err = err
		r.record(*request)
		if errors.Is(err, errOver) {
			return
		}
		c.readAhead()
		if err != nil {
			_ = Steps(Answer(http.StatusBadRequest, err.Error()+"\n"), HalfClose())(c)
			return
		}
		if !answered && r.options.Respond(request)(c) != nil {
			return
		}
		if isLast(request) {
			_ = HalfClose()(c)
			return
		}
	}
}

// read reads one request. answered tells that it was answered before its body
// was read. Its error is io.EOF when there was none.
func (r *Recorder) read(c *Conn) (request *Recorded, answered bool, err error) {
	request = &Recorded{Conn: c.Number()}
	if secure, ok := c.Conn.(*tls.Conn); ok {
		state := secure.ConnectionState()
		request.TLS = &state
	}
	c.request = request
	p := parser{source: c, request: request}
	if err := p.head(); err != nil {
		return request, false, err
	}
	c.readAhead()
	step, final := r.options.Early(request)
	if step != nil {
		if err := step(c); err != nil {
			return request, final, err
		}
	}
	return request, final, p.body()
}

func (r *Recorder) record(request Recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request)
	close(r.grown)
	r.grown = make(chan struct{})
}

func continueIfExpected(r *Recorded) (Step, bool) {
	if !strings.EqualFold(r.Get("Expect"), "100-continue") {
		return nil, false
	}
	return Write("HTTP/1.1 100 Continue\r\n\r\n"), false
}

// isLast tells that the client wants no more than one answer (RFC 9112 section 9.3).
func isLast(r *Recorded) bool {
	return r.Proto == "HTTP/1.0" || strings.EqualFold(r.Get("Connection"), "close")
}
