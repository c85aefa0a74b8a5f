package policy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// placed is reviewed with places for rules.
func placed() policy.Options {
	o := reviewed
	o.Locate = func(path string) string { return "policy.yaml:" + path }
	return o
}

// explain asks p as the caller named shop.
func explain(t testing.TB, p *policy.Policy, method, url string) policy.Explanation {
	t.Helper()
	return p.Explain(context.Background(), policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: method, Destination: parseURL(t, url)})
}

// stepsOf are checks in one line: "origin port !method".
func stepsOf(checks []policy.Check) string {
	var words []string
	for _, c := range checks {
		if !c.Passed {
			c.Name = "!" + c.Name
		}
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

func TestExplain(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "orders", Owner: "team-orders", Origins: []string{"https://api.example.com"}, Methods: []string{"GET", "HEAD"}},
		{Name: "orders-admin", Origins: []string{"https://api.example.com"}, Methods: []string{"DELETE"}, Ports: []int32{8443}},
		{Name: "plain", Origins: []string{"http://*"}},
		{Name: "beside", Origins: []string{"http://localhost:9000", "http://metadata", "http://intranet"}},
		{Name: "inner", Origins: []string{"http://10.0.0.1:8080"}, AllowAddresses: []string{"10.0.0.0/8"}},
	}, placed())
	for _, c := range []struct {
		method, url         string
		rule, at, owner     string
		why, steps, details string
	}{
		{"GET", "https://api.example.com/v1", "orders", "policy.yaml:rules[0]", "team-orders",
			`rule "orders" allows GET https://api.example.com; the addresses of the host are judged when they are dialed`,
			"origin port method name", "api.example.com is an ordinary name"},
		{"PUT", "https://api.example.com/v1", policy.DefaultDeny, "", "",
			"no rule allows PUT https://api.example.com", "origin port !method", "no rule allows the method PUT"},
		{"GET", "https://api.example.com:444/", policy.DefaultDeny, "", "",
			"no rule allows GET https://api.example.com:444", "origin !port", "no rule allows the port 444"},
		{"GET", "https://www.example.com/", policy.DefaultDeny, "", "",
			"no rule allows GET https://www.example.com", "!origin", "no rule allows https to www.example.com"},
		{"GET", "http://a.localhost/", policy.DefaultDeny, "", "",
			"no rule allows GET http://a.localhost", "!origin", "no rule allows http to a.localhost, which no wildcard stands for"},
		{"GET", "http://localhost:9000/", "beside", "policy.yaml:rules[3]", "",
			"localhost is a name of the machine itself, which policy denies", "origin port method !name", "localhost is a name of the machine itself"},
		{"GET", "http://metadata/", "beside", "policy.yaml:rules[3]", "",
			"metadata is the name of a cloud's metadata service, which policy denies", "origin port method !name", "metadata is the name of a cloud's metadata service"},
		{"GET", "http://intranet/", "beside", "policy.yaml:rules[3]", "",
			`rule "beside" allows GET http://intranet; the addresses of the host are judged when they are dialed`,
			"origin port method name", "intranet is a name that means something else in every network"},
		{"GET", "http://10.0.0.1/", "plain", "policy.yaml:rules[2]", "",
			"10.0.0.1 is an address that policy denies (private)", "origin port method !address", "10.0.0.1 is of class private"},
		{"GET", "http://10.0.0.1:8080/", "inner", "policy.yaml:rules[4]", "",
			`rule "inner" allows GET http://10.0.0.1:8080`, "origin port method address", "10.0.0.1 is of class private"},
		{"GET", "http://93.184.215.14/", "plain", "policy.yaml:rules[2]", "",
			`rule "plain" allows GET http://93.184.215.14`, "origin port method address", "93.184.215.14 is of class public"},
	} {
		e := explain(t, p, c.method, c.url)
		what := c.method + " " + c.url
		if e.Decision.Rule != c.rule || e.RuleAt != c.at || e.Owner != c.owner {
			t.Errorf("%s: rule %q of %q at %q, want %q of %q at %q", what, e.Decision.Rule, e.Owner, e.RuleAt, c.rule, c.owner, c.at)
		}
		if e.Why != c.why {
			t.Errorf("%s: why %q\n want %q", what, e.Why, c.why)
		}
		if got := stepsOf(e.Checks); got != c.steps {
			t.Errorf("%s: checks %q, want %q", what, got, c.steps)
		}
		if got := e.Checks[len(e.Checks)-1].Detail; got != c.details {
			t.Errorf("%s: the last check saw %q, want %q", what, got, c.details)
		}
		if (e.Hint != "") != (e.Decision.Denied != nil) {
			t.Errorf("%s: the hint is %q", what, e.Hint)
		}
	}
}

