package engine

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/redirect"
)

// chosen is a credential that goes with a hop.
type chosen struct {
	fetch.Credential
	byRule bool
}

// proving is what a fetch knows of its credentials.
type proving struct {
	// dropped are the places of the request's own that this attempt has dropped:
	// an upstream that led away does not get to say with what to come back.
	dropped map[int]bool
	// sent are the proofs of the last hop, in the order of its credentials.
	sent []sentProof
	// shown are the proofs of credentials of the server that upstreams have got.
	shown []fetch.Proof
	// names are those of their credentials.
	names map[fetch.Proof]string
	// others are the proofs that are tried since an origin answered 401.
	others map[tried]fetch.Proof
}

// tried is a credential of the server at an origin.
type tried struct {
	name string
	at   fetch.Origin
}

// sentProof is a credential with the proof that a hop went with.
type sentProof struct {
	fetch.Credential
	proof fetch.Proof
}

// Credentials returns those that the first hop of plan goes with, and why policy
// denies it for them, if it does. Run asks the same for each hop.
func Credentials(plan *fetch.Plan, d policy.Decision) ([]fetch.CredentialUse, *fetch.Denied) {
	first := redirect.Hop{
		Method: plan.Method, Destination: plan.Destination, Fields: plan.Fields, Trailers: plan.Trailers, Body: plan.Source != nil,
	}
	list, uses, denied := choose(plan, first, d, nil, chain{isFirst: true})
	for _, c := range list {
		uses = append(uses, fetch.CredentialUse{Name: c.Name(), Kind: c.Kind(), ByRule: c.byRule})
	}
	return uses, denied
}

// choose returns the credentials that go with a hop, and what is dropped: of the
// request's own and the rule's each within its binding. Out of it, the request's
// deny the first hop. What newest, the credentials of a newer configuration, does
// not have or binds elsewhere is out of its binding too; nil leaves that out.
func choose(plan *fetch.Plan, next redirect.Hop, d policy.Decision, newest fetch.Credentials, before chain) (list []chosen, left []fetch.CredentialUse, denied *fetch.Denied) {
	for i, c := range plan.Credentials {
		fits := !before.dropped[i] && fits(plan, newest, c, next)
		if !fits && before.isFirst {
			return nil, nil, outOfBinding(c, next, d)
		}
		if !fits {
			before.dropped[i] = true
			left = append(left, fetch.CredentialUse{Name: c.Name(), Kind: c.Kind(), Dropped: true})
			continue
		}
		list = append(list, chosen{Credential: c})
	}
	for _, name := range d.Credentials {
		c := named(plan, name)
		switch {
		case c == nil: // refused at load
		case slices.ContainsFunc(list, func(own chosen) bool { return own.Name() == name }):
		case !before.brings(name), !fits(plan, newest, c, next):
			left = append(left, fetch.CredentialUse{Name: name, Kind: c.Kind(), Dropped: true, ByRule: true, Foreign: !c.For(plan.Caller)})
		default:
			list = append(list, chosen{c, true})
		}
	}
	next.Fields, next.Trailers = d.Settings.Kept(next.Fields), d.Settings.Trailers(next.Trailers)
	for i, c := range list {
		why := conflict(plan, next, list[:i], c)
		if why == "" && d.Settings.Sets(c.Place().Field) {
			why = "the rule sets it in set_fields too"
		}
		if why != "" {
			return nil, left, overridden(c, d, why)
		}
	}
	return list, left, nil
}

// chain is what the hops before have to do with the credentials of a hop.
type chain struct {
	isFirst bool
	// away tells that a redirect has led to another origin than the request's.
	away bool
	// dropped are the places of the request's own that have been dropped.
	dropped map[int]bool
	// sent are those that the hop before went with.
	sent []sentProof
}

// chain is that of the hop that has just begun in a.
func (r *run) chain(a *fetch.Attempt) chain {
	return chain{isFirst: len(a.Hops) == 1, away: r.away, dropped: r.proving.dropped, sent: r.proving.sent}
}

// brings tells that a credential that a rule applies may go with the hop: an
// upstream that leads to another origin must not choose what is said there in
// the caller's name. It goes on where the hop before went with it.
func (c chain) brings(name string) bool {
	return !c.away || slices.ContainsFunc(c.sent, func(s sentProof) bool { return s.Name() == name })
}

// fits tells that c may go with a hop, by newest too if the server holds it.
func fits(plan *fetch.Plan, newest fetch.Credentials, c fetch.Credential, next redirect.Hop) bool {
	if !c.Fits(plan.Caller, next.Method, next.Destination) {
		return false
	}
	if newest == nil || c.Name() == "" {
		return true
	}
	now := newest.Named(c.Name())
	return now != nil && now.Fits(plan.Caller, next.Method, next.Destination)
}

