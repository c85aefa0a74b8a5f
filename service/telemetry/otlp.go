package telemetry

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// auditEvent names the schema of a line; it is the event name of its log record.
const auditEvent = "fetchgate.audit.v1"

const (
	// exportTimeout is how long one export may take.
	exportTimeout = 10 * time.Second
	// maxExport is the most bytes of lines of one export: there is one at a time,
	// and the collector may be far away.
	maxExport = 512 << 10
)

// Collector takes log records. Its methods are called one at a time, but for
// Close.
type Collector interface {
	// Export sends records and waits until they are taken. Those that were
	// thrown away for good are rejected, and why says what for. After an error
	// they may have been taken or not.
	Export(ctx context.Context, of *logspb.ResourceLogs) (rejected int64, why string, err error)
	io.Closer
}

// exported is a sink whose lines are log records for a collector. One goroutine
// writes; any may interrupt.
type exported struct {
	to       Collector
	resource *resourcepb.Resource
	// living ends with interrupt.
	living    context.Context
	interrupt context.CancelFunc
}

func newExported(to Collector, version, replica string) *exported {
	e := &exported{to: to, resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
		word("service.name", "fetchgate"), word("service.version", version), word("service.instance.id", replica),
	}}}
	e.living, e.interrupt = context.WithCancel(context.Background())
	return e
}

// Write sends whole lines, all or none of them. What the collector rejected is
// written, with a *rejectedError.
func (e *exported) Write(lines []byte) (int, error) {
	ctx, cancel := context.WithTimeoutCause(e.living, exportTimeout, fmt.Errorf("the collector has not answered within %v", exportTimeout))
	defer cancel()
	rejected, why, err := e.to.Export(ctx, &logspb.ResourceLogs{
		Resource:  e.resource,
		ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: scope}, LogRecords: recordsOf(lines, time.Now())}},
	})
	switch {
	case err != nil:
		return 0, errors.Join(err, context.Cause(ctx))
	case rejected > 0:
		return len(lines), &rejectedError{lines: int(rejected), why: why}
	}
	return len(lines), nil
}

// Close closes the connection to the collector.
func (e *exported) Close() error {
	e.interrupt()
	return e.to.Close()
}

// rejectedError tells of lines that a sink took and threw away.
type rejectedError struct {
	lines int
	why   string
}

func (r *rejectedError) Error() string {
	return fmt.Sprintf("%d lines were rejected: %.*q", r.lines, maxMessage, r.why)
}

// recordsOf makes a log record of each line, sent at now.
func recordsOf(lines []byte, now time.Time) []*logspb.LogRecord {
	records := make([]*logspb.LogRecord, 0, bytes.Count(lines, []byte{'\n'}))
	for line := range bytes.Lines(lines) {
		records = append(records, recordOf(bytes.TrimSuffix(line, []byte{'\n'}), uint64(now.UnixNano())))
	}
	return records
}

// indexed is what of a line is beside its text in a log record, so that
// collectors can choose by it without reading JSON.
type indexed struct {
	Time       time.Time `json:"time"`
	FetchID    string    `json:"fetch_id"`
	TraceID    string    `json:"trace_id"`
	SpanID     string    `json:"span_id"`
	Caller     string    `json:"caller"`
	Allowed    bool      `json:"allowed"`
	Enforced   bool      `json:"enforced"`
	Rule       string    `json:"rule"`
	Outcome    string    `json:"outcome"`
	StatusCode int64     `json:"status_code"`
	Reason     string    `json:"reason"`
	Blame      string    `json:"blame"`
}

// decision spells it as spans do.
func (i *indexed) decision() string {
	return decisions.values[decided(i.Allowed, i.Blame == string(fetch.BlamePolicy), i.Enforced)]
}

// recordOf is the log record of a line: its text, and what is indexed.
func recordOf(line []byte, now uint64) *logspb.LogRecord {
	var of indexed
	// A line that cannot be read, which no line is, still goes out as it is.
	_ = json.Unmarshal(line, &of)
	r := &logspb.LogRecord{
		ObservedTimeUnixNano: now, EventName: auditEvent,
		SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_WARN, SeverityText: "WARN",
		Body:    &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: string(line)}},
		TraceId: identifier(of.TraceID, 16), SpanId: identifier(of.SpanID, 8),
	}
	if of.Allowed {
		r.SeverityNumber, r.SeverityText = logspb.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
	}
	if !of.Time.IsZero() {
		r.TimeUnixNano = uint64(of.Time.UnixNano())
	}
	for _, a := range [][2]string{
		{"fetchgate.fetch_id", of.FetchID}, {"fetchgate.caller", of.Caller}, {"fetchgate.decision", of.decision()},
		{"fetchgate.rule", of.Rule}, {"fetchgate.outcome", of.Outcome}, {"fetchgate.reason", of.Reason},
	} {
		if a[1] != "" {
			r.Attributes = append(r.Attributes, word(a[0], a[1]))
		}
	}
	if of.StatusCode > 0 {
		r.Attributes = append(r.Attributes, &commonpb.KeyValue{
			Key: "http.response.status_code", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: of.StatusCode}},
		})
	}
	return r
}

func word(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

// identifier is one of a trace, nil if text is none.
func identifier(text string, length int) []byte {
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != length {
		return nil
	}
	return id
}
