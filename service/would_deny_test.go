package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestWouldDenyIsTold: a report says that rules deny what went ahead, with what a
// denial would say, and Explain says the same before.
func TestWouldDenyIsTold(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/v2/away" {
			return fetchtest.Answer(302, "", "Location: /v1/end")
		}
		return fetchtest.Answer(200, "ok")
	}})
	w := observeUntraced(t, fetchtest.Options{Extra: fmt.Sprintf(`rules:
  - {name: api, owner: team-api, origins: [%[1]q], paths: ["/v1/*"], dangerous_allow_loopback: true}
  - {name: old, owner: team-api, action: deny, mode: report, origins: [%[1]q], paths: ["/v2/*"]}
  - {name: rest, origins: [%[1]q], paths: ["/v2/*"], dangerous_allow_loopback: true}
`, fetchtest.OriginOf(u.Upstream))})
	denial := fmt.Sprintf("rule \"old\" denies GET %[1]s. Ask team-api about the rule. More: fetchgate explain %[1]s", fetchtest.OriginOf(u.Upstream))
	for path, hops := range map[string][]string{
		"/v1/x": {""}, "/v2/x": {denial}, "/v2/away": {denial, ""},
	} {
		for _, rpc := range rpcs {
			short, err := rpc.call(within(t), w, get(u.URL(path)))
			if err != nil {
				t.Fatal(err)
			}
			m := get(u.URL(path))
			m.Options.Report = full()
			a, err := rpc.call(within(t), w, m)
			if err != nil {
				t.Fatal(err)
			}
			if isDenied := hops[0] != ""; short.report.GetWouldDeny() != isDenied || a.report.GetWouldDeny() != isDenied {
				t.Errorf("%s, %s: would_deny is %v, and in full %v", rpc.name, path, short.report.GetWouldDeny(), a.report.GetWouldDeny())
			}
			var got []string
			for _, h := range a.report.GetAttempts()[0].GetHops() {
				got = append(got, h.GetWouldDeny())
			}
			if !slices.Equal(got, hops) {
				t.Errorf("%s, %s: of the hops it says %q, want %q", rpc.name, path, got, hops)
			}
		}
	}
	said, err := fetchgatev1.NewPolicyServiceClient(w.conn).Explain(within(t), &fetchgatev1.ExplainRequest{Request: get(u.URL("/v2/x")).Request})
	if err != nil || said.GetAllowed() || !said.GetGoesAhead() || said.GetMode() != "report" || !strings.HasPrefix(said.GetHint(), "Ask team-api about the rule.") {
		t.Errorf("Explain says %v, %v", said, err)
	}
}

// TestReportTellsCredentials: which went along and which did not, but for those of
// other callers.
func TestReportTellsCredentials(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/v1/out" {
			return fetchtest.Answer(302, "", "Location: /v2/end")
		}
		return fetchtest.Answer(200, "ok")
	})
	plain := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	v := newVault(t)
	v.bearer("token", "cnrytoken", boundTo(", paths: ['/v1/*']", u))
	for name, binding := range map[string]string{
		"ruled": boundTo("", u), "v2-only": boundTo(", paths: ['/v2/*']", u), "of-others": boundTo(", callers: [stranger]", u),
	} {
		v.hold(name, fmt.Sprintf("api_key: {header: X-%s, key: {file: %q}}", name, v.put(name, "cnry"+name)), binding)
	}
	w := observe(t, fetchtest.Options{Trust: authority, Extra: v.yaml.String() + fmt.Sprintf(`
callers:
  - {name: me, dangerous_anonymous: true}
  - {name: stranger, token_sha256: [%s]}
rules:
  - {name: api, dangerous_allow_loopback: true, origins: [%q, %q], credentials: [ruled, of-others, v2-only]}
`, strings.Repeat("0", 64), fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(plain.Upstream))})
	a, err := whole(within(t), w, naming(u.URL("/v1/out"), "token"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range a.report.GetAttempts()[0].GetHops() {
		var uses []string
		for _, use := range h.GetCredentials() {
			uses = append(uses, fmt.Sprintf("%s %s %v", use.GetName(), use.GetKind(), use.GetApplied()))
		}
		got = append(got, strings.Join(uses, ", "))
	}
	want := []string{"token bearer true, ruled api_key true, v2-only api_key false", "ruled api_key true, v2-only api_key true, token bearer false"}
	if !slices.Equal(got, want) {
		t.Errorf("the hops had\n%q\nwant\n%q", got, want)
	}
	said := told(a, err)
	explain := func(m *request) *fetchgatev1.ExplainResponse {
		answer, err := fetchgatev1.NewPolicyServiceClient(w.conn).Explain(within(t), &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, prototextOf(answer))
		return answer
	}
	if e := explain(naming(u.URL("/v1/out"), "token")); !e.GetGoesAhead() || !slices.Equal(e.GetCredentials(), []string{"token", "ruled"}) {
		t.Errorf("Explain says %v", e)
	}
	if e := explain(naming(u.URL("/v2/x"), "token")); e.GetAllowed() || e.GetGoesAhead() || e.GetMode() != "enforce" || len(e.GetCredentials()) > 0 || e.GetChecks()[len(e.GetChecks())-1].GetCheck() != "credential" {
		t.Errorf("out of the binding, Explain says %v", e)
	}
	if e := explain(naming(u.URL("/v1/x"), "unknown")); e.GetAllowed() || e.GetGoesAhead() || len(e.GetCredentials()) > 0 || len(e.GetViolations()) != 1 {
		t.Errorf("of a name that nobody has, Explain says %v", e)
	}
	const overHTTP = "over https alone, to this machine too"
	_, err = whole(within(t), w, naming(plain.URL("/v1/x"), "token"))
	wantRPCError(t, err, codes.PermissionDenied, "CREDENTIAL_OUT_OF_BINDING", overHTTP)
	if e := explain(get(plain.URL("/v1/x"))); !e.GetGoesAhead() || len(e.GetCredentials()) > 0 || !strings.Contains(prototextOf(e), overHTTP) {
		t.Errorf("over http, Explain says %v", e)
	}
	if all := strings.Join(said, "\n"); strings.Contains(all, "of-others") {
		t.Errorf("the caller learns what others use:\n%s", all)
	}
	w.check(t, said)
	if !strings.Contains(w.audit.String(), "-of-others") {
		t.Error("the record does not say what was left out")
	}
}
