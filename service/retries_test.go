package service_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Retries, seen from both ends: how often the upstream gets a request, and what
// the caller makes of it. The ids are those of the project's catalogue of
// adversarial cases, group J.

// turns is an upstream that answers the first request for a target with the
// first step, the second with the second, and all that follow with the last.
type turns struct {
	*fetchtest.Recorder
	gate *fetchtest.Fetchgate
	next atomic.Int64 // target
}

func newTurns(t *testing.T, extra string, steps ...fetchtest.Step) *turns {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int{}
	u := &turns{Recorder: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		mu.Lock()
		defer mu.Unlock()
		n := min(seen[r.Target], len(steps)-1)
		seen[r.Target]++
		return steps[n]
	}})}
	u.gate = fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Extra: extra})
	return u
}

// to are the requests for a target.
func (u *turns) to(target string) []fetchtest.Recorded {
	return slices.DeleteFunc(u.Requests(), func(r fetchtest.Recorded) bool { return r.Target != target })
}

// each fetches by each RPC, from a target of its own, and has check look at the
// answer, with its report in full, and at how many requests it took.
func (u *turns) each(t *testing.T, m *request, check func(t *testing.T, a *answer, requests int)) {
	t.Helper()
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			t.Parallel()
			m, target := proto.CloneOf(m), fmt.Sprint("/", u.next.Add(1))
			m.Request.Url, m.Options.Report = u.URL(target), full()
			a, err := rpc.call(within(t), u.gate, m)
			if err != nil {
				t.Fatal(err)
			}
			got := u.to(target)
			if n := int(a.report.GetAttemptCount()); n != len(got) {
				t.Errorf("the report has %d attempts, the upstream got %d requests", n, len(got))
			}
			check(t, a, len(got))
		})
	}
}

// retried is a request with a policy.
func retried(method string, p *fetchgatev1.RetryPolicy) *request {
	m := get("")
	m.Request.Method, m.Options.Retry = method, p
	if method == "POST" || method == "PUT" {
		m.Request.Body = raw("sample")
	}
	return m
}

// wantSuppressed holds a report to why there was no other attempt.
func wantSuppressed(t *testing.T, a *answer, want string) {
	t.Helper()
	if got := strings.TrimPrefix(a.report.GetRetrySuppressed().String(), "RETRY_SUPPRESSED_"); got != want {
		t.Errorf("the retry was suppressed for %s, want %s", got, want)
	}
}

