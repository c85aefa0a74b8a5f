package service_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Streams that are long, many, cancelled or stalled. The ids are those of the
// project's catalogue of adversarial cases, group M.

// open starts a stream and gives its head.
func open(ctx context.Context, c fetchgatev1.FetchServiceClient, m *request) (grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse], error) {
	stream, err := c.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err == nil && first.GetHead().GetStatus() != 200 {
		err = fmt.Errorf("the first event is %v, want a head", first)
	}
	return stream, err
}

// drain reads a stream to its end and gives its data to take. Each message has
// to say where it begins, and the summary where all ends.
func drain(stream grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse], take func([]byte)) (*fetchgatev1.StreamSummary, int64, error) {
	var summary *fetchgatev1.StreamSummary
	at := int64(0)
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && summary == nil:
			return nil, at, errors.New("the stream ended without a summary")
		case errors.Is(err, io.EOF):
			return summary, at, nil
		case err != nil:
			return summary, at, err
		case event.GetSummary() != nil:
			if summary = event.GetSummary(); summary.GetBodyBytes() != at {
				return summary, at, fmt.Errorf("the summary says %d bytes after %d", summary.GetBodyBytes(), at)
			}
		case event.GetData() != nil:
			if event.GetData().GetOffsetBytes() != at {
				return nil, at, fmt.Errorf("data of %d came after %d bytes", event.GetData().GetOffsetBytes(), at)
			}
			at += int64(len(event.GetData().GetData()))
			take(event.GetData().GetData())
		}
	}
}

// served is how an upstream speaks.
type served struct {
	name  string
	start func(*testing.T, http.Handler) *fetchtest.Upstream
	alter func(*request)
}

var protocols = []served{
	{"HTTP/1.1", func(t *testing.T, h http.Handler) *fetchtest.Upstream { return fetchtest.NewServer(t, h, nil) }, func(*request) {}},
	{"HTTP/2", func(t *testing.T, h http.Handler) *fetchtest.Upstream { return fetchtest.NewH2(t, h, nil).Upstream }, requireH2},
}

// get is a GET of a path over the protocol.
func (p served) get(u *fetchtest.Upstream) *request {
	m := get(u.URL("/"))
	p.alter(m)
	return m
}

// digesting is an upstream that keeps a digest of what it has written.
type digesting struct {
	*fetchtest.Upstream
	size   int64
	mu     sync.Mutex
	digest hash.Hash
}

func newDigesting(t *testing.T, size int64, p served) *digesting {
	d := &digesting{size: size}
	d.Upstream = p.start(t, http.HandlerFunc(d.answer))
	return d
}

func (d *digesting) answer(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.digest = sha256.New()
	block := pattern(1<<20 - 7) // no two blocks lie alike in messages
	for left := d.size; left > 0; left -= int64(len(block)) {
		block[0]++
		part := block[:min(left, int64(len(block)))]
		d.digest.Write(part)
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

func (d *digesting) sum() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.digest.Sum(nil))
}

// TestLongStreams: a body of any length arrives byte for byte, counted in 64
// bits, in memory that does not grow with it.
func TestLongStreams(t *testing.T) {
	size := int64(16 << 20)
	if !testing.Short() {
		size = 2<<30 + 1
	}
	for _, p := range protocols {
		t.Run("M01 "+p.name, func(t *testing.T) {
			if !testing.Short() && p.name == "HTTP/2" {
				t.Skip("one transport shows what happens at 2 GiB")
			}
			u := newDigesting(t, size, p)
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			stream, err := open(t.Context(), g, p.get(u.Upstream))
			if err != nil {
				t.Fatal(err)
			}
			digest, at, early, late := sha256.New(), int64(0), int64(0), int64(0)
			summary, got, err := drain(stream, func(b []byte) {
				digest.Write(b)
				before := at
				at += int64(len(b))
				if before < size/4 && at >= size/4 {
					early = heldMemory()
				}
				if before < size/4*3 && at >= size/4*3 {
					late = heldMemory()
				}
			})
			if err != nil || summary.GetFailure() != nil || got != size {
				t.Fatalf("got %d bytes of %d, %v, %v", got, size, summary.GetFailure(), err)
			}
			if string(digest.Sum(nil)) != u.sum() {
				t.Error("other bytes arrived than were sent")
			}
			t.Logf("%d bytes held after a quarter, %d after three", early, late)
			if late-early > 4<<20 { // buffers of both ends and of the upstream
				t.Errorf("%d bytes more are held after three quarters than after one", late-early)
			}
		})
	}
}

// stepwise are upstreams that write a chunk when next says so, and tell on gone
// when their caller is no longer there.
type stepwise struct {
	*fetchtest.Upstream
	next chan struct{}
	gone chan time.Time
}

func newStepwise(t *testing.T, p served) *stepwise {
	s := &stepwise{next: make(chan struct{}), gone: make(chan time.Time, 1)}
	s.Upstream = p.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for n := 0; ; n++ {
			io.WriteString(w, fmt.Sprintf("chunk %d\n", n))
			http.NewResponseController(w).Flush()
			select {
			case <-s.next:
			case <-r.Context().Done():
				s.gone <- time.Now()
				return
			}
		}
	}))
	return s
}

