package telemetry

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxLine is the most bytes of a line of the audit record, with its end. The
// bounds of its strings below keep it.
const maxLine = 4 << 10

// The most bytes of strings, between their quotes.
const (
	maxWord     = 32
	maxName     = 64
	maxOrigin   = 272
	maxPath     = 448
	maxKeys     = 320 // all query keys together
	maxLabels   = 320 // all labels together
	maxValue    = 128
	maxMessage  = 192
	maxFinding  = 312
	labelCount  = 16
	maxKeyCount = 32
	// maxDangerous is how many dangerous_ settings a fetch can need.
	maxDangerous = 5
)

// hidden stands for a part of a query that may be a value.
const hidden = "[redacted]"

// line is one line of the audit record under way, schema fetchgate.audit.v1.
type line struct {
	b []byte
	// unlabeled tells that not all labels had room.
	unlabeled bool
}

// write replaces the line with that of r, by the configuration n at replica.
func (l *line) write(ctx context.Context, n *names, r *fetch.Report, replica string) {
	l.b, l.unlabeled = append(l.b[:0], `{"schema":1,"time":"`...), false
	l.b = r.Start.UTC().AppendFormat(l.b, "2006-01-02T15:04:05.000000Z")
	l.b = append(l.b, '"')
	l.text("fetch_id", r.ID, maxName)
	l.trace(ctx, r)
	l.text("replica", replica, maxName)
	l.text("rpc", r.RPC, maxWord)
	l.text("caller", r.Caller.Name, maxName)
	l.text("identity", r.Caller.Identity, maxName)
	l.text("owner", cmp.Or(r.Caller.Owner, n.owners[r.Caller.Name]), maxName)
	l.text("on_behalf_of", "", 0)
	l.labels(r.Labels)
	l.destination(r)
	l.decision(n, r)
	l.outcome(r)
	l.connection(r)
	l.cost(r)
	l.text("sha256", "", 0)
	l.redacted(r)
	l.dangerous(n, r)
	l.b = append(l.b, "}\n"...)
}

func (l *line) destination(r *fetch.Report) {
	d := &r.Destination
	l.text("method", r.Method, maxWord)
	l.origin("origin", d.Origin)
	path, query, _ := strings.Cut(d.Target, "?")
	l.text("path", path, maxPath)
	l.queryKeys(query)
	if last := r.LastHop(); last != nil && last.Destination.Origin != d.Origin {
		l.origin("final_origin", last.Destination.Origin)
	} else {
		l.text("final_origin", "", 0)
	}
}

func (l *line) decision(n *names, r *fetch.Report) {
	l.truth("allowed", isAllowed(r))
	l.truth("enforced", isEnforced(r))
	l.truth("carried_out", isCarriedOut(r))
	rule, at, digest := ruleOf(r), "", ""
	if r.Generation == n.generation {
		// Of another generation they are not known, and must not be made up.
		at, digest = n.ruleAt[rule], n.digest
	}
	l.text("rule", rule, maxName)
	l.text("rule_at", at, maxName)
	l.number("generation", r.Generation)
	l.text("policy_digest", digest, maxName+len("sha256:"))
	l.why(r)
}

func (l *line) outcome(r *fetch.Report) {
	status := 0
	if last := r.LastHop(); last != nil {
		status = last.Status
	}
	stage := fetch.StageUnspecified
	if r.Failure != nil {
		stage = r.Failure.Stage
	}
	l.text("outcome", string(r.Outcome), maxWord)
	l.number("status_code", int64(status))
	l.text("reason", reasonOf(r), maxWord)
	l.text("blame", string(blameOf(r)), maxWord)
	l.text("stage", string(stage), maxWord)
	l.text("request_sent", string(sentOf(r)), maxWord)
	l.text("rpc_code", r.Code, maxWord)
	l.number("attempts", int64(len(r.Attempts)))
	l.number("hops", int64(r.Hops()))
	l.text("retry_suppressed", string(r.Suppressed), maxWord)
	l.number("resumes", 0)
}

