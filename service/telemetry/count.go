package telemetry

import (
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Scope says whose fetches a limit bounds.
type Scope string

// The scopes.
const (
	ScopeCaller Scope = "caller"
	ScopePeer   Scope = "peer"
	ScopeOrigin Scope = "origin"
	ScopeServer Scope = "server"
	// ScopeRequest is of a limit that the request set itself.
	ScopeRequest Scope = "request"
)

// The places of values that are counted without a look-up.
var (
	up, down     = directions.place("up"), directions.place("down")
	allow, deny  = decisions.place("allow"), decisions.place("deny")
	wouldDeny    = decisions.place("would_deny")
	first, retry = attemptKinds.place("first"), attemptKinds.place("retry")
	responded    = outcomes.place(string(fetch.OutcomeResponse))
	failed       = outcomes.place(string(fetch.OutcomeFailure))
	denied       = outcomes.place(string(fetch.OutcomeDenied))
	canceled     = outcomes.place(string(fetch.OutcomeCanceled))
	noReason     = reasons.place(none)
	followed     = redirections.place("followed")
	refused      = redirections.place("refused")
	returned     = redirections.place("returned")
	miss         = lookupResults.place("miss")
	negative     = lookupResults.place("negative")
	unresolved   = lookupResults.place("error")
	reloaded     = reloadResults.place("success")
	notReloaded  = reloadResults.place("failure")
	stageWait    = stages.place("wait")
	stageResolve = stages.place("resolve")
	stageConnect = stages.place("connect")
	stageTLS     = stages.place("tls")
	stageSend    = stages.place("send")
	stageHead    = stages.place("head")
	stageBody    = stages.place("body")
)

// suppressionWords are the places of reasons as the report spells them.
var suppressionWords = func() map[fetch.Suppressed]int {
	m := map[fetch.Suppressed]int{}
	for place, word := range suppressions.values {
		m[fetch.Suppressed(strings.ToUpper(word))] = place
	}
	return m
}()

// count counts a fetch that ended.
func (m *metrics) count(n *names, r *fetch.Report) {
	rpc, outcome := rpcs.place(r.RPC), outcomes.place(string(r.Outcome))
	m.inFlight.at(rpc).Dec()
	m.fetches.at(rpc, outcome, reasonPlace(reasonOf(r))).Inc()
	m.fetchTime.at(rpc, outcome).Observe(r.Total.Seconds())

	caller := n.caller(r.Caller.Name, r.Caller.Anonymous)
	n.callerFetches.at(caller, outcome).Inc()
	n.callerBytes.at(caller, up).Add(float64(r.RequestBytes))
	n.callerBytes.at(caller, down).Add(float64(r.BodyBytes))

	if d := denialOf(r); d != nil && d.Reason == fetch.ReasonAddressDenied {
		m.denials.at(addressKinds.place(d.Class)).Inc()
	}
	if f := r.Failure; f != nil && f.LimitHit != nil {
		scope := ScopeServer
		if f.Reason == fetch.ReasonBodyTooLarge {
			scope = ScopeRequest
		}
		m.rejections.at(limitNames.place(f.LimitHit.Limit), limitScopes.place(string(scope))).Inc()
	}
	if r.Suppressed != "" {
		place, known := suppressionWords[r.Suppressed]
		if !known {
			place = suppressions.rest
		}
		m.suppressed.at(place).Inc()
	}
	m.countRedirects(r)
	if r.Denied != nil && r.Hops() == 0 {
		n.decisions.at(n.rules.place(r.Denied.Rule), deny).Inc()
	}
	for i := range r.Attempts {
		m.countAttempt(n, r, i)
	}
}

// reasonPlace is the place of a reason's word; no reason is none.
func reasonPlace(word string) int {
	if word == "" {
		return noReason
	}
	return reasons.place(word)
}

func (m *metrics) countRedirects(r *fetch.Report) {
	if r.Redirects > 0 {
		m.redirects.at(followed).Add(float64(r.Redirects))
	}
	last := r.LastHop()
	switch {
	case last == nil:
	case r.Failure == nil && isRedirect(last.Status):
		m.redirects.at(returned).Inc()
	case r.Failure != nil && (isRedirect(last.Status) || r.Failure.Denial != nil && len(r.Attempts[len(r.Attempts)-1].Hops) > 1):
		m.redirects.at(refused).Inc()
	}
}

// isRedirect tells that a status leads elsewhere (RFC 9110 section 15.4).
func isRedirect(status int) bool {
	switch status {
	case 301, 302, 303, 307, 308:
		return true
	}
	return false
}

// countAttempt counts attempt i of r. What went wrong with it went wrong with
// its last hop.
func (m *metrics) countAttempt(n *names, r *fetch.Report, i int) {
	a := &r.Attempts[i]
	kind := first
	if i > 0 {
		kind = retry
	}
	m.attempts.at(kind, attemptResult(r, i)).Inc()
	for j := range a.Hops {
		isLast, asRuled := j == len(a.Hops)-1, a.Hops[j].WouldDeny == nil
		reason := fetch.Reason("")
		if isLast && a.Failure != nil {
			reason = a.Failure.Reason
		}
		isNo := isLast && isDenied(r, i)
		n.decisions.at(n.rules.place(a.Hops[j].Rule), decided(asRuled && !isNo, isNo, asRuled)).Inc()
		m.countHop(n, &a.Hops[j], reason)
	}
}

// isDenied tells that policy ended attempt i of r.
func isDenied(r *fetch.Report, i int) bool {
	if f := r.Attempts[i].Failure; f != nil && f.Denial != nil {
		return true
	}
	return r.Denied != nil && i == len(r.Attempts)-1
}

// attemptResult is the place of how attempt i of r ended.
func attemptResult(r *fetch.Report, i int) int {
	a := &r.Attempts[i]
	switch {
	case isDenied(r, i):
		return denied
	case r.Outcome == fetch.OutcomeCanceled && i == len(r.Attempts)-1:
		return canceled
	case a.Failure != nil:
		return failed
	case len(a.Hops) > 0 && a.Hops[len(a.Hops)-1].Status != 0:
		return responded
	}
	return failed
}

// countHop counts a hop, as a request if it was begun.
func (m *metrics) countHop(n *names, h *fetch.Hop, reason fetch.Reason) {
	m.countStages(h, reason)
	n.countCredentials(h)
	if !isBegun(h) {
		return
	}
	f := &h.Facts
	to := n.origins.of(h.Destination.Origin)
	class := 0 // none
	if h.Status >= 100 && h.Status < 600 {
		class = h.Status / 100
	}
	n.requests.at(to, class, reasonPlace(string(reason))).Inc()
	n.requestTime.at(to).Observe(f.Times.Total.Seconds())
	if f.Protocol == "" {
		return // no connection came to be: a dial or a handshake failed
	}
	reused := 0 // false
	if f.Reused {
		reused = 1
	} else {
		n.opened.at(to).Inc()
	}
	n.reuse.at(to, reused).Inc()
	if t := f.TLS; t != nil && !f.Reused && to != n.origins.rest && !t.NotAfter.IsZero() {
		n.notAfter.at(to).Set(float64(t.NotAfter.Unix()))
	}
}

func (m *metrics) countStages(h *fetch.Hop, reason fetch.Reason) {
	t := &h.Facts.Times
	m.stage(stageWait, t.Pool)
	m.stage(stageResolve, t.DNS)
	m.stage(stageConnect, t.Connect)
	m.stage(stageTLS, t.TLS)
	m.stage(stageSend, t.Send)
	m.stage(stageHead, t.FirstByte)
	if h.Status != 0 {
		m.stage(stageBody, t.Total-t.Pool-t.DNS-t.Connect-t.TLS-t.Send-t.FirstByte)
	}
	if t.DNS == 0 {
		return
	}
	m.lookupTime.Observe(t.DNS.Seconds())
	switch reason {
	case fetch.ReasonNameNotFound:
		m.lookups.at(negative).Inc()
	case fetch.ReasonResolverFailed, fetch.ReasonResolveTimeout:
		m.lookups.at(unresolved).Inc()
	default:
		m.lookups.at(miss).Inc()
	}
}

func (m *metrics) stage(place int, took time.Duration) {
	if took > 0 {
		m.stageTime.at(place).Observe(took.Seconds())
	}
}
