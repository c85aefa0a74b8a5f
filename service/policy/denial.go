package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// ClassOwn is the class of the addresses of fetchgate's own listeners, beside the
// classes of package iana.
const ClassOwn = "own_listener"

// hintMetadata and hintOwn are for what r could open by a key of its own.
func (r *rule) hintMetadata() string {
	return "The address is that of a cloud's metadata service; only a rule that lists it in allow_addresses, with dangerous_allow_metadata, allows it: ask " + r.whom() + "."
}

func (r *rule) hintOwn() string {
	return "fetchgate does not call itself; name the service that is meant, or ask " + r.whom() + " for a rule with dangerous_allow_own_listeners."
}

// denyUnmatched is the answer where no rule matches.
func (p *Policy) denyUnmatched(asked *question) *fetch.Denied {
	q := asked.kept()
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    DefaultDeny,
		Message: "no rule allows " + q.ask.Method + " " + q.origin.String(),
		Hint:    q.next(p.hint(q)),
	}
}

// denyPort is the answer where the mode would let a hop go ahead to a port that no
// rule names.
func (p *Policy) denyPort(q *question) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    DefaultDeny,
		Check:   "port",
		Message: fmt.Sprintf("the port %d is neither 80 nor 443, and no rule names it for %s", q.origin.Port, q.origin.Host),
		Hint:    q.next("Other ports need a rule in every mode: ask the owner of the policy for one with the origin " + q.origin.String() + "."),
	}
}

// denyUnderscore is the answer where a name of a field has '_' and the rule does
// not let it.
func (r *rule) denyUnderscore(q *question) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    r.name,
		Check:   "field",
		Message: "the name of a header field has '_', which many servers do not tell from '-'",
		Hint:    q.next("Write the name with '-', or ask " + r.whom() + " for a rule with allow_underscore_fields."),
	}
}

// hint says what would have to change. It tells nothing of rules for other
// origins than that of q, nor of those for other callers.
func (p *Policy) hint(q *question) string {
	if r, at := p.nearest(q); r != nil {
		return fmt.Sprintf("Rule %q allows this origin, but not %s; ask %s.", r.name, checks[at].asked(q), r.whom())
	}
	switch q.kind {
	case metadataName:
		return fmt.Sprintf("Only a rule that names %s itself, with dangerous_allow_metadata, allows it; ask the owner of the policy.", q.origin.Host)
	case loopbackName:
		return fmt.Sprintf("Only a rule that names %s itself, with dangerous_allow_loopback, allows it; ask the owner of the policy.", q.origin.Host)
	case exactOnly:
		return fmt.Sprintf("Only a rule that names %s itself, without a wildcard, allows it; ask the owner of the policy.", q.origin.Host)
	}
	if p.builtin {
		return "The configuration has no rules, so only http on port 80 and https on port 443 are allowed; ask the operator for rules."
	}
	if len(p.written) == 0 {
		return "The configuration has no rules, so everything is denied; ask the operator for rules."
	}
	return "Ask the owner of the policy for a rule with the origin " + q.origin.String() + "."
}

// maxLooked is how many rules a denial looks at for its hint.
const maxLooked = 64

// nearest returns an allowing rule for the origin and the caller of q, none of
// which matches, and the place of the first check that fails: of the rules that it
// looks at the one that fails least, then the first; nil if there is none.
func (p *Policy) nearest(q *question) (*rule, int) {
	best, failed, looked := len(p.ordered), 0, 0
	least := 2*len(checks) + 1
	for s := range p.sitesOf(q) {
		if looked++; looked > maxLooked {
			break
		}
		r := p.ordered[s.place]
		if s.scheme != q.origin.Scheme || s.port != q.origin.Port || r.deny || !r.takesCaller(q) {
			continue
		}
		enough := least // of equal ones, the first in the file wins
		if s.place < best {
			enough++
		}
		if enough == 1 {
			continue // every rule fails as much
		}
		if first, much := r.fails(q, enough); much < enough {
			best, failed, least = s.place, first, much
		}
	}
	if best == len(p.ordered) {
		return nil, 0
	}
	return p.ordered[best], failed
}

// fails returns the place of the first check that r, which does not match, fails,
// and how much it fails, at least 1 and no more than needed to come to enough: 2 for
// each check, but 1 for the first where method and path are right. The condition,
// the last and the only costly check, is not evaluated: where all others fit, it is
// what fails.
func (r *rule) fails(q *question, enough int) (first, much int) {
	first = len(checks) - 1
	for i := range checks[:first] {
		switch {
		case much >= enough:
			return first, much
		case checks[i].fits(r, q):
		case much > 0:
			much += 2
		case checks[i].name == "method", checks[i].name == "path":
			first, much = i, 2
		default:
			first, much = i, 1
		}
	}
	return first, max(much, 1)
}

// hintBeside is the hint of a denial where rules deny too, which by itself does not
// count: theirs says what to ask for first. byRules nil: they do not.
func hintBeside(byRules, denied *fetch.Denied) string {
	if byRules == nil {
		return denied.Hint
	}
	first, _, _ := strings.Cut(byRules.Hint, moreWords)
	return first + " " + denied.Hint
}

// moreWords begin what next adds.
const moreWords = " More: fetchgate explain "

// next adds to a hint the command that says more. Of the URL it has the origin
// alone, and of the method what a shell takes for a word.
func (q *question) next(hint string) string {
	command := moreWords
	if m := q.ask.Method; m != "GET" && isWord(m) {
		command += "-X " + m + " "
	}
	return hint + command + q.origin.String()
}

// kept returns a copy that may outlive q, which then need not.
func (q *question) kept() *question {
	ask := *q.ask
	kept := *q
	kept.ask = &ask
	return &kept
}

func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return s != ""
}

// denyAddress is the answer where the address is the reason. Only Audit has the
// address, unless it is the host that the caller wrote.
func (r *rule) denyAddress(t target, to netip.AddrPort, class, hint string) *fetch.Denied {
	leads := "resolves to"
	if t.isLiteral() {
		leads = "is"
	}
	return &fetch.Denied{
		Reason:  fetch.ReasonAddressDenied,
		Rule:    r.name,
		Message: fmt.Sprintf("%s %s an address that policy denies (%s)", t.origin.Host, leads, class),
		Hint:    hint,
		Audit:   fmt.Sprintf("rule %q does not open %s, which is of class %s", r.name, to, class),
		Class:   class,
	}
}
