package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Explanation is a decision and what led to it. All of it may be told to the
// caller, but for the Audit of Decision.Denied.
type Explanation struct {
	// Decision is what Decide answers to the same question.
	Decision Decision
	// Allowed tells that rules allow it, whatever their mode.
	Allowed bool
	// RuleAt is where Decision.Rule is written, "fetchgate.yaml:12:5"; empty as
	// for [Policy.RuleAt].
	RuleAt string
	// Owner is the rule's; empty if it says none, or no rule decided.
	Owner string
	// Mode is how far the answer counts: "enforce", "report" or "open". What
	// Decision denies, no other mode lets go ahead: it is "enforce" then.
	Mode string
	// Why is the answer in one sentence.
	Why string
	// Hint says what to do about a denial, one that does not count too; else it is
	// empty.
	Hint string
	// Checks are in the order in which they ran. If the answer is no, the last
	// has failed and the others have passed. If it is no and does not count, "mode"
	// follows the one that failed.
	Checks []Check
	// NearMisses are the rules that would allow what is denied if one thing were
	// different, the nearest first: another method, path, field or caller, then
	// another port, then the other scheme. At most 5; none where the request goes
	// ahead, and none where a rule denies it, which that rule's owner can change.
	NearMisses []NearMiss
}

// Check is one step on the way to a decision.
type Check struct {
	// Name is "caller" if rules name callers, "origin" (scheme and host), "port",
	// "method", then "path", "query", "header" and "when" as far as the rules that
	// are left ask for them, "deny", "mode", and last "name" or, where the host is
	// an IP literal, "address", and "port", "field" or "body".
	Name   string
	Passed bool
	// Detail is what it saw.
	Detail string
}

// Explain decides as Decide does, and says why. It resolves no name: the
// addresses of a host are judged when they are dialed, by Decision.Allow.
//
// The near misses are looked for until ctx ends, and for 20 ms at most.
func (p *Policy) Explain(ctx context.Context, ask Ask) Explanation {
	q := newQuestion(&ask)
	d, v, r := p.settle(&q)
	e := Explanation{Decision: d, Allowed: v.denied == nil && d.Denied == nil, Mode: p.mode.String()}
	if r != nil {
		e.RuleAt, e.Owner, e.Mode = r.at, r.owner, r.mode.String()
	}
	e.Checks = p.checks(&q, v, d)
	if denied := d.Denied; denied != nil {
		e.Why, e.Hint, e.Mode = denied.Message, denied.Hint, enforce.String()
		if r == nil || !r.deny { // else it is the place that is denied, and another rule does not change that
			e.NearMisses = p.nearMisses(ctx, &q, denied.Reason == fetch.ReasonPathAmbiguous)
		}
		return e
	}
	switch {
	case v.denied != nil:
		e.Mode, e.Hint = v.mode.String(), v.denied.Hint
		e.Why = fmt.Sprintf("%s, but the mode is %q: it goes ahead", v.denied.Message, e.Mode)
	default:
		e.Why = fmt.Sprintf("rule %q allows %s %s", r.name, ask.Method, q.origin)
		if r.profile != "" && q.origin.Scheme == "https" {
			e.Why += fmt.Sprintf(" with the TLS profile %q", r.profile)
		}
	}
	if !q.isLiteral() {
		e.Why += "; the addresses of the host are judged when they are dialed"
	}
	return e
}

// checks puts the way of settle to its answer, which v and d are, into steps.
func (p *Policy) checks(q *question, v verdict, d Decision) []Check {
	steps := p.ruleChecks(q, v)
	if v.denied != nil {
		for i, step := range steps {
			if !step.Passed {
				steps = steps[:i+1]
				break
			}
		}
		if v.mode == enforce {
			return steps
		}
		mode := Check{Name: "mode", Passed: true, Detail: fmt.Sprintf("%q lets go ahead what rules deny", v.mode)}
		if d.Denied != nil {
			mode.Detail += ", but " + guarded(q.target, d.Denied) + " in every mode"
		}
		steps = append(steps, mode)
	}
	if d.Denied == nil || d.Denied.Check == "" {
		return append(steps, p.hostCheck(q, d.Denied))
	}
	return append(steps, p.hostCheck(q, nil), Check{Name: d.Denied.Check, Detail: d.Denied.Message})
}

