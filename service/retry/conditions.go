package retry

import (
	"slices"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// DefaultConditions are those of a request or a rule that names none.
const DefaultConditions = fetch.RetryOnConnectFailure | fetch.RetryOnRefusedStream | fetch.RetryOnReset | fetch.RetryOnGatewayError

// condition is a reason for another attempt: how it is written, and what meets
// it. Whether the request may be sent again at all is not its question.
type condition struct {
	bit fetch.RetryConditions
	// word is how a configuration spells it: as Envoy does, where it means the
	// same.
	word string
	name fetchgatev1.RetryCondition
	// failure and response tell what meets it; nil means that none does.
	failure  func(*fetch.Failure) bool
	response func(fetch.RetryPlan, answer) bool
}

// answer is a response, and whether it says in Retry-After when to come again.
type answer struct {
	head       fetch.Head
	retryAfter bool
}

// conditions holds every condition once, in the order of the contract. A failure
// that none names is never tried again here, though it may pass with time: an
// open breaker, a quota or a missing credential is not mended by asking at once.
var conditions = []condition{
	{fetch.RetryOnConnectFailure, "connect-failure", fetchgatev1.RetryCondition_RETRY_CONDITION_CONNECT_FAILURE, notConnected, nil},
	{fetch.RetryOnRefusedStream, "refused-stream", fetchgatev1.RetryCondition_RETRY_CONDITION_REFUSED_STREAM, refusedStream, nil},
	{fetch.RetryOnReset, "reset", fetchgatev1.RetryCondition_RETRY_CONDITION_RESET, reset, nil},
	{fetch.RetryOn5xx, "5xx", fetchgatev1.RetryCondition_RETRY_CONDITION_FIVE_XX, reset,
		func(_ fetch.RetryPlan, a answer) bool { return a.head.Status >= 500 && a.head.Status <= 599 }},
	{fetch.RetryOnGatewayError, "gateway-error", fetchgatev1.RetryCondition_RETRY_CONDITION_GATEWAY_ERROR, nil,
		func(_ fetch.RetryPlan, a answer) bool { return a.head.Status >= 502 && a.head.Status <= 504 }},
	{fetch.RetryOnRetriable4xx, "retriable-4xx", fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_4XX, nil,
		func(_ fetch.RetryPlan, a answer) bool { return a.head.Status == 409 }},
	{fetch.RetryOnStatuses, "retriable-status-codes", fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_STATUS_CODES, nil,
		func(p fetch.RetryPlan, a answer) bool { return slices.Contains(p.Statuses, a.head.Status) }},
	{fetch.RetryOnFields, "retriable-headers", fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_HEADERS, nil, hasField},
	{fetch.RetryOnTimeout, "timeout", fetchgatev1.RetryCondition_RETRY_CONDITION_TIMEOUT, timedOut, nil},
	{fetch.RetryOnRetryAfter, "retry-after", fetchgatev1.RetryCondition_RETRY_CONDITION_RETRY_AFTER, nil, asksForRetry},
}

// Condition returns the condition that word spells in a configuration
// ("connect-failure"), and false if there is none.
func Condition(word string) (fetch.RetryConditions, bool) {
	for _, c := range conditions {
		if c.word == word {
			return c.bit, true
		}
	}
	return 0, false
}

// Words returns the words of all conditions, in the order of the contract.
func Words() []string {
	words := make([]string, len(conditions))
	for i, c := range conditions {
		words[i] = c.word
	}
	return words
}

// met tells whether a condition of p holds for o.
func met(p fetch.RetryPlan, o Outcome, retryAfter bool) bool {
	return slices.ContainsFunc(conditions, func(c condition) bool {
		switch {
		case p.Conditions&c.bit == 0:
			return false
		case o.Failure != nil:
			return c.failure != nil && c.failure(o.Failure)
		}
		return c.response != nil && c.response(p, answer{o.Head, retryAfter})
	})
}

// notConnected: there was no connection that took a byte of the request, and
// there may be one a little later. A name that does not exist and a certificate
// that is wrong stay so, and who waited in vain for a connection of the pool
// would only queue for longer than the pool timeout says.
func notConnected(f *fetch.Failure) bool {
	if f.Sent != fetch.SentNo {
		return false
	}
	switch f.Reason {
	case fetch.ReasonResolverFailed, fetch.ReasonResolveTimeout,
		fetch.ReasonConnectRefused, fetch.ReasonConnectUnreachable, fetch.ReasonConnectTimeout, fetch.ReasonTooManyDials,
		fetch.ReasonProxyConnect, fetch.ReasonTLSTimeout,
		fetch.ReasonDisconnected, fetch.ReasonConnectionReset:
		return true
	}
	return false
}

// refusedStream: HTTP/2 proves that the upstream did not look at the request
// (RFC 9113 section 8.7), which only the transport can read off its frames.
func refusedStream(f *fetch.Failure) bool {
	return f.Sent == fetch.SentNo && (f.Reason == fetch.ReasonStreamReset || f.Reason == fetch.ReasonProtocolError)
}

// reset: the connection or stream went away before the response head. Broken
// rules of HTTP are not among it: what breaks them once does so again.
func reset(f *fetch.Failure) bool {
	if f.Stage == fetch.StageBody || f.Stage == fetch.StageDecode {
		return false
	}
	switch f.Reason {
	case fetch.ReasonDisconnected, fetch.ReasonConnectionReset, fetch.ReasonStreamReset, fetch.ReasonWriteFailed:
		return true
	}
	return false
}

func timedOut(f *fetch.Failure) bool {
	return f.Reason == fetch.ReasonAttemptTimeout || f.Reason == fetch.ReasonHeadTimeout
}

func hasField(p fetch.RetryPlan, a answer) bool {
	return slices.ContainsFunc(p.Fields, func(name string) bool {
		_, ok := fetch.Get(a.head.Fields, name)
		return ok
	})
}

// asksForRetry: the statuses are those that urllib3 retries for the field's sake.
func asksForRetry(_ fetch.RetryPlan, a answer) bool {
	return a.retryAfter && (a.head.Status == 413 || a.head.Status == 429 || a.head.Status == 503)
}
