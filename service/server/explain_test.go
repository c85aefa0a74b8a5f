package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
)

// explained is a server with rules of its own over upstream.
func explained(t testing.TB, upstream fetch.Transport) *Server {
	t.Helper()
	rules, err := policy.Compile([]*configv1.Rule{
		{Name: "orders", Owner: "team-orders", Origins: []string{"https://api.example.com"}, Methods: []string{"GET", "HEAD"}},
		{Name: "admin", Origins: []string{"https://api.example.com:8443"}},
		{Name: "plain", Origins: []string{"http://*"}},
	}, policy.Options{Locate: func(path string) string { return "policy.yaml:" + path }})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(upstream, rules, limit.NewRetryBudget(0.2, 10))
	return New(e, Options{Policy: rules, Limits: fetch.DefaultLimits(), UserAgent: "fetchgate/test", Generation: 7})
}

// explain asks s about a request that is in order as an RPC.
func explain(t testing.TB, s *Server, m *fetchgatev1.ExplainRequest) *fetchgatev1.ExplainResponse {
	t.Helper()
	answer, err := explainer{Server: s}.Explain(asked(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func explainURL(method, url string) *fetchgatev1.ExplainRequest {
	return &fetchgatev1.ExplainRequest{Request: &fetchgatev1.HttpRequest{Method: method, Url: url}}
}

func wantExplained(t testing.TB, got, want *fetchgatev1.ExplainResponse) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

func TestExplainFillsEveryField(t *testing.T) {
	upstream := typicalTransport(10)
	s := explained(t, upstream)
	m := explainURL("DELETE", "HTTPS://API.example.com/v1?key=hush#secret")
	m.Options = &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Dns: durationpb.New(time.Hour), Total: durationpb.New(2 * time.Second)}}
	got := explain(t, s, m)
	if l := got.GetLimits(); l.GetDns().AsDuration() != fetch.DefaultLimits().MaxTimeouts.DNS || l.GetTotal().AsDuration() != 2*time.Second || l.GetMaxBodyBytes() == 0 {
		t.Errorf("the limits are %v", l)
	}
	got.Limits = nil
	wantExplained(t, got, &fetchgatev1.ExplainResponse{
		CanonicalUrl: "https://api.example.com/v1?[redacted]",
		Rule:         "default-deny", Generation: 7, Mode: "enforce",
		Why:  "no rule allows DELETE https://api.example.com",
		Hint: `Rule "orders" allows this origin, but not the method DELETE; ask team-orders. More: fetchgate explain -X DELETE https://api.example.com`,
		Checks: []*fetchgatev1.PolicyCheck{
			{Check: "origin", Passed: true, Detail: "a rule allows https to api.example.com"},
			{Check: "port", Passed: true, Detail: "a rule allows the port 443"},
			{Check: "method", Detail: "no rule allows the method DELETE"},
		},
		NearMisses: []*fetchgatev1.NearMiss{
			{Rule: "orders", RuleLocation: "policy.yaml:rules[0]", Difference: "the method were GET"},
			{Rule: "admin", RuleLocation: "policy.yaml:rules[1]", Difference: "the port were 8443"},
			{Rule: "plain", RuleLocation: "policy.yaml:rules[2]", Difference: "the scheme were http"},
		},
		Clamped: []string{"options.timeouts.dns"},
	})
	got = explain(t, s, explainURL("", "https://api.example.com/"))
	if !got.GetAllowed() || !got.GetGoesAhead() || got.GetRule() != "orders" || got.GetRuleLocation() != "policy.yaml:rules[0]" || got.GetHint() != "" || len(got.GetNearMisses()) != 0 {
		t.Errorf("what is allowed is explained as %v", got)
	}
	if upstream.calls != 0 {
		t.Error("the upstream was asked")
	}
}

func TestExplainOfWhatFetchRefuses(t *testing.T) {
	s := explained(t, typicalTransport(10))
	allowed := explain(t, s, explainURL("GET", "https://api.example.com/"))

	m := explainURL("GET", "https://api.example.com/")
	m.Request.Headers = []*fetchgatev1.HeaderField{{Name: "Bad Name", Value: []byte("x")}}
	m.Options = &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Dns: durationpb.New(-1)}}
	got := explain(t, s, m)
	if got.GetAllowed() || len(got.GetViolations()) != 2 || !strings.HasSuffix(got.GetWhy(), "(and 1 more)") {
		t.Errorf("got %v", got)
	}
	if got.GetRule() != "orders" || len(got.GetChecks()) != len(allowed.GetChecks()) || got.GetLimits() == nil {
		t.Errorf("policy's word is missing: %v", got)
	}

	for _, m := range []*fetchgatev1.ExplainRequest{
		{},
		explainURL("GET", "https://user:hush@api.example.com/"),
		explainURL("GET", "not a URL"),
		explainURL("BAD METHOD", "https://api.example.com/"),
	} {
		got := explain(t, s, m)
		if got.GetAllowed() || len(got.GetViolations()) != 1 || got.GetWhy() == "" || got.GetRule() != "" || got.GetGeneration() != 7 {
			t.Errorf("%v: got %v", m, got)
		}
		if strings.Contains(got.String(), "hush") {
			t.Errorf("a secret comes back: %v", got)
		}
	}
}

