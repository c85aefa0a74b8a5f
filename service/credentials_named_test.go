package service_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// vault is a directory with secrets, and the credentials of a configuration that
// are read from it.
type vault struct {
	t    *testing.T
	dir  string
	yaml strings.Builder
}

func newVault(t *testing.T) *vault {
	v := &vault{t: t, dir: t.TempDir()}
	v.yaml.WriteString("credentials:\n")
	return v
}

// put writes a secret and returns the name of its file.
func (v *vault) put(name, secret string) string {
	v.t.Helper()
	path := filepath.Join(v.dir, name)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// hold adds a credential, whose kind and binding are YAML in braces.
func (v *vault) hold(name, kind, binding string) {
	fmt.Fprintf(&v.yaml, "  - {name: %s, %s, %s}\n", name, kind, binding)
}

// bearer adds a bearer token.
func (v *vault) bearer(name, token, binding string) {
	v.hold(name, fmt.Sprintf("bearer: {token: {file: %q, next_file: %q}}", v.put(name, token), filepath.Join(v.dir, name+".next")), binding)
}

// boundTo is a binding to the origins of upstreams, and more.
func boundTo(more string, upstreams ...*fetchtest.Recorder) string {
	var origins []string
	for _, u := range upstreams {
		origins = append(origins, fmt.Sprintf("%q", fetchtest.OriginOf(u.Upstream)))
	}
	return "origins: [" + strings.Join(origins, ", ") + "]" + more
}

func secureRecorder(t *testing.T, authority *fetchtest.Authority, respond func(*fetchtest.Recorded) fetchtest.Step) *fetchtest.Recorder {
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Authority: authority}, Respond: respond})
}

// vaulted is a fetchgate with the credentials of v, which allows the upstreams.
func vaulted(t *testing.T, v *vault, authority *fetchtest.Authority, more string, upstreams ...*fetchtest.Recorder) *observed {
	t.Helper()
	var allow []string
	for _, u := range upstreams {
		allow = append(allow, fetchtest.OriginOf(u.Upstream))
	}
	return observe(t, fetchtest.Options{Allow: allow, Trust: authority, Extra: v.yaml.String() + more})
}

func naming(url string, names ...string) *request {
	m := get(url)
	m.Options.Report = full()
	for _, name := range names {
		m.Options.Credentials = append(m.Options.Credentials, &fetchgatev1.Credential{
			Kind: &fetchgatev1.Credential_Named{Named: &fetchgatev1.NamedCredential{Name: name}},
		})
	}
	return m
}

// last is the last request that came to u.
func last(t *testing.T, u *fetchtest.Recorder) *fetchtest.Recorded {
	t.Helper()
	all := u.Requests()
	if len(all) == 0 {
		t.Fatal("no request came")
	}
	return &all[len(all)-1]
}

// wantRPCError holds an RPC to a code, a reason and words of its message.
func wantRPCError(t *testing.T, err error, code codes.Code, reason, words string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code || errorReason(err) != reason || !strings.Contains(s.Message(), words) {
		t.Errorf("got %v %s %q, want %v %s with %q", s.Code(), errorReason(err), s.Message(), code, reason, words)
	}
}

