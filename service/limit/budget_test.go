package limit_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

var _ fetch.RetryBudget = (*limit.RetryBudget)(nil)

var upstream = fetch.Origin{Scheme: "https", Host: "upstream.example", Port: 443}

// take takes n retries and returns how many it got.
func take(b *limit.RetryBudget, caller string, n int) (got int) {
	for range n {
		if b.Take(caller, upstream) {
			got++
		}
	}
	return got
}

func send(b *limit.RetryBudget, caller string, n int) {
	for range n {
		b.Sent(caller, upstream)
	}
}

func wantTake(t *testing.T, when string, b *limit.RetryBudget, want int) {
	t.Helper()
	if got := take(b, "shop", want+5); got != want {
		t.Errorf("%s: %d retries, want %d", when, got, want)
	}
}

// TestBudgetExpires: what first attempts put in lasts 10 seconds, and what was
// taken counts as long.
func TestBudgetExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0.2, 0)
		wantTake(t, "with nothing sent", b, 0)
		send(b, "shop", 4)
		wantTake(t, "after 4", b, 0)
		send(b, "shop", 1)
		wantTake(t, "after 5", b, 1)

		time.Sleep(10 * time.Second)
		send(b, "shop", 14)
		time.Sleep(10*time.Second - 1)
		wantTake(t, "just before they expire", b, 2)
		send(b, "shop", 6)
		wantTake(t, "after 20 with 2 taken", b, 2)

		time.Sleep(time.Nanosecond)
		send(b, "shop", 15)
		wantTake(t, "with 21 in the window, 14 expired and 4 taken", b, 0)
		send(b, "shop", 5)
		wantTake(t, "with 26 in the window", b, 1)

		time.Sleep(time.Hour)
		wantTake(t, "an hour later", b, 0)
	})
}

// TestBudgetExpiresWhole: of seconds that are all over nothing is left, however
// long nobody looked.
func TestBudgetExpiresWhole(t *testing.T) {
	for idle := 10; idle <= 30; idle++ {
		synctest.Test(t, func(t *testing.T) {
			b := limit.NewRetryBudget(1, 0)
			for range 10 {
				time.Sleep(time.Second)
				send(b, "shop", 1)
			}
			time.Sleep(time.Duration(idle) * time.Second)
			wantTake(t, fmt.Sprintf("after %d s", idle), b, 0)
		})
	}
}

// TestBudgetFloor: so many in each second, and never more for having waited.
func TestBudgetFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0, 3)
		wantTake(t, "at first", b, 3)
		time.Sleep(time.Second - 1)
		wantTake(t, "in the same second", b, 0)
		time.Sleep(time.Nanosecond)
		wantTake(t, "in the next", b, 3)
		time.Sleep(time.Minute)
		wantTake(t, "after a minute", b, 3)
		send(b, "shop", 100)
		wantTake(t, "with a ratio of 0", b, 0)
	})
}

// TestBudgetBoundsTheLoad: an upstream that was well and then fails for 10
// seconds at 200 fetches a second gets 1.2 times the load and the floor.
func TestBudgetBoundsTheLoad(t *testing.T) {
	for _, well := range []int{0, 1, 10, 60} {
		synctest.Test(t, func(t *testing.T) {
			const perSecond = 200
			b := limit.NewRetryBudget(0.2, 10)
			tick := func() { time.Sleep(time.Second / perSecond) }
			for range well * perSecond {
				send(b, "shop", 1)
				tick()
			}
			sent, retried := 0, 0
			for range 10 * perSecond {
				send(b, "shop", 1)
				sent++
				retried += take(b, "shop", 2)
				tick()
			}
			most := sent/5 + 10*10
			if retried > most || retried < sent/5 {
				t.Errorf("well for %d s: %d fetches were tried %d times again, want %d to %d", well, sent, retried, sent/5, most)
			}
		})
	}
}

// TestBudgetInEveryWindow: over a minute of failing no 10 seconds have more.
func TestBudgetInEveryWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0.2, 2)
		var sent, retried []int // by the second
		for second := range 60 {
			n := 50 + 40*(second%7)
			send(b, "shop", n)
			sent, retried = append(sent, n), append(retried, take(b, "shop", n))
			time.Sleep(time.Second)
		}
		for end := 10; end <= len(sent); end++ {
			s, r := 0, 0
			for second := end - 10; second < end; second++ {
				s, r = s+sent[second], r+retried[second]
			}
			if most := float64(s)*0.2 + 10*2; float64(r) > most {
				t.Errorf("in the 10 s up to %d: %d retries of %d, want at most %.1f", end, r, s, most)
			}
		}
	})
}