func TestExplainNamesWhatIsNotOfferedAndWrong(t *testing.T) {
	s := explained(t, typicalTransport(10))
	m := explainURL("GET", "https://api.example.com/")
	m.Request.Headers = []*fetchgatev1.HeaderField{{Name: "Bad Name", Value: []byte("x")}}
	m.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 1}) // field 1023
	var paths []string
	for _, v := range explain(t, s, m).GetViolations() {
		paths = append(paths, v.GetField())
	}
	if want := []string{"<field 1023>", "request.headers[0]"}; !slices.Equal(paths, want) {
		t.Errorf("got %q, want %q", paths, want)
	}
	inside := []violation{{path: "request.body.parts[0].name"}, {path: "request.bodyguard"}}
	for path, want := range map[string]bool{
		"request.body": true, "request.body.parts": true, "request.body.parts[0].name": true,
		"request.bod": false, "request.body.parts[0].name.x": false, "options": false,
	} {
		if isInside(inside, path) != want {
			t.Errorf("%s: want %v", path, want)
		}
	}
}

// TestExplainTellsModes: what rules say and what becomes of it are two answers,
// and the second is that of Fetch.
func TestExplainTellsModes(t *testing.T) {
	const elsewhere, metadata, private = "https://other.example.com/", "http://169.254.169.254/", "http://10.0.0.1/"
	for _, c := range []struct {
		mode, url, says    string
		ahead, wouldDenied bool
	}{
		{"enforce", elsewhere, "enforce", false, false},
		{"report", elsewhere, "report", true, true},
		{"open", elsewhere, "open", true, false},
		{"open", metadata, "enforce", false, false},
		{"report", metadata, "enforce", false, false},
		{"report", private, "enforce", false, false},
	} {
		rules, err := policy.Compile([]*configv1.Rule{
			{Name: "orders", Origins: []string{"https://api.example.com"}},
			{Name: "not-opened", Origins: []string{"http://10.0.0.1"}},
		}, policy.Options{Mode: c.mode})
		if err != nil {
			t.Fatal(err)
		}
		upstream := typicalTransport(10)
		s := New(engine.New(upstream, rules, limit.NewRetryBudget(0.2, 10)), Options{Policy: rules, Limits: fetch.DefaultLimits(), Generation: 7})
		said := explain(t, s, explainURL("GET", c.url))
		if said.GetAllowed() || said.GetMode() != c.says || said.GetGoesAhead() != c.ahead || said.GetHint() == "" {
			t.Errorf("%s in the mode %s is explained as %v", c.url, c.mode, said)
		}
		answer, err := s.fetch(asked(t), &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Url: c.url}})
		if (err == nil) != c.ahead {
			t.Errorf("%s in the mode %s: Explain says %v, Fetch %v", c.url, c.mode, said.GetGoesAhead(), err)
		}
		if err == nil && answer.(*fetchReply).GetReport().GetWouldDeny() != c.wouldDenied {
			t.Errorf("%s in the mode %s: the report is %v", c.url, c.mode, answer.(*fetchReply).GetReport())
		}
	}
}

