package fetch

import (
	"net/netip"
	"time"
)

// Report is what was done: it comes back also on failure, and logs, metrics
// and spans are written from it.
type Report struct {
	ID     string
	RPC    string
	Caller Caller
	Labels map[string]string
	// Traceparent is the caller's trace, or empty.
	Traceparent string
	Method      string
	Destination Destination
	Start       time.Time
	Total       time.Duration

	Outcome Outcome
	// Failure is why it failed, with OutcomeFailure; Denied what policy said,
	// with OutcomeDenied.
	Failure *Failure
	Denied  *Denied
	// Code is the RPC's status code as gRPC spells it, "OK". Refusal is the
	// word of an RPC error: "FIELD_INVALID".
	Code    string
	Refusal string
	// RefusalMessage is what the RPC error says. It names fields of the request
	// and never holds what is in them.
	RefusalMessage string

	Attempts []Attempt
	// WireBytes are the body bytes that came from the upstream, as they were
	// on the wire without HTTP framing; BodyBytes those that went to the caller.
	WireBytes int64
	BodyBytes int64
	// RequestBytes are the body bytes of the request that left.
	RequestBytes int64
	// Codings are the content codings that were undone, outermost first.
	Codings []string
	// Trailers are the trailer fields of the final response.
	Trailers []Field
	// Cookies are those that the jar holds at the end.
	Cookies []Cookie
	// Suppressed is why no further attempt was made though it was due.
	Suppressed Suppressed
	// Redirects counts the redirects that were followed, HistoryCut the heads
	// before the final one that were left out for their size.
	Redirects, HistoryCut int

	Rule       string
	Generation int64
	Clamped    []string
	Timeouts   Timeouts
	Response   ResponsePlan
	Throughput Throughput
	// MaxAttempts and MaxRedirects are the plan's.
	MaxAttempts, MaxRedirects int
	// Full tells that the attempts and hops were asked for.
	Full bool
}

// Attempt is one try at the whole request; the first is number 1.
type Attempt struct {
	Number int
	Start  time.Time
	Total  time.Duration
	Hops   []Hop
	// Wait is how long the attempt waited before it started.
	Wait    time.Duration
	Failure *Failure
}

// Hop is one request and response with one origin.
type Hop struct {
	Start       time.Time
	Destination Destination
	Method      string
	Rule        string
	// WouldDeny is why rules deny the hop, which goes ahead since their mode is
	// "report"; else nil. Open tells that it goes ahead whatever rules say.
	WouldDeny *Denied
	Open      bool
	// Dangerous are the names of the dangerous_ settings that the hop needed. It
	// is not to be changed.
	Dangerous []string
	// Credentials are those that were applied or dropped.
	Credentials []CredentialUse
	// Echoes are the names of those whose secret the upstream showed in what it
	// said before the body, or behind it.
	Echoes []string
	// Status is 0 when no head came.
	Status int
	Facts  Facts
}

// Remote returns the address of the last connection used, if any.
func (r *Report) Remote() netip.AddrPort {
	if h := r.LastHop(); h != nil {
		return h.Facts.Remote
	}
	return netip.AddrPort{}
}

// LastHop returns the last hop of the last attempt, or nil when there is none.
func (r *Report) LastHop() *Hop {
	for i := len(r.Attempts) - 1; i >= 0; i-- {
		if n := len(r.Attempts[i].Hops); n > 0 {
			return &r.Attempts[i].Hops[n-1]
		}
	}
	return nil
}

// Hops returns the number of hops over all attempts.
func (r *Report) Hops() int {
	n := 0
	for _, a := range r.Attempts {
		n += len(a.Hops)
	}
	return n
}
