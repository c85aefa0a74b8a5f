package telemetry

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestWordsOfOnFull(t *testing.T) {
	for word, want := range map[string]onFull{
		"": drop, "drop_and_count": drop, "count": drop, "refuse": refuse, "fail_closed": refuse, "block": block,
	} {
		if got := whenFull(word); got != want {
			t.Errorf("%q is %d, want %d", word, got, want)
		}
	}
}

// fill puts lines of 1 KiB until the queue of 1 MiB is full.
func fill(t *testing.T, q *testQueue) {
	t.Helper()
	for range 1024 {
		if err := q.reserve(); err != nil {
			t.Fatal(err)
		}
		q.put(lineOf(1 << 10))
	}
}

// puts are puts that may wait.
type puts struct{ all sync.WaitGroup }

func (p *puts) start(q *testQueue, n, size int) {
	for range n {
		p.all.Go(func() { q.put(lineOf(size)) })
	}
	synctest.Wait()
}

// With block the end of a fetch waits as long as the sink takes nothing, and no
// longer; then its line is written. Not more wait than the queue has room for
// long lines: others are refused before they begin.
func TestFullQueueBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		sink.set(syscall.ENOSPC, 0)
		q := newTestQueue(sink, 1<<20, block)
		fill(t, q)
		const most = 1 << 20 / maxLine
		var waiting puts
		waiting.start(q, most-1, 1<<10)
		if err := q.reserve(); err != nil || q.waits() != most-1 {
			t.Errorf("%v wait, %v", q.waits(), err)
		}
		waiting.start(q, 1, 1<<10)
		var full *Full
		if err := q.reserve(); !errors.As(err, &full) || full.Blocked != most || !strings.Contains(err.Error(), "256 fetches that ended wait for standard output") {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Hour)
		if q.waits() != most || value(q.lost) != 0 || q.held() != 1<<20 {
			t.Errorf("%v wait, %v are lost, %v are held", q.waits(), value(q.lost), q.held())
		}
		if got := q.blockedSeconds(); got != most*3600 {
			t.Errorf("while they wait, they have waited for %v s", got)
		}
		sink.set(nil, 0)
		waiting.all.Wait()
		if err := q.reserve(); err != nil || q.waits() != 0 {
			t.Errorf("%v wait, %v", q.waits(), err)
		}
		if got := q.blockedSeconds(); got < most*3600 || got > most*3610 {
			t.Errorf("they waited for %v s", got)
		}
		q.put(nil)
		if err := q.close(context.Background()); err != nil || value(q.written) != 1024+most || value(q.lost) != 0 {
			t.Errorf("%v, %v written, %v lost", err, value(q.written), value(q.lost))
		}
	})
}

