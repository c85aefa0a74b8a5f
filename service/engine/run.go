package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// run is one fetch on its way.
type run struct {
	engine *Engine
	plan   *fetch.Plan
	sink   fetch.Sink
	caller context.Context // the RPC's own, without the fetch's deadline
	report *fetch.Report
	// bodyTaken counts the bytes of the request body that a transport took, on
	// a goroutine of its own.
	bodyTaken atomic.Int64
}

// attempts tries until an attempt has an outcome that another cannot better:
// one is made only where the attempt before it sent nothing.
func (r *run) attempts(ctx context.Context) error {
	var err error
	for number := 1; number <= r.plan.Retry.MaxAttempts; number++ {
		err = r.attempt(ctx, number)
		if f := r.report.Attempts[number-1].Failure; f == nil || f.Sent != fetch.SentNo || !f.Retryable() {
			break
		}
	}
	r.report.RequestBytes = r.bodyTaken.Load()
	if h := r.report.LastHop(); h != nil && h.Status == 0 {
		// What a transport took and could not send has not left.
		r.report.RequestBytes = min(r.report.RequestBytes, h.Facts.Sent)
	}
	return err
}

// attempt is one try at the whole request.
func (r *run) attempt(ctx context.Context, number int) error {
	if t := r.plan.Timeouts.Attempt; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, errAttempt)
		defer cancel()
	}
	a := fetch.Attempt{Number: number, Start: time.Now()}
	err := r.hops(ctx, &a)
	a.Total = time.Since(a.Start)
	a.Failure = failureOf(err)
	r.report.Attempts = append(r.report.Attempts, a)
	return err
}

// hops goes on until a response is final, and gives the error its class.
func (r *run) hops(ctx context.Context, a *fetch.Attempt) error {
	next := &r.plan.Destination
	for hop := 1; next != nil && hop <= r.plan.Redirect.Max+1; hop++ {
		start := time.Now()
		h := fetch.Hop{Destination: *next, Method: r.plan.Method}
		var err error
		if next, err = r.hop(ctx, &h); err != nil {
			err = r.classed(ctx, err, &h)
		}
		h.Facts.Times.Total = time.Since(start)
		a.Hops = append(a.Hops, h)
		if err != nil {
			return err
		}
	}
	return nil
}

// failureOf is why an attempt failed; nil if its caller has gone.
func failureOf(err error) *fetch.Failure {
	var failure *fetch.Failure
	var denied *fetch.Denied
	if !errors.As(err, &failure) && errors.As(err, &denied) {
		failure = denied.AsFailure()
	}
	return failure
}

