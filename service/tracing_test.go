package service_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

const (
	traceID    = "0af7651916cd43dd8448eb211c80319c"
	parentSpan = "b7ad6b7169203331"
	// unrecorded is the trace of a caller that does not record it.
	unrecorded = "00-" + traceID + "-" + parentSpan + "-00"
)

// traced is the context of an RPC that says this traceparent; empty: none.
func traced(t *testing.T, traceparent string) context.Context {
	t.Helper()
	if traceparent == "" {
		return within(t)
	}
	return metadata.AppendToOutgoingContext(within(t), "traceparent", traceparent)
}

// TestSpansOfHops: a fetch that is tried twice, with a redirect in each attempt,
// is one span for the RPC, below the caller's, and one for each hop, below it.
func TestSpansOfHops(t *testing.T) {
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			last := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Answer(503, ""), fetchtest.Answer(200, "ok"))})
			first := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
				return fetchtest.Answer(302, "", "Location: "+last.URL("/last?key=value"))
			}})
			w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(first.Upstream), fetchtest.OriginOf(last.Upstream)}})
			m := get(first.URL("/first?key=value"))
			m.Options.Retry = &fetchgatev1.RetryPolicy{BackoffBase: millis(0)}
			m.Options.Labels = map[string]string{"url_template": "/{page}"}
			a, err := rpc.call(traced(t, recorded), w, m)
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "ok")
			w.end(t)
			checkHops(t, w.traces.all(), rpc.name, fetchtest.OriginOf(first.Upstream), fetchtest.OriginOf(last.Upstream))
		})
	}
}

func checkHops(t *testing.T, spans []*tracepb.Span, rpc, first, last string) {
	t.Helper()
	i := slices.IndexFunc(spans, func(s *tracepb.Span) bool { return s.GetKind() == tracepb.Span_SPAN_KIND_SERVER })
	if i < 0 {
		t.Fatalf("there is no span of the RPC, but %v", spans)
	}
	server := spans[i]
	hops := slices.Delete(slices.Clone(spans), i, i+1)
	if server.GetName() != "fetchgate.v1.FetchService/"+rpc || hex.EncodeToString(server.GetParentSpanId()) != parentSpan {
		t.Errorf("the span of the RPC is %s below %x", server.GetName(), server.GetParentSpanId())
	}
	slices.SortFunc(hops, func(a, b *tracepb.Span) int { return int(a.GetStartTimeUnixNano()) - int(b.GetStartTimeUnixNano()) })
	want := []string{
		"GET /{page} 1.1 302 " + first + "/first?key=REDACTED", "GET /{page} 1.2 503 " + last + "/last?key=REDACTED",
		"GET /{page} 2.1 302 " + first + "/first?key=REDACTED", "GET /{page} 2.2 200 " + last + "/last?key=REDACTED",
	}
	if len(hops) != len(want) {
		t.Fatalf("there are %d spans of hops, want %d: %v", len(hops), len(want), hops)
	}
	for i, s := range hops {
		if got := inShort(s); got != want[i] {
			t.Errorf("hop %d is %s, want %s", i+1, got, want[i])
		}
		if s.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || string(s.GetParentSpanId()) != string(server.GetSpanId()) {
			t.Errorf("hop %d is a %v below %x, want a client below %x", i+1, s.GetKind(), s.GetParentSpanId(), server.GetSpanId())
		}
		if s.GetStartTimeUnixNano() < server.GetStartTimeUnixNano() || s.GetEndTimeUnixNano() > server.GetEndTimeUnixNano() || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
			t.Errorf("hop %d lasts from %d to %d, the RPC from %d to %d", i+1, s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano(), server.GetStartTimeUnixNano(), server.GetEndTimeUnixNano())
		}
	}
	for _, s := range spans {
		if hex.EncodeToString(s.GetTraceId()) != traceID {
			t.Errorf("%s is of the trace %x", s.GetName(), s.GetTraceId())
		}
	}
}

// inShort is a span of a hop by its name, which of them it is, its status code
// and its URL.
func inShort(s *tracepb.Span) string {
	values := map[string]string{}
	for _, a := range s.GetAttributes() {
		v := a.GetValue()
		values[a.GetKey()] = v.GetStringValue()
		if values[a.GetKey()] == "" {
			values[a.GetKey()] = fmt.Sprint(v.GetIntValue())
		}
	}
	return fmt.Sprintf("%s %s.%s %s %s", s.GetName(), values["fetchgate.attempt"], values["fetchgate.hop"], values["http.response.status_code"], values["url.full"])
}

