package engine

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// run is one fetch on its way, and the context of it.
type run struct {
	context.Context // ends with caller, and by cut
	cut             context.CancelCauseFunc
	deadline        time.Time // zero: none

	engine *Engine
	plan   *fetch.Plan
	sink   fetch.Sink
	caller context.Context // the RPC's own, without the fetch's deadline
	report fetch.Report
	// attempt and hop are the first, and mostly the last, of the report.
	firstAttempt [1]fetch.Attempt
	firstHop     [1]fetch.Hop
	// arrived is the response of the last hop.
	arrived arrived
	// response is what to do with the response of the last hop.
	response fetch.ResponsePlan
	// bodyTaken counts the bytes of the request body that a transport took, on
	// a goroutine of its own.
	bodyTaken atomic.Int64
	// takenBefore is what it was before the last hop.
	takenBefore int64

	jar cookie.Jar
	// proving is what is known of the credentials.
	proving proving
	// before are the heads that came before the final one of this attempt.
	before preludes
	// left tells that bytes of a request of this fetch may have left, in this
	// attempt or an earlier one.
	left bool
	// from is the origin that the last redirect of this attempt came from; none
	// before the first.
	from fetch.Origin
	// away tells that a redirect of this attempt led to another origin than the
	// request's.
	away bool
	// passed tells that the head of the final response went to the sink.
	passed bool
	// fresh tells that the last attempt broke on a connection that had served
	// before: the next one must not meet another of its kind.
	fresh bool
	made  fetch.RetryCounts
	// unexpected tells that an upstream does not do what the request expects of
	// it, so that no hop expects it any more.
	unexpected bool
	// reopened is the request's body for the next hop, where it was opened before.
	reopened io.ReadCloser
	// withdrawal is what a newer configuration says of the fetch.
	withdrawal withdrawal
	// waited is how much of the wait before the next attempt is over already.
	waited time.Duration
}

func newRun(caller context.Context, e *Engine, plan *fetch.Plan, sink fetch.Sink) *run {
	r := &run{engine: e, plan: plan, sink: sink, caller: caller, report: newReport(plan), response: plan.Response}
	r.Context, r.cut = context.WithCancelCause(caller)
	r.report.Attempts = r.firstAttempt[:0]
	return r
}

// attempts tries until an attempt has an outcome that is not tried again.
func (r *run) attempts(ctx context.Context) error {
	for _, c := range r.plan.Cookies {
		if err := r.jar.Add(c, r.plan.Destination); err != nil {
			return fetch.Fail(fetch.ReasonInternalFault, "a cookie of the request does not fit, though the plan took it", err)
		}
	}
	var wait time.Duration
	for {
		verdict, err := r.attempt(ctx, wait)
		if !verdict.Again {
			return r.settled(err)
		}
		wait = verdict.Wait
		if err := r.pause(ctx, wait-r.waited); err != nil {
			return r.settled(err)
		}
	}
}

// settled completes the report and the failure once the last attempt ended.
func (r *run) settled(err error) error {
	if r.reopened != nil {
		r.reopened.Close()
	}
	taken := r.bodyTaken.Load()
	if h := r.report.LastHop(); h != nil && h.Status == 0 {
		// What a transport took and could not send has not left.
		taken = r.takenBefore + min(taken-r.takenBefore, h.Facts.Sent)
	}
	r.report.RequestBytes = taken
	r.report.Cookies = r.jar.Cookies(time.Now())
	f, failed := errors.AsType[*fetch.Failure](err)
	if !failed {
		return err
	}
	if r.left && f.Sent == fetch.SentNo {
		f.Sent = fetch.SentYes // in a hop or an attempt before
	}
	if !r.passed {
		r.report.HistoryCut = r.before.cut
		// What had arrived goes along; if the sink fails, its caller has gone.
		_ = r.before.passOn(r.sink)
	}
	return err
}

