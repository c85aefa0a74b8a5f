package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// manyRules returns n rules, every third of them with a wildcard.
func manyRules(n int) []*configv1.Rule {
	rules := make([]*configv1.Rule, n)
	for i := range rules {
		origin := fmt.Sprintf("https://api.team%d.example.com", i)
		if i%3 == 0 {
			origin = fmt.Sprintf("https://*.team%d.example.com", i)
		}
		rules[i] = &configv1.Rule{Name: fmt.Sprintf("team%d", i), Origins: []string{origin}, Methods: []string{"GET", "POST"}}
	}
	return rules
}

func BenchmarkDecide(b *testing.B) {
	deep := strings.Repeat("a.", 120) + "example.org"
	for _, n := range sizes {
		p := compile(b, manyRules(n), reviewed)
		for name, url := range map[string]string{
			"exact":    fmt.Sprintf("https://api.team%d.example.com/", n-n%3-2),
			"wildcard": fmt.Sprintf("https://a.b.team%d.example.com/", n/3*3-3),
			"denied":   "https://api.nobody.example.com/",
			"deep":     "https://" + deep + "/",
		} {
			dest := parseURL(b, url)
			b.Run(fmt.Sprintf("rules=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: dest})
					if isDenied := name == "denied" || name == "deep"; (d.Denied != nil) != isDenied {
						b.Fatalf("%s: %+v", url, d)
					}
				}
			})
		}
	}
}

// sizes are how many rules the benchmarks have.
var sizes = []int{10, 100, 1_000, 10_000, 100_000}

// BenchmarkDecideOneHost is of rules that are all for one origin, and differ in
// their paths or in their callers; the last decides, or none.
func BenchmarkDecideOneHost(b *testing.B) {
	for name, of := range map[string]func(*configv1.Rule, int){
		"paths":   func(r *configv1.Rule, i int) { r.Paths = []string{fmt.Sprintf("/v1/team%d/*", i)} },
		"ids":     func(r *configv1.Rule, i int) { r.Paths = []string{fmt.Sprintf("/v1/{id}/kind%d", i)} },
		"callers": func(r *configv1.Rule, i int) { r.Callers = []string{fmt.Sprintf("caller%d", i)} },
	} {
		for _, n := range sizes {
			rules := make([]*configv1.Rule, n)
			for i := range rules {
				rules[i] = &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"}, Methods: []string{"GET", "POST"}}
				of(rules[i], i)
			}
			p := compile(b, rules, reviewed)
			url := map[string]string{
				"paths": fmt.Sprintf("https://api.example.com/v1/team%d/items/7?page=2", n-1),
				"ids":   fmt.Sprintf("https://api.example.com/v1/7/kind%d", n-1), "callers": "https://api.example.com/v1/items",
			}[name]
			benchmarkDecide(b, fmt.Sprintf("%s/rules=%d/last", name, n), p, fmt.Sprintf("caller%d", n-1), "GET", url, true)
			benchmarkDecide(b, fmt.Sprintf("%s/rules=%d/none", name, n), p, "nobody", "PUT", url+"/none", false)
		}
	}
}

func benchmarkDecide(b *testing.B, name string, p *policy.Policy, caller, method, url string, allowed bool) {
	ask := policy.Ask{Caller: fetch.Caller{Name: caller}, Method: method, Destination: parseURL(b, url)}
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if d := p.Decide(ask); (d.Denied == nil) != allowed {
				b.Fatalf("%s: %+v", url, d.Denied)
			}
		}
	})
}

