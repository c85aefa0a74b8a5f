package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// Finding is something in a list of rules that is legal and most likely not
// meant.
type Finding struct {
	// Path is where it is: "rules[2].origins[0]", "callers[1]".
	Path    string
	Message string
}

// Lint looks for what is most likely not meant in rules that compile: those that
// never decide, those that share requests and carry them out in different ways,
// those that open every host, callers to whom nothing is allowed, and TLS
// profiles that no rule names. What it says is certain; it does not find all,
// since it compares rules two by two.
func Lint(rules []*configv1.Rule, mode string, callers, profiles []string) []Finding {
	l := linter{at: map[pattern][]int{}}
	var f faults
	def := compileMode("mode", mode, enforce, &f)
	for i, in := range rules {
		s := scope{rule: &rule{name: in.GetName(), methods: in.GetMethods(), callers: slices.Sorted(slices.Values(in.GetCallers()))}, in: in, place: i}
		s.deny, s.mode = in.GetAction() == "deny", compileMode("", in.GetMode(), def, &f)
		s.query = compileQuery("", in.GetQuery(), &f)
		c := compiler{policy: &Policy{}}
		c.addPaths("", in.GetPaths(), s.rule, &f)
		s.origins, s.ports = in.GetOrigins(), compilePorts("", in.GetPorts(), &f)
		c.addOrigins("", s.rule, &f)
		l.scopes = append(l.scopes, s)
		for _, p := range s.patterns {
			l.at[p] = append(l.at[p], i)
		}
	}
	if len(f) > 0 {
		return nil // Compile says what is wrong
	}
	for i := range l.scopes {
		l.look(&l.scopes[i])
	}
	l.lookCallers(callers)
	l.lookProfiles(profiles)
	return l.findings
}

type linter struct {
	scopes   []scope
	at       map[pattern][]int // the rules with a pattern
	findings []Finding
}

// scope is what a rule is for.
type scope struct {
	*rule
	in    *configv1.Rule
	place int
}

func (l *linter) add(s *scope, key, format string, args ...any) {
	path := "rules[" + strconv.Itoa(s.place) + "]" + key
	l.findings = append(l.findings, Finding{Path: path, Message: fmt.Sprintf(format, args...)})
}

// look looks at one rule and those that may decide before it.
func (l *linter) look(s *scope) {
	if s.deny && s.mode == open {
		l.add(s, "", "the rule denies in mode open, so it is never asked; remove it, or set mode: report")
		return
	}
	for i, text := range s.in.GetOrigins() {
		p, _, err := parseOrigin(text, s.deny)
		if err == nil && p.Host == "" && !s.deny && len(s.paths) == 0 && len(s.methods) == 0 {
			l.add(s, ".origins["+strconv.Itoa(i)+"]", "%q allows every host with every method and path; name hosts, methods or paths", text)
		}
	}
	for _, other := range l.sharing(s) {
		if other.covers(s) && other.precedes(s) {
			l.add(s, "", "the rule never decides: rule %q, which %s, is for the same requests or more and comes first; remove one, or put the narrower first", other.name, other.says())
			return
		}
	}
	for _, other := range l.sharing(s) {
		if other.place < s.place && other.overlaps(s) && !s.covers(other) && !other.covers(s) && !sameSettings(other.in, s.in) {
			l.add(s, "", "some requests are for rule %q too, which comes first and carries them out in another way; check that the order is meant", other.name)
		}
	}
}

func (r *rule) says() string {
	if r.deny {
		return "denies"
	}
	return "allows"
}

// sharing returns the other rules that have an origin in common with s, in the
// order of the configuration.
func (l *linter) sharing(s *scope) []*scope {
	places := map[int]bool{}
	for _, p := range s.patterns {
		for _, above := range around(p) {
			for _, place := range l.at[above] {
				places[place] = places[place] || l.scopes[place].reaches(above, p)
			}
		}
	}
	delete(places, s.place)
	var found []*scope
	for place, shares := range places {
		if shares {
			found = append(found, &l.scopes[place])
		}
	}
	slices.SortFunc(found, func(a, b *scope) int { return a.place - b.place })
	return found
}

// around returns p and every pattern that stands for all that p stands for.
func around(p pattern) []pattern {
	all := []pattern{p}
	if p.Host == "" {
		return all
	}
	_, isAddress := p.Addr()
	above := pattern{p.Origin, true}
	if !isAddress {
		for above.Host = range parents(p.Host) {
			all = append(all, above)
		}
	}
	above.Host = ""
	return append(all, above)
}

// precedes reports whether r decides before s about what both are for.
func (r *scope) precedes(s *scope) bool {
	if rank := r.rank() - s.rank(); rank != 0 {
		return rank < 0 && r.rank() != reportedDeny
	}
	return r.place < s.place
}

// reportedDeny is the rank of rules that deny and are not enforced: what they are
// for, allowing rules decide too.
const reportedDeny = 1

// rank is the place of the kind of rule in the order in which rules decide.
func (r *scope) rank() int {
	switch {
	case !r.deny:
		return 2
	case r.mode == enforce:
		return 0
	case r.mode == report:
		return reportedDeny
	}
	return 3 // never asked
}

