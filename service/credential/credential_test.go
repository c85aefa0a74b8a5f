package credential_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// canary is every secret of these tests.
const canary = "cnry-secret+value"

// anywhere is a binding without bounds.
type anywhere struct{}

func (anywhere) For(fetch.Caller) bool                             { return true }
func (anywhere) Fits(fetch.Caller, string, fetch.Destination) bool { return true }

// written is a file with a secret.
func written(t *testing.T, secret string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	rewrite(t, name, secret)
	return name
}

func rewrite(t *testing.T, name, secret string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
}

func file(name string) *configv1.Secret {
	return &configv1.Secret{Source: &configv1.Secret_File{File: name}}
}

func bearer(name string, s *configv1.Secret) *configv1.HeldCredential {
	return &configv1.HeldCredential{Name: name, Kind: &configv1.HeldCredential_Bearer{Bearer: &configv1.HeldBearer{Token: s}}}
}

// heldKinds are credentials of every kind that a server can hold.
func heldKinds(t *testing.T, s *configv1.Secret) []*configv1.HeldCredential {
	cert, key := fetchtest.WriteCertificate(t, fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{}))
	return []*configv1.HeldCredential{
		bearer("bearer", s),
		{Name: "basic", Kind: &configv1.HeldCredential_Basic{Basic: &configv1.HeldBasic{Username: "user", Password: s}}},
		{Name: "header-key", Kind: &configv1.HeldCredential_ApiKey{ApiKey: &configv1.HeldApiKey{Place: &configv1.HeldApiKey_Header{Header: "X-Key"}, Prefix: "Token ", Key: s}}},
		{Name: "query-key", Kind: &configv1.HeldCredential_ApiKey{ApiKey: &configv1.HeldApiKey{Place: &configv1.HeldApiKey_QueryParam{QueryParam: "key"}, Key: s}}},
		{Name: "header", Kind: &configv1.HeldCredential_Header{Header: &configv1.HeldHeader{Name: "X-Auth", Template: `a="{secret}"`, Secret: s}}},
		{Name: "certificate", Kind: &configv1.HeldCredential_ClientCertificate{ClientCertificate: &configv1.HeldCertificate{CertFile: cert, KeyFile: key}}},
	}
}

func newStore(t *testing.T, previous *credential.Store, log *slog.Logger, list ...*configv1.HeldCredential) *credential.Store {
	t.Helper()
	s, err := credential.NewStore(list, options(list, previous, log))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func options(list []*configv1.HeldCredential, previous *credential.Store, log *slog.Logger) credential.Options {
	o := credential.Options{Bindings: make([]credential.Binding, len(list)), Previous: previous, Log: log}
	for i := range list {
		o.Bindings[i] = anywhere{}
	}
	return o
}

var secure = fetch.Origin{Scheme: "https", Host: "a.test", Port: 443}

// inlineKinds are credentials of every kind that a request can bring.
func inlineKinds(t *testing.T, secret string) []*fetchgatev1.Credential {
	cert, key := fetchtest.WriteCertificate(t, fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{}))
	certPEM, err := os.ReadFile(cert)
	keyPEM, err2 := os.ReadFile(key)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return []*fetchgatev1.Credential{
		{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte("user"), Password: []byte(secret)}}},
		{Kind: &fetchgatev1.Credential_Bearer{Bearer: &fetchgatev1.BearerCredential{Token: secret}}},
		{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: &fetchgatev1.ApiKeyCredential{Place: &fetchgatev1.ApiKeyCredential_Header{Header: "X-Key"}, Key: []byte(secret)}}},
		{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: &fetchgatev1.ApiKeyCredential{Place: &fetchgatev1.ApiKeyCredential_QueryParam{QueryParam: "key"}, Key: []byte(secret)}}},
		{Kind: &fetchgatev1.Credential_ClientCertificate{ClientCertificate: &fetchgatev1.ClientCertificateCredential{CertificatePem: certPEM, KeyPem: keyPEM}}},
	}
}

