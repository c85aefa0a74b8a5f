package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/redirect"
)

// arrived is a response whose body has not been read.
type arrived struct {
	resp  *fetch.Response
	url   string
	began time.Time
	// expected tells that the request expected 100 Continue.
	expected bool
	// written is the head as the upstream wrote it, with what resp does not show.
	written fetch.Head
}

// end closes the body and notes how long the hop took, the last of a.
func (g *arrived) end(a *fetch.Attempt) {
	g.resp.Body.Close()
	a.Hops[len(a.Hops)-1].Facts.Times.Total = time.Since(g.began)
}

// cut ends what is read of the body; Copy says why.
func (g *arrived) cut(error) { g.resp.Body.Cut() }

// hops goes from redirect to redirect until a response is final. Each hop is
// decided, dialed and given its cookies anew.
func (r *run) hops(ctx context.Context, a *fetch.Attempt) (*arrived, error) {
	next := redirect.Hop{
		Method: r.plan.Method, Destination: r.plan.Destination, Fields: r.plan.Fields, Trailers: r.plan.Trailers, Body: r.plan.Source != nil,
	}
	if len(r.plan.Credentials) > 0 {
		r.proving.dropped = map[int]bool{}
	}
	r.from, r.away = fetch.Origin{}, false
	redirects := 0
	for {
		got, err := r.hop(ctx, a, next)
		if err != nil {
			return nil, r.classed(ctx, err, a)
		}
		if r.isUnexpected(got) || r.isUnproved(got, next) {
			got.discard(maxDiscardTime)
			got.end(a)
			continue
		}
		if r.plan.Redirect.Max == 0 {
			return got, nil
		}
		following, err := redirect.Next(r.plan.Redirect, next, got.written)
		if err == nil && following != nil {
			err = r.withoutProof(following)
		}
		switch {
		case err == nil && following == nil:
			return got, nil
		case err == nil && redirects == r.plan.Redirect.Max:
			err = tooManyRedirects(a, *following, r.plan.Redirect.Max)
		}
		if err != nil {
			err = r.classed(ctx, r.withLast(err, got), a)
			got.end(a)
			return nil, err
		}
		r.before.add(prelude{head: got.resp.Head, url: got.url, hop: true})
		got.discard(maxDiscardTime)
		got.end(a)
		redirects++
		r.report.Redirects++
		r.from, next = next.Destination.Origin, *following
		r.away = r.away || next.Destination.Origin != r.plan.Destination.Origin
	}
}

// isUnexpected tells that the upstream answered 417 to the expectation, so that
// the request goes out again without it (RFC 9110 section 10.1.1), once in a
// fetch. A 417 to a verbatim request, or to one whose body cannot be sent again,
// is the answer.
func (r *run) isUnexpected(got *arrived) bool {
	if got.resp.Status != http.StatusExpectationFailed || !got.expected || r.plan.Verbatim {
		return false
	}
	b, err := r.plan.Source.Open()
	if err != nil {
		return false
	}
	r.reopened, r.unexpected = b, true
	return true
}

// tooManyRedirects is the failure of a chain that goes on beyond most. A chain
// that was where it leads is a loop.
func tooManyRedirects(a *fetch.Attempt, next redirect.Hop, most int) *fetch.Failure {
	for i := range a.Hops {
		if h := &a.Hops[i]; h.Method == next.Method && h.Destination.Origin == next.Destination.Origin && h.Destination.Target == next.Destination.Target {
			return fetch.Fail(fetch.ReasonRedirectLoop, fmt.Sprintf("after %d redirects the upstream leads to a URL again that it redirected before", most), nil)
		}
	}
	f := fetch.Fail(fetch.ReasonTooManyRedirects, fmt.Sprintf("the upstream redirects more than %d times; raise options.redirect.max_redirects, or set it to 0 to get the redirect itself", most), nil)
	f.LimitHit = &fetch.LimitHit{Limit: "max_redirects", Max: int64(most)}
	return f
}

// hop is one request and response: decide, send, note.
func (r *run) hop(ctx context.Context, a *fetch.Attempt, next redirect.Hop) (*arrived, error) {
	began := time.Now()
	a.Hops = append(a.Hops, fetch.Hop{Destination: next.Destination, Method: next.Method, Start: began})
	h := &a.Hops[len(a.Hops)-1]
	defer func() { h.Facts.Times.Total = time.Since(began) }()

	decision, wanted, err := r.permit(a, h, next)
	if err != nil {
		return nil, err
	}
	if a.Number == 1 {
		r.engine.budget.Sent(r.plan.Caller.Name, h.Destination.Origin)
	}
	req, err := r.request(next, decision, h, wanted)
	if err != nil {
		return nil, err
	}
	resp, err := r.exchange(ctx, h, next, decision, req)
	if err != nil {
		return nil, err
	}
	written := resp.Head
	r.unshow(h, resp)
	if !r.plan.Verbatim {
		r.jar.Store(h.Destination, resp.Fields, time.Now())
	}
	r.arrived = arrived{resp: resp, url: h.Destination.URL(), began: began, expected: req.ExpectContinue, written: written}
	return &r.arrived, nil
}

