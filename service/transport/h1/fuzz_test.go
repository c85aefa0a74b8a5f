package h1_test

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// small are limits that a fuzzer finds.
var small = h1.Limits{Bytes: 200, Fields: 6}

// shapes are responses as the tests of HTTP libraries have them.
var shapes = []string{
	"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nBody here\n",
	"HTTP/1.1 200 OK\r\n\r\nBody here\n",
	"HTTP/1.1 204 No Content\r\n\r\nBody should not be read!\n",
	"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nBody here\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0a\r\nBody here\n\r\n09\r\ncontinued\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 10\r\n\r\n0a\r\nBody here\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 256\r\nConnection: keep-alive, close\r\n\r\n",
	"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nab",
	"HTTP/1.0 303\r\n\r\n", "HTTP/1.0 303 \r\n\r\n", "HTTP/1.1 999 Odd \xe9\r\nX: \x80\xff\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 05\r\ncontent-length: 05\r\n\r\nhello",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTrailer: X-A, X-B\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=\"b;c\"\r\nabc\r\n00\r\nX-A:  1\t\r\nx-b:\r\nX-A: 2\r\n\r\nrest",
	"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nA:b\r\na:\tc \r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 ;x\r\na\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0;\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\u212aed\r\n\r\n1\r\na\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\nA: b\n c\n\nbody", "HTTP/1.1  200 OK\r\nA : b\r\n\r\n", "HTTP/2.0 +20 \x01\r\n\r\n",
}

// responses are the seeds: what others test their parsers with.
func responses(f *testing.F) (list [][]byte) {
	for _, c := range fetchtest.ResponseCases(f) {
		list = append(list, c.Raw)
	}
	for _, shape := range shapes {
		list = append(list, []byte(shape))
	}
	return list
}

// cutHead cuts a seed where its head ends.
func cutHead(raw []byte) (head, rest []byte) {
	i := bytes.Index(raw, []byte("\r\n\r\n"))
	if i < 0 {
		return raw, nil
	}
	return raw[:i+4], raw[i+4:]
}

// FuzzHead reads any bytes as a head, in any pieces: a head that is taken has all
// of its bytes, and the limits are exact.
func FuzzHead(f *testing.F) {
	for _, raw := range responses(f) {
		head, _ := cutHead(raw)
		f.Add(head, len(head)/2)
	}
	f.Fuzz(func(t *testing.T, raw []byte, cut int) {
		wide := same(t, raw, headWays(usual, cut)...)
		if wide.head.Status != 0 {
			checkHead(t, raw, wide.head)
		}
		tight := same(t, raw, headWays(small, cut)...)
		used := len(raw) - wide.left
		fits := used <= small.Bytes && len(wide.head.Fields) <= small.Fields
		if wide.head.Status != 0 && (tight.head.Status != 0) != fits {
			t.Fatalf("%q has %d bytes and %d fields, and with %+v it is %v", raw, used, len(wide.head.Fields), small, tight.err)
		}
		if most := max(h1.SpareSize, 2*small.Bytes); tight.inHead && tight.taken > most {
			t.Fatalf("%d bytes were read of a head that may have %d", tight.taken, small.Bytes)
		}
	})
}

// headWays read a head and nothing behind it.
func headWays(limits h1.Limits, cut int) []way {
	var ways []way
	for _, w := range []way{{}, {step: 1}, {step: 3}, {cuts: []int{cut}}, {joined: true}} {
		w.limits, w.method = limits, "HEAD"
		ways = append(ways, w)
	}
	return ways
}

// checkHead holds that a head is what its bytes say.
func checkHead(t *testing.T, raw []byte, h fetch.Head) {
	t.Helper()
	section, _ := cutHead(raw)
	if got, want := lines(h), unspaced(section); got != want {
		t.Fatalf("read %q, written again %q, want %q", section, got, want)
	}
	for _, field := range h.Fields {
		if !fetch.IsToken(field.Name) || !h1.IsFieldText(field.Value) || !bytes.Equal(field.Value, bytes.Trim(field.Value, " \t")) {
			t.Fatalf("the field %q: %q", field.Name, field.Value)
		}
	}
}