func TestExplainRefusesUnknownCallers(t *testing.T) {
	answer, err := explainer{Server: explained(t, typicalTransport(10))}.Explain(t.Context(), explainURL("GET", "https://api.example.com/"))
	if got := tell(t, err); answer != nil || got.code != codes.Unauthenticated || got.reason != "CALLER_UNKNOWN" {
		t.Errorf("got %v, %+v", answer, got)
	}
}

// TestExplainAgreesWithFetch explains and fetches the same.
func TestExplainAgreesWithFetch(t *testing.T) {
	full := &fetchgatev1.FetchOptions{Report: fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum()}
	options := map[string]*fetchgatev1.FetchOptions{
		"defaults": full,
		"clamped": {Report: full.Report, Timeouts: &fetchgatev1.Timeouts{Connect: durationpb.New(time.Hour), Attempt: durationpb.New(time.Second)},
			Response: &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(1000), MaxHeadFields: proto.Int32(1e6)}},
		"wrong":   {Report: full.Report, Timeouts: &fetchgatev1.Timeouts{Connect: durationpb.New(0), Tls: durationpb.New(-1)}},
		"unknown": {Report: fetchgatev1.ReportDetail(77).Enum()},
	}
	outcomes := map[string]int{}
	for _, method := range []string{"", "GET", "POST", "CONNECT", "not one"} {
		for _, url := range []string{
			"https://api.example.com/", "https://api.example.com:8443/a?b=c", "https://api.example.com:1/", "http://93.184.215.14/",
			"http://10.0.0.1/", "http://localhost/", "http://metadata.goog/", "http://example.com/%", "ftp://example.com/", "",
		} {
			for name, o := range options {
				request := &fetchgatev1.HttpRequest{Method: method, Url: url}
				outcome := agree(t, &fetchgatev1.FetchRequest{Request: request, Options: o})
				if outcomes[outcome]++; t.Failed() {
					t.Fatalf("%s %s with %s", method, url, name)
				}
			}
		}
	}
	if outcomes["allowed"] == 0 || outcomes["denied"] == 0 || outcomes["refused"] == 0 {
		t.Errorf("the questions are not worth much: %v", outcomes)
	}
}

// agree holds what Explain says to what Fetch does, and returns that in a word.
func agree(t *testing.T, m *fetchgatev1.FetchRequest) string {
	t.Helper()
	s := explained(t, typicalTransport(10))
	said := explain(t, s, &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
	answer, err := s.fetch(asked(t), m)
	if err == nil {
		report := answer.(*fetchReply).GetReport()
		wantExplained(t, said, &fetchgatev1.ExplainResponse{
			Allowed: true, Mode: "enforce", GoesAhead: true, Rule: report.GetRule(), Generation: report.GetGeneration(), Clamped: report.GetClamped(), Limits: report.GetLimits(),
			CanonicalUrl: report.GetAttempts()[0].GetHops()[0].GetUrl(), RuleLocation: said.RuleLocation, Why: said.Why, Checks: said.Checks,
		})
		return "allowed"
	}
	got := tell(t, err)
	if said.GetAllowed() {
		t.Errorf("Explain allows it, Fetch says %+v", got)
	}
	if len(got.violations) > 0 {
		if len(said.GetViolations()) != len(got.violations) {
			t.Fatalf("Explain names %v, Fetch %q", said.GetViolations(), got.violations)
		}
		for i, v := range said.GetViolations() {
			if !strings.HasPrefix(got.violations[i], v.GetField()+" ") || !strings.HasSuffix(got.violations[i], " "+v.GetDescription()) {
				t.Errorf("Explain names %v, Fetch %q", said.GetViolations(), got.violations)
			}
		}
		return "refused"
	}
	why := fmt.Sprintf("denied: %s. %s", said.GetWhy(), said.GetHint())
	if got.code != codes.PermissionDenied || got.message != why || got.metadata["rule"] != said.GetRule() || len(said.GetViolations()) > 0 {
		t.Errorf("Explain says %v, Fetch %+v", said, got)
	}
	return "denied"
}
