// Package policy decides whether a caller may send a hop to a destination, and
// why; engine and Explain ask the same function.
//
// A decision has two halves. By name: a rule that denies wins over all that
// allow; of those the first in the order of the configuration decides; if none
// matches, the answer is no. By address: [Decision.Allow] judges each address that
// is about to be dialed, so that a name cannot lead where no rule meant it to.
package policy

import (
	"errors"
	"net/netip"
	"strings"

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
	// Mode is how rules are carried out that do not say: "enforce", which empty
	// means too, "report" or "open". It is also how a destination is treated that
	// no rule matches.
	Mode string
	// TLSProfiles are those that rules can name, by name. What one does not say is
	// zero.
	TLSProfiles map[string]fetch.TLSSettings
	// Locate returns where a setting such as "rules[2]" is written, as
	// "fetchgate.yaml:12:5". It is asked once for each rule, by Compile. nil
	// means that nobody knows.
	Locate func(path string) string
}

// Policy is a compiled list of rules. It does not change and is safe for
// concurrent use.
type Policy struct {
	// written are the rules in the order of the configuration, ordered those that
	// are asked, in the order in which they decide: denying rules that are
	// enforced, denying rules that are only reported, allowing rules.
	written, ordered []*rule
	// denying is how many rules of ordered deny.
	denying int
	index   index
	sites   sites
	// deepest is the most labels that the host of a wildcard has.
	deepest   int
	named     map[string]*rule
	mode      mode
	listeners listeners
	table     *iana.Table
	builtin   bool
	// byPath tells that a rule looks at paths, so that there may be several
	// readings of one.
	byPath bool
	// underscores tells that a rule lets names of fields have '_'.
	underscores bool
	// settings tells that a rule has settings.
	settings bool
	// lax tells that a denial of rules may not count, by the mode of one or of all.
	lax bool
	// members are the callers that rules name; everyone tells that a rule is for
	// all.
	members  map[string]bool
	everyone bool
	// beyond carries out what rules deny and their mode lets go ahead: nothing is
	// opened but public addresses.
	beyond *rule
}

// Ask is what a decision is about: one hop. What of it a rule does not name does
// not matter.
type Ask struct {
	// Caller is who asked for the fetch.
	Caller fetch.Caller
	// Method is the hop's, which a redirect may have changed.
	Method string
	// Destination is the hop's, with its target.
	Destination fetch.Destination
	// Fields are those of the hop's request.
	Fields []fetch.Field
	// Labels are the fetch's.
	Labels map[string]string
	// Verbatim tells that the request is sent as it is, so that names of fields
	// may have '_' without a rule.
	Verbatim bool
	// BodyBytes is how large the hop's body is, 0 where it has none, -1 where
	// nobody knows.
	BodyBytes int64
}

// Decision is a policy's answer.
type Decision struct {
	// Rule is the name of the rule that decided, DefaultDeny if none matched.
	Rule string
	// Denied says why not; nil means that the hop goes ahead, as far as its name
	// is concerned.
	Denied *fetch.Denied
	// WouldDeny says why rules deny a hop that goes ahead all the same, since
	// their mode is "report"; else nil.
	WouldDeny *fetch.Denied
	// Open tells that the hop goes ahead by the mode "open": what rules say does
	// not matter.
	Open bool
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
	// denied ones; else one denied address denies the name.
	FilterMixed bool
	// IsolateCaller keeps the connections of the hop to its caller.
	IsolateCaller bool
	// Credentials are the names of those that the rule applies, in its order. The
	// list is not to be changed.
	Credentials []string
	// Settings are what the rule says about timeouts, retries, sizes and fields;
	// nil: nothing.
	Settings *fetch.RuleSettings
	// Allow judges one address; its error is a *fetch.Denied. It is nil exactly
	// if Denied is not, and safe for concurrent use.
	Allow func(netip.AddrPort) error

	needs *needs // nil unless the rule opens what is dangerous to dial
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
		members:   map[string]bool{},
		listeners: newListeners(o),
		table:     o.Table,
		builtin:   rules == nil,
		beyond:    &rule{name: DefaultDeny, opened: opened{profile: publicProfile}},
	}
	if p.table == nil {
		p.table = iana.Default()
	}
	if p.builtin {
		rules = withoutRules
	}
	var f faults
	p.mode = compileMode("mode", o.Mode, enforce, &f)
	c := compiler{policy: p, names: map[string]int{}, conditions: map[string]*condition{}, profiles: o.TLSProfiles, locate: o.Locate}
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

