package service_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// jwtKey is a key that JWTs of callers are signed with.
type jwtKey struct {
	id  string
	key *ecdsa.PrivateKey
}

func newJWTKey(t *testing.T, id string) jwtKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jwtKey{id, key}
}

// sign makes a JWT for fetchgate that is good for an hour, with changes.
func (k jwtKey) sign(t *testing.T, changes map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": "https://issuer.example", "aud": "fetchgate", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, changes)
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	maker, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.key}, new(jose.SignerOptions).WithHeader("kid", k.id))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := maker.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// replaceKeys puts the public keys in the place of a file.
func replaceKeys(t *testing.T, file string, keys ...jwtKey) {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: crypto.Signer(k.key).Public(), KeyID: k.id})
	}
	content, err := json.Marshal(set)
	if err == nil {
		err = os.WriteFile(file+".new", content, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The static tokens of the callers below.
const (
	billingToken = "fg_cnrybillingtoken0123456789"
	nobodysToken = "fg_cnrynobodystoken0123456789"
)

// proving is a fetchgate whose callers prove who they are.
type proving struct {
	*observed
	authority *fetchtest.Authority
	upstream  *fetchtest.Recorder
	keys      string
	signer    jwtKey
}

// serveProving starts one; callers show certificates if that is asked of them.
func serveProving(t *testing.T, certificates bool, more string) *proving {
	t.Helper()
	p := &proving{
		authority: fetchtest.NewAuthority(t), upstream: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{}),
		keys: filepath.Join(t.TempDir(), "keys.json"), signer: newJWTKey(t, "first"),
	}
	replaceKeys(t, p.keys, p.signer)
	cert, key := fetchtest.WriteCertificate(t, p.authority.Issue(fetchtest.IssueOptions{}))
	yaml := fmt.Sprintf("grpc:\n  tls: {cert_file: %q, key_file: %q", cert, key)
	if certificates {
		yaml += fmt.Sprintf(", client_ca_file: %q", p.authority.WriteFile(t))
	}
	yaml += "}\n" + fmt.Sprintf("jwt_issuers: [{name: corp, issuer: \"https://issuer.example\", audiences: [fetchgate], jwks_file: %q}]\n", p.keys)
	yaml += "callers:\n" + fmt.Sprintf("  - {name: billing, owner: team-payments, token_sha256: [%x]%s}\n", sha256.Sum256([]byte(billingToken)),
		map[bool]string{true: `, spiffe_ids: ["spiffe://prod/ns/pay/*"]`}[certificates])
	yaml += "  - {name: shop, owner: team-shop, jwts: [{issuer: corp, subject: shop}]}\n"
	p.observed = observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(p.upstream.Upstream)}, Extra: yaml + more})
	return p
}

// connect is a connection of a caller that shows a certificate; nil: none.
func (p *proving) connect(t *testing.T, shown *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	c := &tls.Config{RootCAs: p.authority.Pool(), ServerName: "127.0.0.1"}
	if shown != nil {
		c.Certificates = []tls.Certificate{*shown}
	}
	conn, err := grpc.NewClient(p.GRPCAddress(), grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (p *proving) issue(names ...string) *tls.Certificate {
	c := p.authority.Issue(fetchtest.IssueOptions{Names: names})
	return &c
}

// showing adds a token, and labels that say to be somebody.
func showing(ctx context.Context, token string) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", recorded,
		"x-caller", "billing", "x-fetchgate-caller", "billing", "x-spiffe-id", "spiffe://prod/ns/pay/sa/billing", "x-forwarded-client-cert", "URI=spiffe://prod/ns/pay/sa/billing")
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// reasonIn is the reason of an RPC error.
func reasonIn(err error) string {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i.GetReason()
		}
	}
	return ""
}

// auditLine is what the record says of a caller.
type auditLine struct {
	Caller, Identity, Owner, Outcome, Reason string
	Code                                     string `json:"rpc_code"`
	Dangerous                                []string
}

