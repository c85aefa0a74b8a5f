package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// LintCredentials looks for credentials of rules that compile which never go along,
// since their binding shares no request with the rule. What it says is certain.
func LintCredentials(rules []*configv1.Rule, credentials []*configv1.HeldCredential) []Finding {
	bindings := map[string]*scope{}
	var f faults
	for _, c := range credentials {
		bindings[c.GetName()] = newReach(&configv1.Rule{Callers: c.GetCallers(), Origins: c.GetOrigins(), Methods: c.GetMethods(), Paths: c.GetPaths()}, &f)
	}
	var findings []Finding
	for i, in := range rules {
		if len(in.GetCredentials()) == 0 {
			continue
		}
		rule := newReach(in, &f)
		for j, name := range in.GetCredentials() {
			b := bindings[name]
			if b == nil {
				continue // the configuration is refused for it
			}
			if what := rule.apartFrom(b); what != "" {
				path := "rules[" + strconv.Itoa(i) + "].credentials[" + strconv.Itoa(j) + "]"
				findings = append(findings, Finding{Path: path, Message: fmt.Sprintf("the credential %q never goes along: %s; change its binding or the rule, or leave it out here", name, what)})
			}
		}
	}
	if len(f) > 0 {
		return nil // Compile says what is wrong
	}
	return findings
}

// newReach is what a rule is for, by origin, caller, method and path alone.
func newReach(in *configv1.Rule, f *faults) *scope {
	s := &scope{rule: &rule{origins: in.GetOrigins(), methods: in.GetMethods(), callers: in.GetCallers()}, in: in}
	c := compiler{policy: &Policy{}}
	c.addPaths("", in.GetPaths(), s.rule, f)
	s.ports = compilePorts("", in.GetPorts(), f)
	c.addOrigins("", s.rule, f)
	return s
}

// apartFrom says in what a binding and a rule have nothing in common, empty if they
// may have a request.
func (r *scope) apartFrom(binding *scope) string {
	switch {
	case !slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.Scheme == "https" }):
		return "it goes to https alone, and the rule has http origins alone"
	case !anyMeet(r.patterns, binding.patterns, pattern.meets):
		return "it is bound to " + some(binding.origins) + ", and the rule is for none of these"
	case !meet(r.methods, binding.methods):
		return "it is bound to the methods " + some(binding.methods) + ", and the rule is for none of these"
	case !meet(r.callers, binding.callers):
		return "it is bound to the callers " + some(binding.callers) + ", and the rule is for none of these"
	case len(r.paths) > 0 && len(binding.paths) > 0 && !anyMeet(r.paths, binding.paths, pathPattern.meets):
		return "it is bound to the paths " + some(binding.asPaths) + ", and the rule is for none of these"
	}
	return ""
}

func anyMeet[T any](a, b []T, meets func(T, T) bool) bool {
	return slices.ContainsFunc(a, func(one T) bool {
		return slices.ContainsFunc(b, func(other T) bool { return meets(one, other) })
	})
}

// meets reports whether there may be an origin that p and q stand for.
func (p pattern) meets(q pattern) bool {
	return p.Scheme == q.Scheme && p.Port == q.Port && (p.Host == q.Host && p.below == q.below || p.isAbove(q) || q.isAbove(p))
}

// isAbove reports whether p, a wildcard, stands for names that q stands for or is.
func (p pattern) isAbove(q pattern) bool {
	return p.below && (p.Host == "" || strings.HasSuffix(q.Host, "."+p.Host))
}

// meets reports whether there is a path that p and q stand for.
func (p pathPattern) meets(q pathPattern) bool {
	short, long := p, q
	if len(p.segments) > len(q.segments) {
		short, long = q, p
	}
	n := len(short.segments)
	if len(long.segments) > n && !short.below || len(long.segments) == n && short.below != long.below {
		return false
	}
	for i, one := range short.segments {
		other := long.segments[i]
		if one != other && (one != anySegment || other == "") && (other != anySegment || one == "") {
			return false
		}
	}
	return true
}
