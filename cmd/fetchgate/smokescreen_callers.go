package main

import (
	"regexp"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// identitySource says how callers prove who they are.
type identitySource struct {
	spiffePrefix string // "spiffe://prod/ns/"; empty: none
	dnsSuffix    string // ".svc.example"; empty: none
}

// client makes the caller of a rule; an empty name stands for all clients that
// have no rule.
func (m *aclImport) client(rule *aclRule, name string) *aclClient {
	c := &configv1.Caller{Owner: rule.owner()}
	if c.Owner != rule.project.text {
		m.note(rule.project.line, "the project is cut to %d characters", maxOwnerRunes)
	}
	if name == "" {
		c.Name = m.unique("others")
		m.comment("Every client that has no rule of its own: the default of the ACL. Who shows no")
		m.comment("proof is this caller only with dangerous_anonymous: true.")
	} else if c.Name = name; named(name) != name {
		c.Name = m.unique(named(name))
		m.comment("The role %q.", name)
	}
	m.identify(c, name)
	client := &aclClient{aclRule: rule, caller: c.Name, own: m.hosts("allowed_domains", rule.allowed)}
	for _, proxy := range rule.proxies {
		m.note(proxy.line, "%q of allowed_external_proxies is not carried over: callers cannot name a proxy", proxy.text)
	}
	m.callers = append(m.callers, importedCaller{c, m.comments()})
	return client
}

var (
	spiffeName = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
	dnsLabels  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// identify says how a caller proves who it is; empty stands for all other
// clients.
func (m *aclImport) identify(c *configv1.Caller, name string) {
	if m.from == (identitySource{}) {
		c.TokenSha256 = []string{fillIn}
		return
	}
	if prefix := m.from.spiffePrefix; prefix != "" {
		id := prefix + name
		switch {
		case name == "":
			id += "*"
		case !spiffeName.MatchString(name):
			id = fillIn
		}
		c.SpiffeIds = []string{id}
	}
	if suffix := m.from.dnsSuffix; suffix != "" && (name != "" || len(c.SpiffeIds) == 0) {
		dns := strings.ToLower(name)
		if dnsLabels.MatchString(dns) {
			dns += suffix
		} else {
			dns = fillIn
		}
		c.DnsNames = []string{dns}
	}
}

// owner is the project of a rule, as long as an owner may be.
func (r *aclRule) owner() string {
	project := []rune(r.project.text)
	return string(project[:min(len(project), maxOwnerRunes)])
}
