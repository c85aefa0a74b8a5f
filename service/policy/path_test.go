package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestBadPaths(t *testing.T) {
	for _, bad := range []string{
		"", "v1", "*", "v1/*", "/v1*", "/v1/*/x", "/**", "/v1/{id", "/v1/id}", "/v1/{}", "/v1/a{id}", "/v1/{i*d}",
		"/v1?x=1", "/v1#f", `/v1\x`, "/v1;x=1", "/v1//x", "//", "/v1//*", "/v1/../x", "/v1/.", "/v1/%2e%2e/x", "/v1/a%2Fb", "/v1/%5c", "/v1/%25", "/v1/a%3bb", "/v1/\x00",
		"/" + strings.Repeat("a", 1024),
	} {
		r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}, Paths: []string{"/fine", bad}}
		if got := faultsOf(t, r); len(got) != 1 || !strings.HasPrefix(got[0], "rules[0].paths[1]: ") {
			t.Errorf("%q: got %q", bad, got)
		}
	}
}

// pieces are what random paths are made of, of rules and of requests.
var pieces = []string{"a", "b", "ab", "a%62", "%61", "..", ".", "%2e%2e", "", "a%2Fb", "a%5Cb", "b;x", "%252e", "bü", "b%C3%BC"}

func randomPath(r *rand.Rand, of []string) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		b.WriteString("/" + of[r.IntN(len(of))])
	}
	return b.String()
}

// saysPath reads the path of a rule in another way than the package does.
func saysPath(pattern, target string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(target, "/")
	for i, w := range want {
		switch {
		case i >= len(got):
			return false
		case w == "*":
			return true
		case strings.HasPrefix(w, "{"):
			if got[i] == "" {
				return false
			}
		default:
			plain, err := url.PathUnescape(w)
			if err != nil || got[i] != w && got[i] != plain && got[i] != (&url.URL{Path: plain}).EscapedPath() {
				return false
			}
		}
	}
	return len(got) == len(want)
}

// TestPathsAgreeWithEachRule asks random questions of random rules for one origin
// and compares with what each rule alone says.
func TestPathsAgreeWithEachRule(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	allowed, ambiguous := 0, 0
	for range 2_000 {
		var rules []*configv1.Rule
		for i := range 1 + r.IntN(6) {
			rule := &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://a.example.com"}}
			if r.IntN(4) == 0 {
				rule.Origins = []string{"https://*.example.com"}
			}
			for range r.IntN(3) {
				rule.Paths = append(rule.Paths, randomPath(r, []string{"a", "b", "ab", "{x}", "bü"})+[]string{"", "/*", "/"}[r.IntN(3)])
			}
			rule.Callers = some(r, []string{"shop", "bank"}, 1)
			rule.Methods = some(r, []string{"GET", "PUT"}, 1)
			if r.IntN(4) == 0 {
				rule.Action = "deny"
			}
			rules = append(rules, rule)
		}
		p := compile(t, rules, policy.Options{})
		for range 10 {
			target := randomPath(r, pieces)
			dest := parseURL(t, "https://a.example.com"+target)
			ask := policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: "GET", Destination: dest}
			d := p.Decide(ask)
			checkExplained(t, p, ask, d)
			want := decideOne(rules, dest.Path())
			decoded, err := url.PathUnescape(dest.Path())
			if err != nil {
				t.Fatal(err)
			}
			switch got := d.Denied; {
			case got == nil:
				allowed++
				if d.Rule != want || decideOne(rules, (&url.URL{Path: "/"}).ResolveReference(&url.URL{Path: decoded}).Path) != want {
					t.Errorf("%s is allowed by %s; want %s, and decoded the same", target, d.Rule, want)
				}
			case got.Reason == fetch.ReasonPathAmbiguous:
				ambiguous++
			case got.Rule != strings.TrimPrefix(want, "!"):
				t.Errorf("%s is denied by %s, want %s", target, got.Rule, want)
			}
			if t.Failed() {
				t.Fatalf("the rules are %v", rules)
			}
		}
	}
	if allowed < 1_000 || ambiguous < 500 {
		t.Errorf("%d allowed, %d ambiguous: the questions are not worth much", allowed, ambiguous)
	}
}

// decideOne asks each rule of shop's GET of a path, those that deny first.
func decideOne(rules []*configv1.Rule, target string) string {
	for _, action := range []string{"deny", ""} {
		for _, r := range rules {
			fits := len(r.Paths) == 0 || slices.ContainsFunc(r.Paths, func(p string) bool { return saysPath(p, target) })
			forShop := len(r.Callers) == 0 || slices.Contains(r.Callers, "shop")
			forGET := len(r.Methods) == 0 || slices.Contains(r.Methods, "GET")
			if r.Action == action && fits && forShop && forGET {
				return map[string]string{"deny": "!", "": ""}[action] + r.Name
			}
		}
	}
	return "!" + policy.DefaultDeny
}

// FuzzPath asks about any target under a rule for one path and a rule against
// another: what is allowed is inside the one and outside the other, sent as it
// is and decoded without dot segments.
func FuzzPath(f *testing.F) {
	p, err := policy.Compile([]*configv1.Rule{
		{Name: "v1", Origins: []string{"https://example.com"}, Paths: []string{"/v1/*", "/items/{id}"}},
		{Name: "no-admin", Action: "deny", Origins: []string{"https://example.com"}, Paths: []string{"/v1/admin", "/v1/admin/*"}},
	}, policy.Options{})
	if err != nil {
		f.Fatal(err)
	}
	for _, target := range []string{"/v1/x", "/v1/%61dmin", "/v1/../x", "/v1/x/..;/../y", "/v1//admin", `/v1/\admin`, "/v1/%2e%2e%2fadmin", "/items/a%2Fb", "/v1/%25%36%31dmin", "*", "/v1/a?x=/../"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		dest, err := parseURL(t, "https://example.com/").WithRawTarget(target, "OPTIONS")
		if err != nil {
			return
		}
		ask := policy.Ask{Method: "OPTIONS", Destination: dest}
		d := p.Decide(ask)
		checkExplained(t, p, ask, d)
		if d.Denied != nil {
			return
		}
		isInside := func(p string) bool {
			item, isItem := strings.CutPrefix(p, "/items/")
			return strings.HasPrefix(p, "/v1/") || isItem && item != "" && !strings.Contains(item, "/")
		}
		isAdmin := func(p string) bool { return p == "/v1/admin" || strings.HasPrefix(p, "/v1/admin/") }
		for _, how := range []func(string) string{
			func(p string) string { return p }, unescaped,
			func(p string) string { return path.Clean(unescaped(p)) },
			func(p string) string { return path.Clean(strings.ReplaceAll(unescaped(unescaped(p)), `\`, "/")) },
		} {
			read := how(dest.Path())
			if isAdmin(read) || !isInside(read) && read != "/v1" {
				t.Errorf("%q is allowed, and read as %q", target, read)
			}
		}
	})
}

// unescaped decodes what can be decoded.
func unescaped(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if plain, err := url.PathUnescape(p[i:min(i+3, len(p))]); p[i] == '%' && err == nil && i+3 <= len(p) {
			b.WriteString(plain)
			i += 2
			continue
		}
		b.WriteByte(p[i])
	}
	return b.String()
}
