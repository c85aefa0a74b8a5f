package service_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Bodies that are coded, broken, empty or too large, seen from both ends. The
// ids are those of the project's catalogue of adversarial cases, group G.

// coders are real encoders of the codings that fetchgate undoes.
var coders = map[string]func(io.Writer) io.WriteCloser{
	"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 5) },
	"zstd": func(w io.Writer) io.WriteCloser {
		z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) // fails for options alone
		return z
	},
}

// coded is what a body of n times x looks like under codings, the first one
// applied first.
func coded(t testing.TB, n int, codings ...string) string {
	t.Helper()
	var b bytes.Buffer
	var top io.Writer = &b
	layers := make([]io.Closer, len(codings))
	for i := len(codings) - 1; i >= 0; i-- {
		layer := coders[codings[i]](top)
		top, layers[i] = layer, layer
	}
	block := bytes.Repeat([]byte("x"), 1<<20)
	for left := n; left > 0; left -= len(block) {
		if _, err := top.Write(block[:min(left, len(block))]); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range layers {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// bare is raw deflate, without the zlib around it that RFC 9110 section 8.4.1.2
// asks for and some upstreams leave out.
func bare(text string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.DefaultCompression) // fails for a level alone
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// gzipWithExtra is a gzip member whose header has extra data and a long name,
// RFC 1952 section 2.3.
func gzipWithExtra(text string, extra, name int) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Extra, w.Name = make([]byte, extra), strings.Repeat("n", name)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// zstdWindow is a frame of one byte whose header wants a window of 2^log bytes,
// RFC 8878 section 3.1.1.
func zstdWindow(log int) string {
	return "\x28\xb5\x2f\xfd\x00" + string([]byte{byte(log-10) << 3}) + "\x09\x00\x00x"
}

// flipped has one bit of text changed, counted from the end.
func flipped(text string, fromEnd int) string {
	b := []byte(text)
	b[len(b)-fromEnd] ^= 1
	return string(b)
}

// bodyCase is a body of the coding and what becomes of it, in the words of
// outcomeOf.
type bodyCase struct {
	name, coding, body, want string
}

// bodyCases are the coded bodies of group G.
func bodyCases(t *testing.T) []bodyCase {
	whole := gzipped([]byte("hello"))
	return []bodyCase{
		{"G08 gzip that is cut in its data", "gzip", whole[:12], "200, 1 bytes, then DECODE_FAILED"},
		{"G08 gzip that is cut in its trailer", "gzip", whole[:len(whole)-1], "200, 5 bytes, then DECODE_FAILED"},
		{"G08 gzip with a bad checksum", "gzip", flipped(whole, 8), "200, 5 bytes, then DECODE_FAILED"},
		{"G08 gzip with a bad length", "gzip", flipped(whole, 4), "200, 5 bytes, then DECODE_FAILED"},
		{"G08 gzip and junk", "gzip", whole + "junk and more of it", "200, 5 bytes, then DECODE_FAILED"},
		{"G08 two members", "gzip", whole + whole, "200, 10 bytes"},
		{"G08 an extra field of 64 KiB", "gzip", gzipWithExtra("hello", math.MaxUint16, 0), "200, 5 bytes"},
		{"G08 a name of 100 kB", "gzip", gzipWithExtra("hello", 0, 100_000), "200, 0 bytes, then DECODE_FAILED"},
		{"G09 ten codings", strings.Repeat("gzip, ", 9) + "gzip", "hello", "200, 0 bytes, then TOO_MANY_CODINGS"},
		{"G09 four codings", "gzip, br, zstd, gzip", coded(t, 5, "gzip", "br", "zstd", "gzip"), "200, 0 bytes, then TOO_MANY_CODINGS"},
		{"G09 three codings", "gzip, br, zstd", coded(t, 5, "gzip", "br", "zstd"), "200, 5 bytes"},
		{"G10 plain text as gzip", "gzip", "hello, this is no gzip", "200, 0 bytes, then DECODE_FAILED"},
		{"G10 plain text as br", "br", "hello, this is no br", "200, 0 bytes, then DECODE_FAILED"},
		{"G10 plain text as zstd", "zstd", "hello, this is no zstd", "200, 0 bytes, then DECODE_FAILED"},
		{"G10 plain text as deflate", "deflate", "hello, this is no deflate", "200, 0 bytes, then DECODE_FAILED"},
		{"G11 deflate", "deflate", coded(t, 5, "deflate"), "200, 5 bytes"},
		{"G11 bare deflate", "deflate", bare("hello"), "200, 5 bytes"},
		{"G11 br", "br", coded(t, 5, "br"), "200, 5 bytes"},
		{"G11 zstd with a window of 8 MiB", "zstd", zstdWindow(23), "200, 1 bytes"},
		{"G11 zstd with a window of 16 MiB", "zstd", zstdWindow(24), "200, 0 bytes, then DECODE_FAILED"},
		{"G11 zstd with a window of 2 GiB", "zstd", zstdWindow(31), "200, 0 bytes, then DECODE_FAILED"},
		{"G12 a coding that nobody knows", "x-rot13", "uryyb", "200, 5 bytes"},
		{"G12 one that is known under one that is not", "gzip, x-rot13", whole, fmt.Sprintf("200, %d bytes", len(whole))},
		{"G18 nothing under gzip", "gzip", "", "200, 0 bytes"},
		{"G18 gzip of nothing", "gzip", gzipped(nil), "200, 0 bytes"},
	}
}

// TestCodedBodies: a body under codings arrives whole or as a failure that has
// the status with it.
func TestCodedBodies(t *testing.T) {
	cases := bodyCases(t)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		n, _ := strconv.Atoi(r.Target[1:])
		return fetchtest.Answer(200, cases[n].body, "Content-Encoding: "+cases[n].coding)
	}})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for i, c := range cases {
		for _, rpc := range rpcs {
			t.Run(c.name+"/"+rpc.name, func(t *testing.T) {
				a, err := rpc.call(within(t), g, get(u.URL("/"+strconv.Itoa(i))))
				if err != nil {
					t.Fatal(err)
				}
				if got := outcomeOf(a); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if strings.Contains(c.coding, "rot13") && (string(a.body) != c.body || fieldOf(a.head, "Content-Encoding") != c.coding) {
					t.Errorf("the body is %q under %q, which nobody should touch", a.body, fieldOf(a.head, "Content-Encoding"))
				}
			})
		}
	}
}

