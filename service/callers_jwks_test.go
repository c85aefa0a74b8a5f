package service_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// identityProvider serves the keys of an issuer, as handler says.
type identityProvider struct {
	*fetchtest.Upstream
	authority *fetchtest.Authority

	mu      sync.Mutex
	handler http.HandlerFunc
	asked   []*http.Request
}

func newIdentityProvider(t *testing.T, handler http.HandlerFunc) *identityProvider {
	t.Helper()
	p := &identityProvider{authority: fetchtest.NewAuthority(t), handler: handler}
	p.Upstream = fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r)
		handler := p.handler
		p.mu.Unlock()
		handler(w, r)
	}), p.authority)
	return p
}

func (p *identityProvider) serve(handler http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = handler
}

func (p *identityProvider) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// keysOf answers with the public keys.
func keysOf(keys ...jwtKey) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(setOf(keys...)) }
}

func setOf(keys ...jwtKey) []byte {
	set := jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: crypto.Signer(k.key).Public(), KeyID: k.id})
	}
	content, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return content
}

// yaml is a configuration with the issuer at the provider, and a caller with a
// token beside the one with JWTs.
func (p *identityProvider) yaml(t *testing.T, path, allow, more string) string {
	return fmt.Sprintf(`upstream_tls: {ca_files: [%q]}
jwt_issuers: [{name: corp, issuer: "https://issuer.example", audiences: [fetchgate], jwks_url: %q%s}]
callers:
  - {name: billing, token_sha256: [%x]}
  - {name: shop, jwts: [{issuer: corp, subject: shop}]}
`, p.authority.WriteFile(t), p.URL(path), allow, sha256.Sum256([]byte(billingToken))) + more
}

const toLoopback = ", jwks_allow_addresses: [127.0.0.1]"

// series is the value of a series, "" if it is not there.
func (w *observed) series(t *testing.T, name string) string {
	t.Helper()
	_, metrics, err := w.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(metrics, "\n"+name+" ")
	value, _, _ := strings.Cut(after, "\n")
	return value
}

