package body_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// step is what an upstream does next.
type step struct {
	after      time.Duration
	data       string
	fills      time.Duration // how long it takes to write data
	endOfChunk bool
	err        error
}

// script is a body that comes in steps, one for each ReadChunk, and then ends.
type script struct {
	ctx    context.Context
	steps  []step
	wrote  []*byte // where the first byte of each ReadChunk went
	closed bool
}

func (s *script) ReadChunk(get func() []byte) (b []byte, endOfChunk bool, err error) {
	if len(s.steps) == 0 {
		return nil, false, io.EOF
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	if next.after > 0 {
		select {
		case <-time.After(next.after):
		case <-s.ctx.Done():
			return nil, false, fetch.Fail(fetch.ReasonTotalTimeout, "the context ended", s.ctx.Err())
		}
	}
	if next.data == "" {
		return nil, next.endOfChunk, next.err
	}
	b = get()
	if next.fills > 0 {
		<-time.After(next.fills)
	}
	b = b[:copy(b[:cap(b)], next.data)]
	s.wrote = append(s.wrote, unsafe.SliceData(b))
	if rest := next.data[len(b):]; rest != "" {
		s.steps = append([]step{{data: rest, endOfChunk: next.endOfChunk, err: next.err}}, s.steps...)
		return b, false, nil
	}
	return b, next.endOfChunk, next.err
}

func (s *script) Read(p []byte) (int, error) {
	b, _, err := s.ReadChunk(func() []byte { return p[:0] })
	return len(b), err
}

func (s *script) Close() error { s.closed = true; return nil }
func (s *script) Cut()         {}

// copyScript copies a body of these steps.
func copyScript(sink fetch.Sink, opts body.Options, steps ...step) error {
	_, err := body.Copy(sink, response(&script{ctx: context.Background(), steps: steps}), streamPlan(), opts)
	return err
}

func equalSizes(got []int, want ...int) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if got[i] != want[i] {
			return false
		}
	}
	return true
}

func TestUndecodedBytesAreNotCopied(t *testing.T) {
	from := &script{steps: []step{{data: "a"}, {data: strings.Repeat("b", 300<<10)}, {data: "c"}}}
	where := &places{}
	if _, err := body.Copy(where, response(from), streamPlan(), body.Options{}); err != nil {
		t.Fatal(err)
	}
	if len(where.took) != 4 || len(from.wrote) != 4 {
		t.Fatalf("%d writes became %d Data, want 4", len(from.wrote), len(where.took))
	}
	for i, at := range where.took {
		if at != from.wrote[i] || at != where.lent[i] {
			t.Errorf("Data %d: lent at %p, written at %p, taken at %p", i, where.lent[i], from.wrote[i], at)
		}
	}
}

// places is a sink that remembers where its buffers were.
type places struct {
	collector
	lent, took []*byte
}

func (p *places) Buffer() []byte {
	b := p.collector.Buffer()
	p.lent = append(p.lent, unsafe.SliceData(b))
	return b
}

func (p *places) Data(b []byte, endOfChunk bool) error {
	p.took = append(p.took, unsafe.SliceData(b))
	return p.collector.Data(b, endOfChunk)
}

func TestOnlyLentBuffersAreGiven(t *testing.T) {
	for _, s := range append(samples, sample{name: "none"}) {
		for _, size := range []int{1, 2, 7, 16 << 10, 256 << 10} {
			data := text(min(size*500, 100_000))
			coded, encodings := data, ""
			if s.encode != nil {
				coded, encodings = s.encoded(data), s.coding
			}
			for _, busy := range []bool{false, true} {
				sink := &collector{bufferBytes: size, sending: func() bool { return busy }}
				resp := response(newWireBody(bytes.NewReader(coded)), encodings)
				if _, err := body.Copy(sink, resp, streamPlan(), body.Options{}); err != nil {
					t.Fatal(err)
				}
				if sink.alien || !bytes.Equal(sink.got.Bytes(), data) {
					t.Errorf("%s, buffers of %d bytes, busy %t: the body is another one, or a buffer was not lent", s.name, size, busy)
				}
			}
		}
	}
}

