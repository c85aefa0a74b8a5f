package collector_test

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/fetchgate/fetchgate/service/collector"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Go reads the system's roots once for a process, from the file of this
// variable; and what else the environment says must not matter.
func TestMain(m *testing.M) {
	file, err := os.CreateTemp("", "roots")
	if err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"SSL_CERT_FILE": file.Name(), "SSL_CERT_DIR": "/does/not/exist",
		"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS": "x=y", "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x=y",
	} {
		os.Setenv(name, value)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.Remove(file.Name())
		os.Exit(code)
	}))
}

// taker is a collector that answers with what it is told.
type taker struct {
	collectorpb.UnimplementedLogsServiceServer
	answer *collectorpb.ExportLogsServiceResponse
	mu     sync.Mutex
	fields metadata.MD
	bodies []string
}

// Export implements collectorpb.LogsServiceServer.
func (c *taker) Export(ctx context.Context, m *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fields, _ = metadata.FromIncomingContext(ctx)
	for _, r := range m.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		c.bodies = append(c.bodies, r.GetEventName())
	}
	return c.answer, nil
}

func (c *taker) serve(t *testing.T, o ...grpc.ServerOption) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(o...)
	collectorpb.RegisterLogsServiceServer(s, c)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

func export(t *testing.T, endpoint string) (int64, string, error) {
	t.Helper()
	to, err := collector.NewLogs(endpoint, "fetchgate/test")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return to.Export(ctx, &logspb.ResourceLogs{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{{EventName: "one"}}}}})
}

// TestExport: records arrive whatever the environment says, and what was
// rejected is told.
func TestExport(t *testing.T) {
	c := &taker{answer: &collectorpb.ExportLogsServiceResponse{PartialSuccess: &collectorpb.ExportLogsPartialSuccess{RejectedLogRecords: 2, ErrorMessage: "too old"}}}
	rejected, why, err := export(t, "http://"+c.serve(t))
	if rejected != 2 || why != "too old" || err != nil {
		t.Errorf("%d rejected for %q, %v", rejected, why, err)
	}
	if len(c.bodies) != 1 || c.bodies[0] != "one" || c.fields.Get("x") != nil || !strings.HasPrefix(c.fields.Get("user-agent")[0], "fetchgate/test") {
		t.Errorf("%q with %v", c.bodies, c.fields)
	}
}

// TestTLS: the roots of the system say whom to trust, and nobody is trusted
// without.
func TestTLS(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	if err := os.WriteFile(os.Getenv("SSL_CERT_FILE"), authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by   *fetchtest.Authority
		says string // of the error; empty means none
	}{"trusted": {authority, ""}, "another": {fetchtest.NewAuthority(t), "certificate signed by unknown authority"}} {
		pair := c.by.Issue(fetchtest.IssueOptions{Names: []string{"127.0.0.1"}})
		to := &taker{answer: &collectorpb.ExportLogsServiceResponse{}}
		_, _, err := export(t, "https://"+to.serve(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair))))
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain := &taker{}
	if _, _, err := export(t, "https://"+plain.serve(t)); err == nil || plain.bodies != nil {
		t.Errorf("records went out without TLS: %v", err)
	}
}

func TestDefaultPort(t *testing.T) {
	for _, endpoint := range []string{"http://127.0.0.1", "http://[::1]"} {
		l, err := net.Listen("tcp", net.JoinHostPort(strings.Trim(strings.TrimPrefix(endpoint, "http://"), "[]"), "4317"))
		if err == nil {
			l.Close()
			if _, _, err := export(t, endpoint); err == nil || !strings.Contains(err.Error(), ":4317") {
				t.Errorf("%s: %v", endpoint, err)
			}
		}
	}
}