// TestKeysAreFetched: callers are known by the keys at the issuer's URL. A key that
// is new there is good at once, one that has gone is not any more; a reload asks
// for nothing.
func TestKeysAreFetched(t *testing.T) {
	first, second := newJWTKey(t, "first"), newJWTKey(t, "second")
	idp := newIdentityProvider(t, keysOf(first))
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	rules := yamlOf(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
	write := func(yaml string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(idp.yaml(t, "/keys?tenant=1", toLoopback, rules))
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	w := new(observed)
	w.server = run(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Stdout: &w.audit, Version: "test"})
	lines := 0
	is := func(name string, by jwtKey, known bool) {
		t.Helper()
		lines++
		_, err := whole(showing(within(t), by.sign(t, map[string]any{"sub": "shop"})), w, get(upstream.URL("/")))
		line := w.lastLine(t, lines)
		if known && (err != nil || line.Caller != "shop" || line.Identity != "https://issuer.example shop") || !known && reasonIn(err) != "CALLER_UNKNOWN" {
			t.Errorf("%s: got %v, and the record says %+v", name, err, line)
		}
	}
	is("the first key", first, true)
	idp.serve(keysOf(second))
	is("the second key", second, true)
	is("the first key, which has gone", first, false)
	asked := len(idp.requests())
	if asked < 2 || asked > 3 { // the first token and the start may ask, each
		t.Errorf("the provider was asked %d times", asked)
	}
	write(idp.yaml(t, "/keys?tenant=1", toLoopback, rules+"mode: report\n"))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	is("the second key after a reload", second, true)
	if again := len(idp.requests()); again != asked {
		t.Errorf("the reload has the keys fetched %d times", again-asked)
	}
	request := idp.requests()[0]
	request.Header.Del("Content-Length")
	if got, want := fmt.Sprint(request.Method, " ", request.RequestURI, " ", request.Header), "GET /keys?tenant=1 map[Accept:[application/jwk-set+json, application/json] Accept-Encoding:[identity] Connection:[close] User-Agent:[fetchgate/test]]"; got != want {
		t.Errorf("the provider was asked\n%s, want\n%s", got, want)
	}
	if got := w.series(t, `fetchgate_issuer_keys_fetches_total{issuer="corp",result="success"}`); got != fmt.Sprint(asked) {
		t.Errorf("%q fetches are counted, of %d", got, asked)
	}
	if got := w.series(t, `fetchgate_issuer_keys_last_success_timestamp_seconds{issuer="corp"}`); !strings.HasPrefix(got, "1") {
		t.Errorf("the last fetch was at %q", got)
	}
	write(strings.Replace(strings.Replace(idp.yaml(t, "/", "", rules), "jwt_issuers:", "# ", 1), ", jwts: [{issuer: corp, subject: shop}]", ", dangerous_anonymous: true", 1))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.series(t, `fetchgate_issuer_keys_fetches_total{issuer="corp",result="success"}`); got != "" {
		t.Errorf("of an issuer that has gone %q fetches are counted", got)
	}
}

// TestKeysAfterNewTrust: keys that could not be fetched for want of trust are
// fetched at once when upstream_tls changes; until then /readyz?verbose and the log
// name the issuer.
func TestKeysAfterNewTrust(t *testing.T) {
	idp, log := newIdentityProvider(t, keysOf(newJWTKey(t, "first"))), &lines{}
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	yaml := idp.yaml(t, "/keys?tenant=1", toLoopback, "")
	write := func(yaml string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Replace(yaml, "upstream_tls:", "# ", 1))
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, service.Options{
		Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Stdout: &lines{}, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	page := func() string {
		t.Helper()
		_, page, err := s.get("/readyz?verbose")
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	host := "host=" + strings.TrimPrefix(strings.TrimSuffix(idp.URL("/"), "/"), "https://")
	eventually(t, func() error {
		if said := log.String(); !strings.Contains(said, "issuer=corp "+host+" err=") || !strings.Contains(said, "next_try_in=30s") {
			return fmt.Errorf("the log says %s", said)
		}
		return nil
	})
	if got := page(); !strings.HasPrefix(got, "ok\n") || !strings.Contains(got, "\nissuer_without_keys: corp\n") {
		t.Errorf("/readyz?verbose says\n%s", got)
	}
	write(yaml)
	began := time.Now()
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got := page(); strings.Contains(got, "issuer_without_keys") {
			return fmt.Errorf("/readyz?verbose says\n%s", got)
		}
		return nil
	})
	if took := time.Since(began); took > 20*time.Second { // the next try without it is after 30
		t.Errorf("the keys came after %v", took)
	}
}

// TestKeysThatDoNotCome: whatever the provider does, the service starts and serves
// the others. Tokens of that issuer are refused, and the log says why and nothing
// of what came.
func TestKeysThatDoNotCome(t *testing.T) {
	key := newJWTKey(t, "first")
	metadata := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	squeezed := func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(setOf(key))
		z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(b.Bytes())
	}
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.key, KeyID: key.id}}})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status int, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write(body)
		}
	}
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		allow   string
		asked   bool
		why     string
	}{
		{"an outage", answer(503, setOf(key)), toLoopback, true, "answered 503, not 200"},
		{"a success of another kind", answer(203, setOf(key)), toLoopback, true, "answered 203, not 200"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>cnrypage</html>")
		}, toLoopback, true, "is no JSON Web Key Set"},
		{"a private key", answer(200, private), toLoopback, true, "holds a private or symmetric key"},
		{"no keys", answer(200, []byte(`{"keys": []}`)), toLoopback, true, "has no key that can be used"},
		{"too much, with its length", answer(200, append(setOf(key), bytes.Repeat([]byte(" "), 1<<20)...)), toLoopback, true, "larger than 1048576 bytes"},
		{"too much, without its length", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(setOf(key))
			for range 65 {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 16<<10))
			}
		}, toLoopback, true, "larger than 1048576 bytes"},
		{"a redirect to a metadata service", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/cnrymetadata", http.StatusFound)
		}, toLoopback, true, "answered 302, and redirects are not followed"},
		{"a redirect to where a rule leads", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, metadata.URL("/"), http.StatusTemporaryRedirect)
		}, toLoopback, true, "answered 307, and redirects are not followed"},
		{"a coding", squeezed, toLoopback, true, "content coding, which was not asked for"},
		{"half of it", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000")
			_, _ = w.Write(setOf(key))
		}, toLoopback, true, "INCOMPLETE_BODY"},
		{"an address of this machine that is not listed, beside one that is", keysOf(key), ", jwks_allow_addresses: [127.0.0.2, 10.0.0.0/8]", false, "which jwks_allow_addresses does not list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			idp := newIdentityProvider(t, c.handler)
			w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(metadata.Upstream)}, Extra: idp.yaml(t, "/keys?secret=cnryquery", c.allow, "")})
			_, err := whole(showing(within(t), key.sign(t, map[string]any{"sub": "shop"})), w, get(metadata.URL("/")))
			if status.Code(err) != codes.Unauthenticated || reasonIn(err) != "CALLER_UNKNOWN" || !strings.Contains(err.Error(), "the keys of the JWT's issuer are not there yet") {
				t.Errorf("a token of the issuer: %v", err)
			}
			if _, err := whole(showing(within(t), billingToken), w, get(metadata.URL("/"))); err != nil {
				t.Errorf("a static token: %v", err)
			}
			if got := len(idp.requests()); (got > 0) != c.asked || got > 2 {
				t.Errorf("the provider was asked %d times", got)
			}
			if log := w.text.String(); !strings.Contains(log, c.why) || !strings.Contains(log, "issuer=corp") || strings.Contains(log, "cnry") {
				t.Errorf("the log does not say %q, or says more:\n%s", c.why, log)
			}
			if got := w.series(t, `fetchgate_issuer_keys_fetches_total{issuer="corp",result="failure"}`); got != "1" && got != "2" {
				t.Errorf("%q failures are counted", got)
			}
			if got := w.series(t, `fetchgate_issuer_keys_last_success_timestamp_seconds{issuer="corp"}`); got != "0" {
				t.Errorf("the last success was at %q", got)
			}
		})
	}
}

