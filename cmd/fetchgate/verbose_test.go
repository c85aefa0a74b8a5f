package main

import (
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

func verboseHeads() (hop, head *fetchgatev1.HttpHead) {
	hop = &fetchgatev1.HttpHead{Protocol: "HTTP/2", Status: 302, Url: "https://example.com/a?q=1", Headers: []*fetchgatev1.HeaderField{
		{Name: "location", Value: []byte("https://elsewhere.example/b?t=1")}, {Name: "set-cookie", Value: []byte("sid=secret")}}}
	head = &fetchgatev1.HttpHead{Protocol: "HTTP/1.1", Status: 200, Reason: []byte("OK\x1b"), Url: "https://elsewhere.example/b?t=1",
		Headers: []*fetchgatev1.HeaderField{{Name: "X", Value: []byte("\xff")}}}
	return hop, head
}

var verboseArgs = []string{"-v", "-H", "Authorization: Bearer secret", "-b", "sid=secret", "-d", "secret", "-X", "PUT"}

const wantFirst = `> Host: example.com
> Authorization: [redacted]
> Content-Type: application/x-www-form-urlencoded
> Content-Length: 6
> Cookie: [redacted]
> Accept: */*
> Accept-Encoding: gzip, deflate, br, zstd
* and the service's User-Agent
`

const wantHop = `< HTTP/2 302
< location: https://elsewhere.example/b?t=1
< set-cookie: [redacted]
<
`

const wantJar = "* cookies of the jar are not shown\n"

const wantSuppressed = "* no further attempt: BUDGET: The retries of this caller"

const wantWhole = `* hop 1: GET https://example.com/a
* HTTP/2 to 192.0.2.1:443, new connection, 1 dial
* TLS 1.3, TLS_AES_128_GCM_SHA256
* pool 5ms, dns 5ms, connect 5ms, tls 10ms, send 5ms, first byte 10ms, total 40ms
> PUT / HTTP/2
` + wantFirst + `>
< HTTP/2 503
<
* waited 50ms
* attempt 2
* hop 1: GET https://example.com/a
* HTTP/2 to 192.0.2.1:443, pooled connection, 0 dials
* first byte 10ms, total 10ms
> PUT / HTTP/2
` + wantFirst + wantJar + ">\n" + wantHop + `* hop 2: GET https://elsewhere.example/with/a/path/that/is/long
* HTTP/1.1 to 192.0.2.2:443, new connection, 1 dial
* connect 10ms, first byte 20ms, total 60ms
> GET /b?t=1 HTTP/1.1
> Host: elsewhere.example
* and those fields of the first request that the redirect left
` + wantJar + `>
< HTTP/1.1 200 OK\x1b
< X: \xff
<
` + wantSuppressed

// TestGetVerbose: every hop of every attempt is told, and no secret.
func TestGetVerbose(t *testing.T) {
	hop, head := verboseHeads()
	answer := &fetchgatev1.FetchResponse{Report: longReport(), Outcome: &fetchgatev1.FetchResponse_Response{
		Response: &fetchgatev1.HttpResponse{History: []*fetchgatev1.HttpHead{hop}, Head: head, Body: []byte("body")}}}
	r := get(t, answer, nil, verboseArgs...)
	r.wantCode(t, exitOK)
	if !strings.HasPrefix(r.err, wantWhole) || strings.Count(r.err, "\n") != strings.Count(wantWhole, "\n")+1 || r.out != "body" {
		t.Errorf("stdout %q; stderr\n%s\nwant\n%s", r.out, r.err, wantWhole)
	}
	wantPrintable(t, "get -v", r.err)
}

// TestGetVerboseOfStreams: heads are told as they come, the rest at the end.
func TestGetVerboseOfStreams(t *testing.T) {
	hop, head := verboseHeads()
	summary := &fetchgatev1.StreamSummary{Report: longReport()}
	r := getStream(t, []*fetchgatev1.StreamFetchResponse{
		{Event: &fetchgatev1.StreamFetchResponse_Hop{Hop: hop}}, {Event: &fetchgatev1.StreamFetchResponse_Head{Head: head}},
		{Event: &fetchgatev1.StreamFetchResponse_Summary{Summary: summary}},
	}, nil, append([]string{"--stream"}, verboseArgs...)...)
	r.wantCode(t, exitOK)
	want := "> PUT /big.iso HTTP/2\n" + wantFirst + ">\n" + wantHop + "< HTTP/1.1 200 OK\\x1b\n< X: \\xff\n<\n" +
		"* hop 1: GET https://example.com/a: 503, rule partners\n* HTTP/2 to 192.0.2.1:443"
	if !strings.HasPrefix(r.err, want) || !strings.Contains(r.err, "* waited 50ms\n* attempt 2\n* hop 1: ") || !strings.Contains(r.err, wantSuppressed) {
		t.Errorf("stderr\n%s\nwant\n%s", r.err, want)
	}
}

// TestGetVerboseOfHTTP10: an upstream that answers HTTP/1.0 was asked in HTTP/1.1.
func TestGetVerboseOfHTTP10(t *testing.T) {
	head := &fetchgatev1.HttpHead{Protocol: "HTTP/1.0", Status: 200}
	r := getStream(t, []*fetchgatev1.StreamFetchResponse{
		{Event: &fetchgatev1.StreamFetchResponse_Head{Head: head}}, {Event: &fetchgatev1.StreamFetchResponse_Summary{Summary: &fetchgatev1.StreamSummary{}}},
	}, nil, "--stream", "-v", "-A", "me")
	if !strings.HasPrefix(r.err, "> GET /big.iso HTTP/1.1\n") || !strings.Contains(r.err, "\n< HTTP/1.0 200\n") || !strings.Contains(r.err, "\n> User-Agent: me\n") || strings.Contains(r.err, "service's User-Agent") {
		t.Errorf("stderr\n%s", r.err)
	}
}

// TestGetVerboseOfFailures: what did not come is said to be missing, and heads
// that were left out are not taken for others.
func TestGetVerboseOfFailures(t *testing.T) {
	_, head := verboseHeads()
	answer := failedWith(&fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_CONNECT_REFUSED,
		Response: &fetchgatev1.HttpResponse{History: []*fetchgatev1.HttpHead{head}}})
	answer.Report = longReport()
	last := answer.GetReport().GetAttempts()[1]
	last.Reason, last.Message = fetchgatev1.FailureReason_FAILURE_REASON_CONNECT_REFUSED, "192.0.2.2:443 refuses connections\x1b"
	last.GetHops()[1].Status, last.GetHops()[1].Connection = 0, nil
	r := get(t, answer, nil, "-v")
	if r.code != exitFailed {
		t.Errorf("exit code %d", r.code)
	}
	const want = "< HTTP/2 302\n<\n* hop 2: GET https://elsewhere.example/with/a/path/that/is/long\n* connect 10ms, first byte 20ms, total 60ms\n> GET /with/a/path/that/is/long \n> Host: elsewhere.example\n" +
		"* and those fields of the first request that the redirect left\n" + wantJar + ">\n* no response\n* attempt 2 failed: CONNECT_REFUSED: 192.0.2.2:443 refuses connections\\x1b\n"
	if !strings.Contains(r.err, want) {
		t.Errorf("stderr\n%s\nwant\n%s", r.err, want)
	}
	last.GetHops()[1].Timings = &fetchgatev1.Timings{Connect: ms(10), Total: ms(10)}
	last.GetHops()[1].Connection = &fetchgatev1.ConnectionInfo{DialCount: 1}
	if r := get(t, answer, nil, "-v"); !strings.Contains(r.err, "<\n* hop 2: GET https://elsewhere.example/with/a/path/that/is/long\n* no connection, 1 dial\n* connect 10ms, total 10ms\n* nothing was sent\n* attempt 2 failed") {
		t.Errorf("stderr\n%s", r.err)
	}
	if r := get(t, responded(200, ""), nil, "-v"); r.err != "" {
		t.Errorf("without a report it says %q", r.err)
	}
}
