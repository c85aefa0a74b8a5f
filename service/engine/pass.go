package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// passOn gives the final response to the sink, after what came before it.
func (r *run) passOn(got *arrived) error {
	if f := r.tooLarge("response head", got.resp.Fields); f != nil {
		return f
	}
	r.passed = true
	r.report.HistoryCut = r.before.cut
	if err := r.before.passOn(r.sink); err != nil {
		return err
	}
	if err := r.sink.Head(got.resp.Head, got.url); err != nil {
		return err
	}
	copied, err := body.Copy(r.sink, got.resp, r.response, body.Options{
		MinThroughput: r.minThroughput(got.resp.Fields), Stop: got.cut, KeepChunks: r.plan.Response.KeepChunks,
	})
	r.report.WireBytes, r.report.BodyBytes, r.report.Codings = copied.WireBytes, copied.BodyBytes, copied.Codings
	if err != nil || got.resp.Trailers == nil {
		return err
	}
	trailers := got.resp.Trailers()
	if f := r.tooLarge("trailer section", trailers); f != nil {
		f.Stage = fetch.StageBody
		return f
	}
	r.report.Trailers = trailers
	return nil
}

// minThroughput is what the body must keep up with: nothing, if it is a stream
// of events, which come when they happen.
func (r *run) minThroughput(fields []fetch.Field) fetch.Throughput {
	kind, _ := fetch.Get(fields, "Content-Type")
	media, _, _ := bytes.Cut(kind, []byte(";"))
	if bytes.EqualFold(bytes.TrimSpace(media), []byte("text/event-stream")) {
		return fetch.Throughput{}
	}
	return r.plan.MinThroughput
}

// What is read of a response that is not the answer: enough for its connection
// to serve again, and for a failure to show what it was about.
const (
	maxDiscardBytes = 64 << 10
	maxDiscardTime  = 100 * time.Millisecond
	// minDiscardTime is enough for what has come already, and less than what an
	// attempt needs at the least.
	minDiscardTime = 5 * time.Millisecond
)

// discard reads a body that nobody wants, so that its connection can serve
// again, unless a new one costs less, and returns how long that took: at most
// maxDiscardTime, and not much longer than patience.
func (g *arrived) discard(patience time.Duration) time.Duration {
	if g.resp.Length > maxDiscardBytes {
		return 0
	}
	began := time.Now()
	late := time.AfterFunc(min(maxDiscardTime, max(patience, minDiscardTime)), g.resp.Body.Cut)
	defer late.Stop()
	_, _ = io.CopyN(io.Discard, g.resp.Body, maxDiscardBytes+1)
	return min(time.Since(began), patience)
}

// withLast puts the response into the failure that is about it.
func (r *run) withLast(err error, got *arrived) error {
	f, failed := errors.AsType[*fetch.Failure](err)
	if !failed {
		return err
	}
	late := time.AfterFunc(maxDiscardTime, got.resp.Body.Cut)
	defer late.Stop()
	plan := r.response
	plan.MaxBodyBytes, plan.TooLarge = min(plan.MaxBodyBytes, maxDiscardBytes), fetch.ReasonBodyTooLarge
	k := keeper{room: make([]byte, 0, 4<<10)}
	// What came until it failed is all that there is to show.
	_, _ = body.Copy(&k, got.resp, plan, body.Options{Stop: got.cut})
	f.Sent = fetch.SentYes
	if r.tooLarge("response head", got.resp.Fields) == nil {
		f.Last = &fetch.LastResponse{Head: got.resp.Head, URL: got.url, Body: k.kept}
	}
	return f
}

