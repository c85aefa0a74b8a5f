package limit_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

var (
	small = fetch.Limits{MaxLiveFetches: 4, MaxLiveFetchesPerCaller: 3, MaxLiveFetchesPerPeer: 2, MaxHeldBytes: 100}

	peerA = limit.AtAddress(netip.MustParseAddr("192.0.2.1"))
	peerB = limit.AtAddress(netip.MustParseAddr("192.0.2.2"))
	peerC = limit.AtAddress(netip.MustParseAddr("192.0.2.3"))
)

// admit takes a place that there must be.
func admit(t *testing.T, a *limit.Admission, caller string, peer limit.Peer) *limit.Lease {
	t.Helper()
	l, refused := a.Admit(caller, peer, nil)
	if refused != nil {
		t.Fatalf("%s from %v: %v", caller, peer, refused)
	}
	return l
}

// wantRefused holds a refusal to a limit.
func wantRefused(t *testing.T, r *limit.Refused, name, scope string, most int64) {
	t.Helper()
	if r == nil {
		t.Fatalf("it is not refused; want %s", name)
	}
	if r.Limit != name || r.Scope != scope || r.Max != most {
		t.Errorf("refused by %+v, want %s of a %s, %d", *r, name, scope, most)
	}
	if r.RetryAfter < 500*time.Millisecond || r.RetryAfter >= 1500*time.Millisecond {
		t.Errorf("%s: retry after %s", name, r.RetryAfter)
	}
	var err error = r
	if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), fmt.Sprint(most)) || !strings.Contains(err.Error(), "; ") {
		t.Errorf("%s: the message %q does not say what to do", name, err)
	}
}

// wantEmpty holds a to having forgotten everything.
func wantEmpty(t *testing.T, a *limit.Admission) {
	t.Helper()
	live, held := a.Load()
	callers, peers := a.Remembered()
	if live != 0 || held != 0 || callers != 0 || peers != 0 {
		t.Errorf("at the end there are %d fetches, %d bytes, %d callers, %d addresses", live, held, callers, peers)
	}
}

// TestEveryLimitRefuses: each at its own value, and the caller's own first.
func TestEveryLimitRefuses(t *testing.T) {
	a := limit.NewAdmission(small)
	shop := []*limit.Lease{admit(t, a, "shop", peerA), admit(t, a, "shop", peerA)}
	_, refused := a.Admit("search", peerA, nil)
	wantRefused(t, refused, limit.MaxLiveFetchesPerPeer, limit.ScopePeer, 2)
	shop = append(shop, admit(t, a, "shop", peerB))
	_, refused = a.Admit("shop", peerA, nil)
	wantRefused(t, refused, limit.MaxLiveFetchesPerCaller, limit.ScopeCaller, 3)
	search := admit(t, a, "search", peerB)
	_, refused = a.Admit("search", peerC, nil)
	wantRefused(t, refused, limit.MaxLiveFetches, limit.ScopeServer, 4)
	wantRefused(t, search.Take(101), limit.MaxHeldBytes, limit.ScopeServer, 100)
	wantRefused(t, search.Take(76), limit.MaxHeldBytes, limit.ScopePeer, 75)
	if refused := search.Take(75); refused != nil {
		t.Error(refused)
	}
	if refused := shop[0].Take(25); refused != nil {
		t.Error(refused)
	}
	wantRefused(t, search.Take(1), limit.MaxHeldBytes, limit.ScopeServer, 100)
	search.Done() // and keeps its place, for what it holds
	_, refused = a.Admit("search", peerC, nil)
	wantRefused(t, refused, limit.MaxLiveFetches, limit.ScopeServer, 4)
	shop[1].Done()
	_, refused = a.Admit("search", peerC, nil)
	wantRefused(t, refused, limit.MaxHeldBytes, limit.ScopeServer, 100)
	search.Give(1)
	shop = append(shop, admit(t, a, "search", peerC))

	if live, held := a.Load(); live != 4 || held != 99 {
		t.Errorf("%d fetches are live and %d bytes are held", live, held)
	}
	for name, want := range map[string]int64{
		limit.MaxLiveFetches: 2, limit.MaxLiveFetchesPerCaller: 1, limit.MaxLiveFetchesPerPeer: 1, limit.MaxHeldBytes: 4,
	} {
		if got := a.Refusals()[name]; got != want {
			t.Errorf("%s refused %d times, want %d", name, got, want)
		}
	}
	search.Give(74)
	shop[0].Give(25)
	for _, l := range shop {
		l.Done()
	}
	wantEmpty(t, a)
}

// TestALimitOfNothing allows nothing.
func TestALimitOfNothing(t *testing.T) {
	for name, change := range map[string]func(*fetch.Limits){
		limit.MaxLiveFetches:          func(l *fetch.Limits) { l.MaxLiveFetches = 0 },
		limit.MaxLiveFetchesPerCaller: func(l *fetch.Limits) { l.MaxLiveFetchesPerCaller = 0 },
		limit.MaxLiveFetchesPerPeer:   func(l *fetch.Limits) { l.MaxLiveFetchesPerPeer = 0 },
		limit.MaxHeldBytes:            func(l *fetch.Limits) { l.MaxHeldBytes = 0 },
	} {
		l := small
		change(&l)
		a := limit.NewAdmission(l)
		if _, refused := a.Admit("shop", peerA, nil); refused == nil || refused.Limit != name || refused.Max != 0 {
			t.Errorf("%s: %v", name, refused)
		}
		wantEmpty(t, a)
	}
}

