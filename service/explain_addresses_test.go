package service_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// seeingToken is that of a caller that may see addresses.
const seeingToken = "fg_cnryseeingtoken"

// seeingCallers are one that may see addresses, and everybody else.
var seeingCallers = `callers:
  - {name: seeing, rights: [fetch, explain, "explain:addresses"], token_sha256: [` + digestOf(seeingToken) + `]}
  - {name: guest, dangerous_anonymous: true}
`

// explainTo asks about a GET of a URL as the caller with that token, none if it is
// empty, and returns what the resolver was asked for it.
func (g *guarded) explainTo(t *testing.T, token string, m *request) (*fetchgatev1.ExplainResponse, []fetchtest.DNSQuery) {
	t.Helper()
	queries, dialed := len(g.dns.Queries()), len(g.network.Addresses())
	said, err := g.Policy.Explain(showing(within(t), token), &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
	if err != nil {
		t.Fatalf("%s: %v", m.Request.GetUrl(), err)
	}
	if dialed := g.network.Addresses()[dialed:]; len(dialed) > 0 {
		t.Errorf("%s: Explain opened connections to %v", m.Request.GetUrl(), dialed)
	}
	return said, g.dns.Queries()[queries:]
}

// shownAddresses are the addresses of an answer with their class, '!' before those
// that are denied.
func shownAddresses(said *fetchgatev1.ExplainResponse) string {
	var all []string
	for _, a := range said.GetAddresses() {
		all = append(all, map[bool]string{false: "!"}[a.GetAllowed()]+a.GetAddress()+":"+a.GetAddressClass())
	}
	return strings.Join(all, " ")
}

// TestExplainTellsAddresses: a caller with the right sees what the host resolves
// to, and what Fetch makes of it; for all others nothing is resolved.
func TestExplainTellsAddresses(t *testing.T) {
	g := startGuarded(t, seeingCallers+`rules:
  - {name: filtered, origins: ["http://filtered.example"], mixed_answers: filter}
  - {name: inner, owner: team-inner, origins: ["http://inner.example"], allow_addresses: [10.1.0.0/16], deny_addresses: [10.1.2.0/24]}
  - {name: local, origins: ["http://localhost", "http://127.0.0.1"], dangerous_allow_loopback: true}
  - {name: closed, action: deny, origins: ["http://closed.example"]}
  - {name: rest, owner: team-rest, origins: ["http://*", "http://10.0.0.1", "http://93.184.215.14"]}
`)
	for host, answer := range map[string]fetchtest.DNSAnswer{
		"public.example":   g.dns.Addresses(publicAddress, "2606:2800:21f::1"),
		"private.example":  g.dns.Addresses("10.0.0.1"),
		"metadata.example": g.dns.Addresses("169.254.169.254"),
		"mixed.example":    g.dns.Addresses(publicAddress, "10.0.0.1", "192.168.0.1"),
		"filtered.example": g.dns.Addresses("10.0.0.1", publicAddress),
		"inner.example":    g.dns.Addresses("10.1.0.1"),
		"shut.example":     fetchtest.NotFound(),
		"broken.example":   fetchtest.ServFail(),
		"closed.example":   g.dns.Addresses(publicAddress),
	} {
		g.dns.Script(host, answer)
	}
	for _, c := range []struct {
		host, addresses string
		queries         int
		fetch           codes.Code
		check           string // the detail of the check "address"
	}{
		{"public.example", "93.184.215.14:public 2606:2800:21f::1:public", 1, codes.OK, "2 addresses, all allowed"},
		{"private.example", "!10.0.0.1:private", 1, codes.PermissionDenied, "private.example resolves to an address that policy denies (private)"},
		{"metadata.example", "!169.254.169.254:metadata", 1, codes.PermissionDenied, "metadata.example resolves to an address that policy denies (metadata)"},
		{"mixed.example", "93.184.215.14:public !10.0.0.1:private !192.168.0.1:private", 1, codes.PermissionDenied, "mixed.example resolves to an address that policy denies (private)"},
		{"filtered.example", "!10.0.0.1:private 93.184.215.14:public", 1, codes.OK, "2 addresses, 1 of them denied and left out by the rule (mixed_answers: filter)"},
		{"inner.example", "10.1.0.1:private", 1, codes.OK, "1 address, allowed"},
		{"shut.example", "", 1, codes.OK, "NAME_NOT_FOUND: the host of shut.example:80 does not exist or has no address"},
		{"broken.example", "", 1, codes.OK, "RESOLVER_FAILED: the resolver gave no usable answer for broken.example:80"},
		{"closed.example", "", 0, codes.PermissionDenied, ""},
		{"localhost", "127.0.0.1:loopback ::1:loopback", 0, codes.OK, "2 addresses, all allowed"},
		{"127.0.0.1", "127.0.0.1:loopback", 0, codes.OK, "127.0.0.1 is of class loopback"},
		{"93.184.215.14", "93.184.215.14:public", 0, codes.OK, "93.184.215.14 is of class public"},
		{"10.0.0.1", "!10.0.0.1:private", 0, codes.PermissionDenied, "10.0.0.1 is of class private"},
	} {
		m := get("http://" + c.host + "/")
		m.Options.Retry = oneAttempt()
		said, queries := g.explainTo(t, seeingToken, m)
		if got := shownAddresses(said); got != c.addresses || len(queries) != c.queries {
			t.Errorf("%s: addresses %q after %d queries, want %q after %d", c.host, got, len(queries), c.addresses, c.queries)
		}
		if got := addressCheck(said); got != c.check {
			t.Errorf("%s: the check says %q, want %q", c.host, got, c.check)
		}
		checkFetch(t, g, m, c.fetch, said)
		checkGuest(t, g, m, said)
	}
}

// addressCheck is the detail of the check "address" of an answer; empty if it has
// none. More than one is no answer.
func addressCheck(said *fetchgatev1.ExplainResponse) string {
	var all []string
	for _, c := range said.GetChecks() {
		if c.GetCheck() == "address" {
			all = append(all, c.GetDetail())
		}
	}
	return strings.Join(all, " and ")
}

// checkFetch holds what Explain says to what Fetch does.
func checkFetch(t *testing.T, g *guarded, m *request, code codes.Code, said *fetchgatev1.ExplainResponse) {
	t.Helper()
	got, err := g.Fetch(showing(within(t), seeingToken), m)
	if status.Code(err) != code || said.GetAllowed() != (code == codes.OK) || said.GetGoesAhead() != said.GetAllowed() || said.GetMode() != "enforce" {
		t.Fatalf("%s: Fetch says %v, Explain %v", m.Request.GetUrl(), err, said)
	}
	if denial := "denied: " + said.GetWhy() + ". " + said.GetHint(); err != nil && status.Convert(err).Message() != denial {
		t.Errorf("%s: Fetch says %v, Explain %q", m.Request.GetUrl(), err, denial)
	}
	reason, _, isFailure := strings.Cut(addressCheck(said), ": the ")
	if want := "FAILURE_REASON_" + reason; isFailure && got.GetFailure().GetReason().String() != want {
		t.Errorf("%s: Fetch fails with %v, Explain says %s", m.Request.GetUrl(), got.GetFailure(), want)
	}
	if isFailure && !strings.HasSuffix(said.GetWhy(), addressCheck(said)) {
		t.Errorf("%s: it does not say why: %v", m.Request.GetUrl(), said)
	}
}

// checkGuest asks as a caller without the right: it is told what the rules say, and
// nobody asks the resolver.
func checkGuest(t *testing.T, g *guarded, m *request, seen *fetchgatev1.ExplainResponse) {
	t.Helper()
	said, queries := g.explainTo(t, "", m)
	if len(queries) > 0 || len(said.GetAddresses()) > 0 {
		t.Errorf("%s: a guest sees %v after the queries %v", m.Request.GetUrl(), said.GetAddresses(), queries)
	}
	isName := len(seen.GetAddresses()) > 0 && strings.Contains(seen.GetChecks()[len(seen.GetChecks())-1].GetDetail(), "resolves to")
	if isName != (said.GetAllowed() != seen.GetAllowed()) {
		t.Errorf("%s: a guest is told %v, the other caller %v", m.Request.GetUrl(), said, seen)
	}
	if address := "10.0.0.1"; !strings.Contains(m.Request.GetUrl(), address) && strings.Contains(said.String(), address) {
		t.Errorf("%s: a guest is told of addresses: %v", m.Request.GetUrl(), said)
	}
}

// TestExplainTellsAddressesInEveryMode: no mode lets a denied address go ahead.
func TestExplainTellsAddressesInEveryMode(t *testing.T) {
	for mode, rule := range map[string]string{"report": "old", "open": "default-deny"} {
		g := startGuarded(t, "mode: "+mode+"\n"+seeingCallers+`rules:
  - {name: old, action: deny, owner: team-old, origins: ["http://*.example"]}
`)
		g.dns.Set("public.example", publicAddress)
		g.dns.Set("mixed.example", publicAddress, "10.0.0.1")
		said, _ := g.explainTo(t, seeingToken, get("http://public.example/"))
		if said.GetAllowed() || !said.GetGoesAhead() || said.GetMode() != mode || said.GetRule() != rule || shownAddresses(said) != publicAddress+":public" {
			t.Errorf("%s: a public address is explained as %v", mode, said)
		}
		m := get("http://mixed.example/")
		said, _ = g.explainTo(t, seeingToken, m)
		if shownAddresses(said) != publicAddress+":public !10.0.0.1:private" || said.GetRule() != "default-deny" || said.GetRuleLocation() != "" {
			t.Errorf("%s: a mixed answer is explained as %v", mode, said)
		}
		if !strings.Contains(fmt.Sprint(said.GetChecks()), "but addresses are judged in every mode") {
			t.Errorf("%s: the checks do not say what the mode leaves out: %v", mode, said.GetChecks())
		}
		checkFetch(t, g, m, codes.PermissionDenied, said)
	}
}

// TestExplainResolvesWhatFetchWould: a request that Fetch refuses or denies before
// it dials has nothing resolved.
func TestExplainResolvesWhatFetchWould(t *testing.T) {
	g := startGuarded(t, seeingCallers+"rules: [{name: rest, origins: [\"http://*\"], limits: {max_request_body_bytes: 1}}]\n")
	wrong, large := get("http://www.example.com/"), get("http://www.example.com/")
	wrong.Request.Headers = headers("Host", "x")
	large.Request.Method, large.Request.Body = "POST", &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte("long")}}
	for what, m := range map[string]*request{
		"a field that is refused": wrong, "a body that is denied": large,
		"an origin that is denied": get("https://www.example.com/"), "a name that no wildcard stands for": get("http://db.internal/"),
	} {
		said, queries := g.explainTo(t, seeingToken, m)
		if said.GetAllowed() || len(queries) > 0 || len(said.GetAddresses()) > 0 {
			t.Errorf("%s: it asks for %v and says %v", what, queries, said)
		}
	}
}

