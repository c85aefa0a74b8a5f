package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestDenyingWildcardsReachSpecialNames: "every host" is every host where it is
// denied, and where it is allowed the names that mean something else elsewhere
// are not among them.
func TestDenyingWildcardsReachSpecialNames(t *testing.T) {
	urls := []string{
		"https://vault.internal/", "https://a.vault.internal/", "https://vault/", "https://localhost/", "https://printer.local/",
		"https://10.1.1.1/", "https://www.example.com/",
	}
	var origins []string
	for _, url := range urls {
		origins = append(origins, strings.TrimSuffix(url, "/"))
	}
	allowing := &configv1.Rule{Name: "named", Origins: origins, AllowAddresses: []string{"10.0.0.0/8"}, DangerousAllowLoopback: true}
	for _, c := range []struct {
		denied []string
		counts int // of urls, the first
	}{
		{[]string{"https://*"}, len(urls)},
		{[]string{"https://*.internal"}, 2},
		{[]string{"http://*", "https://*:444", "https://*.vault"}, 0},
	} {
		p := compile(t, []*configv1.Rule{allowing, {Name: "no", Action: "deny", Callers: []string{"shop"}, Origins: c.denied}}, policy.Options{})
		for i, url := range urls {
			ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: parseURL(t, url)}
			d := p.Decide(ask)
			checkExplained(t, p, ask, d)
			if got, want := d.Rule == "no" && d.Denied != nil, i < c.counts; got != want {
				t.Errorf("%s beside a denial of %s: denied %t by %s", url, c.denied, got, d.Rule)
			}
			ask.Caller.Name = "billing"
			if d := p.Decide(ask); d.Denied != nil {
				t.Errorf("%s beside a denial of %s for another caller: %v", url, c.denied, d.Denied)
			}
		}
	}
	p := compile(t, []*configv1.Rule{{Name: "all", Origins: []string{"https://*"}, AllowAddresses: []string{"10.0.0.0/8"}, DangerousAllowLoopback: true}}, policy.Options{})
	for _, url := range urls[:5] {
		if d := shop(t, p, "GET", url); d.Denied == nil {
			t.Errorf("%s is allowed by a wildcard", url)
		}
	}
}

// TestReportOpensNothingUnclear: a condition that cannot be judged is not met, so
// in report mode the request goes ahead without what the rule lends.
func TestReportOpensNothingUnclear(t *testing.T) {
	for mode, lends := range map[string]bool{"report": false, "open": true} {
		p := compile(t, []*configv1.Rule{{
			Name: "internal", Mode: mode, Origins: []string{"https://db.example.com"}, AllowAddresses: []string{"10.0.0.0/8"},
			Credentials: []string{"root"}, DangerousAllowLoopback: true, SendTraceparent: true, When: `labels.team == "pay"`,
		}}, policy.Options{})
		d := shop(t, p, "GET", "https://db.example.com/")
		if d.Denied != nil {
			t.Fatalf("mode %s: %v", mode, d.Denied)
		}
		opens := d.Allow(netip.MustParseAddrPort("10.0.0.1:443")) == nil
		if opens != lends || d.SendTraceparent != lends || len(d.Credentials) > 0 != lends || (d.AddressProfile != "public") != lends {
			t.Errorf("mode %s lends %t: private addresses %t, %+v", mode, lends, opens, d)
		}
	}
}

// TestDeniedLiteralInOtherForms: the same address by another spelling, or through
// NAT64, is denied too.
func TestDeniedLiteralInOtherForms(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "no", Action: "deny", Origins: []string{"http://8.8.8.8", "http://[::ffff:9.9.9.9]"}},
		{Name: "all", Origins: []string{"http://*"}},
	}, policy.Options{})
	for url, denied := range map[string]bool{
		"http://8.8.8.8/": true, "http://[::ffff:8.8.8.8]/": true, "http://[0:0:0:0:0:FFFF:808:808]/": true, "http://[64:ff9b::808:808]/": true,
		"http://9.9.9.9/": true, "http://[64:ff9b::909:909]/": true,
		"http://8.8.4.4/": false, "http://[::ffff:8.8.4.4]/": false, "http://[64:ff9b::808:404]/": false,
	} {
		if d := shop(t, p, "GET", url); (d.Denied != nil) != denied {
			t.Errorf("%s is denied %t by %s, want %t", url, d.Denied != nil, d.Rule, denied)
		}
	}
}