// TestNamedCredentials: each kind arrives, and is in no evidence.
func TestNamedCredentials(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, nil)
	v := newVault(t)
	v.bearer("token", "cnrybearer", boundTo("", u))
	v.hold("basic", fmt.Sprintf("basic: {username: user, password: {file: %q}}", v.put("basic", "cnrypassword")), boundTo("", u))
	v.hold("header", fmt.Sprintf("header: {name: X-Auth, template: 'a=\"{secret}\"', secret: {file: %q}}", v.put("header", "cnryheader")), boundTo("", u))
	v.hold("key", fmt.Sprintf("api_key: {header: X-Key, prefix: 'Token ', key: {file: %q}}", v.put("key", "cnrykey")), boundTo("", u))
	t.Setenv("FETCHGATE_TEST_SECRET", "cnryparam&=")
	v.hold("query", "api_key: {query_param: api_key, key: {env: FETCHGATE_TEST_SECRET}}", boundTo("", u))
	w := vaulted(t, v, authority, "", u)
	var said []string
	for name, want := range map[string]string{
		"token": "Authorization: Bearer cnrybearer", "basic": "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:cnrypassword")),
		"header": `X-Auth: a="cnryheader"`, "key": "X-Key: Token cnrykey", "query": "GET /a?b=c&api_key=cnryparam%26%3D HTTP/1.1",
	} {
		for _, rpc := range rpcs {
			a, err := rpc.call(within(t), w, naming(u.URL("/a?b=c"), name))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "ok")
			if raw := string(last(t, u).Raw); !strings.Contains(raw, want+"\r\n") {
				t.Errorf("%s: the upstream got %q, want %s", name, raw, want)
			}
			if a.head.GetUrl() != u.URL("/a?b=c") {
				t.Errorf("%s: the URL is %s", name, a.head.GetUrl())
			}
			said = append(append(said, told(a, err)...), prototextOf(a.head))
		}
	}
	w.check(t, said)
	for _, want := range []string{`"credential":"token@1"`, `"credential":"query@1"`} {
		if !strings.Contains(w.audit.String(), want) {
			t.Errorf("the audit record has no %s: %s", want, w.audit.String())
		}
	}
}

func prototextOf(m proto.Message) string { return fmt.Sprint(m) }

// TestInlineCredentials: each kind goes to the origin of the URL, and is in no
// evidence.
func TestInlineCredentials(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	elsewhere := secureRecorder(t, authority, nil)
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		path, _, _ := strings.Cut(r.Target, "?")
		switch path {
		case "/away":
			return fetchtest.Answer(302, "", "Location: "+elsewhere.URL("/?"+strings.TrimPrefix(r.Target, "/away?")))
		case "/slash":
			return fetchtest.Answer(302, "", "Location: "+strings.Replace(r.Target, "/slash", "/slash/", 1))
		}
		return fetchtest.Answer(200, "ok")
	})
	w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(elsewhere.Upstream)}, Trust: authority})
	basic := &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte("user"), Password: []byte("cnrypassword")}}}
	param := &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: &fetchgatev1.ApiKeyCredential{
		Place: &fetchgatev1.ApiKeyCredential_QueryParam{QueryParam: "k"}, Key: []byte("cnrykey"),
	}}}
	var said []string
	fetch := func(path string) {
		m := get(u.URL(path))
		m.Options.Credentials, m.Options.Report = []*fetchgatev1.Credential{basic, param}, full()
		a, err := whole(within(t), w, m)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		said = append(said, told(a, err)...)
	}
	fetch("/slash")
	if got := last(t, u); got.Get("Authorization") == "" || got.Target != "/slash/?k=cnrykey" {
		t.Errorf("on its own origin the request is %s", got.Raw)
	}
	fetch("/away")
	if raw := string(last(t, elsewhere).Raw); strings.Contains(raw, "cnry") || strings.Contains(raw, "Authorization") {
		t.Errorf("another origin gets %s", raw)
	}
	w.check(t, said)
}

