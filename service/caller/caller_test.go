package caller_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// The tokens of tests, as their callers show them.
const (
	billingToken = "fg_billing-token-1234567890"
	shopToken    = "fg_shop-token-1234567890"
)

func digestOf(token string) string {
	digest := sha256.Sum256([]byte(token))
	return hex.EncodeToString(digest[:])
}

func build(t testing.TB, o caller.Options) *caller.Authenticator {
	t.Helper()
	a, err := caller.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// rpc is what an RPC shows of its caller.
type rpc struct {
	certificate *x509.Certificate // verified
	unverified  bool
	plain       bool
	metadata    []string
	from        net.Addr
}

// around is what a listener puts around what the handshake learned.
type around struct{ credentials.AuthInfo }

func (a around) Unwrap() credentials.AuthInfo { return a.AuthInfo }

func (r rpc) context(t testing.TB) context.Context {
	p := &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 1234}}
	if r.from != nil {
		p.Addr = r.from
	}
	if !r.plain {
		var state tls.ConnectionState
		if r.certificate != nil {
			state.PeerCertificates = []*x509.Certificate{r.certificate}
			if !r.unverified {
				state.VerifiedChains = [][]*x509.Certificate{{r.certificate}}
			}
		}
		p.AuthInfo = around{around{credentials.TLSInfo{State: state}}}
	}
	ctx := peer.NewContext(t.Context(), p)
	return metadata.NewIncomingContext(ctx, metadata.Pairs(r.metadata...))
}

// who is the name and identity of the caller of an RPC; "?" and why not.
func who(t testing.TB, a *caller.Authenticator, r rpc) (string, error) {
	ctx, err := a.Authenticate(r.context(t))
	found, again := caller.FromContext(ctx)
	if err != again {
		t.Errorf("Authenticate says %v, FromContext %v", err, again)
	}
	if err == nil {
		return strings.TrimSpace(found.Name + " " + found.Identity), nil
	}
	if (found != fetch.Caller{Anonymous: true, Peer: found.Peer}) {
		t.Errorf("of a caller that is not known, %+v is known", found)
	}
	wantUnknown(t, err, r)
	return "?", err
}

// wantUnknown wants an error to be UNAUTHENTICATED, and to hold nothing of what
// was shown.
func wantUnknown(t testing.TB, err error, r rpc) {
	t.Helper()
	s := status.Convert(err)
	reason := ""
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == "fetchgate" {
			reason = i.GetReason()
		}
	}
	if _, ok := errors.AsType[*caller.Unknown](err); !ok || s.Code() != codes.Unauthenticated || reason != "CALLER_UNKNOWN" || !strings.Contains(s.Message(), "; ") {
		t.Errorf("the error is %v with %q; want UNAUTHENTICATED with CALLER_UNKNOWN, and what to do", err, reason)
	}
	for i := 1; i < len(r.metadata); i += 2 {
		for _, word := range strings.FieldsFunc(r.metadata[i], func(r rune) bool { return r == ' ' || r == '.' }) {
			if len(word) > 6 && !strings.EqualFold(word, "bearer") && strings.Contains(s.Message(), word) {
				t.Errorf("the error holds what was shown: %v", err)
			}
		}
	}
}