// permit asks policy about a hop, and takes note of what it says. It returns the
// credentials that go with the hop too; an error means that it does not go.
func (r *run) permit(a *fetch.Attempt, h *fetch.Hop, next redirect.Hop) (policy.Decision, []chosen, error) {
	ask := ask(r.plan, next, &r.jar, r.proving.dropped)
	decision := r.engine.policy.Decide(ask)
	h.Rule, r.report.Rule = decision.Rule, decision.Rule
	if decision.Denied == nil {
		decision.Denied = r.downgrade(next, decision)
	}
	if decision.Denied != nil {
		return decision, nil, decision.Denied
	}
	note(&r.report, r.plan, decision.Settings)
	r.response = r.report.Response
	wanted, dropped, denied := choose(r.plan, next, decision, r.newest(), r.chain(a))
	if h.Credentials = dropped; denied != nil {
		return decision, nil, denied
	}
	place := Place{Ask: ask, Needs: r.plan.Needs, Credentials: heldNames(wanted), Downgraded: r.isDowngrade(next)}
	if withdrawn := r.withdrawal.goes(r, place); withdrawn != nil {
		return decision, nil, withdrawn
	}
	h.WouldDeny, h.Open = decision.WouldDeny, decision.Open // it goes ahead
	return decision, wanted, nil
}