func TestNearMisses(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "odd-port", Origins: []string{"https://api.example.com"}, Ports: []int32{8443, 9443}, Methods: []string{"GET", "PUT"}},
		{Name: "read", Origins: []string{"https://api.example.com"}, Methods: []string{"HEAD", "GET"}},
		{Name: "plain", Origins: []string{"http://api.example.com", "http://other.example.com:8080"}},
		{Name: "shadowed", Origins: []string{"https://*.example.com"}, Methods: []string{"GET"}},
		{Name: "below", Origins: []string{"https://*.example.com"}, Methods: []string{"GET", "PATCH"}},
		{Name: "hidden", Origins: []string{"https://hidden.example.net"}},
		{Name: "same-port", Origins: []string{"http://*:9999"}},
		{Name: "inside", Origins: []string{"http://10.0.0.1:81"}, AllowAddresses: []string{"10.0.0.0/8"}},
	}, placed())
	for what, want := range map[string][]string{
		"PUT https://api.example.com/": {
			"read: the method were HEAD", "below: the method were PATCH",
			"odd-port: the port were 8443", "plain: the scheme were http",
		},
		"GET https://api.example.com/":        nil,
		"GET https://api.example.com:8444/":   {"odd-port: the port were 8443", "read: the port were 443"},
		"PATCH https://api.example.com:8444/": {"below: the port were 443"},
		"GET http://www.example.com/":         {"shadowed: the scheme were https", "same-port: the port were 9999"},
		"GET https://www.example.org:9999/":   {"same-port: the scheme were http"},
		"GET https://www.example.org/":        nil,
		"GET http://hidden.example.net:9998/": {"same-port: the port were 9999"},
		"GET http://10.0.0.1/":                {"inside: the port were 81"},
		"GET http://10.0.0.1:9999/":           {"inside: the port were 81"},
		"GET http://metadata/":                nil,
	} {
		method, url, _ := strings.Cut(what, " ")
		var got []string
		for _, n := range explain(t, p, method, url).NearMisses {
			got = append(got, n.Rule+": "+n.Difference)
			if n.At != p.RuleAt(n.Rule) || n.At == "" {
				t.Errorf("%s: rule %s is at %q", what, n.Rule, n.At)
			}
		}
		slices.Sort(want)
		sorted := slices.Sorted(slices.Values(got))
		if !slices.Equal(sorted, want) {
			t.Errorf("%s:\n got %q\nwant %q", what, got, want)
		}
		if !slices.IsSortedFunc(got, func(a, b string) int { return distance(a) - distance(b) }) {
			t.Errorf("%s: the nearest are not first: %q", what, got)
		}
	}
}

// TestNoNearMissOfADenyingRule: what a rule denies, and what goes ahead in the mode
// report, no other path or method mends.
func TestNoNearMissOfADenyingRule(t *testing.T) {
	rules := func(mode string) []*configv1.Rule {
		return []*configv1.Rule{
			{Name: "api", Origins: []string{"https://api.example.com"}, Paths: []string{"/v1/*"}, Methods: []string{"GET", "PUT"}},
			{Name: "secret", Action: "deny", Mode: mode, Origins: []string{"https://api.example.com"}, Paths: []string{"/v1/secret"}},
		}
	}
	enforced, reported := compile(t, rules("enforce"), placed()), placed()
	reported.Mode = "report"
	for what, e := range map[string]policy.Explanation{
		"a rule denies it":         explain(t, enforced, "GET", "https://api.example.com/v1/secret"),
		"a rule would deny it":     explain(t, compile(t, rules("report"), placed()), "GET", "https://api.example.com/v1/secret"),
		"no rule would allow it":   explain(t, compile(t, rules(""), reported), "GET", "https://api.example.com/v2"),
		"its path is not plain":    explain(t, enforced, "GET", "https://api.example.com/v1/x/..;/secret"),
		"the rule allows the path": explain(t, enforced, "GET", "https://api.example.com/v1/open"),
	} {
		if len(e.NearMisses) > 0 {
			t.Errorf("%s: near are %v", what, e.NearMisses)
		}
	}
	if e := explain(t, enforced, "DELETE", "https://api.example.com/v1/open"); len(e.NearMisses) != 1 || e.NearMisses[0].Rule != "api" {
		t.Errorf("no rule allows the method, and near are %v", e.NearMisses)
	}
}

// distance orders differences.
func distance(nearMiss string) int {
	for i, thing := range []string{"the method", "the port", "the scheme"} {
		if strings.Contains(nearMiss, ": "+thing) {
			return i
		}
	}
	return -1
}

