package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gate is a sink that can be closed, with the size of each write.
type gate struct {
	mu     sync.Mutex
	err    error
	most   int // bytes of a write that fails
	writes []int
	text   bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		n := min(g.most, len(p))
		g.text.Write(p[:n])
		return n, g.err
	}
	g.writes = append(g.writes, len(p))
	g.text.Write(p)
	return len(p), nil
}

// sizes returns those of the writes so far.
func (g *gate) sizes() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.writes)
}

func (g *gate) set(err error, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.most = err, most
}

type testQueue struct {
	*queue
	log           *bytes.Buffer
	written, lost prometheus.Counter
}

func newTestQueue(sink io.Writer, maxBytes int64, full onFull) *testQueue {
	t := &testQueue{log: &bytes.Buffer{}}
	t.written = prometheus.NewCounter(prometheus.CounterOpts{Name: "written"})
	t.lost = prometheus.NewCounter(prometheus.CounterOpts{Name: "lost"})
	t.queue = newQueue(queueOptions{
		sink: sink, name: "stdout", place: "standard output", max: maxBytes, onFull: full,
		log: slog.New(slog.NewTextHandler(t.log, nil)), written: t.written, lost: []prometheus.Counter{t.lost},
	})
	return t
}

func value(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func lineOf(n int) []byte { return append(bytes.Repeat([]byte{'a'}, n-1), '\n') }

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		q := newTestQueue(sink, 1<<20, drop)
		q.put(lineOf(100))
		q.put(lineOf(100))
		time.Sleep(maxDelay - time.Millisecond)
		synctest.Wait()
		if len(sink.sizes()) != 0 {
			t.Fatalf("written after less than %v: %v", maxDelay, sink.sizes())
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(sink.sizes()) != 1 || sink.sizes()[0] != 200 {
			t.Fatalf("writes %v, want one of 200 bytes", sink.sizes())
		}
		began := time.Now()
		for range 40 {
			q.put(lineOf(4000))
		}
		synctest.Wait()
		if got := time.Since(began); len(sink.sizes()) < 2 || got != 0 {
			t.Errorf("whole batches wait: %v after %v", sink.sizes(), got)
		}
		for _, n := range sink.sizes() {
			if n > maxBatch {
				t.Errorf("a write of %d bytes", n)
			}
		}
		if err := q.close(context.Background()); err != nil {
			t.Error(err)
		}
		if got := value(q.written); got != 42 || value(q.lost) != 0 || q.held() != 0 {
			t.Errorf("%v written, %v lost, %v held", got, value(q.lost), q.held())
		}
		q.put(lineOf(10))
		if value(q.lost) != 1 {
			t.Error("a line after the close is not counted as lost")
		}
		if err := q.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// A sink that is full for a minute: not a byte is lost or doubled, the log has
// two lines.
func TestSinkFailsAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		sink.set(syscall.ENOSPC, 30)
		q := newTestQueue(sink, 1<<20, drop)
		want := ""
		for i := range 100 {
			line := strings.Repeat(string(rune('a'+i%26)), 200) + "\n"
			want += line
			q.put([]byte(line))
		}
		time.Sleep(time.Minute)
		if q.held() == 0 || strings.Count(q.log.String(), "\n") != 1 {
			t.Errorf("held %v, log %q", q.held(), q.log)
		}
		sink.set(nil, 0)
		if err := q.close(context.Background()); err != nil {
			t.Error(err)
		}
		if sink.text.String() != want {
			t.Errorf("%d bytes arrived of %d, or other ones", sink.text.Len(), len(want))
		}
		if log := q.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, "no space left") || !strings.Contains(log, "written again") {
			t.Errorf("log %q", log)
		}
		if value(q.written) != 100 || value(q.lost) != 0 {
			t.Errorf("%v written, %v lost", value(q.written), value(q.lost))
		}
	})
}

func TestFullQueueCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		sink.set(syscall.ENOSPC, 0)
		q := newTestQueue(sink, 1<<20, drop)
		for range 3000 {
			if err := q.reserve(); err != nil {
				t.Fatal(err)
			}
			q.put(lineOf(1 << 10))
		}
		if got := q.held(); got != 1<<20 {
			t.Errorf("%v bytes are held, want exactly the bound", got)
		}
		if got := value(q.lost); got != 3000-1024 {
			t.Errorf("%v lost", got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := q.close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "standard output") {
			t.Errorf("close: %v", err)
		}
		if value(q.lost) != 3000 || value(q.written) != 0 || q.held() != 0 {
			t.Errorf("%v lost, %v written, %v held", value(q.lost), value(q.written), q.held())
		}
	})
}

// With refuse no line of an admitted fetch is lost, however late it comes.
func TestFullQueueRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &gate{}
		sink.set(syscall.ENOSPC, 0)
		q := newTestQueue(sink, 1<<20, refuse)
		admitted := 0
		for ; q.reserve() == nil; admitted++ {
		}
		if admitted != 1<<20/maxLine {
			t.Errorf("%d admitted", admitted)
		}
		var full *Full
		if err := q.reserve(); !errors.As(err, &full) || !strings.Contains(err.Error(), "raise audit.max_queue_bytes") {
			t.Errorf("%v", err)
		}
		for range admitted {
			q.put(lineOf(maxLine))
		}
		if err := q.reserve(); !errors.As(err, &full) || !strings.Contains(err.Error(), "takes no lines") {
			t.Errorf("%v", err)
		}
		if value(q.lost) != 0 {
			t.Errorf("%v lost", value(q.lost))
		}
		sink.set(nil, 0)
		time.Sleep(lastPause + time.Second)
		if err := q.reserve(); err != nil {
			t.Errorf("the sink works again: %v", err)
		}
		q.put(nil)
		if err := q.close(context.Background()); err != nil || value(q.written) != float64(admitted) {
			t.Errorf("%v, %v written", err, value(q.written))
		}
	})
}

// A reserve that is given back without a line leaves nothing behind.
func TestReserveIsGivenBack(t *testing.T) {
	q := newTestQueue(io.Discard, 1<<20, refuse)
	for range 1000 {
		if err := q.reserve(); err != nil {
			t.Fatal(err)
		}
		q.put(nil)
	}
	if err := q.close(context.Background()); err != nil {
		t.Error(err)
	}
}

// stuck is a sink whose writes do not return.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

// A reader that does not read holds up neither the service nor its end.
func TestStuckSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuck{make(chan struct{})}
		q := newTestQueue(sink, 1<<20, drop)
		for range 5000 {
			q.put(lineOf(1 << 10))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := q.close(ctx); err == nil {
			t.Error("the close says nothing of what was not written")
		}
		close(sink.release)
		<-q.done
	})
}

func TestManyWriters(t *testing.T) {
	sink := &gate{}
	q := newTestQueue(sink, 1<<30, refuse)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if err := q.reserve(); err != nil {
					t.Error(err)
				}
				q.put(lineOf(100))
			}
		})
	}
	all.Wait()
	if err := q.close(context.Background()); err != nil || strings.Count(sink.text.String(), string(lineOf(100))) != 8000 {
		t.Errorf("%v, %d bytes", err, sink.text.Len())
	}
}