// afterSent are the ways to fail once a request has been sent, and what meets
// each.
var afterSent = map[string]struct {
	step      fetchtest.Step
	outcome   string // of a fetch that is not tried again
	condition fetchgatev1.RetryCondition
}{
	"a reset":        {fetchtest.Reset(), "CONNECTION_RESET", fetchgatev1.RetryCondition_RETRY_CONDITION_RESET},
	"a close":        {fetchtest.HalfClose(), "DISCONNECTED", fetchgatev1.RetryCondition_RETRY_CONDITION_RESET},
	"half a head":    {fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nX"), fetchtest.HalfClose()), "CONNECTION_RESET", fetchgatev1.RetryCondition_RETRY_CONDITION_RESET},
	"a 503":          {fetchtest.Answer(503, "busy"), "503", fetchgatev1.RetryCondition_RETRY_CONDITION_GATEWAY_ERROR},
	"a 500":          {fetchtest.Answer(500, "broken"), "500", fetchgatev1.RetryCondition_RETRY_CONDITION_FIVE_XX},
	"no head":        {fetchtest.Hang(), "HEAD_TIMEOUT", fetchgatev1.RetryCondition_RETRY_CONDITION_TIMEOUT},
	"half an answer": {fetchtest.Steps(fetchtest.Write("HTTP/1.1 503 Busy\r\n"), fetchtest.Hang()), "HEAD_TIMEOUT", fetchgatev1.RetryCondition_RETRY_CONDITION_TIMEOUT},
}

// TestPOSTIsNotSentTwice, whatever goes wrong after bytes of it left, unless its
// caller says that it may be.
func TestPOSTIsNotSentTwice(t *testing.T) {
	for name, c := range afterSent {
		u := newTurns(t, "", c.step, fetchtest.Answer(200, "again"))
		for _, method := range []string{"POST", "PATCH", "X-OWN"} {
			t.Run("J01 "+method+" after "+name, func(t *testing.T) {
				t.Parallel()
				m := retried(method, &fetchgatev1.RetryPolicy{Conditions: []fetchgatev1.RetryCondition{c.condition}})
				m.Options.Timeouts = &fetchgatev1.Timeouts{ResponseHeader: brief()}
				u.each(t, m, func(t *testing.T, a *answer, requests int) {
					outcome := reasonOf(a.failure)
					if a.failure == nil {
						outcome = fmt.Sprint(a.head.GetStatus())
					}
					if requests != 1 || outcome != c.outcome {
						t.Errorf("%d requests came, the outcome is %s; want 1 and %s", requests, outcome, c.outcome)
					}
					wantSuppressed(t, a, "NOT_IDEMPOTENT")
				})
			})
		}
		for _, method := range []string{"POST", "PUT", "GET"} {
			t.Run("J01 "+method+" that may be sent twice after "+name, func(t *testing.T) {
				t.Parallel()
				m := retried(method, &fetchgatev1.RetryPolicy{Conditions: []fetchgatev1.RetryCondition{c.condition}})
				m.Options.Timeouts = &fetchgatev1.Timeouts{ResponseHeader: brief()}
				if method == "POST" {
					m.Options.Retry.Methods = []string{"POST"}
				}
				u.each(t, m, func(t *testing.T, a *answer, requests int) {
					wantAnswer(t, a, 200, "again")
					if requests != 2 {
						t.Errorf("%d requests came, want 2", requests)
					}
					wantSuppressed(t, a, "UNSPECIFIED")
				})
			})
		}
	}
}

// TestPOSTOfTheDefaultPolicy: nobody has to ask for J01.
func TestPOSTOfTheDefaultPolicy(t *testing.T) {
	t.Run("J01 POST by default", func(t *testing.T) {
		for _, name := range []string{"a reset", "a close", "half a head", "a 503"} {
			c := afterSent[name]
			u := newTurns(t, "", c.step, fetchtest.Answer(200, "again"))
			t.Run(name, func(t *testing.T) {
				u.each(t, retried("POST", nil), func(t *testing.T, a *answer, requests int) {
					if requests != 1 {
						t.Errorf("%d requests came", requests)
					}
					wantSuppressed(t, a, "NOT_IDEMPOTENT")
				})
			})
		}
	})
	for name, c := range map[string]struct {
		hostile, reason, suppressed string
		attempts                    int32
	}{
		"J01 POST that HTTP/2 reset":   {"reset-internal-error", "STREAM_RESET", "NOT_IDEMPOTENT", 1},
		"J01 POST that HTTP/2 refused": {"reset-refused-stream", "STREAM_RESET", "MAX", 3},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rpc := range rpcs {
				u := fetchtest.NewHostile(t, c.hostile, nil)
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
				m := retried("POST", nil)
				m.Request.Url = u.URL("/")
				requireH2(m)
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantFailure(t, a, c.reason)
				wantSuppressed(t, a, c.suppressed)
				if n := a.report.GetAttemptCount(); n != c.attempts {
					t.Errorf("%s: %d attempts, want %d", rpc.name, n, c.attempts)
				}
			}
		})
	}
	t.Run("J01 POST whose upload breaks off", func(t *testing.T) {
		for _, rpc := range rpcs {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, readBytes(1<<10), fetchtest.Reset())
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Connect: smallBuffers})
			m := retried("POST", nil)
			m.Request.Url, m.Request.Body = u.URL("/"), raw(strings.Repeat("x", 1<<20))
			a, err := rpc.call(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			if opened, _ := u.Connections(); opened != 1 || a.failure == nil {
				t.Errorf("%s: %d connections, failure %v; want 1 and one", rpc.name, opened, a.failure)
			}
			wantSuppressed(t, a, "NOT_IDEMPOTENT")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	const usual = 25 * time.Millisecond // at most, before attempt 2
	for name, c := range map[string]struct {
		value       string
		date        time.Duration // from when it is answered, instead of value
		least, most time.Duration // of the wait
		suppressed  string        // instead of a wait
		total       time.Duration
	}{
		"J02 a second":             {value: "1", least: time.Second, most: time.Second},
		"J02 a date":               {date: 2 * time.Second, least: 100 * time.Millisecond, most: 2 * time.Second},
		"J02 a date that is over":  {date: -time.Hour, most: usual},
		"J02 nothing":              {value: "0", most: usual},
		"J02 a billion":            {value: "1000000000", suppressed: "DEADLINE"},
		"J02 more than can be":     {value: strings.Repeat("9", 40), suppressed: "DEADLINE"},
		"J02 a date far away":      {date: 24 * time.Hour, suppressed: "DEADLINE"},
		"J02 beyond the cap":       {value: "31", suppressed: "DEADLINE"},
		"J02 beyond the deadline":  {value: "3", suppressed: "DEADLINE", total: 2 * time.Second},
		"J02 negative":             {value: "-1", most: usual},
		"J02 a fraction":           {value: "1.5", most: usual},
		"J02 words":                {value: "soon", most: usual},
		"J02 bytes":                {value: "\xff\xfe", most: usual},
		"J02 a date that is junk":  {value: "Sun, 99 Foo 2099 99:99:99 GMT", most: usual},
		"J02 an empty value":       {value: "", most: usual},
		"J02 a number with a unit": {value: "10s", most: usual},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			busy := func(conn *fetchtest.Conn) error {
				value := c.value
				if c.date != 0 {
					value = time.Now().Add(c.date).UTC().Format(http.TimeFormat)
				}
				return fetchtest.Answer(503, "busy", "Retry-After: "+value)(conn)
			}
			u := newTurns(t, "", busy, fetchtest.Answer(200, "ok"))
			m := retried("GET", nil)
			if c.total > 0 {
				m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(c.total)}
			}
			u.each(t, m, func(t *testing.T, a *answer, requests int) {
				if c.suppressed != "" {
					wantAnswer(t, a, 503, "busy")
					wantSuppressed(t, a, c.suppressed)
					if took := a.report.GetTotal().AsDuration(); requests != 1 || took > time.Second {
						t.Errorf("%d requests came in %v, want 1 at once", requests, took)
					}
					return
				}
				wantAnswer(t, a, 200, "ok")
				if requests != 2 || len(a.report.GetAttempts()) != 2 {
					t.Fatalf("%d requests came, the report has %v", requests, a.report.GetAttempts())
				}
				wait := a.report.GetAttempts()[1].GetWait().AsDuration()
				began := a.report.GetAttempts()[1].GetStartTime().AsTime().Sub(a.report.GetAttempts()[0].GetStartTime().AsTime())
				if wait < c.least || wait > c.most || began < wait {
					t.Errorf("the wait is %v and attempt 2 began after %v, want %v to %v", wait, began, c.least, c.most)
				}
			})
		})
	}
}