// BenchmarkDecideAlike is of rules that are all for one origin and one caller, and
// differ in something else; the last decides, or none. What only conditions tell
// apart is asked one after the other, until that costs too much.
func BenchmarkDecideAlike(b *testing.B) {
	for name, of := range map[string]func(*configv1.Rule, int){
		"method": func(r *configv1.Rule, i int) { r.Methods = []string{fmt.Sprintf("M%d", i)} },
		"query":  func(r *configv1.Rule, i int) { r.Query = map[string]string{"team": fmt.Sprint(i)} },
		"field":  func(r *configv1.Rule, i int) { r.Headers = []string{fmt.Sprintf("X-Team-%d", i)} },
		"when":   func(r *configv1.Rule, i int) { r.When = fmt.Sprintf(`request.method == "M%d"`, i) },
	} {
		for _, n := range sizes {
			if name == "when" && n > 10_000 {
				continue
			}
			rules := make([]*configv1.Rule, n)
			for i := range rules {
				rules[i] = &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"}}
				of(rules[i], i)
			}
			p := compile(b, rules, reviewed)
			for last, i := range map[string]int{"last": n - 1, "none": n} {
				ask := policy.Ask{
					Caller: fetch.Caller{Name: "shop"}, Method: fmt.Sprintf("M%d", i),
					Destination: parseURL(b, fmt.Sprintf("https://api.example.com/v1/items?page=2&team=%d", i)),
					Fields:      []fetch.Field{{Name: "Accept"}, {Name: "User-Agent"}, {Name: fmt.Sprintf("X-Team-%d", i)}, {Name: "Content-Type"}},
				}
				b.Run(fmt.Sprintf("%s/rules=%d/%s", name, n, last), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if d := p.Decide(ask); (d.Denied == nil) != (last == "last") {
							b.Fatal(d.Denied)
						}
					}
				})
			}
		}
	}
}

// BenchmarkCompileConditions is of rules with a condition of their own.
func BenchmarkCompileConditions(b *testing.B) {
	rules := make([]*configv1.Rule, 1000)
	for i := range rules {
		rules[i] = &configv1.Rule{
			Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"},
			When: fmt.Sprintf(`caller.name == "caller%d" && "job" in labels && labels["job"] == "nightly" && request.path.startsWith("/v1/")`, i),
		}
	}
	for b.Loop() {
		if _, err := policy.Compile(rules, policy.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecideReadings is of a path with three readings, and of a condition.
func BenchmarkDecideReadings(b *testing.B) {
	p := compile(b, []*configv1.Rule{
		{Name: "path", Origins: []string{"https://api.example.com"}, Paths: []string{"/v1/*"}},
		{Name: "when", Origins: []string{"https://www.example.com"}, When: `request.method == "GET" && request.path.startsWith("/v1/") && labels["job"] != "x"`},
		{Name: "denied", Action: "deny", Origins: []string{"https://*.example.com"}, Paths: []string{"/v1/secret/*"}},
	}, reviewed)
	benchmarkDecide(b, "plain", p, "shop", "GET", "https://api.example.com/v1/x", true)
	benchmarkDecide(b, "escaped", p, "shop", "GET", "https://api.example.com/v1/a%20b//c", true)
	benchmarkDecide(b, "when", p, "shop", "GET", "https://www.example.com/v1/x", false)
}

// BenchmarkExplain is of a denial that many rules would allow for one thing, and
// of one that none would.
func BenchmarkExplain(b *testing.B) {
	const n = 10_000
	rules := make([]*configv1.Rule, n)
	for i := range rules {
		rules[i] = &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"}, Methods: []string{fmt.Sprintf("M%d", i%2)}}
	}
	p := compile(b, rules, reviewed)
	for name, url := range map[string]string{"near": "https://api.example.com/", "far": "https://www.example.com/"} {
		dest := parseURL(b, url)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if e := p.Explain(context.Background(), policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: dest}); e.Decision.Denied == nil {
					b.Fatal("allowed")
				}
			}
		})
	}
}

func BenchmarkAllow(b *testing.B) {
	p := compile(b, []*configv1.Rule{{Name: "r", Origins: []string{"https://*"}, AllowAddresses: []string{"10.0.0.0/8"}}}, reviewed)
	d := shop(b, p, "GET", "https://example.com/")
	for _, text := range []string{"93.184.215.14:443", "10.0.0.1:443", "[2606:4700::1111]:443"} {
		to := netip.MustParseAddrPort(text)
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Allow(to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	rules := manyRules(10_000)
	for b.Loop() {
		if _, err := policy.Compile(rules, policy.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
