package body_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestEveryCodingHasASampleAndIsAskedFor(t *testing.T) {
	var sampled []string
	for _, s := range samples {
		sampled = append(sampled, s.coding)
	}
	slices.Sort(sampled)
	asked := strings.Split(body.AcceptEncoding, ", ")
	slices.Sort(asked)
	if names := body.CodingNames(); !slices.Equal(names, slices.Compact(sampled)) || !slices.Equal(names, asked) {
		t.Errorf("the table has %q, the samples have %q, AcceptEncoding has %q", names, sampled, asked)
	}
}

func TestCodings(t *testing.T) {
	for _, tt := range []struct{ lines, want []string }{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{"identity"}, nil},
		{[]string{"gzip"}, []string{"gzip"}},
		{[]string{" X-GZip ,, BR\t,identity"}, []string{"gzip", "br"}},
		{[]string{"deflate", "zstd, compress"}, []string{"deflate", "zstd", "compress"}},
		{[]string{"gzip;q=1"}, []string{"gzip;q=1"}},
	} {
		if got := body.Codings(response(nil, tt.lines...).Fields); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.lines, got, tt.want)
		}
	}
}

func TestDecode(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		for _, n := range []int{0, 1, 1000, 300_001} {
			data := text(n)
			coded := s.encoded(data)
			got, copied, err := decode(coded, s.coding)
			if err != nil {
				t.Fatal(err)
			}
			want := body.Copied{WireBytes: int64(len(coded)), BodyBytes: int64(n), Codings: []string{s.coding}}
			if !bytes.Equal(got, data) || copied.WireBytes != want.WireBytes || copied.BodyBytes != want.BodyBytes ||
				!slices.Equal(copied.Codings, want.Codings) {
				t.Errorf("%d bytes: got %d bytes and %+v, want %+v", n, len(got), copied, want)
			}
		}
	})
}

func TestDecodeByteByByte(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data := text(20_000)
		var sink collector
		from := iotest.OneByteReader(bytes.NewReader(s.encoded(data)))
		if _, err := body.Copy(&sink, response(newWireBody(from), s.coding), streamPlan(), body.Options{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sink.got.Bytes(), data) {
			t.Error("the body is another one")
		}
	})
}

func TestDecodeFromAServer(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data := text(300_000)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", s.coding)
			e := s.encode(w)
			defer e.Close()
			for part := range slices.Chunk(data, 70_000) {
				e.Write(part)
				e.Flush()
				w.(http.Flusher).Flush()
			}
		}))
		defer server.Close()
		transport := &http.Transport{DisableCompression: true}
		defer transport.CloseIdleConnections()
		got, err := transport.RoundTrip(must(http.NewRequest("GET", server.URL, nil)))
		if err != nil {
			t.Fatal(err)
		}
		var sink collector
		if _, err := body.Copy(&sink, response(newWireBody(got.Body), s.coding), streamPlan(), body.Options{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sink.got.Bytes(), data) {
			t.Error("the body is another one")
		}
	})
}

func TestStackedCodings(t *testing.T) {
	data := text(5000)
	for _, a := range samples {
		for _, b := range samples {
			coded := b.encoded(b.encoded(a.encoded(data)))
			got, copied, err := decode(coded, a.coding+", "+b.coding, b.coding)
			if err != nil {
				t.Fatalf("%s, twice in %s: %v", a.name, b.name, err)
			}
			if want := []string{b.coding, b.coding, a.coding}; !bytes.Equal(got, data) || !slices.Equal(copied.Codings, want) {
				t.Errorf("%s, twice in %s: got %d bytes, codings %q", a.name, b.name, len(got), copied.Codings)
			}
		}
	}
}

func TestUnknownCodingLeavesTheBodyAlone(t *testing.T) {
	coded := samples[0].encoded(text(1000))
	for _, encodings := range []string{"compress", "gzip, aes128gcm", "compress, gzip", "gzip,gzip,gzip,gzip,dcb"} {
		got, copied, err := decode(coded, encodings)
		if err != nil || !bytes.Equal(got, coded) || copied.Codings != nil {
			t.Errorf("%s: got %d bytes, %+v, %v", encodings, len(got), copied, err)
		}
	}
}

