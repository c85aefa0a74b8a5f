package service_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Slow and silent upstreams, deadlines and ends, seen from both ends. The ids
// are those of the project's catalogue of adversarial cases, group I.

const (
	// soon is a timeout that is to run out, exactness how well it is kept.
	soon      = 200 * time.Millisecond
	exactness = 50 * time.Millisecond
	// years are ten.
	years = 10 * 365 * 24 * time.Hour
)

// wantPunctual holds what a call takes to want, and never less. A machine that is
// busy with something else may need tries.
func wantPunctual(t *testing.T, want time.Duration, call func()) {
	t.Helper()
	best := patience
	for try := 1; try <= tries && best > want+exactness; try++ {
		began := time.Now()
		call()
		took := time.Since(began)
		if took < want {
			t.Fatalf("it ended after %v, before %v", took, want)
		}
		best = min(best, took)
	}
	if best > want+exactness {
		t.Errorf("it took %v, want %v", best, want)
	}
}

// triedOnce is a request that is tried once.
func triedOnce(url string, set func(*fetchgatev1.Timeouts)) *request {
	m := get(url)
	m.Options.Timeouts, m.Options.Retry = &fetchgatev1.Timeouts{}, &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)}
	m.Options.Connection = fresh()
	set(m.Options.Timeouts)
	return m
}

// every does a step, which may find the connection over, again and again.
func every(pause time.Duration, step fetchtest.Step) fetchtest.Step {
	return func(c *fetchtest.Conn) error {
		for {
			if err := fetchtest.Steps(delay(pause), step)(c); err != nil {
				return err
			}
		}
	}
}

// TestStagesEndInTime: each timeout counts from where its stage begins, however
// busy the upstream makes itself.
func TestStagesEndInTime(t *testing.T) {
	head := func(s *fetchgatev1.Timeouts) { s.ResponseHeader = durationpb.New(soon) }
	for _, c := range []struct {
		name, reason string
		upstream     func(t *testing.T) string
		set          func(*fetchgatev1.Timeouts)
	}{
		{"I01 nobody answers a SYN", "CONNECT_TIMEOUT", fullAddress,
			func(s *fetchgatev1.Timeouts) { s.Connect = durationpb.New(soon) }},
		{"I02 accepted, and silent", "HEAD_TIMEOUT", steps(fetchtest.Hang()), head},
		{"I02 read, and silent", "HEAD_TIMEOUT", steps(fetchtest.Request(), fetchtest.Hang()), head},
		{"I03 a head that drips", "HEAD_TIMEOUT",
			steps(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nX: "), every(20*time.Millisecond, fetchtest.Write("x"))), head},
		{"I03 a status line that drips", "HEAD_TIMEOUT",
			steps(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 "), every(20*time.Millisecond, fetchtest.Write("x"))), head},
		{"I03 interim heads do not extend it", "HEAD_TIMEOUT",
			steps(fetchtest.Request(), every(60*time.Millisecond, fetchtest.Write("HTTP/1.1 103 Early Hints\r\n\r\n"))), head},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := c.upstream(t)
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{"http://" + address}})
			for _, rpc := range rpcs {
				t.Run(rpc.name, func(t *testing.T) {
					wantPunctual(t, soon, func() {
						a, err := rpc.call(within(t), g, triedOnce("http://"+address+"/", c.set))
						if err != nil {
							t.Fatal(err)
						}
						wantFailure(t, a, c.reason)
					})
				})
			}
		})
	}
}

// steps is the address of an upstream that takes them on each connection.
func steps(all ...fetchtest.Step) func(t *testing.T) string {
	return func(t *testing.T) string { return fetchtest.NewScript(t, fetchtest.Listen{}, all...).Addr().String() }
}

// TestUploadsThatAreReadSlowly: what is read, a byte at a time, does not make
// the connection take more.
func TestUploadsThatAreReadSlowly(t *testing.T) {
	for _, rpc := range rpcs {
		t.Run("I05 an upload that is read slowly/"+rpc.name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, every(20*time.Millisecond, readBytes(1)))
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Connect: smallBuffers})
			m := triedOnce(u.URL("/"), func(s *fetchgatev1.Timeouts) { s.Write = durationpb.New(soon) })
			m.Request.Method, m.Request.Body = "POST", raw(strings.Repeat("x", 3<<20))
			a, err := rpc.call(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			wantFailure(t, a, "WRITE_TIMEOUT")
		})
	}
}

