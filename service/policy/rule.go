package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxPatterns is how many patterns all rules have together, each origin counted
// once for each of its ports.
const maxPatterns = 250_000

// carriedOut are the fields of a rule that this package carries out. A rule that
// sets any other is refused.
var carriedOut = map[protoreflect.Name]bool{
	"name":                          true,
	"owner":                         true,
	"action":                        true,
	"mode":                          true,
	"callers":                       true,
	"origins":                       true,
	"ports":                         true,
	"methods":                       true,
	"paths":                         true,
	"query":                         true,
	"headers":                       true,
	"when":                          true,
	"allow_addresses":               true,
	"deny_addresses":                true,
	"mixed_answers":                 true,
	"dangerous_allow_loopback":      true,
	"dangerous_allow_metadata":      true,
	"dangerous_allow_own_listeners": true,
	"dangerous_allow_downgrade":     true,
	"allow_underscore_fields":       true,
	"tls_profile":                   true,
	"credentials":                   true,
	"isolate":                       true,
	"send_traceparent":              true,
	"set_fields":                    true,
	"remove_fields":                 true,
	"timeouts":                      true,
	"retry":                         true,
	"limits":                        true,
}

// ofDenying are the fields of a rule that denies: the others say how something
// is carried out.
var ofDenying = map[protoreflect.Name]bool{
	"name": true, "owner": true, "action": true, "mode": true, "callers": true, "origins": true, "ports": true,
	"methods": true, "paths": true, "query": true, "headers": true, "when": true,
}

// RuleError says what is wrong with a rule and what to write instead.
type RuleError struct {
	// Path is where it is: "rules[2].origins[0]".
	Path    string
	Message string
}

func (e *RuleError) Error() string { return e.Path + ": " + e.Message }

// Joined are the errors that err joins, at every depth: err itself if it joins none,
// and none for nil.
func Joined(err error) []error {
	if err == nil {
		return nil
	}
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range several.Unwrap() {
		all = append(all, Joined(e)...)
	}
	return all
}

// faults collects all that is wrong with a list of rules.
type faults []error

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, &RuleError{Path: path, Message: fmt.Sprintf(format, args...)})
}

// rule is one rule, compiled.
type rule struct {
	name     string
	owner    string
	at       string // where it is written, if that is known
	deny     bool
	mode     mode
	callers  []string // in order; none means all
	origins  []string // as they are written
	ports    []uint16 // of the origins without one; none means the scheme's
	methods  []string // none means all
	paths    []pathPattern
	asPaths  []string // as they are written
	query    []param
	headers  []string
	when     *condition
	opened   opened
	patterns []pattern

	allowDowngrade  bool
	sendTraceparent bool
	filterMixed     bool
	isolateCaller   bool
	underscores     bool
	credentials     []string
	profile         string              // of TLS; empty means none
	settings        *fetch.RuleSettings // nil if it has none
}

// whom returns who can change the rule, for a hint.
func (r *rule) whom() string { return cmp.Or(r.owner, "the owner of the policy") }

// compiler adds rules to a policy.
type compiler struct {
	policy     *Policy
	names      map[string]int
	conditions map[string]*condition
	profiles   map[string]fetch.TLSSettings
	locate     func(path string) string
	patterns   int
}

// add compiles the rule at place i of the configuration.
func (c *compiler) add(i int, in *configv1.Rule, f *faults) {
	path := "rules[" + strconv.Itoa(i) + "]"
	refuseOthers(path, in, f)
	c.checkName(i, path+".name", in.GetName(), f)
	checkMethods(path+".methods", in.GetMethods(), f)
	r := &rule{
		name:            in.GetName(),
		owner:           in.GetOwner(),
		at:              c.locate(path),
		deny:            choice(path+".action", in.GetAction(), "deny", "allow", f),
		mode:            compileMode(path+".mode", in.GetMode(), c.policy.mode, f),
		callers:         slices.Compact(slices.Sorted(slices.Values(in.GetCallers()))),
		origins:         slices.Clone(in.GetOrigins()),
		methods:         slices.Clone(in.GetMethods()),
		query:           compileQuery(path+".query", in.GetQuery(), f),
		headers:         compileHeaders(path+".headers", in.GetHeaders(), f),
		when:            c.condition(path+".when", in.GetWhen(), f),
		opened:          compileOpened(path, in, c.policy.table, f),
		allowDowngrade:  in.GetDangerousAllowDowngrade(),
		sendTraceparent: in.GetSendTraceparent(),
		filterMixed:     choice(path+".mixed_answers", in.GetMixedAnswers(), "filter", "deny", f),
		isolateCaller:   choice(path+".isolate", in.GetIsolate(), "caller", "shared", f),
		underscores:     in.GetAllowUnderscoreFields(),
		credentials:     slices.Clone(in.GetCredentials()),
		profile:         in.GetTlsProfile(),
		settings:        compileSettings(path, in, c.profiles, f),
	}
	c.policy.settings = c.policy.settings || r.settings != nil
	c.policy.written = append(c.policy.written, r)
	c.policy.named[r.name] = r
	c.addPaths(path+".paths", in.GetPaths(), r, f)
	r.ports = compilePorts(path+".ports", in.GetPorts(), f)
	c.addOrigins(path, r, f)
}

