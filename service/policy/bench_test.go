package policy_test

import (
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
	for _, n := range []int{10, 1_000, 10_000, 100_000} {
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
					d := p.Decide(fetch.Caller{Name: "shop"}, "GET", dest)
					if isDenied := name == "denied" || name == "deep"; (d.Denied != nil) != isDenied {
						b.Fatalf("%s: %+v", url, d)
					}
				}
			})
		}
	}
}

// BenchmarkDecideSameOrigin is the worst case: every rule is for the origin that
// is asked for, and the last decides.
func BenchmarkDecideSameOrigin(b *testing.B) {
	const n = 10_000
	rules := make([]*configv1.Rule, n)
	for i := range rules {
		rules[i] = &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"}, Methods: []string{fmt.Sprintf("M%d", i)}}
	}
	p := compile(b, rules, reviewed)
	dest := parseURL(b, "https://api.example.com/")
	for b.Loop() {
		if d := p.Decide(fetch.Caller{Name: "shop"}, "M9999", dest); d.Denied != nil {
			b.Fatal(d.Denied)
		}
	}
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
				if e := p.Explain(fetch.Caller{Name: "shop"}, "GET", dest); e.Decision.Denied == nil {
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
