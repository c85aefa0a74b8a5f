package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// classed gives err, by which the last hop of a ended, the class in which it
// leaves the engine.
func (r *run) classed(ctx context.Context, err error, a *fetch.Attempt) error {
	h := &a.Hops[len(a.Hops)-1]
	stage := h.Facts.Stage
	if h.Status != 0 {
		stage = fetch.StageBody // facts are as of the head
	}
	var failure *fetch.Failure
	var denied *fetch.Denied
	switch gone := r.caller.Err(); {
	case gone != nil && !errors.Is(gone, context.DeadlineExceeded):
		return gone
	case errors.As(err, &failure):
	case errors.As(err, &denied):
		if denied.Rule == "" {
			denied.Rule = h.Rule
		}
		if a.Number == 1 && len(a.Hops) == 1 && sent(h) == fetch.SentNo {
			return denied
		}
		// It came too late to say that nothing was done.
		failure = denied.AsFailure()
		failure.Sent = ""
	case ended(ctx, err):
		failure = r.cutShort(context.Cause(ctx), stage)
	case h.Status != 0:
		return err // the sink's
	default:
		failure = fetch.Fail(fetch.ReasonInternalFault, "fetchgate failed in a way that it does not know; report it", err)
	}
	if failure.Stage == fetch.StageUnspecified {
		failure.Stage = stage
	}
	if failure.Sent == "" {
		failure.Sent = sent(h)
	}
	r.left = r.left || failure.Sent != fetch.SentNo
	return r.unshownFailure(h, failure)
}

// ended tells that err says that ctx ended. A transport can go by the deadline
// of ctx a moment before ctx itself does.
func ended(ctx context.Context, err error) bool {
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// cutShort is the failure of a fetch whose context ended for this cause.
func (r *run) cutShort(cause error, stage fetch.Stage) *fetch.Failure {
	if w, withdrawn := errors.AsType[*withdrawn](cause); withdrawn {
		return w.failure(stage)
	}
	reason, what := fetch.ReasonTotalTimeout, "the fetch did not end within the deadline of the RPC"
	switch {
	case errors.Is(cause, errDraining):
		reason, what = fetch.ReasonDraining, "fetchgate was stopped before the fetch ended"
	case errors.Is(cause, errAttempt):
		reason, what = fetch.ReasonAttemptTimeout, fmt.Sprintf("the attempt did not end within its timeout of %s", r.plan.Timeouts.Attempt)
	case errors.Is(cause, errTotal):
		what = fmt.Sprintf("the fetch did not end within its total timeout of %s", r.plan.Timeouts.Total)
		if slices.Contains(r.plan.Clamped, "options.timeouts.total") {
			what += ", which is the server's maximum"
		}
	}
	if stage != fetch.StageUnspecified {
		what += "; it was at the stage " + string(stage)
	}
	return fetch.Fail(reason, what, cause)
}

// sent tells whether bytes of the request left. Whoever answered had some.
func sent(h *fetch.Hop) fetch.RequestSent {
	if h.Facts.Sent > 0 || h.Status != 0 {
		return fetch.SentYes
	}
	return fetch.SentNo
}
