package body_test

import (
	"bytes"

	"io"
	"math"

	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// bomb is 1 GiB of zeros under a stack of codings. It is encoded only as far as
// it is read.
type bomb struct {
	coded  bytes.Buffer
	top    io.Writer
	layers []flushWriter // the top one first
	zeros  int64         // encoded so far
}

var mebibyteOfZeros = make([]byte, 1<<20)

func newBomb(s sample, depth int) *bomb {
	b := &bomb{}
	b.top = &b.coded
	for range depth {
		layer := s.encode(b.top)
		b.top, b.layers = layer, append([]flushWriter{layer}, b.layers...)
	}
	b.grow() // the encoders have their memory from here on
	return b
}

func (b *bomb) grow() {
	must(b.top.Write(mebibyteOfZeros))
	b.zeros += int64(len(mebibyteOfZeros))
	for _, l := range b.layers {
		if err := l.Flush(); err != nil {
			panic(err)
		}
		if b.zeros == 1<<30 {
			l.Close()
		}
	}
}

func (b *bomb) Read(p []byte) (int, error) {
	if b.coded.Len() == 0 && b.zeros < 1<<30 {
		b.grow()
	}
	return b.coded.Read(p)
}

// discard is a sink that keeps nothing.
type discard struct {
	collector
	buf [256 << 10]byte
}

func (d *discard) Buffer() []byte          { return d.buf[:0] }
func (d *discard) Data([]byte, bool) error { return nil }

// mostMemory is what undoing a coding may allocate, its window above all.
var mostMemory = map[string]uint64{
	"br":      6 << 20,
	"deflate": 1 << 20,
	"gzip":    1 << 20,
	"zstd":    10 << 20,
}

func TestBombs(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		for depth := 1; depth <= 3; depth++ {
			from, sink, plan := newBomb(s, depth), new(discard), streamPlan()
			var copied body.Copied
			var err error
			allocated := allocatedBy(func() {
				resp := response(newWireBody(from), strings.Repeat(s.coding+",", depth))
				copied, err = body.Copy(sink, resp, plan, body.Options{})
			})
			f := wantFailure(t, err, fetch.ReasonDecodedTooLarge)
			if f.LimitHit == nil || *f.LimitHit != (fetch.LimitHit{Limit: "max_decoded_ratio", Max: 100}) {
				t.Errorf("depth %d: limit %+v", depth, f.LimitHit)
			}
			if most := mostMemory[s.coding] * uint64(depth); allocated > most {
				t.Errorf("depth %d: %d bytes were allocated, want at most %d", depth, allocated, most)
			}
			if copied.BodyBytes > plan.RatioFloor+64<<10 || from.zeros > 4<<20 {
				t.Errorf("depth %d: %d bytes were given, %d encoded", depth, copied.BodyBytes, from.zeros)
			}
		}
	})
}

func TestBombMeetsTheBodyLimitToo(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		plan := streamPlan()
		plan.MaxBodyBytes, plan.TooLarge = 700_000, fetch.ReasonResponseTooLarge
		copied, err := body.Copy(new(discard), response(newWireBody(newBomb(s, 1)), s.coding), plan, body.Options{})
		wantFailure(t, err, fetch.ReasonResponseTooLarge)
		if copied.BodyBytes != plan.MaxBodyBytes {
			t.Errorf("%d bytes were given", copied.BodyBytes)
		}
	})
}

// A frame that zstd skips comes to nothing, but only after the gzip around it
// has been undone.
func TestBombThatTheLastCodingDrops(t *testing.T) {
	for _, outer := range samples {
		var coded bytes.Buffer
		w := outer.encode(&coded)
		must(w.Write([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0x30, 0})) // 3 MiB to skip, RFC 8878 section 3.1.2
		for range 3 {
			must(w.Write(mebibyteOfZeros))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, _, err := decode(coded.Bytes(), "zstd", outer.coding)
		wantFailure(t, err, fetch.ReasonDecodedTooLarge)
		if len(got) != 0 {
			t.Errorf("%s: %d bytes were given", outer.name, len(got))
		}
	}
}

func TestRatio(t *testing.T) {
	data := text(8000)
	coded := samples[0].encoded(data)
	if len(coded) > 4000 {
		t.Fatalf("%d bytes do not come in one read", len(coded))
	}
	exact := int64(len(data) / len(coded))
	for _, tt := range []struct {
		most, floor int64
		ok          bool
	}{
		{exact, 0, false},
		{exact + 1, 0, true},
		{exact, int64(len(data)) - 1, false},
		{exact, int64(len(data)), true},
		{math.MaxInt64, 0, true},
	} {
		plan := streamPlan()
		plan.MaxRatio, plan.RatioFloor = tt.most, tt.floor
		_, err := body.Copy(new(discard), response(newWireBody(bytes.NewReader(coded)), "gzip"), plan, body.Options{})
		if !tt.ok {
			wantFailure(t, err, fetch.ReasonDecodedTooLarge)
		} else if err != nil {
			t.Errorf("ratio %d after %d: %v", tt.most, tt.floor, err)
		}
	}
}
