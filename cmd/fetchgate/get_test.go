package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// canned is a service whose answers a test gives, to see what the command makes
// of answers that a real one rarely or never gives.
type canned struct {
	fetchgatev1.UnimplementedFetchServiceServer
	fetchgatev1.UnimplementedPolicyServiceServer
	answer  func(context.Context) (*fetchgatev1.FetchResponse, error)
	stream  func(grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error
	explain func() (*fetchgatev1.ExplainResponse, error) // nil: not offered

	mu    sync.Mutex
	asked []*fetchgatev1.FetchRequest
}

func (c *canned) Explain(ctx context.Context, r *fetchgatev1.ExplainRequest) (*fetchgatev1.ExplainResponse, error) {
	if c.explain == nil {
		return c.UnimplementedPolicyServiceServer.Explain(ctx, r)
	}
	c.keep(&fetchgatev1.FetchRequest{Request: r.GetRequest(), Options: r.GetOptions()})
	return c.explain()
}

func (c *canned) Fetch(ctx context.Context, r *fetchgatev1.FetchRequest) (*fetchgatev1.FetchResponse, error) {
	c.keep(r)
	return c.answer(ctx)
}

func (c *canned) StreamFetch(r *fetchgatev1.StreamFetchRequest, s grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
	c.keep(&fetchgatev1.FetchRequest{Request: r.GetRequest(), Options: r.GetOptions()})
	return c.stream(s)
}

func (c *canned) keep(r *fetchgatev1.FetchRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r)
}

// start serves until the test ends and returns the address.
func (c *canned) start(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fetchgatev1.RegisterFetchServiceServer(server, c)
	fetchgatev1.RegisterPolicyServiceServer(server, c)
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		running.Wait()
	})
	return listener.Addr().String()
}

// get asks a service that gives one answer.
func get(t *testing.T, answer *fetchgatev1.FetchResponse, err error, args ...string) result {
	t.Helper()
	c := &canned{answer: func(context.Context) (*fetchgatev1.FetchResponse, error) { return answer, err }}
	return runHere(t.Context(), "", append([]string{"get", "--address", c.start(t), "http://example.com/"}, args...)...)
}

// getStream asks a service that streams events and then ends with err.
func getStream(t *testing.T, events []*fetchgatev1.StreamFetchResponse, err error, args ...string) result {
	t.Helper()
	c := &canned{stream: func(s grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
		for _, event := range events {
			if err := s.Send(event); err != nil {
				return err
			}
		}
		return err
	}}
	return runHere(t.Context(), "", append([]string{"get", "--address", c.start(t), "http://example.com/big.iso"}, args...)...)
}

func responded(status int32, body string) *fetchgatev1.FetchResponse {
	return &fetchgatev1.FetchResponse{Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{
		Head: &fetchgatev1.HttpHead{Protocol: "HTTP/1.1", Status: status}, Body: []byte(body),
	}}}
}

func failedWith(f *fetchgatev1.Failure) *fetchgatev1.FetchResponse {
	return &fetchgatev1.FetchResponse{Outcome: &fetchgatev1.FetchResponse_Failure{Failure: f}}
}

func refusedWith(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func headEvent(status int32, fields ...*fetchgatev1.HeaderField) *fetchgatev1.StreamFetchResponse {
	return &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Head{
		Head: &fetchgatev1.HttpHead{Protocol: "HTTP/1.1", Status: status, Headers: fields},
	}}
}

func dataEvent(offset int64, data string) *fetchgatev1.StreamFetchResponse {
	return &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{
		Data: &fetchgatev1.Data{OffsetBytes: offset, Data: []byte(data)},
	}}
}

func summaryEvent(f *fetchgatev1.Failure) *fetchgatev1.StreamFetchResponse {
	return &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Summary{
		Summary: &fetchgatev1.StreamSummary{Failure: f},
	}}
}

func TestGetWritesRawBytes(t *testing.T) {
	body := "a\x00\x1b[31m\xff\r\n"
	r := get(t, responded(200, body), nil)
	r.wantCode(t, exitOK)
	if r.out != body || r.err != "" {
		t.Errorf("stdout %q, stderr %q", r.out, r.err)
	}
}