func TestBodyLimit(t *testing.T) {
	const most = 10_000
	for _, s := range append(samples, sample{name: "none"}) {
		for _, size := range []int{0, most - 1, most, most + 1, most + 100_000} {
			for _, reason := range []fetch.Reason{fetch.ReasonBodyTooLarge, fetch.ReasonResponseTooLarge} {
				data := text(size)
				coded, encodings := data, ""
				if s.encode != nil {
					coded, encodings = s.encoded(data), s.coding
				}
				from := newWireBody(bytes.NewReader(coded))
				plan := streamPlan()
				plan.MaxBodyBytes, plan.TooLarge = most, reason
				sink := &collector{bufferBytes: 3000}
				copied, err := body.Copy(sink, response(from, encodings), plan, body.Options{})
				if size <= most {
					if err != nil {
						t.Errorf("%s, %d bytes: %v", s.name, size, err)
					}
				} else if f := wantFailure(t, err, reason); f.LimitHit == nil ||
					*f.LimitHit != (fetch.LimitHit{Limit: "max_response_body_bytes", Max: most}) {
					t.Errorf("%s, %d bytes: limit %+v", s.name, size, f.LimitHit)
				}
				if want := min(size, most); copied.BodyBytes != int64(want) || !bytes.Equal(sink.got.Bytes(), data[:want]) {
					t.Errorf("%s, %d bytes: %d were given, want %d", s.name, size, copied.BodyBytes, want)
				}
				if !from.closed {
					t.Errorf("%s, %d bytes: the body was not closed", s.name, size)
				}
			}
		}
	}
}

func TestLimitOfZeroBytes(t *testing.T) {
	plan := streamPlan()
	plan.MaxBodyBytes = 0
	var sink collector
	if _, err := body.Copy(&sink, response(newWireBody(strings.NewReader(""))), plan, body.Options{}); err != nil {
		t.Error(err)
	}
	_, err := body.Copy(&sink, response(newWireBody(strings.NewReader("x"))), plan, body.Options{})
	wantFailure(t, err, fetch.ReasonBodyTooLarge)
	if len(sink.sizes) != 0 {
		t.Errorf("%d bytes were given", sink.sizes)
	}
}

func TestDeclaredLengthOverTheLimit(t *testing.T) {
	for _, tt := range []struct {
		reason fetch.Reason
		given  int64
	}{
		{fetch.ReasonResponseTooLarge, 0},
		{fetch.ReasonBodyTooLarge, 100},
	} {
		from := newWireBody(bytes.NewReader(text(101)))
		resp := response(from)
		resp.Length = 101
		plan := streamPlan()
		plan.MaxBodyBytes, plan.TooLarge = 100, tt.reason
		copied, err := body.Copy(new(collector), resp, plan, body.Options{})
		wantFailure(t, err, tt.reason)
		if copied.BodyBytes != tt.given || (from.reads > 0) != (tt.given > 0) || !from.closed {
			t.Errorf("%s: %+v after %d reads, closed: %t", tt.reason, copied, from.reads, from.closed)
		}
	}
}

// The declared length is that of the coded body, which says nothing of the
// limit when it is decoded.
func TestDeclaredLengthOfACodedBody(t *testing.T) {
	coded := samples[0].encoded([]byte("x"))
	resp := response(newWireBody(bytes.NewReader(coded)), "gzip")
	resp.Length = int64(len(coded))
	plan := streamPlan()
	plan.MaxBodyBytes, plan.TooLarge = 1, fetch.ReasonResponseTooLarge
	if _, err := body.Copy(new(collector), resp, plan, body.Options{}); err != nil {
		t.Error(err)
	}
}

// endless is a body of zeros that are not even written.
type endless struct{ left int64 }

func (e *endless) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if e.left == 0 {
		return nil, false, io.EOF
	}
	b := get()
	b = b[:min(e.left, int64(cap(b)))]
	e.left -= int64(len(b))
	return b, false, nil
}

func (e *endless) Read(p []byte) (int, error) { return 0, errors.ErrUnsupported }
func (e *endless) Close() error               { return nil }
func (e *endless) Cut()                       {}

