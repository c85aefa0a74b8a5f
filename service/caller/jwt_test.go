package caller_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
)

const issuerURL = "https://issuer.example"

// signer is a key of an issuer.
type signer struct {
	id  string
	alg jose.SignatureAlgorithm
	key any
}

func newSigner(t testing.TB, id string, alg jose.SignatureAlgorithm) signer {
	t.Helper()
	s := signer{id: id, alg: alg}
	var err error
	switch alg {
	case jose.ES256:
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		s.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		s.key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	default:
		s.key = rsaKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rsaKey is made once: it takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.(crypto.Signer).Public(), KeyID: s.id}
}

// sign makes a JWT; header adds to its header, or replaces what is there.
func (s signer) sign(t testing.TB, claims map[string]any, header map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return s.signRaw(t, payload, header)
}

func (s signer) signRaw(t testing.TB, payload []byte, header map[string]any) string {
	t.Helper()
	o := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{}}
	if s.id != "" {
		o = o.WithHeader("kid", s.id)
	}
	for name, value := range header {
		o = o.WithHeader(jose.HeaderKey(name), value)
	}
	maker, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.key}, o)
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

// keySet is a JSON Web Key Set.
func keySet(t testing.TB, keys ...any) []byte {
	t.Helper()
	set, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func keyFile(t testing.TB, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// noon is the time of most tests.
var noon = time.Unix(1_790_000_000, 0)

// known are the callers of an issuer whose keys are in a file.
func known(file string) caller.Options {
	return caller.Options{
		Issuers: []*configv1.JwtIssuer{{Name: "corp", Issuer: issuerURL, Audiences: []string{"other", "fetchgate"}, JwksFile: file}},
		Callers: []*configv1.Caller{
			{Name: "guest", DangerousAnonymous: true},
			{Name: "billing", Jwts: []*configv1.JwtIdentity{{Issuer: "corp", Subject: "billing"}}},
			{Name: "batch", Jwts: []*configv1.JwtIdentity{{Issuer: "corp", Claims: map[string]string{"team": "data", "tier": "1"}}}},
			{Name: "night", Jwts: []*configv1.JwtIdentity{{Issuer: "corp", Subject: "batch", Claims: map[string]string{"night": "true"}}}},
		},
		Now: func() time.Time { return noon },
	}
}

// fine are the claims of a good token of billing, with changes; nil leaves one
// out.
func fine(changes map[string]any) map[string]any {
	all := map[string]any{"iss": issuerURL, "aud": "fetchgate", "sub": "billing", "exp": noon.Unix() + 60}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func shown(token string) rpc { return rpc{metadata: []string{"authorization", "Bearer " + token}} }

// wantRefused wants a token refused for this reason.
func wantRefused(t testing.TB, a *caller.Authenticator, name, token, why string) {
	t.Helper()
	if got, err := who(t, a, shown(token)); got != "?" || !strings.Contains(fmt.Sprint(err), why) {
		t.Errorf("%s: got %q, %v; want it refused for %q", name, got, err, why)
	}
}

// TestAlgorithms: each with a key pair is good.
func TestAlgorithms(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA} {
		s := newSigner(t, "a", alg)
		a := build(t, known(keyFile(t, keySet(t, s.public()))))
		if got, err := who(t, a, shown(s.sign(t, fine(nil), nil))); got != "billing "+issuerURL+" billing" {
			t.Errorf("%s: got %q, %v", alg, got, err)
		}
		token := s.sign(t, fine(nil), nil)
		end := strings.LastIndexByte(token, '.') + 5
		swapped := "A"
		if token[end] == 'A' {
			swapped = "B"
		}
		wantRefused(t, a, string(alg)+" with a broken signature", token[:end]+swapped+token[end+1:], "signature")
		wantRefused(t, a, string(alg)+" without a signature", token[:strings.LastIndexByte(token, '.')+1], "signature")
	}
}

// TestClaims: what a token must say, and when it is good.
func TestClaims(t *testing.T) {
	s := newSigner(t, "a", jose.ES256)
	a := build(t, known(keyFile(t, keySet(t, s.public()))))
	billing := "billing " + issuerURL + " billing"
	at := func(d time.Duration) float64 { return float64(noon.Add(d).UnixMilli()) / 1000 }
	for _, c := range []struct {
		name    string
		changes map[string]any
		want    string // why it is refused, or whose it is
	}{
		{"as it should be", nil, billing},
		{"several audiences", map[string]any{"aud": []string{"a", "fetchgate"}}, billing},
		{"another audience", map[string]any{"aud": "fetchgate2"}, "claim aud"},
		{"other audiences", map[string]any{"aud": []string{"a", "b"}}, "claim aud"},
		{"no audience", map[string]any{"aud": nil}, "claim aud"},
		{"an audience in a list in a list", map[string]any{"aud": []any{[]string{"fetchgate"}}}, "claim aud"},
		{"no issuer", map[string]any{"iss": nil}, "claim iss"},
		{"another issuer", map[string]any{"iss": issuerURL + "/"}, "claim iss"},
		{"a list of issuers", map[string]any{"iss": []string{issuerURL}}, "claim iss"},
		{"another case of a name", map[string]any{"iss": nil, "ISS": issuerURL}, "claim iss"},
		{"no end", map[string]any{"exp": nil}, "claim exp"},
		{"an end in words", map[string]any{"exp": "tomorrow"}, "claim exp"},
		{"an end in digits as text", map[string]any{"exp": "1890000000"}, "claim exp"},
		{"an end beyond reason", map[string]any{"exp": 1e300}, "claim exp"},
		{"an end below 0", map[string]any{"exp": -1}, "claim exp"},
		{"null for an end", map[string]any{"exp": json.RawMessage("null")}, "claim exp"},
		{"within the leeway", map[string]any{"exp": at(-29 * time.Second)}, billing},
		{"just within", map[string]any{"exp": at(-29500 * time.Millisecond)}, billing},
		{"just beyond", map[string]any{"exp": at(-30 * time.Second)}, "has expired"},
		{"long ago", map[string]any{"exp": 1}, "has expired"},
		{"valid since now", map[string]any{"nbf": noon.Unix()}, billing},
		{"valid within the leeway", map[string]any{"nbf": at(30 * time.Second)}, billing},
		{"not valid yet", map[string]any{"nbf": at(31 * time.Second)}, "not valid yet"},
		{"valid from words", map[string]any{"nbf": "now"}, "claim nbf"},
		{"nobody", map[string]any{"sub": "nobody"}, "no caller here"},
		{"no subject", map[string]any{"sub": nil}, "no caller here"},
		{"a subject in a list", map[string]any{"sub": []string{"billing"}}, "no caller here"},
		{"another case of the subject", map[string]any{"sub": "Billing"}, "no caller here"},
		{"by its claims", map[string]any{"sub": "nightly-7", "team": "data", "tier": "1"}, "batch " + issuerURL + " nightly-7"},
		{"by its claims alone", map[string]any{"sub": nil, "team": []string{"web", "data"}, "tier": 1}, "batch " + issuerURL},
		{"one claim is missing", map[string]any{"sub": "x", "team": "data"}, "no caller here"},
		{"one claim is another", map[string]any{"sub": "x", "team": "data", "tier": 1.5}, "no caller here"},
		{"a section for a claim", map[string]any{"sub": "x", "team": map[string]string{"data": "data"}, "tier": "1"}, "no caller here"},
		{"subject and claim", map[string]any{"sub": "batch", "night": true}, "night " + issuerURL + " batch"},
		{"subject without the claim", map[string]any{"sub": "batch", "night": false}, "no caller here"},
		{"of two callers", map[string]any{"team": "data", "tier": "1"}, "several callers"},
	} {
		got, err := who(t, a, shown(s.sign(t, fine(c.changes), nil)))
		if got != c.want && !(got == "?" && strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	for name, payload := range map[string]string{
		"an issuer said twice": `{"iss":"https://evil.example","iss":"` + issuerURL + `","aud":"fetchgate","sub":"billing","exp":1790000060}`,
		"a list":               `[]`, "a text": `"a"`, "nothing": ``, "half": `{"iss":`, "null": `null`,
	} {
		wantRefused(t, a, name, s.signRaw(t, []byte(payload), nil), "the ")
	}
}

// TestLeeway: as the configuration says, 0 too.
func TestLeeway(t *testing.T) {
	s := newSigner(t, "a", jose.EdDSA)
	o := known(keyFile(t, keySet(t, s.public())))
	o.Issuers[0].Leeway = durationpb.New(0)
	a := build(t, o)
	wantRefused(t, a, "now", s.sign(t, fine(map[string]any{"exp": noon.Unix()}), nil), "has expired")
	if got, err := who(t, a, shown(s.sign(t, fine(map[string]any{"exp": noon.Unix() + 1}), nil))); !strings.HasPrefix(got, "billing") {
		t.Errorf("a second before its end: %q, %v", got, err)
	}
}

// TestSeenJWTs: one that was good before is good no longer than it would be
// anew.
func TestSeenJWTs(t *testing.T) {
	s := newSigner(t, "a", jose.EdDSA)
	now := noon
	o := known(keyFile(t, keySet(t, s.public())))
	o.Now = func() time.Time { return now }
	a := build(t, o)
	token := s.sign(t, fine(nil), nil)
	good := func() {
		t.Helper()
		if got, err := who(t, a, shown(token)); got != "billing "+issuerURL+" billing" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	good()
	if got, err := who(t, a, shown(s.sign(t, fine(map[string]any{"sub": "x", "team": "data", "tier": "1"}), nil))); !strings.HasPrefix(got, "batch") {
		t.Errorf("another beside it: %q, %v", got, err)
	}
	good()
	now = noon.Add(90*time.Second - time.Millisecond)
	good()
	now = noon.Add(90 * time.Second)
	wantRefused(t, a, "after its end", token, "has expired")
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestForgedTokens: none is good that its issuer did not sign with one of its
// keys, as that key is used.
func TestForgedTokens(t *testing.T) {
	rs, es := newSigner(t, "rsa", jose.RS256), newSigner(t, "ec", jose.ES256)
	other := newSigner(t, "other", jose.ES256)
	encryption := newSigner(t, "encryption", jose.ES256)
	enc, pinned := encryption.public(), rs.public()
	enc.Use, pinned.Algorithm, pinned.KeyID = "enc", "PS256", "pinned"
	otherFile := keyFile(t, keySet(t, other.public()))
	o := known(keyFile(t, keySet(t, rs.public(), es.public(), enc, pinned)))
	o.Issuers = append(o.Issuers, &configv1.JwtIssuer{Name: "evil", Issuer: "https://evil.example", Audiences: []string{"fetchgate"}, JwksFile: otherFile})
	o.Callers = append(o.Callers, &configv1.Caller{Name: "evil", Jwts: []*configv1.JwtIdentity{{Issuer: "evil", Subject: "evil"}}})
	a := build(t, o)

	payload, err := json.Marshal(fine(nil))
	if err != nil {
		t.Fatal(err)
	}
	none := encode(`{"alg":"none","kid":"rsa"}`) + "." + encode(string(payload)) + "."
	der, err := x509.MarshalPKIXPublicKey(rs.public().Key)
	if err != nil {
		t.Fatal(err)
	}
	hs := func(secret []byte) string {
		return signer{"rsa", jose.HS256, secret}.sign(t, fine(nil), nil)
	}
	jwk, err := rs.public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	as := func(s signer, id string) signer { s.id = id; return s }
	embedded := other.public()
	for _, c := range []struct{ name, token, why string }{
		{"none", none, "RS, PS, ES or EdDSA"},
		{"None", encode(`{"alg":"None"}`) + "." + encode(string(payload)) + "." + encode("x"), "RS, PS, ES or EdDSA"},
		{"no algorithm", encode(`{"kid":"rsa"}`) + "." + encode(string(payload)) + "." + encode("x"), "RS, PS, ES or EdDSA"},
		{"HS256 by the public key, PEM", hs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "RS, PS, ES or EdDSA"},
		{"HS256 by the public key, DER", hs(der), "RS, PS, ES or EdDSA"},
		{"HS256 by the public key, JWK", hs(jwk), "RS, PS, ES or EdDSA"},
		{"another's key", other.sign(t, fine(nil), nil), "not signed with a key"},
		{"another's key that says to be ours", as(other, "ec").sign(t, fine(nil), nil), "signature"},
		{"another issuer's key for our issuer", as(other, "other").sign(t, fine(nil), nil), "not signed with a key"},
		{"our key for another issuer", es.sign(t, fine(map[string]any{"iss": "https://evil.example", "sub": "evil"}), nil), "not signed with a key"},
		{"another issuer's key for its subject named as ours", other.sign(t, fine(map[string]any{"iss": "https://evil.example"}), nil), "no caller here"},
		{"the key of another kind", as(es, "rsa").sign(t, fine(nil), nil), "not signed with a key"},
		{"no key named, and a choice", as(signer{"", jose.PS256, rs.key}, "").sign(t, fine(nil), nil), "not signed with a key"},
		{"a key for encryption", encryption.sign(t, fine(nil), nil), "not signed with a key"},
		{"a key for another algorithm", as(rs, "pinned").sign(t, fine(nil), nil), "not signed with a key"},
		{"a key in its header", as(other, "ec").sign(t, fine(nil), map[string]any{"jwk": embedded}), "signature"},
		{"a place of keys in its header", as(other, "ec").sign(t, fine(nil), map[string]any{"jku": "https://evil.example/keys"}), "signature"},
		{"a path for a key", as(other, "../../../../dev/null").sign(t, fine(nil), nil), "not signed with a key"},
		{"what it must understand", es.sign(t, fine(nil), map[string]any{"crit": []string{"exp2"}, "exp2": 1}), "signature"},
		{"claims of another token", swapClaims(es.sign(t, fine(nil), nil), es.sign(t, fine(map[string]any{"sub": "batch", "night": true}), nil)), "signature"},
		{"five parts", encode(`{"alg":"RSA-OAEP","enc":"A128GCM"}`) + ".a.b.c.d", "no caller here"},
		{"no base64", "a.b!.c", "characters"},
		{"odd base64", "a.b.c", "JWT"},
		{"not JSON", encode("a") + "." + encode("b") + "." + encode("c"), "JWT"},
		{"dots", "..", "JWT"},
		{"JSON", `{"payload":"","signatures":[]}`, "characters"},
		{"huge", es.sign(t, fine(map[string]any{"x": strings.Repeat("x", 16<<10)}), nil), "longer than"},
		{"deep", signDeep(t, es), "claims"},
	} {
		wantRefused(t, a, c.name, c.token, c.why)
	}
	if got, err := who(t, a, shown(es.sign(t, fine(nil), nil))); !strings.HasPrefix(got, "billing") {
		t.Errorf("a good token beside them: %q, %v", got, err)
	}
	if got, err := who(t, a, shown(as(es, "").sign(t, fine(nil), nil))); !strings.HasPrefix(got, "billing") {
		t.Errorf("without the name of its key, of which there is one: %q, %v", got, err)
	}
	if got, err := who(t, a, shown(signer{"pinned", jose.PS256, rs.key}.sign(t, fine(nil), nil))); !strings.HasPrefix(got, "billing") {
		t.Errorf("with the algorithm that the key is for: %q, %v", got, err)
	}
}

// swapClaims gives a token the claims of another.
func swapClaims(token, other string) string {
	parts, others := strings.Split(token, "."), strings.Split(other, ".")
	return parts[0] + "." + others[1] + "." + parts[2]
}

func signDeep(t *testing.T, s signer) string {
	return s.signRaw(t, []byte(`{"iss":`+strings.Repeat("[", 9000)), nil)
}

// TestKeysOfOneName: keys of different kinds may have one name (RFC 7517 section
// 4.5).
func TestKeysOfOneName(t *testing.T) {
	rs, es, second := newSigner(t, "a", jose.RS256), newSigner(t, "a", jose.ES256), newSigner(t, "a", jose.ES256)
	a := build(t, known(keyFile(t, keySet(t, rs.public(), es.public(), second.public()))))
	for _, s := range []signer{rs, es, second} {
		if got, err := who(t, a, shown(s.sign(t, fine(nil), nil))); !strings.HasPrefix(got, "billing") {
			t.Errorf("%s: got %q, %v", s.alg, got, err)
		}
	}
}

// TestKeysRotate: new keys are taken at once where a token needs them, old ones
// go within a second, and what cannot be used changes nothing.
func TestKeysRotate(t *testing.T) {
	old, next := newSigner(t, "old", jose.ES256), newSigner(t, "next", jose.ES256)
	file := keyFile(t, keySet(t, old.public()))
	now := noon
	var log bytes.Buffer
	o := known(file)
	o.Now, o.Log = func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil))
	a := build(t, o)
	byOld, byNext := old.sign(t, fine(nil), nil), next.sign(t, fine(nil), nil)
	good := func(name, token string) {
		t.Helper()
		if got, err := who(t, a, shown(token)); !strings.HasPrefix(got, "billing") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	put := func(content []byte) {
		t.Helper()
		temporary := file + ".new"
		if err := errors.Join(os.WriteFile(temporary, content, 0o600), os.Rename(temporary, file)); err != nil {
			t.Fatal(err)
		}
	}
	good("the first key", byOld)
	wantRefused(t, a, "a key that is not there", byNext, "not signed with a key")

	put(keySet(t, old.public(), next.public()))
	good("a new key, at once", byNext)
	good("the first one beside it", byOld)

	put(keySet(t, next.public()))
	good("an old key within a second", byOld)
	now = now.Add(time.Second)
	wantRefused(t, a, "an old key after a second", byOld, "not signed with a key")

	for name, broken := range map[string][]byte{
		"half": []byte(`{"keys": [{"kty"`), "none": []byte(`{"keys": []}`), "empty": nil, "private": keySet(t, jose.JSONWebKey{Key: next.key, KeyID: "next"}),
		"symmetric": keySet(t, map[string]string{"kty": "oct", "k": "c2VjcmV0Y25yeXNlY3JldA"}, next.public()),
		"too large": bytes.Repeat([]byte(" "), 1<<20+1),
	} {
		put(broken)
		now = now.Add(time.Second)
		good("after a file that is "+name, byNext)
		wantRefused(t, a, "the old key after a file that is "+name, byOld, "not signed with a key")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	good("without a file", byNext)
	put(keySet(t, old.public()))
	now = now.Add(time.Second)
	good("after all that", byOld)
	if text := log.String(); strings.Count(text, "cannot be used; the last good ones stay") > 7 || !strings.Contains(text, "is no JSON Web Key Set") || strings.Contains(text, "c2VjcmV0") {
		t.Errorf("the log is\n%s", text)
	}
}

// TestKeysAtOnce: many read while the file changes.
func TestKeysAtOnce(t *testing.T) {
	keys := []signer{newSigner(t, "0", jose.ES256), newSigner(t, "1", jose.ES256)}
	file := keyFile(t, keySet(t, keys[0].public(), keys[1].public()))
	o := known(file)
	began := time.Now()
	o.Now = func() time.Time { return noon.Add(1000 * time.Since(began)) } // a look at the file every millisecond
	o.Issuers[0].Leeway = durationpb.New(5 * time.Minute)
	a := build(t, o)
	var callers sync.WaitGroup
	tokens := []string{keys[0].sign(t, fine(map[string]any{"exp": noon.Unix() + 1e6}), nil), keys[1].sign(t, fine(map[string]any{"exp": noon.Unix() + 1e6}), nil)}
	for n := range 4 {
		callers.Go(func() {
			for range 100 {
				if got, err := who(t, a, shown(tokens[n%2])); !strings.HasPrefix(got, "billing") {
					t.Errorf("got %q, %v", got, err)
					return
				}
			}
		})
	}
	for n := range 50 {
		temporary := file + ".new"
		content := keySet(t, keys[n%2].public(), keys[1-n%2].public())
		if err := errors.Join(os.WriteFile(temporary, content, 0o600), os.Rename(temporary, file)); err != nil {
			t.Fatal(err)
		}
	}
	callers.Wait()
}

// TestFilesOfKeys: what a server does not start with, and where it says so.
func TestFilesOfKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	es := newSigner(t, "a", jose.ES256)
	enc := es.public()
	enc.Use = "enc"
	many := make([]any, 1001)
	for i := range many {
		many[i] = es.public()
	}
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"no JSON":              {[]byte("a: b"), "is no JSON Web Key Set"},
		"a list":               {[]byte("[]"), "is no JSON Web Key Set"},
		"one key":              {[]byte(`{"kty":"EC"}`), "has none at all"},
		"a private key":        {keySet(t, jose.JSONWebKey{Key: es.key}), "holds a private or symmetric key, number 1"},
		"a symmetric key":      {keySet(t, es.public(), jose.JSONWebKey{Key: []byte("0123456789abcdef")}), "holds a private or symmetric key, number 2"},
		"a weak key":           {keySet(t, jose.JSONWebKey{Key: weak.Public()}), "an RSA key of 1024 bits"},
		"for encryption alone": {keySet(t, enc), "not for signatures"},
		"of another kind":      {keySet(t, map[string]string{"kty": "XX"}), "a kind that is not known"},
		"too many":             {keySet(t, many...), "has 1001 keys"},
		"too large":            {bytes.Repeat([]byte(" "), 1<<20+1), "is larger than 1048576 bytes"},
	} {
		_, err := caller.New(known(keyFile(t, c.content)))
		wrong, ok := errors.AsType[*caller.FileError](err)
		if !ok || wrong.Path != "jwt_issuers[0].jwks_file" || !strings.Contains(wrong.Message, c.want) || !strings.Contains(wrong.Message, "; ") {
			t.Errorf("%s: the error is %v, want %q", name, err, c.want)
		}
	}
	for name, want := range map[string]string{"/does/not/exist": "no such file or directory", t.TempDir(): "is not a regular file"} {
		if _, err := caller.New(known(name)); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), name) != 1 {
			t.Errorf("%s: the error is %v, want %q", name, err, want)
		}
	}
	// A key that is not used is passed over beside one that is.
	a := build(t, known(keyFile(t, keySet(t, map[string]string{"kty": "XX", "kid": "x"}, jose.JSONWebKey{Key: weak.Public(), KeyID: "weak"}, es.public()))))
	if got, err := who(t, a, shown(es.sign(t, fine(nil), nil))); !strings.HasPrefix(got, "billing") {
		t.Errorf("beside keys that are not used: %q, %v", got, err)
	}
}

// FuzzToken: nothing that is shown makes the authenticator panic, or is a proof
// but for the one good token; nor does the error repeat it.
func FuzzToken(f *testing.F) {
	s := newSigner(f, "a", jose.EdDSA)
	good := s.sign(f, fine(nil), nil)
	o := known(keyFile(f, keySet(f, s.public())))
	o.Callers = append(o.Callers, knownByAll[3])
	a := build(f, o)
	for _, seed := range []string{
		"Bearer " + good, "Bearer " + shopToken, "bearer", "Bearer ..", "Bearer " + encode(`{"alg":"none"}`) + "." + encode("{}") + ".",
		"Bearer " + encode(`{"alg":"EdDSA","crit":["b64"],"b64":false}`) + "." + encode(`{"iss":"`+issuerURL+`"}`) + "." + encode("x"), "Basic YTpi", "",
		"Bearer " + encode(`{"alg":"EdDSA","kid":"a"}`) + "." + encode(`{"iss":"`+issuerURL+`","exp":1e999,"aud":[[[[]]]]}`) + "." + encode(strings.Repeat("x", 64)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := who(t, a, rpc{metadata: []string{"authorization", value}})
		if err != nil {
			return
		}
		_, token, _ := strings.Cut(value, " ")
		token = strings.TrimLeft(token, " ")
		isShop := token == shopToken && strings.HasPrefix(got, "shop ")
		// The last character of base64 has bits that nobody reads.
		isGood := len(token) == len(good) && token[:len(good)-1] == good[:len(good)-1] && strings.HasPrefix(got, "billing ")
		if !isShop && !isGood {
			t.Errorf("%q is a proof of %q", value, got)
		}
	})
}