// TestAuthenticate: who is asked for no proof, and the address of the peer.
func TestAuthenticate(t *testing.T) {
	everyone := []*configv1.Caller{{Name: "shop", Owner: "team-shop", DangerousAnonymous: true, Rights: []string{"fetch", "operate"}}}
	from := netip.MustParseAddrPort("192.0.2.1:1234")
	for name, c := range map[string]struct {
		callers []*configv1.Caller
		ctx     context.Context
		want    fetch.Caller
	}{
		"anonymous":      {nil, rpc{}.context(t), fetch.Caller{Name: "anonymous", Anonymous: true, Rights: fetch.DefaultRights, Peer: from}},
		"named":          {everyone, rpc{}.context(t), fetch.Caller{Name: "shop", Owner: "team-shop", Anonymous: true, Rights: fetch.RightFetch | fetch.RightOperate, Peer: from}},
		"without a peer": {nil, t.Context(), fetch.Caller{Name: "anonymous", Anonymous: true, Rights: fetch.DefaultRights}},
		"no address":     {nil, peer.NewContext(t.Context(), &peer.Peer{}), fetch.Caller{Name: "anonymous", Anonymous: true, Rights: fetch.DefaultRights}},
	} {
		ctx, err := build(t, caller.Options{Callers: c.callers}).Authenticate(c.ctx)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := caller.FromContext(ctx); err != nil || got != c.want {
			t.Errorf("%s: the caller is %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// TestFromContext: nobody is known before Authenticate, and another's value in
// the context is no caller.
func TestFromContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, fetch.Caller{Name: "shop"})
	if got, err := caller.FromContext(ctx); err == nil || got != (fetch.Caller{}) {
		t.Errorf("the caller is %+v, %v", got, err)
	} else {
		wantUnknown(t, err, rpc{})
	}
}

// TestAuthenticateAnew: what was found out last counts, also if it is nothing.
func TestAuthenticateAnew(t *testing.T) {
	ctx, err := build(t, caller.Options{}).Authenticate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proven := build(t, caller.Options{Callers: []*configv1.Caller{{Name: "shop", TokenSha256: []string{digestOf(shopToken)}}}})
	if ctx, err = proven.Authenticate(ctx); err == nil {
		t.Error("a caller without a token is known")
	}
	if got, err := caller.FromContext(ctx); err == nil || got.Name != "" {
		t.Errorf("the caller is %+v, %v", got, err)
	}
}

// TestRights: each word is its right, and none given are the first five.
func TestRights(t *testing.T) {
	for i, name := range fetch.RightNames {
		a := build(t, caller.Options{Callers: []*configv1.Caller{{Name: "a", DangerousAnonymous: true, Rights: []string{name}}}})
		ctx, err := a.Authenticate(t.Context())
		if got, _ := caller.FromContext(ctx); err != nil || got.Rights != 1<<i {
			t.Errorf("%s is %b, %v", name, got.Rights, err)
		}
	}
	if fetch.DefaultRights&(fetch.RightExplainAddresses|fetch.RightOperate) != 0 {
		t.Error("a right that has to be given is given")
	}
}

// knownByAll are callers with each kind of proof but JWTs.
var knownByAll = []*configv1.Caller{
	{Name: "billing", SpiffeIds: []string{"spiffe://prod/ns/pay/sa/billing"}, DnsNames: []string{"Billing.Example"}, TokenSha256: []string{digestOf("old-" + billingToken), digestOf(billingToken)}},
	{Name: "pay", SpiffeIds: []string{"spiffe://prod/ns/pay/*"}},
	{Name: "prod", SpiffeIds: []string{"spiffe://prod/*"}},
	{Name: "shop", DnsNames: []string{"shop.example", "shop2.example"}, TokenSha256: []string{digestOf(shopToken)}},
}

// TestCertificates: who a verified certificate is of. "?" is refused, "-" is
// nobody here, so that another proof is asked for.
func TestCertificates(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	a := build(t, caller.Options{Callers: knownByAll})
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"spiffe://prod/ns/pay/sa/billing"}, "billing spiffe://prod/ns/pay/sa/billing"},
		{[]string{"spiffe://prod/ns/pay/sa/refunds"}, "pay spiffe://prod/ns/pay/sa/refunds"},
		{[]string{"spiffe://prod/ns/pay"}, "prod spiffe://prod/ns/pay"},
		{[]string{"spiffe://prod/ns/payments"}, "prod spiffe://prod/ns/payments"},
		{[]string{"spiffe://prod/ns/pay/sa/billing/x"}, "pay spiffe://prod/ns/pay/sa/billing/x"},
		{[]string{"spiffe://test/ns/pay/sa/billing"}, "-"},
		{[]string{"spiffe://prod.evil/ns/pay/sa/billing"}, "-"},
		{[]string{"spiffe://prod"}, "?"},
		{[]string{"spiffe://prod/"}, "?"},
		{[]string{"spiffe://PROD/ns/pay/sa/billing"}, "?"},
		{[]string{"spiffe://prod/ns/../ns/pay/sa/billing"}, "?"},
		{[]string{"spiffe://prod/ns/./x"}, "?"},
		{[]string{"spiffe://prod//x"}, "?"},
		{[]string{"spiffe://prod/ns/pay/"}, "?"},
		{[]string{"spiffe://prod/ns/pay/%2e%2e/x"}, "?"},
		{[]string{"spiffe://prod/x?a=b"}, "?"},
		{[]string{"spiffe://prod/x#a"}, "?"},
		{[]string{"spiffe://user@prod/x"}, "?"},
		{[]string{"spiffe://prod:443/x"}, "?"},
		{[]string{"spiffe://prod/" + strings.Repeat("x", 2048)}, "?"},
		{[]string{"spiffe://prod/ns/pay/sa/billing", "spiffe://prod/ns/pay/sa/refunds"}, "?"},
		{[]string{"spiffe://prod/ns/pay/sa/billing", "https://prod.example/"}, "?"},
		{[]string{"https://prod.example/"}, "-"},
		{[]string{"billing.example"}, "billing billing.example"},
		{[]string{"BILLING.EXAMPLE"}, "billing billing.example"},
		{[]string{"a.billing.example"}, "-"},
		{[]string{"*.example"}, "-"},
		{[]string{"example"}, "-"},
		{[]string{"other.example", "shop.example"}, "shop shop.example"},
		{[]string{"shop.example", "shop2.example"}, "shop shop.example"},
		{[]string{"billing.example", "shop.example"}, "?"},
		{[]string{"spiffe://prod/ns/pay/sa/billing", "billing.example"}, "billing spiffe://prod/ns/pay/sa/billing"},
		{[]string{"spiffe://prod/ns/pay/sa/billing", "shop.example"}, "?"},
		{[]string{}, "-"},
	} {
		leaf := authority.Issue(fetchtest.IssueOptions{Names: c.names, CommonName: "billing.example"}).Leaf
		got, err := who(t, a, rpc{certificate: leaf})
		if c.want == "-" {
			if err == nil || !strings.Contains(err.Error(), "the certificate is good, but ") {
				t.Errorf("%q: got %q, %v; want nobody", c.names, got, err)
			}
			continue
		}
		if got != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.names, got, err, c.want)
		}
		if got, _ := who(t, a, rpc{certificate: leaf, unverified: true}); got != "?" {
			t.Errorf("%q: not verified, it is of %q", c.names, got)
		}
	}
}