// TestCredentialRefusals: what is out of the binding, unknown, doubled or for
// nobody is refused, and the upstream gets no byte.
func TestCredentialRefusals(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u, other := secureRecorder(t, authority, nil), secureRecorder(t, authority, nil)
	v := newVault(t)
	v.bearer("bound", "cnrybearer", boundTo(", methods: [GET], paths: ['/v1/*']", u))
	v.bearer("others", "cnryothers", boundTo(", callers: [stranger]", u))
	v.hold("key", fmt.Sprintf("api_key: {query_param: k, key: {file: %q}}", v.put("key", "cnrykey")), boundTo("", u))
	w := vaulted(t, v, authority, "callers:\n  - {name: me, dangerous_anonymous: true}\n  - {name: stranger, token_sha256: ["+strings.Repeat("0", 64)+"]}\n", u, other)
	outOfBinding := func(m *request) {
		t.Helper()
		_, err := whole(within(t), w, m)
		wantRPCError(t, err, codes.PermissionDenied, "CREDENTIAL_OUT_OF_BINDING", `"bound"`)
	}
	outOfBinding(naming(other.URL("/v1/a"), "bound"))
	outOfBinding(naming(u.URL("/v2/a"), "bound"))
	for _, path := range []string{"/v1/%2e%2e/a", "/v2/%2e%2e/v1/a", "/v1%2fa", "/v1/..%5ca"} {
		outOfBinding(naming(u.URL(path), "bound"))
	}
	post := naming(u.URL("/v1/a"), "bound")
	post.Request.Method = "POST"
	outOfBinding(post)
	for _, name := range []string{"others", "unknown"} {
		_, err := whole(within(t), w, naming(u.URL("/v1/a"), name))
		wantRPCError(t, err, codes.InvalidArgument, "FIELD_INVALID", "options.credentials[0].named.name: this server holds no credential of this name for this caller; ask its operator")
		if strings.Contains(status.Convert(err).Message(), "bound") {
			t.Errorf("the message names others: %v", err)
		}
	}
	for want, change := range map[string]func(*request){
		"options.credentials[0]: it writes the field Authorization, and request.headers has one": func(m *request) { m.Request.Headers = headers("authorization", "x") },
		"options.credentials[0]: options.verbatim adds nothing":                                  func(m *request) { m.Options.Verbatim = proto.Bool(true) },
		"options.credentials[1]: it writes the field Authorization, and so does one before it": func(m *request) {
			m.Options.Credentials = append(m.Options.Credentials, bearer("cnrytoken")...)
		},
		`options.credentials[1]: it writes the query parameter "k", and the URL has one`: func(m *request) {
			m.Request.Url += "?a=b&%6b=1"
			m.Options.Credentials = append(m.Options.Credentials, naming("", "key").Options.Credentials...)
		},
		"options.credentials: there are 9; at most 8 go with a request": func(m *request) {
			m.Options.Credentials = naming("", strings.Fields("a b c d e f g h i")...).Options.Credentials
		},
		"options.credentials[0].bearer: it would go in the clear": func(m *request) {
			m.Request.Url, m.Options.Credentials = "http://a.test/", bearer("cnrytoken")
		},
		"options.credentials[0].digest.username: this server does not offer it": func(m *request) {
			m.Options.Credentials = []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_Digest{Digest: &fetchgatev1.DigestCredential{Username: []byte("u")}}}}
		},
	} {
		m := naming(u.URL("/v1/a"), "bound")
		change(m)
		_, err := whole(within(t), w, m)
		if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), want) || strings.Contains(s.Message(), "cnry") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if n, _ := u.Connections(); n != 0 {
		t.Errorf("%d connections were opened for what was refused", n)
	}
	a, err := whole(within(t), w, naming(u.URL("/v1/a"), "bound"))
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, a, 200, "ok")
}