// TestPeers: a host is one peer, however it writes its address.
func TestPeers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"", "", true},
		{"", "192.0.2.1", false},
		{"", "::", false},
		{"uid 0", "uid 0", true},
		{"uid 0", "uid 1000", false},
		{"uid 0", "", false},
	} {
		a := limit.NewAdmission(fetch.Limits{MaxLiveFetches: 2, MaxLiveFetchesPerCaller: 2, MaxLiveFetchesPerPeer: 1, MaxHeldBytes: 1})
		admit(t, a, "shop", peerNamed(c.a))
		if _, refused := a.Admit("shop", peerNamed(c.b), nil); (refused != nil) != c.same {
			t.Errorf("%q and %q: %v, want the same %v", c.a, c.b, refused, c.same)
		}
	}
}

// peerNamed is the peer that s spells; "" is none.
func peerNamed(s string) limit.Peer {
	switch s {
	case "":
		return limit.AtAddress(netip.Addr{})
	case "uid 0":
		return limit.OfUser(0)
	case "uid 1000":
		return limit.OfUser(1000)
	}
	return limit.AtAddress(netip.MustParseAddr(s))
}

// TestLease: a place ends once, and bytes are given back at most once.
func TestLease(t *testing.T) {
	a := limit.NewAdmission(small)
	first, second := admit(t, a, "shop", peerA), admit(t, a, "shop", peerB)
	for _, n := range []int{0, -5, 40} {
		if refused := first.Take(n); refused != nil {
			t.Error(refused)
		}
	}
	if refused := second.Take(60); refused != nil {
		t.Error(refused)
	}
	first.Done()
	first.Done()
	if live, held := a.Load(); live != 2 || held != 100 {
		t.Errorf("after one ended: %d fetches, %d bytes", live, held)
	}
	first.Give(-5)
	first.Give(1000)
	first.Give(1)
	if live, held := a.Load(); live != 1 || held != 60 {
		t.Errorf("after one gave more than it held: %d bytes", held)
	}
	second.Done()
	second.Give(60)
	wantEmpty(t, a)
}

// TestOneCallerDoesNotStarveAnother: who is at its limit is refused, and who is
// not is admitted, at every moment.
func TestOneCallerDoesNotStarveAnother(t *testing.T) {
	a := limit.NewAdmission(fetch.Limits{MaxLiveFetches: 10, MaxLiveFetchesPerCaller: 5, MaxLiveFetchesPerPeer: 10, MaxHeldBytes: 1})
	var greedy sync.WaitGroup
	var stop atomic.Bool
	for range 20 {
		greedy.Go(func() {
			for !stop.Load() {
				if l, refused := a.Admit("greedy", peerA, nil); refused == nil {
					l.Done()
				}
			}
		})
	}
	for range 2000 {
		var leases []*limit.Lease
		for range 5 {
			leases = append(leases, admit(t, a, "modest", peerB))
		}
		for _, l := range leases {
			l.Done()
		}
	}
	stop.Store(true)
	greedy.Wait()
	wantEmpty(t, a)
}

// TestNeverOver: under contention no limit is exceeded, and nothing is left.
func TestNeverOver(t *testing.T) {
	limits := fetch.Limits{MaxLiveFetches: 6, MaxLiveFetchesPerCaller: 4, MaxLiveFetchesPerPeer: 5, MaxHeldBytes: 1000}
	a := limit.NewAdmission(limits)
	var live, held, most, mostHeld, admitted atomic.Int64
	var all, late sync.WaitGroup
	for i := range 16 {
		caller, peer := fmt.Sprint("caller-", i%3), []limit.Peer{peerA, peerB}[i%2]
		all.Go(func() {
			for range 500 {
				l, refused := a.Admit(caller, peer, nil)
				if refused != nil {
					continue
				}
				admitted.Add(1)
				raise(&most, live.Add(1))
				got := l.Take(300) == nil
				if got {
					raise(&mostHeld, held.Add(300))
				}
				live.Add(-1)
				l.Done()
				if got {
					late.Go(func() {
						held.Add(-300)
						l.Give(100)
						l.Give(200)
					})
				}
			}
		})
	}
	all.Wait()
	late.Wait()
	if most.Load() > int64(limits.MaxLiveFetches) || mostHeld.Load() > limits.MaxHeldBytes || admitted.Load() == 0 {
		t.Errorf("%d admitted; %d were live and %d bytes held at once", admitted.Load(), most.Load(), mostHeld.Load())
	}
	wantEmpty(t, a)
}

// raise sets m to v if that is more.
func raise(m *atomic.Int64, v int64) {
	for {
		old := m.Load()
		if v <= old || m.CompareAndSwap(old, v) {
			return
		}
	}
}

func TestAdmitAllocatesALease(t *testing.T) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	other := admit(t, a, "shop", peerA) // an address is remembered while it has one
	n := testing.AllocsPerRun(1000, func() {
		l, _ := a.Admit("shop", peerA, nil)
		l.Take(1 << 10)
		l.Give(1 << 10)
		l.Done()
	})
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
	other.Done()
	wantEmpty(t, a)
}

func BenchmarkAdmit(b *testing.B) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	b.ReportAllocs()
	for b.Loop() {
		l, _ := a.Admit("shop", peerA, nil)
		l.Done()
	}
}

func BenchmarkAdmitParallel(b *testing.B) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			l, _ := a.Admit("shop", peerA, nil)
			l.Done()
		}
	})
}

func BenchmarkAdmitRefused(b *testing.B) {
	a := limit.NewAdmission(fetch.Limits{})
	b.ReportAllocs()
	for b.Loop() {
		a.Admit("shop", peerA, nil)
	}
}

func BenchmarkTakeAndGive(b *testing.B) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	l, _ := a.Admit("shop", peerA, nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Take(1 << 10)
		l.Give(1 << 10)
	}
}