// heldNames are the names of those of list that the server holds.
func heldNames(list []chosen) (names []string) {
	for _, c := range list {
		if c.Name() != "" {
			names = append(names, c.Name())
		}
	}
	return names
}

// named is a credential that the server holds, or nil.
func named(plan *fetch.Plan, name string) fetch.Credential {
	if plan.Held == nil {
		return nil
	}
	return plan.Held.Named(name)
}

// maxShownPath is how much of a path is shown: a status goes into a header field.
const maxShownPath = 256

func outOfBinding(c fetch.Credential, next redirect.Hop, d policy.Decision) *fetch.Denied {
	hint := "Ask the owner of the policy which credential serves this origin, method and path."
	if next.Destination.Scheme != "https" {
		hint = "What the server holds goes over https alone, to this machine too; write https://."
	}
	return &fetch.Denied{
		Reason: fetch.ReasonCredentialOutOfBinding, Rule: d.Rule,
		Message: fmt.Sprintf("the credential %q is not bound to %s %s%s", c.Name(), next.Method, next.Destination.Origin, fetch.Escape([]byte(next.Destination.Path()), maxShownPath)),
		Hint:    hint,
	}
}

// verbatimAddsNothing is why a verbatim request has no credential written into it.
const verbatimAddsNothing = "options.verbatim adds nothing"

// conflict says what of the request stands where c is to be written; empty if
// nothing does.
func conflict(plan *fetch.Plan, next redirect.Hop, before []chosen, c chosen) string {
	place := c.Place()
	for _, other := range before {
		if o := other.Place(); o == place || o.Field != "" && strings.EqualFold(o.Field, place.Field) {
			return "another credential writes it too"
		}
	}
	switch {
	case place.Certificate:
		return ""
	case plan.Verbatim:
		return verbatimAddsNothing
	case place.Param != "" && credential.HasParam(next.Destination.RawQuery(), place.Param):
		return "the request has one of its own"
	case place.Field != "" && (hasField(next.Fields, place.Field) || next.Body && hasField(next.Trailers, place.Field)):
		return "the request has one of its own"
	}
	return ""
}

// hasField tells that fields have one of that name for some server.
func hasField(fields []fetch.Field, name string) bool {
	return slices.ContainsFunc(fields, func(f fetch.Field) bool { return fetch.Alike(f.Name, name) })
}

// overridden denies a request that has what a credential is to write.
func overridden(c chosen, d policy.Decision, why string) *fetch.Denied {
	by := fmt.Sprintf("the rule %q", d.Rule)
	if !c.byRule {
		by = "a credential of the request"
	}
	hint := "Leave it out of the request: nothing overrides a credential."
	if why == verbatimAddsNothing {
		hint = "Leave options.verbatim out: what is sent here needs the credential."
	}
	return &fetch.Denied{
		Reason: fetch.ReasonDestinationDenied, Rule: d.Rule,
		Message: fmt.Sprintf("%s writes %s, and %s", by, c.Place(), why), Hint: hint,
	}
}

// prove writes the credentials into req, and notes them.
func (r *run) prove(req *fetch.Request, h *fetch.Hop, list []chosen) error {
	r.proving.sent = r.proving.sent[:0]
	for _, c := range list {
		proof := c.Proof(h.Destination.Origin)
		if other := r.proving.others[tried{c.Name(), h.Destination.Origin}]; other != nil && c.Name() != "" {
			proof = other
		}
		if err := proof.Apply(req); err != nil {
			return err
		}
		r.proving.sent = append(r.proving.sent, sentProof{c.Credential, proof})
		r.proving.show(c.Name(), proof)
		h.Credentials = append(h.Credentials, fetch.CredentialUse{Name: c.Name(), Kind: c.Kind(), Version: proof.Version(), ByRule: c.byRule})
	}
	return nil
}

// provedPartition keeps connections that carry a credential of the server to
// that credential, and those that a client certificate opened to its caller.
func provedPartition(who fetch.Caller, list []chosen) string {
	partition := ""
	for _, c := range list {
		if c.Name() != "" {
			partition += "\x00credential " + c.Name()
		}
		if c.Place().Certificate {
			partition += "\x00certificate of " + who.Name
		}
	}
	return partition
}

// show notes that upstreams get a proof.
func (p *proving) show(name string, proof fetch.Proof) {
	if name == "" || slices.Contains(p.shown, proof) {
		return // a caller knows its own
	}
	if p.names == nil {
		p.names = map[fetch.Proof]string{}
	}
	p.shown, p.names[proof] = append(p.shown, proof), name
}

