package h1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

func TestBodies(t *testing.T) {
	for _, c := range []struct {
		name, method, raw string
		body              string
		left              int
		err               error
	}{
		{"length", "GET", ok + "Content-Length: 5\r\n\r\nhello", "hello", 0, io.EOF},
		{"length and more", "GET", ok + "Content-Length: 5\r\n\r\nhelloHTTP/1.1", "hello", 8, io.EOF},
		{"length and less", "GET", ok + "Content-Length: 5\r\n\r\nhell", "hell", 0, io.ErrUnexpectedEOF},
		{"length and nothing", "GET", ok + "Content-Length: 5\r\n\r\n", "", 0, io.ErrUnexpectedEOF},
		{"length 0", "GET", ok + "Content-Length: 0\r\n\r\n", "", 0, io.EOF},
		{"length 0 and more", "GET", ok + "Content-Length: 0\r\n\r\nx", "", 1, io.EOF},
		{"chunks", "GET", inChunks + "5\r\nhello\r\n0\r\n\r\n", "hello", 0, io.EOF},
		{"chunks and more", "GET", inChunks + "5\r\nhello\r\n0\r\n\r\n0\r\n\r\n", "hello", 5, io.EOF},
		{"no chunks", "GET", inChunks + "0\r\n\r\n", "", 0, io.EOF},
		{"chunks and nothing", "GET", inChunks, "", 0, io.ErrUnexpectedEOF},
		{"to the end", "GET", ok + "\r\nhello", "hello", 0, io.EOF},
		{"to the end at once", "GET", "HTTP/1.0 200 OK\r\n\r\n", "", 0, io.EOF},
		{"HEAD", "HEAD", ok + "Content-Length: 5\r\n\r\nhello", "", 5, io.EOF},
		{"HEAD in chunks", "HEAD", inChunks + "5\r\nhello\r\n0\r\n\r\n", "", 15, io.EOF},
		{"204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "", 5, io.EOF},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", 5, io.EOF},
		{"a head that breaks off", "GET", ok + "Content-Le", "", len(ok) + 10, io.ErrUnexpectedEOF},
		{"nothing", "GET", "", "", 0, io.EOF},
	} {
		var ways []way
		for cut := range max(1, len(c.raw)) {
			for _, keep := range []bool{false, true} {
				ways = append(ways, way{method: c.method, cuts: []int{cut}, keep: keep}, way{method: c.method, cuts: []int{cut}, keep: keep, joined: true, size: 2})
			}
		}
		o := same(t, []byte(c.raw), append(ways, way{method: c.method, step: 1, size: 1})...)
		if o.err != c.err || string(o.body) != c.body || o.left != c.left {
			t.Errorf("%s: %s, want %q, %d left, %v", c.name, o, c.body, c.left, c.err)
		}
	}
}

// endless is a stream that never ends and writes nothing: what a body of it is
// does not matter.
type endless struct{ head string }

func (e *endless) Ready() error { return nil }

