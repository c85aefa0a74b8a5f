package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// retried is a plan that tries as a server without configuration does, but
// waits exactly.
func retried(t testing.TB, url string) *fetch.Plan {
	p := plan(t, url)
	p.Retry = fetch.RetryPlan{
		MaxAttempts:   3,
		Conditions:    fetch.RetryOnConnectFailure | fetch.RetryOnRefusedStream | fetch.RetryOnReset | fetch.RetryOnGatewayError,
		Counts:        fetch.RetryCounts{Connect: -1, Read: -1, Status: -1, Other: -1},
		BackoffBase:   25 * time.Millisecond,
		BackoffFactor: 2, BackoffMax: 2 * time.Second,
		RespectRetryAfter: true, RetryAfterMax: 30 * time.Second,
	}
	return p
}

// step is what the upstream does with one request.
type step struct {
	status int
	fields []fetch.Field
	fail   *fetch.Failure
	takes  time.Duration
	// hangs tells that the body does not end.
	hangs bool
}

func broken(reason fetch.Reason, sent fetch.RequestSent) step {
	f := fetch.Fail(reason, "it broke", nil)
	f.Sent = sent
	return step{fail: f}
}

// scripted is a transport that takes one step after the other, the last one
// for ever.
func scripted(steps ...step) *transport {
	s := ok()
	n := 0
	s.act = func(ctx context.Context, _ *fetch.Request) error {
		now := steps[min(n, len(steps)-1)]
		n++
		if now.takes > 0 {
			select {
			case <-time.After(now.takes):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.response.Status, s.response.Fields = now.status, now.fields
		s.body = stubBody{pieces: []string{fmt.Sprint("answer ", n)}, hangs: now.hangs}
		if now.fail != nil {
			f := *now.fail
			return &f
		}
		return nil
	}
	return s
}

// TestAttempts holds what is tried again, after which wait, and what the caller
// gets, to the fake clock exactly.
func TestAttempts(t *testing.T) {
	reset, refused := broken(fetch.ReasonConnectionReset, fetch.SentYes), broken(fetch.ReasonConnectRefused, fetch.SentNo)
	after := func(v string) []fetch.Field { return []fetch.Field{{Name: "Retry-After", Value: []byte(v)}} }
	for name, c := range map[string]struct {
		steps      []step
		alter      func(*fetch.Plan)
		attempts   int
		took       time.Duration
		events     []string
		reason     fetch.Reason
		suppressed fetch.Suppressed
	}{
		"a 503 and then an answer": {
			steps: []step{{status: 503}, {status: 200}}, attempts: 2, took: 25 * time.Millisecond,
			events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"503 for ever": {
			steps: []step{{status: 503}}, attempts: 3, took: 75 * time.Millisecond,
			events: []string{"head 503 http://example.com/", "data answer 3"}, suppressed: fetch.SuppressedMax,
		},
		"503 for ever, as a failure": {
			steps: []step{{status: 503}}, alter: func(p *fetch.Plan) { p.Retry.FailWhenExhausted = true },
			attempts: 3, took: 75 * time.Millisecond, reason: fetch.ReasonRetriesExhausted, suppressed: fetch.SuppressedMax,
		},
		"a reset and then an answer": {
			steps: []step{reset, {status: 404}}, attempts: 2, took: 25 * time.Millisecond,
			events: []string{"head 404 http://example.com/", "data answer 2"},
		},
		"a POST after its bytes left": {
			steps: []step{reset}, alter: func(p *fetch.Plan) { p.Method = "POST" },
			attempts: 1, reason: fetch.ReasonConnectionReset, suppressed: fetch.SuppressedNotIdempotent,
		},
		"a POST that was not sent": {
			steps: []step{refused, {status: 200}}, alter: func(p *fetch.Plan) { p.Method = "POST" },
			attempts: 2, took: 25 * time.Millisecond, events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"a POST that was redirected and then not sent": {
			steps: []step{{status: 307, fields: location("/there")}, refused},
			alter: func(p *fetch.Plan) { p.Method, p.Redirect.Max = "POST", 1 }, attempts: 1,
			events: []string{"hop 307 http://example.com/"}, reason: fetch.ReasonConnectRefused, suppressed: fetch.SuppressedNotIdempotent,
		},
		"Retry-After": {
			steps: []step{{status: 503, fields: after("7")}, {status: 200}}, attempts: 2, took: 7 * time.Second,
			events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"Retry-After beyond the most": {
			steps: []step{{status: 503, fields: after("1000000000")}}, attempts: 1,
			events: []string{"head 503 http://example.com/", "data answer 1"}, suppressed: fetch.SuppressedDeadline,
		},
		"Retry-After beyond the deadline": {
			steps: []step{{status: 503, fields: after("7")}}, alter: func(p *fetch.Plan) { p.Timeouts.Total = 5 * time.Second }, attempts: 1,
			events: []string{"head 503 http://example.com/", "data answer 1"}, suppressed: fetch.SuppressedDeadline,
		},
		"a body that does not end, before Retry-After": {
			steps: []step{{status: 503, fields: after("7"), hangs: true}, {status: 200}}, attempts: 2, took: 7 * time.Second,
			events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"a body that does not end, just before the deadline": {
			steps: []step{{status: 503, takes: 900 * time.Millisecond, hangs: true}, {status: 200}},
			alter: func(p *fetch.Plan) { p.Timeouts.Total = 990 * time.Millisecond }, attempts: 2, took: 925 * time.Millisecond,
			events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"a body that does not end, before no wait": {
			steps: []step{{status: 503, hangs: true}, {status: 200}}, alter: func(p *fetch.Plan) { p.Retry.BackoffBase = 0 },
			attempts: 2, took: 5 * time.Millisecond, events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"an attempt that takes too long": {
			steps: []step{{takes: time.Minute}, {status: 200}},
			alter: func(p *fetch.Plan) {
				p.Timeouts.Attempt = time.Second
				p.Retry.Conditions |= fetch.RetryOnTimeout
			},
			attempts: 2, took: time.Second + 25*time.Millisecond, events: []string{"head 200 http://example.com/", "data answer 2"},
		},
		"the deadline spans all attempts": {
			steps:    []step{{status: 503, takes: 900 * time.Millisecond}},
			alter:    func(p *fetch.Plan) { p.Timeouts.Total = 2 * time.Second },
			attempts: 3, took: 2 * time.Second, reason: fetch.ReasonTotalTimeout,
		},
		"what is not a reason to try again": {
			steps: []step{broken(fetch.ReasonTLSVerify, fetch.SentNo)}, attempts: 1, reason: fetch.ReasonTLSVerify,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, k, p := scripted(c.steps...), &sink{}, retried(t, "http://example.com/")
				if c.alter != nil {
					c.alter(p)
				}
				start := time.Now()
				report, err := over(t, s).Run(t.Context(), p, k)
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if len(report.Attempts) != c.attempts || !slices.Equal(k.events, c.events) || report.Suppressed != c.suppressed {
					t.Errorf("%d attempts, events %q, suppressed %q; want %d, %q, %q", len(report.Attempts), k.events, report.Suppressed, c.attempts, c.events, c.suppressed)
				}
				if c.reason != "" {
					failed(t, err, c.reason)
				} else if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestAttemptsAreReported: each has its number, its wait and its failure.
func TestAttemptsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(broken(fetch.ReasonConnectRefused, fetch.SentNo), step{status: 503}, step{status: 200})
		report, err := over(t, s).Run(t.Context(), retried(t, "http://example.com/"), &sink{})
		if err != nil || report.Outcome != fetch.OutcomeResponse || len(report.Attempts) != 3 {
			t.Fatalf("got %v, outcome %s", err, report.Outcome)
		}
		for i, want := range []struct {
			wait   time.Duration
			status int
			reason fetch.Reason
		}{{0, 0, fetch.ReasonConnectRefused}, {25 * time.Millisecond, 503, ""}, {50 * time.Millisecond, 200, ""}} {
			a := report.Attempts[i]
			reason := fetch.Reason("")
			if a.Failure != nil {
				reason = a.Failure.Reason
			}
			if a.Number != i+1 || a.Wait != want.wait || a.Hops[0].Status != want.status || reason != want.reason {
				t.Errorf("attempt %d is %+v", i+1, a)
			}
		}
	})
}

// TestSentIsOfAllAttempts: what left in one attempt has left, whatever the next
// one came to.
func TestSentIsOfAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(broken(fetch.ReasonConnectionReset, fetch.SentYes), broken(fetch.ReasonConnectRefused, fetch.SentNo))
		_, err := over(t, s).Run(t.Context(), retried(t, "http://example.com/"), &sink{})
		if f := failed(t, err, fetch.ReasonConnectRefused); f.Sent != fetch.SentYes {
			t.Errorf("sent is %s", f.Sent)
		}
	})
}

// TestAStaleConnectionIsNotMetTwice: after a break on a connection that had
// served before, the next attempt has one of its own.
func TestAStaleConnectionIsNotMetTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(broken(fetch.ReasonDisconnected, fetch.SentYes), step{status: 200})
		s.facts.Reused = true
		if _, err := over(t, s).Run(t.Context(), retried(t, "http://example.com/"), &sink{}); err != nil {
			t.Fatal(err)
		}
		if s.requests[0].Fresh || !s.requests[1].Fresh {
			t.Errorf("fresh: %v, %v", s.requests[0].Fresh, s.requests[1].Fresh)
		}
	})
}

// spent is a budget without retries.
type spent struct{ sent []string }

func (b *spent) Sent(caller string, o fetch.Origin) { b.sent = append(b.sent, caller+" "+o.String()) }
func (*spent) Take(string, fetch.Origin) bool       { return false }

// TestBudget: a retry beyond the budget is not made, and the outcome that would
// have been retried is the answer.
func TestBudget(t *testing.T) {
	p, err := policy.Compile(nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, k := &spent{}, &sink{}
	s := scripted(step{status: 302, fields: location("http://b.example.com/")}, step{status: 503})
	pl := retried(t, "http://example.com/")
	pl.Redirect.Max = 3
	report, err := engine.New(s, p, b).Run(t.Context(), pl, k)
	if err != nil || report.Suppressed != fetch.SuppressedBudget || len(report.Attempts) != 1 || !slices.Contains(k.events, "head 503 http://b.example.com/") {
		t.Errorf("got %v, %s, %q", err, report.Suppressed, k.events)
	}
	if want := []string{"shop http://example.com", "shop http://b.example.com"}; !slices.Equal(b.sent, want) {
		t.Errorf("deposits for %q, want %q", b.sent, want)
	}
}

// TestPauseEnds: a caller that goes away and a drain end the wait before an
// attempt.
func TestPauseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := func() *transport {
			return scripted(step{status: 503, fields: []fetch.Field{{Name: "Retry-After", Value: []byte("20")}}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		report, err := over(t, long()).Run(ctx, retried(t, "http://example.com/"), &sink{})
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second || report.Outcome != fetch.OutcomeCanceled {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		e := over(t, long())
		time.AfterFunc(time.Second, e.Drain)
		_, err = e.Run(t.Context(), retried(t, "http://example.com/"), &sink{})
		if f := failed(t, err, fetch.ReasonDraining); f.Stage != fetch.StageWait || f.Sent != fetch.SentYes {
			t.Errorf("the failure is %+v", f)
		}
	})
}

func location(v string) []fetch.Field { return []fetch.Field{{Name: "Location", Value: []byte(v)}} }

// TestHops follows redirects: what is sent where, what the caller is given.
func TestHops(t *testing.T) {
	s := scripted(
		step{status: 302, fields: append(location("/b?x=1"), fetch.Field{Name: "Set-Cookie", Value: []byte("a=1")})},
		step{status: 307, fields: location("http://other.example.com/c")},
		step{status: 200, fields: []fetch.Field{{Name: "Set-Cookie", Value: []byte("c=3; Path=/; HttpOnly")}}})
	p, k := retried(t, "http://example.com/a"), &sink{}
	p.Method, p.Redirect.Max = "POST", 2
	p.Source = &source{text: "body", length: 4}
	p.Fields = []fetch.Field{{Name: "Authorization", Value: []byte("s")}, {Name: "Content-Type", Value: []byte("text/plain")}, {Name: "Accept", Value: []byte("*/*")}, {Name: "X-Own", Value: []byte("1")}}
	p.Cookies = []fetch.Cookie{{Name: []byte("mine"), Value: []byte("0")}}
	report, err := over(t, s).Run(t.Context(), p, k)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"hop 302 http://example.com/a", "hop 307 http://example.com/b?x=1", "head 200 http://other.example.com/c", "data answer 3"}
	if !slices.Equal(k.events, want) || report.Redirects != 2 || len(report.Attempts) != 1 || len(report.Attempts[0].Hops) != 3 {
		t.Errorf("events %q, redirects %d", k.events, report.Redirects)
	}
	for i, want := range []string{
		"POST http://example.com/a true Authorization: s, Content-Type: text/plain, Accept: */*, X-Own: 1, Cookie: mine=0",
		"GET http://example.com/b?x=1 false Authorization: s, Accept: */*, X-Own: 1, Cookie: mine=0; a=1",
		"GET http://other.example.com/c false Accept: */*",
	} {
		if got := sentAs(s.requests[i]); got != want {
			t.Errorf("hop %d sent %q, want %q", i+1, got, want)
		}
	}
	var held []string
	for _, c := range report.Cookies {
		held = append(held, fmt.Sprintf("%s=%s at %s", c.Name, c.Value, c.Domain))
	}
	if want := []string{"mine=0 at example.com", "a=1 at example.com", "c=3 at other.example.com"}; !slices.Equal(held, want) {
		t.Errorf("the jar holds %q, want %q", held, want)
	}
}

func sentAs(r *fetch.Request) string {
	var fields []string
	for _, f := range r.Fields {
		fields = append(fields, f.Name+": "+string(f.Value))
	}
	return fmt.Sprintf("%s %s://%s%s %v %s", r.Method, r.Scheme, r.Host, r.Target, r.Body != nil, strings.Join(fields, ", "))
}

// TestRedirectsThatAreNotFollowed end as they should.
func TestRedirectsThatAreNotFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		url    string
		steps  []step
		most   int
		reason fetch.Reason // empty: the 3xx is the answer
		last   bool         // the failure holds the last response
		hops   int
	}{
		"most is 0":      {"http://example.com/", []step{{status: 302, fields: location("/b")}}, 0, "", false, 1},
		"no Location":    {"http://example.com/", []step{{status: 302}}, 3, "", false, 1},
		"too many":       {"http://example.com/", []step{{status: 302, fields: location("/b")}, {status: 302, fields: location("/c")}, {status: 302, fields: location("/d")}}, 2, fetch.ReasonTooManyRedirects, true, 3},
		"a loop":         {"http://example.com/", []step{{status: 302, fields: location("/")}}, 2, fetch.ReasonRedirectLoop, true, 3},
		"a bad Location": {"http://example.com/", []step{{status: 302, fields: location("http://user@example.com/")}}, 2, fetch.ReasonInvalidRedirectURL, true, 1},
		"another scheme": {"http://example.com/", []step{{status: 302, fields: location("file:///etc/passwd")}}, 2, fetch.ReasonUnsupportedScheme, true, 1},
		"a denied port":  {"http://example.com/", []step{{status: 302, fields: location("http://example.com:8080/")}}, 2, fetch.ReasonRedirectDenied, false, 2},
		"a denied host":  {"http://example.com/", []step{{status: 302, fields: location("http://10.0.0.1/")}}, 2, fetch.ReasonAddressDenied, false, 2},
		"a downgrade":    {"https://example.com/", []step{{status: 302, fields: location("http://example.com/")}}, 2, fetch.ReasonRedirectDenied, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, k, p := scripted(c.steps...), &sink{}, retried(t, c.url)
			p.Redirect.Max = c.most
			report, err := over(t, s).Run(t.Context(), p, k)
			if n := len(report.Attempts[0].Hops); n != c.hops || len(report.Attempts) != 1 {
				t.Errorf("%d hops in %d attempts, want %d in one", n, len(report.Attempts), c.hops)
			}
			if c.reason == "" {
				if err != nil || !slices.Contains(k.events, "head 302 "+c.url) {
					t.Errorf("got %v, %q", err, k.events)
				}
				return
			}
			f := failed(t, err, c.reason)
			if f.Sent != fetch.SentYes || (f.Last != nil) != c.last || c.last && (f.Last.Head.Status != 302 || !strings.HasPrefix(string(f.Last.Body), "answer ")) {
				t.Errorf("the failure is %+v, last %+v", f, f.Last)
			}
			if denied := c.hops > len(s.requests); denied != (f.Blame == fetch.BlamePolicy) {
				t.Errorf("%d requests were sent, blame %s", len(s.requests), f.Blame)
			}
		})
	}
}