// TestWhatIsInForce: without a word of the caller, and with one that goes too
// far.
func TestWhatIsInForce(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	ask := func(t *testing.T, rpc int, total *durationpb.Duration) *fetchgatev1.FetchReport {
		m := get(u.URL("/"))
		m.Options.Report = full()
		if total != nil {
			m.Options.Timeouts = &fetchgatev1.Timeouts{Total: total}
		}
		a, err := rpcs[rpc].call(within(t), g, m)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		return a.report
	}
	t.Run("I04 a least throughput by default", func(t *testing.T) {
		for rpc := range rpcs {
			l := ask(t, rpc, nil).GetLimits()
			if l.GetMinThroughputBytes() != 30<<10 || l.GetMinThroughputWindow().AsDuration() != 30*time.Second {
				t.Errorf("%s: %d bytes in %v are in force", rpcs[rpc].name, l.GetMinThroughputBytes(), l.GetMinThroughputWindow().AsDuration())
			}
		}
	})
	t.Run("I07 30 s by default, and none for streams", func(t *testing.T) {
		if total := ask(t, 0, nil).GetLimits().GetTotal(); total.AsDuration() != 30*time.Second {
			t.Errorf("Fetch has %v", total.AsDuration())
		}
		if total := ask(t, 1, nil).GetLimits().GetTotal(); total != nil {
			t.Errorf("StreamFetch has %v", total.AsDuration())
		}
	})
	for _, name := range []string{"I08 ten years are clamped", "I09 what is clamped is told"} {
		t.Run(name, func(t *testing.T) {
			for rpc, most := range []time.Duration{5 * time.Minute, 24 * time.Hour} {
				r := ask(t, rpc, durationpb.New(years))
				if total := r.GetLimits().GetTotal().AsDuration(); total != most || !slices.Equal(r.GetClamped(), []string{"options.timeouts.total"}) {
					t.Errorf("%s: %v is in force, clamped is %q; want %v and the path", rpcs[rpc].name, total, r.GetClamped(), most)
				}
			}
		})
	}
}

// TestDeadlinesOfTheRPC: one that is far away bounds nothing, and one that is
// over sends nothing.
func TestDeadlinesOfTheRPC(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	t.Run("I08 a deadline in ten years", func(t *testing.T) {
		for _, rpc := range rpcs {
			ctx, cancel := context.WithTimeout(t.Context(), years)
			defer cancel()
			a, err := rpc.call(ctx, g, get(u.URL("/")))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "ok")
		}
	})
	t.Run("I08 no time, and less", func(t *testing.T) {
		before := len(u.Requests())
		for _, rpc := range rpcs {
			for _, d := range []time.Duration{0, -time.Second, -years} {
				m := get(u.URL("/"))
				m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(d)}
				_, err := rpc.call(within(t), g, m)
				wantRefused(t, rpc.name, err, "options.timeouts.total")
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				if _, err := rpc.call(ctx, g, get(u.URL("/"))); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("%s with a deadline in %v: %v", rpc.name, d, err)
				}
			}
		}
		if n := len(u.Requests()) - before; n != 0 {
			t.Errorf("the upstream got %d requests", n)
		}
	})
}

// TestMaximumOfTheServer ends a fetch whose caller waits for ever.
func TestMaximumOfTheServer(t *testing.T) {
	t.Run("I07 the server's total ends a fetch without a deadline", func(t *testing.T) {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Hang())
		g := fetchtest.Start(t, fetchtest.Options{
			Allow: []string{fetchtest.OriginOf(u)},
			Extra: "limits:\n  timeouts:\n    total: 200ms\n  max_timeouts:\n    total: 200ms\n",
		})
		for _, total := range []*durationpb.Duration{nil, seconds(100)} {
			wantPunctual(t, soon, func() {
				m := get(u.URL("/"))
				m.Options.Timeouts = &fetchgatev1.Timeouts{Total: total}
				a, err := whole(t.Context(), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantFailure(t, a, "TOTAL_TIMEOUT")
			})
		}
	})
}