// TestTroubleOfOneOrigin: retries that are used up for one origin are not for
// another. There are no circuits that could open.
func TestTroubleOfOneOrigin(t *testing.T) {
	t.Run("J05 one origin in trouble leaves another alone", func(t *testing.T) {
		busy := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Answer(503, "busy"))})
		well := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(
			fetchtest.Answer(503, "once"), fetchtest.Answer(200, "ok"))})
		g := fetchtest.Start(t, fetchtest.Options{
			Allow: []string{fetchtest.OriginOf(busy.Upstream), fetchtest.OriginOf(well.Upstream)},
			Extra: "limits:\n  retry_budget_ratio: 0\n  retry_budget_per_second: 1\n",
		})
		eventually(t, func() error {
			a, err := whole(within(t), g, get(busy.URL("/")))
			if err != nil {
				t.Fatal(err)
			}
			if a.report.GetRetrySuppressed() != fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_BUDGET {
				return fmt.Errorf("the retries of the origin are not used up: %v", a.report)
			}
			return nil
		})
		a, err := whole(within(t), g, get(well.URL("/")))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if a.report.GetAttemptCount() != 2 {
			t.Errorf("the other origin got %d attempts, want 2", a.report.GetAttemptCount())
		}
	})
}

// TestRetriesHaveNoMoreTimeThanTheFetch: none begins that could not end.
func TestRetriesHaveNoMoreTimeThanTheFetch(t *testing.T) {
	// After three waits, 5 ms would be left for the fourth attempt.
	const total, wait = 305 * time.Millisecond, 100 * time.Millisecond
	policy := &fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(10), BackoffBase: durationpb.New(wait), BackoffFactor: proto.Float64(1), BackoffJitter: proto.Float64(0),
	}
	t.Run("J06 none begins in the last 10 ms", func(t *testing.T) {
		u := newTurns(t, "limits:\n  retry_budget_per_second: 1000\n", fetchtest.Answer(503, "busy"))
		m := retried("GET", policy)
		m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(total)}
		u.each(t, m, func(t *testing.T, a *answer, requests int) {
			wantAnswer(t, a, 503, "busy")
			wantSuppressed(t, a, "DEADLINE")
			attempts := a.report.GetAttempts()
			last := attempts[len(attempts)-1].GetStartTime().AsTime().Sub(attempts[0].GetStartTime().AsTime())
			if took := a.report.GetTotal().AsDuration(); requests != 3 || last > total-10*time.Millisecond || took > total {
				t.Errorf("%d requests, the last after %v, all in %v; want 3 within %v", requests, last, took, total)
			}
		})
	})
	t.Run("J06 none begins after the caller's deadline", func(t *testing.T) {
		u := newTurns(t, "", fetchtest.Steps(delay(wait), fetchtest.Reset()))
		for _, rpc := range rpcs {
			ctx, cancel := context.WithTimeout(t.Context(), total)
			defer cancel()
			m := retried("GET", policy)
			m.Request.Url = u.URL("/" + rpc.name)
			began := time.Now()
			if _, err := rpc.call(ctx, u.gate, m); err != nil {
				t.Log(err) // where the answer did not come in time, what was sent counts
			}
			if took := time.Since(began); took > total+100*time.Millisecond {
				t.Errorf("%s: it took %v, want %v", rpc.name, took, total)
			}
			if n := len(u.to("/" + rpc.name)); n != 2 {
				t.Errorf("%s: %d requests came in %v", rpc.name, n, total)
			}
		}
	})
}