// TestGetTellsOfARedirect: its body is mostly empty, and nothing would be seen.
func TestGetTellsOfARedirect(t *testing.T) {
	to := &fetchgatev1.HeaderField{Name: "location", Value: []byte("/elsewhere\x1b[31m")}
	whole := responded(302, "")
	whole.GetResponse().GetHead().Headers = []*fetchgatev1.HeaderField{to}
	for rpc, r := range map[string]result{
		"Fetch":       get(t, whole, nil),
		"StreamFetch": getStream(t, []*fetchgatev1.StreamFetchResponse{headEvent(302, to), summaryEvent(nil)}, nil, "--stream"),
	} {
		r.wantCode(t, exitOK)
		if r.out != "" || !strings.Contains(r.err, "302") || !strings.Contains(r.err, "/elsewhere") || strings.Contains(r.err, "\x1b") {
			t.Errorf("%s: stdout %q, stderr %q", rpc, r.out, r.err)
		}
	}
	if r := get(t, responded(304, ""), nil); r.err != "" {
		t.Errorf("a 304 without Location: stderr %q", r.err)
	}
}

func TestGetRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("line\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	form := &fetchgatev1.HeaderField{Name: "Content-Type", Value: []byte("application/x-www-form-urlencoded")}
	raw := func(text string) *fetchgatev1.Body {
		return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte(text)}}
	}
	wantAsked(t, []askedFor{
		{nil, &fetchgatev1.HttpRequest{}, nil},
		{[]string{"-X", "DELETE"}, &fetchgatev1.HttpRequest{Method: "DELETE"}, nil},
		{[]string{"-H", "Accept: a, b", "-H", "X-Latin: \xe9", "-H", "X-Empty:"}, &fetchgatev1.HttpRequest{Headers: []*fetchgatev1.HeaderField{
			{Name: "Accept", Value: []byte("a, b")}, {Name: "X-Latin", Value: []byte("\xe9")}, {Name: "X-Empty"}}}, nil},
		{[]string{"-d", "a=1,2", "-d", "b=3"}, &fetchgatev1.HttpRequest{Method: "POST", Body: raw("a=1,2&b=3"), Headers: []*fetchgatev1.HeaderField{form}}, nil},
		{[]string{"-d", "@" + file}, &fetchgatev1.HttpRequest{Method: "POST", Body: raw("line\r\n"), Headers: []*fetchgatev1.HeaderField{form}}, nil},
		{[]string{"-d", "@-", "-X", "PUT", "-H", "content-type: text/plain"}, &fetchgatev1.HttpRequest{Method: "PUT", Body: raw("from stdin"),
			Headers: []*fetchgatev1.HeaderField{{Name: "content-type", Value: []byte("text/plain")}}}, nil},
		{[]string{"--json", "{}"}, &fetchgatev1.HttpRequest{Method: "POST", Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: []byte("{}")}}}, nil},
		{[]string{"--timeout", "1500ms", "--report"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Timeouts: &fetchgatev1.Timeouts{Total: &durationpb.Duration{Seconds: 1, Nanos: 5e8}},
			Report:   fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum(),
		}},
		{[]string{"--no-decode"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Response: &fetchgatev1.ResponseOptions{Decode: proto.Bool(false)},
		}},
	})
}