// choice reports whether a setting has the word yes; empty means no.
func choice(path, in, yes, no string, f *faults) bool {
	if in != "" && in != yes && in != no {
		f.add(path, "%.20q is not known; write %s or %s", in, no, yes)
	}
	return in == yes
}

func (c *compiler) addPaths(path string, in []string, r *rule, f *faults) {
	for i, text := range in {
		forms, err := parsePath(text)
		if err != nil {
			f.add(path+"["+strconv.Itoa(i)+"]", "%v", err)
			continue
		}
		r.paths, r.asPaths = append(r.paths, forms...), append(r.asPaths, text)
	}
}

func compileHeaders(path string, in []string, f *faults) []string {
	for i, name := range in {
		if err := fetch.CheckFieldName(strings.ReplaceAll(name, "_", "-")); err != nil {
			f.add(path+"["+strconv.Itoa(i)+"]", "%v", err)
		}
	}
	return slices.Clone(in)
}

// condition compiles the text of a condition, once however many rules have it.
func (c *compiler) condition(path, text string, f *faults) *condition {
	if text == "" {
		return nil
	}
	if known := c.conditions[text]; known != nil {
		return known
	}
	compiled, err := compileCondition(text)
	if err != nil {
		f.add(path, "%v", err)
		return nil
	}
	c.conditions[text] = compiled
	return compiled
}

// finish puts the rules in the order in which they decide, enters them into the
// indexes and checks what only all together can break.
func (c *compiler) finish(f *faults) {
	p := c.policy
	for _, wanted := range []func(*rule) bool{
		func(r *rule) bool { return r.deny && r.mode == enforce },
		func(r *rule) bool { return r.deny && r.mode == report },
		func(r *rule) bool { return !r.deny },
	} {
		p.denying = len(p.ordered)
		for _, r := range p.written {
			if wanted(r) {
				p.ordered = append(p.ordered, r)
			}
		}
	}
	entries := 0
	p.lax = p.mode != enforce
	for place, r := range p.ordered {
		p.byPath = p.byPath || len(r.paths) > 0 || r.when != nil
		p.lax = p.lax || r.mode != enforce
		p.underscores = p.underscores || r.underscores
		p.everyone = p.everyone || len(r.callers) == 0
		for _, name := range r.callers {
			p.members[name] = true
		}
		for _, at := range r.patterns {
			if at.below && at.Host != "" {
				p.deepest = max(p.deepest, strings.Count(at.Host, ".")+1)
			}
			if entries < maxPatterns {
				entries += p.index.add(at, place, r)
			}
			p.sites.add(at, place)
		}
		r.patterns = nil
	}
	p.index.divide(p.ordered)
	if c.patterns = max(c.patterns, entries); c.patterns > maxPatterns {
		f.add("rules", "together they have %d origins, each counted once for each of its ports, paths and callers; at most %d are taken, so use wildcards", c.patterns, maxPatterns)
	}
}

// refuseOthers refuses what is set and not carried out, in the order of the
// schema.
func refuseOthers(path string, in *configv1.Rule, f *faults) {
	fields := in.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := fields.Get(i).Name()
		switch {
		case !in.ProtoReflect().Has(fields.Get(i)):
		case !carriedOut[name]:
			f.add(path+"."+string(name), "this server does not carry out %q yet; remove it", name)
		case in.GetAction() == "deny" && !ofDenying[name]:
			f.add(path+"."+string(name), "a rule that denies carries nothing out; remove %s", name)
		}
	}
	if len(in.ProtoReflect().GetUnknown()) > 0 {
		f.add(path, "the rule has fields that this server does not know; remove them")
	}
}

func (c *compiler) checkName(i int, path, name string, f *faults) {
	first, taken := c.names[name]
	switch {
	case name == "":
		f.add(path, "a rule needs a name")
	case name == DefaultDeny:
		f.add(path, "%q is what a decision without a rule is called; choose another name", name)
	case taken:
		f.add(path, "rules[%d] is named %q too; names are unique", first, name)
	default:
		c.names[name] = i
	}
}

func checkMethods(path string, methods []string, f *faults) {
	for i, m := range methods {
		if err := fetch.CheckMethod(m); err != nil {
			f.add(path+"["+strconv.Itoa(i)+"]", "%v", err)
		}
	}
}