// TestKeysFromMetadata: a name that resolves to a metadata service, or to an
// address that is not listed, is not dialed, whatever else it resolves to.
func TestKeysFromMetadata(t *testing.T) {
	key := newJWTKey(t, "first")
	for _, addresses := range [][]string{{"169.254.169.254"}, {"10.0.0.7", "169.254.169.254"}, {"10.0.0.7", "192.168.0.1"}, {"fd00:ec2::254"}, {"10.0.0.7", "127.0.0.1"}} {
		dns, connect := fetchtest.NewDNS(t), fetchtest.NewRecordingConnect(t, nil)
		dns.Set("issuer.test", addresses...)
		w := observeUntraced(t, fetchtest.Options{DNS: dns, Connect: asking(connect.Connect), Extra: `
jwt_issuers: [{name: corp, issuer: "https://issuer.example", audiences: [fetchgate], jwks_url: "https://issuer.test/", jwks_allow_addresses: [10.0.0.0/8, 169.254.0.0/16, "fd00::/8"]}]
callers: [{name: shop, jwts: [{issuer: corp, subject: shop}]}]
`})
		if _, err := whole(showing(within(t), key.sign(t, map[string]any{"sub": "shop"})), w, get("http://a.test/")); reasonIn(err) != "CALLER_UNKNOWN" {
			t.Errorf("%q: %v", addresses, err)
		}
		if dialed := connect.Addresses(); len(dialed) > 0 {
			t.Errorf("%q: %v was dialed", addresses, dialed)
		}
	}
}