// TestCredentialsOnRedirects: a named credential stays within its binding, and
// once dropped does not come back with what an upstream leads to.
func TestCredentialsOnRedirects(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	var u *fetchtest.Recorder
	away := secureRecorder(t, authority, func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(302, "", "Location: "+u.URL("/v1/back"))
	})
	friend := secureRecorder(t, authority, nil)
	u = secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		switch r.Target {
		case "/v1/within":
			return fetchtest.Answer(302, "", "Location: /v1/end")
		case "/v1/friend":
			return fetchtest.Answer(302, "", "Location: "+friend.URL("/"))
		case "/v1/out":
			return fetchtest.Answer(302, "", "Location: /v2/end")
		case "/v1/away":
			return fetchtest.Answer(302, "", "Location: "+away.URL("/"))
		}
		return fetchtest.Answer(200, "ok")
	})
	v := newVault(t)
	v.bearer("bound", "cnrybearer", fmt.Sprintf("origins: [%q, %q], paths: ['/v1/*', '/']", fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(friend.Upstream)))
	w := vaulted(t, v, authority, "", u, away, friend)
	for _, c := range []struct {
		path string
		end  *fetchtest.Recorder
		goes bool
		says string
	}{
		{"/v1/within", u, true, `"credential":"bound@1"`},
		{"/v1/friend", friend, true, `"credential":"bound@1"`},
		{"/v1/out", u, false, `"credential":"bound@1,-bound"`},
		{"/v1/away", u, false, `"credential":"bound@1,-bound"`},
	} {
		a, err := whole(within(t), w, naming(u.URL(c.path), "bound"))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if got := last(t, c.end).Get("Authorization"); got != map[bool]string{true: "Bearer cnrybearer"}[c.goes] {
			t.Errorf("%s: the last request has Authorization %q", c.path, got)
		}
		eventually(t, func() error {
			if lines := strings.Split(strings.TrimSpace(w.audit.String()), "\n"); !strings.Contains(lines[len(lines)-1], c.says) {
				return fmt.Errorf("%s: the audit record has no %s", c.path, c.says)
			}
			return nil
		})
	}
	for _, r := range away.Requests() {
		if strings.Contains(string(r.Raw), "cnry") {
			t.Errorf("another origin gets %s", r.Raw)
		}
	}
	w.check(t, nil)
}

// TestRuleCredentials: a rule applies its credentials on each hop, a caller
// cannot override them, and Explain says which.
func TestRuleCredentials(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	var u *fetchtest.Recorder
	leads := func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(307, "", "Location: "+u.URL("/v1/moved"))
	}
	front, bound := secureRecorder(t, authority, leads), secureRecorder(t, authority, leads)
	u = secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/v1/moved" {
			return fetchtest.Answer(307, "", "Location: /v1/a")
		}
		return fetchtest.Answer(200, "ok")
	})
	v := newVault(t)
	v.bearer("ruled", "cnryruled", boundTo(", paths: ['/v1/*']", u, bound))
	w := observe(t, fetchtest.Options{Trust: authority, Extra: v.yaml.String() + fmt.Sprintf(`
rules:
  - {name: front, dangerous_allow_loopback: true, origins: [%q]}
  - {name: api, dangerous_allow_loopback: true, origins: [%q, %q], credentials: [ruled]}
`, fetchtest.OriginOf(front.Upstream), fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(bound.Upstream))})
	// An upstream that has not got the credential does not say where it goes.
	for url, want := range map[string]string{
		u.URL("/v1/a"): "Bearer cnryruled", u.URL("/v1/moved"): "Bearer cnryruled", bound.URL("/v1/a"): "Bearer cnryruled", front.URL("/"): "",
	} {
		a, err := whole(within(t), w, get(url))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if got := last(t, u).Get("Authorization"); got != want {
			t.Errorf("%s: Authorization is %q, want %q", url, got, want)
		}
	}
	if got := last(t, front).Get("Authorization"); got != "" {
		t.Errorf("a hop of another rule has Authorization %q", got)
	}
	own := get(u.URL("/v1/a"))
	own.Request.Headers = headers("AUTHORIZATION", "mine")
	_, err := whole(within(t), w, own)
	wantRPCError(t, err, codes.PermissionDenied, "DESTINATION_DENIED", `the rule "api" writes the field Authorization, and the request has one of its own`)
	verbatim := get(u.URL("/v1/a"))
	verbatim.Options.Verbatim = proto.Bool(true)
	_, err = whole(within(t), w, verbatim)
	wantRPCError(t, err, codes.PermissionDenied, "DESTINATION_DENIED", "options.verbatim adds nothing. Leave options.verbatim out")
	if a, err := whole(within(t), w, get(u.URL("/v2/a"))); err != nil || last(t, u).Get("Authorization") != "" {
		t.Errorf("out of the binding: %v, %v", a, err)
	}
	policy := fetchgatev1.NewPolicyServiceClient(w.conn)
	for path, want := range map[string]string{"/v1/a": `"ruled" goes along: bearer`, "/v2/a": `"ruled" is left out`} {
		said, err := policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: get(u.URL(path)).Request})
		if err != nil {
			t.Fatal(err)
		}
		if check := said.Checks[len(said.Checks)-1]; !said.Allowed || check.Check != "credential" || !check.Passed || !strings.Contains(check.Detail, want) {
			t.Errorf("%s: Explain says %v, want %q", path, said, want)
		}
	}
	said, err := policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: own.Request})
	if err != nil || said.Allowed || !strings.Contains(said.Why, "has one of its own") {
		t.Errorf("Explain says %v, %v; want a denial", said, err)
	}
	w.check(t, nil)
}

