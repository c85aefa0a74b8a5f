package h1_test

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// list are fields, each of a name and a value.
func list(pairs ...string) (fields []fetch.Field) {
	for i := 0; i < len(pairs); i += 2 {
		fields = append(fields, fetch.Field{Name: pairs[i], Value: []byte(pairs[i+1])})
	}
	return fields
}

func TestAppendHead(t *testing.T) {
	const begin = "GET /a%2fb?q HTTP/1.1\r\n"
	for _, c := range []struct {
		name, want string
		alter      func(*fetch.Request)
	}{
		{"bare", begin + "Host: a.example\r\n\r\n", func(*fetch.Request) {}},
		{"order, case and repeats", begin + "Host: a.example\r\nx-b: 2\r\na: \xff\r\nX-B: 3\r\nx-b: 2\r\nX-Empty: \r\n\r\n", func(r *fetch.Request) {
			r.Fields = list("x-b", "2", "a", "\xff", "X-B", "3", "x-b", "2", "X-Empty", "")
		}},
		{"length", begin + "Host: a.example\r\nA: b\r\nContent-Length: 5\r\n\r\n", func(r *fetch.Request) {
			r.Fields, r.Framing, r.Length = list("A", "b"), fetch.FramingLength, 5
		}},
		{"length 0", begin + "Host: a.example\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) { r.Framing = fetch.FramingLength }},
		{"the longest", begin + "Host: a.example\r\nContent-Length: 9223372036854775807\r\n\r\n", func(r *fetch.Request) {
			r.Framing, r.Length = fetch.FramingLength, math.MaxInt64
		}},
		{"POST without a body", "POST /a%2fb?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) { r.Method = "POST" }},
		{"verbatim POST without a body", "POST /a%2fb?q HTTP/1.1\r\nHost: a.example\r\n\r\n", func(r *fetch.Request) { r.Method, r.Verbatim = "POST", true }},
		{"PATCH without a body", "PATCH /a%2fb?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) { r.Method = "PATCH" }},
		{"PUT without a body", "PUT /a%2fb?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) { r.Method = "PUT" }},
		{"post is another method", "post /a%2fb?q HTTP/1.1\r\nHost: a.example\r\n\r\n", func(r *fetch.Request) { r.Method = "post" }},
		{"DELETE without a body", "DELETE /a%2fb?q HTTP/1.1\r\nHost: a.example\r\n\r\n", func(r *fetch.Request) { r.Method = "DELETE" }},
		{"chunks", begin + "Host: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", func(r *fetch.Request) { r.Framing = fetch.FramingChunked }},
		{"everything", begin + "Host: a.example\r\nA: b\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, x-b\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", func(r *fetch.Request) {
			r.Fields, r.Framing, r.TrailerNames, r.ExpectContinue, r.CloseAfter = list("A", "b"), fetch.FramingChunked, []string{"X-A", "x-b"}, true, true
		}},
		{"nothing to continue with", begin + "Host: a.example\r\n\r\n", func(r *fetch.Request) { r.ExpectContinue = true }},
		{"an empty body to continue with", begin + "Host: a.example\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) {
			r.Framing, r.ExpectContinue = fetch.FramingLength, true
		}},
		{"upgrade", begin + "Host: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", func(r *fetch.Request) {
			r.Fields, r.Framing, r.CloseAfter = list("Upgrade", "websocket"), fetch.FramingUpgrade, true
		}},
		{"*", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", func(r *fetch.Request) { r.Method, r.Target = "OPTIONS", []byte("*") }},
		{"marks", begin + "x-a: 1\r\nCONTENT-length: 5\r\nhost: A.Example\r\nx-b: 2\r\nConnection: Close\r\nexpect: 100-Continue\r\n\r\n", func(r *fetch.Request) {
			r.Verbatim, r.Framing, r.Length, r.CloseAfter, r.ExpectContinue = true, fetch.FramingLength, 5, true, true
			r.Fields = list("x-a", "1", "CONTENT-length", "5", "host", "A.Example", "x-b", "2", "Connection", "Close", "expect", "100-Continue")
		}},
		{"some marks", begin + "Host: a.example\r\nx-a: 1\r\ntransfer-encoding: Chunked\r\nTE: trailers\r\nconnection: keep-alive\r\n\r\n", func(r *fetch.Request) {
			r.Verbatim, r.Framing, r.TrailerNames = true, fetch.FramingChunked, []string{"X-A"}
			r.Fields = list("x-a", "1", "transfer-encoding", "Chunked", "TE", "trailers", "connection", "keep-alive")
		}},
		{"trailers announced", begin + "Host: a.example\r\ntrailer: x-a\r\nTransfer-Encoding: chunked\r\n\r\n", func(r *fetch.Request) {
			r.Verbatim, r.Framing, r.TrailerNames, r.Fields = true, fetch.FramingChunked, []string{"X-A"}, list("trailer", "x-a")
		}},
	} {
		r := &fetch.Request{Method: "GET", Target: []byte("/a%2fb?q")}
		c.alter(r)
		for _, f := range r.Fields {
			if r.Verbatim && !h1.Agrees(f, r, "a.example") {
				t.Errorf("%s: %s: %s is no mark", c.name, f.Name, f.Value)
			}
		}
		if got := string(h1.AppendHead([]byte("before"), r, "a.example")); got != "before"+c.want {
			t.Errorf("%s: wrote %q, want %q", c.name, got, c.want)
		}
		if _, err := http.ReadRequest(bufio.NewReader(strings.NewReader(c.want))); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAgrees(t *testing.T) {
	var (
		none    = fetch.Request{Verbatim: true}
		length  = fetch.Request{Verbatim: true, Framing: fetch.FramingLength, Length: 5, ExpectContinue: true}
		chunked = fetch.Request{Verbatim: true, Framing: fetch.FramingChunked, TrailerNames: []string{"X-A", "x-k"}}
		closing = fetch.Request{Verbatim: true, CloseAfter: true}
		upgrade = fetch.Request{Verbatim: true, Framing: fetch.FramingUpgrade}
	)
	for _, c := range []struct {
		name, value string
		request     fetch.Request
		want        bool
	}{
		{"X-Any", "thing", none, true},
		{"Hosts", "b.example", none, true},
		{"Host", "desk.example:81", none, true},
		{"hOST", "DESK.example:81", none, true},
		{"Host", "desk.example", none, false},
		{"Host", "", none, false},
		{"Host", "de\u017fk.example:81", none, false}, // a long s
		{"Host", "des\u212a.example:81", none, false}, // a Kelvin sign
		{"Host", "desk.example:81 ", none, false},
		{"Content-Length", "5", length, true},
		{"Content-Length", "05", length, false},
		{"Content-Length", "6", length, false},
		{"Content-Length", "0", none, false},
		{"Content-Length", "5", chunked, false},
		{"Transfer-Encoding", "chunked", chunked, true},
		{"transfer-encoding", "CHUNKED", chunked, true},
		{"Transfer-Encoding", "chun\u212aed", chunked, false},
		{"Transfer-Encoding", "gzip, chunked", chunked, false},
		{"Transfer-Encoding", "chunked", length, false},
		{"Transfer-Encoding", "", length, false},
		{"Trailer", "x-a, X-K", chunked, true},
		{"Trailer", "X-A, x-\u212a", chunked, false},
		{"Trailer", "X-A", chunked, false},
		{"Trailer", "X-A", none, false},
		{"Expect", "100-Continue", length, true},
		{"Expect", "100-continue", chunked, false},
		{"Expect", "100-continue", none, false},
		{"TE", "trailers", none, true},
		{"te", "Trailers", chunked, true},
		{"TE", "gzip", none, false},
		{"TE", "trailer\u017f", none, false},
		{"Connection", "keep-alive", none, true},
		{"Connection", "Keep-Alive", length, true},
		{"Connection", "close", none, false},
		{"Connection", "close", closing, true},
		{"Connection", "clo\u017fe", closing, false},
		{"Connection", "keep-alive", closing, false},
		{"Connection", "upgrade", upgrade, true},
		{"Connection", "keep-alive", upgrade, false},
	} {
		f := fetch.Field{Name: c.name, Value: []byte(c.value)}
		if got := h1.Agrees(f, &c.request, "desk.example:81"); got != c.want {
			t.Errorf("%s: %q agrees with %+v: %t", c.name, c.value, c.request, got)
		}
	}
}

func TestIsOwn(t *testing.T) {
	for name, want := range map[string]bool{
		"Host": true, "host": true, "CONTENT-LENGTH": true, "transfer-encoding": true, "Trailer": true, "expect": true, "te": true, "connection": true,
		"Hosts": false, "Hos": false, "": false, "T-E": false, "Keep-Alive": false, "Content_Length": false, "Ho\u017ft": false,
	} {
		if got := h1.IsOwn(name); got != want {
			t.Errorf("%q is own: %t", name, got)
		}
	}
}

// TestChunksWritten: what is written is read alike, here and by net/http.
func TestChunksWritten(t *testing.T) {
	for _, chunks := range [][]int{nil, {1}, {15, 16, 17, 255, 256}, {1 << 20}} {
		var body []byte
		var sizes []string
		for _, n := range chunks {
			before := len(body)
			body = h1.AppendChunkHead(body, n)
			if len(body)-before > h1.ChunkHead {
				t.Errorf("the head of a chunk of %d bytes has %d", n, len(body)-before)
			}
			body = append(append(body, long(n)...), "\r\n"...)
			sizes = append(sizes, long(n))
		}
		body = h1.AppendEnd(body, list("x-a", "1", "X-A", "", "x-A", "\xff"))
		o := read(t, body, way{bare: true, keep: true})
		if !o.isWhole() || fmt.Sprint(o.chunks) != fmt.Sprint(sizes) || fields(o.trailers) != "x-a: 1\r\nX-A: \r\nx-A: \xff\r\n" {
			t.Errorf("%d chunks: read %d, %s, %v", len(chunks), len(o.chunks), fields(o.trailers), o.err)
		}
		theirs := readTheirs(append([]byte(inChunks), body...), "GET")
		if theirs.err != nil || string(theirs.body) != strings.Join(sizes, "") || len(theirs.Trailer["X-A"]) != 3 {
			t.Errorf("%d chunks: net/http reads %d bytes, %q, %v", len(chunks), len(theirs.body), theirs.Trailer, theirs.err)
		}
	}
	if got := h1.AppendChunkHead(nil, math.MaxInt); len(got) > h1.ChunkHead {
		t.Errorf("the longest head of a chunk has %d bytes", len(got))
	}
	if got := string(h1.AppendEnd(nil, nil)); got != "0\r\n\r\n" {
		t.Errorf("without trailers, the end is %q", got)
	}
}

// again is a stream of one response after the other.
type again struct {
	raw []byte
	at  int
}

func (a *again) Ready() error { return nil }

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.raw[a.at:])
	if a.at += n; a.at == len(a.raw) {
		a.at = 0
	}
	return n, nil
}

// typical is a response with 8 fields.
const typical = "HTTP/1.1 200 OK\r\nDate: Tue, 04 Aug 2009 07:59:32 GMT\r\nServer: Apache\r\nContent-Type: text/html; charset=utf-8\r\n" +
	"Cache-Control: max-age=60\r\nETag: \"33a64df551425fcc\"\r\nVary: Accept-Encoding\r\nSet-Cookie: id=a3fWa; Path=/\r\n"

// TestAllocations: a head costs two copies, for its names and for all else, and the
// list of fields; its body costs nothing.
func TestAllocations(t *testing.T) {
	if racing {
		t.Skip("the race detector makes pools forget")
	}
	buffer := make([]byte, 32<<10)
	get := func() []byte { return buffer }
	for raw, most := range map[string]float64{
		typical + "Content-Length: 5\r\n\r\nhello":                            3,
		typical + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n": 5, // and of trailers, which are none
	} {
		r := h1.NewReader(&again{raw: []byte(raw)}, usual)
		got := testing.AllocsPerRun(100, func() { readResponse(t, r, get) })
		if got > most {
			t.Errorf("%.0f allocations, want at most %.0f: %q", got, most, raw)
		}
	}
}

// readResponse reads one response to its end.
func readResponse(t testing.TB, r *h1.Reader, get func() []byte) {
	h, err := r.Head()
	if err != nil {
		t.Fatal(err)
	}
	framing, fault := h1.FramingOf("GET", h)
	if fault != nil {
		t.Fatal(fault)
	}
	r.Begin(framing, false)
	for err == nil {
		_, _, err = r.ReadChunk(get)
	}
	if err != io.EOF {
		t.Fatal(err)
	}
}

// TestBodyAllocations: reading a body allocates nothing, however it is delimited.
func TestBodyAllocations(t *testing.T) {
	if racing {
		t.Skip("the race detector makes pools forget")
	}
	buffer := make([]byte, 32<<10)
	get := func() []byte { return buffer }
	chunk := string(h1.AppendChunkHead(nil, 1000)) + long(1000) + "\r\n"
	for _, c := range []struct {
		framing h1.Framing
		keep    bool
	}{{h1.Framing{Length: -1, Chunked: true}, false}, {h1.Framing{Length: -1, Chunked: true}, true}, {h1.Framing{Length: math.MaxInt64}, false}, {h1.Framing{Length: -1}, false}} {
		r := h1.NewReader(&again{raw: []byte(chunk)}, usual)
		r.Begin(c.framing, c.keep)
		got := testing.AllocsPerRun(1000, func() {
			if _, _, err := r.ReadChunk(get); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%+v, keep %t: %.1f allocations", c.framing, c.keep, got)
		}
	}
}

func BenchmarkHead(b *testing.B) {
	raw := typical + "Content-Length: 0\r\n\r\n"
	r := h1.NewReader(&again{raw: []byte(raw)}, usual)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Head(); err != nil {
			b.Fatal(err)
		}
	}
}
