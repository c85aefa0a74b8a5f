package telemetry_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"

	"github.com/fetchgate/fetchgate/service/telemetry"
)

// collected keeps the names of the spans that a collector got.
type collected struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
	of    string
}

func (c *collected) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			c.of += a.GetKey() + "=" + a.GetValue().GetStringValue() + " "
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.names = append(c.names, s.GetName())
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// startCollector returns a collector and its endpoint.
func startCollector(t *testing.T) (*collected, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, s := &collected{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return c, "http://" + l.Addr().String()
}

// Spans reach a collector if the caller's trace is sampled, and only then.
func TestTracing(t *testing.T) {
	for traceparent, want := range map[string]int{
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": 3,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00": 0,
		"": 0,
	} {
		c, endpoint := startCollector(t)
		tracing, err := telemetry.NewTracing(t.Context(), endpoint, "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		ctx := tracing.Propagator().Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
		ctx, rpc := tracing.Provider().Tracer("test").Start(ctx, "rpc")
		r := newRecorder(t, telemetry.Options{Configuration: configuration(), Stdout: &output{}})
		if err := r.Begin("Fetch"); err != nil {
			t.Fatal(err)
		}
		r.End(ctx, redirected())
		rpc.End()
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := tracing.Close(closing); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		if len(c.names) != want {
			t.Errorf("%q: %q, want %d spans", traceparent, c.names, want)
		}
		if of := c.of; want > 0 && of != "service.name=fetchgate service.version=1.2.3 " {
			t.Errorf("the spans are of %q", of)
		}
		c.mu.Unlock()
	}
}

// A collector that is not there holds up neither the start nor, for longer than
// it may, the end.
func TestTracingWithoutCollector(t *testing.T) {
	tracing, err := telemetry.NewTracing(t.Context(), "http://127.0.0.1:1", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	ctx := tracing.Propagator().Extract(context.Background(), propagation.MapCarrier{"traceparent": typical().Traceparent})
	_, rpc := tracing.Provider().Tracer("test").Start(ctx, "rpc")
	rpc.End()
	closing, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := tracing.Close(closing); err == nil {
		t.Error("the span arrived nowhere and nobody says so")
	}
}