func (e *endless) Read(p []byte) (int, error) {
	if e.head != "" {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	return len(p), nil
}

// TestMoreThan4GiB: lengths are counted in 64 bits.
func TestMoreThan4GiB(t *testing.T) {
	const length = 4<<30 + 1
	for _, head := range []string{ok + "Content-Length: 4294967297\r\n\r\n", inChunks + "100000001\r\n"} {
		r := h1.NewReader(&endless{head}, usual)
		h, err := r.Head()
		if err != nil {
			t.Fatal(err)
		}
		framing, _ := h1.FramingOf("GET", h)
		r.Begin(framing, true)
		var n int64
		buffer := make([]byte, 1<<20)
		get := func() []byte { return buffer }
		for isEnd := false; err == nil && !isEnd; {
			var b []byte
			b, isEnd, err = r.ReadChunk(get)
			n += int64(len(b))
		}
		if n != length || err != nil && err != io.EOF {
			t.Errorf("%q: %d bytes, %v", head, n, err)
		}
	}
}

// TestOneAfterTheOther: what is behind a response stays, and is the next one.
func TestOneAfterTheOther(t *testing.T) {
	const raw = "HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nab" +
		inChunks + "2\r\ncd\r\n0\r\nX-A: 1\r\n\r\n" + "HTTP/1.1 204 No Content\r\n\r\n" + "HTTP/1.0 200 OK\r\n\r\nuntil the end"
	want := []string{`103 "" "" <nil>`, `200 "ab" "" <nil>`, `200 "cd" "X-A: 1\r\n" <nil>`, `204 "" "" <nil>`, `200 "until the end" "" <nil>`}
	for _, step := range []int{0, 1, 2, 50} {
		p := &pieces{t: t, raw: []byte(raw), step: step}
		r := h1.NewReader(p, usual)
		p.reader = r
		var got []string
		for {
			h, err := r.Head()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			framing, fault := h1.FramingOf("GET", h)
			if fault != nil {
				t.Fatal(fault)
			}
			r.Begin(framing, false)
			body, err := io.ReadAll(r)
			got = append(got, fmt.Sprintf("%d %q %q %v", h.Status, body, fields(r.Trailers()), err))
			if step == 0 && len(got) < 5 && r.Buffered() == 0 {
				t.Errorf("nothing is buffered behind %s", got)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: %q", step, got)
		}
		if r.Holds() {
			t.Error("a reader at its end has a buffer")
		}
	}
}

// TestLargeHeads are larger than what a reader begins with, and end anywhere in
// what came.
func TestLargeHeads(t *testing.T) {
	for _, size := range []int{h1.SpareSize - 1, h1.SpareSize, h1.SpareSize + 1, 2*h1.SpareSize - 1, 2 * h1.SpareSize, 5000, 20_000, 64 << 10} {
		head := ok + "Content-Length: 3\r\nA: \r\n\r\n"
		head = strings.Replace(head, "A: ", "A: "+long(size-len(head)), 1)
		for _, behind := range []string{"abc", "abcHTTP/1.1 200 OK", "abc" + long(100_000)} {
			raw := []byte(head + behind)
			o := same(t, raw, way{}, way{step: 1}, way{step: 1000}, way{cuts: []int{size - 1}}, way{cuts: []int{size}}, way{cuts: []int{size + 1}}, way{size: 1})
			if !o.isWhole() || string(o.body) != "abc" || o.left != len(behind)-3 || lines(o.head) != head {
				t.Errorf("a head of %d bytes: body %q, %d left, %v", size, o.body, o.left, o.err)
			}
		}
	}
}

// TestManyHeads: a buffer that always has some of the next head does not grow.
func TestManyHeads(t *testing.T) {
	r := h1.NewReader(&again{raw: []byte(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n", 1000))}, usual)
	for range 10_000 {
		if _, err := r.Head(); err != nil {
			t.Fatal(err)
		}
		if r.Room() > h1.SpareSize {
			t.Fatalf("the buffer has grown to %d bytes", r.Room())
		}
	}
}

// TestReadsNoFurther: bytes of a body go straight into its buffer, and those
// behind it stay where they are.
func TestReadsNoFurther(t *testing.T) {
	const head = ok + "Content-Length: 5\r\n\r\n"
	o := read(t, []byte(head+"hello, world"), way{cuts: []int{len(head)}})
	if o.taken != len(head)+5 || !o.isWhole() {
		t.Errorf("%d bytes were read: %s", o.taken, o)
	}
}

// TestTrailers: they are kept as they came, behind data in the same piece too.
func TestTrailers(t *testing.T) {
	const section = "x-b:  2 \r\nX-A: 1\r\nX-B:3\r\nx-empty:\r\n\xff"
	const want = "x-b: 2\r\nX-A: 1\r\nX-B: 3\r\nx-empty: \r\n"
	raw := inChunks + "5\r\nhello\r\n0\r\n" + strings.TrimSuffix(section, "\xff") + "\r\n" + "rest"
	o := same(t, []byte(raw), append(splits(raw, way{}), splits(raw, way{keep: true})...)...)
	if fields(o.trailers) != want || !o.isWhole() || o.left != 4 || string(o.body) != "hello" {
		t.Errorf("%s", o)
	}
	r := whole(t, ok+"Content-Length: 1\r\n\r\nx")
	if _, err := r.Head(); err != nil || r.Trailers() != nil {
		t.Errorf("trailers before any body: %v, %v", r.Trailers(), err)
	}
}

func TestTrailersRefused(t *testing.T) {
	for section, rule := range map[string]string{
		"X-A: 1\n\r\n":         "a line does not end with CRLF",
		"\n":                   "a line does not end with CRLF",
		"GARBAGE\r\n\r\n":      "a field has no colon",
		"X-A : 1\r\n\r\n":      "the name of a field is not a token",
		": 1\r\n\r\n":          "the name of a field is not a token",
		"X-A: 1\r\n 2\r\n\r\n": "a field is folded over two lines",
		"X-A: \x00\r\n\r\n":    "the value of a field has a control character",
	} {
		raw := inChunks + "5\r\nhello\r\n0\r\n" + section
		o := same(t, []byte(raw), append(splits(raw, way{}), splits(raw, way{keep: true})...)...)
		if o.rule != "in the trailer section, "+rule || o.reason() != fetch.ReasonInvalidChunk || string(o.body) != "hello" || o.trailers != nil {
			t.Errorf("%q: %s", section, o)
		}
	}
}

// TestTrailerLimits: they are exact, also where the trailers came with data in
// one piece, and were kept of a buffer that is not the reader's.
func TestTrailerLimits(t *testing.T) {
	bytesOf := func(n int) string { return "A: " + long(n-len("A: \r\n\r\n")) + "\r\n\r\n" }
	for _, c := range []struct {
		name, section string
		limit         string
	}{
		{"64 KiB", bytesOf(64 << 10), ""},
		{"64 KiB and 1", bytesOf(64<<10 + 1), "max_response_field_bytes"},
		{"without an end", "A: " + long(1<<20), "max_response_field_bytes"},
		{"256 fields", strings.Repeat("a:\r\n", 256) + "\r\n", ""},
		{"257 fields", strings.Repeat("a:\r\n", 257) + "\r\n", "max_response_fields"},
	} {
		for _, behind := range []string{"", "x", long(200_000)} {
			raw := []byte(inChunks + "5\r\nhello\r\n0\r\n" + c.section + behind)
			begin := len(inChunks)
			o := same(t, raw, way{}, way{cuts: []int{begin}}, way{cuts: []int{begin + 3}, size: 1 << 20}, way{cuts: []int{begin + 3, begin + 20}, size: 1 << 20},
				way{cuts: []int{begin + 3}, size: 70_000}, way{step: 999}, way{keep: true}, way{keep: true, step: 4096})
			if isWhole := c.limit == ""; o.isWhole() != isWhole || string(o.body) != "hello" || isWhole && (o.left > 0) != (behind != "") {
				t.Errorf("%s, %d bytes behind it: %v, %d left", c.name, len(behind), o.err, o.left)
			} else if !isWhole && (o.reason() != fetch.ReasonHeadTooLarge || o.err.(*h1.Fault).Limit.Limit != c.limit) {
				t.Errorf("%s: %v", c.name, o.err)
			}
		}
	}
}

// TestKeepsLittle: of what a big read brings behind a body, no more is kept than
// trailers may have.
func TestKeepsLittle(t *testing.T) {
	raw := []byte("1\r\nx\r\n0\r\n\r\n" + long(1<<20))
	p := &pieces{t: t, raw: raw, cuts: []int{3}}
	r := h1.NewReader(p, usual)
	p.reader = r
	r.Begin(h1.Framing{Length: -1, Chunked: true}, false)
	buffer := make([]byte, 2<<20)
	for err := error(nil); err == nil; {
		_, _, err = r.ReadChunk(func() []byte { return buffer })
	}
	if got := r.Buffered(); got == 0 || got > usual.Bytes {
		t.Errorf("%d bytes are kept", got)
	}
	r.Close()
}

// TestRest: what follows a response that changes the protocol is given once.
func TestRest(t *testing.T) {
	r := whole(t, "HTTP/1.1 101 Switching Protocols\r\n\r\nother protocol")
	if _, err := r.Head(); err != nil {
		t.Fatal(err)
	}
	if rest := r.Rest(); string(rest) != "other protocol" || r.Buffered() != 0 || r.Holds() {
		t.Errorf("the rest is %q, buffered %d, holds a buffer %t", rest, r.Buffered(), r.Holds())
	}
	if rest := r.Rest(); len(rest) != 0 {
		t.Errorf("the rest of nothing is %q", rest)
	}
}

func TestClose(t *testing.T) {
	for raw, want := range map[string]error{
		ok + "Content-Length: 9\r\n\r\nabc":  io.ErrClosedPipe,
		inChunks + "9\r\nabc":                io.ErrClosedPipe,
		ok + "\r\nabc":                       io.ErrClosedPipe,
		ok + "Content-Length: 0\r\n\r\nrest": io.EOF,
	} {
		r := whole(t, raw)
		h, _ := r.Head()
		framing, _ := h1.FramingOf("GET", h)
		r.Begin(framing, false)
		r.Close()
		n, err := r.Read(make([]byte, 9))
		if n != 0 || err != want || r.Buffered() != 0 || r.Holds() {
			t.Errorf("%q: read %d bytes, %v; buffered %d, holds a buffer %t", raw, n, err, r.Buffered(), r.Holds())
		}
	}
}

// TestReadOfNothing neither waits nor ends anything.
func TestReadOfNothing(t *testing.T) {
	r := h1.NewReader(&broken{err: errBroken}, usual)
	r.Begin(h1.Framing{Length: 1}, false)
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

var errBroken = errors.New("the connection broke")

// broken is a stream that gives one piece after the other, and an error instead
// of each that is "".
type broken struct {
	pieces []string
	err    error
}

func (b *broken) Ready() error {
	if len(b.pieces) == 0 {
		return b.err
	}
	if b.pieces[0] == "" {
		b.pieces = b.pieces[1:]
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (b *broken) Read(p []byte) (int, error) {
	n := copy(p, b.pieces[0])
	if b.pieces[0] = b.pieces[0][n:]; b.pieces[0] == "" {
		b.pieces = b.pieces[1:]
	}
	return n, nil
}

// TestStreamErrors: the stream's own errors are passed on, and hide nothing that
// came before.
func TestStreamErrors(t *testing.T) {
	for _, raw := range []string{ok + "Content-Length: 9\r\n\r\nabc", inChunks + "9\r\nabc", inChunks + "3\r\nabc", inChunks + "3\r\nabc\r\n0\r\nX-A: b", ok + "\r\nabc"} {
		for _, keep := range []bool{false, true} {
			r := h1.NewReader(&broken{[]string{raw}, errBroken}, usual)
			h, err := r.Head()
			if err != nil {
				t.Fatal(err)
			}
			framing, _ := h1.FramingOf("GET", h)
			r.Begin(framing, keep)
			body, err := io.ReadAll(r)
			if string(body) != "abc" || err != errBroken || r.Trailers() != nil {
				t.Errorf("%q: body %q, %v, trailers %s", raw, body, err, fields(r.Trailers()))
			}
			r.Close()
		}
	}
}

// TestHeadAfterADeadline: a head can be waited for again, and nothing of it is
// lost.
func TestHeadAfterADeadline(t *testing.T) {
	const raw = "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"
	for cut := range raw {
		s := &broken{pieces: []string{raw[:cut], "", raw[cut:]}, err: errBroken}
		if cut == 0 {
			s.pieces = s.pieces[1:]
		}
		r := h1.NewReader(s, usual)
		_, err := r.Head()
		if err != os.ErrDeadlineExceeded || r.Buffered() != cut || cut == 0 && r.Holds() {
			t.Fatalf("%q: %v, %d bytes buffered", raw[:cut], err, r.Buffered())
		}
		if h, err := r.Head(); err != nil || lines(h) != raw {
			t.Errorf("%q, then the rest: %q, %v", raw[:cut], lines(h), err)
		}
	}
}

func TestWait(t *testing.T) {
	p := &pieces{t: t, raw: []byte("HTTP/1.1 204\r\n\r\n"), step: 1}
	r := h1.NewReader(p, usual)
	p.reader = r
	for range 3 {
		if err := r.Wait(); err != nil || r.Buffered() != 1 {
			t.Errorf("%v, %d bytes buffered", err, r.Buffered())
		}
	}
	if _, err := r.Head(); err != nil {
		t.Error(err)
	}
	if err := r.Wait(); err != io.EOF || r.Holds() {
		t.Errorf("at the end: %v, holds a buffer %t", err, r.Holds())
	}
	if err := h1.NewReader(&broken{err: errBroken}, usual).Wait(); err != errBroken {
		t.Error(err)
	}
}

// TestReader reads as an io.Reader, with buffers of any size.
func TestReader(t *testing.T) {
	want := []byte(long(10_000))
	var body []byte
	for begin := 0; begin < len(want); begin += 999 {
		data := want[begin:min(begin+999, len(want))]
		body = append(append(h1.AppendChunkHead(body, len(data)), data...), "\r\n"...)
	}
	body = h1.AppendEnd(body, nil)
	for _, size := range []int{1, 2, 3, 998, 999, 1000, 4096, 1 << 20} {
		for _, keep := range []bool{false, true} {
			p := &pieces{t: t, raw: body, step: 3000}
			r := h1.NewReader(p, usual)
			p.reader = r
			r.Begin(h1.Framing{Length: -1, Chunked: true}, keep)
			var got bytes.Buffer
			_, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{r}, make([]byte, size))
			if err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("buffers of %d: %d bytes, %v", size, got.Len(), err)
			}
		}
	}
}
