package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxBatch is the most bytes of one write where the sink has no bound of its
	// own, maxDelay the longest that a line waits for others to be written with.
	maxBatch = 64 << 10
	maxDelay = 200 * time.Millisecond
	// maxSpare is how many empty batches are kept.
	maxSpare = 4
	// A write that failed is tried again after firstPause, then after twice as
	// long each time up to lastPause.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
	// lastWrite is how long Close waits, once its context has ended, for a write
	// under way.
	lastWrite = 100 * time.Millisecond
	// stillAfter is how long a sink takes nothing until that is more than a slow
	// moment.
	stillAfter = time.Second
)

// Full refuses an RPC, because no record of its fetch could be kept. Error is for
// operators: callers need not know where the record goes.
type Full struct {
	// Max is audit.max_queue_bytes; Waiting of them hold lines that the sink has
	// not taken, Reserved are kept for the lines of fetches in flight.
	Max, Waiting, Reserved int64
	// Blocked is how many fetches that ended wait for room.
	Blocked int
	// Sink names where the lines go, Mend says what to see to there.
	Sink, Mend string
}

func (f *Full) Error() string {
	if f.Blocked > 0 {
		return fmt.Sprintf("no fetch without an audit record: %d fetches that ended wait for %s, which takes no lines; %s", f.Blocked, f.Sink, f.Mend)
	}
	if f.Waiting > f.Reserved {
		return fmt.Sprintf("no fetch without an audit record: %d of %d bytes of the audit queue wait for %s, which takes no lines; %s", f.Waiting, f.Max, f.Sink, f.Mend)
	}
	return fmt.Sprintf("no fetch without an audit record: the %d bytes of the audit queue have room for the lines of no more than %d fetches at once; raise audit.max_queue_bytes", f.Max, f.Max/maxLine)
}

// onFull is what happens to lines that have no room.
type onFull int

const (
	drop   onFull = iota // they are lost and counted
	refuse               // there are none: fetches are refused before
	block                // their fetches wait
)

// whenFull reads audit.on_full, of which "count" and "fail_closed" are older
// words.
func whenFull(word string) onFull {
	switch word {
	case "refuse", "fail_closed":
		return refuse
	case "block":
		return block
	}
	return drop
}

// batch is lines that are written together.
type batch struct {
	lines []byte
	count int
}

// queueOptions are what a queue does.
type queueOptions struct {
	sink io.Writer
	// name says in metrics where the lines go, place in messages; mend says what to
	// see to there when it takes no lines.
	name, place, mend string
	max               int64 // the most bytes of lines that are not yet written
	batch             int   // the most bytes of one write; 0 means maxBatch
	onFull            onFull
	log               *slog.Logger
	// written and lost count lines.
	written prometheus.Counter
	lost    []prometheus.Counter
	// interrupt ends a write under way; nil means that nothing can.
	interrupt func()
}

// queue takes lines, without waiting but by the choice "block"; its one
// goroutine, which close waits for, writes them.
type queue struct {
	queueOptions

	mu       sync.Mutex
	waiting  []*batch
	spare    []*batch
	bytes    int64 // of lines that are not yet written
	reserved int64
	// came counts the puts that have had to wait for room, in their order, served
	// those of them that wait no more.
	came, served int64
	freed        *sync.Cond // there is more room, or no use in waiting for it
	// fails tells that the last write failed; moved is when the sink took something,
	// or had nothing to take, last.
	fails bool
	moved time.Time
	// waited is how long puts have waited until since, all together.
	waited time.Duration
	since  time.Time
	// unblocked tells that no put waits any more.
	unblocked, closed bool

	some, full    chan struct{} // there is a line; there is a whole batch
	stop, abandon chan struct{} // write what is there; give it up
	done          chan struct{}
	// failing is the error that the log knows of; only the goroutine uses it.
	failing error
}

func newQueue(o queueOptions) *queue {
	q := &queue{
		queueOptions: o,
		some:         make(chan struct{}, 1), full: make(chan struct{}, 1),
		stop: make(chan struct{}), abandon: make(chan struct{}), done: make(chan struct{}),
	}
	q.freed = sync.NewCond(&q.mu)
	if q.batch == 0 {
		q.batch = maxBatch
	}
	go q.run()
	return q
}

