package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// fillIn stands where the ACL does not say what belongs there. No setting takes
// it, so that "fetchgate check" names each place.
const fillIn = "FILL IN"

// Bounds of the configuration's schema.
const (
	maxNameBytes      = 64
	maxOwnerRunes     = 128
	maxOriginsOfRule  = 10_000
	maxConditionBytes = 4096
)

// importedCaller is a caller, and importedRule a rule, with what is said of it in
// comments.
type (
	importedCaller struct {
		*configv1.Caller
		comments []string
	}
	importedRule struct {
		*configv1.Rule
		comments []string
	}
)

// imported is what becomes of an ACL.
type imported struct {
	callers []importedCaller
	rules   []importedRule
	// notes are what is not carried over, in the order of the ACL.
	notes []importNote
	left  []string // comments behind the last rule
}

// importNote is one thing that is not carried over.
type importNote struct {
	line int
	text string
}

// aclImport makes callers and rules of an ACL.
//
// For each client smokescreen asks, in this order: is the host among those of its
// rule (allow), in the global deny list (deny), in the global allow list (allow);
// else the action of its rule decides. A rule of fetchgate that denies wins over
// all that allow, so that each client's own hosts are left out of those that the
// global deny list makes.
type aclImport struct {
	file  string
	from  identitySource
	ports []int32
	imported

	names   map[string]bool // of rules and callers that are taken
	pending []string        // comments of the next rule or caller
}

// aclClient is a caller with its rule of the ACL.
type aclClient struct {
	*aclRule
	caller string
	own    []aclHosts // the allowed domains
}

// importACL makes a configuration of an ACL that was read from file.
func importACL(file string, a *acl, from identitySource, ports []int32) imported {
	m := &aclImport{file: file, from: from, ports: ports, names: map[string]bool{}}
	for _, rule := range a.services {
		if name := rule.name.text; named(name) == name {
			m.names[name] = true
		}
	}
	var clients []*aclClient
	for _, rule := range a.services {
		clients = append(clients, m.client(rule, rule.name.text))
	}
	if a.fallback != nil {
		clients = append(clients, m.client(a.fallback, ""))
	}
	m.denyGlobally(a.deny, clients)
	for _, c := range clients {
		m.allowOwn(c)
	}
	global := m.hosts("global_allow_list", a.allow)
	if can := m.allowable(global); len(can) > 0 {
		m.comment("The global_allow_list: for every caller.")
		m.add(&configv1.Rule{Name: m.unique("global-allow")}, bothSchemes, can)
	}
	for _, c := range clients {
		m.rest(c, global)
	}
	m.left = m.comments()
	slices.SortStableFunc(m.notes, func(a, b importNote) int { return cmp.Compare(a.line, b.line) })
	return m.imported
}

// note says at the next place that something is not carried over.
func (m *aclImport) note(line int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.notes = append(m.notes, importNote{line, text})
	m.pending = append(m.pending, fmt.Sprintf("NOTE %s:%d: %s", m.file, line, text))
}

func (m *aclImport) comment(format string, args ...any) {
	m.pending = append(m.pending, fmt.Sprintf(format, args...))
}

// comments are those of what is written now.
func (m *aclImport) comments() []string {
	said := m.pending
	m.pending = nil
	return said
}

// hosts reads a list of the ACL; what no rule can have is noted.
func (m *aclImport) hosts(list string, texts []aclText) []aclHosts {
	var all []aclHosts
	for _, t := range texts {
		h, err := hostsOf(t)
		if err != nil {
			m.note(t.line, "%q of %s is not carried over: %v", t.text, list, err)
			continue
		}
		if !slices.ContainsFunc(all, func(o aclHosts) bool { return o.host == h.host && o.below == h.below }) {
			all = append(all, h)
		}
	}
	return all
}

// allowable are those of hosts that a rule can allow; the others are noted.
func (m *aclImport) allowable(hosts []aclHosts) []aclHosts {
	var can []aclHosts
	for _, h := range hosts {
		why := refused(&configv1.Rule{Name: "any", Origins: h.origins("https")})
		if why != "" {
			m.note(h.line, "%q is not carried over: %s", h.text, strings.TrimPrefix(why, fmt.Sprintf("%q: ", h.text)))
			continue
		}
		if why := stillDenied(h); why != "" {
			m.note(h.line, "%q is in the rule and denied all the same: %s", h.text, why)
		}
		can = append(can, h)
	}
	return can
}

// named is a text as a name of callers and rules.
func named(text string) string {
	name := strings.TrimLeft(notInName.ReplaceAllString(strings.ToLower(text), "-"), "._-")
	return cmp.Or(name[:min(len(name), maxNameBytes)], "service")
}

// unique is name, or one like it that is not taken.
func (m *aclImport) unique(name string) string {
	for n := 2; m.names[name]; n++ {
		mark := fmt.Sprintf("-%d", n)
		end := strings.TrimSuffix(name, fmt.Sprintf("-%d", n-1))
		name = end[:min(len(end), maxNameBytes-len(mark))] + mark
	}
	m.names[name] = true
	return name
}

// of is the name of a rule of a caller.
func (m *aclImport) of(caller, what string) string {
	return m.unique(caller[:min(len(caller), maxNameBytes-len(what)-1)] + "/" + what)
}

// add writes a rule, in as many parts as its origins need.
func (m *aclImport) add(r *configv1.Rule, schemes []string, hosts []aclHosts) {
	name, comments := r.GetName(), m.comments()
	first := true
	for some := range slices.Chunk(hosts, maxOriginsOfRule/len(schemes)) {
		part := &configv1.Rule{
			Name: name, Owner: r.Owner, Action: r.Action, Mode: r.Mode, Callers: r.Callers, When: r.When, SetFields: r.SetFields, Ports: m.ports,
		}
		if !first {
			part.Name = m.unique(name)
		}
		for _, h := range some {
			part.Origins = append(part.Origins, h.origins(schemes...)...)
		}
		m.rules = append(m.rules, importedRule{part, comments})
		first, comments = false, nil
	}
}