// TestGetRequestInFlagsOfCurl: flags that are curl's ask for what they ask of
// curl.
func TestGetRequestInFlagsOfCurl(t *testing.T) {
	wantAsked(t, []askedFor{
		{[]string{"--data-urlencode", "q=a b&c", "--data-urlencode", "empty="}, &fetchgatev1.HttpRequest{Method: "POST",
			Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: &fetchgatev1.FormBody{Fields: []*fetchgatev1.QueryParam{
				{Name: "q", Value: "a b&c"}, {Name: "empty"}}}}}}, nil},
		{[]string{"-I"}, &fetchgatev1.HttpRequest{Method: "HEAD"}, nil},
		{[]string{"-A", "me/1", "-e", "http://from/"}, &fetchgatev1.HttpRequest{Headers: []*fetchgatev1.HeaderField{
			{Name: "User-Agent", Value: []byte("me/1")}, {Name: "Referer", Value: []byte("http://from/")}}}, nil},
		{[]string{"-A", "me/1", "-H", "user-agent: it"}, &fetchgatev1.HttpRequest{Headers: []*fetchgatev1.HeaderField{
			{Name: "user-agent", Value: []byte("it")}}}, nil},
		{[]string{"-A", "", "-e", ""}, &fetchgatev1.HttpRequest{OmitDefaultFields: []string{"user-agent"}}, nil},
		{[]string{"-b", "a=1; b=x=y;", "-b", "c="}, &fetchgatev1.HttpRequest{Cookies: []*fetchgatev1.Cookie{
			{Name: []byte("a"), Value: []byte("1")}, {Name: []byte("b"), Value: []byte("x=y")}, {Name: []byte("c")}}}, nil},
		{[]string{"-L"}, &fetchgatev1.HttpRequest{}, nil},
		{[]string{"--no-follow"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Redirect: &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(0)}}},
		{[]string{"-L", "--max-redirs", "3"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Redirect: &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(3)}}},
		{[]string{"--retry", "0"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Retry: &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)}}},
		{[]string{"--retry", "4", "--retry-delay", "2s"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Retry: &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(5), BackoffBase: &durationpb.Duration{Seconds: 2},
				BackoffMax: &durationpb.Duration{Seconds: 2}, BackoffFactor: proto.Float64(1), BackoffJitter: proto.Float64(0)}}},
		{[]string{"--request-target", "/%2e?"}, &fetchgatev1.HttpRequest{RawTarget: "/%2e?"}, nil},
		{[]string{"--verbatim", "-d", "x"}, &fetchgatev1.HttpRequest{Method: "POST", Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte("x")}}},
			&fetchgatev1.FetchOptions{Verbatim: proto.Bool(true)}},
		{[]string{"--expect100"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Protocol: &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}}},
		{[]string{"--expect100-timeout", "2s"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Protocol: &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true), ContinueTimeout: &durationpb.Duration{Seconds: 2}}}},
		{[]string{"-u", "user:pass:word", "--credential", "a", "--credential", "b"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Credentials: []*fetchgatev1.Credential{
				{Kind: &fetchgatev1.Credential_Named{Named: &fetchgatev1.NamedCredential{Name: "a"}}},
				{Kind: &fetchgatev1.Credential_Named{Named: &fetchgatev1.NamedCredential{Name: "b"}}},
				{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte("user"), Password: []byte("pass:word")}}},
			}}},
		{[]string{"--oauth2-bearer", "token"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Credentials: []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_Bearer{Bearer: &fetchgatev1.BearerCredential{Token: "token"}}}}}},
		{[]string{"-v", "--max-filesize", "10", "-Y", "5"}, &fetchgatev1.HttpRequest{}, &fetchgatev1.FetchOptions{
			Report:   fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum(),
			Response: &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(10)},
			Timeouts: &fetchgatev1.Timeouts{MinThroughputBytesPerSecond: proto.Int64(5)}}},
	})
}

// askedFor is a command line and what a service is to be asked for.
type askedFor struct {
	args []string
	want *fetchgatev1.HttpRequest
	opts *fetchgatev1.FetchOptions
}

func wantAsked(t *testing.T, list []askedFor) {
	t.Helper()
	for _, c := range list {
		service := &canned{answer: func(context.Context) (*fetchgatev1.FetchResponse, error) { return responded(200, ""), nil }}
		r := runHere(t.Context(), "from stdin", append([]string{"get", "--address", service.start(t), "http://example.com/?q=1"}, c.args...)...)
		r.wantCode(t, exitOK)
		c.want.Url = "http://example.com/?q=1"
		if c.opts == nil {
			c.opts = &fetchgatev1.FetchOptions{}
		}
		want := &fetchgatev1.FetchRequest{Request: c.want, Options: c.opts}
		if len(service.asked) != 1 || !proto.Equal(service.asked[0], want) {
			t.Errorf("%q asks for\n%v\nwant\n%v", c.args, service.asked, want)
		}
	}
}

