package body

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Options are what Copy needs beside the plan of the response.
type Options struct {
	// MinThroughput ends a body that comes slower than this, counted in bytes
	// of the wire and in time that was spent waiting for the upstream: time in
	// which the sink does not take more is left out. A window begins with the
	// body and whenever Bytes have come; when one lasts for the whole of Over,
	// the body is too slow. With zero Bytes none is.
	MinThroughput fetch.Throughput
	// Stop ends a read of the body that waits. It is called at most once, with the
	// failure that Copy returns, never after Copy returned. MinThroughput needs it.
	Stop context.CancelCauseFunc
	// KeepChunks never puts bytes of two HTTP chunks into one Data and tells of
	// each chunk where it ends, if nothing is decoded.
	KeepChunks bool
}

// Copied is how much of a body was copied, also when Copy failed.
type Copied struct {
	// WireBytes were read from the upstream, BodyBytes given to the sink.
	WireBytes, BodyBytes int64
	// Codings are those that were undone, outermost first.
	Codings []string
}

// Copy reads the body of resp to its end, undoes its content codings if plan
// says so and all of them are known, and hands it to sink.Data. It calls Data
// from one goroutine at a time, but not always from its caller's, and closes
// the body.
//
// Where nothing is decoded, the body is read into the buffers that sink lends
// and not copied again. What has come is handed over at once; only while
// sink.Sending, bytes wait up to a millisecond for more.
//
// The error is the sink's, if it has one, or else a *fetch.Failure: that of the
// body, or one of these reasons.
//
//   - plan.TooLarge: there are more than plan.MaxBodyBytes bytes. The sink has
//     exactly that many then, but none if the reason is ReasonResponseTooLarge
//     and the response says its length.
//   - ReasonDecodeFailed: the body is not what its Content-Encoding says, ends
//     too early, or is followed by something else. What came before is given.
//   - ReasonDecodedTooLarge: a coding makes of the bytes that came over the
//     wire more than plan.MaxRatio times as many, and more than plan.RatioFloor.
//   - ReasonTooManyCodings: there are more than plan.MaxCodings.
//   - ReasonBodyTooSlow: see Options.MinThroughput.
//
// If the body has a method Buffered() int, so many bytes of it can be read without
// waiting.
//
// A body without a byte is empty under every coding (RFC 9110 section 9.3.2).
func Copy(sink fetch.Sink, resp *fetch.Response, plan fetch.ResponsePlan, opts Options) (Copied, error) {
	defer resp.Body.Close()
	ends := &struct { // in one allocation
		wire
		meter
		outlet
	}{}
	w, out := &ends.wire, &ends.outlet
	w.body = resp.Body
	if opts.MinThroughput.Bytes > 0 && opts.MinThroughput.Over > 0 && !isThere(resp) {
		w.meter = &ends.meter
		w.meter.open(opts.MinThroughput, opts.Stop)
	}
	defer w.meter.close()
	out.open(sink, plan, opts.KeepChunks)
	defer out.leave()
	codings := undone(resp.Fields, plan)

	var err error
	switch {
	case len(codings) > plan.MaxCodings:
		err = tooManyCodings(w, len(codings), plan.MaxCodings)
		codings = nil
	case len(codings) > 0:
		err = decode(out, decoded(w, codings, plan))
	case resp.Length > plan.MaxBodyBytes && plan.TooLarge == fetch.ReasonResponseTooLarge:
		err = tooLarge(plan)
	default:
		err = pass(out, w)
	}
	if sinkErr := out.finish(); sinkErr != nil {
		err = sinkErr
	}
	return Copied{WireBytes: w.size, BodyBytes: out.given, Codings: codings}, err
}

// isThere tells that all of the body came with the head: no byte is waited for.
func isThere(resp *fetch.Response) bool {
	b, ok := resp.Body.(interface{ Buffered() int })
	return ok && resp.Length >= 0 && int64(b.Buffered()) >= resp.Length
}

// pass hands the bytes of w to out as they are.
func pass(out *outlet, w *wire) error {
	get := func() []byte {
		w.meter.pause() // from here on it may be the caller that lets us wait
		return out.room()
	}
	for {
		b, endOfChunk, err := w.readChunk(get)
		if outErr := out.fill(len(b), endOfChunk); outErr != nil {
			return outErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// scratches are what decoders write to. A buffer of the sink would be parked
// with every body that waits, and to copy costs little beside decoding.
var scratches = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// decode hands what s gives to out, and releases s.
func decode(out *outlet, s *stage) error {
	defer s.release()
	scratch := scratches.Get().(*[16 << 10]byte)
	defer scratches.Put(scratch)
	for {
		n, err := s.Read(scratch[:])
		if outErr := out.write(scratch[:n]); outErr != nil {
			return outErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tooManyCodings is the failure of a body with n codings, unless it is empty.
func tooManyCodings(w *wire, n, most int) error {
	if _, err := io.ReadFull(w, make([]byte, 1)); err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	f := fail(fetch.ReasonTooManyCodings, fmt.Sprintf("the body has %d content codings, %d are allowed", n, most), nil)
	f.LimitHit = &fetch.LimitHit{Limit: "max_codings", Max: int64(most)}
	return f
}

// fail returns a failure of a response, whose request has been sent.
func fail(reason fetch.Reason, message string, cause error) *fetch.Failure {
	f := fetch.Fail(reason, message, cause)
	f.Sent = fetch.SentYes
	return f
}