// TestCancelledAtEveryChunk: wherever a caller leaves, the upstream learns of it
// at once, and nothing is left.
func TestCancelledAtEveryChunk(t *testing.T) {
	const chunks = 24
	for _, p := range protocols {
		t.Run("M03 "+p.name, func(t *testing.T) {
			u := newStepwise(t, p)
			s := serve(t, allowing(u.Upstream, "60s"))
			before := descriptors(t)
			for chunk := range chunks {
				wantReached(t, func(int) time.Duration { return cancelAfter(t, s, u, p.get(u.Upstream), chunk) })
			}
			(&rig{server: s}).settled(t)
			eventually(t, func() error {
				if after := descriptors(t); after > before+4 {
					return fmt.Errorf("%d descriptors are open, %d were before", after, before)
				}
				return nil
			})
		})
	}
}

// cancelAfter has a caller leave when it has got some chunks, and tells how long
// it took the upstream to learn of that.
func cancelAfter(t *testing.T, s *server, u *stepwise, m *request, chunks int) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	stream, err := open(ctx, s, m)
	if err != nil {
		t.Fatal(err)
	}
	for got := ""; ; {
		if want := fmt.Sprintf("chunk %d\n", chunks); strings.HasSuffix(got, want) {
			break
		}
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got += string(event.GetData().GetData())
		if strings.Count(got, "\n") <= chunks {
			u.next <- struct{}{}
		}
	}
	began := time.Now()
	cancel()
	select {
	case at := <-u.gone:
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Canceled {
			t.Errorf("the stream ended with %v, want Canceled", err)
		}
		return at.Sub(began)
	case <-within(t).Done():
		t.Fatal("the upstream did not learn of it")
		return 0
	}
}

// TestHeadsDoNotWaitForBodies: the head is there when it came, not when the
// body does.
func TestHeadsDoNotWaitForBodies(t *testing.T) {
	for name, head := range map[string]string{
		"M04 a body of a known length": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"M04 chunks":                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"M04 a body until the end":     "HTTP/1.1 200 OK\r\n\r\n",
		"M04 a coded body":             "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(head), fetchtest.Hang())
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
			wantReached(t, func(int) time.Duration {
				ctx, cancel := context.WithCancel(within(t))
				defer cancel()
				began := time.Now()
				if _, err := open(ctx, g, get(u.URL("/"))); err != nil {
					t.Fatal(err)
				}
				return time.Since(began)
			})
		})
	}
}

// TestTrailers come after the last byte; that there are none is no failure.
func TestTrailers(t *testing.T) {
	const chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\n"
	for name, c := range map[string]struct {
		answer, want string
	}{
		"M05 one":                     {chunks + "X-Sum: 1\r\n\r\n", "X-Sum: 1"},
		"M05 two of a name":           {chunks + "X-Sum: 1\r\nX-Sum: 2\r\n\r\n", "X-Sum: 1, X-Sum: 2"},
		"M05 none that was announced": {chunks + "\r\n", ""},
		"M05 none of a length":        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTrailer: X-Sum\r\n\r\nhello", ""},
	} {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(c.answer))
		wantTrailers(t, name, u, func(*request) {}, c.want)
	}
	for name, want := range map[string]string{"M05 HTTP/2": "X-Sum: 1", "M05 HTTP/2, none": ""} {
		u := fetchtest.NewH2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "hello")
			if want != "" {
				w.Header().Set("X-Sum", "1")
			}
		}), nil)
		wantTrailers(t, name, u.Upstream, requireH2, want)
	}
}

func wantTrailers(t *testing.T, name string, u *fetchtest.Upstream, alter func(*request), want string) {
	t.Helper()
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
	for _, rpc := range rpcs {
		t.Run(name+"/"+rpc.name, func(t *testing.T) {
			m := get(u.URL("/"))
			m.Options.Connection = fresh()
			alter(m)
			a, err := rpc.call(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "hello")
			var got []string
			for _, f := range a.trailers {
				got = append(got, http.CanonicalHeaderKey(f.GetName())+": "+string(f.GetValue()))
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("the trailers are %q, want %q", got, want)
			}
		})
	}
}

// TestSingleBytes: an upstream that writes byte by byte costs messages, but
// changes nothing of the bytes.
func TestSingleBytes(t *testing.T) {
	const bytes = 4000
	authority := fetchtest.NewAuthority(t)
	for name, l := range map[string]fetchtest.Listen{
		"M06 bytes of which TCP joins some": {},
		"M06 a record of TLS for each byte": {Authority: authority},
	} {
		t.Run(name, func(t *testing.T) {
			want := string(pattern(bytes))
			u := fetchtest.NewScript(t, l, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Dribble(want), fetchtest.HalfClose())
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Trust: authority})
			stream, err := open(within(t), g, get(u.URL("/")))
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			messages, before := 0, processor(t)
			summary, _, err := drain(stream, func(b []byte) { got.Write(b); messages++ })
			if err != nil || summary.GetFailure() != nil || got.String() != want {
				t.Errorf("%d bytes of %d, %v, %v", got.Len(), bytes, summary.GetFailure(), err)
			}
			t.Logf("%d messages, and %v of the processor's time for each byte at all three ends", messages, (processor(t)-before)/bytes)
		})
	}
}