func TestGetExitCodes(t *testing.T) {
	connectRefused := &fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_CONNECT_REFUSED,
		Blame: fetchgatev1.Blame_BLAME_NETWORK, Stage: fetchgatev1.Stage_STAGE_CONNECT, Message: "192.0.2.1:80 refuses connections"}
	for name, c := range map[string]struct {
		answer *fetchgatev1.FetchResponse
		err    error
		args   []string
		code   int
		says   string
	}{
		"response":       {answer: responded(200, ""), code: exitOK},
		"status 404":     {answer: responded(404, ""), code: exitOK},
		"failed status":  {answer: responded(404, "page"), args: []string{"--fail"}, code: exitStatus, says: "the upstream answered 404"},
		"failed allowed": {answer: responded(399, ""), args: []string{"-f"}, code: exitOK},
		"failure":        {answer: failedWith(connectRefused), code: exitFailed, says: "CONNECT_REFUSED (blame network, stage connect"},
		"failure says next": {answer: failedWith(connectRefused), code: exitFailed,
			says: "next: Check the port, and that the upstream is running."},
		"unknown failure": {answer: failedWith(&fetchgatev1.Failure{Reason: 9999, Blame: fetchgatev1.Blame_BLAME_UPSTREAM}), code: exitFailed, says: "blame upstream"},
		"too large": {answer: failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_RESPONSE_TOO_LARGE}),
			code: exitFailed, says: "next: add --stream or -o FILE"},
		"denied on the way": {answer: failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_REDIRECT_DENIED,
			Blame: fetchgatev1.Blame_BLAME_POLICY}), code: exitDenied, says: "denied by policy on the way: REDIRECT_DENIED"},
		"denied on the way with a hint": {answer: failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_REDIRECT_DENIED,
			Blame: fetchgatev1.Blame_BLAME_POLICY, Message: "no rule allows GET https://b.example", Detail: &fetchgatev1.Failure_Denial{Denial: &fetchgatev1.Denial{
				Rule: "default-deny", Hint: "Rule \"b\" allows this origin, but not the path; ask team-b. More: fetchgate explain https://b.example"}}}), code: exitDenied,
			says: "denied by policy on the way: REDIRECT_DENIED, rule default-deny\n  no rule allows GET https://b.example\n  next: Rule \"b\" allows this origin, but not the path; ask team-b.\n"},
		"denied": {err: refusedWith(codes.PermissionDenied, "no rule allows it; ask team-edge", &errdetails.ErrorInfo{
			Domain: "fetchgate", Reason: "DESTINATION_DENIED", Metadata: map[string]string{"rule": "default-deny"}}),
			code: exitDenied, says: "denied by policy: DESTINATION_DENIED, rule default-deny\n  no rule allows it\n  next: ask team-edge\n"},
		"right missing": {err: refusedWith(codes.PermissionDenied, "the caller a lacks the right stream. Ask its owner, x, to have it added to callers[].rights",
			&errdetails.ErrorInfo{Domain: "fetchgate", Reason: "RIGHT_MISSING"}), code: exitRPC,
			says: "you lack a right: RIGHT_MISSING\n  the caller a lacks the right stream\n  next: Ask its owner, x, to have it added to callers[].rights\n"},
		"invalid": {err: refusedWith(codes.InvalidArgument, "request.url: no scheme", &errdetails.ErrorInfo{Domain: "fetchgate", Reason: "INVALID_URL"}),
			code: exitRPC, says: "\n  the URL: no scheme\n  next: mend the URL\n"},
		"over quota": {err: refusedWith(codes.ResourceExhausted, "quota", &errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: 3}}),
			code: exitRPC, says: "next: wait 3s"},
		"hint in flags": {answer: failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_DECODE_FAILED}),
			code: exitFailed, says: "next: Ask for the body as it is: --no-decode."},
		"denied as policy words it": {err: refusedWith(codes.PermissionDenied, "denied: no rule allows GET http://a.b. Ask the owner of the policy for a rule; or not."),
			code: exitDenied, says: "\n  no rule allows GET http://a.b\n  next: Ask the owner of the policy for a rule; or not.\n"},
		"option is named": {err: refusedWith(codes.InvalidArgument, "options.redirect.max_redirects: no"), args: []string{"--no-follow"},
			code: exitRPC, says: "\n  --no-follow: no\n"},
		"an option is said in flags": {err: refusedWith(codes.InvalidArgument, "request.headers[0]: where the server offers it, options.protocol.expect_continue says it"),
			args: []string{"-H", "Expect: 100-continue"}, code: exitRPC, says: "\n  -H \"Expect\": where the server offers it, --expect100 says it\n"},
		"a retry of what is sent once": {err: refusedWith(codes.InvalidArgument, "options.retry.max_attempts: options.verbatim sends the request once; set it to 1, or leave options.retry out"),
			args: []string{"--verbatim", "--retry", "2"}, code: exitRPC, says: "\n  --retry: --verbatim sends the request once; leave --retry and --retry-delay out\n"},
		"a denial is said in flags": {err: refusedWith(codes.PermissionDenied, "denied: the rule \"a\" writes x, and options.verbatim adds nothing. Leave options.verbatim out: it needs it."),
			args: []string{"--verbatim"}, code: exitDenied, says: "and --verbatim adds nothing\n  next: Leave --verbatim out: it needs it.\n"},
		"cookie is named": {err: refusedWith(codes.InvalidArgument, "request.cookies[1].name: no"), args: []string{"-b", "a=1;\x01=2"},
			code: exitRPC, says: "\n  -b (cookie 2): no\n"},
		"draining": {err: refusedWith(codes.Unavailable, "draining", &errdetails.ErrorInfo{Domain: "fetchgate", Reason: "DRAINING"}),
			code: exitRPC, says: "another replica"},
		"flag is named": {err: refusedWith(codes.InvalidArgument, "request.headers[1]: no value; mend it"), args: []string{"-H", "A: 1", "-H", "To\xc3\xa9ken: secret"},
			code: exitRPC, says: "\n  -H \"To\\u00e9ken\": no value; mend it\n  next: mend -H \"To\\u00e9ken\"\n"},
		"body is named": {err: refusedWith(codes.InvalidArgument, "request.body: too big"), args: []string{"--json", "{}"}, code: exitRPC, says: "\n  --json: too big\n"},
		"other part":    {err: refusedWith(codes.InvalidArgument, "request.headers[9]: x"), code: exitRPC, says: "next: mend the part of the request that is named above"},
		"neither":       {answer: &fetchgatev1.FetchResponse{}, code: exitRPC, says: "neither"},
	} {
		t.Run(name, func(t *testing.T) {
			r := get(t, c.answer, c.err, c.args...)
			r.wantCode(t, c.code)
			if !strings.Contains(r.err, c.says) || r.out != "" {
				t.Errorf("stdout %q, want none; stderr, want %q:\n%s", r.out, c.says, r.err)
			}
		})
	}
}

