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
	for _, row := range regexp.MustCompile("(?m)^\\| `rules\\[\\]\\.([a-z_]+)").FindAllStringSubmatch(refused, -1) {
		documented[row[1]] = true
	}
	fields := (&configv1.Rule{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		rule := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}
		setField(rule.ProtoReflect(), []protoreflect.FieldDescriptor{fd})
		_, err := policy.Compile([]*configv1.Rule{rule}, policy.Options{})
		isRefused := err != nil && strings.Contains(err.Error(), "does not carry out")
		if isRefused != documented[string(fd.Name())] {
			t.Errorf("rules[].%s: refused %v, documented as refused %v", fd.Name(), isRefused, documented[string(fd.Name())])
		}
	}
}