// processor is the time of the processor that this process has used.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// atOnce opens streams, so many at a time, and has each do something. It ends
// when all have.
func atOnce(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := do(i); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// TestStalledStreamsAmongMany: of a thousand streams of one connection, those
// whose caller does not read hold up none of the others.
func TestStalledStreamsAmongMany(t *testing.T) {
	const size = 64 << 10
	streams := 300
	if !testing.Short() {
		streams = 1000
	}
	t.Run("M09 stalled streams among many", func(t *testing.T) {
		body := pattern(size)
		want := string(body)
		u := fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(body)
			for r.URL.Path == "/endless" && r.Context().Err() == nil {
				w.Write(body)
			}
		}), nil)
		s := serve(t, allowing(u, "60s"))
		all := func(n int) time.Duration {
			began := time.Now()
			atOnce(t, n, func(int) error {
				stream, err := open(within(t), s, get(u.URL("/")))
				if err != nil {
					return err
				}
				var got strings.Builder
				if summary, _, err := drain(stream, func(b []byte) { got.Write(b) }); err != nil || summary.GetFailure() != nil || got.String() != want {
					return fmt.Errorf("%d bytes came, %v, %w", got.Len(), summary.GetFailure(), err)
				}
				return nil
			})
			return time.Since(began)
		}
		healthy := streams - streams/100
		all(healthy)
		alone := all(healthy)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range streams / 100 {
			if _, err := open(ctx, s, get(u.URL("/endless"))); err != nil {
				t.Fatal(err)
			}
		}
		among := patience
		for try := 1; try <= tries && among > 2*alone; try++ {
			among = min(among, all(healthy))
		}
		t.Logf("%d streams took %v, and %v beside %d that nobody reads", healthy, alone, among, streams/100)
		if among > 2*alone {
			t.Errorf("%d streams took %v, and %v beside stalled ones", healthy, alone, among)
		}
	})
}

// halves is an upstream that answers with half of a body at once, and with the
// other half when it is released, unless the path is /never.
func halves(t *testing.T, size int, release <-chan struct{}) (*fetchtest.Upstream, *atomic.Int64) {
	begun, body := new(atomic.Int64), pattern(size)
	return fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(body[:size/2])
		http.NewResponseController(w).Flush()
		begun.Add(1)
		if r.URL.Path == "/never" {
			<-r.Context().Done()
			return
		}
		select {
		case <-release:
			w.Write(body[size/2:])
		case <-r.Context().Done():
		}
	}), nil), begun
}

// TestManyStreamsInADrain: a service that is told to stop with many streams open
// takes nothing new, lets end what does, and says of the rest that it is not
// whole.
func TestManyStreamsInADrain(t *testing.T) {
	const size = 8 << 10
	streams := 300
	if !testing.Short() {
		streams = 1000
	}
	t.Run("M10 many streams in a drain", func(t *testing.T) {
		release := make(chan struct{})
		u, begun := halves(t, size, release)
		s := serve(t, allowing(u, "2s"))
		want := string(pattern(size))
		var wholes, cut atomic.Int64
		over := make(chan struct{})
		go func() { // waited for by <-over
			defer close(over)
			atOnce(t, streams, func(i int) error {
				return endOf(t, s, u.URL([]string{"/ends", "/never"}[i%2]), want, &wholes, &cut)
			})
		}()
		eventually(t, func() error {
			if n := begun.Load(); n < int64(streams) {
				return fmt.Errorf("only %d streams have begun", n)
			}
			return nil
		})
		s.stop()
		eventually(t, func() error {
			if _, err := s.Fetch(t.Context(), &request{}); status.Code(err) != codes.Unavailable {
				return fmt.Errorf("a new fetch got %v, want Unavailable", err)
			}
			return nil
		})
		close(release)
		<-over
		if err := <-s.served; err != nil {
			t.Error(err)
		}
		if half := int64(streams / 2); wholes.Load() != half || cut.Load() != half {
			t.Errorf("%d streams were whole and %d cut, want %d each", wholes.Load(), cut.Load(), half)
		}
	})
}

// endOf reads a stream to its end: whole, or cut and said to be so.
func endOf(t *testing.T, s *server, url, want string, wholes, cut *atomic.Int64) error {
	stream, err := open(within(t), s, get(url))
	if err != nil {
		return err
	}
	var got strings.Builder
	summary, _, err := drain(stream, func(b []byte) { got.Write(b) })
	reason := reasonOf(summary.GetFailure())
	switch {
	case err == nil && reason == "" && got.String() == want:
		wholes.Add(1)
	case status.Code(err) == codes.Unavailable && reason == "DRAINING" && strings.HasPrefix(want, got.String()):
		cut.Add(1)
	default:
		return fmt.Errorf("%d bytes of %d, failure %q, %w", got.Len(), len(want), reason, err)
	}
	return nil
}