// TestNothingIsRetriedOnceTheAnswerBegan: what was delivered stays, and what is
// missing is said.
func TestNothingIsRetriedOnceTheAnswerBegan(t *testing.T) {
	every := []fetchgatev1.RetryCondition{
		fetchgatev1.RetryCondition_RETRY_CONDITION_CONNECT_FAILURE, fetchgatev1.RetryCondition_RETRY_CONDITION_RESET,
		fetchgatev1.RetryCondition_RETRY_CONDITION_FIVE_XX, fetchgatev1.RetryCondition_RETRY_CONDITION_TIMEOUT,
	}
	part := fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	for name, c := range map[string]struct {
		step   fetchtest.Step
		reason string
	}{
		"J07 a body that breaks off":     {fetchtest.Steps(part, fetchtest.HalfClose()), "INCOMPLETE_BODY"},
		"J07 a body that pauses":         {fetchtest.Steps(part, fetchtest.Hang()), "BODY_TIMEOUT"},
		"J07 a body that takes too long": {fetchtest.Steps(part, fetchtest.Hang()), "ATTEMPT_TIMEOUT"},
		"J07 a chunk that is broken":     {fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n"), "INVALID_CHUNK"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newTurns(t, "", c.step, fetchtest.Answer(200, "another"))
			m := retried("GET", &fetchgatev1.RetryPolicy{Conditions: every})
			m.Options.Timeouts = &fetchgatev1.Timeouts{IdleRead: brief()}
			if c.reason == "ATTEMPT_TIMEOUT" {
				m.Options.Timeouts = &fetchgatev1.Timeouts{Attempt: brief()}
			}
			u.each(t, m, func(t *testing.T, a *answer, requests int) {
				wantFailure(t, a, c.reason)
				if requests != 1 || string(a.body) != "hello" || a.head.GetStatus() != 200 {
					t.Errorf("%d requests came, the caller has %d %q; want 1, 200 and %q", requests, a.head.GetStatus(), a.body, "hello")
				}
			})
		})
	}
}

