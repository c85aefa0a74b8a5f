package fetch

import "time"

// RetryPlan says when another attempt is made, with nothing left to default.
type RetryPlan struct {
	// MaxAttempts is the most attempts, the first included; at least 1.
	MaxAttempts int
	Conditions  RetryConditions
	// Statuses are those of RetryOnStatuses, Fields the field names of
	// RetryOnFields.
	Statuses []int
	Fields   []string
	// Methods may be sent again after bytes of the request left; nil means the
	// idempotent ones (RFC 9110 section 9.2.2).
	Methods []string
	// Counts are the most retries of each kind; below zero means that only
	// MaxAttempts counts.
	Counts RetryCounts

	// The wait before attempt n+1 is BackoffBase × BackoffFactor^(n-1), at most
	// BackoffMax; the part BackoffJitter of it, 0 to 1, is random.
	BackoffBase   time.Duration
	BackoffMax    time.Duration
	BackoffFactor float64
	BackoffJitter float64
	// RespectRetryAfter has Retry-After replace the wait (RFC 9110 section
	// 10.2.3), up to RetryAfterMax; what asks for more is not tried again.
	RespectRetryAfter bool
	RetryAfterMax     time.Duration
	// FailWhenExhausted has the failure RETRIES_EXHAUSTED take the place of the
	// last outcome.
	FailWhenExhausted bool
}

// RetryCounts are numbers of retries by kind.
type RetryCounts struct{ Connect, Read, Status, Other int }

// RetryConditions is a set of reasons for another attempt.
type RetryConditions uint16

// The conditions. The contract says what each means.
const (
	RetryOnConnectFailure RetryConditions = 1 << iota
	RetryOnRefusedStream
	RetryOnReset
	RetryOn5xx
	RetryOnGatewayError
	RetryOnRetriable4xx
	RetryOnStatuses
	RetryOnFields
	RetryOnTimeout
	RetryOnRetryAfter
)

// Suppressed says why a retry was not made though a condition for it was met;
// empty means that none was.
type Suppressed string

// Why a retry was not made, as the contract spells it.
const (
	SuppressedBudget        Suppressed = "BUDGET"
	SuppressedDeadline      Suppressed = "DEADLINE"
	SuppressedNotIdempotent Suppressed = "NOT_IDEMPOTENT"
	SuppressedBody          Suppressed = "BODY"
	SuppressedMax           Suppressed = "MAX"
)

// RetryBudget bounds the retries of all fetches of one caller to one origin, so
// that an upstream in trouble is not given more work. It is safe for concurrent
// use.
type RetryBudget interface {
	// Sent notes one request of a first attempt to o.
	Sent(caller string, o Origin)
	// Take takes a retry towards o out of the budget; false means that it is
	// used up.
	Take(caller string, o Origin) bool
}
