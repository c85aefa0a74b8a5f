package telemetry_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/collector"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// logCollector is a real collector of OTLP logs, which can go away and come back
// to its address.
type logCollector struct {
	collectorpb.UnimplementedLogsServiceServer
	address string
	// answer, if it is not nil, is asked instead of taking the records.
	answer func(context.Context, *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error)

	mu      sync.Mutex
	records []*logspb.LogRecord
	sent    []*collectorpb.ExportLogsServiceRequest

	server  *grpc.Server
	serving sync.WaitGroup
}

func newLogCollector(t *testing.T) *logCollector {
	t.Helper()
	c := &logCollector{address: "127.0.0.1:0"}
	c.start(t)
	t.Cleanup(c.stop)
	return c
}

func (c *logCollector) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	c.address, c.server = l.Addr().String(), grpc.NewServer()
	collectorpb.RegisterLogsServiceServer(c.server, c)
	s := c.server
	c.serving.Go(func() { s.Serve(l) })
}

// stop lets exports under way end: one that is cut may count or not.
func (c *logCollector) stop() {
	c.server.GracefulStop()
	c.serving.Wait()
}

func (c *logCollector) endpoint() string { return "http://" + c.address }

// Export implements collectorpb.LogsServiceServer.
func (c *logCollector) Export(ctx context.Context, m *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	if c.answer != nil {
		return c.answer(ctx, m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, m)
	for _, resource := range m.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			c.records = append(c.records, scope.GetLogRecords()...)
		}
	}
	return &collectorpb.ExportLogsServiceResponse{}, nil
}

func (c *logCollector) all() []*logspb.LogRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records
}

// toCollector are the options of a recorder whose lines go there.
func toCollector(endpoint, onFull string) telemetry.Options {
	o := withAudit(&configv1.Audit{Sink: "otlp", OtlpEndpoint: endpoint, OnFull: onFull, MaxQueueBytes: ptr(int64(1 << 20))})
	o.Replica, o.Version = "eu-1-7c9f", "1.2.3"
	o.Collect = func(endpoint string) (telemetry.Collector, error) {
		return collector.NewLogs(endpoint, "fetchgate/test")
	}
	return o
}

func textOf(r *logspb.LogRecord) string {
	var all []string
	for _, a := range r.GetAttributes() {
		text := a.GetValue().GetStringValue()
		if text == "" {
			text = fmt.Sprint(a.GetValue().GetIntValue())
		}
		all = append(all, a.GetKey()+"="+text)
	}
	return strings.Join(all, " ")
}

