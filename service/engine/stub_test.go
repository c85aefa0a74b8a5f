package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transport stands in for the transport at its seam. It answers at once what it
// was told, or acts, and keeps what it was asked.
type transport struct {
	response fetch.Response // its Body is body
	body     stubBody
	facts    fetch.Facts
	err      error
	interim  []fetch.Head
	// act, if set, comes before the answer; an error is the hop's.
	act func(ctx context.Context, r *fetch.Request) error

	requests []*fetch.Request
	contexts []context.Context
	closed   atomic.Int64 // bodies of requests
}

func (s *transport) RoundTrip(ctx context.Context, r *fetch.Request) (*fetch.Response, fetch.Facts, error) {
	s.requests, s.contexts = append(s.requests, r), append(s.contexts, ctx)
	if r.Body != nil {
		defer func() {
			r.Body.Close()
			s.closed.Add(1)
		}()
	}
	for _, h := range s.interim {
		if r.Interim != nil {
			r.Interim(h)
		}
	}
	if s.act != nil {
		if err := s.act(ctx, r); err != nil {
			return nil, s.facts, err
		}
	}
	if s.err != nil {
		return nil, s.facts, s.err
	}
	response := s.response
	s.body.ctx, s.body.cut = context.WithCancel(ctx)
	response.Body = &s.body
	return &response, s.facts, nil
}

func (*transport) Forget(func(fetch.Route) bool) {}

func (*transport) Close(context.Context) error { return nil }

// givenUp is what transports return when ctx ends.
func givenUp(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("the exchange was given up: %w", ctx.Err())
}

// stubBody is a body that gives pieces, then waits if it hangs, then ends.
type stubBody struct {
	ctx    context.Context
	cut    context.CancelFunc // of ctx
	pieces []string
	// chunks tells that each piece is an HTTP chunk.
	chunks bool
	hangs  bool
	err    error // instead of io.EOF
	closed int
}

func (b *stubBody) next() (string, error) {
	switch {
	case len(b.pieces) > 0:
		piece := b.pieces[0]
		b.pieces = b.pieces[1:]
		return piece, nil
	case b.hangs:
		return "", givenUp(b.ctx)
	case b.err != nil:
		return "", b.err
	}
	return "", io.EOF
}

func (b *stubBody) Read(p []byte) (int, error) {
	piece, err := b.next()
	return copy(p, piece), err
}

func (b *stubBody) ReadChunk(get func() []byte) ([]byte, bool, error) {
	piece, err := b.next()
	if err != nil {
		return nil, false, err
	}
	room := get()
	n := copy(room[:cap(room)], piece)
	if n < len(piece) {
		b.pieces = append([]string{piece[n:]}, b.pieces...)
	}
	return room[:n], b.chunks && n == len(piece), nil
}

func (b *stubBody) Cut() { b.cut() }

func (b *stubBody) Close() error {
	b.cut()
	b.closed++
	return nil
}

// sink writes down what it is given, and fails where it was told.
type sink struct {
	events []string
	fails  string // the event that fails
	chunks int    // how many HTTP chunks ended
	// wait, if set, is called with every event.
	wait func(event string)
}

var errSink = errors.New("the caller does not take it")

func (s *sink) took(event string) error {
	s.events = append(s.events, event)
	if s.wait != nil {
		s.wait(event)
	}
	if s.fails == event {
		return errSink
	}
	return nil
}

func (s *sink) Interim(h fetch.Head) error { return s.took(fmt.Sprint("interim ", h.Status)) }
func (s *sink) Hop(h fetch.Head, url string) error {
	return s.took(fmt.Sprint("hop ", h.Status, " ", url))
}
func (s *sink) Head(h fetch.Head, url string) error {
	return s.took(fmt.Sprint("head ", h.Status, " ", url))
}
func (s *sink) Buffer() []byte { return make([]byte, 0, 64) }
func (s *sink) Data(b []byte, endOfChunk bool) error {
	if endOfChunk {
		s.chunks++
	}
	return s.took("data " + string(b))
}
func (s *sink) Sending() bool { return false }

// source is a request body.
type source struct {
	text   string
	length int64
	err    error // of Open
	opened int
}

func (s *source) Open() (io.ReadCloser, error) {
	s.opened++
	if s.err != nil {
		return nil, s.err
	}
	return io.NopCloser(&pieces{s.text}), nil
}

func (s *source) Length() int64 { return s.length }

// pieces gives one byte at a time.
type pieces struct{ rest string }

func (p *pieces) Read(b []byte) (int, error) {
	if p.rest == "" {
		return 0, io.EOF
	}
	n := copy(b[:1], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// ok is a transport that answers 200 with the body "ok".
func ok() *transport {
	return &transport{
		response: fetch.Response{Head: fetch.Head{Protocol: "HTTP/1.1", Status: 200}, Length: 2},
		body:     stubBody{pieces: []string{"ok"}},
		facts:    fetch.Facts{Dials: 1, Protocol: "HTTP/1.1", Sent: 100, Stage: fetch.StageHead},
	}
}

// plan is a plan for a URL with the limits of a server without configuration.
func plan(t testing.TB, url string) *fetch.Plan {
	t.Helper()
	d, err := fetch.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	limits := fetch.DefaultLimits()
	return &fetch.Plan{
		RPC: "Fetch", Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: d,
		Response: fetch.ResponsePlan{
			MaxHeadBytes: limits.MaxResponseFieldBytes, MaxFields: limits.MaxResponseFields, MaxInterim: limits.MaxInterim,
			MaxBodyBytes: limits.MaxResponseBodyBytes, TooLarge: fetch.ReasonResponseTooLarge,
			Decode: true, MaxCodings: limits.MaxCodings, MaxRatio: limits.MaxDecodedRatio, RatioFloor: limits.DecodedRatioFloor,
		},
		Retry: fetch.RetryPlan{MaxAttempts: 1}, MaxDials: 4, Generation: 7,
	}
}

// over is an engine without rules over a transport.
func over(t testing.TB, s *transport) *engine.Engine {
	t.Helper()
	return under(t, s, nil)
}

func under(t testing.TB, s *transport, rules []*configv1.Rule) *engine.Engine {
	t.Helper()
	p, err := policy.Compile(rules, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return engine.New(s, p, limit.NewRetryBudget(0.2, 10))
}

// failed wants a *fetch.Failure of a reason.
func failed(t testing.TB, err error, want fetch.Reason) *fetch.Failure {
	t.Helper()
	var f *fetch.Failure
	if !errors.As(err, &f) || f.Reason != want {
		t.Fatalf("the error is %v, want a failure %s", err, want)
	}
	if f.Message == "" || f.Blame == "" || f.Sent == "" {
		t.Errorf("the failure is not whole: %+v", f)
	}
	return f
}
