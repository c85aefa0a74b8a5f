package body_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// flushWriter is what the encoders of all codings have in common.
type flushWriter interface {
	io.WriteCloser
	Flush() error
}

// sample is a real encoder of a coding.
type sample struct {
	name   string // of the test
	coding string
	encode func(io.Writer) flushWriter
}

var samples = []sample{
	{"gzip", "gzip", func(w io.Writer) flushWriter { return gzip.NewWriter(w) }},
	{"deflate", "deflate", func(w io.Writer) flushWriter { return zlib.NewWriter(w) }},
	{"deflate bare", "deflate", func(w io.Writer) flushWriter { return must(flate.NewWriter(w, flate.DefaultCompression)) }},
	{"br", "br", func(w io.Writer) flushWriter { return brotli.NewWriterLevel(w, 5) }},
	{"zstd", "zstd", func(w io.Writer) flushWriter {
		return must(zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)))
	}},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// forEachSample runs a subtest for each encoder.
func forEachSample(t *testing.T, test func(*testing.T, sample)) {
	t.Helper()
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) { test(t, s) })
	}
}

func (s sample) encoded(data []byte) []byte {
	var b bytes.Buffer
	w := s.encode(&b)
	must(w.Write(data))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// text returns n bytes that compress to about a third.
func text(n int) []byte {
	var b bytes.Buffer
	for seed := uint32(1); b.Len() < n; {
		seed = seed*1664525 + 1013904223
		b.WriteString("abcdefgh ijklmnop qrstuvwx yzABCDEF "[seed>>27:])
		b.WriteByte(byte(seed >> 16))
	}
	return b.Bytes()[:n]
}

// wireBody is a response body that comes from a reader.
type wireBody struct {
	in     *bufio.Reader
	from   io.Reader
	closed bool
	reads  int
}

func newWireBody(from io.Reader) *wireBody {
	return &wireBody{in: bufio.NewReaderSize(from, 64<<10), from: from}
}

func (b *wireBody) Read(p []byte) (int, error) {
	b.reads++
	return b.in.Read(p)
}

func (b *wireBody) ReadChunk(get func() []byte) ([]byte, bool, error) {
	b.reads++
	if _, err := b.in.Peek(1); err != nil {
		return nil, false, err
	}
	room := get()
	n, err := b.in.Read(room[:min(cap(room), b.in.Buffered())])
	return room[:n], false, err
}

func (b *wireBody) Cut() {}

func (b *wireBody) Close() error {
	b.closed = true
	if c, ok := b.from.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// collector is a sink that keeps what it gets.
type collector struct {
	bufferBytes int // capacity of the buffers, 256 KiB if 0
	sending     func() bool
	took        func(n int) error // called for each Data

	got   bytes.Buffer
	sizes []int  // of each Data
	ends  []bool // endOfChunk of each Data
	lent  map[*byte]bool
	alien bool // a Data was not lent by Buffer
	calls atomic.Int32
}

func (c *collector) Interim(fetch.Head) error      { return nil }
func (c *collector) Hop(fetch.Head, string) error  { return nil }
func (c *collector) Head(fetch.Head, string) error { return nil }

func (c *collector) Buffer() []byte {
	defer c.alone()()
	if c.bufferBytes == 0 {
		c.bufferBytes = 256 << 10
	}
	b := make([]byte, c.bufferBytes)
	if c.lent == nil {
		c.lent = map[*byte]bool{}
	}
	c.lent[&b[0]] = true
	return b[:0]
}

func (c *collector) Data(b []byte, endOfChunk bool) error {
	defer c.alone()()
	if first := unsafe.SliceData(b); c.lent[first] {
		delete(c.lent, first)
	} else {
		c.alien = true
	}
	c.got.Write(b)
	c.sizes = append(c.sizes, len(b))
	c.ends = append(c.ends, endOfChunk)
	if c.took != nil {
		return c.took(len(b))
	}
	return nil
}

func (c *collector) Sending() bool {
	defer c.alone()()
	return c.sending != nil && c.sending()
}

// alone panics if calls of the sink overlap.
func (c *collector) alone() (done func()) {
	if c.calls.Add(1) != 1 {
		panic("calls of the sink overlap")
	}
	return func() { c.calls.Add(-1) }
}

// streamPlan is the plan of a stream without a bound of its own.
func streamPlan() fetch.ResponsePlan {
	limits := fetch.DefaultLimits()
	return fetch.ResponsePlan{
		MaxBodyBytes: math.MaxInt64,
		TooLarge:     fetch.ReasonBodyTooLarge,
		Decode:       true,
		MaxCodings:   limits.MaxCodings,
		MaxRatio:     limits.MaxDecodedRatio,
		RatioFloor:   limits.DecodedRatioFloor,
	}
}

// response is an answer with these Content-Encodings and this body.
func response(b fetch.Body, encodings ...string) *fetch.Response {
	r := &fetch.Response{Length: -1, Body: b}
	for _, e := range encodings {
		r.Fields = append(r.Fields, fetch.Field{Name: "Content-Encoding", Value: []byte(e)})
	}
	return r
}

// decode copies a body of these codings.
func decode(coded []byte, encodings ...string) ([]byte, body.Copied, error) {
	var sink collector
	copied, err := body.Copy(&sink, response(newWireBody(bytes.NewReader(coded)), encodings...), streamPlan(), body.Options{})
	return sink.got.Bytes(), copied, err
}

// wantFailure fails t unless err is a failure of this reason.
func wantFailure(t *testing.T, err error, reason fetch.Reason) *fetch.Failure {
	t.Helper()
	var f *fetch.Failure
	if !errors.As(err, &f) || f.Reason != reason {
		t.Fatalf("error %v, want a failure %s", err, reason)
	}
	if f.Sent != fetch.SentYes {
		t.Errorf("the failure says that the request was sent: %q", f.Sent)
	}
	return f
}
