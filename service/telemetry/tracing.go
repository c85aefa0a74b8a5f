package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The bounds of what waits for the collector: spans beyond maxSpans are lost.
const (
	maxSpans     = 2048
	maxSpanBatch = 512
	spanDelay    = 5 * time.Second
	spanTimeout  = 10 * time.Second
)

// Tracing sends spans to an OTLP collector. A trace is recorded exactly if its
// caller's is.
type Tracing struct {
	provider *sdktrace.TracerProvider
	exporter sdktrace.SpanExporter
}

// NewTracing begins to send spans to endpoint, "http://HOST:PORT", or
// "https://…" for TLS by the system's roots, as version of fetchgate. It does
// not wait for the collector, which may come and go.
func NewTracing(ctx context.Context, endpoint, version string) (*Tracing, error) {
	exporter, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithEndpointURL(endpoint),
		otlptracegrpc.WithTimeout(spanTimeout),
		otlptracegrpc.WithHeaders(map[string]string{}),
		otlptracegrpc.WithCompressor("gzip"),
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry.tracing.otlp_endpoint: %w", err)
	}
	return newTracing(exporter, version), nil
}

func newTracing(exporter sdktrace.SpanExporter, version string) *Tracing {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "fetchgate"),
			attribute.String("service.version", version),
		)),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: maxSpanText, AttributeCountLimit: 64,
			EventCountLimit: 16, LinkCountLimit: 16, AttributePerEventCountLimit: 16, AttributePerLinkCountLimit: 16,
		}),
		sdktrace.WithBatcher(exporter,
			sdktrace.WithMaxQueueSize(maxSpans),
			sdktrace.WithMaxExportBatchSize(maxSpanBatch),
			sdktrace.WithBatchTimeout(spanDelay),
			sdktrace.WithExportTimeout(spanTimeout),
		),
	)
	return &Tracing{provider, exporter}
}

// Provider makes the spans of RPCs, below which those of hops come.
func (t *Tracing) Provider() trace.TracerProvider { return t.provider }

// Propagator reads the caller's trace (W3C Trace Context). It takes no baggage,
// which is whatever the caller likes.
func (t *Tracing) Propagator() propagation.TextMapPropagator { return propagation.TraceContext{} }

// Close sends what waits to be sent, then closes the connection. When ctx ends
// before, the rest is lost and the error says so.
func (t *Tracing) Close(ctx context.Context) error {
	err := t.provider.Shutdown(ctx)
	if err != nil {
		// The provider leaves the exporter at it; this cuts it off.
		err = errors.Join(err, t.exporter.Shutdown(ctx))
	}
	return err
}