// TestDeadlineOf50ms on an upstream that would take a minute.
func TestDeadlineOf50ms(t *testing.T) {
	const patient = 50 * time.Millisecond
	for _, rpc := range rpcs {
		t.Run("I06 a deadline of 50 ms/"+rpc.name, func(t *testing.T) {
			s := scripted(t, "HEAD", "http", fetchtest.Request())
			g := fetchtest.Start(t, s.options)
			var last error
			for range tries {
				ctx, cancel := context.WithTimeout(t.Context(), patient)
				defer cancel()
				began := time.Now()
				a, err := rpc.call(ctx, g, s.request)
				took := time.Since(began)
				if len(s.stuck) == 0 {
					last = errors.New("the fetch did not get there in time")
					continue
				}
				if err := s.next(t)(within(t)); err != nil {
					t.Fatal(err)
				}
				closed := time.Since(began) - took
				switch {
				case err != nil && status.Code(err) != codes.DeadlineExceeded:
					t.Fatal(err)
				case err == nil && reasonOf(a.failure) != "TOTAL_TIMEOUT":
					t.Fatalf("the failure is %v", a.failure)
				case took < patient*8/10:
					t.Fatalf("it ended after %v", took)
				case took > 2*patient || closed > reach:
					last = fmt.Errorf("it ended after %v and the upstream learned of it after another %v", took, closed)
				default:
					return
				}
			}
			t.Error(last)
		})
	}
}

// laterTraps are the phases of a fetch that has more than one exchange, and the
// end of one.
var laterTraps = map[string]func(t *testing.T) *trap{
	"trailer": func(t *testing.T) *trap {
		return scripted(t, "BODY", "http", fetchtest.Request(),
			fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: "))
	},
	"second hop":     func(t *testing.T) *trap { return second(t, fetchtest.Answer(302, "", "Location: /next")) },
	"second attempt": func(t *testing.T) *trap { return second(t, fetchtest.Answer(503, "busy")) },
}

// second is an upstream that gets fetches stuck after what the first step
// answers, which is every other request.
func second(t *testing.T, first fetchtest.Step) *trap {
	s := newTrap("HEAD")
	var mu sync.Mutex
	n := 0
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		mu.Lock()
		defer mu.Unlock()
		if n++; n%2 == 1 {
			return first
		}
		return func(c *fetchtest.Conn) error {
			s.stick(c.Ended(), func() {})
			return fetchtest.Hang()(c)
		}
	}})
	s.to(fetchtest.OriginOf(u.Upstream))
	return s
}

// TestCallersThatLeave: in each phase, what the fetch holds is let go of.
func TestCallersThatLeave(t *testing.T) {
	all := maps.Clone(traps)
	maps.Copy(all, laterTraps)
	for phase, arrange := range all {
		for _, rpc := range rpcs {
			t.Run("I10 cancelled in "+phase+"/"+rpc.name, func(t *testing.T) {
				s := arrange(t)
				g := fetchtest.Start(t, s.options)
				wantReached(t, func(try int) time.Duration {
					cancel, ended := begin(t, func(ctx context.Context) error { _, err := rpc.call(ctx, g, s.request); return err })
					free := s.next(t)
					began := time.Now()
					cancel()
					if err := free(within(t)); err != nil {
						t.Fatal(err)
					}
					took := time.Since(began)
					<-ended
					return took
				})
			})
		}
	}
}

// wantReached holds the best of some tries to reach.
func wantReached(t *testing.T, measure func(try int) time.Duration) {
	t.Helper()
	best := patience
	for try := 1; try <= tries && best > reach; try++ {
		best = min(best, measure(try))
	}
	if best > reach {
		t.Errorf("it took %v, want %v", best, reach)
	}
}

// begin starts a call, which cancel ends. Then ended gives a value.
func begin(t *testing.T, call func(context.Context) error) (cancel func(), ended <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	over := make(chan error, 1)
	go func() { over <- call(ctx) }() // ends with ctx; its caller waits for over
	return cancel, over
}

