package policy

import (
	"fmt"
	"strconv"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Explanation is a decision and what led to it. All of it may be told to the
// caller, but for the Audit of Decision.Denied.
type Explanation struct {
	// Decision is what Decide answers to the same question.
	Decision Decision
	// RuleAt is where Decision.Rule is written, "fetchgate.yaml:12:5"; empty as
	// for [Policy.RuleAt].
	RuleAt string
	// Owner is the rule's; empty if it says none, or no rule decided.
	Owner string
	// Why is the answer in one sentence.
	Why string
	// Hint says what to do about a denial; else it is empty.
	Hint string
	// Checks are in the order in which they ran. If the answer is no, the last
	// has failed and the others have passed.
	Checks []Check
	// NearMisses are the rules that would allow what is denied if one thing were
	// different, the nearest first: another method, another port, the other
	// scheme. At most 5.
	NearMisses []NearMiss
}

// Check is one step on the way to a decision.
type Check struct {
	// Name is "origin" (scheme and host), "port", "method", and last "name" or,
	// where the host is an IP literal, "address".
	Name   string
	Passed bool
	// Detail is what it saw.
	Detail string
}

// Explain decides as Decide does, and says why. It resolves no name: the
// addresses of a host are judged when they are dialed, by Decision.Allow.
func (p *Policy) Explain(_ fetch.Caller, method string, dest fetch.Destination) Explanation {
	q := newQuestion(method, dest.Origin)
	d, r := p.settle(&q)
	e := Explanation{Decision: d, Checks: p.checks(q, r, d.Denied)}
	if r != nil {
		e.RuleAt, e.Owner = r.at, r.owner
	}
	if denied := d.Denied; denied != nil {
		e.Why, e.Hint, e.NearMisses = denied.Message, denied.Hint, p.nearMisses(q)
		return e
	}
	e.Why = fmt.Sprintf("rule %q allows %s %s", r.name, q.method, q.origin)
	if !q.isLiteral() {
		e.Why += "; the addresses of the host are judged when they are dialed"
	}
	return e
}

// checks puts the way of settle to its answer, which r and denied are, into
// steps.
func (p *Policy) checks(q question, r *rule, denied *fetch.Denied) []Check {
	steps := []Check{
		p.originCheck(q),
		ruleCheck("port", p.first(&q, func(*rule) bool { return true }) != nil, "the port "+strconv.Itoa(int(q.origin.Port))),
	}
	for i := range checks {
		fitting := p.first(&q, func(r *rule) bool { return r.mismatch(&q) > i })
		steps = append(steps, ruleCheck(checks[i].name, fitting != nil, checks[i].asked(q)))
	}
	if r != nil {
		return append(steps, p.hostCheck(q, denied))
	}
	for i, step := range steps {
		if !step.Passed {
			return steps[:i+1]
		}
	}
	return steps
}

// ruleCheck is a check of whether any of the rules that are left allows thing.
func ruleCheck(name string, passed bool, thing string) Check {
	c := Check{Name: name, Passed: passed, Detail: "no rule allows " + thing}
	if passed {
		c.Detail = "a rule allows " + thing
	}
	return c
}

func (p *Policy) originCheck(q question) Check {
	found := false
	for s := range p.sites.of(q) {
		found = found || s.scheme == q.origin.Scheme
	}
	c := ruleCheck("origin", found, q.origin.Scheme+" to "+q.origin.Host)
	if !found && q.kind != ordinary {
		c.Detail += ", which no wildcard stands for"
	}
	return c
}

// hostCheck is what settle asks of the host once it has the rule.
func (p *Policy) hostCheck(q question, denied *fetch.Denied) Check {
	if !q.isLiteral() {
		return Check{Name: "name", Passed: denied == nil, Detail: q.origin.Host + " is " + q.kind.meaning()}
	}
	class := p.table.Classify(q.literal).String()
	if denied != nil {
		class = denied.Class
	}
	return Check{Name: "address", Passed: denied == nil, Detail: fmt.Sprintf("%s is of class %s", q.origin.Host, class)}
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
