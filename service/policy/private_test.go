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

// forBilling are rules that only billing may learn of, and one for all.
func forBilling() []*configv1.Rule {
	return []*configv1.Rule{
		{Name: "ledger", Owner: "team-ledger", Callers: []string{"billing"}, Origins: []string{"https://ledger.example.com"}, Methods: []string{"GET"}},
		{Name: "ledger-port", Callers: []string{"billing"}, Origins: []string{"https://ledger.example.com:8443"}},
		{Name: "open", Origins: []string{"https://open.example.com"}},
		{Name: "both", Callers: []string{"billing"}, Origins: []string{"https://both.example.com"}},
		{Name: "both-all", Origins: []string{"https://both.example.com:9443"}},
	}
}

// TestRulesOfOthersAreNotTold: to another caller a host that only billing has
// rules for looks like one that nobody has.
func TestRulesOfOthersAreNotTold(t *testing.T) {
	p := compile(t, forBilling(), placed())
	told := func(method, host string) string {
		e := p.Explain(context.Background(), policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: method, Destination: parseURL(t, "https://"+host+"/")})
		text := fmt.Sprint(e.Decision.Rule, e.Decision.Denied, e.Why, e.Hint, e.Checks, e.NearMisses, e.RuleAt, e.Owner)
		host, _, _ = strings.Cut(host, ":")
		return strings.NewReplacer(host, "HOST", ":444", "", "port 444", "port 443").Replace(text)
	}
	for _, method := range []string{"GET", "PUT"} {
		if ruled, unknown := told(method, "ledger.example.com"), told(method, "nobody.example.com"); ruled != unknown {
			t.Errorf("a caller tells\n%s\nfrom\n%s", ruled, unknown)
		}
		if ruled, unknown := told(method, "both.example.com"), told(method, "both.example.com:444"); ruled != unknown {
			t.Errorf("a caller tells\n%s\nfrom\n%s", ruled, unknown)
		}
	}
}

func TestNearMissesOfNewKeys(t *testing.T) {
	p := compile(t, append(forBilling(),
		&configv1.Rule{Name: "items", Origins: []string{"https://api.example.com"}, Paths: []string{"/v1/items", "/v2/*"}},
		&configv1.Rule{Name: "team", Origins: []string{"https://team.example.com"}, Headers: []string{"X-Team"}},
		&configv1.Rule{Name: "no", Action: "deny", Origins: []string{"https://api.example.com"}, Paths: []string{"/v1/items"}},
	), placed())
	for _, c := range []struct {
		caller fetch.Caller
		url    string
		want   []string
	}{
		{fetch.Caller{Name: "billing"}, "https://ledger.example.com:8444/", []string{"ledger-port: the port were 8443", "ledger: the port were 443"}},
		{fetch.Caller{Name: "shop"}, "https://ledger.example.com/", nil},
		{fetch.Caller{Name: "ops", Rights: fetch.RightOperate}, "https://ledger.example.com/", []string{"ledger: the caller were billing"}},
		{fetch.Caller{Name: "shop"}, "https://api.example.com/v3", []string{"items: the path were /v2/*"}},
		{fetch.Caller{Name: "shop"}, "https://team.example.com/", []string{"team: the request had the field X-Team"}},
	} {
		ask := policy.Ask{Caller: c.caller, Method: "GET", Destination: parseURL(t, c.url)}
		var got []string
		for _, n := range p.Explain(context.Background(), ask).NearMisses {
			got = append(got, n.Rule+": "+n.Difference)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %s: got %q, want %q", c.caller.Name, c.url, got, c.want)
		}
		checkExplained(t, p, ask, p.Decide(ask))
	}
}

