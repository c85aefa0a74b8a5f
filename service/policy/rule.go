package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

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
	"name":                      true,
	"owner":                     true,
	"origins":                   true,
	"ports":                     true,
	"methods":                   true,
	"allow_addresses":           true,
	"dangerous_allow_loopback":  true,
	"dangerous_allow_downgrade": true,
	"send_traceparent":          true,
}

// RuleError says what is wrong with a rule and what to write instead.
type RuleError struct {
	// Path is where it is: "rules[2].origins[0]".
	Path    string
	Message string
}

func (e *RuleError) Error() string { return e.Path + ": " + e.Message }

// faults collects all that is wrong with a list of rules.
type faults []error

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, &RuleError{Path: path, Message: fmt.Sprintf(format, args...)})
}

// rule is one rule, compiled.
type rule struct {
	name    string
	owner   string
	at      string   // where it is written, if that is known
	origins []string // as they are written
	ports   []uint16 // of the origins without one; none means the scheme's
	methods []string // none means all
	opened  opened

	allowDowngrade  bool
	sendTraceparent bool
}

// whom returns who can change the rule, for a hint.
func (r *rule) whom() string { return cmp.Or(r.owner, "the owner of the policy") }

// compiler adds rules to a policy.
type compiler struct {
	policy   *Policy
	names    map[string]int
	locate   func(path string) string
	patterns int
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
		origins:         slices.Clone(in.GetOrigins()),
		methods:         slices.Clone(in.GetMethods()),
		opened:          compileOpened(path+".allow_addresses", in, c.policy.table, f),
		allowDowngrade:  in.GetDangerousAllowDowngrade(),
		sendTraceparent: in.GetSendTraceparent(),
	}
	c.policy.rules = append(c.policy.rules, r)
	c.policy.named[r.name] = r
	r.ports = compilePorts(path+".ports", in.GetPorts(), f)
	c.addOrigins(i, path, r, f)
}

// enter puts the rule at place i into the indexes, unless they are full.
func (c *compiler) enter(p pattern, i int) {
	places := c.policy.index[p]
	if len(places) > 0 && places[len(places)-1] == i {
		return
	}
	if c.patterns++; c.patterns <= maxPatterns {
		c.policy.index[p] = append(places, i)
		c.policy.sites.add(p, i)
	}
}

// finish checks what only all rules together can break.
func (c *compiler) finish(f *faults) {
	if c.patterns > maxPatterns {
		f.add("rules", "together they have %d origins, each counted once for each of its ports; at most %d are taken, so use wildcards", c.patterns, maxPatterns)
	}
}

// refuseOthers refuses what is set and not carried out, in the order of the
// schema.
func refuseOthers(path string, in *configv1.Rule, f *faults) {
	var others []protoreflect.FieldDescriptor
	in.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !carriedOut[field.Name()] {
			others = append(others, field)
		}
		return true
	})
	slices.SortFunc(others, func(a, b protoreflect.FieldDescriptor) int {
		return cmp.Compare(a.Number(), b.Number())
	})
	for _, field := range others {
		f.add(path+"."+string(field.Name()), "this server does not carry out %q yet; remove it", field.Name())
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
