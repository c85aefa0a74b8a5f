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
}

// New returns an engine.
func New(t fetch.Transport, p *policy.Policy) *Engine { return &Engine{transport: t, policy: p} }

// Run carries out plan and writes the response to sink. The report comes back
// also on failure. The error is
//
//   - nil when the response is whole,
//   - a *fetch.Failure when the upstream gave no usable answer,
//   - a *fetch.Denied when policy denied the first hop of the first attempt, so
//     that nothing was sent,
//   - the sink's error, or context.Canceled, when the caller has gone.
func (e *Engine) Run(ctx context.Context, plan *fetch.Plan, sink fetch.Sink) (*fetch.Report, error) {
	r := &run{engine: e, plan: plan, sink: sink, caller: ctx, report: newReport(plan)}
	ctx, cancel := bounded(ctx, plan.Timeouts.Total)
	defer cancel()
	err := r.attempts(ctx)
	r.report.RequestBytes = r.bodySent.Load()
	r.report.Total = time.Since(r.report.Start)
	return r.report, err
}

// errTotal and errAttempt are why a context ended, so that a timeout can be
// told from a caller that went away.
var (
	errTotal   = errors.New("the total timeout ended the fetch")
	errAttempt = errors.New("the attempt timeout ended the attempt")
)

// Headroom: the in-band answer leaves this much before the RPC's own deadline,
// or evidence would be lost to a bare DEADLINE_EXCEEDED.
const (
	maxHeadroom      = 20 * time.Millisecond
	headroomFraction = 10
)

// bounded returns ctx with the fetch's deadline: that of the RPC less the
// headroom, or the total timeout, whichever is earlier.
func bounded(ctx context.Context, total time.Duration) (context.Context, context.CancelFunc) {
	now := time.Now()
	var deadline time.Time
	if total > 0 {
		deadline = now.Add(total)
	}
	if rpc, ok := ctx.Deadline(); ok {
		rpc = rpc.Add(-min(maxHeadroom, rpc.Sub(now)/headroomFraction))
		if deadline.IsZero() || rpc.Before(deadline) {
			deadline = rpc
		}
	}
	if deadline.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline, errTotal)
}

func newReport(plan *fetch.Plan) *fetch.Report {
	return &fetch.Report{
		RPC: plan.RPC, Caller: plan.Caller.Name, Method: plan.Method, Destination: plan.Destination,
		Start: time.Now(), Generation: plan.Generation, Clamped: plan.Clamped,
		Timeouts: plan.Timeouts, Response: plan.Response, Throughput: plan.MinThroughput, Full: plan.FullReport,
	}
}