var bothSchemes = []string{"https", "http"}

// everyHost is the origin of every host, in both schemes.
var everyHost = []string{"https://*", "http://*"}

// allowOwn lets a client reach the hosts of its rule.
func (m *aclImport) allowOwn(c *aclClient) {
	for _, d := range c.mitm {
		m.changed(c, d)
	}
	can := m.allowable(c.own)
	if len(can) == 0 {
		return // what was noted stands before the next rule
	}
	m.comment("The allowed_domains of %s.", c.caller)
	m.add(&configv1.Rule{Name: m.of(c.caller, "hosts"), Owner: c.owner(), Callers: []string{c.caller}}, bothSchemes, can)
}

// changed makes the rule for a domain whose requests smokescreen changes, which
// comes before the one that allows it as it is.
func (m *aclImport) changed(c *aclClient, d aclMITM) {
	if d.logs > 0 {
		m.note(d.logs, "detailed_http_logs of %q is not carried over: the audit record has method, path and status of each request, and no fields", d.domain.text)
	}
	h, err := hostsOf(d.domain)
	r := &configv1.Rule{Name: "any", Origins: []string{"https://any.example"}, SetFields: map[string]string{}}
	for _, field := range d.add {
		if err != nil {
			break // noted where the domain is allowed
		}
		r.SetFields[field.name.text] = field.value.text
		if why := refused(r); why != "" {
			delete(r.SetFields, field.name.text)
			m.note(field.name.line, "the header field %q of %q is not carried over: %s", field.name.text, d.domain.text, why)
		}
	}
	if len(r.SetFields) == 0 || refused(&configv1.Rule{Name: "any", Origins: h.origins("https")}) != "" {
		return
	}
	m.comment("The add_headers of %q, in the place of fields of these names.", d.domain.text)
	m.add(&configv1.Rule{Name: m.of(c.caller, "fields"), Owner: c.owner(), Callers: []string{c.caller}, SetFields: r.SetFields}, []string{"https"}, []aclHosts{h})
}

// denyGlobally denies what the global deny list has, but to each client the hosts
// of its own.
func (m *aclImport) denyGlobally(list []aclText, clients []*aclClient) {
	hosts := map[string][]aclHosts{} // by the condition
	var conditions []string
	for _, h := range m.hosts("global_deny_list", list) {
		if why := refused(&configv1.Rule{Name: "any", Action: "deny", Origins: h.origins("https")}); why != "" {
			m.note(h.line, "%q of global_deny_list is not carried over: %s", h.text, why)
			continue
		}
		when := m.except(h, clients)
		if hosts[when] == nil {
			conditions = append(conditions, when)
		}
		hosts[when] = append(hosts[when], h)
	}
	for _, when := range conditions {
		m.comment("The global_deny_list.")
		if when != "" {
			m.comment("There, what is allowed to a client wins over it. Here a rule that denies wins,")
			m.comment("so the condition leaves out what is allowed.")
		}
		m.add(&configv1.Rule{Name: m.unique("global-deny"), Action: "deny", Mode: "enforce", When: when}, bothSchemes, hosts[when])
	}
}

// except is the condition under which h is denied: not to a client to whom its
// own rule allows the host. Empty: always.
func (m *aclImport) except(h aclHosts, clients []*aclClient) string {
	var whole, parts []string
	for _, c := range clients {
		var within []aclHosts
		isWhole := false
		for _, own := range c.own {
			isWhole = isWhole || own.covers(h)
			if h.covers(own) {
				within = append(within, own)
			}
		}
		switch {
		case isWhole:
			whole = append(whole, fmt.Sprintf("%q", c.caller))
		case len(within) > 0:
			parts = append(parts, fmt.Sprintf("caller.name == %q && (%s)", c.caller, condition(within)))
		}
	}
	if len(whole) > 0 {
		parts = append([]string{"caller.name in [" + strings.Join(whole, ", ") + "]"}, parts...)
	}
	if len(parts) == 0 {
		return ""
	}
	when := "!(" + strings.Join(parts, " || ") + ")"
	if len(when) > maxConditionBytes {
		m.note(h.line, "%q is denied to every caller: the allowed_domains that win over it are too many for one condition", h.text)
		return ""
	}
	return when
}

// rest is what becomes of hosts that no list has.
func (m *aclImport) rest(c *aclClient, global []aclHosts) {
	if c.action.text == "enforce" {
		return // no rule allows them
	}
	rest := func(r *configv1.Rule) {
		r.Owner, r.Callers, r.Origins, r.Ports = c.owner(), []string{c.caller}, everyHost, m.ports
		m.rules = append(m.rules, importedRule{r, m.comments()})
	}
	m.comment("The action of %s is %s: all other hosts go ahead.", c.caller, c.action.text)
	rest(&configv1.Rule{Name: m.of(c.caller, "rest")})
	if c.action.text == "open" {
		return
	}
	m.comment("And they are recorded as denied. Without mode: report, they are denied.")
	noted := &configv1.Rule{Name: m.of(c.caller, "report"), Action: "deny", Mode: "report"}
	if listed := condition(slices.Concat(c.own, global)); listed != "" {
		noted.When = "!(" + listed + ")"
	}
	if len(noted.When) > maxConditionBytes {
		noted.When = ""
		m.note(c.action.line, "allowed hosts of %s are recorded as such that would be denied too: they are too many for one condition", c.caller)
	}
	rest(noted)
}