// connection is that of the last hop.
func (l *line) connection(r *fetch.Report) {
	var f fetch.Facts
	if last := r.LastHop(); last != nil {
		f = last.Facts
	}
	l.key("remote_address")
	l.b = append(l.b, '"')
	if f.Remote.IsValid() {
		l.b = f.Remote.AppendTo(l.b)
	}
	l.b = append(l.b, '"')
	l.text("egress_address", "", 0)
	l.text("protocol", f.Protocol, maxWord)
	l.truth("reused", f.Reused)
	version := ""
	if f.TLS != nil {
		version = tlsVersion(f.TLS.Version)
	}
	l.text("tls", version, maxWord)
	l.credentials(r)
}

func (l *line) cost(r *fetch.Report) {
	spent := times(r)
	l.micros("total_us", r.Total)
	l.micros("dns_us", spent.DNS)
	l.micros("connect_us", spent.Connect)
	l.micros("tls_us", spent.TLS)
	l.micros("first_byte_us", spent.FirstByte)
	l.micros("queue_us", spent.Pool)
	l.number("request_bytes", r.RequestBytes)
	l.number("response_wire_bytes", r.WireBytes)
	l.number("response_body_bytes", r.BodyBytes)
}

// redacted names what the line leaves out.
func (l *line) redacted(r *fetch.Report) {
	l.key("redacted")
	l.b = append(l.b, '[')
	if strings.Contains(r.Destination.Target, "?") {
		l.item("query", maxWord)
	}
	if l.unlabeled {
		l.item("labels", maxWord)
	}
	l.b = append(l.b, ']')
}

// dangerous names the dangerous_ settings that the fetch needed, each once.
func (l *line) dangerous(n *names, r *fetch.Report) {
	var list [maxDangerous]string
	needed := list[:0]
	if r.Caller.Anonymous && r.Caller.Name != "" && r.Caller.Name == n.anonymous {
		needed = append(needed, "dangerous_anonymous")
	}
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			for _, setting := range r.Attempts[i].Hops[j].Dangerous {
				if len(needed) < maxDangerous && !slices.Contains(needed, setting) {
					needed = append(needed, setting)
				}
			}
		}
	}
	l.key("dangerous")
	l.b = append(l.b, '[')
	for _, setting := range needed {
		l.item(setting, maxWord)
	}
	l.b = append(l.b, ']')
}

// trace is the identifiers of the caller's trace and of the span in it (W3C Trace
// Context sections 3.2.2.3 and 3.2.2.4): that of the RPC, where fetchgate makes
// spans, else the caller's.
func (l *line) trace(ctx context.Context, r *fetch.Report) {
	const begin, end, last = len("00-"), len("00-") + 32, len("00-") + 32 + len("-") + 16
	if len(r.Traceparent) >= last {
		l.text("trace_id", r.Traceparent[begin:end], maxWord)
		l.text("span_id", r.Traceparent[end+1:last], maxWord)
		return
	}
	span := trace.SpanContextFromContext(ctx)
	traceID, spanID := span.TraceID(), span.SpanID()
	l.identifier("trace_id", traceID[:], span.HasTraceID())
	l.identifier("span_id", spanID[:], span.HasSpanID())
}