func TestStepsOfNewKeys(t *testing.T) {
	o := placed()
	p := compile(t, append(forBilling(),
		&configv1.Rule{Name: "all", Origins: []string{"https://api.example.com"}, Methods: []string{"GET"}, Paths: []string{"/v1/*"}, Query: map[string]string{"q": "*"}, Headers: []string{"A"}, When: `labels["a"] == "b"`},
		&configv1.Rule{Name: "no", Action: "deny", Owner: "team-no", Origins: []string{"https://open.example.com"}, Methods: []string{"PUT"}},
	), o)
	a := []fetch.Field{{Name: "a"}}
	for _, c := range []struct {
		method, url string
		fields      []fetch.Field
		label       string
		steps       string
	}{
		{"PUT", "https://api.example.com/v1/x?q=1", a, "b", "caller origin port !method"},
		{"GET", "https://api.example.com/v2/x?q=1", a, "b", "caller origin port method !path"},
		{"GET", "https://api.example.com/v1/x", a, "b", "caller origin port method path !query"},
		{"GET", "https://api.example.com/v1/x?q", nil, "b", "caller origin port method path query !header"},
		{"GET", "https://api.example.com/v1/x?q", a, "c", "caller origin port method path query header !when"},
		{"GET", "https://api.example.com/v1/x?q", a, "b", "caller origin port method path query header when deny name"},
		{"PUT", "https://open.example.com/", nil, "", "caller origin port method !deny"},
		{"GET", "https://nobody.example.com/", nil, "", "caller !origin"},
		{"GET", "https://ledger.example.com/", nil, "", "caller !origin"},
	} {
		ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: c.method, Destination: parseURL(t, c.url), Fields: c.fields, Labels: map[string]string{"a": c.label}}
		e := p.Explain(context.Background(), ask)
		if got := stepsOf(e.Checks); got != c.steps {
			t.Errorf("%s %s: checks %q, want %q", c.method, c.url, got, c.steps)
		}
		checkExplained(t, p, ask, p.Decide(ask))
	}
	p = compile(t, forBilling()[:2], o)
	if got := stepsOf(explain(t, p, "GET", "https://ledger.example.com/").Checks); got != "!caller" {
		t.Errorf("of a caller that no rule is for the checks are %q", got)
	}
}

func TestExplainTellsTheMode(t *testing.T) {
	o := placed()
	o.Mode = "report"
	p := compile(t, forBilling(), o)
	e := explain(t, p, "GET", "https://other.example.com/")
	const why = `no rule allows GET https://other.example.com, but the mode is "report": it goes ahead; the addresses of the host are judged when they are dialed`
	if e.Decision.Denied != nil || e.Decision.WouldDeny == nil || e.Why != why || e.Mode != "report" || stepsOf(e.Checks) != "caller !origin mode name" {
		t.Errorf("got %+v", e)
	}
	o.Mode = "dry-run"
	if _, err := policy.Compile(forBilling(), o); err == nil || !strings.Contains(err.Error(), "mode: ") {
		t.Errorf("the mode dry-run: %v", err)
	}
}

// A rule that denies carries nothing out.
func TestDenyingRuleTakesNoOtherKeys(t *testing.T) {
	r := &configv1.Rule{
		Name: "r", Action: "deny", Mode: "report", Origins: []string{"http://example.com"}, Callers: []string{"shop"}, Methods: []string{"GET"},
		AllowAddresses: []string{"10.0.0.0/8"}, Isolate: "caller", Credentials: []string{"key"}, DangerousAllowLoopback: true,
	}
	got := faultsOf(t, r)
	if len(got) != 4 || !strings.Contains(strings.Join(got, "\n"), "rules[0].isolate: a rule that denies carries nothing out; remove isolate") {
		t.Errorf("got %q", got)
	}
}

// TestManyCallers: a rule for more callers than the index knows is for them and
// for nobody else.
func TestManyCallers(t *testing.T) {
	r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}
	for i := range 40 {
		r.Callers = append(r.Callers, fmt.Sprintf("c%d", i))
	}
	p := compile(t, []*configv1.Rule{r}, policy.Options{})
	for caller, allowed := range map[string]bool{"c0": true, "c39": true, "c40": false, "": false, "shop": false} {
		d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: caller}, Method: "GET", Destination: parseURL(t, "https://example.com/")})
		if (d.Denied == nil) != allowed {
			t.Errorf("%q: %v", caller, d.Denied)
		}
	}
}

func TestClosedAddressesHaveTheirOwnProfile(t *testing.T) {
	seen := map[string]bool{}
	for _, closed := range [][]string{nil, {"10.0.0.7"}, {"10.0.0.8"}} {
		p := compile(t, []*configv1.Rule{{Name: "r", Origins: []string{"https://example.com"}, DenyAddresses: closed}}, policy.Options{})
		seen[shop(t, p, "GET", "https://example.com/").AddressProfile] = true
	}
	if len(seen) != 3 {
		t.Errorf("the profiles are %v", seen)
	}
}