func TestBodyOver4GiB(t *testing.T) {
	const size = 4<<30 + 1
	for _, most := range []int64{size - 1, size} {
		plan := streamPlan()
		plan.MaxBodyBytes = most
		copied, err := body.Copy(new(discard), response(&endless{left: size}), plan, body.Options{})
		if copied.WireBytes != size || copied.BodyBytes != most {
			t.Errorf("%+v, want %d and %d bytes", copied, int64(size), most)
		}
		if most == size && err != nil {
			t.Error(err)
		}
		if most < size {
			wantFailure(t, err, fetch.ReasonBodyTooLarge)
		}
	}
}

func TestMemoryDoesNotGrowWithTheBody(t *testing.T) {
	sink := new(discard)
	allocations := testing.AllocsPerRun(10, func() {
		if _, err := body.Copy(sink, response(&endless{left: 1 << 30}), streamPlan(), body.Options{}); err != nil {
			t.Error(err)
		}
	})
	if allocations > 12 {
		t.Errorf("%v allocations for 4096 buffers", allocations)
	}
}

func TestIdleSinkGetsEveryByteAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		sink := &collector{took: func(int) error { at = append(at, time.Since(start)); return nil }}
		if err := copyScript(sink, body.Options{}, step{data: "one"}, step{after: time.Minute, data: "three"}); err != nil {
			t.Fatal(err)
		}
		if !equalSizes(sink.sizes, 3, 5) || at[0] != 0 || at[1] != time.Minute {
			t.Errorf("Data of %d bytes at %v", sink.sizes, at)
		}
	})
}

func TestBusySinkGetsFullerBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &collector{bufferBytes: 1000, sending: func() bool { return true }}
		var steps []step
		for range 13 {
			steps = append(steps, step{data: strings.Repeat("x", 100)})
		}
		if err := copyScript(sink, body.Options{}, steps...); err != nil {
			t.Fatal(err)
		}
		if !equalSizes(sink.sizes, 500, 500, 300) {
			t.Errorf("Data of %d bytes, want half a buffer each, then the rest", sink.sizes)
		}
	})
}

// Bytes in hand do not wait for an upstream that pauses, whatever the sink does.
func TestBytesAreNotHeldForAPausingUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		sink := &collector{
			sending: func() bool { return true },
			took:    func(int) error { at = append(at, time.Since(start)); return nil },
		}
		err := copyScript(sink, body.Options{},
			step{data: "a"}, step{after: body.MaxHold / 2, data: "b"},
			step{after: time.Minute, data: "c"}, step{after: time.Minute, data: "d"})
		if err != nil {
			t.Fatal(err)
		}
		if !equalSizes(sink.sizes, 2, 1, 1) || at[0] != body.MaxHold || at[1] != time.Minute+body.MaxHold*3/2 {
			t.Errorf("Data of %d bytes at %v", sink.sizes, at)
		}
	})
}

func TestBytesAreNotHeldAfterASlowRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		sink := &collector{
			sending: func() bool { return true },
			took:    func(int) error { at = append(at, time.Since(start)); return nil },
		}
		err := copyScript(sink, body.Options{},
			step{data: "a"}, step{data: "b", fills: 2 * body.MaxHold}, step{after: time.Minute, data: "c"})
		if err != nil {
			t.Fatal(err)
		}
		if !equalSizes(sink.sizes, 2, 1) || at[0] != 2*body.MaxHold {
			t.Errorf("Data of %d bytes at %v", sink.sizes, at)
		}
	})
}

// The same holds between the decoder and the sink.
func TestDecodedBytesAreNotHeldForAPausingUpstream(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		if s.coding == "zstd" {
			t.Skip("its decoder has a channel, which must not leave the bubble by the pool of decoders")
		}
		synctest.Test(t, func(t *testing.T) {
			var coded bytes.Buffer
			w := s.encode(&coded)
			must(io.WriteString(w, "flushed"))
			w.Flush()
			flushed := coded.String()
			w.Close()
			from := &script{ctx: t.Context(), steps: []step{{data: flushed}, {after: time.Minute, data: coded.String()[len(flushed):]}}}
			start := time.Now()
			var at time.Duration
			sink := &collector{
				sending: func() bool { return true },
				took:    func(int) error { at = time.Since(start); return nil },
			}
			if _, err := body.Copy(sink, response(from, s.coding), streamPlan(), body.Options{}); err != nil {
				t.Fatal(err)
			}
			if at != body.MaxHold || sink.got.String() != "flushed" {
				t.Errorf("%q came after %v", sink.got.String(), at)
			}
		})
	})
}

