package main

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// decisions are one that allows, one that denies, and one whose request would
// be refused.
var (
	allowed = &fetchgatev1.ExplainResponse{
		Allowed: true, CanonicalUrl: "https://example.com/a", Rule: "partners", RuleLocation: "policy.yaml:41", Generation: 3,
		Mode: "enforce", GoesAhead: true, Credentials: []string{"partner", "edge"},
		Why: "The rule names this origin.", Checks: []*fetchgatev1.PolicyCheck{{Check: "origin", Passed: true, Detail: "https://example.com"}},
		Limits: &fetchgatev1.EffectiveLimits{Total: &durationpb.Duration{Seconds: 30}, MaxAttempts: 3, MaxRedirects: 10},
	}
	deniedDecision = &fetchgatev1.ExplainResponse{
		CanonicalUrl: "http://10.0.0.1/\x1b", Rule: "default-deny", Why: "No rule allows it.", Hint: "Ask team-edge.",
		Checks:     []*fetchgatev1.PolicyCheck{{Check: "method", Detail: "POST"}},
		NearMisses: []*fetchgatev1.NearMiss{{Rule: "partners", RuleLocation: "policy.yaml:41", Difference: "method were GET"}},
		Addresses:  []*fetchgatev1.AddressDecision{{Address: "10.0.0.1", AddressClass: "private"}},
	}
	reportedDecision = &fetchgatev1.ExplainResponse{
		CanonicalUrl: "https://example.com/b", Rule: "default-deny", Mode: "report", GoesAhead: true, Why: "No rule allows it.", Hint: "Ask team-edge. More: fetchgate explain https://example.com",
	}
	enforcedDecision = &fetchgatev1.ExplainResponse{CanonicalUrl: "https://example.com/b", Rule: "default-deny", Mode: "enforce", Why: "No rule allows it."}
	refusedDecision  = &fetchgatev1.ExplainResponse{Rule: "partners",
		Violations: []*fetchgatev1.FieldViolation{{Field: "request.headers[0]", Description: "Host is set by fetchgate"}},
		Clamped:    []string{"options.timeouts.total"}}
)

// explaining is a service that answers every Explain alike.
func explaining(decision *fetchgatev1.ExplainResponse, err error) *canned {
	return &canned{explain: func() (*fetchgatev1.ExplainResponse, error) { return decision, err }}
}

