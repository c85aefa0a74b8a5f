package policy_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestDescribe(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "plain", Origins: []string{"https://API.example.com", "http://*"}},
		{Name: "some", Origins: []string{"https://*.example.com"}, Methods: []string{"GET", "HEAD"}},
		{Name: "port", Origins: []string{"https://a.example.com"}, Ports: []int32{8443}, Methods: []string{"GET"}},
		{Name: "ports", Origins: []string{"https://b.example.com"}, Ports: []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{Name: "no", Action: "deny", Mode: "report", Origins: []string{"https://*"}, Methods: []string{"PUT"}, Paths: []string{"/a", "/b/*"}, Callers: []string{"shop"}, When: "true"},
	}, policy.Options{})
	want := []string{
		"plain: https://API.example.com, http://*",
		"some: https://*.example.com (GET, HEAD)",
		"port: https://a.example.com on port 8443 (GET)",
		"ports: https://b.example.com on ports 1, 2, 3, 4, 5, 6, 7, 8, and 2 more",
		"no: deny https://* (PUT) at /a, /b/* for shop, under conditions, mode report",
	}
	if got := p.Describe(); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	nothing := []string{"no rules: everything is denied; add rules (docs/policy.md)"}
	if got := compile(t, []*configv1.Rule{}, policy.Options{}).Describe(); !slices.Equal(got, nothing) {
		t.Errorf("nothing is allowed, and described as %q", got)
	}
	without := []string{"default: http on port 80 and https on port 443 of public addresses"}
	if got := compile(t, nil, policy.Options{}).Describe(); !slices.Equal(got, without) {
		t.Errorf("without rules it is %q", got)
	}
	for _, mode := range []string{"report", "open"} {
		want := []string{"default: http and https on ports 80 and 443 of public addresses, mode " + mode}
		for _, rules := range [][]*configv1.Rule{nil, {}} {
			if got := compile(t, rules, policy.Options{Mode: mode}).Describe(); !slices.Equal(got, want) {
				t.Errorf("without rules, in the mode %s, it is %q", mode, got)
			}
		}
	}
}

func TestRules(t *testing.T) {
	rules := []*configv1.Rule{
		{Name: "one", Owner: "team", Origins: []string{"https://a.example.com", "https://*.b.example.com"}},
		{Name: "two", Origins: []string{"http://*"}},
	}
	asked := 0
	p := compile(t, rules, policy.Options{Locate: func(path string) string { asked++; return "policy.yaml:" + path }})
	want := []policy.Rule{
		{Name: "one", At: "policy.yaml:rules[0]", Owner: "team", Origins: rules[0].Origins},
		{Name: "two", At: "policy.yaml:rules[1]", Origins: rules[1].Origins},
	}
	if got := p.Rules(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if p.RuleAt("two") != want[1].At || p.Owner("one") != "team" || p.RuleAt(policy.DefaultDeny)+p.Owner("nobody") != "" {
		t.Error("a rule is not found by its name, or one that is not there is")
	}
	if asked != len(rules) {
		t.Errorf("asked %d times for places of %d rules", asked, len(rules))
	}
	p.Rules()[0].Origins[0] = "https://evil.example"
	if got := p.Rules()[0].Origins[0]; got != want[0].Origins[0] {
		t.Errorf("whoever asks can change a rule: %q", got)
	}
}

func TestRulesWithoutPlaces(t *testing.T) {
	locate := func(path string) string { t.Errorf("asked for %s, which is not written", path); return path }
	p := compile(t, nil, policy.Options{Locate: locate})
	if got := p.Rules(); len(got) != 1 || got[0].Name != "default" || got[0].At != "" {
		t.Errorf("without rules they are %+v", got)
	}
	p = compile(t, []*configv1.Rule{{Name: "r", Origins: []string{"http://*"}}}, policy.Options{})
	if got := p.RuleAt("r"); got != "" {
		t.Errorf("a place from nowhere: %q", got)
	}
}

func TestDowngradeNeedsAnHTTPOrigin(t *testing.T) {
	r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}, DangerousAllowDowngrade: true}
	got := faultsOf(t, r)
	if len(got) != 1 || !strings.HasPrefix(got[0], "rules[0].dangerous_allow_downgrade: ") {
		t.Errorf("got %q", got)
	}
	r.Origins = append(r.Origins, "http://example.com")
	if got := faultsOf(t, r); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