// TestCredentialRotation: while a secret changes at the upstream first, at the server
// first, or at both at once, no fetch gets a 401.
func TestCredentialRotation(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	var mu sync.Mutex
	taken := "cnryfirst"
	accept := func(token string) {
		mu.Lock()
		defer mu.Unlock()
		taken = token
	}
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		mu.Lock()
		defer mu.Unlock()
		if r.Get("Authorization") != "Bearer "+taken {
			return fetchtest.Answer(401, "no", "WWW-Authenticate: Bearer")
		}
		return fetchtest.Answer(200, "ok")
	})
	v := newVault(t)
	v.bearer("token", "cnryfirst", boundTo("", u))
	w := vaulted(t, v, authority, "", u)
	fetch := func(wantHops int) {
		t.Helper()
		m := naming(u.URL("/"), "token")
		m.Request.Method, m.Request.Body = "POST", raw("again")
		a, err := whole(within(t), w, m)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if n := len(a.report.GetAttempts()[0].GetHops()); n != wantHops || len(a.report.GetAttempts()) != 1 {
			t.Errorf("there are %d attempts, the first of %d hops; want one of %d", len(a.report.GetAttempts()), n, wantHops)
		}
		if got := string(last(t, u).Body); got != "again" {
			t.Errorf("the body is %q", got)
		}
	}
	fetch(1)
	v.put("token.next", "cnrysecond")
	fetch(1)
	accept("cnrysecond")
	fetch(2) // the next secret, once
	fetch(1) // and first from then on
	v.put("token", "cnrysecond")
	fetch(1)
	v.put("token", "cnrythird")
	accept("cnrythird")
	eventually(t, func() error {
		a, err := whole(within(t), w, naming(u.URL("/"), "token"))
		if err != nil || a.head.GetStatus() != 200 {
			return fmt.Errorf("got %v, %v", a, err)
		}
		return nil
	})
	accept("cnryunknown")
	before := len(u.Requests())
	a, err := whole(within(t), w, naming(u.URL("/"), "token"))
	if err != nil || a.head.GetStatus() != 401 || len(u.Requests()) != before+2 {
		t.Errorf("got %v, %v after %d requests; want the 401 after 2", a, err, len(u.Requests())-before)
	}
	w.check(t, nil)
	for _, want := range []string{`"credential":"token@1,token@2"`, `"credential":"token@3`} {
		if !strings.Contains(w.audit.String(), want) {
			t.Errorf("the audit record has no %s", want)
		}
	}
}

