package engine

import (
	"context"
	"time"
)

// Headroom: the in-band answer leaves this much before the RPC's own deadline,
// or evidence would be lost to a bare DEADLINE_EXCEEDED.
const (
	maxHeadroom      = 20 * time.Millisecond
	headroomFraction = 10
)

// keepTime has the fetch end at its deadline: that of the RPC less the headroom,
// or when the total timeout is over, whichever is earlier; a total of 0 means
// none. The timer is nil if there is no deadline.
func (r *run) keepTime(total time.Duration) *time.Timer {
	now := time.Now()
	cause := errTotal
	if total > 0 {
		r.deadline = now.Add(total)
	}
	if rpc, ok := r.caller.Deadline(); ok {
		rpc = rpc.Add(-headroom(rpc.Sub(now)))
		if r.deadline.IsZero() || rpc.Before(r.deadline) {
			r.deadline, cause = rpc, errDeadline
		}
	}
	if r.deadline.IsZero() {
		return nil
	}
	left := r.deadline.Sub(now)
	if left <= 0 {
		r.cut(cause)
		return nil
	}
	return time.AfterFunc(left, func() { r.cut(cause) })
}

// headroom is what an answer leaves of the time that is left until the RPC's
// deadline.
func headroom(left time.Duration) time.Duration { return min(maxHeadroom, left/headroomFraction) }

// TimeLeft is how long the RPC of ctx may take for its answer to arrive by its
// deadline; false if it has none.
func TimeLeft(ctx context.Context) (time.Duration, bool) {
	deadline, ok := ctx.Deadline()
	left := time.Until(deadline)
	return left - headroom(left), ok
}

// Deadline makes the run the context of its fetch: that of Context, which a timer
// ends at the deadline.
func (r *run) Deadline() (time.Time, bool) { return r.deadline, !r.deadline.IsZero() }

// Err tells the end at the deadline from others.
func (r *run) Err() error {
	err := r.Context.Err()
	if cause := context.Cause(r.Context); err != nil && (cause == errTotal || cause == errDeadline) {
		return context.DeadlineExceeded
	}
	return err
}
