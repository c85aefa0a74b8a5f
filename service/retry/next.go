package retry

import (
	"math"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// worthStarting is the least time that must be left for an attempt to begin: in
// less, it would put work on the upstream and bring no answer.
const worthStarting = 10 * time.Millisecond

// Outcome is how an attempt ended.
type Outcome struct {
	// Attempt is its number; the first is 1.
	Attempt int
	// Method is that of the first hop, which another attempt would send again.
	Method string
	// Failure is why there is no response; nil means that there is one, of which
	// Head is the head.
	Failure *fetch.Failure
	Head    fetch.Head
	// Sent tells whether bytes of the request left, on any hop of the attempt.
	// Only SentNo means that none did.
	Sent fetch.RequestSent
	// HeadPassed tells that the head of a response went to the caller, who must
	// not get another.
	HeadPassed bool
	// Rewindable tells that the request body can be sent from its start: there
	// is none, or it is held, or nobody has read of it.
	Rewindable bool
	// Made are the retries so far.
	Made fetch.RetryCounts
	// Left is the time left of the fetch, where Bounded says that it has an end.
	Left    time.Duration
	Bounded bool
	// Now is the time that a date in Retry-After is compared with.
	Now time.Time
}

// Verdict is whether another attempt is worth making, and when.
type Verdict struct {
	// Again says to make one after Wait, if the retry budget allows it.
	Again bool
	Wait  time.Duration
	// Kind is what the retry counts as; empty when no condition was met.
	Kind Kind
	// Suppressed is why there is none though a condition was met.
	Suppressed fetch.Suppressed
	// RetryAfter is how long the upstream asked to wait; 0 if it did not.
	RetryAfter time.Duration
}

// Kind classes retries as urllib3 does, so that each can be bounded by itself.
type Kind string

// The kinds.
const (
	KindConnect Kind = "connect" // the upstream or the proxy was not reached
	KindRead    Kind = "read"    // the request was on its way, or the response
	KindStatus  Kind = "status"  // a response
	KindOther   Kind = "other"   // TLS, a refused stream
)

// Count adds one retry of the kind to made.
func (k Kind) Count(made *fetch.RetryCounts) {
	if n := k.of(made); n != nil {
		*n++
	}
}

func (k Kind) of(c *fetch.RetryCounts) *int {
	switch k {
	case KindConnect:
		return &c.Connect
	case KindRead:
		return &c.Read
	case KindStatus:
		return &c.Status
	case KindOther:
		return &c.Other
	}
	return nil
}

// Next decides what follows o. random returns numbers in [0,1); it makes the
// random part of the wait. Next asks in this order, and the first no stands:
//
//  1. Has the caller no head yet? Has a condition of the plan been met? If not,
//     there is nothing to suppress.
//  2. May the request be sent twice? It may if no byte of it left, or if its
//     method is one of the plan's; else NOT_IDEMPOTENT.
//  3. Can its body be sent twice? Else BODY.
//  4. Are there attempts left, and retries of this kind? Else MAX.
//  5. Is there time: for what Retry-After asks, up to the plan's most, for the
//     wait, and then for an attempt? Else DEADLINE.
//
// So the answer is MAX or DEADLINE only for what more attempts or more time
// would have let through. The retry budget is not asked.
func Next(plan fetch.RetryPlan, o Outcome, random func() float64) Verdict {
	if o.HeadPassed {
		return Verdict{}
	}
	asked, answered := o.asked()
	v := Verdict{RetryAfter: asked}
	if !met(plan, o, answered) {
		return v
	}
	v.Kind = kindOf(o.Failure)
	switch {
	case o.sent() && !repeatable(plan, o.Method):
		v.Suppressed = fetch.SuppressedNotIdempotent
		return v
	case !o.Rewindable:
		v.Suppressed = fetch.SuppressedBody
		return v
	case o.Attempt >= plan.MaxAttempts || usedUp(plan.Counts, o.Made, v.Kind):
		v.Suppressed = fetch.SuppressedMax
		return v
	}
	wait, ok := waitFor(plan, o.Attempt, asked, random)
	if !ok || o.Bounded && o.Left-wait < worthStarting {
		v.Suppressed = fetch.SuppressedDeadline
		return v
	}
	v.Again, v.Wait = true, wait
	return v
}

// asked is what the upstream says about when to come again, and whether it says
// anything that can be understood.
func (o Outcome) asked() (time.Duration, bool) {
	if o.Failure != nil {
		return max(0, o.Failure.RetryAfter), o.Failure.RetryAfter > 0
	}
	value, ok := fetch.Get(o.Head.Fields, "Retry-After")
	if !ok {
		return 0, false
	}
	return retryAfter(value, o.Now)
}

// sent tells whether the upstream may have seen the request. An earlier hop
// counts: another attempt begins with the first.
func (o Outcome) sent() bool {
	return o.Failure == nil || o.Failure.Sent != fetch.SentNo || o.Sent != fetch.SentNo
}

// idempotent are the methods of RFC 9110 section 9.2.2, without TRACE, which is
// never sent.
var idempotent = []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}

func repeatable(plan fetch.RetryPlan, method string) bool {
	methods := plan.Methods
	if methods == nil {
		methods = idempotent
	}
	return slices.Contains(methods, method)
}

func usedUp(most, made fetch.RetryCounts, k Kind) bool {
	limit := *k.of(&most)
	return limit >= 0 && *k.of(&made) >= limit
}

// kindOf goes by how far the attempt came. A stream refused is no error of
// reading: the upstream did not begin to answer.
func kindOf(f *fetch.Failure) Kind {
	switch {
	case f == nil:
		return KindStatus
	case refusedStream(f):
		return KindOther
	}
	switch f.Stage {
	case fetch.StageResolve, fetch.StageConnect, fetch.StageProxy:
		return KindConnect
	case fetch.StageSend, fetch.StageHead, fetch.StageBody, fetch.StageDecode:
		return KindRead
	}
	return KindOther
}

// waitFor is the wait before the attempt after this one, and whether the
// upstream asks for no more than the plan would wait. An upstream that asks for
// no wait at all gets the usual one.
func waitFor(plan fetch.RetryPlan, attempt int, asked time.Duration, random func() float64) (time.Duration, bool) {
	if plan.RespectRetryAfter && asked > 0 {
		return asked, asked <= plan.RetryAfterMax
	}
	wait := float64(plan.BackoffBase) * math.Pow(plan.BackoffFactor, float64(attempt-1))
	wait = min(wait, float64(plan.BackoffMax))
	if plan.BackoffJitter > 0 {
		wait *= 1 - plan.BackoffJitter*(1-random())
	}
	return time.Duration(wait), true
}