// unreadable are paths that some server takes for another that no list of
// readings has.
var unreadable = []string{
	"/admin%00", "/admin%2500", "/admin%23", "/admin%3fx", "/admin%253Fx", "/x/%c0%ae%c0%ae/admin", "/%c0%afadmin", "/admin%0a", "/admin%7f",
	"/%u0061dmin", "/admin%", "/admin%2", "/admin%25%30", "/100%25",
}

// TestUnreadablePaths: a rule that looks at paths denies what it cannot read,
// whichever way it decides.
func TestUnreadablePaths(t *testing.T) {
	denying := []*configv1.Rule{
		{Name: "no-admin", Action: "deny", Callers: []string{"shop"}, Origins: []string{"https://a.example.com"}, Paths: []string{"/admin", "/admin/*"}},
		{Name: "all", Mode: "report", Origins: []string{"https://a.example.com", "https://b.example.com"}},
	}
	allowing := []*configv1.Rule{
		{Name: "all", Origins: []string{"https://a.example.com"}, Paths: []string{"/*"}},
		{Name: "other", Origins: []string{"https://b.example.com"}},
	}
	conditional := []*configv1.Rule{
		{Name: "all", Origins: []string{"https://a.example.com"}, When: `request.path.startsWith("/")`},
		{Name: "other", Origins: []string{"https://b.example.com"}, When: `request.method == "GET"`},
	}
	for _, rules := range [][]*configv1.Rule{denying, allowing, conditional} {
		p := compile(t, rules, policy.Options{})
		for _, raw := range unreadable {
			ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: fetch.Destination{Origin: parseURL(t, "https://a.example.com/").Origin, Target: raw}}
			d := p.Decide(ask)
			checkExplained(t, p, ask, d)
			if d.Denied == nil || d.Denied.Reason != fetch.ReasonPathAmbiguous {
				t.Errorf("%s: %+v", raw, d)
			}
			ask.Destination.Origin = parseURL(t, "https://b.example.com/").Origin
			if d := p.Decide(ask); d.Denied != nil {
				t.Errorf("%s where no rule looks at paths: %v", raw, d.Denied)
			}
		}
		for _, raw := range []string{"/x%20y", "/%E2%82%AC", "/%C3%BC/%2B", "/~a%3Db"} {
			ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: fetch.Destination{Origin: parseURL(t, "https://a.example.com/").Origin, Target: raw}}
			if d := p.Decide(ask); d.Denied != nil {
				t.Errorf("%s: %v", raw, d.Denied)
			}
		}
	}
	if got := faultsOf(t, &configv1.Rule{Name: "r", Origins: []string{"https://a.example.com"}, Paths: []string{"/a%3Fb"}}); len(got) != 1 {
		t.Errorf("a rule with a path that nothing matches: %q", got)
	}
}

// TestQueryBySemicolon: a rule that allows has to fit however ';' is read, one
// that denies by either reading.
func TestQueryBySemicolon(t *testing.T) {
	for _, c := range []struct {
		query           string
		allowed, denied bool // by a rule that names a=1
	}{
		{"a=1", true, true},
		{"a=1&a=2", false, true},
		{"b=1;a=2&a=1", false, true},
		{"a=1;a=2", false, true},
		{"b=1;a=1", false, true},
		{"a=1&b=2;c=3", true, true},
		{"a=2;b=1", false, false},
	} {
		for action, want := range map[string]bool{"allow": c.allowed, "deny": c.denied} {
			p := compile(t, []*configv1.Rule{
				{Name: "q", Action: action, Origins: []string{"https://a.example.com"}, Query: map[string]string{"a": "1"}},
				{Name: "rest", Origins: []string{"https://a.example.com"}},
			}, policy.Options{})
			if got := shop(t, p, "GET", "https://a.example.com/?"+c.query).Rule == "q"; got != want {
				t.Errorf("?%s: the rule that would %s decides %t, want %t", c.query, action, got, want)
			}
		}
	}
}

