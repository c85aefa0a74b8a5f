package transport_test

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkRoundTrip is one small exchange on a connection of the pool, one
// after the other and from many goroutines.
func BenchmarkRoundTrip(b *testing.B) {
	for _, p := range protocols {
		b.Run(p.name, func(b *testing.B) {
			u := serve(b, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
			tr := newTransport(b)
			r := get(b, u.url, p)
			lend := make([]byte, 0, 4096)
			once := func() {
				resp, _, err := tr.RoundTrip(b.Context(), r)
				if err != nil {
					b.Error(err)
					return
				}
				for err == nil {
					_, _, err = resp.Body.ReadChunk(func() []byte { return lend })
				}
				resp.Body.Close()
			}
			b.ReportAllocs()
			for b.Loop() {
				once()
			}
		})
	}
}

// BenchmarkBody is the throughput of one large body.
func BenchmarkBody(b *testing.B) {
	const size = 64 << 20
	block := make([]byte, 256<<10)
	for _, p := range protocols {
		b.Run(p.name, func(b *testing.B) {
			u := serve(b, p, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "67108864")
				for range size / len(block) {
					w.Write(block)
				}
			})
			tr := newTransport(b)
			lend := make([]byte, 0, 256<<10)
			b.SetBytes(size)
			for b.Loop() {
				resp, _, err := tr.RoundTrip(b.Context(), get(b, u.url, p))
				for err == nil {
					_, _, err = resp.Body.ReadChunk(func() []byte { return lend })
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
