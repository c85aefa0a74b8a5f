package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// stepNames are those of demoSteps, as the command line lists them.
const stepNames = "fetch,stream,retry,redirect,deny,trap,tls,cut,policy"

// demoStep shows one thing and checks that it is so.
type demoStep struct {
	name  string
	shows string
	run   func(*demo, context.Context, *checks)
}

var demoSteps = []demoStep{
	{"fetch", "a GET over verified TLS", (*demo).stepFetch},
	{"stream", "a large body, streamed", (*demo).stepStream},
	{"retry", "an upstream that answers 503 once is asked again", (*demo).stepRetry},
	{"redirect", "a redirect is followed", (*demo).stepRedirect},
	{"deny", "places that no rule opens are denied, and nothing is sent", (*demo).stepDeny},
	{"trap", "a redirect to such a place is denied too", (*demo).stepTrap},
	{"tls", "an upstream that cannot prove its name is not asked", (*demo).stepTLS},
	{"cut", "a body that is cut short is no response", (*demo).stepCut},
	{"policy", "the audit record tells what another policy would deny", (*demo).stepPolicy},
}

// ask fetches a URL of the demo with a full report.
func (d *demo) ask(ctx context.Context, url string, headers ...*fetchgatev1.HeaderField) (*fetchgatev1.FetchResponse, error) {
	return d.service.Fetch(ctx, &fetchgatev1.FetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: url, Headers: headers},
		Options: &fetchgatev1.FetchOptions{Report: fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum()},
	})
}

func (d *demo) stepFetch(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	answer, err := d.ask(ctx, d.upstream.secure+"/hello?from=demo", &fetchgatev1.HeaderField{Name: "X-Demo", Value: []byte("Hello")})
	if err != nil {
		c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
		return
	}
	response := answer.GetResponse()
	c.that(response.GetHead().GetStatus() == http.StatusOK && string(response.GetBody()) == demoGreeting,
		"the answer is %s, %s: %s", outcome(answer), formatBytes(int64(len(response.GetBody()))), escaped(string(response.GetBody())))

	seen := d.upstream.requests()[before:]
	c.that(len(seen) == 1 && seen[0].line == "GET /hello?from=demo", "the upstream recorded %s", lines(seen))
	c.that(len(seen) == 1 && seen[0].fields.Get("X-Demo") == "Hello", "with the field X-Demo: %s", fieldOf(seen, "X-Demo"))

	report := answer.GetReport()
	hop := lastHop(report)
	c.that(report.GetAttemptCount() == 1 && report.GetHopCount() == 1 && hop.GetStatus() == http.StatusOK && hop.GetRule() == "demo-upstream",
		"the report says %s, %s, status %d, rule %s, %s", count(report.GetAttemptCount(), "attempt"), count(report.GetHopCount(), "hop"),
		hop.GetStatus(), escaped(hop.GetRule()), duration(report.GetTotal()))
	tls := hop.GetConnection().GetTls()
	c.that(bytes.Equal(tls.GetPeerSpkiSha256(), d.upstream.secureKey[:]),
		"over %s and %s, with the upstream's own key", escaped(hop.GetConnection().GetProtocol()), escaped(tls.GetVersion()))
}

func (d *demo) stepStream(ctx context.Context, c *checks) {
	sum := sha256.New()
	shown := newProgress(d.err, "stream", time.Now())
	defer shown.clear()
	delivery := &delivery{fetcher: d.fetcher(io.Discard), sink: io.MultiWriter(sum, shown), progress: shown}
	start := time.Now()
	err := delivery.receive(ctx, &fetchgatev1.FetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: fmt.Sprintf("%s/stream/%d", d.upstream.plain, d.streamBytes)},
	})
	took := time.Since(start)
	if err == nil && delivery.summary.GetFailure() != nil {
		err = failed(delivery.summary.GetFailure())
	}
	if err != nil {
		c.that(false, "the stream ended early: %v", err)
		return
	}
	sent, sentSum := d.upstream.streamed()
	rate := int64(float64(delivery.received) / took.Seconds())
	c.that(delivery.received == d.streamBytes && sent == d.streamBytes,
		"the upstream sent %s and %s arrived, in %s (%s/s)", formatBytes(sent), formatBytes(delivery.received), formatDuration(took), formatBytes(rate))
	c.that(bytes.Equal(sum.Sum(nil), sentSum), "SHA-256 of what was sent %.8x…, of what arrived %.8x…", sentSum, sum.Sum(nil))
	summary := delivery.summary
	c.that(summary.GetBodyBytes() == d.streamBytes && summary.GetReport().GetWireBytes() == d.streamBytes,
		"the report says %s of body, %s on the wire", formatBytes(summary.GetBodyBytes()), formatBytes(summary.GetReport().GetWireBytes()))
}

