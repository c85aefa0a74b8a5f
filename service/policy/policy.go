// Package policy decides whether a caller may send a hop to a destination, and
// why; engine and Explain ask the same function.
//
// A decision has two halves. By name: of the rules whose origins, ports and
// methods fit, the first in the order of the configuration decides; if none
// fits, the answer is no. By address: [Decision.Allow] judges each address that
// is about to be dialed, so that a name cannot lead where no rule meant it to.
package policy

import (
	"errors"
	"net/netip"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/iana"
)

// DefaultDeny is the rule of a decision that no rule of the configuration made.
// No rule can have this name.
const DefaultDeny = "default-deny"

// withoutRules are the rules of a server whose configuration has none.
var withoutRules = []*configv1.Rule{{Name: "default", Origins: []string{"http://*", "https://*"}}}

// Options are what a policy judges by beside its rules.
type Options struct {
	// Own returns fetchgate's own listeners. Their ports are never dialed, on
	// any address of this machine, nor are the exact addresses. It is asked for
	// every address that is judged. nil means none.
	Own func() []netip.AddrPort
	// Local returns the addresses of the machine's interfaces. It is asked only
	// about an address with the port of a listener of ours, so it may take its
	// time; if it fails, the address is denied. nil means net.InterfaceAddrs.
	Local func() ([]netip.Addr, error)
	// Table classifies addresses; nil means iana.Default.
	Table *iana.Table
	// Locate returns where a setting such as "rules[2]" is written, as
	// "fetchgate.yaml:12:5". It is asked once for each rule, by Compile. nil
	// means that nobody knows.
	Locate func(path string) string
}

// Policy is a compiled list of rules. It does not change and is safe for
// concurrent use.
type Policy struct {
	rules     []*rule
	index     index
	sites     sites
	named     map[string]*rule
	listeners listeners
	table     *iana.Table
	builtin   bool
}

// Decision is a policy's answer.
type Decision struct {
	// Rule is the name of the rule that decided, DefaultDeny if none matched.
	Rule string
	// Denied says why not; nil means allowed by name.
	Denied *fetch.Denied
	// AddressProfile names, by content, the set of addresses that Allow
	// accepts: rules that open the same addresses have the same profile, and
	// connections may be shared between them. "public" means nothing was opened.
	AddressProfile string
	// AllowDowngrade tells that a redirect may lead here from https although the
	// scheme here is http (dangerous_allow_downgrade). It is the word of the rule
	// for the destination, not of the one that the redirect came from.
	AllowDowngrade bool
	// SendTraceparent tells that traceparent goes to the upstream.
	SendTraceparent bool
	// FilterMixed dials the allowed addresses of an answer that also holds
	// denied ones. It is always false: one denied address denies the name.
	FilterMixed bool
	// Allow judges one address; its error is a *fetch.Denied. It is nil exactly
	// if Denied is not, and safe for concurrent use.
	Allow func(netip.AddrPort) error

	loopback *loopback // nil unless the rule opens loopback addresses
}

// Compile makes a policy of the rules of a configuration. nil stands for a
// configuration without rules: http on port 80 and https on port 443 of any
// public address, by a rule named "default". An empty list that is not nil
// allows nothing.
//
// The error joins one *RuleError for everything that is wrong. A rule is refused
// too if it says something that is not carried out, rather than be carried out
// in part.
func Compile(rules []*configv1.Rule, o Options) (*Policy, error) {
	p := &Policy{
		index:     index{},
		sites:     sites{},
		named:     map[string]*rule{},
		listeners: newListeners(o),
		table:     o.Table,
		builtin:   rules == nil,
	}
	if p.table == nil {
		p.table = iana.Default()
	}
	if p.builtin {
		rules = withoutRules
	}
	var f faults
	c := compiler{policy: p, names: map[string]int{}, locate: o.Locate}
	if p.builtin || c.locate == nil {
		c.locate = func(string) string { return "" }
	}
	for i, r := range rules {
		c.add(i, r, &f)
	}
	c.finish(&f)
	if len(f) > 0 {
		return nil, errors.Join(f...)
	}
	return p, nil
}

// Decide says whether a caller may send method to dest. A host that is an IP
// literal is judged as an address too. The path and the query do not matter, nor
// yet does who the caller is.
func (p *Policy) Decide(_ fetch.Caller, method string, dest fetch.Destination) Decision {
	q := newQuestion(method, dest.Origin)
	d, _ := p.settle(&q)
	return d
}

// settle is the one way to a decision about q. It returns the rule that decides
// too, or nil.
func (p *Policy) settle(asked *question) (d Decision, r *rule) {
	r = p.match(asked)
	q := *asked // for Allow to keep: the asker's does not live on the heap
	switch {
	case r == nil:
		d.Denied = p.denyUnmatched(q)
	case q.isLiteral():
		d.Denied = p.judge(r, q, netip.AddrPortFrom(q.literal, q.origin.Port))
	default:
		d.Denied = r.judgeName(q)
	}
	if d.Denied != nil {
		d.Rule = d.Denied.Rule
		return d, r
	}
	d.Rule, d.AddressProfile = r.name, r.opened.profile
	d.AllowDowngrade, d.SendTraceparent = r.allowDowngrade, r.sendTraceparent
	d.Allow = p.allower(q, r)
	if r.opened.loopback {
		d.loopback = &loopback{table: p.table}
		d.loopback.needed.Store(q.kind == loopbackName || q.isLiteral() && p.table.Classify(q.literal) == iana.Loopback)
		d.Allow = d.loopback.noting(d.Allow)
	}
	return d, r
}

// allower judges the addresses for a hop that r allows by name.
func (p *Policy) allower(q question, r *rule) func(netip.AddrPort) error {
	return func(to netip.AddrPort) error {
		if denied := p.judge(r, q, to); denied != nil {
			return denied
		}
		return nil
	}
}

// question is what a decision depends on.
type question struct {
	method string
	origin fetch.Origin
	// literal is the host if it is an IP literal, else not valid.
	literal netip.Addr
	// kind is that of the host if it is a name.
	kind nameKind
}

func newQuestion(method string, o fetch.Origin) question {
	q := question{method: method, origin: o}
	if addr, isLiteral := o.Addr(); isLiteral {
		q.literal = addr
	} else {
		q.kind = kindOf(o.Host)
	}
	return q
}

func (q question) isLiteral() bool { return q.literal.IsValid() }