// While the sink takes what was held, the upstream's next bytes wait for it.
func TestSinkThatBlocksWhileTheUpstreamGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &collector{
			sending: func() bool { return true },
			took:    func(int) error { <-time.After(time.Second); return nil },
		}
		start := time.Now()
		err := copyScript(sink, body.Options{}, step{data: "a"}, step{after: 2 * body.MaxHold, data: "b"}, step{data: "c"})
		if err != nil {
			t.Fatal(err)
		}
		if sink.got.String() != "abc" || time.Since(start) != 2*time.Second+body.MaxHold {
			t.Errorf("%q in Data of %d after %v", sink.got.String(), sink.sizes, time.Since(start))
		}
	})
}

func TestEndsOfChunks(t *testing.T) {
	steps := []step{
		{data: "aa", endOfChunk: true},
		{data: "b"}, {data: "b", endOfChunk: true},
		{data: "cc"}, {endOfChunk: true}, // the end was not yet known with the last byte
		{data: "dd"},
	}
	for _, busy := range []bool{false, true} {
		sink := &collector{sending: func() bool { return busy }}
		if err := copyScript(sink, body.Options{KeepChunks: true}, steps...); err != nil {
			t.Fatal(err)
		}
		var chunks []string
		all, chunk := sink.got.String(), ""
		for i, n := range sink.sizes {
			chunk += all[:n]
			all = all[n:]
			if sink.ends[i] {
				chunks = append(chunks, chunk)
				chunk = ""
			}
		}
		if got := strings.Join(append(chunks, chunk), "|"); got != "aa|bb|cc|dd" || sink.alien {
			t.Errorf("busy %t: chunks %s, Data of %d bytes", busy, got, sink.sizes)
		}
	}
}

func TestChunksAreJoinedForABusySink(t *testing.T) {
	sink := &collector{sending: func() bool { return true }}
	err := copyScript(sink, body.Options{}, step{data: "aa", endOfChunk: true}, step{data: "bb", endOfChunk: true}, step{err: io.EOF})
	if err != nil {
		t.Fatal(err)
	}
	if !equalSizes(sink.sizes, 4) || !sink.ends[0] {
		t.Errorf("Data of %d bytes, ends %t", sink.sizes, sink.ends)
	}
}

func TestFailureOfTheBodyComesAfterItsBytes(t *testing.T) {
	broke := fetch.Fail(fetch.ReasonIncompleteBody, "the connection ended before the body did", nil)
	for _, steps := range [][]step{
		{{data: "abc"}, {err: broke}},
		{{data: "abc", err: broke}},
	} {
		for _, busy := range []bool{false, true} {
			sink := &collector{sending: func() bool { return busy }}
			if err := copyScript(sink, body.Options{}, steps...); err != broke || sink.got.String() != "abc" {
				t.Errorf("busy %t: %q, %v", busy, sink.got.String(), err)
			}
		}
	}
}

func TestErrorOfTheSinkEndsTheCopy(t *testing.T) {
	gone := errors.New("the caller has gone")
	for _, s := range append(samples, sample{name: "none"}) {
		coded, encodings := text(100_000), ""
		if s.encode != nil {
			coded, encodings = s.encoded(text(100_000)), s.coding
		}
		from := newWireBody(bytes.NewReader(coded))
		sink := &collector{bufferBytes: 1000}
		sink.took = func(int) error {
			if len(sink.sizes) == 3 {
				return gone
			}
			return nil
		}
		copied, err := body.Copy(sink, response(from, encodings), streamPlan(), body.Options{})
		if err != gone || len(sink.sizes) != 3 || copied.BodyBytes != 2000 || !from.closed {
			t.Errorf("%s: %v after %d Data, %+v, closed: %t", s.name, err, len(sink.sizes), copied, from.closed)
		}
	}
}

func TestErrorOfTheSinkWhileTheUpstreamPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("the caller has gone")
		sink := &collector{sending: func() bool { return true }, took: func(int) error { return gone }}
		err := copyScript(sink, body.Options{}, step{data: "a"}, step{after: time.Second, data: "b"}, step{data: "c"})
		if err != gone || len(sink.sizes) != 1 {
			t.Errorf("%v after %d Data", err, len(sink.sizes))
		}
	})
}
