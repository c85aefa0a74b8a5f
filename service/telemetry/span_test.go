package telemetry_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// spans returns those of the hops of a report and that of its RPC, the last.
func spans(t *testing.T, sampler sdktrace.Sampler, report *fetch.Report) tracetest.SpanStubs {
	t.Helper()
	memory := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(memory), sdktrace.WithSampler(sampler))
	ctx, rpc := provider.Tracer("test").Start(context.Background(), "fetchgate.v1.FetchService/Fetch", trace.WithSpanKind(trace.SpanKindServer))
	r := newRecorder(t, telemetry.Options{Configuration: configuration(), Stdout: &output{}})
	if err := r.Begin(report.RPC); err != nil {
		t.Fatal(err)
	}
	r.End(ctx, report)
	rpc.End()
	return memory.GetSpans()
}

// attributes are those of a span as "key=value", in order.
func attributes(s tracetest.SpanStub) []string {
	var list []string
	for _, a := range s.Attributes {
		list = append(list, fmt.Sprintf("%s=%v", a.Key, a.Value.AsInterface()))
	}
	slices.Sort(list)
	return list
}

func equal(t *testing.T, what string, got []string, want string) {
	t.Helper()
	if joined := strings.Join(got, "\n"); joined != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, joined, strings.TrimSpace(want))
	}
}

func TestSpans(t *testing.T) {
	report := redirected()
	report.Labels["url_template"] = "/v1/items"
	all := spans(t, sdktrace.AlwaysSample(), report)
	if len(all) != 3 {
		t.Fatalf("%d spans", len(all))
	}
	from, to, rpc := all[0], all[1], all[2]
	for _, s := range []tracetest.SpanStub{from, to} {
		if s.Name != "GET /v1/items" || s.SpanKind != trace.SpanKindClient || s.Parent.SpanID() != rpc.SpanContext.SpanID() {
			t.Errorf("span %q of kind %v below %v", s.Name, s.SpanKind, s.Parent.SpanID())
		}
	}
	took := 31 * time.Millisecond
	if !from.StartTime.Equal(began) || !from.EndTime.Equal(began.Add(took)) {
		t.Errorf("first hop %v to %v", from.StartTime, from.EndTime)
	}
	// The second hop has no start of its own: it follows the first.
	if !to.StartTime.Equal(began.Add(took)) || !to.EndTime.Equal(began.Add(2*took)) {
		t.Errorf("second hop %v to %v", to.StartTime, to.EndTime)
	}
	equal(t, "first hop", attributes(from), `
fetchgate.attempt=1
fetchgate.connect.duration=0.003
fetchgate.connection.reused=false
fetchgate.dns.duration=0.002
fetchgate.first_byte.duration=0.02
fetchgate.hop=1
fetchgate.tls.duration=0.004
http.request.method=GET
http.response.status_code=302
network.peer.address=203.0.113.7
network.peer.port=443
network.protocol.version=2
server.address=api.example.com
server.port=443
tls.protocol.version=1.3
tls.resumed=true
url.full=https://api.example.com/v1/items?page=REDACTED&limit=REDACTED`)
	equal(t, "second hop", attributes(to), `
fetchgate.attempt=1
fetchgate.connect.duration=0.003
fetchgate.connection.reused=false
fetchgate.dns.duration=0.002
fetchgate.first_byte.duration=0.02
fetchgate.hop=2
fetchgate.tls.duration=0.004
http.request.method=GET
http.request.resend_count=1
http.response.status_code=200
network.peer.address=203.0.113.7
network.peer.port=443
network.protocol.version=1.1
server.address=10.0.0.7
server.port=8080
url.full=http://10.0.0.7:8080/next?token=REDACTED`)
	equal(t, "RPC", attributes(rpc), `
fetchgate.attempts=1
fetchgate.blame=
fetchgate.caller=billing
fetchgate.decision=allow
fetchgate.fetch_id=01JD8Y5T3QK4M
fetchgate.generation=42
fetchgate.hops=2
fetchgate.outcome=response
fetchgate.reason=
fetchgate.rule=internal`)
}

func TestSpansOfFailures(t *testing.T) {
	report := failing(fetch.ReasonHeadTimeout)
	report.Attempts[1].Hops[0].Method = "BREW"
	report.Attempts[1].Hops[0].Start = time.Time{}
	all := spans(t, sdktrace.AlwaysSample(), report)
	if len(all) != 3 || all[1].Name != "HTTP" || all[1].Status.Code.String() != "Error" || !all[1].StartTime.Equal(began.Add(time.Second)) {
		t.Fatalf("%d spans, the second %+v", len(all), all[1])
	}
	got := strings.Join(attributes(all[1]), "\n")
	for _, want := range []string{"error.type=head_timeout", "http.request.method=_OTHER", "http.request.method_original=BREW", "fetchgate.attempt=2", "http.request.resend_count=1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	report = typical()
	report.Attempts[0].Hops[0].Status = 503
	if got := strings.Join(attributes(spans(t, sdktrace.AlwaysSample(), report)[0]), "\n"); !strings.Contains(got, "error.type=503") {
		t.Errorf("%s", got)
	}
}

// A hop that policy denied by name was never sent, and has no span.
func TestDeniedHopHasNoSpan(t *testing.T) {
	if all := spans(t, sdktrace.AlwaysSample(), deniedByName()); len(all) != 1 {
		t.Errorf("%d spans", len(all))
	}
	if all := spans(t, sdktrace.AlwaysSample(), redirectDenied()); len(all) != 2 {
		t.Errorf("%d spans", len(all))
	}
}

func TestNoSpansUnlessRecorded(t *testing.T) {
	if all := spans(t, sdktrace.NeverSample(), redirected()); len(all) != 0 {
		t.Errorf("%d spans", len(all))
	}
}

// What a query holds is in no span, nor is a fragment.
func TestSpanCanary(t *testing.T) {
	const secret = "CANARY-5f1e"
	for _, target := range []string{"/p?token=" + secret, "/p?" + secret, "/p?a=1&" + secret + "&b=" + secret + "=x", "/p?a;b=" + secret, "/p?=" + secret} {
		report := redirected()
		for i := range report.Attempts[0].Hops {
			d := &report.Attempts[0].Hops[i].Destination
			d.Target, d.Fragment = target, secret
		}
		for _, s := range spans(t, sdktrace.AlwaysSample(), report) {
			if all := fmt.Sprint(s.Name, attributes(s), s.Events, s.Status); strings.Contains(all, secret) {
				t.Errorf("%s: %s", target, all)
			}
		}
	}
}