// reserve makes sure of room for one line, if that is wanted, or that not too
// many wait for some. Each reserve without an error is followed by one put.
func (q *queue) reserve() error {
	if q.onFull == drop {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.onFull == block {
		if blocked := q.blocked(); blocked >= q.max/maxLine {
			return &Full{Max: q.max, Waiting: q.bytes, Blocked: int(blocked), Sink: q.place, Mend: q.mend}
		}
		return nil
	}
	if q.bytes+q.reserved+maxLine > q.max {
		return &Full{Max: q.max, Waiting: q.bytes, Reserved: q.reserved, Sink: q.place, Mend: q.mend}
	}
	q.reserved += maxLine
	return nil
}

// trouble tells whether the sink takes nothing, and whether reserve refuses
// everything because of that.
func (q *queue) trouble() Trouble {
	q.mu.Lock()
	defer q.mu.Unlock()
	still := q.bytes > 0 && time.Since(q.moved) >= stillAfter
	refusing := q.onFull == refuse && q.bytes+q.reserved+maxLine > q.max || q.onFull == block && q.blocked() >= q.max/maxLine
	switch {
	case still && refusing:
		return Refusing
	case still || q.fails:
		return Failing
	}
	return NoTrouble
}

// put takes a line. If there is no room it waits for some, or loses and counts
// the line. An empty line only gives back what was reserved.
func (q *queue) put(line []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.onFull == refuse {
		q.reserved = max(0, q.reserved-maxLine)
	}
	if len(line) == 0 {
		return
	}
	if q.mayWait() && (q.blocked() > 0 || !q.hasRoom(len(line))) {
		q.wait(len(line))
	}
	if q.closed || !q.hasRoom(len(line)) {
		q.lose(1)
		return
	}
	if q.bytes == 0 {
		q.moved = time.Now() // the sink had nothing to take until now
	}
	b := q.room(len(line))
	b.lines = append(b.lines, line...)
	b.count++
	q.bytes += int64(len(line))
	signal(q.some)
}

// hasRoom tells whether the queue takes n more bytes. Once no put waits it holds
// twice as much: the lines of those that did were in memory before, too.
func (q *queue) hasRoom(n int) bool {
	most := q.max
	if q.unblocked {
		most = 2 * q.max
	}
	return q.bytes+int64(n) <= most
}

// blocked is how many puts wait for room; mu is held.
func (q *queue) blocked() int64 { return q.came - q.served }

// mayWait tells that puts without room wait.
func (q *queue) mayWait() bool { return q.onFull == block && !q.unblocked && !q.closed }

// wait waits for room for n bytes behind those that wait already, with mu held
// when it returns.
func (q *queue) wait(n int) {
	q.countWaits()
	place := q.came
	q.came++
	for q.mayWait() && (q.served < place || !q.hasRoom(n)) {
		q.freed.Wait()
	}
	q.countWaits()
	q.served++
	if q.blocked() > 0 {
		q.freed.Broadcast()
	}
}

// unblock has no put wait from now on.
func (q *queue) unblock() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unblocked = q.onFull == block
	q.freed.Broadcast()
}

// countWaits brings waited up to now, before came or served changes; mu is held.
func (q *queue) countWaits() {
	now := time.Now()
	q.waited += time.Duration(q.blocked()) * now.Sub(q.since)
	q.since = now
}

// blockedSeconds is how long puts have waited for room, those that still do
// included.
func (q *queue) blockedSeconds() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.countWaits()
	return q.waited.Seconds()
}

// waits is how many puts wait for room.
func (q *queue) waits() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.blocked())
}

