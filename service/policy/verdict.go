package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// mode is how rules are carried out.
type mode uint8

// The modes, the strictest first.
const (
	enforce mode = iota
	report
	open
)

var modeNames = []string{"enforce", "report", "open"}

func (m mode) String() string { return modeNames[m] }

// compileMode reads a mode; empty means def.
func compileMode(path, in string, def mode, f *faults) mode {
	if in == "" {
		return def
	}
	m := slices.Index(modeNames, in)
	if m < 0 {
		f.add(path, "%.20q is no mode; write enforce, report or open", in)
		return def
	}
	return mode(m)
}

// verdict is what rules say of a question.
type verdict struct {
	// rule decides; nil if none matches.
	rule *rule
	// denied is why not, mode how far that counts.
	denied *fetch.Denied
	mode   mode
	// carrier says how the hop is carried out if it goes ahead.
	carrier *rule
}

// outcome is what rules say by one reading of the path.
type outcome struct {
	rule *rule
	// why is why the condition of the rule could not be judged; else isClear.
	why unclear
}

func (o outcome) allows() bool { return o.rule != nil && !o.rule.deny && o.why == isClear }

// mode is that of the rule, or for no rule the policy's.
func (o outcome) mode(p *Policy) mode {
	if o.rule == nil {
		return p.mode
	}
	return o.rule.mode
}

// byRules asks all rules and, if one that is not enforced denies, those that
// allow: some rule must say how the hop is carried out, and another may deny in
// earnest.
func (p *Policy) byRules(q *question) verdict {
	v := p.judged(q, 0)
	if v.denied == nil || v.mode == enforce || v.rule == nil || !v.rule.deny {
		return v
	}
	if then := p.judged(q, p.denying); then.denied == nil || then.mode == enforce {
		if then.denied != nil {
			return then
		}
		v.carrier = then.carrier
	}
	return v
}

// judged is what the rules at or behind from say, by every reading of the path.
func (p *Policy) judged(q *question, from int) verdict {
	first := p.ask(q, from)
	if !p.byPath || isPlain(q.path) {
		return p.verdictOf(q, first)
	}
	strictest, agreed, named := first.mode(p), true, first.rule
	other := *q.kept()
	all, whole := readings(q.path)
	for _, other.path = range all[1:] {
		o := p.ask(&other, from)
		agreed = agreed && o == first
		strictest = min(strictest, o.mode(p))
		if o.rule != nil && (named == nil || o.rule.deny && !named.deny) {
			named = o.rule
		}
	}
	if !whole {
		if by := p.lookingAtPath(&other, from); by != nil {
			agreed, strictest = false, min(strictest, by.mode)
			named = cmp.Or(named, by)
		}
	}
	if agreed {
		return p.verdictOf(q, first)
	}
	return verdict{rule: named, denied: named.denyAmbiguous(q), mode: strictest, carrier: p.beyond}
}

// lookingAtPath returns the strictest of the rules at or behind from that look at
// the path of a request such as q, or nil.
func (p *Policy) lookingAtPath(q *question, from int) (strictest *rule) {
	for s := range p.sitesOf(q) {
		r := p.ordered[s.place]
		if s.place < from || s.scheme != q.origin.Scheme || s.port != q.origin.Port || !r.looksAtPath() || !r.takesCaller(q) || !r.takesMethod(q) {
			continue
		}
		if r.mode == enforce {
			return r
		}
		if strictest == nil || r.mode < strictest.mode {
			strictest = r
		}
	}
	return strictest
}

// looksAtPath reports whether the path can make a difference to r.
func (r *rule) looksAtPath() bool { return len(r.paths) > 0 || r.when != nil && r.when.byPath }

// verdictOf is the verdict where every reading has the outcome o.
func (p *Policy) verdictOf(q *question, o outcome) verdict {
	v := verdict{rule: o.rule, mode: o.mode(p), carrier: o.rule}
	switch {
	case o.allows():
		return v
	case o.rule == nil:
		v.denied, v.carrier = p.denyUnmatched(q), p.beyond
	case o.rule.deny:
		v.carrier = p.beyond
		v.denied = o.rule.denyMatched(q)
	default:
		v.denied = o.rule.denyUnclear(q, o.why)
		if v.mode != open {
			v.carrier = p.beyond // the rule opens nothing before its condition holds
		}
	}
	if o.rule != nil && o.rule.deny && o.why != isClear {
		v.denied = o.rule.denyUnclear(q, o.why)
	}
	return v
}

// denyMatched is the answer of a rule that denies.
func (r *rule) denyMatched(q *question) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    r.name,
		Message: fmt.Sprintf("rule %q denies %s %s", r.name, q.ask.Method, q.origin),
		Hint:    q.next("Ask " + r.whom() + " about the rule."),
	}
}

// denyUnclear is the answer where the condition of a rule cannot be judged.
func (r *rule) denyUnclear(q *question, why unclear) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    r.name,
		Message: fmt.Sprintf("the condition of rule %q could not be judged: %s", r.name, why),
		Hint:    q.next("Ask " + r.whom() + " to make the condition hold for such requests too."),
	}
}

// denyAmbiguous is the answer where two readings of a path lead to two decisions.
func (r *rule) denyAmbiguous(q *question) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonPathAmbiguous,
		Rule:    r.name,
		Message: "servers read the path in more than one way, and policy decides about each in another",
		Hint:    q.next("Send a path without percent-encoded letters, slashes and dots, dot segments, doubled slashes, '\\' and ';'."),
	}
}