func (d *demo) stepDeny(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	for _, place := range []struct{ what, url string }{
		{"a private address", "http://10.0.0.1/"},
		{"a cloud's metadata", "http://169.254.169.254/latest/meta-data/"},
		{"the upstream under another name", strings.Replace(d.upstream.plain, "127.0.0.1", "localhost", 1) + "/hello"},
	} {
		_, err := d.ask(ctx, place.url)
		s := status.Convert(err)
		reason, _ := errorInfo(s)
		c.that(s.Code() == codes.PermissionDenied, "%s, %s: %s %s", place.what, place.url, s.Code(), reason)
	}
	decision, err := d.service.policy.Explain(ctx, &fetchgatev1.ExplainRequest{Request: &fetchgatev1.HttpRequest{Url: "http://10.0.0.1/"}})
	c.that(err == nil && !decision.GetAllowed() && decision.GetWhy() != "", "explain says of http://10.0.0.1/: %s, rule %s: %s",
		decided(decision), ruleAt(decision.GetRule(), ""), escaped(decision.GetWhy()))
	if d.broken == "deny" {
		if err := d.upstream.plant(ctx); err != nil {
			c.that(false, "the request past fetchgate failed: %v", err)
		}
	}
	seen := d.upstream.requests()[before:]
	c.that(len(seen) == 0, "the upstream recorded %s", lines(seen))
}

func (d *demo) stepTLS(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	for _, upstream := range []struct {
		what, origin string
		reason       fetchgatev1.FailureReason
	}{
		{"a certificate for another name", d.upstream.misnamed, fetchgatev1.FailureReason_FAILURE_REASON_TLS_NAME_MISMATCH},
		{"a certificate of an unknown authority", d.upstream.stranger, fetchgatev1.FailureReason_FAILURE_REASON_TLS_VERIFY},
	} {
		answer, err := d.ask(ctx, upstream.origin+"/hello")
		if err != nil {
			c.that(false, "%s: fetchgate answers with an error: %s", upstream.what, escaped(err.Error()))
			continue
		}
		failure := answer.GetFailure()
		c.that(failure.GetReason() == upstream.reason && failure.GetBlame() == fetchgatev1.Blame_BLAME_UPSTREAM,
			"%s: %s", upstream.what, outcome(answer))
		attempts := answer.GetReport().GetAttempts()
		c.that(failure.GetRequestSent() == fetchgatev1.RequestSent_REQUEST_SENT_NO && len(attempts) > 0 && attempts[0].GetReason() == upstream.reason,
			"the report says %s, request sent: %s", count(answer.GetReport().GetAttemptCount(), "attempt"),
			enumWord(failure.GetRequestSent().String(), "REQUEST_SENT_"))
	}
	seen := d.upstream.requests()[before:]
	c.that(len(seen) == 0, "the upstream recorded %s", lines(seen))
}

// outcome says in a line what became of a fetch.
func outcome(answer *fetchgatev1.FetchResponse) string {
	if failure := answer.GetFailure(); failure != nil {
		return fmt.Sprintf("%s: %s", strings.TrimPrefix(failure.GetReason().String(), "FAILURE_REASON_"), escaped(failure.GetMessage()))
	}
	return statusLine(answer.GetResponse().GetHead())
}

func lastHop(report *fetchgatev1.FetchReport) *fetchgatev1.Hop {
	attempts := report.GetAttempts()
	if len(attempts) == 0 || len(attempts[len(attempts)-1].GetHops()) == 0 {
		return nil
	}
	hops := attempts[len(attempts)-1].GetHops()
	return hops[len(hops)-1]
}

// lines are the request lines of what the upstream recorded.
func lines(seen []recordedRequest) string {
	if len(seen) == 0 {
		return "nothing"
	}
	var all []string
	for _, r := range seen {
		all = append(all, escaped(r.line))
	}
	return strings.Join(all, ", ")
}

func fieldOf(seen []recordedRequest, name string) string {
	if len(seen) == 0 {
		return ""
	}
	return escaped(seen[0].fields.Get(name))
}
