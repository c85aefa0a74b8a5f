package policy

import (
	"errors"
	"fmt"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Binding says where a named credential may go. It is a rule of its own, so that
// its origins and paths mean what they mean in rules. It does not change and is
// safe for concurrent use.
type Binding struct {
	rules *Policy
	only  *rule // the one of rules
}

// For reports whether that caller may use the credential at all.
func (b *Binding) For(who fetch.Caller) bool {
	return b.only.takesCaller(&question{ask: &Ask{Caller: who}})
}

// CompileBinding makes the binding of the credential whose settings are at path.
// The error joins one *RuleError for everything that is wrong.
func CompileBinding(path string, c *configv1.HeldCredential) (*Binding, error) {
	compiled, err := Compile([]*configv1.Rule{{
		Name: "binding", Callers: c.GetCallers(), Origins: c.GetOrigins(), Methods: c.GetMethods(), Paths: c.GetPaths(),
	}}, Options{})
	var found []error
	for i, origin := range c.GetOrigins() {
		if isEveryHost(origin) {
			found = append(found, &RuleError{
				Path:    fmt.Sprintf("%s.origins[%d]", path, i),
				Message: fmt.Sprintf("%q would take the secret to every host; name the hosts, or a domain as in https://*.example.com", origin),
			})
		}
	}
	if err == nil && found == nil {
		return &Binding{compiled, compiled.written[0]}, nil
	}
	for _, one := range Joined(err) {
		var wrong *RuleError
		if errors.As(one, &wrong) {
			one = &RuleError{Path: path + strings.TrimPrefix(wrong.Path, "rules[0]"), Message: wrong.Message}
		}
		found = append(found, one)
	}
	return nil, errors.Join(found...)
}

// isEveryHost tells that an origin is that of every host, on whatever port.
func isEveryHost(origin string) bool {
	_, authority, _ := strings.Cut(origin, "://")
	host, _, _ := strings.Cut(authority, ":")
	return host == "*"
}

// Fits reports whether the credential may go with a request of that caller,
// method and destination, however its path is read.
func (b *Binding) Fits(who fetch.Caller, method string, to fetch.Destination) bool {
	q := newQuestion(&Ask{Caller: who, Method: method, Destination: to})
	all, whole := readings(to.Path())
	if len(b.only.paths) > 0 && !whole {
		return false
	}
	for _, reading := range all {
		q.path = reading
		if !b.rules.ask(&q, 0).allows() {
			return false
		}
	}
	return true
}
