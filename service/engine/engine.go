package engine

import (
	"context"
	"errors"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Engine carries out plans over one transport, under one policy.
type Engine struct {
	transport fetch.Transport
	policy    *policy.Policy
	budget    fetch.RetryBudget
	live      *live
}

// New returns an engine. The budget bounds its retries.
func New(t fetch.Transport, p *policy.Policy, budget fetch.RetryBudget) *Engine {
	return &Engine{transport: t, policy: p, budget: budget, live: newLive()}
}

// With returns an engine that decides by p. All else is shared: Drain and
// Withdraw of either are for the fetches of both.
func (e *Engine) With(p *policy.Policy) *Engine {
	with := *e
	with.policy = p
	return &with
}

// Drain ends every fetch that is under way, and each that comes later, with the
// failure DRAINING.
func (e *Engine) Drain() { e.live.drain() }

// Run carries out plan and writes the response to sink. The report comes back
// also on failure. The error is
//
//   - nil when the response is whole,
//   - a *fetch.Failure when the upstream gave no usable answer,
//   - a *fetch.Denied when policy denied the fetch before anything was sent,
//   - the sink's error, or context.Canceled, when the caller has gone.
//
// When ctx has a deadline, Run gives up a little before it.
func (e *Engine) Run(ctx context.Context, plan *fetch.Plan, sink fetch.Sink) (*fetch.Report, error) {
	plan = e.led(plan)
	r := newRun(ctx, e, plan, sink)
	defer r.cut(nil)
	if timer := r.keepTime(plan.Timeouts.Total); timer != nil {
		defer timer.Stop()
	}
	e.live.enter(r)
	defer e.live.leave(r)
	err := r.attempts(r)
	r.report.Total = time.Since(r.report.Start)
	r.report.Outcome = fetch.OutcomeResponse
	switch {
	case err == nil:
	case errors.As(err, &r.report.Failure):
		r.report.Outcome = fetch.OutcomeFailure
	case errors.As(err, &r.report.Denied):
		r.report.Outcome = fetch.OutcomeDenied
	default:
		r.report.Outcome = fetch.OutcomeCanceled
	}
	return &r.report, err
}

// led is plan with what the rule of its first hop says about the whole fetch.
func (e *Engine) led(plan *fetch.Plan) *fetch.Plan {
	if !e.policy.HasSettings() {
		return plan
	}
	return e.policy.Decide(PolicyAsk(plan)).Settings.Lead(plan)
}

// Why a context ended, so that one timeout can be told from another and from a
// caller that went away.
var (
	errTotal    = errors.New("the total timeout ended the fetch")
	errDeadline = errors.New("the deadline of the RPC ended the fetch")
	errAttempt  = errors.New("the attempt timeout ended the attempt")
	errDraining = errors.New("fetchgate was stopped")
)

func newReport(plan *fetch.Plan) fetch.Report {
	return fetch.Report{
		ID: plan.ID, RPC: plan.RPC, Caller: plan.Caller, Labels: plan.Labels, Traceparent: plan.Traceparent, Method: plan.Method, Destination: plan.Destination,
		Start: time.Now(), Generation: plan.Generation, Clamped: plan.Clamped,
		Timeouts: plan.Timeouts, Response: plan.Response, Throughput: plan.MinThroughput,
		MaxAttempts: plan.Retry.MaxAttempts, MaxRedirects: plan.Redirect.Max, Full: plan.FullReport,
	}
}
