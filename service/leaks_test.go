package service_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestSecretShownInABrokenAnswer: a secret that an upstream shows where its answer
// cannot be read or followed is in no answer, log or record.
func TestSecretShownInABrokenAnswer(t *testing.T) {
	const secret = "CnryBearerX9"
	authority := fetchtest.NewAuthority(t)
	for i, head := range []string{
		"HTTP/1.1 200 OK\r\nBearer %s\r\n\r\n",
		"HTTP/1.1 %s\r\n\r\n",
		"%s\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: %s\x01\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: ftp://%s/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://%s_\x7f:99999/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://[%s]/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://a..%s/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://%s%%/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://%s.1/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://-%s/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:%s/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /%s\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
		"HTTP/1.1 200 OK\r\nX-Caps: " + strings.ToUpper(secret) + "\r\nX-Low: " + strings.ToLower(secret) + "\r\nX: %s\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"%s\"\r\nContent-Length: 0\r\n\r\n",
	} {
		head = fmt.Sprintf(head, secret)
		u := secureRecorder(t, authority, func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Write(head) })
		v := newVault(t)
		v.bearer("token", secret, boundTo("", u))
		w := vaulted(t, v, authority, "", u)
		m := naming(u.URL("/first"), "token")
		m.Options.Retry = &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)}
		r, err := w.Fetch(within(t), &fetchgatev1.FetchRequest{Request: m.Request, Options: m.Options})
		w.end(t)
		for where, text := range map[string]string{"answer": fmt.Sprint(r, err), "audit record": w.audit.String()} {
			if at := strings.Index(strings.ToLower(text), strings.ToLower(secret)); at >= 0 {
				t.Errorf("%d %q: the %s has …%s…", i, head, where, text[max(0, at-120):min(len(text), at+60)])
			}
		}
		if len(u.Requests()) == 0 {
			t.Errorf("%d: nothing came: %v, %v", i, r, err)
		}
	}
}

// TestRulesSeeWhatIsAdded: a rule that denies by a header field or a query
// parameter also denies what is written into the request for its cookies and
// credentials, and Explain says the same.
func TestRulesSeeWhatIsAdded(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	allow := fmt.Sprintf("rules:\n  - {name: open, origins: [%q], dangerous_allow_loopback: true}\n", fetchtest.OriginOf(u.Upstream))
	own := func(path string, c *fetchgatev1.Credential) *request {
		m := get(u.URL(path))
		m.Options = &fetchgatev1.FetchOptions{Credentials: []*fetchgatev1.Credential{c}}
		return m
	}
	cookie := get(u.URL("/cookie"))
	cookie.Request.Cookies = []*fetchgatev1.Cookie{{Name: []byte("sid"), Value: []byte("1")}}
	for deny, m := range map[string]*request{
		"headers: [Cookie]":        cookie,
		"headers: [Authorization]": own("/basic", &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte("u"), Password: []byte("ppppppp")}}}),
		"headers: [X-Key]":         own("/header", apiKey(&fetchgatev1.ApiKeyCredential{Key: []byte("ppppppp"), Place: &fetchgatev1.ApiKeyCredential_Header{Header: "X-Key"}})),
		`query: {key: "*"}`:        own("/query?a=1", apiKey(&fetchgatev1.ApiKeyCredential{Key: []byte("ppppppp"), Place: &fetchgatev1.ApiKeyCredential_QueryParam{QueryParam: "key"}})),
	} {
		for _, denied := range []bool{false, true} {
			yaml, want := allow, codes.OK
			if denied {
				yaml, want = allow+fmt.Sprintf("  - {name: not, action: deny, origins: [%q], %s}\n", fetchtest.OriginOf(u.Upstream), deny), codes.PermissionDenied
			}
			s, before := reloading(t, yaml), len(u.Requests())
			_, err := whole(within(t), s, m)
			e, explained := s.policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
			if explained != nil || e.GetAllowed() == denied {
				t.Errorf("%s: Explain says %v, %v", deny, e, explained)
			}
			if came := len(u.Requests()) > before; came == denied {
				t.Errorf("%s: want %v, got %v; a request came: %t", deny, want, err, came)
			}
			if denied {
				wantRPCError(t, err, want, "DESTINATION_DENIED", `rule "not"`)
			}
		}
	}
}

func apiKey(c *fetchgatev1.ApiKeyCredential) *fetchgatev1.Credential {
	return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: c}}
}

// TestCredentialOfAnotherIsNotTold: Explain does not name a credential that is
// bound to other callers.
func TestCredentialOfAnotherIsNotTold(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, nil)
	v := newVault(t)
	v.bearer("partner-of-b", "cnrybearer", boundTo(", callers: [b]", u))
	s := reloading(t, fmt.Sprintf("callers: [{name: a, dangerous_anonymous: true, rights: [explain, fetch]}, {name: b, token_sha256: [%s]}]\nupstream_tls: {ca_files: [%q]}\nrules: [{name: r, origins: [%q], dangerous_allow_loopback: true, credentials: [partner-of-b]}]\n",
		digestOf("tok"), authority.WriteFile(t), fetchtest.OriginOf(u.Upstream))+v.yaml.String())
	e, err := s.policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil || !strings.Contains(e.String(), "not bound to this caller") {
		t.Errorf("Explain says %v, %v", e, err)
	}
	if strings.Contains(e.String(), "partner-of-b") {
		t.Errorf("Explain tells %v", e.GetChecks())
	}
}

// TestBindingToEveryHost: no credential goes to whatever host.
func TestBindingToEveryHost(t *testing.T) {
	for _, origin := range []string{"https://*", "https://*:8443"} {
		v := newVault(t)
		v.bearer("all", "cnrybearer", fmt.Sprintf("origins: [\"https://api.example.com\", %q]", origin))
		l, err := config.Parse("x.yaml", []byte(v.yaml.String()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.HoldCredentials(l, nil, nil); err == nil || !strings.Contains(err.Error(), "x.yaml:2:") || !strings.Contains(err.Error(), "to every host") {
			t.Errorf("a credential bound to %s: %v", origin, err)
		}
	}
}