// covers reports whether r is surely for all that s is for.
func (r *scope) covers(s *scope) bool {
	if r.in.GetWhen() != "" || len(r.callers) > 0 && !isAmong(s.callers, r.callers) || len(r.methods) > 0 && !isAmong(s.methods, r.methods) {
		return false
	}
	for _, name := range r.in.GetHeaders() {
		if !slices.ContainsFunc(s.in.GetHeaders(), func(other string) bool { return strings.EqualFold(name, other) }) {
			return false
		}
	}
	return r.coversQuery(s) && r.coversOrigins(s) && r.coversPaths(s)
}

// coversQuery compares the parameters. Rules that deny split queries at ';' too.
func (r *scope) coversQuery(s *scope) bool {
	for _, p := range r.query {
		if r.deny != s.deny && strings.Contains(p.name+p.value, ";") {
			return false
		}
		if !slices.ContainsFunc(s.query, func(q param) bool { return q.name == p.name && (q.value == p.value || p.value == anyValue && !s.deny) }) {
			return false
		}
	}
	return true
}

func (r *scope) coversOrigins(s *scope) bool {
	for _, p := range s.patterns {
		if !slices.ContainsFunc(around(p), func(above pattern) bool { return slices.Contains(r.patterns, above) && r.reaches(above, p) }) {
			return false
		}
	}
	return true
}

// reaches reports whether r, which has the pattern above, is for p by it: a
// wildcard that allows does not stand for special names.
func (r *scope) reaches(above, p pattern) bool {
	if r.deny || above == p || p.below {
		return true
	}
	_, isAddress := p.Addr()
	return isAddress || kindOf(p.Host) == ordinary
}

func (r *scope) coversPaths(s *scope) bool {
	if len(r.paths) == 0 {
		return true
	}
	for _, p := range s.paths {
		if !slices.ContainsFunc(r.paths, func(wide pathPattern) bool { return wide.covers(p) }) {
			return false
		}
	}
	return len(s.paths) > 0
}

// covers reports whether p stands for every path that other stands for.
func (p pathPattern) covers(other pathPattern) bool {
	n := len(p.segments)
	switch {
	case len(other.segments) < n, other.below && !p.below:
		return false
	case !p.below && len(other.segments) != n:
		return false
	case p.below && !other.below && len(other.segments) == n:
		return false
	}
	for i, want := range p.segments {
		if got := other.segments[i]; want != got && (want != anySegment || got == "") {
			return false
		}
	}
	return true
}

// overlaps reports whether some request is surely for both, rules without
// conditions that allow.
func (r *scope) overlaps(s *scope) bool {
	for _, one := range []*scope{r, s} {
		if one.deny || one.in.GetWhen() != "" || len(one.query) > 0 || len(one.in.GetHeaders()) > 0 {
			return false
		}
	}
	// The origins are shared: so the two came together.
	return meet(r.callers, s.callers) && meet(r.methods, s.methods) && pathsMeet(r.paths, s.paths)
}

func pathsMeet(a, b []pathPattern) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(p pathPattern) bool {
		return slices.ContainsFunc(b, func(q pathPattern) bool { return p.covers(q) || q.covers(p) })
	})
}

// isAmong reports whether a list, of which none means all, is a part of another
// that is not empty.
func isAmong(list, of []string) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(one string) bool { return !slices.Contains(of, one) })
}

// meet reports whether two lists, of which none means all, have something in
// common.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(one string) bool { return slices.Contains(b, one) })
}

// sameSettings reports whether two rules carry requests out alike.
func sameSettings(a, b *configv1.Rule) bool { return proto.Equal(settingsOf(a), settingsOf(b)) }

func settingsOf(r *configv1.Rule) *configv1.Rule {
	s := proto.CloneOf(r)
	s.Name, s.Owner, s.Action, s.Mode = "", "", "", ""
	s.Callers, s.Origins, s.Ports, s.Methods, s.Paths, s.Query, s.Headers, s.When = nil, nil, nil, nil, nil, nil, nil, ""
	return s
}

// lookCallers looks for callers to whom no rule allows anything.
func (l *linter) lookCallers(callers []string) {
	if len(l.scopes) == 0 {
		return
	}
	for i, name := range callers {
		if !slices.ContainsFunc(l.scopes, func(s scope) bool { return !s.deny && (len(s.callers) == 0 || slices.Contains(s.callers, name)) }) {
			l.findings = append(l.findings, Finding{Path: "callers[" + strconv.Itoa(i) + "]", Message: fmt.Sprintf("no rule allows anything to the caller %q; name it in a rule, or remove it", name)})
		}
	}
}

// lookProfiles looks for TLS profiles that no rule names.
func (l *linter) lookProfiles(profiles []string) {
	for i, name := range profiles {
		if !slices.ContainsFunc(l.scopes, func(s scope) bool { return s.in.GetTlsProfile() == name }) {
			l.findings = append(l.findings, Finding{Path: "tls_profiles[" + strconv.Itoa(i) + "]", Message: fmt.Sprintf("no rule names the TLS profile %q, so it is not used; name it in a rule, or remove it", name)})
		}
	}
}