// TestEchoedSecrets: what an upstream shows of a secret that the server holds
// does not reach the caller, in any part of what surrounds the body.
func TestEchoedSecrets(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/leads" {
			return fetchtest.Answer(302, "", "Location: /?token=cnrybearer")
		}
		return fetchtest.Write("HTTP/1.1 103 Early\r\nX-A: cnrybearer\r\n\r\nHTTP/1.1 200 cnrybearer\r\nX-Auth: " + r.Get("Authorization") +
			"\r\nX-Coded: " + base64.StdEncoding.EncodeToString([]byte("cnrybearer")) + "\r\nSet-Cookie: a=cnrybearer\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: cnrybearer\r\n\r\n")
	})
	v := newVault(t)
	v.bearer("token", "cnrybearer", boundTo("", u))
	w := vaulted(t, v, authority, "", u)
	for _, rpc := range rpcs {
		m := naming(u.URL("/"), "token")
		m.Options.Response = &fetchgatev1.ResponseOptions{Interim: proto.Bool(true)}
		a, err := rpc.call(within(t), w, m)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		all := fmt.Sprint(a.head, a.interim, a.trailers, a.cookies, a.report)
		wantNoCanary(t, "the answer", all)
		if n := strings.Count(all, "[redacted]"); n < 6 {
			t.Errorf("%d places are redacted, want 6 or more: %s", n, all)
		}
		if coded := base64.StdEncoding.EncodeToString([]byte("cnrybearer")); strings.Contains(all, coded) {
			t.Errorf("the answer shows the secret in base64: %s", all)
		}
	}
	a, err := whole(within(t), w, naming(u.URL("/leads"), "token"))
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, a, "REDIRECT_DENIED")
	_, metrics, err := w.get("/metrics")
	if want := `fetchgate_credential_echoes_total{credential="token"} 3`; err != nil || !strings.Contains(metrics, want) {
		t.Errorf("the metrics have no %s: %v", want, err)
	}
	w.check(t, told(a, nil))
	if !strings.Contains(w.json.String(), "an upstream shows the secret of a credential") {
		t.Error("the log has no warning")
	}
}