// ruleChecks are the steps over the rules. Rules for other callers are none of
// them, so that nothing is told of their hosts. If v is a denial, one has failed.
func (p *Policy) ruleChecks(q *question, v verdict) []Check {
	var steps []Check
	if len(p.members) > 0 {
		name := q.ask.Caller.Name
		steps = append(steps, ruleCheck("caller", p.everyone || p.members[name], "the caller "+name))
	}
	left := slices.Collect(p.atOrigin(q, false))
	steps = append(steps, p.originCheck(q), ruleCheck("port", len(left) > 0, "the port "+strconv.Itoa(int(q.origin.Port))))
	readings := p.readings(q)
	for _, c := range checks {
		if c.name != "method" && !slices.ContainsFunc(left, c.used) {
			continue
		}
		left = slices.DeleteFunc(left, func(r *rule) bool {
			return slices.ContainsFunc(readings, func(q question) bool { return !c.fits(r, &q) })
		})
		steps = append(steps, c.step(q, left))
	}
	last := Check{Name: "deny", Passed: v.denied == nil, Detail: "no rule denies it"}
	switch {
	case v.denied == nil && p.denying == 0:
		return steps
	case v.denied == nil:
		return append(steps, last)
	case v.rule == nil && slices.ContainsFunc(steps, func(c Check) bool { return !c.Passed }):
		return steps
	case v.denied.Reason == fetch.ReasonPathAmbiguous:
		last.Name = "path"
	case v.rule != nil && !v.rule.deny:
		last.Name = "when"
	}
	last.Detail = v.denied.Message
	return append(slices.DeleteFunc(steps, func(c Check) bool { return !c.Passed || c.Name == last.Name }), last)
}

// step is the step of c, which the rules that are left have passed.
func (c check) step(q *question, left []*rule) Check {
	if len(left) == 0 || c.met == "" {
		return ruleCheck(c.name, len(left) > 0, c.asked(q))
	}
	if slices.ContainsFunc(left, c.used) {
		return Check{Name: c.name, Passed: true, Detail: c.met}
	}
	return Check{Name: c.name, Passed: true, Detail: c.unasked}
}

// readings are q by every reading of its path.
func (p *Policy) readings(q *question) []question {
	q.known().spent = 0 // what follows decides nothing
	all := []question{*q}
	if p.byPath {
		paths, _ := readings(q.path)
		for _, path := range paths[1:] {
			other := *q
			other.path = path
			all = append(all, other)
		}
	}
	return all
}

// ruleCheck is a check of whether any of the rules that are left allows thing.
func ruleCheck(name string, passed bool, thing string) Check {
	c := Check{Name: name, Passed: passed, Detail: "no rule allows " + thing}
	if passed {
		c.Detail = "a rule allows " + thing
	}
	return c
}

func (p *Policy) originCheck(q *question) Check {
	found := false
	for s := range p.sitesOf(q) {
		r := p.ordered[s.place]
		found = found || s.scheme == q.origin.Scheme && !r.deny && r.takesCaller(q)
	}
	c := ruleCheck("origin", found, q.origin.Scheme+" to "+q.origin.Host)
	if !found && q.kind != ordinary {
		c.Detail += ", which no wildcard stands for"
	}
	return c
}

// hostCheck is what settle asks of the host once it has the rule.
func (p *Policy) hostCheck(q *question, denied *fetch.Denied) Check {
	if !q.isLiteral() {
		return Check{Name: "name", Passed: denied == nil, Detail: q.origin.Host + " is " + q.kind.meaning()}
	}
	class := p.table.Classify(q.literal).String()
	if denied != nil {
		class = denied.Class
	}
	return Check{Name: "address", Passed: denied == nil, Detail: fmt.Sprintf("%s is of class %s", q.origin.Host, class)}
}

// guarded says what no mode lets go ahead, and denied is about.
func guarded(t target, denied *fetch.Denied) string {
	switch {
	case denied.Check == "port":
		return "other ports need a rule"
	case denied.Check == "field":
		return "names of header fields are judged"
	case denied.Check == "body":
		return "the size of a body is judged"
	case t.isLiteral():
		return "addresses are judged"
	}
	return "special names are judged"
}

// meaning says what a name of the kind is.
func (k nameKind) meaning() string {
	switch k {
	case exactOnly:
		return "a name that means something else in every network"
	case loopbackName:
		return "a name of the machine itself"
	case metadataName:
		return "the name of a cloud's metadata service"
	}
	return "an ordinary name"
}

// AddressClass is the class of an address in the registries of IANA, "public" or
// "private": that of [Decision.Allow] where no rule has its own word for it.
func (p *Policy) AddressClass(a netip.Addr) string { return p.table.Classify(a).String() }
