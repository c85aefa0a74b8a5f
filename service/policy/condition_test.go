package policy_test

import (
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestBadConditions(t *testing.T) {
	for text, want := range map[string]string{
		"true &&":                        "line 1, column ",
		"request.body == ''":             "undeclared reference",
		"request.pth == 'x'":             `request has no "pth"; it has method, scheme, host, port, path, query, headers`,
		"caller.team == 'x'":             `caller has no "team"; it has name, identity, owner`,
		"path == '/x'":                   "; a condition has request (method, scheme, ",
		`request.query["a"] == "x"`:      `; it is a list: write "x" in request.query["a"]`,
		`request.headers["a"] != 'x'`:    `; it is a list: write !('x' in request.headers["a"])`,
		`request.query["a"] == labels.x`: `; it is a list, as parameters and header fields are: write "x" in request.query["a"]`,
		"request.port == '443'":          "no matching overload",
		"request.path":                   "it yields string; write a condition that is true or false",
		"labels.job":                     "it yields string",
		"caller.rights == 3":             "undeclared reference",
		"request.path.matches('(')":      "it cannot be carried out: ",
		"request.path.frobnicate() == 1": "undeclared reference",
		"[" + strings.Repeat("'a',", 150) + "'a'].map(x, [" + strings.Repeat("'a',", 150) + "'a'].map(y, x + y)).size() == 1": "one evaluation costs at least",
	} {
		r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}, When: text}
		got := faultsOf(t, r)
		if len(got) != 1 || !strings.HasPrefix(got[0], "rules[0].when: ") || !strings.Contains(got[0], want) {
			t.Errorf("%.60s: got %.300q, want %q", text, got, want)
		}
	}
}

// TestUnclearConditionTellsNothing: what a condition stumbles over is of the
// request, and neither its caller's log nor the record is a place for it.
func TestUnclearConditionTellsNothing(t *testing.T) {
	for text, want := range map[string]string{
		`int(request.query["n"][0]) > 1`:                     "it ended in an error",
		`timestamp(request.query["n"][0]) > timestamp(0)`:    "it ended in an error",
		`request.query["other"][0] == "1"`:                   "it ended in an error (no such key)",
		`request.query["n"][7] == "1"`:                       "it ended in an error",
		`1 / (request.port - 443) > 0`:                       "it ended in an error (division by zero)",
		`request.query["n"][0].matches("(h|u|s|h)*x.*y.*z")`: "",
		`"xxxxxxxx".size() > 0 && request.headers["x"].all(a, request.headers["x"].all(b, request.headers["x"].all(c, a + b != c)))`: "it costs more than one evaluation may",
	} {
		p := compile(t, []*configv1.Rule{{Name: "r", Owner: "team", Origins: []string{"https://example.com"}, When: text}}, policy.Options{})
		ask := policy.Ask{Method: "GET", Destination: parseURL(t, "https://example.com/?n=hush")}
		for range 100 {
			ask.Fields = append(ask.Fields, fetch.Field{Name: "X", Value: []byte("hush")})
		}
		d := p.Decide(ask)
		if d.Denied == nil {
			t.Errorf("%s: allowed", text)
			continue
		}
		checkExplained(t, p, ask, d)
		if want != "" && (!strings.Contains(d.Denied.Message, want) || d.Rule != "r") {
			t.Errorf("%s: %q by %s, want %q", text, d.Denied.Message, d.Rule, want)
		}
		if all := d.Denied.Message + d.Denied.Hint + d.Denied.Audit; strings.Contains(all, "hush") {
			t.Errorf("%s: %q tells of the request", text, all)
		}
	}
}