// isUnproved tells that the upstream answered 401 to a secret that has another
// beside it, so that the hop goes out again with that one, once in a fetch for
// each origin. If the body cannot be sent again, the 401 is the answer.
func (r *run) isUnproved(got *arrived, next redirect.Hop) bool {
	at := next.Destination.Origin
	if got.resp.Status != http.StatusUnauthorized {
		r.proved(got.resp.Status, at)
		return false
	}
	others := map[tried]fetch.Proof{}
	for _, s := range r.proving.sent {
		key := tried{s.Name(), at}
		if s.Name() == "" || r.proving.others[key] != nil {
			continue
		}
		if other := s.Other(s.proof); other != nil {
			others[key] = other
		}
	}
	if len(others) == 0 || r.plan.Verbatim {
		return false
	}
	if r.plan.Source != nil && next.Body {
		b, err := r.plan.Source.Open()
		if err != nil {
			return false
		}
		r.reopened = b
	}
	if r.proving.others == nil {
		r.proving.others = others
		return true
	}
	maps.Copy(r.proving.others, others)
	return true
}

// proved tells credentials that an origin took the other of their secrets.
func (r *run) proved(status int, at fetch.Origin) {
	for _, s := range r.proving.sent {
		if other := r.proving.others[tried{s.Name(), at}]; other != nil && s.proof == other && status < 500 {
			s.Taken(other, at)
		}
	}
}

// withoutProof takes what a redirect kept of the query of the hop before out of
// the next one, and denies it if it shows a secret all the same.
func (r *run) withoutProof(next *redirect.Hop) error {
	for _, s := range r.proving.sent {
		next.Destination = s.proof.Strip(next.Destination)
	}
	url := next.Destination.URL()
	for _, p := range r.proving.shown {
		if p.IsShown(url) {
			return &fetch.Denied{
				Reason: fetch.ReasonDestinationDenied, Rule: r.report.Rule,
				Message: "the redirect leads to a URL that shows the secret of a credential",
				Hint:    "Ask the upstream's owner not to write what it is sent into a Location.",
			}
		}
	}
	return nil
}

// unshow takes out of a response what unshown does, of its trailers too.
func (r *run) unshow(h *fetch.Hop, resp *fetch.Response) {
	if len(r.proving.shown) == 0 {
		return
	}
	resp.Head = r.unshown(h, resp.Head)
	if trailers := resp.Trailers; trailers != nil {
		resp.Trailers = func() []fetch.Field { return r.unshownFields(h, trailers()) }
	}
}

// unshown is a head as the caller may see it: what an upstream shows of a secret
// that the server holds is taken out, and noted with h.
func (r *run) unshown(h *fetch.Hop, head fetch.Head) fetch.Head {
	if len(r.proving.shown) == 0 {
		return head
	}
	head.Fields = r.unshownFields(h, head.Fields)
	head.Reason = r.unshownBytes(h, head.Reason)
	return head
}

func (r *run) unshownFields(h *fetch.Hop, fields []fetch.Field) []fetch.Field {
	if len(r.proving.shown) == 0 {
		return fields
	}
	clean := make([]fetch.Field, len(fields))
	for i, f := range fields {
		clean[i] = fetch.Field{Name: string(r.unshownBytes(h, []byte(f.Name))), Value: r.unshownBytes(h, f.Value)}
	}
	return clean
}

func (r *run) unshownBytes(h *fetch.Hop, b []byte) []byte {
	for _, p := range r.proving.shown {
		clean := p.Redact(b)
		if string(clean) != string(b) {
			b = clean
			r.noteEcho(h, p)
		}
	}
	return b
}

// unshownFailure is a failure as the caller and the records may see it: some
// quote what an upstream wrote.
func (r *run) unshownFailure(h *fetch.Hop, f *fetch.Failure) *fetch.Failure {
	if len(r.proving.shown) == 0 {
		return f
	}
	clean := *f
	clean.Message = string(r.unshownBytes(h, []byte(f.Message)))
	if f.Denial != nil {
		denial := *f.Denial
		for _, said := range []*string{&denial.Message, &denial.Hint, &denial.Audit} {
			*said = string(r.unshownBytes(h, []byte(*said)))
		}
		clean.Denial = &denial
	}
	return &clean
}

// noteEcho notes whose secret an upstream showed.
func (r *run) noteEcho(h *fetch.Hop, p fetch.Proof) {
	name := r.proving.names[p]
	if !slices.Contains(h.Echoes, name) {
		h.Echoes = append(h.Echoes, name)
	}
}