// TestBudgetsAreApart: neither another caller nor another origin pays.
func TestBudgetsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0.2, 1)
		send(b, "shop", 10)
		if got := take(b, "search", 10); got != 1 {
			t.Errorf("a caller that sent nothing retries %d times", got)
		}
		for _, o := range []fetch.Origin{
			{Scheme: "http", Host: upstream.Host, Port: upstream.Port},
			{Scheme: upstream.Scheme, Host: "other.example", Port: upstream.Port},
			{Scheme: upstream.Scheme, Host: upstream.Host, Port: 8443},
		} {
			if !b.Take("shop", o) || b.Take("shop", o) {
				t.Errorf("%s does not have a budget of its own", o)
			}
		}
		wantTake(t, "after the others", b, 3)
	})
}

// TestBudgetRemembersSoMany: beyond that the pair used least recently is
// forgotten, and no other.
func TestBudgetRemembersSoMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0, 1)
		caller := func(i int) string { return fmt.Sprintf("caller-%d", i) }
		for i := range 512 { // as many as one origin may have
			take(b, caller(i), 1)
		}
		if take(b, caller(0), 1) != 0 {
			t.Fatal("the first pair is forgotten before there are too many")
		}
		take(b, "one more", 1)
		if take(b, caller(0), 1) != 0 {
			t.Error("the pair used last is forgotten")
		}
		if take(b, caller(1), 1) != 1 {
			t.Error("the pair used least recently is remembered")
		}
		for i := range 20_000 {
			b.Sent("shop", fetch.Origin{Scheme: "https", Host: fmt.Sprintf("host-%d.example", i), Port: 443})
		}
		if n := b.Pairs(); n > 8192 || n < 8000 {
			t.Errorf("%d pairs are remembered", n)
		}
	})
}

// TestBudgetUnderContention: not one more than there are.
func TestBudgetUnderContention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0.25, 10)
		var got atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { send(b, "shop", 100) })
		}
		all.Wait()
		for range 8 {
			all.Go(func() {
				got.Add(int64(take(b, "shop", 50)))
				b.Remaining(upstream)
			})
		}
		all.Wait()
		if got.Load() != 800/4+10 {
			t.Errorf("%d retries, want %d", got.Load(), 800/4+10)
		}
	})
}

func TestBudgetRemaining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewRetryBudget(0.5, 2)
		want := func(when string, part float64, known bool) {
			t.Helper()
			if got, ok := b.Remaining(upstream); math.Abs(got-part) > 1e-9 || ok != known {
				t.Errorf("%s: %v %v, want %v %v", when, got, ok, part, known)
			}
		}
		if _, ok := b.Remaining(upstream); ok {
			t.Error("an origin that nobody asked for has a budget")
		}
		send(b, "shop", 4)
		want("whole", 1, true)
		take(b, "shop", 1)
		want("3 of 4", 0.75, true)
		send(b, "search", 12)
		want("with another that has more", 0.75, true)
		take(b, "search", 6)
		want("with another that has less", 0.25, true)
		take(b, "search", 9)
		want("with another that has none", 0, true)
		time.Sleep(time.Minute)
		want("a minute later", 1, true)

		none := limit.NewRetryBudget(0, 0)
		none.Sent("shop", upstream)
		if got, ok := none.Remaining(upstream); got != 0 || !ok || none.Take("shop", upstream) {
			t.Errorf("a budget of nothing has %v %v left", got, ok)
		}
	})
}

func TestSentAllocatesNothing(t *testing.T) {
	b := limit.NewRetryBudget(0.2, 10)
	if n := testing.AllocsPerRun(1000, func() { b.Sent("shop", upstream); b.Take("shop", upstream) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSent(b *testing.B) {
	budget := limit.NewRetryBudget(0.2, 10)
	b.ReportAllocs()
	for b.Loop() {
		budget.Sent("shop", upstream)
	}
}

func BenchmarkSentParallel(b *testing.B) {
	budget := limit.NewRetryBudget(0.2, 10)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			budget.Sent("shop", upstream)
		}
	})
}

func BenchmarkSentToMany(b *testing.B) {
	budget := limit.NewRetryBudget(0.2, 10)
	origins := make([]fetch.Origin, 4000)
	for i := range origins {
		origins[i] = fetch.Origin{Scheme: "https", Host: fmt.Sprintf("host-%d.example", i), Port: 443}
		budget.Sent("shop", origins[i])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		budget.Sent("shop", origins[i%len(origins)])
		i++
	}
}

func BenchmarkTake(b *testing.B) {
	budget := limit.NewRetryBudget(0.2, 10)
	b.ReportAllocs()
	for b.Loop() {
		budget.Take("shop", upstream)
	}
}