// conditions are n rules for one origin whose conditions look at all of a request
// and, but for the last, do not hold.
func conditions(n int, condition string) []*configv1.Rule {
	var rules []*configv1.Rule
	for i := range n {
		rules = append(rules, &configv1.Rule{
			Name: fmt.Sprintf("r%d", i), Origins: []string{"https://a.example.com"}, Methods: []string{"PUT", "GET"},
			When: fmt.Sprintf(condition, i),
		})
	}
	return rules
}

func largeAsk(t testing.TB) policy.Ask {
	to, err := parseURL(t, "https://a.example.com/").WithRawTarget("/x%2f..%2f;y//z?a=1", "GET")
	if err != nil {
		t.Fatal(err)
	}
	ask := policy.Ask{Method: "GET", Destination: to, Labels: map[string]string{"n": "none"}}
	for i := range 90 {
		ask.Fields = append(ask.Fields, fetch.Field{Name: fmt.Sprintf("X-%d", i), Value: []byte(strings.Repeat("v", 500))})
	}
	return ask
}

// TestDecisionBudget: conditions that together cost more than a decision may end
// it by a denial, and do not let the rules behind them allow.
func TestDecisionBudget(t *testing.T) {
	const costly = `["%d"].exists(n, request.headers.exists(name, request.headers[name][0].contains(n + "never")))`
	rules := append(conditions(2000, costly), &configv1.Rule{Name: "last", Origins: []string{"https://a.example.com"}})
	p, ask := compile(t, rules, policy.Options{}), largeAsk(t)
	began := time.Now()
	if d := p.Decide(ask); d.Denied == nil {
		t.Errorf("by several readings of the path it is allowed by %s", d.Rule)
	}
	t.Logf("a decision at its budget took %v", time.Since(began))
	ask.Destination = parseURL(t, "https://a.example.com/")
	d := p.Decide(ask)
	checkExplained(t, p, ask, d)
	if d.Denied == nil || d.Rule == "last" || !strings.Contains(d.Denied.Message, "cost all that one decision may") {
		t.Errorf("got %s: %+v", d.Rule, d.Denied)
	}
	ask = policy.Ask{Method: "GET", Destination: parseURL(t, "https://a.example.com/")}
	if d := p.Decide(ask); d.Denied != nil {
		t.Errorf("a small request: %v", d.Denied)
	}
}

// TestExplainIsOver: what is explained to a caller that has left is the decision
// alone.
func TestExplainIsOver(t *testing.T) {
	p := compile(t, []*configv1.Rule{{Name: "r", Origins: []string{"https://a.example.com"}, Methods: []string{"PUT"}}}, policy.Options{})
	ask := policy.Ask{Method: "GET", Destination: parseURL(t, "https://a.example.com/")}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if e := p.Explain(gone, ask); len(e.NearMisses) != 0 || e.Decision.Denied == nil {
		t.Errorf("after the caller has left: %+v", e)
	}
	if e := p.Explain(t.Context(), ask); len(e.NearMisses) != 1 {
		t.Errorf("while the caller waits: %+v", e.NearMisses)
	}
}

// TestExplainManyConditions: an explanation evaluates as much as some decisions,
// however many rules there are.
func TestExplainManyConditions(t *testing.T) {
	p := compile(t, conditions(200, `has(request.headers.x) && labels["n"] == "%d" && request.query["a"][0] == "1"`), policy.Options{})
	ask := largeAsk(t)
	ask.Fields = append(ask.Fields, fetch.Field{Name: "X", Value: []byte("1")})
	var one time.Duration
	began := time.Now()
	if d := p.Decide(ask); d.Denied == nil {
		t.Fatal("allowed")
	}
	one = time.Since(began)
	began = time.Now()
	if e := p.Explain(t.Context(), ask); e.Decision.Denied == nil || len(e.Checks) == 0 {
		t.Errorf("got %+v", e)
	}
	if took := time.Since(began); took > 20*one+500*time.Millisecond {
		t.Errorf("an explanation took %v, a decision %v", took, one)
	}
}