// AllowsUnderscoreFields tells that a rule lets names of fields have '_'. Which
// hop may have them, Decide says.
func (p *Policy) AllowsUnderscoreFields() bool { return p.underscores }

// Decide says whether a hop may go ahead. A host that is an IP literal is judged
// as an address too.
func (p *Policy) Decide(ask Ask) Decision {
	q := newQuestion(&ask)
	d, _, _ := p.settle(&q)
	return d
}

// settle is the one way to a decision about q. It returns what rules say and the
// rule that decides too, or nil.
func (p *Policy) settle(q *question) (d Decision, v verdict, r *rule) {
	v = p.byRules(q)
	if v.denied != nil && v.mode == enforce {
		d.Denied, d.Rule = v.denied, v.denied.Rule
		return d, v, v.rule
	}
	carrier := v.carrier
	if d.Denied = p.guard(q, carrier); d.Denied != nil {
		d.Rule = d.Denied.Rule
		d.Denied.Hint = hintBeside(v.denied, d.Denied)
		return d, v, carrier
	}
	d.Rule, d.Open = carrier.name, v.mode == open
	if v.denied != nil {
		d.Rule = v.denied.Rule
		if !d.Open {
			d.WouldDeny = v.denied
		}
	}
	d.AddressProfile, d.FilterMixed = carrier.opened.profile, carrier.filterMixed
	d.AllowDowngrade, d.SendTraceparent = carrier.allowDowngrade, carrier.sendTraceparent
	d.IsolateCaller, d.Credentials, d.Settings = carrier.isolateCaller, carrier.credentials, carrier.settings
	d.Allow = p.allower(q.target, carrier, v.denied)
	if d.needs = p.newNeeds(q, &carrier.opened); d.needs != nil {
		d.Allow = d.needs.noting(d.Allow)
	}
	return d, v, v.rule
}

// guard denies what no mode lets go ahead.
func (p *Policy) guard(q *question, r *rule) *fetch.Denied {
	if q.isLiteral() {
		if denied := p.judge(r, q.target, netip.AddrPortFrom(q.literal, q.origin.Port)); denied != nil {
			return denied
		}
	} else if denied := p.judgeName(r, q); denied != nil {
		return denied
	}
	if r == p.beyond && !p.opensPort(q) {
		return p.denyPort(q)
	}
	if !r.underscores && !q.ask.Verbatim && hasUnderscore(q.ask.Fields) {
		return r.denyUnderscore(q)
	}
	return r.guardRequest(q)
}

// opensPort reports whether a hop may go to the port of q though no rule carries it
// out: it is 80 or 443, or a rule that allows names it for the host.
func (p *Policy) opensPort(q *question) bool {
	if q.origin.Port == 80 || q.origin.Port == 443 {
		return true
	}
	for s := range p.sitesOf(q.kept()) {
		if s.scheme == q.origin.Scheme && s.port == q.origin.Port && !p.ordered[s.place].deny {
			return true
		}
	}
	return false
}

// allower judges the addresses for a hop that r carries out; byRules is what rules
// say against it, which does not count.
func (p *Policy) allower(t target, r *rule, byRules *fetch.Denied) func(netip.AddrPort) error {
	return func(to netip.AddrPort) error {
		if denied := p.judge(r, t, to); denied != nil {
			denied.Hint = hintBeside(byRules, denied)
			return denied
		}
		return nil
	}
}

// target is where a hop goes, as far as addresses are concerned.
type target struct {
	origin fetch.Origin
	// literal is the host if it is an IP literal, else not valid.
	literal netip.Addr
	// kind is that of the host if it is a name.
	kind nameKind
}

func (t target) isLiteral() bool { return t.literal.IsValid() }

// question is what a decision depends on, by one reading of the path.
type question struct {
	target
	ask  *Ask
	path string
	// facts are what conditions see of ask; nil until one asks.
	facts *facts
	seen  seen
}

func newQuestion(ask *Ask) question {
	q := question{target: target{origin: ask.Destination.Origin}, ask: ask, path: ask.Destination.Path()}
	if mayBeAddress(q.origin.Host) {
		q.literal, _ = q.origin.Addr()
	}
	if !q.isLiteral() {
		q.kind = kindOf(q.origin.Host)
	}
	return q
}

// mayBeAddress tells most names from addresses without the error that reading
// one costs.
func mayBeAddress(host string) bool {
	if host == "" || strings.IndexByte(host, ':') >= 0 {
		return true
	}
	last := host[len(host)-1]
	return '0' <= last && last <= '9'
}