// lastLine is the line of the fetch that ended last, of so many.
func (w *observed) lastLine(t *testing.T, n int) auditLine {
	t.Helper()
	var line auditLine
	eventually(t, func() error {
		lines := strings.Split(strings.TrimSpace(w.audit.String()), "\n")
		if len(lines) != n {
			return fmt.Errorf("%d lines, want %d: %s", len(lines), n, w.audit.String())
		}
		return json.Unmarshal([]byte(lines[n-1]), &line)
	})
	return line
}

// TestCallersAreKnown (L06, K20): who calls is what was verified, in the answer,
// the record and the metrics; what is shown is in no evidence.
func TestCallersAreKnown(t *testing.T) {
	p := serveProving(t, true, "")
	other := newJWTKey(t, "other")
	billing := auditLine{Caller: "billing", Owner: "team-payments", Identity: "spiffe://prod/ns/pay/sa/billing"}
	byToken := auditLine{Caller: "billing", Owner: "team-payments", Identity: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(billingToken)))[:7+12]}
	shop := auditLine{Caller: "shop", Owner: "team-shop", Identity: "https://issuer.example shop"}
	nobody := auditLine{}
	good, expired := p.signer.sign(t, map[string]any{"sub": "shop"}), p.signer.sign(t, map[string]any{"sub": "shop", "exp": time.Now().Add(-time.Hour).Unix()})
	tokens := []string{good, expired}
	lines := 0
	var said []string
	for _, c := range []struct {
		name        string
		certificate *tls.Certificate
		token       string
		want        auditLine
	}{
		{"a certificate", p.issue("spiffe://prod/ns/pay/sa/billing"), "", billing},
		{"a certificate of nobody", p.issue("spiffe://prod/ns/web/sa/billing"), "", nobody},
		{"a static token", p.issue("any.example"), billingToken, byToken},
		{"a JWT", p.issue("any.example"), good, shop},
		{"both of one", p.issue("spiffe://prod/ns/pay/sa/billing"), billingToken, billing},
		{"both, of two", p.issue("spiffe://prod/ns/pay/sa/billing"), good, nobody},
		{"a token of nobody", p.issue("spiffe://prod/ns/pay/sa/billing"), nobodysToken, nobody},
		{"an expired JWT", p.issue("any.example"), expired, nobody},
		{"a JWT by another key", p.issue("any.example"), other.sign(t, map[string]any{"sub": "shop"}), nobody},
		{"two SPIFFE IDs", p.issue("spiffe://prod/ns/pay/sa/billing", "spiffe://prod/ns/pay/sa/b"), "", nobody},
	} {
		conn := p.connect(t, c.certificate)
		tokens = append(tokens, c.token)
		for _, rpc := range rpcs {
			a, err := rpc.call(showing(within(t), c.token), fetchgatev1.NewFetchServiceClient(conn), get(p.upstream.URL("/")))
			lines++
			line := p.lastLine(t, lines)
			want := c.want
			if want.Caller == "" {
				want.Outcome, want.Reason, want.Code = "rejected", "CALLER_UNKNOWN", "UNAUTHENTICATED"
				if status.Code(err) != codes.Unauthenticated || reasonIn(err) != "CALLER_UNKNOWN" {
					t.Errorf("%s by %s: got %v", c.name, rpc.name, gotten(a, err))
				}
				const named = "the certificate is good, but spiffe://prod/ns/web/sa/billing is of no caller here; ask the operator to add it to callers[].spiffe_ids"
				if c.name == "a certificate of nobody" && !strings.Contains(status.Convert(err).Message(), named) {
					t.Errorf("by %s: %v, want %s", rpc.name, err, named)
				}
			} else if want.Outcome, want.Code = "response", "OK"; err != nil {
				t.Errorf("%s by %s: %v", c.name, rpc.name, err)
			}
			line.Dangerous = slices.DeleteFunc(line.Dangerous, func(s string) bool { return !strings.Contains(s, "anonymous") })
			if fmt.Sprint(line) != fmt.Sprint(want) {
				t.Errorf("%s by %s: the line says %+v, want %+v", c.name, rpc.name, line, want)
			}
			said = append(said, told(nil, err)...)
		}
		_, err := fetchgatev1.NewPolicyServiceClient(conn).Explain(showing(within(t), c.token), &fetchgatev1.ExplainRequest{Request: get(p.upstream.URL("/")).Request})
		if known := c.want.Caller != ""; known != (err == nil) || !known && (status.Code(err) != codes.Unauthenticated || reasonIn(err) != "CALLER_UNKNOWN") {
			t.Errorf("%s: Explain says %v", c.name, err)
		}
		said = append(said, told(nil, err)...)
	}
	if n := len(p.upstream.Requests()); n != 8 {
		t.Errorf("the upstream was asked %d times, want 8", n)
	}
	_, metrics, err := p.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`fetchgate_caller_fetches_total{caller="billing",outcome="response"} 6`, `fetchgate_caller_fetches_total{caller="shop",outcome="response"} 2`,
		`fetchgate_caller_fetches_total{caller="none",outcome="rejected"} 12`, `reason="CALLER_UNKNOWN"`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	p.check(t, said)
	all := p.evidence(metrics)
	all["what callers are told"] = strings.Join(said, "\n")
	for where, text := range all {
		for _, token := range tokens {
			for part := range strings.SplitSeq(token, ".") {
				if len(part) > 12 && strings.Contains(text, part[len(part)-12:]) {
					t.Errorf("%s holds a token: %s", where, part)
				}
			}
		}
	}
}