// identifier is in lower case hexadecimal, or empty.
func (l *line) identifier(name string, id []byte, known bool) {
	l.key(name)
	l.b = append(l.b, '"')
	if known {
		for _, c := range id {
			l.b = append(l.b, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	l.b = append(l.b, '"')
}

// labels go in the order of their names, as long as there is room.
func (l *line) labels(labels map[string]string) {
	var list [labelCount]string
	names := list[:0]
	for name := range labels {
		if len(names) < labelCount {
			names = append(names, name)
		}
	}
	l.unlabeled = len(names) < len(labels)
	slices.Sort(names)
	l.key("labels")
	l.b = append(l.b, '{')
	start := len(l.b)
	for _, name := range names {
		before := len(l.b)
		if before > start {
			l.b = append(l.b, ',')
		}
		l.b = appendQuoted(l.b, name, maxName)
		l.b = append(l.b, ':')
		l.b = appendQuoted(l.b, labels[name], maxValue)
		if len(l.b)-start > maxLabels {
			l.b, l.unlabeled = l.b[:before], true
			break
		}
	}
	l.b = append(l.b, '}')
}

// queryKeys are the names in the query, as they were sent. A part without "="
// may as well be a value.
func (l *line) queryKeys(query string) {
	l.key("query_keys")
	l.b = append(l.b, '[')
	start := len(l.b)
	for range maxKeyCount {
		if query == "" {
			break
		}
		var part string
		part, query, _ = strings.Cut(query, "&")
		key, _, hasValue := strings.Cut(part, "=")
		if !hasValue {
			key = hidden
		}
		before := len(l.b)
		l.item(key, maxName)
		if len(l.b)-start > maxKeys {
			l.b = l.b[:before]
			break
		}
	}
	l.b = append(l.b, ']')
}

// why is what policy, the failure or the RPC error said, the first of them that
// said something; policy also where its denial was not carried out. The finding for the
// operator is kept from its end, where the address is, since before it may be a
// name in a length that callers choose.
func (l *line) why(r *fetch.Report) {
	d := denialOf(r)
	if d == nil {
		d = wouldDenyOf(r)
	}
	switch {
	case d != nil && d.Audit != "":
		l.text("why", d.Message, maxMessage)
		l.b = append(l.b[:len(l.b)-1], "; "...)
		finding := tail(d.Audit, maxFinding)
		if len(finding) < len(d.Audit) {
			l.b = append(l.b, ellipsis...)
		}
		quote := len(l.b)
		l.b = appendQuoted(l.b, finding, maxFinding)
		l.b = slices.Delete(l.b, quote, quote+1)
	case d != nil:
		l.text("why", d.Message, maxMessage+maxFinding)
	case r.Failure != nil:
		l.text("why", r.Failure.Message, maxMessage+maxFinding)
	default:
		l.text("why", r.RefusalMessage, maxMessage+maxFinding)
	}
}

func (l *line) key(name string) {
	l.b = append(append(append(l.b, `,"`...), name...), `":`...)
}

func (l *line) text(name, value string, most int) {
	l.key(name)
	l.b = appendQuoted(l.b, value, most)
}

// item is one more string of a list.
func (l *line) item(value string, most int) {
	if l.b[len(l.b)-1] != '[' {
		l.b = append(l.b, ',')
	}
	l.b = appendQuoted(l.b, value, most)
}

// origin is always written with its port.
func (l *line) origin(name string, o fetch.Origin) {
	l.key(name)
	if o.Host == "" {
		l.b = append(l.b, `""`...)
		return
	}
	l.b = append(l.b, '"')
	start := len(l.b)
	l.b = appendOrigin(l.b, o)
	if !isSafe(l.b[start:]) {
		// No canonical host is like this; a bug elsewhere must not break the line.
		l.b = appendQuoted(l.b[:start-1], o.String(), maxOrigin)
		return
	}
	l.b = append(l.b, '"')
}

// isSafe tells that b may stand in a string as it is.
func isSafe(b []byte) bool {
	for _, c := range b {
		if !isPlain(c) {
			return false
		}
	}
	return len(b) <= maxOrigin
}

func (l *line) number(name string, value int64) {
	l.key(name)
	l.b = strconv.AppendInt(l.b, value, 10)
}

func (l *line) micros(name string, d time.Duration) { l.number(name, d.Microseconds()) }

func (l *line) truth(name string, value bool) {
	l.key(name)
	l.b = strconv.AppendBool(l.b, value)
}
