package telemetry

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// scope names the instrumentation in spans.
const scope = "github.com/fetchgate/fetchgate/service/telemetry"

// maxSpanText is the most bytes of an attribute that callers or upstreams chose.
const maxSpanText = 2 << 10

// recordSpans adds what is known of a fetch to the span of its RPC, and below it
// a span for each hop that was begun, after the fact.
func recordSpans(ctx context.Context, rpc trace.Span, r *fetch.Report) {
	decision := decisions.values[decided(isAllowed(r), denialOf(r) != nil, isEnforced(r))]
	rpc.SetAttributes(
		attribute.String("fetchgate.fetch_id", r.ID),
		attribute.String("fetchgate.caller", r.Caller.Name),
		attribute.String("fetchgate.outcome", string(r.Outcome)),
		attribute.String("fetchgate.reason", reasonOf(r)),
		attribute.String("fetchgate.blame", string(blameOf(r))),
		attribute.Int("fetchgate.attempts", len(r.Attempts)),
		attribute.Int("fetchgate.hops", r.Hops()),
		attribute.String("fetchgate.rule", ruleOf(r)),
		attribute.String("fetchgate.decision", decision),
		attribute.Int64("fetchgate.generation", r.Generation),
	)
	tracer := rpc.TracerProvider().Tracer(scope)
	resends := 0
	for i := range r.Attempts {
		a := &r.Attempts[i]
		begin := a.Start
		for j := range a.Hops {
			h := &hopSpan{Hop: &a.Hops[j], attempt: a.Number, number: j + 1, resends: resends, template: r.Labels["url_template"]}
			if j == len(a.Hops)-1 {
				h.failure = a.Failure
			}
			if !h.Start.IsZero() {
				begin = h.Start
			}
			if isBegun(h.Hop) {
				h.record(ctx, tracer, begin)
				resends++
			}
			begin = begin.Add(h.Facts.Times.Total)
		}
	}
}

// hopSpan is a hop that is about to be a span.
type hopSpan struct {
	*fetch.Hop
	attempt, number int
	// resends is how many hops of the fetch were before.
	resends  int
	template string
	failure  *fetch.Failure
}

func (h *hopSpan) record(ctx context.Context, tracer trace.Tracer, begin time.Time) {
	_, span := tracer.Start(ctx, h.name(), trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begin))
	span.SetAttributes(h.attributes()...)
	if kind := h.errorType(); kind != "" {
		span.SetAttributes(attribute.String("error.type", kind))
		message := ""
		if h.failure != nil {
			message = h.failure.Message
		}
		span.SetStatus(codes.Error, message)
	}
	span.End(trace.WithTimestamp(begin.Add(h.Facts.Times.Total)))
}

// name is the method, and the template of the URL if the caller gave one: a URL
// itself would be a new name for each fetch.
func (h *hopSpan) name() string {
	name := cmp.Or(knownMethod(h.Method), "HTTP")
	if h.template != "" {
		name += " " + clipped(h.template, 256)
	}
	return name
}

// knownMethod is a method of RFC 9110 or RFC 5789, or empty.
func knownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return method
	}
	return ""
}

// errorType is the word of what went wrong, empty for nothing.
func (h *hopSpan) errorType() string {
	switch {
	case h.failure != nil:
		return strings.ToLower(string(h.failure.Reason))
	case h.Status >= 400:
		return strconv.Itoa(h.Status)
	}
	return ""
}

// attributes are those of the semantic conventions for HTTP clients, and ours.
func (h *hopSpan) attributes() []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, 24)
	if method := knownMethod(h.Method); method != "" {
		list = append(list, attribute.String("http.request.method", method))
	} else {
		list = append(list, attribute.String("http.request.method", "_OTHER"),
			attribute.String("http.request.method_original", clipped(h.Method, maxName)))
	}
	list = append(list,
		attribute.String("url.full", clipped(spanURL(h.Destination), maxSpanText)),
		attribute.String("server.address", h.Destination.Host),
		attribute.Int("server.port", int(h.Destination.Port)),
		attribute.Int("fetchgate.attempt", h.attempt),
		attribute.Int("fetchgate.hop", h.number),
		attribute.Bool("fetchgate.connection.reused", h.Facts.Reused),
	)
	if h.Status != 0 {
		list = append(list, attribute.Int("http.response.status_code", h.Status))
	}
	if h.resends > 0 {
		list = append(list, attribute.Int("http.request.resend_count", h.resends))
	}
	return appendDurations(appendConnection(list, &h.Facts), &h.Facts.Times)
}

func appendConnection(list []attribute.KeyValue, f *fetch.Facts) []attribute.KeyValue {
	if f.Remote.IsValid() {
		list = append(list, attribute.String("network.peer.address", f.Remote.Addr().String()),
			attribute.Int("network.peer.port", int(f.Remote.Port())))
	}
	switch f.Protocol {
	case "h2", "HTTP/2", "HTTP/2.0":
		list = append(list, attribute.String("network.protocol.version", "2"))
	case "HTTP/1.1", "HTTP/1.0":
		list = append(list, attribute.String("network.protocol.version", strings.TrimPrefix(f.Protocol, "HTTP/")))
	}
	if f.TLS != nil {
		list = append(list, attribute.String("tls.protocol.version", tlsVersion(f.TLS.Version)), attribute.Bool("tls.resumed", f.TLS.Resumed))
	}
	return list
}

// appendDurations adds the stages that happened, in seconds.
func appendDurations(list []attribute.KeyValue, t *fetch.Timings) []attribute.KeyValue {
	for _, stage := range [...]struct {
		name string
		took time.Duration
	}{{"dns", t.DNS}, {"connect", t.Connect}, {"tls", t.TLS}, {"first_byte", t.FirstByte}} {
		if stage.took > 0 {
			list = append(list, attribute.Float64("fetchgate."+stage.name+".duration", stage.took.Seconds()))
		}
	}
	return list
}

// spanURL is the URL without what a query holds and without its fragment.
func spanURL(d fetch.Destination) string {
	if d.Target == "*" {
		return d.Origin.String()
	}
	path, query, hasQuery := strings.Cut(d.Target, "?")
	if !hasQuery {
		return d.Origin.String() + path
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		if key, _, hasValue := strings.Cut(part, "="); hasValue {
			parts[i] = key + "=REDACTED"
		} else if part != "" {
			parts[i] = "REDACTED"
		}
	}
	return d.Origin.String() + path + "?" + strings.Join(parts, "&")
}

// clipped is at most most bytes of s, valid UTF-8.
func clipped(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
