package telemetry

import (
	"crypto/tls"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// reasonOf is the word of why a fetch gave no response, or empty.
func reasonOf(r *fetch.Report) string {
	switch {
	case r.Denied != nil:
		return string(r.Denied.Reason)
	case r.Failure != nil:
		return string(r.Failure.Reason)
	}
	return r.Refusal
}

// denialOf is what policy said no with, on whichever hop, or nil.
func denialOf(r *fetch.Report) *fetch.Denied {
	if r.Denied == nil && r.Failure != nil {
		return r.Failure.Denial
	}
	return r.Denied
}

// wouldDenyOf is what rules said no with about a hop that went ahead all the same,
// the first of them, or nil.
func wouldDenyOf(r *fetch.Report) *fetch.Denied {
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			if d := r.Attempts[i].Hops[j].WouldDeny; d != nil {
				return d
			}
		}
	}
	return nil
}

// isAllowed tells that policy was asked about every hop and denied none, whether
// or not the denial was carried out.
func isAllowed(r *fetch.Report) bool {
	return denialOf(r) == nil && r.LastHop() != nil && wouldDenyOf(r) == nil
}

// isEnforced tells that what policy says of every hop is what was done.
func isEnforced(r *fetch.Report) bool {
	if r.Denied != nil {
		return true
	}
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			if h := &r.Attempts[i].Hops[j]; h.Open || h.WouldDeny != nil {
				return false
			}
		}
	}
	return true
}

// decided is the place among decisions of what policy said: wouldDeny where it would
// have denied and was not enforced, deny where it denied or was never asked.
func decided(isAllowed, isDenied, isEnforced bool) int {
	switch {
	case isAllowed:
		return allow
	case !isDenied && !isEnforced:
		return wouldDeny
	}
	return deny
}

// isCarriedOut tells that fetchgate set out to do the fetch, with whatever
// success.
func isCarriedOut(r *fetch.Report) bool {
	switch r.Outcome {
	case fetch.OutcomeResponse, fetch.OutcomeFailure:
		return true
	case fetch.OutcomeCanceled:
		return r.LastHop() != nil
	}
	return false
}

// isBegun tells that a transport had the hop: policy allowed it by name.
func isBegun(h *fetch.Hop) bool {
	f := &h.Facts
	return f.Stage != fetch.StageUnspecified || h.Status != 0 || f.Dials > 0 || f.Reused
}

// ruleOf is the rule that decided last, or empty.
func ruleOf(r *fetch.Report) string {
	if d := denialOf(r); d != nil && d.Rule != "" {
		return d.Rule
	}
	if d := wouldDenyOf(r); d != nil {
		return d.Rule
	}
	return r.Rule
}

// sentOf tells whether bytes of the request left.
func sentOf(r *fetch.Report) fetch.RequestSent {
	if f := r.Failure; f != nil && f.Sent != "" {
		return f.Sent
	}
	last := r.LastHop()
	switch {
	case last == nil || r.Denied != nil:
		return fetch.SentNo
	case last.Status != 0 || last.Facts.Sent > 0:
		return fetch.SentYes
	case r.Outcome == fetch.OutcomeCanceled:
		return fetch.SentUnknown
	}
	return fetch.SentNo
}

// blameOf is who must act, or empty.
func blameOf(r *fetch.Report) fetch.Blame {
	switch {
	case r.Denied != nil:
		return fetch.BlamePolicy
	case r.Failure != nil:
		return r.Failure.Blame
	}
	return ""
}

// times are the sums over all hops.
func times(r *fetch.Report) fetch.Timings {
	var sum fetch.Timings
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			t := &r.Attempts[i].Hops[j].Facts.Times
			sum.Pool += t.Pool
			sum.DNS += t.DNS
			sum.Connect += t.Connect
			sum.TLS += t.TLS
			sum.FirstByte += t.FirstByte
		}
	}
	return sum
}

// tlsVersion spells a version of TLS as audit records and spans do: "1.3".
func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	}
	return ""
}
