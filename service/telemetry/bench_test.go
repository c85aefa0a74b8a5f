package telemetry_test

import (
	"context"
	"io"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// BenchmarkEnd is all evidence of one fetch.
func BenchmarkEnd(b *testing.B) {
	none := configuration()
	none.Config.Audit = &configv1.Audit{Sink: "none"}
	for _, bench := range []struct {
		name   string
		config telemetry.Configuration
		report *fetch.Report
	}{
		{"response", configuration(), typical()},
		{"without audit", none, typical()},
		{"redirect", configuration(), redirected()},
		{"denial", configuration(), deniedByAddress()},
	} {
		b.Run(bench.name, func(b *testing.B) { benchmark(b, context.Background(), bench.config, bench.report) })
	}
	b.Run("recording parent", func(b *testing.B) {
		provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()))
		ctx, span := provider.Tracer("test").Start(context.Background(), "rpc")
		defer span.End()
		benchmark(b, ctx, configuration(), typical())
	})
}

func benchmark(b *testing.B, ctx context.Context, c telemetry.Configuration, report *fetch.Report) {
	r := newRecorder(b, telemetry.Options{Configuration: c, Stdout: io.Discard})
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Begin(report.RPC); err != nil {
			b.Fatal(err)
		}
		r.End(ctx, report)
	}
}

func BenchmarkEndParallel(b *testing.B) {
	r := newRecorder(b, telemetry.Options{Configuration: configuration(), Stdout: io.Discard})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		report := typical()
		for p.Next() {
			_ = r.Begin(report.RPC)
			r.End(context.Background(), report)
		}
	})
}
