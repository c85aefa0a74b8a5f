package policy

import (
	"fmt"
	"net/netip"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// classOwn is the class of the addresses of fetchgate's own listeners.
const classOwn = "own_listener"

const (
	hintMetadata = "Metadata services of clouds are denied whatever a rule says."
	hintOwn      = "fetchgate does not call itself; name the service that is meant."
)

// denyUnmatched is the answer where no rule matches.
func (p *Policy) denyUnmatched(q question) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    DefaultDeny,
		Message: fmt.Sprintf("no rule allows %s %s", q.method, q.origin),
		Hint:    p.hint(q),
	}
}

// hint says what would have to change. It tells nothing of rules for other
// origins than that of q.
func (p *Policy) hint(q question) string {
	if r := p.first(&q, func(*rule) bool { return true }); r != nil {
		return fmt.Sprintf("Rule %q allows this origin, but not %s; ask %s.", r.name, checks[r.mismatch(&q)].asked(q), r.whom())
	}
	switch q.kind {
	case metadataName:
		return hintMetadata
	case loopbackName:
		return fmt.Sprintf("Only a rule that names %s itself, with dangerous_allow_loopback, allows it; ask the owner of the policy.", q.origin.Host)
	case exactOnly:
		return fmt.Sprintf("Only a rule that names %s itself, without a wildcard, allows it; ask the owner of the policy.", q.origin.Host)
	}
	if p.builtin {
		return "The configuration has no rules, so only http on port 80 and https on port 443 are allowed; ask the operator for rules."
	}
	return fmt.Sprintf("Ask the owner of the policy for a rule with the origin %s.", q.origin)
}

// denyAddress is the answer where the address is the reason. Only Audit has the
// address, unless it is the host that the caller wrote.
func (r *rule) denyAddress(q question, to netip.AddrPort, class, hint string) *fetch.Denied {
	leads := "resolves to"
	if q.isLiteral() {
		leads = "is"
	}
	return &fetch.Denied{
		Reason:  fetch.ReasonAddressDenied,
		Rule:    r.name,
		Message: fmt.Sprintf("%s %s an address that policy denies (%s)", q.origin.Host, leads, class),
		Hint:    hint,
		Audit:   fmt.Sprintf("rule %q does not open %s, which is of class %s", r.name, to, class),
		Class:   class,
	}
}