// attempt is one try at the whole request. Unless the verdict is to try again, its
// outcome is final, and with the sink if it is a response.
func (r *run) attempt(ctx context.Context, wait time.Duration) (retry.Verdict, error) {
	whole := ctx
	if t := r.plan.Timeouts.Attempt; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, errAttempt)
		defer cancel()
	}
	r.before, r.waited = preludes{}, 0
	number := len(r.report.Attempts) + 1
	r.report.Attempts = append(r.report.Attempts, fetch.Attempt{Number: number, Start: time.Now(), Wait: wait})
	a := &r.report.Attempts[number-1]
	if number == 1 {
		a.Hops = r.firstHop[:0]
	}
	got, err := r.hops(ctx, a)
	verdict := r.judge(whole, a, got, err)
	a.Failure = failureOf(err)
	switch {
	case verdict.Again && got != nil:
		r.waited = got.discard(verdict.Wait)
	case verdict.Again:
	case r.exhausted(verdict):
		err = r.givenUp(a, got, err, verdict.RetryAfter)
	case got != nil:
		if err = r.passOn(got); err != nil {
			err = r.classed(ctx, err, a)
			a.Failure = failureOf(err)
		}
	}
	if got != nil {
		got.end(a)
	}
	a.Total = time.Since(a.Start)
	return verdict, err
}

// failureOf is why an attempt failed; nil if its caller has gone.
func failureOf(err error) *fetch.Failure {
	if failure, ok := errors.AsType[*fetch.Failure](err); ok {
		return failure
	}
	if denied, ok := errors.AsType[*fetch.Denied](err); ok {
		return denied.AsFailure()
	}
	return nil
}

// judge asks whether another attempt is worth making after this one, and
// whether the budget has one. A fetch that policy denied, or whose caller has
// gone, has no other.
func (r *run) judge(ctx context.Context, a *fetch.Attempt, got *arrived, err error) retry.Verdict {
	o := retry.Outcome{
		Attempt: a.Number, Method: r.plan.Method, Sent: fetch.SentNo, Rewindable: true, Made: r.made, Now: time.Now(),
	}
	if r.left {
		o.Sent = fetch.SentYes
	}
	failure, failed := errors.AsType[*fetch.Failure](err)
	switch {
	case got != nil:
		o.Head = got.resp.Head
	case failed && ctx.Err() == nil:
		o.Failure = failure
	default:
		return retry.Verdict{}
	}
	if deadline, ok := ctx.Deadline(); ok {
		o.Left, o.Bounded = time.Until(deadline), true
	}
	v := retry.Next(r.plan.Retry, o, rand.Float64)
	last := &a.Hops[len(a.Hops)-1]
	if v.Again && !r.engine.budget.Take(r.plan.Caller.Name, last.Destination.Origin) {
		v.Again, v.Suppressed = false, fetch.SuppressedBudget
	}
	r.report.Suppressed = v.Suppressed
	if failure != nil {
		failure.RetryAfter = max(failure.RetryAfter, v.RetryAfter)
		r.fresh = last.Facts.Reused && (failure.Reason == fetch.ReasonDisconnected || failure.Reason == fetch.ReasonConnectionReset)
	}
	if v.Again {
		v.Kind.Count(&r.made)
	}
	return v
}

// exhausted tells that attempts ran out and the caller wants to hear of it as a
// failure.
func (r *run) exhausted(v retry.Verdict) bool {
	return r.plan.Retry.FailWhenExhausted && v.Suppressed == fetch.SuppressedMax
}

// pause waits before the next attempt.
func (r *run) pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
	}
	if err := r.caller.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	f := r.cutShort(context.Cause(ctx), fetch.StageWait)
	f.Stage, f.Sent = fetch.StageWait, r.sent()
	return f
}

// sent tells whether bytes of the request left in this fetch.
func (r *run) sent() fetch.RequestSent {
	if r.left {
		return fetch.SentYes
	}
	return fetch.SentNo
}