// TestHistoryIsOfTheLastAttempt: the heads of two attempts are never mixed.
func TestHistoryIsOfTheLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(step{status: 302, fields: location("/first")}, step{status: 503}, step{status: 302, fields: location("/second")}, step{status: 200})
		p, k := retried(t, "http://example.com/"), &sink{}
		p.Redirect.Max = 2
		if _, err := over(t, s).Run(t.Context(), p, k); err != nil {
			t.Fatal(err)
		}
		if want := []string{"hop 302 http://example.com/", "head 200 http://example.com/second", "data answer 4"}; !slices.Equal(k.events, want) {
			t.Errorf("events %q, want %q", k.events, want)
		}
	})
}

// TestHistoryCutIsOfTheLastAttempt: what is left out of the heads of an attempt
// that is tried again is not missing from the answer, or the failure.
func TestHistoryCutIsOfTheLastAttempt(t *testing.T) {
	hop := func(to string) step {
		padding := fetch.Field{Name: "Padding", Value: []byte(strings.Repeat("x", 60_000))}
		return step{status: 302, fields: append(location(to), padding)}
	}
	cut := []step{hop("/1"), hop("/2"), hop("/3"), hop("/4"), {status: 503}}
	for name, c := range map[string]struct {
		last []step
		cut  int
	}{
		"a whole history":            {[]step{{status: 200}}, 0},
		"a cut one":                  {[]step{hop("/5"), hop("/6"), hop("/7"), {status: 200}}, 1},
		"a whole one, and a failure": {[]step{broken(fetch.ReasonTLSVerify, fetch.SentNo)}, 0},
		"a cut one, and a failure":   {[]step{hop("/5"), hop("/6"), hop("/7"), hop("/8"), broken(fetch.ReasonTLSVerify, fetch.SentNo)}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := retried(t, "http://example.com/")
				p.Redirect.Max = 10
				report, _ := over(t, scripted(slices.Concat(cut, c.last)...)).Run(t.Context(), p, &sink{})
				if len(report.Attempts) != 2 || report.HistoryCut != c.cut {
					t.Errorf("after %d attempts %d heads are missing, want %d", len(report.Attempts), report.HistoryCut, c.cut)
				}
			})
		})
	}
}

