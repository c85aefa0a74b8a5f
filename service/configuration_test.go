package service_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestRefusedRuleFieldsAreDocumented: the page on the configuration lists as
// refused exactly those fields of a rule that a server refuses at load.
func TestRefusedRuleFieldsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, refused, found := strings.Cut(string(page), "### Refused at load in this version")
	if !found {
		t.Fatal("the page does not say what is refused at load in this version")
	}
	refused, _, _ = strings.Cut(refused, "\n## ")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `rules\\[\\]\\.([a-z_.]+)`").FindAllStringSubmatch(refused, -1) {
		documented[row[1]] = true
	}
	fields := (&configv1.Rule{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		wantRefusedRule(t, documented, fd)
		if fd.Message() != nil && !fd.IsMap() {
			for j := range fd.Message().Fields().Len() {
				wantRefusedRule(t, documented, fd, fd.Message().Fields().Get(j))
			}
		}
	}
	for name := range documented {
		t.Errorf("rules[].%s: documented as refused, and not a field", name)
	}
}

// wantRefusedRule sets a field of a rule, by its path, and takes it off what is
// documented as refused.
func wantRefusedRule(t *testing.T, documented map[string]bool, path ...protoreflect.FieldDescriptor) {
	t.Helper()
	var names []string
	for _, fd := range path {
		names = append(names, string(fd.Name()))
	}
	name := strings.Join(names, ".")
	rule := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}
	setField(rule.ProtoReflect(), path)
	_, err := policy.Compile([]*configv1.Rule{rule}, policy.Options{})
	if isRefused := err != nil && strings.Contains(err.Error(), "does not carry out"); isRefused != documented[name] {
		t.Errorf("rules[].%s: refused %v, documented as refused %v", name, isRefused, documented[name])
	}
	delete(documented, name)
}