func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		service *canned
		code    int
		out     []string
		err     string
	}{
		"allowed": {explaining(allowed, nil), exitOK, []string{"allowed: https://example.com/a\n  rule partners (policy.yaml:41), generation 3\n" +
			"  mode enforce: a fetch goes ahead\n  credentials: partner, edge\n  why: The rule names this origin.\n" +
			"  check origin passed: https://example.com\n  limits: total 30s\n", "3 attempts, 10 redirects\n"}, ""},
		"denied": {explaining(deniedDecision, nil), exitDenied, []string{"denied: http://10.0.0.1/\\x1b\n  rule default-deny, generation 0\n", "  next: Ask team-edge.\n  check method failed: POST\n",
			"  near: rule partners (policy.yaml:41) would decide otherwise if method were GET\n  address 10.0.0.1 denied: private\n"},
			""},
		"reported": {explaining(reportedDecision, nil), exitOK, []string{"would be denied: https://example.com/b\n  rule default-deny, generation 0\n" +
			"  mode report: a fetch goes ahead all the same\n  why: No rule allows it.\n  next: Ask team-edge.\n"}, ""},
		"enforced in every mode": {explaining(&fetchgatev1.ExplainResponse{CanonicalUrl: "http://10.0.0.1/", Rule: "default-deny", Mode: "enforce",
			Checks: []*fetchgatev1.PolicyCheck{{Check: "mode", Passed: true, Detail: `"report" lets go ahead what rules deny, but addresses are judged in every mode`}}}, nil), exitDenied,
			[]string{"  mode enforce: a fetch does not go ahead: \"report\" lets go ahead what rules deny, but addresses are judged in every mode\n"}, ""},
		"enforced": {explaining(enforcedDecision, nil), exitDenied, []string{"denied: https", "  mode enforce: a fetch does not go ahead\n", "  next: ask the owner of the policy\n"}, ""},
		"refused":  {explaining(refusedDecision, nil), exitRPC, []string{"refused: the request is not whole\n", "  refused: request.headers[0]: Host is set by fetchgate\n  lowered to the service's maximum: options.timeouts.total\n"}, ""},
		"older":    {&canned{}, exitRPC, nil, "the service does not explain its decisions\n  it is older than this command\n"},
		"failed":   {explaining(nil, refusedWith(codes.Unauthenticated, "who are you")), exitRPC, nil, "Unauthenticated\n  who are you\n  next: ask the service's operator"},
	} {
		r := runHere(t.Context(), "", "explain", "--address", c.service.start(t), "-X", "POST", "-H", "A: b", "https://example.com/a")
		if c.out != nil {
			r.wantVerdict(t, c.code)
		} else {
			r.wantCode(t, c.code)
		}
		for _, part := range c.out {
			if !strings.Contains(r.out, part) {
				t.Errorf("%s: stdout, want %q:\n%s", name, part, r.out)
			}
		}
		if !strings.Contains(r.err, c.err) || c.out == nil && r.out != "" {
			t.Errorf("%s: stdout %q; stderr, want %q:\n%s", name, r.out, c.err, r.err)
		}
		want := &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Method: "POST", Url: "https://example.com/a",
			Headers: []*fetchgatev1.HeaderField{{Name: "A", Value: []byte("b")}}}, Options: &fetchgatev1.FetchOptions{}}
		if name != "older" && (len(c.service.asked) != 1 || !proto.Equal(c.service.asked[0], want)) {
			t.Errorf("%s: it asks for %v", name, c.service.asked)
		}
	}
}

// TestExplainAsksWhatGetAsks: each flag that changes the request of get changes
// that of explain alike.
func TestExplainAsksWhatGetAsks(t *testing.T) {
	for _, args := range [][]string{
		{"--credential", "partner", "--credential", "edge"},
		{"--verbatim", "-H", "b_c: 1"},
		{"-u", "user:password", "-X", "PUT", "-d", "a=b", "-d", "@-"},
		{"--oauth2-bearer", "token", "-A", "me", "-e", "https://example.com/", "-b", "a=b"},
		{"--data-urlencode", "a=b c", "--timeout", "3s", "--retry", "0", "--no-follow"},
		{"-I", "--request-target", "/%2e", "--expect100", "--max-filesize", "9"},
	} {
		service := explaining(allowed, nil)
		address := service.start(t)
		for _, command := range [][]string{{"explain"}, {"get", "--offline"}} {
			r := runHere(t.Context(), "from stdin", slices.Concat(command, []string{"--address", address}, args, []string{"https://example.com/a"})...)
			r.wantCode(t, exitOK)
		}
		if len(service.asked) != 2 || !proto.Equal(service.asked[0], service.asked[1]) {
			t.Errorf("%q: explain and get ask for %v", args, service.asked)
		}
	}
}

// TestExplainJSON: the same bytes each time, and nothing lost.
func TestExplainJSON(t *testing.T) {
	service := explaining(deniedDecision, nil)
	address := service.start(t)
	r := runHere(t.Context(), "", "explain", "--json", "--address", address, "http://10.0.0.1/")
	r.wantVerdict(t, exitDenied)
	decision := &fetchgatev1.ExplainResponse{}
	if err := protojson.Unmarshal([]byte(r.out), decision); err != nil || !proto.Equal(decision, deniedDecision) {
		t.Errorf("%v: it prints\n%s", err, r.out)
	}
	if !strings.HasPrefix(r.out, "{\n  \"allowed\": false,\n  \"canonicalUrl\": \"http://10.0.0.1/\\u001b\",\n") || !json.Valid([]byte(r.out)) {
		t.Errorf("it prints\n%s", r.out)
	}
}