// hop is one request and response: decide, send, pass on. It returns where the
// response leads, nil when it is final, as every response is that is not
// followed.
func (r *run) hop(ctx context.Context, h *fetch.Hop) (next *fetch.Destination, err error) {
	decision := r.engine.policy.Decide(r.plan.Caller, h.Method, h.Destination)
	h.Rule, r.report.Rule = decision.Rule, decision.Rule
	if decision.Denied != nil {
		return nil, decision.Denied
	}
	route := fetch.Route{
		Partition:      r.partition(),
		AddressProfile: decision.AddressProfile,
		TLS:            r.plan.TLS,
		Version:        r.plan.Version,
		Allow:          decision.Allow,
		FilterMixed:    decision.FilterMixed,
		MaxDials:       r.plan.MaxDials,
	}
	req, err := r.request(h, route)
	if err != nil {
		return nil, err
	}
	var interim interimHeads
	if r.plan.Response.Interim {
		req.Interim = interim.add
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	resp, facts, err := r.engine.transport.RoundTrip(ctx, req)
	h.Facts = facts
	if err != nil {
		_ = r.passOnInterim(&interim) // what arrived is told of a failure, too
		return nil, err
	}
	defer resp.Body.Close()
	h.Status = resp.Status
	if err := r.passOnInterim(&interim); err != nil {
		return nil, err
	}
	return nil, r.passOn(h, resp, stop)
}

// minThroughput is what the body must keep up with: nothing, if it is a stream
// of events, which come when they happen.
func (r *run) minThroughput(fields []fetch.Field) fetch.Throughput {
	kind, _ := fetch.Get(fields, "Content-Type")
	media, _, _ := bytes.Cut(kind, []byte(";"))
	if bytes.EqualFold(bytes.TrimSpace(media), []byte("text/event-stream")) {
		return fetch.Throughput{}
	}
	return r.plan.MinThroughput
}

// partition keeps the connections of an affinity apart from all others.
func (r *run) partition() string {
	if r.plan.Affinity == "" {
		return ""
	}
	return r.plan.Caller.Name + "\x00" + r.plan.Affinity
}

func (r *run) request(h *fetch.Hop, route fetch.Route) (*fetch.Request, error) {
	d := h.Destination
	req := &fetch.Request{
		Method: h.Method, Scheme: d.Scheme, Host: d.Host, Port: d.Port, Target: []byte(d.Target),
		Fields: r.plan.Fields, Route: route.Sealed(d.Origin), Timeouts: r.plan.Timeouts,
		Fresh: r.plan.Fresh, CloseAfter: r.plan.CloseAfter,
	}
	if r.plan.Source == nil {
		return req, nil
	}
	b, err := r.plan.Source.Open()
	if err != nil {
		return nil, err
	}
	req.Body, req.Length = &countedBody{ReadCloser: b, n: &r.bodyTaken}, r.plan.Source.Length()
	req.Framing = fetch.FramingLength
	if req.Length < 0 {
		req.Framing = fetch.FramingChunked
	}
	return req, nil
}

// countedBody counts the bytes of a request body that a transport took.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// passOn gives the final response to the sink.
func (r *run) passOn(h *fetch.Hop, resp *fetch.Response, stop context.CancelCauseFunc) error {
	if f := r.tooLarge("response head", resp.Fields); f != nil {
		return f
	}
	if err := r.sink.Head(resp.Head, h.Destination.URL()); err != nil {
		return err
	}
	copied, err := body.Copy(r.sink, resp, r.plan.Response, body.Options{MinThroughput: r.minThroughput(resp.Fields), Stop: stop})
	r.report.WireBytes, r.report.BodyBytes, r.report.Codings = copied.WireBytes, copied.BodyBytes, copied.Codings
	if err != nil || resp.Trailers == nil {
		return err
	}
	trailers := resp.Trailers()
	if f := r.tooLarge("trailer section", trailers); f != nil {
		f.Stage = fetch.StageBody
		return f
	}
	r.report.Trailers = trailers
	return nil
}

// tooLarge holds the fields of a part of the response to the limits of this
// fetch, which may be stricter than those that the transport reads by; nil means
// that they are within.
func (r *run) tooLarge(part string, fields []fetch.Field) *fetch.Failure {
	limits := r.plan.Response
	switch {
	case len(fields) > limits.MaxFields:
		return headTooLarge(part, "fields", fetch.LimitHit{Limit: "max_response_fields", Max: int64(limits.MaxFields)})
	case fetch.FieldBytes(fields) > limits.MaxHeadBytes:
		return headTooLarge(part, "bytes of fields", fetch.LimitHit{Limit: "max_response_field_bytes", Max: int64(limits.MaxHeadBytes)})
	}
	return nil
}

func headTooLarge(part, what string, hit fetch.LimitHit) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonHeadTooLarge, fmt.Sprintf("the %s has more than %d %s", part, hit.Max, what), nil)
	f.LimitHit = &hit
	return f
}

// interimHeads keeps 1xx heads until the final one is there: a transport calls
// from its own goroutine, which a slow caller must not hold up. Their number is
// bounded by the transport.
type interimHeads struct {
	mu    sync.Mutex
	heads []fetch.Head
}

func (i *interimHeads) add(h fetch.Head) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.heads = append(i.heads, h)
}

func (i *interimHeads) list() []fetch.Head {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clip(i.heads)
}

// passOnInterim gives the 1xx heads to the sink.
func (r *run) passOnInterim(interim *interimHeads) error {
	for _, h := range interim.list() {
		if f := r.tooLarge("head of an interim response", h.Fields); f != nil {
			return f
		}
		if err := r.sink.Interim(h); err != nil {
			return err
		}
	}
	return nil
}