// flaky refuses some connections.
type flaky struct {
	mu    sync.Mutex
	dice  *rand.Rand
	fault float64
}

// throw is a number from 0 to 1.
func (f *flaky) throw() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dice.Float64()
}

func (f *flaky) connect(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
	if f.throw() < f.fault {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	d := net.Dialer{Control: control}
	return d.DialContext(ctx, "tcp", to.String())
}

// share has 8 callers take n numbers from 0.
func share(n int, call func(i int)) {
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := worker; i < n; i += 8 {
				call(i)
			}
		})
	}
	group.Wait()
}

// TestFaultsBeforeTheFirstByte: of every hundred requests, two meet a reset or
// a close, and of every hundred connections two are refused.
func TestFaultsBeforeTheFirstByte(t *testing.T) {
	const fetches = 1000
	f := &flaky{dice: rand.New(rand.NewPCG(fetchtest.Seed(t), 0)), fault: 0.02}
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		switch thrown := f.throw(); {
		case thrown < f.fault/2:
			return fetchtest.HalfClose()
		case thrown < f.fault:
			return fetchtest.Reset()
		}
		return fetchtest.Answer(200, r.Target)
	}})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Connect: f.connect})
	for _, method := range []string{"GET", "POST"} {
		t.Run("J08 "+method, func(t *testing.T) {
			var mu sync.Mutex
			failed := map[string]int{}
			share(fetches, func(i int) {
				m := retried(method, nil)
				target := fmt.Sprintf("/%s/%d", method, i)
				m.Request.Url = u.URL(target)
				if i%16 < 8 {
					m.Options.Connection = fresh()
				}
				a, err := rpcs[i/16%2].call(within(t), g, m)
				switch {
				case err != nil:
					t.Error(err)
				case a.failure != nil:
					mu.Lock()
					failed[reasonOf(a.failure)]++
					mu.Unlock()
				case string(a.body) != target:
					t.Errorf("%s got %q", target, a.body)
				}
			})
			n := 0
			for _, of := range failed {
				n += of
			}
			sent := map[string]int{}
			for _, r := range u.Requests() {
				if sent[r.Target]++; r.Method == "POST" && sent[r.Target] > 1 {
					t.Errorf("%s came %d times", r.Target, sent[r.Target])
				}
			}
			t.Logf("%d of %d failed: %v", n, fetches, failed)
			if method == "GET" && n > fetches/1000 {
				t.Errorf("%d of %d failed: %v", n, fetches, failed)
			}
			if method == "POST" && (n == 0 || failed["CONNECT_REFUSED"] > 0) {
				t.Errorf("what failed is %v; want some whose bytes left, and none else", failed)
			}
		})
	}
}