// fieldOf is the value of the first field of a name.
func fieldOf(h *fetchgatev1.HttpHead, name string) string {
	for _, f := range h.GetHeaders() {
		if strings.EqualFold(f.GetName(), name) {
			return string(f.GetValue())
		}
	}
	return ""
}

// TestBombsEndEarly: what grows to more than a hundred times its size ends soon
// after the first mebibyte, and nobody holds what it would have become.
func TestBombsEndEarly(t *testing.T) {
	const most = 1<<20 + 128<<10
	size := 8 << 20
	if !testing.Short() {
		size = 64 << 20
	}
	for name, codings := range map[string][]string{
		"G07 gzip": {"gzip"}, "G07 deflate": {"deflate"}, "G07 br": {"br"}, "G07 zstd": {"zstd"},
		"G07 gzip in gzip": {"gzip", "gzip"}, "G07 gzip in br in zstd": {"gzip", "br", "zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(
				fetchtest.Answer(200, coded(t, size, codings...), "Content-Encoding: "+strings.Join(codings, ", ")))})
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			for _, rpc := range rpcs {
				var a *answer
				made := allocatedBy(func() {
					var err error
					if a, err = rpc.call(within(t), g, get(u.URL("/"))); err != nil {
						t.Fatal(err)
					}
				})
				wantFailure(t, a, "DECODED_TOO_LARGE")
				if len(a.body) > most {
					t.Errorf("%s: %d bytes came of the bomb", rpc.name, len(a.body))
				}
				// Both ends are in this process: the windows of three codings, the
				// answer in some copies, the buffers of a connection.
				if made > 48<<20 {
					t.Errorf("%s: %d MiB were allocated", rpc.name, made>>20)
				}
			}
		})
	}
}