// FuzzChunks reads any bytes as a chunked body, in any pieces: one that is taken
// is what is written of its chunks and trailers.
func FuzzChunks(f *testing.F) {
	for _, raw := range responses(f) {
		if _, body := cutHead(raw); len(body) > 0 && bytes.Contains(bytes.ToLower(raw), []byte("chunked")) {
			f.Add(body, len(body)/2)
		}
	}
	f.Add([]byte("1;"+strings.Repeat("a", h1.MaxSizeLine-3)+"\r\nx\r\n0\r\n\r\n"), 9)
	f.Add([]byte(strings.Repeat("0000000000000001\r\nx\r\n", 20)+"0\r\n\r\n"), 9)
	f.Add([]byte("7fffffffffffffff\r\nx"), 9)
	f.Fuzz(func(t *testing.T, raw []byte, cut int) {
		o := same(t, raw, everyWay(way{bare: true}, cut)...)
		if !o.isWhole() {
			return
		}
		var written []byte
		for _, chunk := range read(t, raw, way{bare: true, keep: true}).chunks {
			written = h1.AppendChunkHead(written, len(chunk))
			written = append(append(written, chunk...), "\r\n"...)
		}
		written = h1.AppendEnd(written, o.trailers)
		if want := plainChunks(t, raw[:len(raw)-o.left]); string(written) != want {
			t.Fatalf("read %q, written again %q, want %q", raw, written, want)
		}
	})
}

// plainChunks writes a chunked body without extensions, leading zeros and the
// space around the values of trailers.
func plainChunks(t *testing.T, raw []byte) string {
	t.Helper()
	var b strings.Builder
	for {
		line, rest, _ := strings.Cut(string(raw), "\r\n")
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil {
			t.Fatalf("a chunk-size of %q was taken", size)
		}
		b.WriteString(strconv.FormatInt(n, 16) + "\r\n")
		if n == 0 {
			return b.String() + unspaced([]byte(rest))
		}
		b.WriteString(rest[:n+2])
		raw = []byte(rest[n+2:])
	}
}

// FuzzTrailers reads any bytes as what follows the last chunk: it is judged as a
// head with these fields is, whether it comes alone or behind data.
func FuzzTrailers(f *testing.F) {
	for _, raw := range responses(f) {
		head, _ := cutHead(raw)
		_, section, _ := bytes.Cut(head, []byte("\r\n"))
		f.Add(section, uint8(len(section)))
	}
	f.Add([]byte("\r\nrest"), uint8(0))
	f.Fuzz(func(t *testing.T, section []byte, data uint8) {
		raw := []byte("0\r\n")
		if data > 0 {
			raw = append(h1.AppendChunkHead(nil, int(data)), strings.Repeat("x", int(data))+"\r\n0\r\n"...)
		}
		begin := len(raw)
		raw = append(raw, section...)
		o := same(t, raw, everyWay(way{bare: true, limits: small}, begin+int(data))...)
		const status = "HTTP/1.1 200\r\n"
		limits := h1.Limits{Bytes: small.Bytes + len(status), Fields: small.Fields}
		h := read(t, append([]byte(status), section...), way{method: "HEAD", limits: limits})
		if isTaken := h.head.Status != 0; isTaken != o.isWhole() {
			t.Fatalf("%q: as trailers %v, in a head %v", section, o.err, h.err)
		} else if !isTaken {
			checkTrailerFault(t, section, o, h)
		} else if fields(o.trailers) != fields(h.head.Fields) || (o.left > 0) != (h.left > 0) {
			t.Fatalf("%q: as trailers %q, %d left, in a head %q, %d left", section, fields(o.trailers), o.left, fields(h.head.Fields), h.left)
		}
	})
}

// checkTrailerFault holds that trailers fail as a head does, under their own
// reason.
func checkTrailerFault(t *testing.T, section []byte, trailers, head *outcome) {
	t.Helper()
	want := head.reason()
	if want == fetch.ReasonMalformedHead {
		want = fetch.ReasonInvalidChunk
	}
	if trailers.reason() != want || want == "" && trailers.err != io.ErrUnexpectedEOF {
		t.Fatalf("%q: as trailers %v, in a head %v", section, trailers.err, head.err)
	}
}