// TestExplainKeepsTheTimeOfALookUp: timeouts.dns ends the look-up, and so does the
// deadline of the RPC, early enough for an answer.
func TestExplainKeepsTheTimeOfALookUp(t *testing.T) {
	g := startGuarded(t, seeingCallers+"rules: [{name: rest, origins: [\"http://*\"]}]\n")
	g.dns.Script("silent.example", fetchtest.NoAnswer())
	for what, c := range map[string]struct{ dns, deadline time.Duration }{
		"timeouts.dns": {50 * time.Millisecond, patience}, "the deadline": {20 * time.Second, time.Second},
	} {
		m := get("http://silent.example/")
		m.Options.Timeouts = &fetchgatev1.Timeouts{Dns: durationpb.New(c.dns)}
		ctx, cancel := context.WithTimeout(showing(t.Context(), seeingToken), c.deadline)
		defer cancel()
		said, err := g.Policy.Explain(ctx, &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
		if err != nil || !said.GetAllowed() || !said.GetGoesAhead() || !strings.HasPrefix(addressCheck(said), "RESOLVE_TIMEOUT: ") {
			t.Errorf("%s: %v, %v", what, said, err)
		}
	}
}

// TestExplainHoldsForNow: what Explain saw is no promise; Fetch resolves and judges
// anew.
func TestExplainHoldsForNow(t *testing.T) {
	g := startGuarded(t, seeingCallers+"rules: [{name: rest, origins: [\"http://*\"]}]\n")
	g.dns.Script("rebind.example", g.dns.Addresses(publicAddress), g.dns.Addresses("127.0.0.1"))
	m := get("http://rebind.example/")
	said, _ := g.explainTo(t, seeingToken, m)
	_, err := g.Fetch(showing(within(t), seeingToken), m)
	if !said.GetGoesAhead() || status.Code(err) != codes.PermissionDenied || len(g.network.Addresses()) > 0 {
		t.Errorf("Explain says %v, Fetch %v after connections to %v", said, err, g.network.Addresses())
	}
}

// TestExplainTellsFewOfManyAddresses: how long an answer is, is not for who answers
// for the name to say; the one that is denied is in it.
func TestExplainTellsFewOfManyAddresses(t *testing.T) {
	g := startGuarded(t, seeingCallers+"rules: [{name: rest, origins: [\"http://*\"]}]\n")
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("93.184.%d.%d", i/250, i%250)
	}
	g.dns.Set("many.example", append(many, "10.0.0.1")...)
	said, _ := g.explainTo(t, seeingToken, get("http://many.example/"))
	isDenied := func(a *fetchgatev1.AddressDecision) bool { return a.GetAddress() == "10.0.0.1" && !a.GetAllowed() }
	if said.GetAllowed() || len(said.GetAddresses()) != 65 || !slices.ContainsFunc(said.GetAddresses(), isDenied) || proto.Size(said) > 4<<10 {
		t.Errorf("%d addresses in %d bytes: %v", len(said.GetAddresses()), proto.Size(said), said.GetWhy())
	}
}