// A log record is the line, its severity and what can be searched for.
func TestLogRecords(t *testing.T) {
	for name, c := range map[string]struct {
		report   *fetch.Report
		severity logspb.SeverityNumber
		want     string
	}{
		"response":   {typical(), 9, "fetchgate.fetch_id=01JD8Y5T3QK4M fetchgate.caller=billing fetchgate.decision=allow fetchgate.rule=partners/stripe fetchgate.outcome=response http.response.status_code=200"},
		"failure":    {failing(fetch.ReasonConnectRefused), 9, "fetchgate.fetch_id=01JD8Y5T3QK4M fetchgate.caller=billing fetchgate.decision=allow fetchgate.rule=partners/stripe fetchgate.outcome=failure fetchgate.reason=CONNECT_REFUSED"},
		"denied":     {deniedByName(), 13, "fetchgate.fetch_id=01JD8Y5T3QK4M fetchgate.caller=billing fetchgate.decision=deny fetchgate.rule=default-deny fetchgate.outcome=denied fetchgate.reason=DESTINATION_DENIED"},
		"redirect":   {redirectDenied(), 13, "fetchgate.fetch_id=01JD8Y5T3QK4M fetchgate.caller=billing fetchgate.decision=deny fetchgate.rule=internal fetchgate.outcome=failure fetchgate.reason=REDIRECT_DENIED"},
		"would deny": {reported(), 13, "fetchgate.fetch_id=01JD8Y5T3QK4M fetchgate.caller=billing fetchgate.decision=would_deny fetchgate.rule=default-deny fetchgate.outcome=response http.response.status_code=200"},
		"rejected":   {rejected(), 13, "fetchgate.fetch_id=01JD8Y5T3QK4N fetchgate.caller=anonymous fetchgate.decision=deny fetchgate.outcome=rejected fetchgate.reason=FIELD_INVALID"},
	} {
		to := newLogCollector(t)
		r := newRecorder(t, toCollector(to.endpoint(), ""))
		record(t, r, c.report)
		closeRecorder(t, r)
		line := strings.TrimSuffix(written(t, telemetry.Options{Configuration: configuration(), Replica: "eu-1-7c9f"}, c.report)[0], "\n")
		if len(to.all()) != 1 {
			t.Fatalf("%s: %d records", name, len(to.all()))
		}
		got := to.all()[0]
		if got.GetBody().GetStringValue() != line || got.GetEventName() != "fetchgate.audit.v1" || got.GetTimeUnixNano() != uint64(began.Truncate(time.Microsecond).UnixNano()) || got.GetObservedTimeUnixNano() == 0 {
			t.Errorf("%s: %v\nwant the line %s", name, got, line)
		}
		if got.GetSeverityNumber() != c.severity || textOf(got) != c.want {
			t.Errorf("%s: %v %s\nwant %v %s", name, got.GetSeverityNumber(), textOf(got), c.severity, c.want)
		}
		traceID, spanID := hex.EncodeToString(got.GetTraceId()), hex.EncodeToString(got.GetSpanId())
		if want := c.report.Traceparent; want != "" && want != "00-"+traceID+"-"+spanID+"-01" || want == "" && traceID+spanID != "" {
			t.Errorf("%s: trace %s span %s, want %s", name, traceID, spanID, want)
		}
		of := ""
		for _, a := range to.sent[0].GetResourceLogs()[0].GetResource().GetAttributes() {
			of += a.GetKey() + "=" + a.GetValue().GetStringValue() + " "
		}
		if of != "service.name=fetchgate service.version=1.2.3 service.instance.id=eu-1-7c9f " {
			t.Errorf("the records are of %q", of)
		}
	}
}

// numbered is a report of its own: i is in its name.
func numbered(i int64) *fetch.Report {
	r := typical()
	if i%3 == 0 {
		r = deniedByAddress()
	}
	r.ID = fmt.Sprint("fetch-", i)
	return r
}

// load ends n fetches from all sides and returns how many were admitted.
func load(t *testing.T, r *telemetry.Recorder, n int64) int {
	var next, admitted atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				report := numbered(i)
				if r.Begin(report.RPC) != nil {
					continue
				}
				admitted.Add(1)
				r.End(context.Background(), report)
			}
		})
	}
	all.Wait()
	return int(admitted.Load())
}

// ids are the fetches of records, each once.
func (c *logCollector) ids(t *testing.T) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for _, r := range c.all() {
		id := r.GetAttributes()[0].GetValue().GetStringValue()
		if ids[id] {
			t.Errorf("%s came twice", id)
		}
		ids[id] = true
	}
	return ids
}