// TestSlowKeys: a provider that says nothing holds up neither the other callers
// nor the end of the service; tokens of it wait 10 s at most.
func TestSlowKeys(t *testing.T) {
	key := newJWTKey(t, "first")
	hung := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"keys": [`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	idp := newIdentityProvider(t, hung)
	w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}, Extra: idp.yaml(t, "/", toLoopback, "")})
	if _, err := whole(showing(within(t), billingToken), w, get(upstream.URL("/"))); err != nil {
		t.Errorf("a static token: %v", err)
	}
	began := time.Now()
	if _, err := whole(showing(within(t), key.sign(t, map[string]any{"sub": "shop"})), w, get(upstream.URL("/"))); reasonIn(err) != "CALLER_UNKNOWN" {
		t.Errorf("a token of the provider: %v", err)
	}
	if took := time.Since(began); took > 13*time.Second {
		t.Errorf("it was refused after %s", took)
	}
	if !strings.Contains(w.text.String(), "the keys did not come within 10s") {
		t.Errorf("the log says\n%s", w.text.String())
	}
	again := newIdentityProvider(t, keysOf(key))
	w = observeUntraced(t, fetchtest.Options{Extra: again.yaml(t, "/", toLoopback, "")})
	eventually(t, func() error {
		if got := w.series(t, `fetchgate_issuer_keys_fetches_total{issuer="corp",result="success"}`); got != "1" {
			return fmt.Errorf("%q fetches are counted", got)
		}
		return nil
	})
	again.serve(hung)
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { // it has the keys fetched, unless it comes too late
		_, _ = whole(showing(within(t), newJWTKey(t, "unknown").sign(t, map[string]any{"sub": "shop"})), w, get("http://a.test/"))
	})
	eventually(t, func() error {
		if len(again.requests()) < 2 {
			return fmt.Errorf("the provider is not asked again")
		}
		return nil
	})
	began = time.Now()
	w.stop()
	if err := <-w.served; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the service ends after %s", took)
	}
}

// TestKeysSettingsAreChecked: what cannot lead to keys is refused with its place.
func TestKeysSettingsAreChecked(t *testing.T) {
	issuer := func(settings string) string {
		return "jwt_issuers:\n  - {name: corp, issuer: a, audiences: [b], " + settings + "}\n"
	}
	for settings, want := range map[string]string{
		`jwks_url: "https://issuer.example:99999/"`:                                             "test.yaml:2:45: jwt_issuers[0].jwks_url: is no URL that can be fetched: the port",
		`jwks_url: "https://issuer.example/", jwks_allow_addresses: [10.0.0.0/8, ten]`:          `jwt_issuers[0].jwks_allow_addresses[1]: "ten" is neither a range such as 10.1.0.0/16`,
		`jwks_url: "https://issuer.example/", jwks_allow_addresses: [0.0.0.0/0]`:                "jwt_issuers[0].jwks_allow_addresses[0]: 0.0.0.0/0 is every address",
		`jwks_url: "https://*.example/"`:                                                        "jwt_issuers[0].jwks_url: ",
		`jwks_url: "https://169.254.169.254/latest", jwks_allow_addresses: ["169.254.169.254"]`: "no setting opens such addresses for keys",
		`jwks_url: "https://127.0.0.1/", jwks_allow_addresses: [10.0.0.0/8]`:                    "if it is meant, add the address to jwks_allow_addresses",
		`jwks_url: "https://localhost/"`:                                                        "jwt_issuers[0].jwks_url: leads nowhere",
	} {
		loaded, err := config.Parse("test.yaml", []byte(issuer(settings)))
		if err == nil {
			_, err = service.CompileCallers(loaded, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := l.Addr().String()
	l.Close()
	loaded, err := config.Parse("test.yaml", fmt.Appendf(nil, `
jwt_issuers: [{name: corp, issuer: "https://issuer.example", audiences: [fetchgate], jwks_url: "https://%s/metrics", jwks_allow_addresses: [127.0.0.1]}]
callers: [{name: shop, jwts: [{issuer: corp, subject: shop}]}]
`, own))
	if err != nil {
		t.Fatal(err)
	}
	var log lines
	s := run(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: own, Stdout: io.Discard, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := whole(showing(within(t), newJWTKey(t, "a").sign(t, nil)), s, get("http://a.test/")); reasonIn(err) != "CALLER_UNKNOWN" {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "own_listener") && !strings.Contains(log.String(), "fetchgate itself") {
		t.Errorf("the log says\n%s", log.String())
	}
}