// TestGetSaysHowToKnowMore: what is said below a denial asks the same service
// about the same request, and shows nothing of it.
func TestGetSaysHowToKnowMore(t *testing.T) {
	denial := refusedWith(codes.PermissionDenied, "denied: no rule allows it. Ask team-edge. More: fetchgate explain -X PUT https://example.com",
		&errdetails.ErrorInfo{Domain: "fetchgate", Reason: "DESTINATION_DENIED"})
	for _, args := range [][]string{
		nil,
		{"-X", "PUT", "--request-target", "/a?b&secret", "-H", "X-Key: secret"},
		{"-d", "secret", "-b", "a=secret", "-A", "secret", "--stream"},
		{"--verbatim", "--credential", "partner", "-H", "HOST: secret.example", "-H", "b_c: secret", "-u", "me:secret"},
	} {
		service := explaining(deniedDecision, nil)
		service.answer = func(context.Context) (*fetchgatev1.FetchResponse, error) { return nil, denial }
		service.stream = func(grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error { return denial }
		command := append([]string{"get", "--address", service.start(t), "https://example.com/big.iso"}, args...)
		r := runHere(t.Context(), "", command...)
		r.wantCode(t, exitDenied)
		if !strings.HasSuffix(r.err, "\n  next: Ask team-edge. More: the same command with --offline\n") || strings.Contains(r.err, "secret") {
			t.Errorf("%q: it says\n%s", args, r.err)
		}
		r = runHere(t.Context(), "", append(command, "--offline")...)
		if r.code != exitDenied || len(service.asked) != 2 || !proto.Equal(service.asked[0].GetRequest(), service.asked[1].GetRequest()) || !proto.Equal(service.asked[0].GetOptions(), service.asked[1].GetOptions()) {
			t.Errorf("%q: with --offline it exits with %d and asked for %v", args, r.code, service.asked)
		}
	}
	told := explaining(&fetchgatev1.ExplainResponse{Rule: "default-deny", Hint: "Ask team-edge. More: fetchgate explain https://example.com"}, nil)
	r := runHere(t.Context(), "", "explain", "--address", told.start(t), "https://example.com/")
	if !strings.Contains(r.out, "\n  next: Ask team-edge.\n") {
		t.Errorf("explain says\n%s", r.out)
	}
}

// TestGetSilent: with -s nothing is said, and the exit code stays.
func TestGetSilent(t *testing.T) {
	failure := failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_CONNECT_REFUSED})
	if r := get(t, failure, nil, "-s"); r.code != exitFailed || r.err != "" {
		t.Errorf("-s: exit code %d, stderr %q", r.code, r.err)
	}
	r := get(t, failure, nil, "-sS")
	r.wantCode(t, exitFailed)
	path := filepath.Join(t.TempDir(), "page")
	r = getStream(t, []*fetchgatev1.StreamFetchResponse{headEvent(200), dataEvent(0, "one"), summaryEvent(nil)}, nil, "-s", "-o", path)
	if r.code != exitOK || r.err != "" {
		t.Errorf("-s -o: exit code %d, stderr %q", r.code, r.err)
	}
}