// exchange sends req, and takes note of what happened to it.
func (r *run) exchange(ctx context.Context, h *fetch.Hop, next redirect.Hop, decision policy.Decision, req *fetch.Request) (*fetch.Response, error) {
	var interim *interimHeads
	if r.plan.Response.Interim {
		interim = new(interimHeads)
		req.Interim = interim.add
	}
	resp, facts, err := r.engine.transport.RoundTrip(ctx, req)
	h.Facts, h.Dangerous = facts, decision.Dangerous(facts.Remote, r.isDowngrade(next))
	if err == nil {
		h.Status, r.left = resp.Status, true
		r.withdrawal.reached(r, facts.Remote)
	}
	if tooLarge := r.keepInterim(h, interim); err == nil && tooLarge != nil {
		resp.Body.Close()
		err = tooLarge
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// FirstHop is the report that a plan begins with where the rule of its first hop
// has the settings s.
func FirstHop(plan *fetch.Plan, s *fetch.RuleSettings) *fetch.Report {
	plan = s.Lead(plan)
	report := newReport(plan)
	note(&report, plan, s)
	return &report
}

// note puts what is in force on a hop into the report.
func note(report *fetch.Report, plan *fetch.Plan, s *fetch.RuleSettings) {
	const asked = "options.response.max_body_bytes"
	response, clamped := s.HopResponse(plan)
	report.Timeouts, report.Response = s.HopTimeouts(plan), response
	if clamped && !slices.Contains(report.Clamped, asked) {
		report.Clamped = append(slices.Clip(report.Clamped), asked)
	}
}

// isDowngrade tells that a redirect led from https to next over http, also where
// the hop goes out again after a 401 or a 417.
func (r *run) isDowngrade(next redirect.Hop) bool {
	return r.from.Scheme == "https" && next.Destination.Scheme == "http"
}

// downgrade denies a redirect from https to http that the rule of its target
// does not allow.
func (r *run) downgrade(next redirect.Hop, d policy.Decision) *fetch.Denied {
	if !r.isDowngrade(next) || d.AllowDowngrade {
		return nil
	}
	return &fetch.Denied{
		Reason: fetch.ReasonDestinationDenied, Rule: d.Rule,
		Message: "the redirect leads from https to http, where anybody on the way can read and change what is said",
		Hint:    "Ask the upstream's owner to redirect to https, or the policy's owner for dangerous_allow_downgrade.",
		Audit:   r.from.String() + " redirects to " + next.Destination.Origin.String(),
	}
}

// request is what to send for a hop.
func (r *run) request(next redirect.Hop, decision policy.Decision, h *fetch.Hop, wanted []chosen) (*fetch.Request, error) {
	route := fetch.Route{
		AddressProfile: decision.AddressProfile,
		TLS:            decision.Settings.HopTLS(r.plan),
		Version:        r.plan.Version,
		Allow:          decision.Allow,
		FilterMixed:    decision.FilterMixed,
		MaxDials:       r.plan.MaxDials,
	}
	d := next.Destination
	req := &fetch.Request{
		Method: next.Method, Scheme: d.Scheme, Host: d.Host, Port: d.Port, Target: []byte(d.Target),
		Fields: r.fields(next, decision), Route: route, Timeouts: decision.Settings.HopTimeouts(r.plan),
		Fresh: r.plan.Fresh || r.fresh, CloseAfter: r.plan.CloseAfter,
		Verbatim: r.plan.Verbatim, KeepChunks: r.plan.Response.KeepChunks,
	}
	if err := r.prove(req, h, wanted); err != nil {
		return nil, err
	}
	req.Route.Partition = r.partition(req, decision) + provedPartition(r.plan.Caller, wanted)
	req.Route = req.Route.Sealed(d.Origin)
	r.takenBefore = r.bodyTaken.Load()
	if r.plan.Source == nil || !next.Body {
		return req, nil
	}
	b, err := r.open()
	if err != nil {
		return nil, err
	}
	req.Body, req.Length = &countedBody{ReadCloser: b, n: &r.bodyTaken}, r.plan.Source.Length()
	trailers := next.Trailers
	if !r.plan.Verbatim {
		trailers = decision.Settings.Trailers(trailers)
	}
	req.Framing = fetch.FramingLength
	if req.Length < 0 || len(trailers) > 0 {
		req.Framing = fetch.FramingChunked
	}
	req.ExpectContinue = r.plan.ExpectContinue && !r.unexpected
	r.addTrailers(req, trailers)
	return req, nil
}

// open returns the body of the next hop.
func (r *run) open() (io.ReadCloser, error) {
	if b := r.reopened; b != nil {
		r.reopened = nil
		return b, nil
	}
	return r.plan.Source.Open()
}

// addTrailers has trailers go out behind the body of req.
func (r *run) addTrailers(req *fetch.Request, trailers []fetch.Field) {
	if len(trailers) == 0 {
		return
	}
	req.Trailers = func() []fetch.Field { return trailers }
	req.TrailerNames = fetch.FieldNames(trailers)
}

// fields are those of the hop, with the cookies of the jar behind the caller's
// own, the trace where the rule says so, and what the rule sets and removes. A
// verbatim request goes out as it is.
func (r *run) fields(next redirect.Hop, decision policy.Decision) []fetch.Field {
	fields := next.Fields
	if r.plan.Verbatim {
		return fields
	}
	if cookies := r.jar.Value(next.Destination, time.Now()); cookies != nil {
		fields = withCookies(fields, cookies)
	}
	if decision.SendTraceparent && r.plan.Traceparent != "" {
		if _, given := fetch.Get(fields, "traceparent"); !given {
			fields = append(slices.Clip(fields), fetch.Field{Name: "traceparent", Value: []byte(r.plan.Traceparent)})
		}
	}
	return decision.Settings.Fields(fields)
}

// withCookies adds cookies to the Cookie field: there is one (RFC 6265 section
// 5.4).
func withCookies(fields []fetch.Field, cookies []byte) []fetch.Field {
	for i, f := range fields {
		if strings.EqualFold(f.Name, "Cookie") {
			fields = slices.Clone(fields)
			fields[i].Value = slices.Concat(f.Value, []byte("; "), cookies)
			return fields
		}
	}
	return append(slices.Clip(fields), fetch.Field{Name: "Cookie", Value: cookies})
}

// partition keeps the connections of a caller's verbatim requests, those of an
// affinity, those of a rule that says so and those that a request logs in apart
// from all others.
func (r *run) partition(req *fetch.Request, decision policy.Decision) string {
	switch {
	case r.plan.Affinity != "":
		return r.plan.Caller.Name + "\x00" + r.plan.Affinity
	case fetch.HasLogin(req.Fields, "Authorization"):
		return r.plan.Caller.Name + "\x00\x00login"
	case r.plan.Verbatim, decision.IsolateCaller:
		return r.plan.Caller.Name
	}
	return ""
}

// countedBody counts the bytes of a request body that a transport took.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// Len is how many bytes can be read without waiting; 0 where that is not known.
func (c *countedBody) Len() int {
	if b, ok := c.ReadCloser.(interface{ Len() int }); ok {
		return b.Len()
	}
	return 0
}