// room returns the batch that takes n more bytes.
func (q *queue) room(n int) *batch {
	if len(q.waiting) > 0 {
		if b := q.waiting[len(q.waiting)-1]; len(b.lines)+n <= q.batch {
			return b
		}
		signal(q.full)
	}
	var b *batch
	if n := len(q.spare); n > 0 {
		b, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		b = &batch{lines: make([]byte, 0, q.batch)}
	}
	q.waiting = append(q.waiting, b)
	return b
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *queue) lose(lines int) {
	for _, c := range q.lost {
		c.Add(float64(lines))
	}
}

// held is how many bytes of lines are not yet written.
func (q *queue) held() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.bytes)
}

// run writes until close.
func (q *queue) run() {
	defer close(q.done)
	if c, ok := q.sink.(io.Closer); ok {
		defer c.Close()
	}
	for more := true; more; {
		more = q.gather()
		for b := q.take(); b != nil; b = q.take() {
			q.write(b)
		}
	}
}

// gather waits until there is something to write; false means that there will be
// no more.
func (q *queue) gather() bool {
	select {
	case <-q.some:
	case <-q.stop:
		return false
	}
	delay := time.NewTimer(maxDelay)
	defer delay.Stop()
	select {
	case <-q.full:
	case <-delay.C:
	case <-q.stop:
		return false
	}
	return true
}

// take takes the oldest batch out of the queue, nil if there is none.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil
	}
	b := q.waiting[0]
	n := copy(q.waiting, q.waiting[1:])
	q.waiting[n] = nil
	q.waiting = q.waiting[:n]
	return b
}

// write writes a batch, however often that fails, until close gives it up.
func (q *queue) write(b *batch) {
	rest, pause, rejected := b.lines, firstPause, 0
	for len(rest) > 0 {
		n, err := q.sink.Write(rest)
		n = max(0, min(n, len(rest)))
		rest = rest[n:]
		q.release(n)
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		q.note(err)
		if thrown, ok := errors.AsType[*rejectedError](err); ok {
			rejected += thrown.lines
			continue
		}
		q.mark(err != nil)
		if err == nil {
			continue
		}
		if n > 0 {
			pause = firstPause
		}
		if !q.pause(pause) {
			break
		}
		pause = min(2*pause, lastPause)
	}
	lost := min(b.count, bytes.Count(rest, []byte{'\n'})+rejected)
	q.lose(lost)
	q.written.Add(float64(b.count - lost))
	q.release(len(rest))
	q.reuse(b)
}

// pause waits before another try; false means that there shall be none.
func (q *queue) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-q.abandon:
		return false
	}
}

// note tells the log when the sink fails and when it works again.
func (q *queue) note(err error) {
	thrown, isThrown := errors.AsType[*rejectedError](err)
	switch {
	case isThrown && q.failing == nil:
		q.log.Error("lines of the audit record were taken and thrown away; they are lost", "sink", q.place, "err", thrown)
	case err != nil && q.failing == nil:
		q.log.Error("the audit record cannot be written; its lines wait and writing is tried again", "sink", q.place, "err", err, "next", q.mend)
	case err == nil && q.failing != nil:
		q.log.Info("the audit record is written again", "sink", q.place)
	}
	q.failing = err
}

// mark notes whether the last write failed.
func (q *queue) mark(failed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fails = failed
}

func (q *queue) release(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= int64(n)
	if n > 0 {
		q.moved = time.Now()
	}
	q.freed.Broadcast()
}

func (q *queue) reuse(b *batch) {
	b.lines, b.count = b.lines[:0], 0
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spare) < maxSpare {
		q.spare = append(q.spare, b)
	}
}

// close takes no more lines, those of puts that wait included, and waits until
// those taken are written. When ctx ends before, what is left is lost and counted,
// and the error says so; a write that does not return is left behind.
func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	q.freed.Broadcast()
	q.mu.Unlock()
	close(q.stop)
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
	}
	left := q.held()
	close(q.abandon)
	if q.interrupt != nil {
		q.interrupt()
	}
	t := time.NewTimer(lastWrite)
	defer t.Stop()
	select {
	case <-q.done:
	case <-t.C:
	}
	return fmt.Errorf("audit: %.0f bytes of lines for %s could not be written in time: %w", left, q.place, context.Cause(ctx))
}