// TestCallersThatLeaveBetween: where no upstream is waited for, the server's own
// count of what ended tells.
func TestCallersThatLeaveBetween(t *testing.T) {
	for name, c := range map[string]struct {
		answer fetchtest.Step
		// over tells that the connection of the first answer ends before.
		over bool
	}{
		"I10 cancelled in back-off": {fetchtest.Answer(503, "busy", "Retry-After: 20"), true},
		"I10 cancelled between hops": {fetchtest.Steps(
			fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Hang()), false},
	} {
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step { return c.answer }})
				s := serve(t, allowing(u.Upstream, "60s"))
				wantReached(t, func(try int) time.Duration {
					m := get(u.URL(fmt.Sprint("/", try)))
					m.Options.Connection = &fetchgatev1.ConnectionOptions{CloseAfter: proto.Bool(true)}
					before := len(u.Requests())
					cancel, ended := begin(t, func(ctx context.Context) error { _, err := rpc.call(ctx, s, m); return err })
					if _, err := u.WaitRequests(within(t), before+1); err != nil {
						t.Fatal(err)
					}
					if c.over {
						if err := u.WaitClosed(within(t), try); err != nil {
							t.Fatal(err)
						}
					}
					began := time.Now()
					cancel()
					<-ended
					want := fmt.Sprintf(`grpc_server_handled_total{grpc_code="Canceled",grpc_method=%q,grpc_service="fetchgate.v1.FetchService"`, rpc.name)
					eventually(t, func() error {
						_, page, err := s.get("/metrics")
						for line := range strings.Lines(page) {
							if strings.HasPrefix(line, want) && strings.HasSuffix(line, fmt.Sprintf("} %d\n", try)) {
								return nil
							}
						}
						return fmt.Errorf("the fetch has not ended: %w", err)
					})
					took := time.Since(began)
					if err := u.WaitClosed(within(t), try); err != nil {
						t.Error(err)
					}
					if n := len(u.Requests()); n != before+1 {
						t.Errorf("the upstream got %d requests", n-before)
					}
					return took
				})
			})
		}
	}
}

// TestManySlowBodies: who waits costs little, and nobody else anything.
func TestManySlowBodies(t *testing.T) {
	const slow, quick = 300, 300
	t.Run("I12 many slow bodies", func(t *testing.T) {
		u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			if r.Target == "/slow" {
				return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\n\r\nx"), every(500*time.Millisecond, fetchtest.Write("x")))
			}
			return fetchtest.Answer(200, "ok")
		}})
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
		slowest := func() time.Duration {
			var times []time.Duration
			for range quick {
				began := time.Now()
				a, err := whole(within(t), g, get(u.URL("/")))
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, a, 200, "ok")
				times = append(times, time.Since(began))
			}
			slices.Sort(times)
			return times[quick*99/100]
		}
		slowest()
		alone, memory := slowest(), heldMemory()
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		for range slow {
			stream, err := g.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/slow")}})
			if err != nil {
				t.Fatal(err)
			}
			for data := 0; data < 1; {
				m, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if m.GetData() != nil {
					data++
				}
			}
		}
		memory = heldMemory() - memory
		among := slowest()
		t.Logf("p99 %v, among the slow %v; %d bytes for each of them, at both ends", alone, among, memory/slow)
		// Each holds the message that is to be filled, which is the most of it.
		if memory/slow > 256<<10 {
			t.Errorf("%d bytes are held for each slow body", memory/slow)
		}
		if among > 10*alone+exactness {
			t.Errorf("p99 is %v, and %v among %d slow bodies", alone, among, slow)
		}
	})
}

// heldMemory is what this process holds, in bytes.
func heldMemory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestManyTimersAtOnce: all fetches that end in one instant end soon after it.
func TestManyTimersAtOnce(t *testing.T) {
	const fetches, patient, late = 500, 2 * time.Second, 250 * time.Millisecond
	t.Run("I13 many deadlines at once", func(t *testing.T) {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Hang())
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
		best := patience
		for try := 1; try <= tries && best > late; try++ {
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			deadline, _ := ctx.Deadline()
			var group sync.WaitGroup
			for i := range fetches {
				group.Go(func() {
					a, err := rpcs[i%2].call(ctx, g, get(u.URL("/")))
					if (err != nil || reasonOf(a.failure) != "TOTAL_TIMEOUT") && status.Code(err) != codes.DeadlineExceeded {
						t.Errorf("it ended with %v, %v", a, err)
					}
				})
			}
			group.Wait()
			best = min(best, time.Since(deadline))
			t.Logf("the last of %d ended %v after the deadline", fetches, time.Since(deadline))
		}
		if best > late {
			t.Errorf("the last of %d ended %v after the deadline, want %v", fetches, best, late)
		}
	})
}