// TestClientCertificates: a certificate is shown where it is bound to go, its
// connections serve nobody else, and without it the upstream refuses.
func TestClientCertificates(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Listen: fetchtest.Listen{TLS: &tls.Config{
			Certificates: []tls.Certificate{authority.Issue(fetchtest.IssueOptions{})}, NextProtos: []string{"http/1.1"},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: authority.Pool(),
		}},
		Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			if len(r.TLS.PeerCertificates) == 0 {
				return fetchtest.Answer(200, "nobody")
			}
			return fetchtest.Answer(200, r.TLS.PeerCertificates[0].Subject.CommonName)
		},
	})
	v := newVault(t)
	for _, name := range []string{"one", "two"} {
		cert, key := fetchtest.WriteCertificate(t, authority.Issue(fetchtest.IssueOptions{CommonName: name}))
		v.hold(name, fmt.Sprintf("client_certificate: {cert_file: %q, key_file: %q}", cert, key), boundTo("", u))
	}
	w := vaulted(t, v, authority, "", u)
	cert, key := fetchtest.WriteCertificate(t, authority.Issue(fetchtest.IssueOptions{CommonName: "inline"}))
	inline := get(u.URL("/"))
	inline.Options.Credentials = []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_ClientCertificate{
		ClientCertificate: &fetchgatev1.ClientCertificateCredential{CertificatePem: readFile(t, cert), KeyPem: readFile(t, key)},
	}}}
	for range 3 {
		for want, m := range map[string]*request{"one": naming(u.URL("/"), "one"), "two": naming(u.URL("/"), "two"), "nobody": get(u.URL("/")), "inline": inline} {
			a, err := whole(within(t), w, m)
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, want)
		}
	}
	if n, _ := u.Connections(); n != 4 {
		t.Errorf("there were %d connections, want one for each certificate and one without", n)
	}
	w.check(t, nil)
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCallersKeepTheirSecrets: ten callers at once, each with a credential of its
// own for one upstream, and no request has another's.
func TestCallersKeepTheirSecrets(t *testing.T) {
	const callers, fetches = 10, 20
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		if strings.HasPrefix(r.Target, "/away") {
			return fetchtest.Answer(302, "", "Location: /end"+r.Target)
		}
		return fetchtest.Answer(200, r.Get("Authorization"), "X-Echo: "+r.Get("Authorization"))
	})
	v, who := newVault(t), strings.Builder{}
	who.WriteString("callers:\n")
	token := func(i int) string { return fmt.Sprintf("proof-of-caller-%d", i) }
	for i := range callers {
		v.bearer(fmt.Sprintf("secret-%d", i), fmt.Sprintf("cnrysecret%d", i), boundTo(fmt.Sprintf(", callers: [caller-%d]", i), u))
		fmt.Fprintf(&who, "  - {name: caller-%d, token_sha256: [%x]}\n", i, sha256.Sum256([]byte(token(i))))
	}
	w := vaulted(t, v, authority, who.String(), u)
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			ctx := metadata.AppendToOutgoingContext(within(t), "authorization", "Bearer "+token(i))
			for n := range fetches {
				a, err := whole(ctx, w, naming(u.URL(fmt.Sprintf("/%s%d", []string{"away", ""}[n%2], i)), fmt.Sprintf("secret-%d", i)))
				if err != nil {
					t.Error(err)
					return
				}
				if got, want := string(a.body), fmt.Sprintf("Bearer cnrysecret%d", i); got != want {
					t.Errorf("caller %d got through as %q", i, got)
				}
				wantNoCanary(t, "the head", fmt.Sprint(a.head))
				foreign := fmt.Sprintf("secret-%d", (i+1)%callers)
				if _, err := whole(ctx, w, naming(u.URL("/foreign"), foreign)); status.Code(err) != codes.InvalidArgument {
					t.Errorf("caller %d and %s: %v", i, foreign, err)
				}
			}
		})
	}
	running.Wait()
	connections := map[int]string{}
	for _, r := range u.Requests() {
		if r.Target == "/foreign" {
			t.Error("a request with another's credential came")
		}
		if was, seen := connections[r.Conn], r.Get("Authorization"); was != "" && was != seen {
			t.Errorf("connection %d carried the secrets of two", r.Conn)
		}
		connections[r.Conn] = r.Get("Authorization")
	}
	w.check(t, nil)
}

// TestCredentialSettings: what is wrong with them is refused with its place.
func TestCredentialSettings(t *testing.T) {
	t.Setenv("FETCHGATE_TEST_SECRET", "cnryvalue")
	good := "bearer: {token: {env: FETCHGATE_TEST_SECRET}}"
	for want, text := range map[string]string{
		`another credential is called "a"`:               "credentials:\n  - {name: a, " + good + ", origins: ['https://a.test']}\n  - {name: a, " + good + ", origins: ['https://a.test']}\n",
		"a credential goes to https alone":               "credentials:\n  - {name: a, " + good + ", origins: ['http://a.test']}\n",
		`no caller is called "me"`:                       "credentials:\n  - {name: a, " + good + ", origins: ['https://a.test'], callers: [me]}\n",
		"public suffix list":                             "credentials:\n  - {name: a, " + good + ", origins: ['https://*.co.uk']}\n",
		"credentials[0].paths[0]":                        "credentials:\n  - {name: a, " + good + ", origins: ['https://a.test'], paths: [v1]}\n",
		`has no variable "FETCHGATE_TEST_ABSENT"`:        "credentials:\n  - {name: a, bearer: {token: {env: FETCHGATE_TEST_ABSENT}}, origins: ['https://a.test']}\n",
		"is not there":                                   "credentials:\n  - {name: a, bearer: {token: {file: absent}}, origins: ['https://a.test']}\n",
		`no credential is called "b"`:                    "credentials:\n  - {name: a, " + good + ", origins: ['https://a.test']}\nrules:\n  - {name: r, origins: ['https://a.test'], credentials: [b]}\n",
		`"a" and "b" both write the field Authorization`: "credentials:\n  - {name: a, " + good + ", origins: ['https://a.test']}\n  - {name: b, " + good + ", origins: ['https://a.test']}\nrules:\n  - {name: r, origins: ['https://a.test'], credentials: [a, b]}\n",
	} {
		err := startError(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "test.yaml:") || strings.Contains(err.Error(), "cnry") {
			t.Errorf("got %v, want %q with its place", err, want)
		}
	}
}