// A sink that takes nothing is trouble after a moment, and refuses only with a full
// queue and a choice that refuses; it is none once it takes lines again.
func TestTrouble(t *testing.T) {
	for on, want := range map[onFull]Trouble{drop: Failing, refuse: Refusing, block: Refusing} {
		synctest.Test(t, func(t *testing.T) {
			sink := &gate{}
			sink.set(syscall.ENOSPC, 0)
			q := newTestQueue(sink, 1<<20, on)
			q.put(lineOf(1 << 10))
			if got := q.trouble(); got != NoTrouble {
				t.Errorf("%v: at once it is %v", on, got)
			}
			time.Sleep(time.Minute)
			if got := q.trouble(); got != Failing {
				t.Errorf("%v: with room it is %v", on, got)
			}
			for q.held() < 1<<20 {
				q.put(lineOf(1 << 10))
			}
			var waiting puts
			if on == block {
				waiting.start(q, 1<<20/maxLine, 1<<10)
			}
			if got := q.trouble(); got != want || (q.reserve() != nil) != (want == Refusing) {
				t.Errorf("%v: without room it is %v, want %v", on, got, want)
			}
			sink.set(nil, 0)
			waiting.all.Wait()
			time.Sleep(time.Minute)
			if got := q.trouble(); got != NoTrouble {
				t.Errorf("%v: in the end it is %v", on, got)
			}
			if err := q.close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A short line for which there is room does not overtake a long one that waits.
func TestNobodyOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		sink.set(syscall.ENOSPC, 0)
		q := newTestQueue(sink, 1<<20+100, block)
		fill(t, q)
		var waiting puts
		waiting.start(q, 1, 1<<10)
		waiting.start(q, 1, 50)
		if q.waits() != 2 {
			t.Errorf("%v wait, want 2", q.waits())
		}
		sink.set(nil, 0)
		waiting.all.Wait()
		if err := q.close(context.Background()); err != nil || value(q.written) != 1026 {
			t.Errorf("%v, %v written", err, value(q.written))
		}
	})
}

// Once nothing shall wait the queue takes what waited, to its double, and each
// line is written or counted.
func TestUnblock(t *testing.T) {
	for name, c := range map[string]struct {
		mended  bool
		waiting int
		written float64
	}{
		"the sink stays dead": {false, 200, 0}, "the sink comes back": {true, 200, 1224}, "more than the double": {true, 3000, 2048},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &gate{}
				sink.set(syscall.ENOSPC, 0)
				q := newTestQueue(sink, 1<<20, block)
				fill(t, q)
				var waiting puts
				waiting.start(q, c.waiting, 1<<10)
				q.unblock()
				waiting.all.Wait()
				if c.mended {
					sink.set(nil, 0)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				if err := q.close(ctx); (err == nil) != c.mended {
					t.Errorf("close: %v", err)
				}
				if value(q.written) != c.written || value(q.written)+value(q.lost) != float64(1024+c.waiting) {
					t.Errorf("%v written and %v lost of %d", value(q.written), value(q.lost), 1024+c.waiting)
				}
			})
		})
	}
}

// A close without it leaves nobody waiting, also for a write that does not end.
func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuck{make(chan struct{})}
		q := newTestQueue(sink, 1<<20, block)
		fill(t, q)
		var waiting puts
		waiting.start(q, 10, 1<<10)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := q.close(ctx); err == nil {
			t.Error("the close says nothing of what was not written")
		}
		waiting.all.Wait()
		if value(q.lost) != 10 || q.waits() != 0 {
			t.Errorf("%v lost, %v wait", value(q.lost), q.waits())
		}
		close(sink.release)
		<-q.done
	})
}

// The other choices wait for nothing, also after an unblock.
func TestOthersNeverWait(t *testing.T) {
	for _, full := range []onFull{drop, refuse} {
		q := newTestQueue(io.Discard, 1<<20, full)
		q.unblock()
		if q.mayWait() || q.hasRoom(1<<20+1) {
			t.Errorf("%d waits, or has grown", full)
		}
		if err := q.close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// picky takes all lines and throws some away.
type picky struct{ rejected int }

func (p *picky) Write(lines []byte) (int, error) {
	if p.rejected == 0 {
		return len(lines), nil
	}
	return len(lines), &rejectedError{lines: p.rejected, why: "too\nold"}
}

// What a sink throws away for good is lost and counted, and not sent again.
func TestRejectedLines(t *testing.T) {
	for rejected, want := range map[int]float64{0: 0, 2: 2, 5: 5, 99: 5} {
		q := newTestQueue(&picky{rejected}, 1<<20, drop)
		for range 5 {
			q.put(lineOf(100))
		}
		if err := q.close(context.Background()); err != nil {
			t.Error(err)
		}
		if value(q.lost) != want || value(q.written) != 5-want || q.held() != 0 {
			t.Errorf("%d rejected: %v lost, %v written, %v held", rejected, value(q.lost), value(q.written), q.held())
		}
		if log := q.log.String(); (rejected > 0) != strings.Contains(log, "thrown away") || strings.Count(log, "\n") > 1 {
			t.Errorf("log %q", log)
		}
	}
}
