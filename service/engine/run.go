package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// bodySent counts the bytes of the request body; transports read it on
	// goroutines of their own.
	bodySent atomic.Int64
}

func (r *run) attempts(ctx context.Context) error {
	var err error
	for attempt := 1; attempt <= r.plan.MaxAttempts; attempt++ {
		if err = r.attempt(ctx, attempt); err == nil {
			return nil
		}
	}
	return err
}

func (r *run) attempt(ctx context.Context, number int) error {
	if t := r.plan.Timeouts.Attempt; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, errAttempt)
		defer cancel()
	}
	r.report.Attempts = append(r.report.Attempts, fetch.Attempt{Number: number, Start: time.Now()})
	a := &r.report.Attempts[number-1]
	err := r.hops(ctx, a)
	a.Total = time.Since(a.Start)
	errors.As(err, &a.Failure)
	return err
}

// hops follows the response from origin to origin until it is final, and then
// passes on its body.
func (r *run) hops(ctx context.Context, a *fetch.Attempt) error {
	dest := r.plan.Destination
	for hop := 1; hop <= r.plan.MaxHops; hop++ {
		a.Hops = append(a.Hops, fetch.Hop{Destination: dest, Method: r.plan.Method})
		h := &a.Hops[hop-1]
		start := time.Now()
		err := r.hop(ctx, h)
		h.Facts.Times.Total = time.Since(start)
		if err != nil {
			return r.classed(ctx, err, h, a.Number == 1 && hop == 1)
		}
	}
	return nil
}

// hop is one request and response: decide, send, pass on.
func (r *run) hop(ctx context.Context, h *fetch.Hop) error {
	decision := r.engine.policy.Decide(r.plan.Caller, h.Method, h.Destination)
	h.Rule, r.report.Rule = decision.Rule, decision.Rule
	if decision.Denied != nil {
		return decision.Denied
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
		return err
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
		return err
	}
	defer resp.Body.Close()
	h.Status = resp.Status
	if err := checkHead(resp.Head, r.plan.Response); err != nil {
		return err
	}
	if err := interim.passOn(r.sink); err != nil {
		return err
	}
	return r.passOn(h, resp, stop)
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
	req.Body, req.Length = &countedBody{ReadCloser: b, n: &r.bodySent}, r.plan.Source.Length()
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

// checkHead holds a head to the limits of this fetch, which may be stricter than
// those that the transport holds every head to while it reads.
func checkHead(h fetch.Head, limits fetch.ResponsePlan) error {
	if len(h.Fields) > limits.MaxFields {
		f := fetch.Fail(fetch.ReasonHeadTooLarge, fmt.Sprintf("the response has more than %d header fields", limits.MaxFields), nil)
		f.LimitHit = &fetch.LimitHit{Limit: "max_response_fields", Max: int64(limits.MaxFields)}
		return f
	}
	if limits.MaxHeadBytes < fetch.FieldBytes(h.Fields) {
		f := fetch.Fail(fetch.ReasonHeadTooLarge, fmt.Sprintf("the response has more than %d bytes of header fields", limits.MaxHeadBytes), nil)
		f.LimitHit = &fetch.LimitHit{Limit: "max_response_field_bytes", Max: int64(limits.MaxHeadBytes)}
		return f
	}
	return nil
}

// passOn gives the final response to the sink.
func (r *run) passOn(h *fetch.Hop, resp *fetch.Response, stop context.CancelCauseFunc) error {
	if err := r.sink.Head(resp.Head, h.Destination.URL()); err != nil {
		return err
	}
	copied, err := body.Copy(r.sink, resp, r.plan.Response, body.Options{MinThroughput: r.plan.MinThroughput, Stop: stop})
	r.report.WireBytes, r.report.BodyBytes, r.report.Codings = copied.WireBytes, copied.BodyBytes, copied.Codings
	if err != nil {
		return &bodyError{err}
	}
	if resp.Trailers != nil {
		r.report.Trailers = resp.Trailers()
	}
	return nil
}

// bodyError marks an error of the body: the hop came further than its facts,
// which are as of the head.
type bodyError struct{ error }

func (e *bodyError) Unwrap() error { return e.error }

// classed gives err its class where it leaves the engine.
func (r *run) classed(ctx context.Context, err error, h *fetch.Hop, first bool) error {
	stage := h.Facts.Stage
	if b := (*bodyError)(nil); errors.As(err, &b) {
		stage, err = fetch.StageBody, b.error
	}
	var denied *fetch.Denied
	var failure *fetch.Failure
	switch {
	case r.caller.Err() != nil && !errors.Is(r.caller.Err(), context.DeadlineExceeded):
		return r.caller.Err()
	case errors.As(err, &denied):
		if first {
			return denied
		}
		failure = denied.AsFailure()
	case errors.As(err, &failure):
	case isContextError(err):
		failure = timedOut(context.Cause(ctx), stage)
	default:
		return err
	}
	if failure.Sent == "" {
		failure.Sent = sent(h.Facts)
	}
	return failure
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// timedOut is the failure of a fetch whose context ended.
func timedOut(cause error, stage fetch.Stage) *fetch.Failure {
	reason, what := fetch.ReasonTotalTimeout, "the fetch did not end in time"
	if errors.Is(cause, errAttempt) {
		reason, what = fetch.ReasonAttemptTimeout, "the attempt did not end in time"
	}
	if stage != fetch.StageUnspecified {
		what += "; it was at the stage " + string(stage)
	}
	f := fetch.Fail(reason, what, cause)
	f.Stage = stage
	return f
}

func sent(f fetch.Facts) fetch.RequestSent {
	if f.Sent > 0 {
		return fetch.SentYes
	}
	return fetch.SentNo
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

func (i *interimHeads) passOn(sink fetch.Sink) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, h := range i.heads {
		if err := sink.Interim(h); err != nil {
			return err
		}
	}
	return nil
}