// A collector that goes away and comes back, under load: every admitted fetch
// has its record once, or is counted as lost where that is the choice.
func TestCollectorGoesAndComesBack(t *testing.T) {
	for _, onFull := range []string{"drop_and_count", "refuse", "block"} {
		t.Run(onFull, func(t *testing.T) {
			to := newLogCollector(t)
			o := toCollector(to.endpoint(), onFull)
			r := newRecorder(t, o)
			admitted := load(t, r, 500)
			to.stop()
			const more = 4000 // three times what the queue holds
			var loading sync.WaitGroup
			loading.Go(func() { admitted += load(t, r, more) })
			registry := o.Registry.(*prometheus.Registry)
			if onFull == "block" {
				until(t, func() bool { return scrape(t, registry)["audit_blocked_fetches{}"] == 8 })
			} else {
				loading.Wait()
			}
			to.start(t)
			loading.Wait()
			closeRecorder(t, r)
			got := scrape(t, registry)
			came, lost := len(to.all()), got["audit_records_lost_total{}"]
			if float64(came)+lost != float64(admitted) || got["audit_records_total{result=written,sink=otlp}"] != float64(came) {
				t.Errorf("%d records and %v lost of %d", came, lost, admitted)
			}
			wantChoice(t, onFull, lost, admitted, 500+more)
			if waited := got["audit_blocked_seconds_total{}"]; (onFull == "block") != (waited > 0) {
				t.Errorf("fetches waited for %v s", waited)
			}
		})
	}
}

// wantChoice wants that a queue that was full did what was chosen, and nothing else.
func wantChoice(t *testing.T, onFull string, lost float64, admitted, asked int) {
	t.Helper()
	if (onFull == "drop_and_count") != (lost > 0) {
		t.Errorf("%v were lost", lost)
	}
	if (onFull == "refuse") != (admitted < asked) {
		t.Errorf("%d of %d were admitted", admitted, asked)
	}
}

// until waits for what will be.
func until(t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("it does not come to be")
		}
	}
}

// Within the bound of the queue nothing is lost, refused or doubled, however
// often the collector goes.
func TestCollectorGoesOften(t *testing.T) {
	to := newLogCollector(t)
	o := toCollector(to.endpoint(), "")
	r := newRecorder(t, o)
	total := int64(0)
	for range 4 {
		for range 100 {
			total++
			record(t, r, numbered(total))
		}
		to.stop()
		for range 100 {
			total++
			record(t, r, numbered(total))
		}
		to.start(t)
	}
	closeRecorder(t, r)
	if got := to.ids(t); int64(len(got)) != total || scrape(t, o.Registry.(*prometheus.Registry))["audit_records_lost_total{}"] != 0 {
		t.Errorf("%d records of %d", len(got), total)
	}
}

// What a collector rejects is counted as lost and not sent again.
func TestCollectorRejects(t *testing.T) {
	to := newLogCollector(t)
	var exports atomic.Int64
	to.answer = func(context.Context, *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
		exports.Add(1)
		return &collectorpb.ExportLogsServiceResponse{PartialSuccess: &collectorpb.ExportLogsPartialSuccess{RejectedLogRecords: 3, ErrorMessage: "too old"}}, nil
	}
	o := toCollector(to.endpoint(), "block")
	r := newRecorder(t, o)
	for i := range int64(10) {
		record(t, r, numbered(i))
	}
	closeRecorder(t, r)
	got := scrape(t, o.Registry.(*prometheus.Registry))
	if exports.Load() != 1 || got["audit_records_lost_total{}"] != 3 || got["audit_records_total{result=written,sink=otlp}"] != 7 {
		t.Errorf("%d exports, %v", exports.Load(), got)
	}
}

// A collector that does not answer holds up the end for as long as it may.
func TestCollectorHangs(t *testing.T) {
	to := newLogCollector(t)
	to.answer = func(ctx context.Context, _ *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	o := toCollector(to.endpoint(), "")
	r, err := telemetry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	record(t, r, typical())
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := r.Close(ctx); err == nil || !strings.Contains(err.Error(), "the collector "+to.endpoint()) {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if lost := scrape(t, o.Registry.(*prometheus.Registry))["audit_records_lost_total{}"]; lost != 1 {
		t.Errorf("%v lost", lost)
	}
}

func TestEndpointThatIsNone(t *testing.T) {
	for _, endpoint := range []string{"http://", "collector:4317", "ftp://a", "http://[::1"} {
		if _, err := telemetry.New(toCollector(endpoint, "")); err == nil || !strings.Contains(err.Error(), "audit.otlp_endpoint") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}