// allocatedBy is how much memory a call allocates, freed or not.
func allocatedBy(call func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestBodiesBeyondTheCallersLimit: as many bytes as the caller takes arrive, not
// one more, and the upstream does not go on.
func TestBodiesBeyondTheCallersLimit(t *testing.T) {
	const most = 100_000
	for name, head := range map[string]string{
		"G13 of unknown length": "HTTP/1.1 200 OK\r\n\r\n",
		"G13 of a known length": "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
		"G13 in chunks":         "",
	} {
		endless := fetchtest.Steps(fetchtest.Write(head), fetchtest.Forever("0123456789"))
		if head == "" {
			endless = fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), fetchtest.Forever("a\r\n0123456789\r\n"))
		}
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), endless)
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
			for i, rpc := range rpcs {
				m := get(u.URL("/"))
				m.Options.Response = &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(most)}
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantFailure(t, a, "BODY_TOO_LARGE")
				if want := strings.Repeat("0123456789", most/10); string(a.body) != want {
					t.Errorf("%s: %d bytes arrived, want %d", rpc.name, len(a.body), len(want))
				}
				if err := u.WaitClosed(within(t), i+1); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFetchOfAGibibyte: what does not fit into a message is refused by its
// length, unread, and the failure says which RPC takes it.
func TestFetchOfAGibibyte(t *testing.T) {
	for name, step := range map[string]fetchtest.Step{
		"G14 of a known length": fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"), fetchtest.Repeat(1<<20, strings.Repeat("x", 1<<10))),
		"G14 of unknown length": fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Repeat(1<<20, strings.Repeat("x", 1<<10))),
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), step)
			network := &network{}
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Connect: network.connect})
			var a *answer
			made := allocatedBy(func() {
				var err error
				if a, err = whole(within(t), g, get(u.URL("/"))); err != nil {
					t.Fatal(err)
				}
			})
			wantFailure(t, a, "RESPONSE_TOO_LARGE")
			if advice := fetch.ReasonResponseTooLarge.Entry().Next; !strings.Contains(advice, "StreamFetch") {
				t.Errorf("the advice for the reason is %q", advice)
			}
			most := map[bool]int64{true: 1 << 20, false: 4 << 20}[strings.Contains(name, "a known")]
			if read := network.read.Load(); read > most {
				t.Errorf("%d bytes were read, want at most %d", read, most)
			}
			// The answer is here as it is gathered, sent and received.
			if made > 24<<20 {
				t.Errorf("%d MiB were allocated", made>>20)
			}
		})
	}
}

// emptyBodies are the ways to say that a body has no bytes.
var emptyBodies = map[string]struct {
	method, answer string
	status         int32
}{
	"G18 length 0":           {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200},
	"G18 no chunks":          {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
	"G18 until the end":      {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 200},
	"G18 of HTTP/1.0":        {"GET", "HTTP/1.0 200 OK\r\n\r\n", 200},
	"G18 no content":         {"GET", "HTTP/1.1 204 No Content\r\n\r\n", 204},
	"G18 not modified":       {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304},
	"G18 HEAD with a length": {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 200},
	"G18 HEAD with chunks":   {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
}

// TestEmptyBodies: none of them is a failure, and none has a byte.
func TestEmptyBodies(t *testing.T) {
	for name, c := range emptyBodies {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(c.answer))
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
			for _, rpc := range rpcs {
				m := get(u.URL("/"))
				m.Request.Method, m.Options.Connection = c.method, fresh()
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, a, c.status, "")
			}
		})
	}
	t.Run("G18 HTTP/2", func(t *testing.T) {
		u := fetchtest.NewH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
		for _, rpc := range rpcs {
			m := get(u.URL("/"))
			requireH2(m)
			a, err := rpc.call(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "")
		}
	})
}
