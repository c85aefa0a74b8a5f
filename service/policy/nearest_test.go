package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestHintNamesTheNearestRule: of several rules for the origin the hint names the
// one that passes the most checks, of equal ones the first, and none that is for
// others.
func TestHintNamesTheNearestRule(t *testing.T) {
	origins := []string{"https://echo.example.com"}
	p := compile(t, []*configv1.Rule{
		{Name: "others", Owner: "team-others", Callers: []string{"billing"}, Origins: origins, Methods: []string{"POST"}, Paths: []string{"/hook/*"}, Headers: []string{"X-Other"}},
		{Name: "items", Owner: "team-shop", Origins: origins, Methods: []string{"GET"}, Paths: []string{"/items/*"}},
		{Name: "hook", Owner: "team-hooks", Origins: origins, Methods: []string{"POST"}, Paths: []string{"/hook/*"}, Headers: []string{"Webhook-Signature"}},
		{Name: "search", Owner: "team-search", Origins: []string{"https://*.example.com"}, Methods: []string{"GET"}, Paths: []string{"/search"}, Query: map[string]string{"q": "*"}},
		{Name: "labelled", Owner: "team-label", Origins: origins, Methods: []string{"GET"}, Paths: []string{"/labelled"}, When: `request.host == "never"`},
	}, placed())
	for asked, want := range map[string]string{
		"POST /hook/1":    `Rule "hook" allows this origin, but not a request without the header fields that it names; ask team-hooks.`,
		"POST /items/1":   `Rule "items" allows this origin, but not the method POST; ask team-shop.`,
		"GET /search":     `Rule "search" allows this origin, but not the query; ask team-search.`,
		"GET /labelled":   `Rule "labelled" allows this origin, but not what its condition leaves out; ask team-label.`,
		"GET /elsewhere":  `Rule "items" allows this origin, but not the path; ask team-shop.`,
		"PUT /elsewhere":  `Rule "items" allows this origin, but not the method PUT; ask team-shop.`,
		"GET /search?x=1": `Rule "search" allows this origin, but not the query; ask team-search.`,
	} {
		method, path, _ := strings.Cut(asked, " ")
		d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: method, Destination: parseURL(t, "https://echo.example.com"+path)})
		if d.Denied == nil || !strings.HasPrefix(d.Denied.Hint, want) {
			t.Errorf("%s: %+v\n want %s", asked, d.Denied, want)
		}
	}
}

// TestNearMissesOfQueryConditionAndPath: what a rule asks for beyond method and
// path is told too, and a path that the rule has is not told as another.
func TestNearMissesOfQueryConditionAndPath(t *testing.T) {
	origins := []string{"https://api.example.com"}
	p := compile(t, []*configv1.Rule{
		{Name: "search", Origins: origins, Paths: []string{"/search"}, Query: map[string]string{"team": "7 a"}},
		{Name: "any", Origins: origins, Paths: []string{"/any"}, Query: map[string]string{"q": "*"}},
		{Name: "two", Origins: origins, Paths: []string{"/two"}, Query: map[string]string{"a": "1", "b": "2"}},
		{Name: "labelled", Origins: origins, Paths: []string{"/labelled"}, When: `labels["job"] == "sync"`},
		{Name: "others", Callers: []string{"billing"}, Origins: origins, Paths: []string{"/others"}, When: "false"},
		{Name: "items", Origins: origins, Paths: []string{"/x", "/items/{id}"}},
	}, placed())
	labels := map[string]string{"job": "other"}
	for path, want := range map[string][]string{
		"/search":          {"search: the query had team=7 a"},
		"/search?team=8":   {"search: the query had team=7 a"},
		"/any?p=1":         {"any: the query had the parameter q"},
		"/two":             nil,
		"/two?a=1&b=3":     {"two: the query had b=2"},
		"/labelled":        {"items: the path were /x", "labelled: its condition (when) held"},
		"/others":          {"items: the path were /x"},
		"/items/a%2fdmin":  {"items: servers read the path in one way alone"},
		"/items/a%2fdm/in": {"items: the path were /x"},
	} {
		ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: parseURL(t, "https://api.example.com"+path), Labels: labels}
		var got []string
		for _, n := range p.Explain(context.Background(), ask).NearMisses {
			if want == nil || n.Rule == "items" && !strings.Contains(fmt.Sprint(want), "items: ") {
				continue // there is always another path
			}
			got = append(got, n.Rule+": "+n.Difference)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: near are %q, want %q", path, got, want)
		}
	}
}