// TestProvenKeysRotate: a JWT by a key that is new in the file is good at once,
// one by a key that is gone is refused within moments.
func TestProvenKeysRotate(t *testing.T) {
	p := serveProving(t, false, "")
	conn := fetchgatev1.NewFetchServiceClient(p.connect(t, nil))
	next := newJWTKey(t, "second")
	ask := func(k jwtKey) error {
		_, err := whole(showing(within(t), k.sign(t, map[string]any{"sub": "shop"})), conn, get(p.upstream.URL("/")))
		return err
	}
	if err := ask(p.signer); err != nil {
		t.Error(err)
	}
	if err := ask(next); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a key that is not there yet: %v", err)
	}
	replaceKeys(t, p.keys, next)
	if err := ask(next); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := ask(p.signer); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the old key: %v", err)
	}
}

// TestRightsOfCallers: what a caller may not call, it is told, and nothing
// happens.
func TestRightsOfCallers(t *testing.T) {
	reader := "fg_cnryreadertoken"
	p := serveProving(t, false, fmt.Sprintf("  - {name: reader, owner: team-read, rights: [explain], token_sha256: [%x]}\n  - {name: guest, dangerous_anonymous: true, rights: [stream]}\n", sha256.Sum256([]byte(reader))))
	conn := p.connect(t, nil)
	for _, c := range []struct {
		token, name string
		may         []string
	}{{reader, "reader", []string{"Explain", "WaitForGeneration"}}, {"", "guest", []string{"StreamFetch"}}, {billingToken, "billing", []string{"Fetch", "StreamFetch", "Explain", "WaitForGeneration"}}} {
		ctx := showing(within(t), c.token)
		got := map[string]error{}
		for _, rpc := range rpcs {
			_, got[rpc.name] = rpc.call(ctx, fetchgatev1.NewFetchServiceClient(conn), get(p.upstream.URL("/")))
		}
		policy := fetchgatev1.NewPolicyServiceClient(conn)
		_, got["Explain"] = policy.Explain(ctx, &fetchgatev1.ExplainRequest{Request: get(p.upstream.URL("/")).Request})
		_, got["WaitForGeneration"] = policy.WaitForGeneration(ctx, &fetchgatev1.WaitForGenerationRequest{})
		for rpc, err := range got {
			if may := slices.Contains(c.may, rpc); may != (err == nil) || !may && (status.Code(err) != codes.PermissionDenied || reasonIn(err) != "RIGHT_MISSING") {
				t.Errorf("%s calls %s: %v", c.name, rpc, err)
			}
		}
	}
	if n := len(p.upstream.Requests()); n != 3 {
		t.Errorf("the upstream was asked %d times, want 3", n)
	}
	p.check(t, nil)
	if n := strings.Count(p.audit.String(), `"reason":"RIGHT_MISSING"`); n != 3 {
		t.Errorf("the record names a missing right %d times, want 3: %s", n, p.audit.String())
	}
}

