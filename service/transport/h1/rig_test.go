package h1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// usual are the limits that fetchgate has unless it is told others.
var usual = h1.Limits{Bytes: 64 << 10, Fields: 256}

// pieces is a stream that gives raw in pieces and then the end. It finds fault
// with a reader that reads without having waited, or that waits with a buffer in
// which nothing is.
type pieces struct {
	t    testing.TB
	raw  []byte
	at   int   // bytes that were read
	cuts []int // where pieces end, ascending; there may be none
	step int   // how long every piece is; 0 means that cuts say it
	end  error // nil means io.EOF
	// joined has the end come with the last bytes, as an io.Reader may.
	joined bool

	reader *h1.Reader
	ready  bool
	reads  int
}

func (p *pieces) Ready() error {
	if p.reader.Buffered() == 0 && p.reader.Holds() {
		p.t.Error("the reader waits with a buffer that is empty")
	}
	p.ready = true
	return nil
}

func (p *pieces) Read(b []byte) (int, error) {
	if !p.ready {
		p.t.Error("the reader reads without having waited")
	}
	p.ready = false
	p.reads++
	n := copy(b, p.raw[p.at:p.border()])
	p.at += n
	if p.at < len(p.raw) || n > 0 && !p.joined {
		return n, nil
	}
	if p.end != nil {
		return n, p.end
	}
	return n, io.EOF
}

// border is where the piece ends that is being read.
func (p *pieces) border() int {
	if p.step > 0 {
		return min(p.at+p.step, len(p.raw))
	}
	for _, cut := range p.cuts {
		if cut > p.at && cut < len(p.raw) {
			return cut
		}
	}
	return len(p.raw)
}

// way is how a response is read.
type way struct {
	method string    // "" is GET
	limits h1.Limits // zero means the usual ones
	cuts   []int     // see pieces
	step   int
	joined bool
	keep   bool // see Reader.Begin
	size   int  // of the buffers for the body; 0 means 32 KiB
	// bare tells that there is no head, but chunks at once.
	bare bool
}

// outcome is what reading a response came to.
type outcome struct {
	head     fetch.Head
	framing  h1.Framing
	body     []byte
	chunks   []string // with way.keep: each, and the beginning of one that did not end
	trailers []fetch.Field
	left     int    // bytes behind the response
	taken    int    // bytes that were read from the stream
	inHead   bool   // it ended in the head
	err      error  // io.EOF at the end of the body
	rule     string // of a Fault
}

// String leaves out what depends on the pieces. That is how much is left, too,
// for the reader keeps no more of it than trailers may have.
func (o *outcome) String() string {
	return fmt.Sprintf("head %s, %+v, body %q, trailers %s, more behind it: %t, in the head: %t, %v",
		lines(o.head), o.framing, o.body, fields(o.trailers), o.isWhole() && o.left > 0, o.inHead, o.err)
}

// isWhole tells that the response was read to its end.
func (o *outcome) isWhole() bool { return o.err == io.EOF && !o.inHead }

// reason is that of the fault, or "".
func (o *outcome) reason() fetch.Reason {
	var fault *h1.Fault
	if errors.As(o.err, &fault) {
		return fault.Reason
	}
	return ""
}

// read reads one head, and the body behind it.
func read(t testing.TB, raw []byte, w way) *outcome {
	t.Helper()
	p := &pieces{t: t, raw: raw, cuts: w.cuts, step: w.step, joined: w.joined}
	if w.limits == (h1.Limits{}) {
		w.limits = usual
	}
	r := h1.NewReader(p, w.limits)
	p.reader = r
	o := &outcome{}
	if o.err = o.readHead(r, w); o.err != nil {
		o.inHead = true
	} else {
		r.Begin(o.framing, w.keep)
		o.readBody(p, w)
	}
	var fault *h1.Fault
	if errors.As(o.err, &fault) {
		o.rule = fault.Rule
	}
	o.left, o.taken = len(raw)-p.at+r.Buffered(), p.at
	r.Close()
	if r.Holds() {
		t.Error("a closed reader has a buffer")
	}
	return o
}

func (o *outcome) readHead(r *h1.Reader, w way) (err error) {
	if w.bare {
		o.framing = h1.Framing{Length: -1, Chunked: true}
		return nil
	}
	if o.head, err = r.Head(); err != nil {
		return err
	}
	if w.method == "" {
		w.method = "GET"
	}
	framing, fault := h1.FramingOf(w.method, o.head)
	if o.framing = framing; fault != nil {
		return fault
	}
	return nil
}