// TestCertificateExpires: a connection is no proof for longer than its
// certificate.
func TestCertificateExpires(t *testing.T) {
	leaf := fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{Names: []string{"shop.example"}}).Leaf
	now := leaf.NotAfter
	a := build(t, caller.Options{Callers: knownByAll, Now: func() time.Time { return now }})
	if got, err := who(t, a, rpc{certificate: leaf}); got != "shop shop.example" {
		t.Errorf("in its last second it is of %q, %v", got, err)
	}
	now = now.Add(time.Second)
	if got, err := who(t, a, rpc{certificate: leaf}); got != "?" || !strings.Contains(err.Error(), "expired since") {
		t.Errorf("after that it is of %q, %v", got, err)
	}
}

// TestTokens: whose a token is.
func TestTokens(t *testing.T) {
	a := build(t, caller.Options{Callers: knownByAll})
	billing := "billing sha256:" + digestOf(billingToken)[:12]
	for _, c := range []struct {
		name     string
		metadata []string
		want     string
	}{
		{"a token", []string{"authorization", "Bearer " + billingToken}, billing},
		{"the one before", []string{"authorization", "Bearer old-" + billingToken}, "billing sha256:" + digestOf("old-" + billingToken)[:12]},
		{"another case of the scheme", []string{"authorization", "bearer " + billingToken}, billing},
		{"more spaces", []string{"authorization", "Bearer   " + billingToken}, billing},
		{"nothing", nil, "?"},
		{"nobody's", []string{"authorization", "Bearer x" + billingToken}, "?"},
		{"part of one", []string{"authorization", "Bearer " + billingToken[:10]}, "?"},
		{"a digest", []string{"authorization", "Bearer " + digestOf(billingToken)}, "?"},
		{"an empty one", []string{"authorization", "Bearer "}, "?"},
		{"nothing behind the scheme", []string{"authorization", "Bearer"}, "?"},
		{"an empty value", []string{"authorization", ""}, "?"},
		{"no scheme", []string{"authorization", billingToken}, "?"},
		{"another scheme", []string{"authorization", "Basic " + billingToken}, "?"},
		{"two tokens", []string{"authorization", "Bearer " + billingToken, "authorization", "Bearer " + billingToken}, "?"},
		{"a list", []string{"authorization", "Bearer " + billingToken + ", Bearer " + shopToken}, "?"},
		{"a space behind", []string{"authorization", "Bearer " + billingToken + " "}, "?"},
		{"a line end behind", []string{"authorization", "Bearer " + billingToken + "\n"}, "?"},
		{"a huge one", []string{"authorization", "Bearer " + strings.Repeat("x", 16<<10+1)}, "?"},
		{"the longest", []string{"authorization", "Bearer " + strings.Repeat("x", 16<<10)}, "?"},
		{"labels", []string{"x-caller", "billing", "x-spiffe-id", "spiffe://prod/ns/pay/sa/billing", "x-forwarded-client-cert", "URI=spiffe://prod/ns/pay/sa/billing", "caller", "billing", "x-api-key", billingToken}, "?"},
		{"labels beside", []string{"x-caller", "shop", "authorization", "Bearer " + billingToken}, billing},
	} {
		if got, err := who(t, a, rpc{metadata: c.metadata}); got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// TestTokensInClear: a token that others could read is none.
func TestTokensInClear(t *testing.T) {
	a := build(t, caller.Options{Callers: knownByAll})
	shown := []string{"authorization", "Bearer " + shopToken}
	for name, c := range map[string]struct {
		rpc  rpc
		want string
	}{
		"beyond loopback": {rpc{plain: true, metadata: shown}, "?"},
		"on loopback":     {rpc{plain: true, metadata: shown, from: &net.TCPAddr{IP: net.IPv6loopback}}, "shop sha256:" + digestOf(shopToken)[:12]},
		"in memory":       {rpc{plain: true, metadata: shown, from: &net.UnixAddr{}}, "shop sha256:" + digestOf(shopToken)[:12]},
		"with TLS":        {rpc{metadata: shown}, "shop sha256:" + digestOf(shopToken)[:12]},
	} {
		if got, err := who(t, a, c.rpc); got != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
}

// TestSeveralProofs: they must be of one caller, and a bad one spoils the good.
func TestSeveralProofs(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	issue := func(names ...string) *x509.Certificate {
		return authority.Issue(fetchtest.IssueOptions{Names: names}).Leaf
	}
	billing, nobody, bad := issue("spiffe://prod/ns/pay/sa/billing"), issue("other.example"), issue("billing.example", "shop.example")
	guests := append([]*configv1.Caller{{Name: "guest", DangerousAnonymous: true}}, knownByAll...)
	for _, anonymous := range []bool{false, true} {
		callers, without := knownByAll, "?"
		if anonymous {
			callers, without = guests, "guest"
		}
		a := build(t, caller.Options{Callers: callers})
		for _, c := range []struct {
			name        string
			certificate *x509.Certificate
			token       string
			want        string
		}{
			{"both", billing, billingToken, "billing spiffe://prod/ns/pay/sa/billing"},
			{"of two callers", billing, shopToken, "?"},
			{"a bad token", billing, "nobodys", "?"},
			{"a bad token alone", nil, "nobodys", "?"},
			{"a bad certificate", bad, billingToken, "?"},
			{"a bad certificate alone", bad, "", "?"},
			{"nobody's certificate", nobody, shopToken, "shop sha256:" + digestOf(shopToken)[:12]},
			{"nobody's certificate alone", nobody, "", without},
			{"neither", nil, "", without},
		} {
			r := rpc{certificate: c.certificate}
			if c.token != "" {
				r.metadata = []string{"authorization", "Bearer " + c.token}
			}
			if got, err := who(t, a, r); got != c.want {
				t.Errorf("%s, anonymous %v: got %q, %v; want %q", c.name, anonymous, got, err, c.want)
			}
		}
	}
}

// TestNobodyTakesTokens: where no token can be a proof, none is looked at, nor a
// certificate where no name is known.
func TestNobodyTakesTokens(t *testing.T) {
	odd := fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{Names: []string{"spiffe://a/b", "spiffe://c/d"}}).Leaf
	for name, callers := range map[string][]*configv1.Caller{"no callers": nil, "one": {{Name: "anonymous", DangerousAnonymous: true}}} {
		a := build(t, caller.Options{Callers: callers})
		if got, err := who(t, a, rpc{certificate: odd, metadata: []string{"authorization", "Bearer a", "authorization", "Basic b"}}); got != "anonymous" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// TestWhatToShow: the error of an RPC without proof names those that there are.
func TestWhatToShow(t *testing.T) {
	for want, callers := range map[string][]*configv1.Caller{
		"show a client certificate that the operator knows, or a token in the metadata": knownByAll,
		"; show a token in the metadata":                                                {{Name: "a", TokenSha256: []string{digestOf("a")}}},
		"; show a client certificate that the operator knows":                           {{Name: "a", DnsNames: []string{"a"}}},
		"; ask the operator for an identity":                                            {{Name: "a"}},
	} {
		if _, err := who(t, build(t, caller.Options{Callers: callers}), rpc{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

// TestCertificateOfNobody: who has a good certificate is told its names, bounded
// and escaped, and where the operator has to write them.
func TestCertificateOfNobody(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	byNames := caller.Options{Callers: []*configv1.Caller{{Name: "shop", DnsNames: []string{"shop.example"}}}}
	byTokens := caller.Options{Callers: []*configv1.Caller{{Name: "shop", TokenSha256: []string{digestOf(shopToken)}}}}
	byIDs := caller.Options{Callers: []*configv1.Caller{{Name: "shop", SpiffeIds: []string{"spiffe://prod/shop"}}}, SPIFFEOnly: true}
	const orToken = ", or show a token in the metadata, authorization: Bearer TOKEN"
	for _, c := range []struct {
		options caller.Options
		names   []string
		want    string
	}{
		{byNames, []string{"spiffe://prod/x"}, "spiffe://prod/x is of no caller here; ask the operator to add it to callers[].spiffe_ids"},
		{byNames, []string{"spiffe://prod/x", "x.example"}, "spiffe://prod/x is of no caller here; ask the operator to add it to callers[].spiffe_ids"},
		{byNames, []string{"x.example"}, "x.example is of no caller here; ask the operator to add it to callers[].dns_names"},
		{byNames, []string{"a.example", "b.example", "c.example", "d.example"}, "a.example, b.example, c.example, 1 more are of no caller here; ask the operator to add one to callers[].dns_names"},
		{byNames, []string{}, "has neither a SPIFFE ID nor a DNS name; show one that has"},
		{byTokens, []string{"x.example"}, "x.example is of no caller here; ask the operator to add it to callers[].dns_names" + orToken},
		{byIDs, []string{"x.example"}, "has no SPIFFE ID; show one that has, such as spiffe://prod/ns/pay/sa/billing"},
		{byNames, []string{"spiffe://prod/" + strings.Repeat("x", 1000)}, "spiffe://prod/" + strings.Repeat("x", 242) + "... is of no caller here; ask the operator to add it to callers[].spiffe_ids"},
	} {
		leaf := authority.Issue(fetchtest.IssueOptions{Names: c.names}).Leaf
		if _, err := who(t, build(t, c.options), rpc{certificate: leaf}); err == nil || err.Error() != "the certificate is good, but "+c.want {
			t.Errorf("%q: %v\n want %s", c.names, err, c.want)
		}
	}
	leaf := *authority.Issue(fetchtest.IssueOptions{Names: []string{"x.example"}}).Leaf
	leaf.DNSNames = []string{"x\n\x1b[31m.example"}
	if _, err := who(t, build(t, byNames), rpc{certificate: &leaf}); err == nil || !strings.Contains(err.Error(), `x\n\x1b[31m.example is of no caller`) {
		t.Errorf("a name with a control character: %v", err)
	}
}