// TestGetSilentReport: with -s a program finds the report and nothing else.
func TestGetSilentReport(t *testing.T) {
	answer := failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_CONNECT_REFUSED})
	answer.Report = &fetchgatev1.FetchReport{Clamped: []string{"options.timeouts.total"}}
	r := get(t, answer, nil, "-s", "--report=json")
	if r.code != exitFailed || !json.Valid([]byte(r.err)) || !strings.Contains(r.err, `"urlEncoded": false`) {
		t.Errorf("exit code %d, stderr\n%s", r.code, r.err)
	}
}

// TestGetNotesLowered: who asks for more than there is is told so, once.
func TestGetNotesLowered(t *testing.T) {
	const note = "note: lowered to the server's maximum: --timeout, --retry-delay, options.new\n"
	report := &fetchgatev1.FetchReport{Clamped: []string{"options.timeouts.total", "options.retry.backoff_base", "options.retry.backoff_max", "options.new"}}
	whole := responded(200, "")
	whole.Report = report
	last := &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Summary{Summary: &fetchgatev1.StreamSummary{Report: report}}}
	events := []*fetchgatev1.StreamFetchResponse{headEvent(200), last}
	for _, c := range []struct {
		args []string
		want string
	}{{nil, note}, {[]string{"-s"}, ""}} {
		for _, r := range []result{get(t, whole, nil, c.args...), getStream(t, events, nil, append(c.args, "--stream")...)} {
			if r.err != c.want {
				t.Errorf("%q: stderr %q, want %q", c.args, r.err, c.want)
			}
		}
	}
	if r := get(t, whole, nil, "--report"); strings.Contains(r.err, "note: ") || !strings.Contains(r.err, "options.new") {
		t.Errorf("--report: stderr\n%s", r.err)
	}
}

// TestGetIncludes: -i puts the heads, those of redirects too, where the body
// goes, as they came.
func TestGetIncludes(t *testing.T) {
	hop := &fetchgatev1.HttpHead{Protocol: "HTTP/1.1", Status: 302, Reason: []byte("Tr\xe8s loin"), Headers: []*fetchgatev1.HeaderField{{Name: "Location", Value: []byte("/\xff")}}}
	head := &fetchgatev1.HttpHead{Protocol: "HTTP/2", Status: 200}
	const want = "HTTP/1.1 302 Tr\xe8s loin\r\nLocation: /\xff\r\n\r\nHTTP/2 200 \r\n\r\nbody"
	whole := &fetchgatev1.FetchResponse{Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{
		History: []*fetchgatev1.HttpHead{hop}, Head: head, Body: []byte("body")}}}
	events := []*fetchgatev1.StreamFetchResponse{
		{Event: &fetchgatev1.StreamFetchResponse_Hop{Hop: hop}}, {Event: &fetchgatev1.StreamFetchResponse_Head{Head: head}},
		dataEvent(0, "body"), summaryEvent(nil)}
	for name, r := range map[string]result{
		"Fetch": get(t, whole, nil, "-i"), "StreamFetch": getStream(t, events, nil, "-i", "--stream"), "HEAD": get(t, whole, nil, "-I"),
	} {
		r.wantCode(t, exitOK)
		if r.out != want || r.err != "" {
			t.Errorf("%s: stdout %q, want %q; stderr %q", name, r.out, want, r.err)
		}
	}
	path := filepath.Join(t.TempDir(), "page")
	getStream(t, events, nil, "-i", "-o", path).wantCode(t, exitOK)
	if file, err := os.ReadFile(path); err != nil || string(file) != want {
		t.Errorf("the file holds %q: %v", file, err)
	}
}