func TestOffline(t *testing.T) {
	const request = "POST https://example.com/a%20b?q=1\nHost: example.com\nAuthorization: [redacted]\nX-Bytes: \\xff\nContent-Type: application/json\n" +
		"Content-Length: 2\nCookie: [redacted]\nAccept: */*\nAccept-Encoding: gzip, deflate, br, zstd\n(and the service's User-Agent)\n\n" +
		"not sent; body 2 B\nillegal bytes of the URL were percent-encoded\n"
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for name, c := range map[string]struct {
		address string
		code    int
		says    string
	}{
		"allowed":   {explaining(allowed, nil).start(t), exitOK, "allowed: https://example.com/a\n"},
		"denied":    {explaining(deniedDecision, nil).start(t), exitDenied, "denied: http"},
		"older":     {(&canned{}).start(t), exitOK, "policy was not asked: the service does not explain its decisions\n"},
		"not there": {nobody.Addr().String(), exitOK, "policy was not asked: cannot reach fetchgate at " + nobody.Addr().String() + "\n"},
		"draining":  {explaining(nil, refusedWith(codes.ResourceExhausted, "too much")).start(t), exitRPC, ""},
	} {
		r := runHere(t.Context(), "", "get", "--offline", "--address", c.address, "-H", "Authorization: Bearer secret", "-H", "X-Bytes: \xff",
			"-b", "session=secret", "--json", "{}", "https://EXAMPLE.com:443/a b?q=1")
		if c.code == exitRPC {
			r.wantCode(t, c.code)
		} else {
			r.wantVerdict(t, c.code)
		}
		if !strings.HasPrefix(r.out, request+c.says) || strings.Contains(r.out+r.err, "secret") {
			t.Errorf("%s: it prints\n%s\nwant\n%s", name, r.out, request+c.says)
		}
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"ftp://example.com/"}, "use http or https\n  next: mend the URL\n"},
		{[]string{"--json", "{", "http://example.com/"}, "\n  --json: the body is not JSON"},
		{[]string{"-X", "get", "http://example.com/"}, "next: mend -X\n"},
		{[]string{"--request-target", "x", "http://example.com/"}, "next: mend --request-target\n"},
	} {
		r := runHere(t.Context(), "", append([]string{"get", "--offline"}, c.args...)...)
		r.wantCode(t, exitRPC)
		if !strings.HasPrefix(r.err, "fetchgate: the service would refuse the request\n") || !strings.Contains(r.err, c.says) {
			t.Errorf("%q says\n%s", c.args, r.err)
		}
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--verbatim", "-H", "b_c: 1", "-H", "HOST: example.com", "--json", "{}", "--expect100"},
			"POST http://example.com/\nb_c: 1\nHOST: example.com\nContent-Length: 2\nExpect: 100-continue\n\nnot sent; body 2 B\n"},
		{[]string{"--verbatim", "-H", "Transfer-Encoding: chunked", "--json", "{}"},
			"POST http://example.com/\nHost: example.com\nTransfer-Encoding: chunked\n\nnot sent; body 2 B\n"},
		{[]string{"--verbatim", "--request-target", "/%2e?"}, "GET http://example.com/%2e?\nHost: example.com\n\nnot sent; body 0 B\n"},
	} {
		r := runHere(t.Context(), "", append([]string{"get", "--offline", "--address", nobody.Addr().String(), "http://example.com/"}, c.args...)...)
		if r.wantCode(t, exitOK); !strings.HasPrefix(r.out, c.says) {
			t.Errorf("%q prints\n%s", c.args, r.out)
		}
	}
	service := explaining(allowed, nil)
	r := runHere(t.Context(), "", "get", "--offline", "--address", service.start(t), "-A", "", "--no-decode", "--retry", "1", "http://example.com/")
	r.wantCode(t, exitOK)
	if !strings.HasPrefix(r.out, "GET http://example.com/\nHost: example.com\nAccept: */*\n\nnot sent; body 0 B\nallowed") {
		t.Errorf("it prints\n%s", r.out)
	}
	if len(service.asked) != 1 || service.asked[0].GetOptions().GetRetry().GetMaxAttempts() != 2 {
		t.Errorf("it asks for %v", service.asked)
	}
}
