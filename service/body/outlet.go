package body

import (
	"fmt"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxHold is the longest that bytes wait for more to go out with them.
const maxHold = time.Millisecond

// outlet hands the bytes of a body to a sink, and no more than are allowed.
// Bytes go on at once, unless the sink is sending: then they wait up to maxHold
// for more, until half of the buffer is full, since few large messages cost
// less than many small ones.
//
// The goroutine that reads the body calls room, fill and finish. While it waits
// for the upstream, the timer's goroutine hands over what waited long enough.
// Calls of the sink never overlap.
type outlet struct {
	sink       fetch.Sink
	plan       fetch.ResponsePlan
	keepChunks bool

	// lock is free while it has room. It is held for as long as the sink waits,
	// which testing/synctest understands of a channel, not of a mutex.
	lock chan struct{}

	buf        []byte // lent by the sink, with the bytes in hand; nil when there are none
	endOfChunk bool   // an HTTP chunk ends with buf
	left       int64  // bytes that may still come in hand
	given      int64  // bytes that the sink took
	err        error  // the sink's

	timer   *time.Timer // runs expire
	holding bool        // the timer runs for buf
	filling bool        // room of buf was lent to the reader
	overdue bool        // maxHold passed while it was

	beyond [1]byte // room for the byte that is too many
}

func (o *outlet) open(sink fetch.Sink, plan fetch.ResponsePlan, keepChunks bool) {
	o.sink, o.plan, o.keepChunks = sink, plan, keepChunks
	o.lock, o.left = make(chan struct{}, 1), plan.MaxBodyBytes
}

// room lends an empty slice with room for the next bytes, until fill.
func (o *outlet) room() []byte {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	if o.left <= 0 || o.err != nil {
		return o.beyond[:0]
	}
	if o.buf == nil {
		o.buf = o.sink.Buffer()[:0]
	}
	o.filling = true
	used := len(o.buf)
	end := used + int(min(o.left, int64(cap(o.buf)-used)))
	return o.buf[used:used:end]
}

// fill takes the n bytes that were written to the room that was lent, if it
// was, and whether an HTTP chunk ends with them.
func (o *outlet) fill(n int, endOfChunk bool) error {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	o.filling = false
	if o.err != nil {
		return o.err
	}
	if int64(n) > o.left {
		return tooLarge(o.plan)
	}
	o.left -= int64(n)
	o.buf = o.buf[:len(o.buf)+n]
	o.endOfChunk = endOfChunk || n == 0 && o.endOfChunk
	boundary := endOfChunk && o.keepChunks
	if boundary || len(o.buf) > 0 && !o.hold() {
		o.give()
	}
	return o.err
}

// write copies p to the sink.
func (o *outlet) write(p []byte) error {
	for len(p) > 0 {
		room := o.room()
		n := copy(room[:cap(room)], p)
		if err := o.fill(n, false); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// finish hands over what is in hand.
func (o *outlet) finish() error {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	if o.err == nil && len(o.buf) > 0 {
		o.give()
	}
	return o.err
}

// leave sees to it that the sink is not called any more, also if the reader of
// the body panicked.
func (o *outlet) leave() {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	if o.holding {
		o.holding = false
		o.timer.Stop()
	}
}

// hold tells whether the bytes in hand may wait for more.
func (o *outlet) hold() bool {
	if o.overdue || o.left == 0 || len(o.buf) >= cap(o.buf)/2 || !o.sink.Sending() {
		return false
	}
	switch {
	case o.holding:
	case o.timer == nil:
		o.timer = time.AfterFunc(maxHold, o.expire)
	default:
		o.timer.Reset(maxHold)
	}
	o.holding = true
	return true
}

func (o *outlet) expire() {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	switch {
	case !o.holding: // it was given before the lock was to be had
	case o.filling:
		o.overdue = true
	default:
		o.give()
	}
}

// give hands buf to the sink, which keeps it, and sets err.
func (o *outlet) give() {
	if o.buf == nil { // a chunk ended after its bytes were given
		o.buf = o.sink.Buffer()[:0]
	}
	b, endOfChunk := o.buf, o.endOfChunk
	o.buf, o.endOfChunk, o.overdue = nil, false, false
	if o.holding {
		o.holding = false
		o.timer.Stop()
	}
	if o.err = o.sink.Data(b, endOfChunk); o.err == nil {
		o.given += int64(len(b))
	}
}

func tooLarge(plan fetch.ResponsePlan) error {
	message := fmt.Sprintf("the body is larger than %d bytes", plan.MaxBodyBytes)
	if plan.TooLarge == fetch.ReasonResponseTooLarge {
		message += ", as one message holds; use StreamFetch"
	}
	f := fail(plan.TooLarge, message, nil)
	f.LimitHit = &fetch.LimitHit{Limit: "max_response_body_bytes", Max: plan.MaxBodyBytes}
	return f
}
