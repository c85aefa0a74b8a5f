package body_test

import (
	"bytes"
	"testing"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// BenchmarkPass is what Copy itself costs for 64 MiB that are not decoded.
func BenchmarkPass(b *testing.B) {
	for _, bench := range []struct {
		name string
		opts body.Options
	}{
		{"plain", body.Options{}},
		{"metered", body.Options{
			MinThroughput: fetch.DefaultLimits().MinThroughput,
			Stop:          func(error) {},
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			const size = 64 << 20
			sink := new(discard)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := body.Copy(sink, response(&endless{left: size}), streamPlan(), bench.opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	data := text(8 << 20)
	for _, s := range samples {
		b.Run(s.name, func(b *testing.B) {
			coded := s.encoded(data)
			sink := new(discard)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := body.Copy(sink, response(newWireBody(bytes.NewReader(coded)), s.coding), streamPlan(), body.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
