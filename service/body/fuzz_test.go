package body_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func FuzzGzip(f *testing.F)    { fuzzDecoder(f, "gzip") }
func FuzzDeflate(f *testing.F) { fuzzDecoder(f, "deflate") }
func FuzzBrotli(f *testing.F)  { fuzzDecoder(f, "br") }
func FuzzZstd(f *testing.F)    { fuzzDecoder(f, "zstd") }

func TestEveryCodingIsFuzzed(t *testing.T) {
	if want := []string{"br", "deflate", "gzip", "zstd"}; !slices.Equal(body.CodingNames(), want) {
		t.Errorf("the table has %q, there are fuzz targets for %q", body.CodingNames(), want)
	}
}

// fuzzDecoder feeds a decoder with anything. It must end in the body's end or
// in a failure of its own, within the limits, and not depend on how the bytes
// come.
func fuzzDecoder(f *testing.F, coding string) {
	for _, s := range samples {
		if s.coding == coding {
			coded := s.encoded(text(300))
			f.Add(coded)
			f.Add(s.encoded(nil))
			f.Add(append(coded, coded...))
			f.Add(coded[:len(coded)/2])
		}
	}
	f.Fuzz(func(t *testing.T, coded []byte) {
		plan := streamPlan()
		plan.RatioFloor = 64 << 10
		sink := new(discard)
		copied, err := body.Copy(sink, response(newWireBody(bytes.NewReader(coded)), coding), plan, body.Options{})
		if most := plan.RatioFloor + plan.MaxRatio*int64(len(coded)) + 16<<10; copied.BodyBytes > most {
			t.Errorf("%d bytes became %d", len(coded), copied.BodyBytes)
		}
		if err != nil {
			var failed *fetch.Failure
			if !errors.As(err, &failed) || failed.Reason != fetch.ReasonDecodeFailed && failed.Reason != fetch.ReasonDecodedTooLarge {
				t.Errorf("unexpected failure: %v", err)
			}
		}

		plan.MaxRatio, plan.MaxBodyBytes = math.MaxInt64, 1<<20
		var atOnce, byteByByte collector
		_, err = body.Copy(&atOnce, response(newWireBody(bytes.NewReader(coded)), coding), plan, body.Options{})
		from := iotest.OneByteReader(bytes.NewReader(coded))
		_, slowErr := body.Copy(&byteByByte, response(newWireBody(from), coding), plan, body.Options{})
		if (err == nil) != (slowErr == nil) || err == nil && !bytes.Equal(atOnce.got.Bytes(), byteByByte.got.Bytes()) {
			t.Errorf("at once: %d bytes, %v; byte by byte: %d bytes, %v", atOnce.got.Len(), err, byteByByte.got.Len(), slowErr)
		}
	})
}

func FuzzCodings(f *testing.F) {
	f.Add("gzip", "br, identity")
	f.Add(" , X-Gzip;q=1 ,,", "\x00\xff\t")
	f.Fuzz(func(t *testing.T, first, second string) {
		names := body.Codings(response(nil, first, second).Fields)
		for _, name := range names {
			if name == "" || name == "identity" || name == "x-gzip" || strings.ContainsAny(name, ",ABCDEFGHIJKLMNOPQRSTUVWXYZ") ||
				strings.TrimSpace(name) != name {
				t.Errorf("%q, %q: %q", first, second, names)
			}
		}
		if again := body.Codings(response(nil, strings.Join(names, ",")).Fields); !slices.Equal(again, names) {
			t.Errorf("%q are %q when joined and read again", names, again)
		}
		_, copied, err := decode([]byte("x"), first, second)
		var failed *fetch.Failure
		if err != nil && !errors.As(err, &failed) || err == nil && copied.BodyBytes != 1 {
			t.Errorf("%q, %q: %+v, %v", first, second, copied, err)
		}
	})
}