// TestUpstreamThatRestarts on its old port leaves the pool with nothing but
// connections that are dead.
func TestUpstreamThatRestarts(t *testing.T) {
	const connections = 200
	t.Run("J09 idle connections of an upstream that restarted", func(t *testing.T) {
		all := make(chan struct{})
		var mu sync.Mutex
		came := 0
		u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
			mu.Lock()
			defer mu.Unlock()
			if came++; came == connections {
				close(all)
			}
			return fetchtest.Steps(fetchtest.Pause(all), fetchtest.Answer(200, "ok"))
		}})
		g := fetchtest.Start(t, fetchtest.Options{
			Allow: []string{fetchtest.OriginOf(u.Upstream)},
			Extra: fmt.Sprintf("limits:\n  max_idle_connections_per_route: %d\n", connections),
		})
		fetchAll := func() {
			var group sync.WaitGroup
			for i := range connections {
				group.Go(func() {
					a, err := rpcs[i%2].call(within(t), g, get(u.URL("/")))
					if err != nil || a.failure != nil || string(a.body) != "ok" {
						t.Errorf("got %v, %v", a, err)
					}
				})
			}
			group.Wait()
		}
		fetchAll()
		if opened, open := u.Connections(); opened != connections || open != connections {
			t.Fatalf("%d connections were opened, %d are open; want %d", opened, open, connections)
		}
		address := u.Addr().String()
		u.Close()
		again := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Address: address}})
		fetchAll()
		if n := len(again.Requests()); n != connections {
			t.Errorf("%d requests came after the restart, want %d", n, connections)
		}
	})
}

// TestNobodyGetsTheAnswerOfAnother: connections that something is left on, or
// was left on, serve no other request.
func TestNobodyGetsTheAnswerOfAnother(t *testing.T) {
	const fetches = 400
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			part := fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + r.Target)
			switch {
			case strings.HasPrefix(r.Target, "/extra"):
				return fetchtest.Steps(fetchtest.Write(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(r.Target), r.Target, stolen)))
			case strings.HasPrefix(r.Target, "/cancel"):
				return fetchtest.Steps(part, fetchtest.Hang())
			case strings.HasPrefix(r.Target, "/large"):
				return fetchtest.Answer(200, r.Target+strings.Repeat("x", 64<<10))
			}
			return fetchtest.Answer(200, r.Target)
		},
		Early: func(r *fetchtest.Recorded) (fetchtest.Step, bool) {
			if strings.HasPrefix(r.Target, "/early") {
				return fetchtest.Answer(200, r.Target), true
			}
			return nil, false
		},
	})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	t.Run("J11 nobody gets the answer of another", func(t *testing.T) {
		share(fetches, func(i int) {
			kind := []string{"/plain", "/extra", "/plain", "/cancel", "/plain", "/early", "/plain", "/large"}[i/8%8]
			m := get(u.URL(fmt.Sprintf("%s/%d", kind, i)))
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			switch kind {
			case "/cancel":
				time.AfterFunc(5*time.Millisecond, cancel)
			case "/early":
				m.Request.Method, m.Request.Body = "POST", raw(strings.Repeat("x", 256<<10))
			case "/large":
				m.Options.Response = &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(int64(len(m.Request.Url) - len(u.URL(""))))}
			}
			a, err := rpcs[i%2].call(ctx, g, m)
			if kind == "/cancel" {
				return // it got half of its own, or nothing
			}
			if want := fmt.Sprintf("%s/%d", kind, i); err != nil || string(a.body) != want || (a.failure != nil) != (kind == "/large") {
				t.Errorf("%s got %v, %v", want, a, err)
			}
		})
	})
}