// TestRequestBytesAreOfAllAttempts: what left in an attempt counts, though the
// next one cannot send anything.
func TestRequestBytesAreOfAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := scripted(step{status: 503}, broken(fetch.ReasonConnectRefused, fetch.SentNo)), retried(t, "http://example.com/")
		p.Method, p.Source = "PUT", &source{text: "body", length: 4}
		p.Retry.MaxAttempts = 2
		act := s.act
		s.act = func(ctx context.Context, r *fetch.Request) error {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Error(err)
			}
			s.facts.Sent = map[int]int64{1: 100, 2: 3}[len(s.requests)] // the head counts too
			return act(ctx, r)
		}
		report, err := over(t, s).Run(t.Context(), p, &sink{})
		failed(t, err, fetch.ReasonConnectRefused)
		if report.RequestBytes != 4+3 {
			t.Errorf("%d bytes left, want 4 in the first attempt and at most 3 in the second", report.RequestBytes)
		}
	})
}

// TestExhaustedShowsTheLastResponse: the failure has when to come again, and of
// the response as much as the caller takes.
func TestExhaustedShowsTheLastResponse(t *testing.T) {
	fields := []fetch.Field{{Name: "Retry-After", Value: []byte("7")}, {Name: "X-Other", Value: []byte("1")}}
	for name, c := range map[string]struct {
		alter func(*fetch.ResponsePlan)
		body  string
		head  bool
	}{
		"all":             {func(*fetch.ResponsePlan) {}, "answer 1", true},
		"a bounded body":  {func(p *fetch.ResponsePlan) { p.MaxBodyBytes = 3 }, "ans", true},
		"no body":         {func(p *fetch.ResponsePlan) { p.MaxBodyBytes = 0 }, "", true},
		"too many fields": {func(p *fetch.ResponsePlan) { p.MaxFields = 1 }, "", false},
		"too large heads": {func(p *fetch.ResponsePlan) { p.MaxHeadBytes = 20 }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := scripted(step{status: 503, fields: fields}), retried(t, "http://example.com/")
			p.Retry.MaxAttempts, p.Retry.FailWhenExhausted = 1, true
			c.alter(&p.Response)
			_, err := over(t, s).Run(t.Context(), p, &sink{})
			f := failed(t, err, fetch.ReasonRetriesExhausted)
			if f.RetryAfter != 7*time.Second {
				t.Errorf("it says to come again after %v", f.RetryAfter)
			}
			if (f.Last != nil) != c.head || c.head && (f.Last.Head.Status != 503 || string(f.Last.Body) != c.body) {
				t.Errorf("the last response is %+v, want the body %q", f.Last, c.body)
			}
		})
	}
}