func TestNothingIsDecodedWithoutDecode(t *testing.T) {
	coded := samples[0].encoded(text(1000))
	plan := streamPlan()
	plan.Decode = false
	var sink collector
	copied, err := body.Copy(&sink, response(newWireBody(bytes.NewReader(coded)), "gzip"), plan, body.Options{})
	if err != nil || !bytes.Equal(sink.got.Bytes(), coded) || copied.Codings != nil {
		t.Errorf("got %d bytes, %+v, %v", sink.got.Len(), copied, err)
	}
}

func TestTooManyCodings(t *testing.T) {
	for _, n := range []int{4, 10} {
		_, copied, err := decode([]byte("x"), strings.Repeat("gzip,", n))
		f := wantFailure(t, err, fetch.ReasonTooManyCodings)
		if f.LimitHit == nil || *f.LimitHit != (fetch.LimitHit{Limit: "max_codings", Max: 3}) || copied.BodyBytes != 0 {
			t.Errorf("%d codings: %+v, %+v", n, f.LimitHit, copied)
		}
	}
}

// Answers to HEAD and of status 204 and 304 have no body, but may say how it
// would be coded.
func TestEmptyBodyIsEmptyUnderEveryCoding(t *testing.T) {
	encodings := append(body.CodingNames(), "gzip, br", "gzip,gzip,gzip,gzip", "compress")
	for _, e := range encodings {
		got, copied, err := decode(nil, e)
		if err != nil || len(got) != 0 || copied.BodyBytes != 0 {
			t.Errorf("%s: %d bytes, %v", e, len(got), err)
		}
	}
}

func TestTruncated(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data := text(1000)
		coded := s.encoded(data)
		for n := 1; n < len(coded); n++ {
			got, _, err := decode(coded[:n], s.coding)
			f := wantFailure(t, err, fetch.ReasonDecodeFailed)
			if !bytes.HasPrefix(data, got) {
				t.Errorf("after %d of %d bytes, what was given is not how the body begins", n, len(coded))
			}
			if !strings.Contains(f.Message, s.coding) || !strings.Contains(f.Message, "too early") {
				t.Errorf("after %d of %d bytes: %q", n, len(coded), f.Message)
			}
		}
	})
}

func TestFlippedBits(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data := text(200)
		coded := s.encoded(data)
		for i := range len(coded) * 8 {
			broken := slices.Clone(coded)
			broken[i/8] ^= 1 << (i % 8)
			got, _, err := decode(broken, s.coding)
			if err != nil {
				wantFailure(t, err, fetch.ReasonDecodeFailed)
				continue
			}
			// br and bare deflate have no checksum.
			if s.name != "br" && s.name != "deflate bare" && !bytes.Equal(got, data) {
				t.Errorf("bit %d: another body passed", i)
			}
		}
	})
}

func TestTrailingBytes(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data := text(3000)
		for _, junk := range []string{"\x00", "junk", strings.Repeat("\x00", 512), strings.Repeat("junk", 20_000)} {
			got, _, err := decode(append(s.encoded(data), junk...), s.coding)
			f := wantFailure(t, err, fetch.ReasonDecodeFailed)
			if (s.coding == "gzip" || s.coding == "deflate") && !strings.Contains(f.Message, "bytes follow the end") {
				t.Errorf("%d bytes of junk: %q", len(junk), f.Message)
			}
			if !bytes.Equal(got, data) {
				t.Errorf("%d bytes of junk: %d of %d bytes of body were given", len(junk), len(got), len(data))
			}
		}
	})
}