func TestNearMissesAreBounded(t *testing.T) {
	rules := make([]*configv1.Rule, 300)
	for i := range rules {
		rules[i] = &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://example.com"}, Methods: []string{fmt.Sprintf("M%d", i)}}
	}
	p := compile(t, rules, reviewed)
	if got := explain(t, p, "GET", "https://example.com/").NearMisses; len(got) != 5 || got[0].Rule != "r0" || got[4].Rule != "r4" {
		t.Errorf("got %q", got)
	}
}

// TestExplanationTellsNothingOfOthers: no word about other hosts, and no range.
func TestExplanationTellsNothingOfOthers(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "r", Origins: []string{"https://api.example.com:8443", "https://secret.example.net", "http://10.9.8.7"}, AllowAddresses: []string{"10.77.0.0/16"}},
		{Name: "wide", Origins: []string{"https://*.secret.example.net", "http://*"}, AllowAddresses: []string{"10.88.0.0/16"}},
	}, placed())
	for _, url := range []string{
		"https://api.example.com/", "https://api.example.com:8443/", "http://10.1.1.1/", "http://10.1.1.1:81/", "https://api.example.com/?key=hush",
		"http://localhost/", "http://metadata/", "http://127.0.0.1:7801/",
	} {
		e := explain(t, p, "GET", url)
		e.Decision = policy.Decision{}
		text := fmt.Sprintf("%+v", e)
		for _, secret := range []string{"secret", "10.9", "10.77", "10.88", "hush", "10.20.30.40"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the caller learns %q: %s", url, secret, text)
			}
		}
	}
}

// world is what random rules and questions are made of.
var world = struct {
	origins, hosts, methods, addresses []string
	ports                              []int32
}{
	origins: []string{
		"https://a.example.com", "https://*.example.com", "http://*.example.com:8080", "https://*", "http://*", "http://*:8443",
		"http://localhost", "http://metadata", "http://intranet:8080", "http://10.0.0.1", "https://10.0.0.1:8080", "http://[::1]", "https://b.a.example.com:443",
	},
	hosts:     []string{"a.example.com", "b.a.example.com", "example.org", "localhost", "metadata", "intranet", "10.0.0.1", "93.184.215.14", "[::1]", "169.254.169.254"},
	methods:   []string{"GET", "POST", "PURGE"},
	addresses: []string{"10.0.0.0/8", "fd00::/8", "169.254.0.0/16"},
	ports:     []int32{80, 443, 7801, 8080, 8443},
}

func some[T any](r *rand.Rand, of []T, most int) []T {
	var chosen []T
	for range r.IntN(most + 1) {
		chosen = append(chosen, of[r.IntN(len(of))])
	}
	return chosen
}

func randomRules(r *rand.Rand) []*configv1.Rule {
	rules := make([]*configv1.Rule, r.IntN(6))
	for i := range rules {
		rules[i] = &configv1.Rule{
			Name:                    fmt.Sprintf("r%d", i),
			Origins:                 append(some(r, world.origins, 3), world.origins[r.IntN(len(world.origins))], "http://any.example.net"),
			Ports:                   some(r, world.ports, 2),
			Methods:                 some(r, world.methods, 2),
			AllowAddresses:          some(r, world.addresses, 2),
			DangerousAllowLoopback:  r.IntN(3) == 0,
			DangerousAllowDowngrade: r.IntN(3) == 0,
			SendTraceparent:         r.IntN(3) == 0,
		}
	}
	return rules
}

// TestExplainAgreesWithDecide asks random questions of random rules.
func TestExplainAgreesWithDecide(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	allowed, missed := 0, 0
	for range 1_000 {
		rules := randomRules(r)
		p := compile(t, rules, placed())
		for range 10 {
			method := world.methods[r.IntN(len(world.methods))]
			url := fmt.Sprintf("%s://%s:%d/", []string{"http", "https"}[r.IntN(2)], world.hosts[r.IntN(len(world.hosts))], world.ports[r.IntN(len(world.ports))])
			e := explain(t, p, method, url)
			checkAgrees(t, p, e, method, url)
			if want := allNearMisses(t, p, rules, method, url); !slices.Equal(rulesOf(e.NearMisses), want) {
				t.Errorf("%s %s: near are %q, want %q", method, url, rulesOf(e.NearMisses), want)
			}
			missed += len(e.NearMisses)
			if e.Decision.Denied == nil {
				allowed++
			}
			if t.Failed() {
				t.Fatalf("the rules are %v", rules)
			}
		}
	}
	if allowed < 500 || allowed > 9_500 || missed < 1_000 {
		t.Errorf("%d of 10000 were allowed, with %d near misses: the questions are not worth much", allowed, missed)
	}
}

