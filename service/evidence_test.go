package service_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// observed is a fetchgate whose evidence is kept: every line of its log, in both
// formats, every audit line and every span.
type observed struct {
	*server
	text, json, audit lines
	traces            *traces
}

// observe starts a fetchgate as fetchtest.Start does, of which Log and Audit are
// its own.
func observe(t *testing.T, o fetchtest.Options) *observed {
	t.Helper()
	w := &observed{traces: newTraces(t)}
	return w.start(t, o, "telemetry:\n  tracing:\n    otlp_endpoint: "+w.traces.endpoint+"\n")
}

// observeUntraced is observe without a collector.
func observeUntraced(t *testing.T, o fetchtest.Options) *observed {
	t.Helper()
	return new(observed).start(t, o, "")
}

func (w *observed) start(t *testing.T, o fetchtest.Options, telemetry string) *observed {
	t.Helper()
	loaded, err := config.Parse("test.yaml", []byte(yamlOf(t, o)+telemetry))
	if err != nil {
		t.Fatal(err)
	}
	verbose := &slog.HandlerOptions{Level: slog.LevelDebug}
	so := service.Options{
		Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Connect: o.Connect, Stdout: &w.audit,
		Log: slog.New(slog.NewMultiHandler(slog.NewTextHandler(&w.text, verbose), slog.NewJSONHandler(&w.json, verbose))),
	}
	if o.DNS != nil {
		so.Resolver = o.DNS
	}
	w.server = run(t, so)
	return w
}

// yamlOf is the configuration that fetchtest.Start makes of Trust, Allow and
// Extra.
func yamlOf(t *testing.T, o fetchtest.Options) string {
	var b strings.Builder
	if o.Trust != nil {
		fmt.Fprintf(&b, "upstream_tls:\n  ca_files: [%q]\n", o.Trust.WriteFile(t))
	}
	if len(o.Allow) > 0 {
		fmt.Fprintf(&b, "rules:\n  - name: test\n    dangerous_allow_loopback: true\n    origins: [%s]\n", strings.Join(o.Allow, ", "))
	}
	return b.String() + o.Extra
}

// run starts a service that ends with the test, or before.
func run(t *testing.T, o service.Options) *server {
	t.Helper()
	s := &server{served: make(chan error, 1)}
	var err error
	if s.Service, err = service.New(o); err != nil {
		t.Fatal(err)
	}
	s.conn, err = grpc.NewClient(s.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.FetchServiceClient = fetchgatev1.NewFetchServiceClient(s.conn)
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { s.served <- s.Serve(ctx) })
	t.Cleanup(func() {
		s.conn.Close()
		s.stop()
		serving.Wait()
	})
	return s
}

// TestDangerousSettingsAreRecorded: the line of a fetch names the setting that
// opened its way, also where the connection was open before.
func TestDangerousSettingsAreRecorded(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream), "http://127.0.0.1:1"}})
	for _, url := range []string{u.URL("/"), u.URL("/"), "http://127.0.0.1:1/", "http://denied.test/"} {
		_, _ = whole(within(t), w, get(url)) // its outcome is not what this is about
	}
	w.end(t)
	var got []string
	for line := range strings.Lines(w.audit.String()) {
		_, dangerous, _ := strings.Cut(line, `"dangerous":`)
		got = append(got, strings.TrimSpace(dangerous))
	}
	const needed = `["dangerous_allow_loopback"]}`
	if want := []string{needed, needed, needed, "[]}"}; !slices.Equal(got, want) {
		t.Errorf("dangerous is %q, want %q", got, want)
	}
}

// TestDrainIsLogged: how many fetches there are when it begins and when they are
// cut, and that it ended; durations have a unit in JSON too.
func TestDrainIsLogged(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Hang())
	w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Extra: "grpc:\n  drain_grace: 100ms\n"})
	events, err := w.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err == nil {
		_, err = events.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	cutShort(t, events)
	w.end(t)
	for _, want := range []string{
		`"msg":"draining","delay":"0s","grace":"100ms","in_flight":1}`,
		`"msg":"the grace is over: cutting the fetches in flight","grace":"100ms","in_flight":1}`,
	} {
		if !strings.Contains(w.json.String(), want) {
			t.Errorf("the log has no %s: %s", want, w.json.String())
		}
	}
	if !strings.HasSuffix(w.json.String(), `"msg":"stopped","in_flight":0}`+"\n") {
		t.Errorf("the log does not end with stopped: %s", w.json.String())
	}
}

// end stops the fetchgate, so that all its evidence is written.
func (w *observed) end(t *testing.T) {
	t.Helper()
	w.conn.Close()
	w.stop()
	if err := <-w.served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	w.served <- nil
}

// lines are what was written. Any goroutine may write.
type lines struct {
	mu      sync.Mutex
	written bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.String()
}

// traces is a real collector of OTLP that keeps what it is sent.
type traces struct {
	collector.UnimplementedTraceServiceServer
	endpoint string

	mu    sync.Mutex
	spans []*tracepb.Span
	sent  []*collector.ExportTraceServiceRequest
}

func newTraces(t *testing.T) *traces {
	t.Helper()
	c := &traces{}
	c.endpoint = serveCollector(t, func(s *grpc.Server) { collector.RegisterTraceServiceServer(s, c) })
	return c
}

// serveCollector serves what register adds until the test ends, and returns its
// endpoint.
func serveCollector(t *testing.T, register func(*grpc.Server)) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return "http://" + l.Addr().String()
}

// Export implements collector.TraceServiceServer.
func (c *traces) Export(_ context.Context, m *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, m)
	for _, resource := range m.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// all are the spans that have come.
func (c *traces) all() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans
}
