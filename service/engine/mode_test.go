package engine_test

import (
	"net/netip"
	"slices"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestReportedDenialGoesAhead: the report tells what rules say, and the guard of
// addresses stays.
func TestReportedDenialGoesAhead(t *testing.T) {
	p, err := policy.Compile([]*configv1.Rule{{Name: "api", Origins: []string{"https://api.example.com"}, AllowAddresses: []string{"10.0.0.0/8"}}}, policy.Options{Mode: "report"})
	if err != nil {
		t.Fatal(err)
	}
	s := ok()
	report, err := engine.New(s, p, limit.NewRetryBudget(0.2, 10)).Run(t.Context(), plan(t, "https://other.example.com/"), &sink{})
	if err != nil || len(s.requests) != 1 {
		t.Fatalf("%v, and %d requests", err, len(s.requests))
	}
	h := report.LastHop()
	if h.WouldDeny == nil || h.WouldDeny.Rule != policy.DefaultDeny || h.Rule != policy.DefaultDeny || report.Outcome != fetch.OutcomeResponse {
		t.Errorf("the hop is %+v", h)
	}
	if err := s.requests[0].Route.Allow(netip.MustParseAddrPort("10.0.0.1:443")); err == nil {
		t.Error("what another rule opens is open to what no rule allows")
	}
}

// TestDeniedHopDidNotGoAhead: of a hop that something else denies, no mode says that
// it went ahead.
func TestDeniedHopDidNotGoAhead(t *testing.T) {
	for _, mode := range []string{"report", "open"} {
		p, err := policy.Compile([]*configv1.Rule{{Name: "api", Origins: []string{"https://api.example.com"}}}, policy.Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		s := scripted(step{status: 302, fields: location("http://other.example/")})
		fetched := plan(t, "https://first.example/")
		fetched.Redirect.Max = 10
		report, err := engine.New(s, p, limit.NewRetryBudget(0.2, 10)).Run(t.Context(), fetched, &sink{})
		hops := report.Attempts[0].Hops
		if err == nil || len(hops) != 2 || len(s.requests) != 1 {
			t.Fatalf("mode %s: %v after %d hops and %d requests", mode, err, len(hops), len(s.requests))
		}
		if isReport := mode == "report"; hops[0].WouldDeny != nil != isReport || hops[0].Open == isReport || hops[1].WouldDeny != nil || hops[1].Open {
			t.Errorf("mode %s: the hops are %+v", mode, hops)
		}
	}
}

// TestEachHopIsDecidedWithItsOwnMethodAndFields: a redirect changes both.
func TestEachHopIsDecidedWithItsOwnMethodAndFields(t *testing.T) {
	rules := []*configv1.Rule{
		{Name: "first", Origins: []string{"https://example.com"}, Methods: []string{"POST"}, Headers: []string{"X-Key"}, Paths: []string{"/"}},
		{Name: "second", Origins: []string{"https://other.example"}, Methods: []string{"GET"}, Paths: []string{"/b"}, When: `!("x-key" in request.headers)`},
		{Name: "never", Action: "deny", Origins: []string{"https://other.example"}, Headers: []string{"X-Key"}},
	}
	s := scripted(step{status: 303, fields: location("https://other.example/b")}, step{status: 200})
	p := plan(t, "https://example.com/")
	p.Method, p.Fields, p.Redirect.Max = "POST", []fetch.Field{{Name: "X-Key", Value: []byte("k")}}, 10
	report, err := under(t, s, rules).Run(t.Context(), p, &sink{})
	if err != nil {
		t.Fatal(err)
	}
	var by []string
	for _, h := range report.Attempts[0].Hops {
		by = append(by, h.Rule)
	}
	if !slices.Equal(by, []string{"first", "second"}) {
		t.Errorf("the hops were decided by %q", by)
	}
}

// TestIsolatedRule: connections of a rule with isolate are their caller's.
func TestIsolatedRule(t *testing.T) {
	keys := map[string]bool{}
	for _, isolate := range []string{"shared", "caller"} {
		for _, caller := range []string{"shop", "bank"} {
			s := ok()
			p := plan(t, "http://example.com/")
			p.Caller.Name = caller
			rules := []*configv1.Rule{{Name: "all", Origins: []string{"http://example.com"}, Isolate: isolate}}
			if _, err := under(t, s, rules).Run(t.Context(), p, &sink{}); err != nil {
				t.Fatal(err)
			}
			keys[s.requests[0].Route.Key] = true
		}
	}
	if len(keys) != 3 {
		t.Errorf("%d pool keys, want one that is shared and one of each caller", len(keys))
	}
}