// TestOneBodyWhole: of attempts that are answered differently, the caller gets
// one, and all of it.
func TestOneBodyWhole(t *testing.T) {
	first, second := fetchtest.Answer(503, strings.Repeat("1", 100<<10), "X-Attempt: 1"), fetchtest.Answer(502, "22", "X-Attempt: 2")
	for name, c := range map[string]struct {
		steps  []fetchtest.Step
		status int32
		body   string
		last   string
	}{
		"J16 the third is whole":            {[]fetchtest.Step{first, second, fetchtest.Answer(200, "333", "X-Attempt: 3")}, 200, "333", "3"},
		"J16 the last of those that failed": {[]fetchtest.Step{first, first, second}, 502, "22", "2"},
		"J16 a head that broke off is none of it": {[]fetchtest.Step{
			fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nX-Attempt: 1\r\nContent-Length: 3\r\n"), fetchtest.Reset()),
			fetchtest.Answer(200, "222", "X-Attempt: 2")}, 200, "222", "2"},
		"J16 a body that is not read is none of it": {[]fetchtest.Step{
			fetchtest.Steps(fetchtest.Write("HTTP/1.1 503 Busy\r\nX-Attempt: 1\r\nContent-Length: 10\r\n\r\n11111"), fetchtest.Hang()),
			fetchtest.Answer(200, "222", "X-Attempt: 2")}, 200, "222", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newTurns(t, "", c.steps...)
			u.each(t, retried("GET", nil), func(t *testing.T, a *answer, requests int) {
				wantAnswer(t, a, c.status, c.body)
				if requests != len(c.steps) {
					t.Errorf("%d requests came, want %d", requests, len(c.steps))
				}
				var attempts []string
				for _, f := range a.head.GetHeaders() {
					if f.GetName() == "X-Attempt" {
						attempts = append(attempts, string(f.GetValue()))
					}
				}
				if !slices.Equal(attempts, []string{c.last}) || len(a.history) != 0 {
					t.Errorf("the head is of the attempts %q, the history %v", attempts, a.history)
				}
			})
		})
	}
	t.Run("J16 the history is that of one attempt", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {302, "/1", nil, ""}, "a.test/1": {302, "/2", nil, ""}, "a.test/2": {status: 503, body: "busy"}})
		w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 503, "busy")
			if len(got) != 9 || len(a.history) != 2 || a.report.GetHopCount() != 9 {
				t.Errorf("%d requests, %d heads of history, %d hops; want 9, 2 and 9", len(got), len(a.history), a.report.GetHopCount())
			}
		})
	})
	t.Run("J16 as a failure, with the last one inside", func(t *testing.T) {
		u := newTurns(t, "", first, second, fetchtest.Answer(503, "333"))
		m := retried("GET", &fetchgatev1.RetryPolicy{Exhausted: fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE.Enum()})
		u.each(t, m, func(t *testing.T, a *answer, requests int) {
			wantFailure(t, a, "RETRIES_EXHAUSTED")
			wantSuppressed(t, a, "MAX")
			if last := a.failure.GetResponse(); requests != 3 || last.GetHead().GetStatus() != 503 || string(last.GetBody()) != "333" {
				t.Errorf("%d requests came, the last response is %v", requests, last)
			}
		})
	})
}

// TestEveryAttemptResolvesAnew, and asks policy about what it finds.
func TestEveryAttemptResolvesAnew(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	// Nobody listens on the upstream's port of this address.
	const nobody = "127.0.0.2"
	for name, c := range map[string]struct {
		method, second, reason string
	}{
		"J18 to where somebody listens":   {"GET", "127.0.0.1", ""},
		"J18 a POST that was not sent":    {"POST", "127.0.0.1", ""},
		"J18 not to a private address":    {"GET", "10.1.2.3", "ADDRESS_DENIED"},
		"J18 not to the metadata address": {"POST", "169.254.169.254", "ADDRESS_DENIED"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rpc := range rpcs {
				n, dns := &network{}, fetchtest.NewDNS(t)
				dns.Script("upstream.test", dns.Addresses(nobody), dns.Addresses(c.second))
				g := fetchtest.Start(t, fetchtest.Options{DNS: dns, Connect: n.connect, Allow: []string{u.URLOf("upstream.test", "")}})
				m := retried(c.method, nil)
				m.Request.Url, m.Options.Report = u.URLOf("upstream.test", "/"), full()
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				want := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(nobody), u.Addr().Port())}
				if c.reason == "" {
					wantAnswer(t, a, 200, "ok")
					want = append(want, u.Addr())
				} else {
					wantFailure(t, a, c.reason)
					if a.failure.GetRequestSent() != fetchgatev1.RequestSent_REQUEST_SENT_NO {
						t.Errorf("request_sent is %v", a.failure.GetRequestSent())
					}
				}
				if to := n.dialed(); !slices.Equal(to, want) || a.report.GetAttemptCount() != 2 {
					t.Errorf("%s: %v was dialed in %d attempts, want %v in 2", rpc.name, to, a.report.GetAttemptCount(), want)
				}
			}
		})
	}
}