// TestConnectionsThatAreClosedByHalves serve no other request, and the next one
// is none the wiser.
func TestConnectionsThatAreClosedByHalves(t *testing.T) {
	answered := make(chan struct{}, 1)
	for name, first := range map[string]fetchtest.Step{
		"I14 FIN only":        fetchtest.Steps(fetchtest.Answer(200, "ok"), fetchtest.HalfClose()),
		"I14 RST":             fetchtest.Steps(fetchtest.Answer(200, "ok"), fetchtest.Pause(answered), fetchtest.Reset()),
		"I14 no FIN":          fetchtest.Steps(fetchtest.Answer(200, "ok", "Connection: close"), fetchtest.Hang()),
		"I14 no FIN of a 1.0": fetchtest.Steps(fetchtest.Write("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), fetchtest.Hang()),
	} {
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(first, fetchtest.Answer(200, "again"))})
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
				for _, body := range []string{"ok", "again"} {
					a, err := rpc.call(within(t), g, get(u.URL("/")))
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, a, 200, body)
					if name == "I14 RST" && body == "ok" {
						answered <- struct{}{}
						eventually(t, func() error {
							if _, open := u.Connections(); open > 0 {
								return errors.New("the upstream has not reset the connection")
							}
							return nil
						})
					}
				}
				got := u.Requests()
				if last := got[len(got)-1]; len(got) != 2 || last.Conn != 2 {
					t.Errorf("%d requests came, the last over connection %d; want 2 over one each", len(got), last.Conn)
				}
				if name != "I14 RST" {
					if err := u.WaitClosed(within(t), 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestConnectionsThatEndAtReuse: the upstream closes an idle connection just as
// a request is on its way over it.
func TestConnectionsThatEndAtReuse(t *testing.T) {
	for _, c := range []struct {
		name, method string
		requests     int // of the fetch that meets the end
	}{
		{"I15 GET is tried again, once", "GET", 2},
		{"I15 PUT is tried again, once", "PUT", 2},
		{"I15 POST fails", "POST", 1},
	} {
		for _, rpc := range rpcs {
			t.Run(c.name+"/"+rpc.name, func(t *testing.T) {
				u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
					if r.Target != "/before" && r.Conn == 1 {
						return fetchtest.HalfClose()
					}
					return fetchtest.Answer(200, r.Target)
				}})
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
				before, err := rpc.call(within(t), g, get(u.URL("/before")))
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, before, 200, "/before")
				m := retried(c.method, nil)
				m.Request.Url = u.URL("/now")
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				if n := len(u.Requests()) - 1; n != c.requests || int(a.report.GetAttemptCount()) != n {
					t.Errorf("%d requests came in %d attempts, want %d", n, a.report.GetAttemptCount(), c.requests)
				}
				if c.method != "POST" {
					wantAnswer(t, a, 200, "/now")
					return
				}
				wantFailure(t, a, "DISCONNECTED")
				wantSuppressed(t, a, "NOT_IDEMPOTENT")
			})
		}
	}
}

// TestConnectionsThatEndedBeforeReuse are no reason to fail: nothing of the
// request left over them.
func TestConnectionsThatEndedBeforeReuse(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run("I15 "+method+" on one that has ended before", func(t *testing.T) {
			for _, rpc := range rpcs {
				ended := make(chan struct{})
				u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
					if r.Conn > 1 {
						return fetchtest.Answer(200, r.Target)
					}
					return fetchtest.Steps(fetchtest.Answer(200, r.Target), func(c *fetchtest.Conn) error {
						c.Close()
						close(ended)
						return net.ErrClosed
					})
				}})
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
				for _, target := range []string{"/before", "/now"} {
					m := retried(method, nil)
					m.Request.Url = u.URL(target)
					a, err := rpc.call(within(t), g, m)
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, a, 200, target)
					<-ended
				}
				if n := len(u.Requests()); n != 2 {
					t.Errorf("%s: %d requests came, want 2", rpc.name, n)
				}
			}
		})
	}
}