func TestPlainBodyUnderEveryCoding(t *testing.T) {
	for _, name := range body.CodingNames() {
		for _, plain := range []string{"x", "<!DOCTYPE html><p>Service unavailable</p>", strings.Repeat("\x00", 9000)} {
			_, _, err := decode([]byte(plain), name)
			f := wantFailure(t, err, fetch.ReasonDecodeFailed)
			if strings.Contains(f.Message, "unavailable") {
				t.Errorf("%s: the message quotes the body: %s", name, f.Message)
			}
		}
	}
}

func TestMembersAndFrames(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		first, second := text(3000), text(100)
		got, _, err := decode(slices.Concat(s.encoded(first), s.encoded(nil), s.encoded(second)), s.coding)
		if s.coding != "gzip" && s.coding != "zstd" {
			wantFailure(t, err, fetch.ReasonDecodeFailed)
			return
		}
		if err != nil || !bytes.Equal(got, slices.Concat(first, second)) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

func TestGzipHeaderFields(t *testing.T) {
	var coded bytes.Buffer
	w := gzip.NewWriter(&coded)
	w.Extra = make([]byte, 65535)
	w.Name, w.Comment = strings.Repeat("n", 500), strings.Repeat("c", 500)
	must(io.WriteString(w, "hello"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _, err := decode(coded.Bytes(), "gzip"); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestZstdWindow(t *testing.T) {
	data := text(2 << 20)
	for _, tt := range []struct {
		window int
		ok     bool
	}{{1 << 20, true}, {8 << 20, true}, {16 << 20, false}} {
		var coded bytes.Buffer
		w := must(zstd.NewWriter(&coded, zstd.WithWindowSize(tt.window), zstd.WithEncoderConcurrency(1)))
		for part := range slices.Chunk(data, 1<<20) { // in parts, so that its size is not in the header
			must(w.Write(part))
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, _, err := decode(coded.Bytes(), "zstd")
		if !tt.ok {
			wantFailure(t, err, fetch.ReasonDecodeFailed)
		} else if err != nil || !bytes.Equal(got, data) {
			t.Errorf("window %d: got %d bytes, %v", tt.window, len(got), err)
		}
	}
}

// The header of RFC 8878 section 3.1.1.1 can ask for any window, directly or,
// in a frame of one segment, as the size of the content.
func TestZstdHeaderDoesNotMakeMemory(t *testing.T) {
	windowOf2GiB := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3}
	segmentOf2GiB := binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, 1<<31)
	for _, header := range [][]byte{windowOf2GiB, segmentOf2GiB} {
		coded := append(header, 1<<1|1, 0, 0, 'x') // an RLE block
		var err error
		allocated := allocatedBy(func() { _, _, err = decode(coded, "zstd") })
		wantFailure(t, err, fetch.ReasonDecodeFailed)
		if allocated > 2<<20 {
			t.Errorf("%x: %d bytes were allocated", header, allocated)
		}
	}
}

func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// breaking is a reader that fails with err where the data ends.
type breaking struct {
	data io.Reader
	err  error
}

func (b breaking) Read(p []byte) (int, error) {
	n, err := b.data.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

// However much of the coded data came, its whole included, the failure of the
// connection is what the caller learns.
func TestFailureOfTheWireWins(t *testing.T) {
	broke := fetch.Fail(fetch.ReasonIncompleteBody, "the connection ended before the body did", io.ErrUnexpectedEOF)
	data := text(1000)
	for _, outer := range samples {
		for _, inner := range samples {
			coded := outer.encoded(inner.encoded(data))
			for n := 0; n <= len(coded); n += 1 + n/16 {
				var sink collector
				from := iotest.DataErrReader(breaking{bytes.NewReader(coded[:n]), broke})
				resp := response(newWireBody(from), inner.coding, outer.coding)
				_, err := body.Copy(&sink, resp, streamPlan(), body.Options{})
				if !errors.Is(err, broke) {
					t.Fatalf("%s in %s, after %d of %d bytes: %v", inner.name, outer.name, n, len(coded), err)
				}
				if !bytes.HasPrefix(data, sink.got.Bytes()) {
					t.Fatalf("%s in %s, after %d of %d bytes: what was given is not how the body begins", inner.name, outer.name, n, len(coded))
				}
			}
		}
	}
}

// What was flushed comes out before anything else goes in, through a stack too.
func TestFlushedBytesComeAtOnce(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		for depth := 1; depth <= 3; depth++ {
			upstream, wire := io.Pipe()
			top := io.Writer(wire)
			var layers []flushWriter
			for range depth {
				layers = append(layers, s.encode(top))
				top = layers[len(layers)-1]
			}
			slices.Reverse(layers)
			arrived := make(chan int)
			sink := &collector{took: func(n int) error { arrived <- n; return nil }}
			ended := make(chan error)
			go func() {
				resp := response(newWireBody(upstream), strings.Repeat(s.coding+",", depth))
				_, err := body.Copy(sink, resp, streamPlan(), body.Options{})
				ended <- err
			}()

			var sent []byte
			flushed := make(chan error)
			for _, part := range []string{"first", "second, a bit longer", strings.Repeat("third ", 5000)} {
				sent = append(sent, part...)
				go func() {
					_, err := io.WriteString(top, part)
					for _, l := range layers {
						err = errors.Join(err, l.Flush())
					}
					flushed <- err
				}()
				for missing := len(part); missing > 0; {
					missing -= <-arrived
				}
				if err := <-flushed; err != nil {
					t.Fatal(err)
				}
			}
			go func() {
				for _, l := range layers {
					l.Close()
				}
				wire.Close()
			}()
			if err := <-ended; err != nil {
				t.Fatalf("depth %d: %v", depth, err)
			}
			if !bytes.Equal(sink.got.Bytes(), sent) {
				t.Errorf("depth %d: the body is another one", depth)
			}
		}
	})
}

// A member of gzip comes out without a look at what follows.
func TestGzipMemberComesBeforeTheNext(t *testing.T) {
	upstream, wire := io.Pipe()
	arrived := make(chan int)
	sink := &collector{took: func(n int) error { arrived <- n; return nil }}
	ended := make(chan error)
	go func() {
		_, err := body.Copy(sink, response(newWireBody(upstream), "gzip"), streamPlan(), body.Options{})
		ended <- err
	}()
	for _, part := range []string{"one", "three"} {
		must(wire.Write(samples[0].encoded([]byte(part))))
		if n := <-arrived; n != len(part) {
			t.Errorf("%d bytes came, want %d", n, len(part))
		}
	}
	wire.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestDecodersStartNoGoroutine(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		before := runtime.NumGoroutine()
		most := 0
		sink := &collector{took: func(int) error { most = max(most, runtime.NumGoroutine()); return nil }}
		resp := response(newWireBody(bytes.NewReader(s.encoded(text(200_000)))), s.coding)
		if _, err := body.Copy(sink, resp, streamPlan(), body.Options{}); err != nil {
			t.Fatal(err)
		}
		if most > before {
			t.Errorf("%d goroutines, %d before", most, before)
		}
	})
}

// Decoders are used again: nothing of a body shows in the next one, whether
// that one ended, broke off or was given up.
func TestDecodersForget(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		data, other := text(5000), bytes.Repeat([]byte("other "), 20_000)
		coded, otherCoded := s.encoded(data), s.encoded(other)
		gone := errors.New("the caller has gone")
		for i := range 10 {
			broken := slices.Clone(otherCoded)
			broken[len(broken)*i/10] ^= 0xff
			decode(broken, s.coding)
			decode(otherCoded[:len(otherCoded)*i/10], s.coding)
			sink := &collector{bufferBytes: 100, took: func(int) error { return gone }}
			if _, err := body.Copy(sink, response(newWireBody(bytes.NewReader(otherCoded)), s.coding), streamPlan(), body.Options{}); err != gone {
				t.Fatal(err)
			}
			if got, _, err := decode(coded, s.coding); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("round %d: got %d bytes, %v", i, len(got), err)
			}
		}
	})
}