// givenUp is the failure of a fetch whose attempts ran out; the upstream asked
// to be left alone for after.
func (r *run) givenUp(a *fetch.Attempt, got *arrived, err error, after time.Duration) error {
	if got != nil {
		return r.withLast(&fetch.Failure{
			Reason: fetch.ReasonRetriesExhausted, Blame: fetch.BlameUpstream, Stage: fetch.StageHead, RetryAfter: after,
			Message: fmt.Sprintf("after %d attempts the status is still %d", a.Number, got.resp.Status),
		}, got)
	}
	last := failureOf(err)
	f := *last
	f.Reason, f.Cause = fetch.ReasonRetriesExhausted, last
	f.Message = fmt.Sprintf("%d attempts failed, the last with %s: %s", a.Number, last.Reason, last.Message)
	return &f
}

// keeper is a sink that keeps the bytes of a body.
type keeper struct{ room, kept []byte }

func (*keeper) Interim(fetch.Head) error      { return nil }
func (*keeper) Hop(fetch.Head, string) error  { return nil }
func (*keeper) Head(fetch.Head, string) error { return nil }
func (k *keeper) Buffer() []byte              { return k.room }
func (*keeper) Sending() bool                 { return false }

func (k *keeper) Data(b []byte, _ bool) error {
	k.kept = append(k.kept, b...)
	return nil
}

// tooLarge holds the fields of a part of the response to the limits of this
// fetch, which may be stricter than those that the transport reads by; nil means
// that they are within.
func (r *run) tooLarge(part string, fields []fetch.Field) *fetch.Failure {
	limits := r.plan.Response
	switch {
	case len(fields) > limits.MaxFields:
		return headTooLarge(part, "fields", fetch.LimitHit{Limit: "max_response_fields", Max: int64(limits.MaxFields)})
	case fetch.FieldBytes(fields) > limits.MaxHeadBytes:
		return headTooLarge(part, "bytes of fields", fetch.LimitHit{Limit: "max_response_field_bytes", Max: int64(limits.MaxHeadBytes)})
	}
	return nil
}

func headTooLarge(part, what string, hit fetch.LimitHit) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonHeadTooLarge, fmt.Sprintf("the %s has more than %d %s", part, hit.Max, what), nil)
	f.LimitHit = &hit
	return f
}

// prelude is a head that comes before the final one: of an interim response, or
// of one that was followed to another hop.
type prelude struct {
	head fetch.Head
	url  string
	hop  bool
}

// maxPreludeBytes is the most bytes of fields of them that are kept.
const maxPreludeBytes = 128 << 10

// preludes wait until the attempt is known to be the last, so that the heads of
// two attempts are never mixed.
type preludes struct {
	heads []prelude
	bytes int
	cut   int // heads that were left out
}

// add keeps one, or counts it where it is too much.
func (p *preludes) add(one prelude) {
	if p.bytes += fetch.FieldBytes(one.head.Fields); p.bytes > maxPreludeBytes {
		p.cut++
		return
	}
	p.heads = append(p.heads, one)
}

// passOn gives them to the sink, once.
func (p *preludes) passOn(sink fetch.Sink) error {
	heads := p.heads
	p.heads = nil
	for _, one := range heads {
		pass := func() error { return sink.Interim(one.head) }
		if one.hop {
			pass = func() error { return sink.Hop(one.head, one.url) }
		}
		if err := pass(); err != nil {
			return err
		}
	}
	return nil
}

// interimHeads takes 1xx heads from a transport, which calls from its own
// goroutine and must not wait. Their number is bounded by the transport.
type interimHeads struct {
	mu    sync.Mutex
	heads []fetch.Head
}

func (i *interimHeads) add(h fetch.Head) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.heads = append(i.heads, h)
}

// keepInterim adds the 1xx heads of a hop, nil if none are wanted, to what came
// before the final head.
func (r *run) keepInterim(to *fetch.Hop, interim *interimHeads) error {
	if interim == nil {
		return nil
	}
	interim.mu.Lock()
	defer interim.mu.Unlock()
	for _, h := range interim.heads {
		if f := r.tooLarge("head of an interim response", h.Fields); f != nil {
			return f
		}
		r.before.add(prelude{head: r.unshown(to, h)})
	}
	return nil
}