// startError is why a service does not start with this configuration.
func startError(t *testing.T, text string) error {
	t.Helper()
	loaded, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		return err
	}
	_, err = service.HoldCredentials(loaded, nil, nil)
	return err
}

// TestCredentialsInFailures: no failure shows a secret that went along with the
// request, whatever the upstream makes of it.
func TestCredentialsInFailures(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		echo := r.Target + " " + r.Get("Authorization")
		switch path, _, _ := strings.Cut(r.Target, "?"); path {
		case "/reset":
			return fetchtest.Reset()
		case "/malformed":
			return fetchtest.Write("HTTP/1.1 200 OK\r\n" + echo + "\r\n\r\n")
		case "/status":
			return fetchtest.Write("HTTP/1.1 2" + echo + "\r\n\r\n")
		case "/location":
			return fetchtest.Answer(302, "", "Location: http://user:"+echo+"@a.test/")
		}
		return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-A: "+echo+"\r\n\r\nshort"), fetchtest.Reset())
	})
	v := newVault(t)
	v.bearer("token", "cnrybearer", boundTo("", u))
	v.hold("key", fmt.Sprintf("api_key: {query_param: k, key: {file: %q}}", v.put("key", "cnrykey")), boundTo("", u))
	w := vaulted(t, v, authority, "", u)
	var said []string
	for _, path := range []string{"/reset", "/malformed", "/status", "/location", "/short"} {
		for _, rpc := range rpcs {
			a, err := rpc.call(within(t), w, naming(u.URL(path), "token", "key"))
			if err != nil || a.failure == nil {
				t.Fatalf("%s: got %v, %v; want a failure", path, a, err)
			}
			said = append(said, told(a, err)...)
			said = append(said, fmt.Sprint(a.failure))
		}
	}
	w.check(t, said)
}

// TestCredentialRotationByOrigin: which secret an upstream takes says nothing of
// another that the credential is bound to, in one fetch or in the next.
func TestCredentialRotationByOrigin(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	takes := func(token, location string) *fetchtest.Recorder {
		return secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
			switch {
			case r.Get("Authorization") != "Bearer "+token:
				return fetchtest.Answer(401, "no", "WWW-Authenticate: Bearer")
			case r.Target == "/leads":
				return fetchtest.Answer(307, "", "Location: "+location)
			}
			return fetchtest.Answer(200, "ok")
		})
	}
	behind := takes("cnryfirst", "")
	ahead := takes("cnrysecond", behind.URL("/"))
	v := newVault(t)
	v.bearer("token", "cnryfirst", boundTo("", ahead, behind))
	v.put("token.next", "cnrysecond")
	w := vaulted(t, v, authority, "", ahead, behind)
	fetch := func(u *fetchtest.Recorder, path string, wantHops int) {
		t.Helper()
		a, err := whole(within(t), w, naming(u.URL(path), "token"))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if n := len(a.report.GetAttempts()[0].GetHops()); n != wantHops {
			t.Errorf("%s of %s took %d hops, want %d", path, u.URL("/"), n, wantHops)
		}
	}
	fetch(ahead, "/leads", 3) // 401, the redirect, and the first secret for the other
	fetch(behind, "/", 1)
	fetch(ahead, "/", 1)
	fetch(ahead, "/leads", 2)
	fetch(behind, "/", 1)
	w.check(t, nil)
}