// TestNothingIsPrinted walks every kind, held and of a request, and prints it
// and its proof in every way.
func TestNothingIsPrinted(t *testing.T) {
	const secret = "cnrysecretvalue"
	var all []fetch.Credential
	store := newStore(t, nil, nil, heldKinds(t, file(written(t, secret)))...)
	for _, name := range []string{"bearer", "basic", "header-key", "query-key", "header", "certificate"} {
		all = append(all, store.Named(name))
	}
	for _, m := range inlineKinds(t, secret) {
		c, err := credential.Parse(m, secure)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	inside := []any{credential.NewSecret([]byte(secret)), struct{ s credential.Secret }{credential.NewSecret([]byte(secret))}, store, *store}
	for _, c := range all {
		inside = append(inside, c, c.Proof(fetch.Origin{}), []fetch.Credential{c}, struct{ c fetch.Credential }{c}, struct{ P fetch.Proof }{c.Proof(fetch.Origin{})}, &fetch.Plan{Credentials: all, Held: store})
		var sent fetch.Request
		if err := c.Proof(fetch.Origin{}).Apply(&sent); err != nil {
			t.Fatal(err)
		}
		inside = append(inside, sent.Route)
	}
	for _, v := range inside {
		wantHidden(t, v, secret)
	}
}

func wantHidden(t *testing.T, v any, secret string) {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range "vsqxXdobtcUeEfFgGpTw" {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3"} {
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	if b, err := json.Marshal(v); err == nil {
		out.Write(b)
	}
	hexed := hex.EncodeToString([]byte(secret))
	for _, spelling := range []string{
		secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		hexed, fmt.Sprintf("% x", secret), fmt.Sprintf("%d", []byte(secret))[1:20], fmt.Sprintf("%#v", []byte(secret))[8:30], "PRIVATE KEY",
	} {
		if i := strings.Index(strings.ToLower(out.String()), strings.ToLower(spelling)); i >= 0 {
			t.Errorf("%T shows its secret as %q", v, spelling)
		}
	}
}

// TestProofs: what each kind writes.
func TestProofs(t *testing.T) {
	store := newStore(t, nil, nil, heldKinds(t, file(written(t, canary+" \r\n")))...)
	for name, want := range map[string]string{
		"bearer":     "/?a=b Authorization: Bearer " + canary,
		"basic":      "/?a=b Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+canary)),
		"header-key": "/?a=b X-Key: Token " + canary,
		"query-key":  "/?a=b&key=" + strings.ReplaceAll(canary, "+", "%2B") + " ",
		"header":     `/?a=b X-Auth: a="` + canary + `"`,
	} {
		r := fetch.Request{Target: []byte("/?a=b")}
		p := store.Named(name).Proof(fetch.Origin{})
		if err := p.Apply(&r); err != nil {
			t.Fatal(err)
		}
		got := string(r.Target) + " "
		for _, f := range r.Fields {
			got += f.Name + ": " + string(f.Value)
		}
		if got != want || p.Version() != 1 {
			t.Errorf("%s: version %d writes %q, want %q", name, p.Version(), got, want)
		}
	}
	var r fetch.Request
	if err := store.Named("certificate").Proof(fetch.Origin{}).Apply(&r); err != nil || r.Route.TLS.Identity.Certificate() == nil || len(r.Route.TLS.IdentityID) != 64 {
		t.Errorf("the certificate is not in the route: %v", err)
	}
	if r.Route.Sealed(secure).Key == (fetch.Route{}).Sealed(secure).Key {
		t.Error("connections with and without the certificate have one key")
	}
}

// TestEchoes: every spelling is taken out, and the rest stays.
func TestEchoes(t *testing.T) {
	p := newStore(t, nil, nil, bearer("b", file(written(t, canary)))).Named("b").Proof(fetch.Origin{})
	for _, echo := range []string{
		canary, "Bearer " + canary, base64.StdEncoding.EncodeToString([]byte(canary)), base64.RawURLEncoding.EncodeToString([]byte(canary)),
		url.QueryEscape(canary), strings.ToLower(url.QueryEscape(canary)), hex.EncodeToString([]byte(canary)),
		strings.ToUpper(canary), strings.ToUpper(hex.EncodeToString([]byte(canary))), strings.ToUpper(canary[:8]) + canary[8:],
		canary + strings.ToUpper(canary),
	} {
		got := string(p.Redact([]byte("before " + echo + " after")))
		if strings.Contains(strings.ToLower(got), "cnry") || !strings.Contains(got, "before ") || !strings.HasSuffix(got, "[redacted] after") {
			t.Errorf("%q becomes %q", echo, got)
		}
	}
	plain := []byte("nothing of it")
	if got := p.Redact(plain); &got[0] != &plain[0] {
		t.Error("what holds no secret is copied")
	}
	if !p.IsShown("https://" + strings.ToUpper(canary) + ".test/") {
		t.Error("a secret in a host is not seen")
	}
}

// TestStrip: a redirect does not keep the parameter that was added.
func TestStrip(t *testing.T) {
	store := newStore(t, nil, nil, heldKinds(t, file(written(t, canary)))...)
	for target, want := range map[string]string{
		"/":                                     "/",
		"/?key=" + canary:                       "/?key=" + canary, // '+' is a space there
		"/?key=" + url.QueryEscape(canary):      "/",
		"/?a=b&%6bey=cnry%2dsecret%2bvalue&c=d": "/?a=b&c=d",
		"/?key=other":                           "/?key=other",
	} {
		if got := store.Named("query-key").Proof(fetch.Origin{}).Strip(fetch.Destination{Origin: secure, Target: target}); got.Target != want {
			t.Errorf("%s becomes %s, want %s", target, got.Target, want)
		}
	}
}

// TestRotation: a secret that changes gets the next version, one that comes back
// or moves from next_file to file keeps its own, and what cannot be read leaves
// the last one in force.
func TestRotation(t *testing.T) {
	var log bytes.Buffer
	now, soon := written(t, "first-token"), filepath.Join(t.TempDir(), "next")
	m := bearer("b", &configv1.Secret{Source: &configv1.Secret_File{File: now}, NextFile: soon})
	s := newStore(t, nil, slog.New(slog.NewTextHandler(&log, nil)), m)
	c := s.Named("b")
	wantVersion(t, c.Proof(fetch.Origin{}), 1)
	if other := c.Other(c.Proof(fetch.Origin{})); other != nil {
		t.Errorf("there is another proof, version %d, without a next file", other.Version())
	}
	rewrite(t, soon, "second-token")
	refresh(t, s)
	wantVersion(t, c.Proof(fetch.Origin{}), 1)
	wantVersion(t, c.Other(c.Proof(fetch.Origin{})), 2)
	c.Taken(c.Other(c.Proof(fetch.Origin{})), fetch.Origin{})
	wantVersion(t, c.Proof(fetch.Origin{}), 2) // what an upstream took is sent first
	wantVersion(t, c.Other(c.Proof(fetch.Origin{})), 1)
	wantVersion(t, c.Proof(secure), 1) // of another origin nothing is known
	rewrite(t, now, "second-token")
	refresh(t, s)
	wantVersion(t, c.Proof(fetch.Origin{}), 2)
	if c.Other(c.Proof(fetch.Origin{})) != nil {
		t.Error("the secret is the next one too")
	}
	for _, bad := range []string{"", " \n", "two\nlines", strings.Repeat("x", 17<<10)} {
		rewrite(t, now, bad)
		if err := s.Refresh(); err == nil {
			t.Errorf("%q is taken", bad)
		}
		wantVersion(t, c.Proof(fetch.Origin{}), 2)
	}
	rewrite(t, now, "third-token")
	refresh(t, s)
	wantVersion(t, c.Proof(fetch.Origin{}), 3)
	next := newStore(t, s, nil, m)
	wantVersion(t, next.Named("b").Proof(fetch.Origin{}), 3)
	wantVersion(t, next.Named("b").Other(next.Named("b").Proof(fetch.Origin{})), 2)
	if text := log.String(); strings.Contains(text, "-token") || !strings.Contains(text, "version=3") {
		t.Errorf("the log says %s", text)
	}
}

func refresh(t *testing.T, s *credential.Store) {
	t.Helper()
	if err := s.Refresh(); err != nil {
		t.Fatal(err)
	}
}

func wantVersion(t *testing.T, p fetch.Proof, want int64) {
	t.Helper()
	if p == nil || p.Version() != want {
		t.Errorf("the proof is %v, want version %d", p, want)
	}
}

// TestUnusableSecrets: each is refused at its setting, and not shown.
func TestUnusableSecrets(t *testing.T) {
	t.Setenv("CNRY_EMPTY", "")
	t.Setenv("CNRY_CONTROL", "cnry\x01value")
	env := func(name string) *configv1.Secret {
		return &configv1.Secret{Source: &configv1.Secret_Env{Env: name}}
	}
	key := func(k *configv1.HeldApiKey) *configv1.HeldCredential {
		return &configv1.HeldCredential{Name: "b", Kind: &configv1.HeldCredential_ApiKey{ApiKey: k}}
	}
	good := file(written(t, "good-value"))
	for want, m := range map[string]*configv1.HeldCredential{
		`credentials[0].bearer.token.env: the environment has no variable "CNRY_ABSENT"`:                      bearer("b", env("CNRY_ABSENT")),
		"credentials[0].bearer.token.env: the value of the variable is empty; a secret has at least one byte": bearer("b", env("CNRY_EMPTY")),
		"credentials[0].bearer.token.env: the value of the variable has the control character 0x01 at byte 4": bearer("b", env("CNRY_CONTROL")),
		"credentials[0].bearer.token.file: ": bearer("b", file("absent")),
		" is not a regular file":             bearer("b", file(t.TempDir())),
		"at 4 that no token of RFC 6750 section 2.1 has; for other tokens use a header": bearer("b", file(written(t, "cnry value"))),
		"credentials[0].api_key.header: the field Cookie says something else":           key(&configv1.HeldApiKey{Place: &configv1.HeldApiKey_Header{Header: "Cookie"}, Key: good}),
		"credentials[0].api_key.header: the field Host":                                 key(&configv1.HeldApiKey{Place: &configv1.HeldApiKey_Header{Header: "Host"}, Key: good}),
		"credentials[0].api_key.prefix: ":                                               key(&configv1.HeldApiKey{Place: &configv1.HeldApiKey_QueryParam{QueryParam: "k"}, Prefix: "x", Key: good}),
		"credentials[0].api_key.query_param: it is empty":                               key(&configv1.HeldApiKey{Place: &configv1.HeldApiKey_QueryParam{}, Key: good}),
		"credentials[0].client_certificate: the certificate and the key are no pair":    {Name: "b", Kind: &configv1.HeldCredential_ClientCertificate{ClientCertificate: &configv1.HeldCertificate{CertFile: written(t, "cnry"), KeyFile: written(t, "cnryvalue")}}},
		"credentials[0].header.secret.file: ":                                           {Name: "b", Kind: &configv1.HeldCredential_Header{Header: &configv1.HeldHeader{Name: "X-A", Template: "x {secret}\x01", Secret: good}}},
	} {
		list := []*configv1.HeldCredential{m}
		_, err := credential.NewStore(list, options(list, nil, nil))
		if setting := (*credential.SettingError)(nil); !errors.As(err, &setting) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "cnry") {
			t.Errorf("got %v, want %q and no secret", err, want)
		}
	}
}

// TestParseRefuses: what cannot be sent is refused by its field, and not shown.
func TestParseRefuses(t *testing.T) {
	clear := fetch.Origin{Scheme: "http", Host: "a.test", Port: 80}
	apiKey := func(k *fetchgatev1.ApiKeyCredential) *fetchgatev1.Credential {
		return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: k}}
	}
	token := func(s string) *fetchgatev1.Credential {
		return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Bearer{Bearer: &fetchgatev1.BearerCredential{Token: s}}}
	}
	pair := func(user, password string) *fetchgatev1.Credential {
		return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte(user), Password: []byte(password)}}}
	}
	inHeader := &fetchgatev1.ApiKeyCredential_Header{Header: "X-Key"}
	for _, c := range []struct {
		m     *fetchgatev1.Credential
		to    fetch.Origin
		field string
	}{
		{&fetchgatev1.Credential{}, secure, "kind"},
		{&fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Digest{}}, secure, "kind"},
		{token("cnry"), clear, "bearer"},
		{token(""), secure, "bearer.token"},
		{token("==="), secure, "bearer.token"},
		{token("cnry\r\nX: y"), secure, "bearer.token"},
		{token("cnry value"), secure, "bearer.token"},
		{pair("cnry:user", "x"), secure, "basic.username"},
		{pair("cnry\n", "x"), secure, "basic.username"},
		{pair("u", "cnry\x00"), secure, "basic.password"},
		{apiKey(&fetchgatev1.ApiKeyCredential{Key: []byte("cnry")}), secure, "api_key.place"},
		{apiKey(&fetchgatev1.ApiKeyCredential{Place: inHeader}), secure, "api_key.key"},
		{apiKey(&fetchgatev1.ApiKeyCredential{Place: inHeader, Key: []byte("cnry"), Prefix: "a\n"}), secure, "api_key.prefix"},
		{apiKey(&fetchgatev1.ApiKeyCredential{Place: &fetchgatev1.ApiKeyCredential_Header{Header: "Transfer-Encoding"}, Key: []byte("cnry")}), secure, "api_key.header"},
		{apiKey(&fetchgatev1.ApiKeyCredential{Place: &fetchgatev1.ApiKeyCredential_QueryParam{}, Key: []byte("cnry")}), secure, "api_key.query_param"},
		{&fetchgatev1.Credential{Kind: &fetchgatev1.Credential_ClientCertificate{ClientCertificate: &fetchgatev1.ClientCertificateCredential{KeyPem: []byte("cnry")}}}, secure, "client_certificate"},
	} {
		_, err := credential.Parse(c.m, c.to)
		bad := (*credential.FieldError)(nil)
		if !errors.As(err, &bad) || bad.Field != c.field || strings.Contains(err.Error(), "cnry") {
			t.Errorf("got %v, want a fault of %s without the secret", err, c.field)
		}
	}
	for _, host := range []string{"localhost", "a.localhost", "127.0.0.1", "::1"} {
		if _, err := credential.Parse(token("cnry"), fetch.Origin{Scheme: "http", Host: host, Port: 80}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestAwaitedNext: a next_file that is not there is said once at load, and when it
// comes or goes; a name that is wrong looks no other.
func TestAwaitedNext(t *testing.T) {
	var log bytes.Buffer
	soon := filepath.Join(t.TempDir(), "next")
	list := []*configv1.HeldCredential{
		bearer("a", &configv1.Secret{Source: &configv1.Secret_File{File: written(t, "first-token")}, NextFile: soon}),
		bearer("b", file(written(t, "other-token"))),
	}
	said := func(words string, times int) {
		t.Helper()
		if text := log.String(); strings.Count(text, words) != times || strings.Count(text, "credential=b") != 0 {
			t.Errorf("%q is said %d times, want %d:\n%s", words, strings.Count(text, words), times, text)
		}
	}
	logger := slog.New(slog.NewTextHandler(&log, nil))
	s := newStore(t, nil, logger, list...)
	said("next_file of a credential is not there", 1)
	said(soon, 1)
	refresh(t, s)
	s = newStore(t, s, logger, list...)
	said("next_file of a credential is not there", 1)
	if got := s.Awaited(); len(got) != 1 || got[0] != (credential.Awaited{Credential: "a", File: soon}) {
		t.Errorf("awaited are %v", got)
	}
	rewrite(t, soon, "first-token") // the one that is in force already
	refresh(t, s)
	said("next_file of a credential is there now", 1)
	if got := s.Awaited(); len(got) != 0 {
		t.Errorf("awaited are %v", got)
	}
	if err := os.Remove(soon); err != nil {
		t.Fatal(err)
	}
	refresh(t, s)
	said("next_file of a credential is not there", 2)
	if got := (*credential.Store)(nil).Awaited(); got != nil {
		t.Errorf("where there are none, awaited are %v", got)
	}
}