// TestOnlyRecordedTracesHaveSpans: whoever began the trace decides.
func TestOnlyRecordedTracesHaveSpans(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	for name, c := range map[string]struct {
		traceparent string
		want        int
	}{
		"recorded":        {recorded, 2},
		"not recorded":    {unrecorded, 0},
		"none":            {"", 0},
		"not a trace":     {"01", 0},
		"no trace ID":     {"00-" + strings.Repeat("0", 32) + "-" + parentSpan + "-01", 0},
		"no span ID":      {"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01", 0},
		"upper case":      {strings.ToUpper(recorded), 0},
		"version 255":     {"ff" + recorded[2:], 0},
		"too long for 00": {recorded + "-00", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			a, err := whole(traced(t, c.traceparent), w, get(u.URL("/")))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "ok")
			w.end(t)
			if got := len(w.traces.all()); got != c.want {
				t.Errorf("%d spans came, want %d", got, c.want)
			}
		})
	}
}

// TestTraceparentByRule: an upstream gets the trace where its rule says so, and
// never something that is none.
func TestTraceparentByRule(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	given := "00-11111111111111111111111111111111-2222222222222222-01"
	for name, c := range map[string]struct {
		traceparent   string // of the RPC
		send, tracing bool
		field         string // the caller's own
		want          func(w *observed, got string) bool
	}{
		"by the rule":                   {recorded, true, false, "", exactly(recorded)},
		"by the rule, not recorded":     {unrecorded, true, false, "", exactly(unrecorded)},
		"without the rule":              {recorded, false, false, "", exactly("")},
		"without the rule, traced":      {recorded, false, true, "", exactly("")},
		"traced":                        {recorded, true, true, "", spanOfRPC},
		"traced, not recorded":          {unrecorded, true, true, "", ofTrace("-00")},
		"none":                          {"", true, false, "", exactly("")},
		"malformed":                     {"00-" + traceID + "-" + parentSpan, true, false, "", exactly("")},
		"malformed, with a line end":    {"00-" + traceID + "-" + parentSpan[:15] + "~-01", true, false, "", exactly("")},
		"of nothing":                    {"00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-01", true, false, "", exactly("")},
		"the caller's field":            {recorded, true, false, given, exactly(given)},
		"the caller's field, traced":    {recorded, true, true, given, exactly(given)},
		"the caller's field, no rule":   {recorded, false, false, given, exactly(given)},
		"the caller's field, malformed": {recorded, true, false, "whatever", exactly("whatever")},
	} {
		t.Run(name, func(t *testing.T) {
			start := observeUntraced
			if c.tracing {
				start = observe
			}
			w := start(t, fetchtest.Options{Extra: fmt.Sprintf(
				"rules:\n  - name: test\n    dangerous_allow_loopback: true\n    send_traceparent: %t\n    origins: [%q]\n", c.send, fetchtest.OriginOf(u.Upstream))})
			before := len(u.Requests())
			m := get(u.URL("/"))
			if c.field != "" {
				m.Request.Headers = headers("traceparent", c.field)
			}
			if _, err := whole(traced(t, c.traceparent), w, m); err != nil {
				t.Fatal(err)
			}
			w.end(t)
			var got []string
			for _, f := range u.Requests()[before].Fields {
				if strings.EqualFold(f.Name, "traceparent") {
					got = append(got, string(f.Value))
				}
			}
			if len(got) > 1 || !c.want(w, strings.Join(got, "")) {
				t.Errorf("the upstream got the traceparent %q", got)
			}
		})
	}
}

func exactly(want string) func(*observed, string) bool {
	return func(_ *observed, got string) bool { return got == want }
}

// ofTrace wants the caller's trace, with these flags, in a span of its own.
func ofTrace(flags string) func(*observed, string) bool {
	return func(_ *observed, got string) bool {
		return strings.HasPrefix(got, "00-"+traceID+"-") && strings.HasSuffix(got, flags) && !strings.Contains(got, parentSpan)
	}
}

// spanOfRPC wants the span of the RPC that was exported.
func spanOfRPC(w *observed, got string) bool {
	return slices.ContainsFunc(w.traces.all(), func(s *tracepb.Span) bool {
		return s.GetKind() == tracepb.Span_SPAN_KIND_SERVER && got == fmt.Sprintf("00-%x-%x-01", s.GetTraceId(), s.GetSpanId())
	})
}

// TestNoCollector: nobody waits for a collector that is not there.
func TestNoCollector(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	w := new(observed).start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}},
		"telemetry:\n  tracing:\n    otlp_endpoint: http://"+closedAddress(t)+"\n")
	for range 3000 { // more than wait to be sent
		a, err := whole(traced(t, recorded), w, get(u.URL("/")))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
	}
	w.end(t)
	if !strings.Contains(w.text.String(), "spans were lost") {
		t.Errorf("the log does not say that spans were lost: %s", w.text.String())
	}
}
