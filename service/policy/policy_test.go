package policy_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"buf.build/go/protoyaml"
	"golang.org/x/tools/txtar"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// reviewed are the listeners and interfaces that testdata/decisions.txtar
// speaks of.
var reviewed = policy.Options{
	Own: func() []netip.AddrPort {
		return []netip.AddrPort{
			netip.MustParseAddrPort("127.0.0.1:7801"),
			netip.MustParseAddrPort("[::]:7802"),
			netip.MustParseAddrPort("203.0.113.9:7803"),
		}
	},
	Local: func() ([]netip.Addr, error) {
		return addresses("127.0.0.1", "::1", "10.20.30.40", "2606:4700::40", "198.41.0.40", "fe80::40"), nil
	},
}

func addresses(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

func parseURL(t testing.TB, url string) fetch.Destination {
	t.Helper()
	d, err := fetch.ParseURL(url)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return d
}

func compile(t testing.TB, rules []*configv1.Rule, o policy.Options) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(rules, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shop asks p as the caller named shop.
func shop(t testing.TB, p *policy.Policy, method, url string) policy.Decision {
	t.Helper()
	return p.Decide(policy.Ask{Caller: fetch.Caller{Name: "shop"}, Method: method, Destination: parseURL(t, url)})
}

// allow asks d about an address, and nil stands for yes.
func allow(t testing.TB, d policy.Decision, to string) *fetch.Denied {
	t.Helper()
	err := d.Allow(netip.MustParseAddrPort(to))
	if err == nil {
		return nil
	}
	var denied *fetch.Denied
	if !errors.As(err, &denied) {
		t.Fatalf("the error is %T, not *fetch.Denied", err)
	}
	return denied
}

func TestDecisions(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/decisions.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var p *policy.Policy
	count := 0
	for _, file := range archive.Files {
		name, kind, _ := strings.Cut(file.Name, ".")
		if kind == "yaml" {
			var c configv1.Config
			if err := protoyaml.Unmarshal(file.Data, &c); err != nil {
				t.Fatalf("%s: %v", file.Name, err)
			}
			o := reviewed
			o.Mode = c.GetMode()
			p = compile(t, c.GetRules(), o)
			continue
		}
		for line := range strings.Lines(string(file.Data)) {
			if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
				count++
				t.Run(name, func(t *testing.T) { checkCase(t, p, words) })
			}
		}
	}
	if count < 150 {
		t.Errorf("only %d cases were read", count)
	}
}

// checkCase decides one line of a case file.
func checkCase(t *testing.T, p *policy.Policy, words []string) {
	if len(words) < 6 {
		t.Fatalf("%q has too few words", words)
	}
	caller, method, url, resolved, words := words[0], words[1], words[2], words[3], words[4:]
	ask := policy.Ask{Caller: fetch.Caller{Name: caller}, Method: method, Destination: parseURL(t, url), Labels: map[string]string{}}
	for ; strings.Contains(words[0], ":"); words = words[1:] {
		name, value, _ := strings.Cut(words[0], ":")
		if label, isLabel := strings.CutPrefix(name, "@"); isLabel {
			ask.Labels[label] = value
			continue
		}
		ask.Fields = append(ask.Fields, fetch.Field{Name: name, Value: []byte(value)})
	}
	want, dest := strings.Join(words, " "), ask.Destination
	d := p.Decide(ask)
	checkExplained(t, p, ask, d)
	if (d.Denied == nil) != (d.Allow != nil) || (d.Denied == nil) != (d.AddressProfile != "") {
		t.Errorf("%s: half a decision: %+v", url, d)
	}
	denied := d.Denied
	if denied == nil && resolved == "-" {
		_, isLiteral := dest.Addr()
		if !isLiteral {
			t.Fatalf("%s is allowed by name, so the case needs addresses", url)
		}
		resolved = dest.Host
	}
	for text := range strings.SplitSeq(resolved, ",") {
		if denied != nil || text == "-" {
			break
		}
		if err := d.Allow(netip.AddrPortFrom(netip.MustParseAddr(text), dest.Port)); err != nil {
			denied = err.(*fetch.Denied)
		}
	}
	got := "allow " + d.Rule
	switch {
	case d.WouldDeny != nil:
		got = "report " + d.Rule + " " + string(d.WouldDeny.Reason)
	case d.Open:
		got = "open " + d.Rule
	}
	for word, is := range map[string]bool{"filter": d.FilterMixed, "isolate": d.IsolateCaller} {
		if is {
			got += " " + word
		}
	}
	for _, name := range d.Credentials {
		got += " credential=" + name
	}
	if d.AllowDowngrade {
		got += " downgrade"
	}
	if d.SendTraceparent {
		got += " traceparent"
	}
	if denied != nil {
		got = strings.TrimSpace(strings.Join([]string{"deny", denied.Rule, string(denied.Reason), denied.Class}, " "))
	}
	if got != want {
		t.Errorf("%s %s [%s]\n got %s\nwant %s", method, url, resolved, got, want)
	}
}

// checkExplained holds what Explain says to a decision.
func checkExplained(t *testing.T, p *policy.Policy, ask policy.Ask, d policy.Decision) {
	t.Helper()
	e := p.Explain(context.Background(), ask)
	if e.Decision.Rule != d.Rule || (e.Decision.Denied == nil) != (d.Denied == nil) || (e.Decision.WouldDeny == nil) != (d.WouldDeny == nil) || e.Decision.Open != d.Open {
		t.Errorf("%s %s: Decide says %+v, Explain %+v", ask.Method, ask.Destination.URL(), d, e.Decision)
	}
	failed := 0
	for _, c := range e.Checks {
		if !c.Passed {
			failed++
		}
	}
	last := e.Checks[len(e.Checks)-1]
	switch {
	case d.Denied != nil && (last.Passed || failed != 1 && !slices.ContainsFunc(e.Checks, func(c policy.Check) bool { return c.Name == "mode" })):
		t.Errorf("%s %s is denied after the checks %s", ask.Method, ask.Destination.URL(), stepsOf(e.Checks))
	case d.Denied == nil && !last.Passed, d.Denied == nil && d.WouldDeny == nil && !d.Open && failed > 0:
		t.Errorf("%s %s goes ahead after the checks %s", ask.Method, ask.Destination.URL(), stepsOf(e.Checks))
	case d.WouldDeny != nil && failed != 1:
		t.Errorf("%s %s is reported after the checks %s", ask.Method, ask.Destination.URL(), stepsOf(e.Checks))
	}
}

func TestEmptyListAllowsNothing(t *testing.T) {
	p := compile(t, []*configv1.Rule{}, policy.Options{})
	d := shop(t, p, "GET", "https://example.com/")
	if d.Denied == nil || d.Rule != policy.DefaultDeny {
		t.Errorf("got %+v", d)
	}
}

func TestDenialTellsCallerWhatToDoAndNoMore(t *testing.T) {
	p := compile(t, []*configv1.Rule{
		{Name: "orders", Owner: "team-orders", Origins: []string{"https://api.example.com"}, Methods: []string{"GET"}, AllowAddresses: []string{"10.7.0.0/16"}},
		{Name: "secret", Origins: []string{"https://hidden.example.net"}},
		{Name: "names", Owner: "team-names", Origins: []string{"http://localhost", "http://metadata"}},
	}, reviewed)
	withAddress := func(url, to string) *fetch.Denied { return allow(t, shop(t, p, "GET", url), to) }
	byName := func(method, url string) *fetch.Denied { return shop(t, p, method, url).Denied }

	for _, c := range []struct {
		denied        *fetch.Denied
		message, hint string
	}{
		{byName("DELETE", "https://api.example.com/v1?key=hush#f"),
			"no rule allows DELETE https://api.example.com",
			`Rule "orders" allows this origin, but not the method DELETE; ask team-orders. More: fetchgate explain -X DELETE https://api.example.com`},
		{byName("GET", "https://api.example.com:8443/v1?key=hush"),
			"no rule allows GET https://api.example.com:8443",
			"Ask the owner of the policy for a rule with the origin https://api.example.com:8443. More: fetchgate explain https://api.example.com:8443"},
		{byName("GET", "http://localhost/"),
			"localhost is a name of the machine itself, which policy denies",
			`Ask team-names to set dangerous_allow_loopback in rule "names", if the upstream runs beside fetchgate.`},
		{byName("GET", "http://metadata/"),
			"metadata is the name of a cloud's metadata service, which policy denies",
			`Ask team-names to set dangerous_allow_metadata in rule "names", if a metadata service is meant.`},
		{byName("GET", "https://metadata/"),
			"no rule allows GET https://metadata",
			"Only a rule that names metadata itself, with dangerous_allow_metadata, allows it; ask the owner of the policy. More: fetchgate explain https://metadata"},
		{byName("GET", "https://localhost/"),
			"no rule allows GET https://localhost",
			"Only a rule that names localhost itself, with dangerous_allow_loopback, allows it; ask the owner of the policy. More: fetchgate explain https://localhost"},
		{byName("GET", "https://intranet/"),
			"no rule allows GET https://intranet",
			"Only a rule that names intranet itself, without a wildcard, allows it; ask the owner of the policy. More: fetchgate explain https://intranet"},
		{withAddress("https://api.example.com/?key=hush", "192.168.0.9:443"),
			"api.example.com resolves to an address that policy denies (private)",
			"Check the host's DNS records; for an internal service ask team-orders for a rule with allow_addresses."},
		{withAddress("https://api.example.com/", "127.0.0.1:443"),
			"api.example.com resolves to an address that policy denies (loopback)",
			"Ask team-orders for a rule with dangerous_allow_loopback, if the upstream runs beside fetchgate."},
		{withAddress("https://api.example.com/", "10.20.30.40:7801"),
			"api.example.com resolves to an address that policy denies (own_listener)",
			"fetchgate does not call itself; name the service that is meant, or ask team-orders for a rule with dangerous_allow_own_listeners."},
		{withAddress("https://api.example.com/", "169.254.169.254:443"),
			"api.example.com resolves to an address that policy denies (metadata)",
			"The address is that of a cloud's metadata service; only a rule that lists it in allow_addresses, with dangerous_allow_metadata, allows it: ask team-orders."},
	} {
		if c.denied == nil {
			t.Fatalf("allowed, want %q", c.message)
		}
		if c.denied.Message != c.message {
			t.Errorf("message %q\n  want  %q", c.denied.Message, c.message)
		}
		if c.denied.Hint != c.hint {
			t.Errorf("hint %q\nwant %q", c.denied.Hint, c.hint)
		}
		for _, secret := range []string{"192.168", "10.7", "10.20", "127.0", "hidden", "hush"} {
			if strings.Contains(c.denied.Message+c.denied.Hint+c.denied.Rule, secret) {
				t.Errorf("the caller learns %q: %+v", secret, c.denied)
			}
		}
		// The record has the caller, the method and the origin beside it.
		if strings.Contains(c.denied.Audit, "hush") || strings.Contains(c.denied.Audit, "GET") || strings.Contains(c.denied.Audit, "shop") {
			t.Errorf("audit %q", c.denied.Audit)
		}
	}
	if audit := withAddress("https://api.example.com/", "192.168.0.9:443").Audit; !strings.Contains(audit, "192.168.0.9:443") || !strings.Contains(audit, "private") {
		t.Errorf("the operator does not learn the address: %q", audit)
	}
}

func TestHintWithoutRules(t *testing.T) {
	p := compile(t, nil, policy.Options{})
	const want = "The configuration has no rules, so only http on port 80 and https on port 443 are allowed; ask the operator for rules. More: fetchgate explain https://example.com:8443"
	if got := shop(t, p, "GET", "https://example.com:8443/").Denied.Hint; got != want {
		t.Errorf("hint %q\nwant %q", got, want)
	}
}

func TestAddressProfileIsByContent(t *testing.T) {
	profile := func(loopback bool, ranges ...string) string {
		t.Helper()
		p := compile(t, []*configv1.Rule{{
			Name: "r", Origins: []string{"https://*"}, AllowAddresses: ranges, DangerousAllowLoopback: loopback,
		}}, policy.Options{})
		return shop(t, p, "GET", "https://example.com/").AddressProfile
	}
	if got := profile(false); got != "public" {
		t.Errorf("nothing opened is %q, want public", got)
	}
	same := profile(false, "10.0.0.0/8", "fd00::/8", "192.168.0.1")
	if got := profile(false, "192.168.0.1/32", "FD00::/8", "10.0.0.0/8", "fd00::/8"); got != same {
		t.Errorf("the same ranges in other words are %q and %q", got, same)
	}
	seen := map[string]string{}
	for name, got := range map[string]string{
		"nothing":  profile(false),
		"loopback": profile(true),
		"/8":       profile(false, "10.0.0.0/8"),
		"/9":       profile(false, "10.0.0.0/9"),
		"two":      profile(false, "10.0.0.0/8", "fd00::/8"),
		"both":     profile(true, "10.0.0.0/8"),
	} {
		if other, taken := seen[got]; taken {
			t.Errorf("%s and %s have the same profile %q", name, other, got)
		}
		seen[got] = name
	}
}

func TestDecideIsSafeForConcurrentUse(t *testing.T) {
	p := compile(t, nil, reviewed)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				d := shop(t, p, "GET", "https://example.com/")
				if allow(t, d, "93.184.215.14:443") != nil || allow(t, d, "10.0.0.1:443") == nil {
					t.Error("a decision changed")
				}
			}
		})
	}
	wg.Wait()
}