func (o *outcome) readBody(p *pieces, w way) {
	t, r := p.t, p.reader
	t.Helper()
	if w.size == 0 {
		w.size = 32 << 10
	}
	buffer := make([]byte, w.size)
	get := func() []byte {
		if !p.ready && r.Buffered() == 0 {
			t.Error("the reader asks for a buffer before it has waited")
		}
		return buffer[:0]
	}
	begin := 0 // of the chunk that is being read
	for {
		b, ends, err := r.ReadChunk(get)
		if r.Buffered() == 0 && r.Holds() {
			t.Error("the reader keeps a buffer that is empty")
		}
		o.body = append(o.body, b...)
		if ends && (len(b) == 0 || !w.keep) {
			t.Errorf("a chunk of %d bytes ends, keep %t", len(b), w.keep)
		}
		if ends || err != nil && begin < len(o.body) {
			o.chunks = append(o.chunks, string(o.body[begin:]))
			begin = len(o.body)
		}
		if err == nil {
			continue
		}
		if o.err = err; err == io.EOF {
			o.trailers = r.Trailers()
		} else if r.Trailers() != nil {
			t.Errorf("trailers of a body that failed: %s", fields(r.Trailers()))
		}
		if _, _, again := r.ReadChunk(get); again != err {
			t.Errorf("the end is %v, and then %v", err, again)
		}
		return
	}
}

// lines writes a head as it would be on the wire, with one space behind each
// colon and none behind a status without a reason.
func lines(h fetch.Head) string {
	if h.Status == 0 {
		return "none"
	}
	status := fmt.Sprintf("%s %d", h.Protocol, h.Status)
	if len(h.Reason) > 0 {
		status += " " + string(h.Reason)
	}
	return status + "\r\n" + fields(h.Fields) + "\r\n"
}

func fields(list []fetch.Field) string {
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	return b.String()
}

// unspaced takes the optional space away from a section: that around the values
// (RFC 9112 section 5), and behind a status without a reason.
func unspaced(section []byte) string {
	var b strings.Builder
	for line := range strings.SplitAfterSeq(string(section), "\r\n") {
		line, isWhole := strings.CutSuffix(line, "\r\n")
		name, value, isField := strings.Cut(line, ":")
		switch {
		case strings.HasPrefix(line, "HTTP/1."):
			if len(line) == len("HTTP/1.1 200 ") {
				line = line[:len(line)-1]
			}
		case isField:
			line = name + ": " + strings.Trim(value, " \t")
		}
		if b.WriteString(line); isWhole {
			b.WriteString("\r\n")
		}
	}
	return b.String()
}

// same fails unless each way of reading raw comes to what the first comes to.
func same(t testing.TB, raw []byte, ways ...way) *outcome {
	t.Helper()
	first := read(t, raw, ways[0])
	var chunks []string
	for _, w := range ways {
		o := read(t, raw, w)
		if o.String() != first.String() {
			t.Fatalf("%.300q\nread as %+v: %s\nread as %+v: %s", raw, ways[0], first, w, o)
		}
		if w.keep && chunks == nil {
			chunks = o.chunks
		}
		if w.keep && strings.Join(chunks, "\n") != strings.Join(o.chunks, "\n") {
			t.Fatalf("%.300q\nas %+v, the chunks are %.300q, not %.300q", raw, w, o.chunks, chunks)
		}
		if w.keep && !bytes.Equal([]byte(strings.Join(o.chunks, "")), o.body) {
			t.Fatalf("%.300q: the chunks %.300q are not the body", raw, o.chunks)
		}
	}
	return first
}

// everyWay are the ways that all must come to the same.
func everyWay(base way, cut int) (ways []way) {
	for _, pieces := range []way{{}, {step: 1}, {step: 7}, {cuts: []int{cut}}, {joined: true}, {cuts: []int{cut}, joined: true}} {
		for _, size := range []int{0, 1, 5} {
			w := base
			w.step, w.cuts, w.joined, w.size = pieces.step, pieces.cuts, pieces.joined, size
			ways = append(ways, w)
			w.keep = true
			ways = append(ways, w)
		}
	}
	return ways
}