// TestGetSuspectsTLS: an upstream that expects TLS hangs up on a request
// without it, or answers with an alert.
func TestGetSuspectsTLS(t *testing.T) {
	const hint = "; or, if the upstream speaks TLS there, write https://"
	disconnected, malformed := fetchgatev1.FailureReason_FAILURE_REASON_DISCONNECTED, fetchgatev1.FailureReason_FAILURE_REASON_MALFORMED_HEAD
	for _, c := range []struct {
		url    string
		reason fetchgatev1.FailureReason
		want   bool
	}{
		{"http://example.com:8443/", disconnected, true},
		{"http://example.com:443/", malformed, true},
		{"http://example.com:443/", fetchgatev1.FailureReason_FAILURE_REASON_CONNECTION_RESET, false},
		{"http://example.com/", disconnected, false},
		{"http://example.com:80/", disconnected, false},
		{"https://example.com:8443/", disconnected, false},
	} {
		if p := failedAt(c.url, &fetchgatev1.Failure{Reason: c.reason}); strings.HasSuffix(p.next, hint) != c.want {
			t.Errorf("%s, %v: next: %s", c.url, c.reason, p.next)
		}
	}
	answer := failedWith(&fetchgatev1.Failure{Reason: disconnected})
	for _, args := range [][]string{nil, {"--stream"}} {
		service := &canned{
			answer: func(context.Context) (*fetchgatev1.FetchResponse, error) { return answer, nil },
			stream: func(s grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
				return s.Send(summaryEvent(answer.GetFailure()))
			},
		}
		r := runHere(t.Context(), "", append([]string{"get", "--address", service.start(t), "http://example.com:8443/"}, args...)...)
		r.wantCode(t, exitFailed)
		if !strings.Contains(r.err, hint) {
			t.Errorf("%q says\n%s", args, r.err)
		}
	}
}

// TestGetTimeout: a service that does not answer is not waited for.
func TestGetTimeout(t *testing.T) {
	service := &canned{answer: func(ctx context.Context) (*fetchgatev1.FetchResponse, error) {
		if _, ok := ctx.Deadline(); !ok {
			return nil, errors.New("the RPC has no deadline")
		}
		return nil, refusedWith(codes.DeadlineExceeded, "too late")
	}}
	r := runHere(t.Context(), "", "get", "--address", service.start(t), "--timeout", "1s", "http://example.com/")
	r.wantCode(t, exitRPC)
	if !strings.Contains(r.err, "next: give it more time with --timeout") {
		t.Error(r.err)
	}
}

func TestGetInterrupted(t *testing.T) {
	asked := make(chan struct{})
	service := &canned{answer: func(ctx context.Context) (*fetchgatev1.FetchResponse, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c := process(t, "get", "--address", service.start(t), "http://example.com/")
	var stderr lockedBuffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if c.ProcessState.ExitCode() != exitInterrupted || stderr.String() != "fetchgate: interrupted\n" {
		t.Errorf("exit code %d, stderr %q", c.ProcessState.ExitCode(), stderr.String())
	}
}

func TestGetOutputFails(t *testing.T) {
	service := &canned{answer: func(context.Context) (*fetchgatev1.FetchResponse, error) { return responded(200, "body"), nil }}
	var stderr lockedBuffer
	code := run(t.Context(), []string{"fetchgate", "get", "--address", service.start(t), "http://example.com/"},
		streams{strings.NewReader(""), fullDisk{}, &stderr})
	result{code: code, err: stderr.String()}.wantCode(t, exitOutput)
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