// TestDetailsOfPassedChecks: a step says what is so, not what would be wrong.
func TestDetailsOfPassedChecks(t *testing.T) {
	signed := &configv1.Rule{Name: "signed", Origins: []string{"https://a.example.com"}, Query: map[string]string{"q": "*"}, Headers: []string{"X-A"}, When: `request.method == "GET"`}
	plain := &configv1.Rule{Name: "plain", Origins: []string{"https://a.example.com"}}
	other := func(r *configv1.Rule) []*configv1.Rule {
		r.Name, r.Origins = "other", plain.Origins
		return []*configv1.Rule{plain, r}
	}
	ask := policy.Ask{Method: "GET", Destination: parseURL(t, "https://a.example.com/?q=1"), Fields: []fetch.Field{{Name: "X-A"}}}
	for want, rules := range map[string][]*configv1.Rule{
		"query: the query has the parameters that a rule names; header: the request has the header fields that a rule names; when: the condition of a rule holds": {signed},
		"query: a rule that is left names no parameters":     other(&configv1.Rule{Query: map[string]string{"z": "*"}}),
		"header: a rule that is left names no header fields": other(&configv1.Rule{Headers: []string{"X-Z"}}),
		"when: a rule that is left has no condition":         other(&configv1.Rule{When: "false"}),
	} {
		var got []string
		for _, c := range compile(t, rules, placed()).Explain(context.Background(), ask).Checks {
			if slices.Contains([]string{"query", "header", "when"}, c.Name) {
				got = append(got, c.Name+": "+c.Detail)
			}
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestModeDoesNotOpenAddresses: in the mode report an address that is denied all the
// same is told as such, and what rules say is not lost.
func TestModeDoesNotOpenAddresses(t *testing.T) {
	o := placed()
	o.Mode = "report"
	p := compile(t, []*configv1.Rule{
		{Name: "items", Owner: "team-shop", Origins: []string{"http://10.0.0.1", "https://a.example.com"}, Paths: []string{"/items"}, AllowAddresses: []string{"10.0.0.0/8"}},
	}, o)
	const hint = `Rule "items" allows this origin, but not the path; ask team-shop. `
	e := explain(t, p, "GET", "http://10.0.0.1/x")
	mode := e.Checks[slices.IndexFunc(e.Checks, func(c policy.Check) bool { return c.Name == "mode" })]
	if e.Why != e.Decision.Denied.Message || e.Hint != e.Decision.Denied.Hint ||
		mode.Detail != `"report" lets go ahead what rules deny, but addresses are judged in every mode` || !strings.HasPrefix(e.Hint, hint+"For an internal") {
		t.Errorf("why %q, mode %q, hint %q", e.Why, mode.Detail, e.Hint)
	}
	if denied := allow(t, shop(t, p, "GET", "https://a.example.com/x"), "10.0.0.1:443"); denied == nil || !strings.HasPrefix(denied.Hint, hint+"Check the host's") {
		t.Errorf("where it is dialed: %+v", denied)
	}
	if denied := allow(t, shop(t, p, "GET", "https://a.example.com/items"), "192.168.0.1:443"); denied == nil || !strings.HasPrefix(denied.Hint, "Check the host's") {
		t.Errorf("a rule allows it: %+v", denied)
	}
}