// checkAgrees holds an explanation to what Decide says.
func checkAgrees(t testing.TB, p *policy.Policy, e policy.Explanation, method, url string) {
	t.Helper()
	d := shop(t, p, method, url)
	for _, text := range []string{"93.184.215.14:443", "10.0.0.1:80", "127.0.0.1:8080", "127.0.0.1:7801", "[fd00::1]:443", "169.254.169.254:80"} {
		if d.Allow == nil || e.Decision.Allow == nil {
			break
		}
		to := netip.MustParseAddrPort(text)
		if one, other := d.Allow(to), e.Decision.Allow(to); !reflect.DeepEqual(one, other) {
			t.Errorf("%s %s: Decide says of %s %v, Explain %v", method, url, to, one, other)
		}
	}
	said := e.Decision
	if (said.Allow == nil) != (d.Allow == nil) {
		t.Errorf("%s %s: one has Allow, the other not", method, url)
	}
	said.Allow, d.Allow = nil, nil
	if !reflect.DeepEqual(said, d) {
		t.Errorf("%s %s: Decide says %+v, Explain %+v", method, url, d, said)
	}
	if e.RuleAt != p.RuleAt(d.Rule) || e.Owner != p.Owner(d.Rule) {
		t.Errorf("%s %s: rule %s is at %q", method, url, d.Rule, e.RuleAt)
	}
	for i, c := range e.Checks {
		if isLast := i == len(e.Checks)-1; c.Passed != (!isLast || d.Denied == nil) {
			t.Errorf("%s %s: the answer is %+v, after the checks %s", method, url, d, stepsOf(e.Checks))
		}
	}
}

func rulesOf(misses []policy.NearMiss) []string {
	var names []string
	for _, n := range misses {
		names = append(names, n.Rule)
	}
	slices.Sort(names)
	return names
}

// allNearMisses tries every difference there is, and returns the rules that
// allow one; that of the method only if the rule names methods.
func allNearMisses(t testing.TB, p *policy.Policy, of []*configv1.Rule, method, url string) []string {
	t.Helper()
	dest := parseURL(t, url)
	if shop(t, p, method, url).Denied == nil {
		return nil
	}
	var rules []string
	try := func(m string, o fetch.Origin) {
		d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: m, Destination: fetch.Destination{Origin: o}})
		namesMethods := slices.ContainsFunc(of, func(r *configv1.Rule) bool { return r.Name == d.Rule && len(r.Methods) > 0 })
		if d.Denied == nil && (m == method || namesMethods) {
			rules = append(rules, d.Rule)
		}
	}
	for _, m := range world.methods {
		try(m, dest.Origin)
	}
	for _, port := range world.ports {
		o := dest.Origin
		o.Port = uint16(port)
		try(method, o)
	}
	_, o := differently(t, method, dest, "the scheme were "+map[string]string{"http": "https", "https": "http"}[dest.Scheme])
	try(method, o.Origin)
	slices.Sort(rules)
	return slices.Compact(rules)
}

// TestNearMissesComeTrue does what each near miss says.
func TestNearMissesComeTrue(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tried := 0
	for range 500 {
		p := compile(t, randomRules(r), placed())
		for _, host := range world.hosts {
			for _, origin := range []string{"http://" + host, "https://" + host, "https://" + host + ":8080"} {
				for _, n := range explain(t, p, "GET", origin+"/").NearMisses {
					method, dest := differently(t, "GET", parseURL(t, origin+"/"), n.Difference)
					d := p.Decide(policy.Ask{Caller: fetch.Caller{}, Method: method, Destination: dest})
					if tried++; d.Denied != nil || d.Rule != n.Rule {
						t.Errorf("GET %s: if %s, rule %s decides and says %v; want that %s allows it", origin, n.Difference, d.Rule, d.Denied, n.Rule)
					}
				}
			}
		}
	}
	if tried < 500 {
		t.Errorf("only %d near misses", tried)
	}
}

// differently returns the question that a difference speaks of.
func differently(t testing.TB, method string, dest fetch.Destination, difference string) (string, fetch.Destination) {
	t.Helper()
	what, value, _ := strings.Cut(difference, " were ")
	usual := map[string]uint16{"http": 80, "https": 443}
	switch what {
	case "the method":
		method = value
	case "the port":
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		dest.Port = uint16(port)
	case "the scheme":
		if dest.Port == usual[dest.Scheme] {
			dest.Port = usual[value]
		}
		dest.Scheme = value
	default:
		t.Fatalf("no such difference: %q", difference)
	}
	return method, dest
}
