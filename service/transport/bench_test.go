package transport_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// BenchmarkRoundTrip is a GET of 1 KiB on one connection of the pool. Over
// HTTP/1.1 the upstream is a loop that allocates nothing, so that what is counted
// is the engine's own; over HTTP/2 it is net/http's server.
func BenchmarkRoundTrip(b *testing.B) {
	body := strings.Repeat("x", 1<<10)
	for _, p := range protocols {
		b.Run(p.name, func(b *testing.B) {
			var u *upstream
			if p.engine == library {
				u = serve(b, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
			} else {
				u = wireUpstream(b, p, answering("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"+body))
			}
			tr := p.newTransport(b)
			r := get(b, u.url, p)
			r.Fields = list("Accept: */*", "User-Agent: bench/1")
			buf := make([]byte, 0, 4096)
			lend := func() []byte { return buf }
			b.ReportAllocs()
			for b.Loop() {
				resp, _, err := tr.RoundTrip(b.Context(), r)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for err == nil {
					var got []byte
					got, _, err = resp.Body.ReadChunk(lend)
					n += len(got)
				}
				if err != io.EOF || n != len(body) {
					b.Fatalf("%d bytes, %v", n, err)
				}
				resp.Body.Close()
			}
			// net/http retires a connection when its writer is late by 50 ms, as on
			// a machine that is busy.
			if n := u.conns.Load(); n != 1 && p.engine != reference {
				b.Errorf("%d connections", n)
			}
		})
	}
}

// answering plays an upstream that answers each request without a body alike.
func answering(answer string) func(net.Conn) {
	raw := []byte(answer)
	return func(c net.Conn) {
		buf := make([]byte, 4<<10)
		for n := 0; ; {
			m, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				n = 0
				if _, err := c.Write(raw); err != nil {
					return
				}
			}
		}
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
			tr := p.newTransport(b)
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