// TestACallerWithoutARule (L01): a caller that no rule names gets nothing, and
// with the same certificate nothing of another caller's.
func TestACallerWithoutARule(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	shop := "fg_cnryshoptoken"
	w := observe(t, fetchtest.Options{Extra: fmt.Sprintf("callers:\n  - {name: billing, token_sha256: [%x]}\n  - {name: shop, token_sha256: [%x]}\n"+
		"rules: [{name: one, callers: [billing], dangerous_allow_loopback: true, origins: [%q]}]\n",
		sha256.Sum256([]byte(billingToken)), sha256.Sum256([]byte(shop)), fetchtest.OriginOf(u.Upstream))})
	for _, rpc := range rpcs {
		if a, err := rpc.call(showing(within(t), billingToken), w, get(u.URL("/"))); err != nil || a.failure != nil {
			t.Errorf("%s of billing: %s", rpc.name, gotten(a, err))
		}
		for name, token := range map[string]string{"shop": shop, "nobody": ""} {
			want := map[string]codes.Code{"shop": codes.PermissionDenied, "nobody": codes.Unauthenticated}[name]
			if _, err := rpc.call(showing(within(t), token), w, get(u.URL("/"))); status.Code(err) != want {
				t.Errorf("%s of %s: %v", rpc.name, name, err)
			}
		}
	}
	if n := len(u.Requests()); n != len(rpcs) {
		t.Errorf("the upstream was asked %d times, want %d", n, len(rpcs))
	}
	w.check(t, nil)
}

// TestTokensNeedTLS: a server does not listen beyond loopback for tokens that
// others could read.
func TestTokensNeedTLS(t *testing.T) {
	loaded, err := config.Parse("test.yaml", fmt.Appendf(nil, "callers: [{name: a, token_sha256: [%x]}]", sha256.Sum256([]byte(billingToken))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.New(service.Options{Config: loaded, GRPCAddress: "0.0.0.0:0", HTTPAddress: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("the error is %v", err)
	}
}

// TestWatchesNeedNoCaller: health is asked by who has no identity.
func TestWatchesNeedNoCaller(t *testing.T) {
	w := observe(t, fetchtest.Options{Extra: fmt.Sprintf("callers: [{name: a, token_sha256: [%x]}]\n", sha256.Sum256([]byte(billingToken)))})
	checked, err := healthpb.NewHealthClient(w.conn).Check(within(t), &healthpb.HealthCheckRequest{})
	if err != nil || checked.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", checked, err)
	}
}

// TestTokensAreSwapped: a reload takes a token back and gives another, while the
// connection stays.
func TestTokensAreSwapped(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	const second = "fg_cnrysecondtoken"
	yaml := func(tokens ...string) string {
		var digests []string
		for _, token := range tokens {
			digests = append(digests, digestOf(token))
		}
		return "callers: [{name: billing, rights: [fetch, explain], token_sha256: [" + strings.Join(digests, ", ") + "]}]\n" + opening("0s", u.Upstream)
	}
	s := reloading(t, yaml(billingToken))
	for _, c := range []struct {
		tokens []string
		good   map[string]bool
	}{
		{nil, map[string]bool{billingToken: true, second: false}},
		{[]string{billingToken, second}, map[string]bool{billingToken: true, second: true}},
		{[]string{second}, map[string]bool{billingToken: false, second: true}},
	} {
		if c.tokens != nil {
			s.change(t, yaml(c.tokens...))
		}
		for token, good := range c.good {
			if _, err := whole(showing(within(t), token), s, get(u.URL("/"))); good != (err == nil) || !good && status.Code(err) != codes.Unauthenticated {
				t.Errorf("with %q in force, %s: %v", c.tokens, token, err)
			}
		}
	}
	if strings.Contains(s.log.String(), canary) {
		t.Errorf("the log holds a token: %s", s.log.String())
	}
}
