package server

import (
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// BenchmarkFetchUnary is what a unary fetch of 1 KiB costs beside gRPC, sockets
// and HTTP: all of it, and its parts.
func BenchmarkFetchUnary(b *testing.B) {
	m := typicalRequest()
	s := serverOver(b, typicalTransport(1<<10), fetch.DefaultLimits())
	ctx, codec := asked(b), NewCodec()
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			answer, err := s.fetch(ctx, m)
			if err != nil {
				b.Fatal(err)
			}
			wire, err := codec.Marshal(answer)
			if err != nil {
				b.Fatal(err)
			}
			wire.Free()
		}
	})
	b.Run("refuse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := refuseNotOffered(m); len(v) > 0 {
				b.Fatal(v)
			}
		}
	})
	b.Run("plan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.pinned(b.Context()).planner.plan(shape{rpc: "Fetch"}, m.GetRequest(), m.GetOptions()); err != nil {
				b.Fatal(err)
			}
		}
	})
	plan, err := s.pinned(b.Context()).planner.plan(shape{rpc: "Fetch"}, m.GetRequest(), m.GetOptions())
	if err != nil {
		b.Fatal(err)
	}
	report, err := s.pinned(b.Context()).engine.Run(ctx, plan, &wholeSink{held: accounted(b, buffers), max: plan.Response.MaxBodyBytes})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("report", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reportMessage(report, true)
		}
	})
}

// BenchmarkOverloaded is what a fetch costs that finds no place, beside its
// record.
func BenchmarkOverloaded(b *testing.B) {
	full := fetch.DefaultLimits()
	full.MaxLiveFetches = 0
	s, ctx := serverOver(b, typicalTransport(1), full), asked(b)
	for name, url := range map[string]string{
		"usual": "https://api.example.com/v1/things?page=2", "longest": "https://api.example.com/" + strings.Repeat("\u00e4", 7<<10),
	} {
		m := typicalRequest()
		m.Request.Url = url
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.fetch(ctx, m); err == nil {
					b.Fatal("it was admitted")
				}
			}
		})
	}
}
