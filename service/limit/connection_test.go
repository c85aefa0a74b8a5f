package limit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// TestGoneConnectionHoldsNothing: what was held for the RPCs of a connection
// comes back with its end, once, also what somebody gives or takes later.
func TestGoneConnectionHoldsNothing(t *testing.T) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	conn := limit.NewConnection(time.Hour, func() { t.Error("it hung up") })
	var leases []*limit.Lease
	for range 3 {
		l, refused := a.Admit("shop", peerA, conn)
		if refused != nil || l.Take(100) != nil {
			t.Fatal(refused)
		}
		leases = append(leases, l)
	}
	other := admit(t, a, "shop", peerA)
	other.Take(7)
	leases[0].Done() // its answer is not read
	conn.Gone()
	if live, held := a.Load(); live != 3 || held != 7 {
		t.Errorf("%d fetches are live and %d bytes are held", live, held)
	}
	leases[0].Give(100)
	if leases[1].Take(1) == nil {
		t.Error("a lease of a connection that is gone took more")
	}
	leases[1].Done()
	leases[2].Give(50)
	leases[2].Done()
	late, refused := a.Admit("shop", peerA, conn)
	if refused != nil || late.Take(1) == nil {
		t.Error("an RPC of a connection that is gone holds something")
	}
	late.Done()
	other.Give(7)
	other.Done()
	conn.Gone()
	wantEmpty(t, a)
}

// TestAnswersThatNobodyReads: the connection ends once an answer has waited for
// the stall, counted from the end of its RPC, and not before.
func TestAnswersThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := limit.NewAdmission(fetch.DefaultLimits())
		var conn *limit.Connection
		start := time.Now()
		var hungUp atomic.Int64
		conn = limit.NewConnection(time.Minute, func() {
			hungUp.Store(int64(time.Since(start)))
			conn.Gone()
		})
		answer := func() *limit.Lease {
			l, refused := a.Admit("shop", peerA, conn)
			if refused != nil || l.Take(10) != nil {
				t.Fatal(refused)
			}
			l.Done()
			return l
		}
		first := answer()
		<-time.After(30 * time.Second)
		second := answer()
		<-time.After(29 * time.Second)
		first.Give(10) // read, just in time
		<-time.After(30 * time.Second)
		if after := hungUp.Load(); after != 0 {
			t.Fatalf("it hung up after %v", time.Duration(after))
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if after := time.Duration(hungUp.Load()); after != 90*time.Second {
			t.Errorf("it hung up after %v, want 90 s", after)
		}
		second.Give(10)
		wantEmpty(t, a)
	})
}

// TestConnectionsAreSafe: RPCs begin and end while their connection goes.
func TestConnectionsAreSafe(t *testing.T) {
	a := limit.NewAdmission(fetch.DefaultLimits())
	var all sync.WaitGroup
	for range 50 {
		conn := limit.NewConnection(time.Hour, func() {})
		for range 8 {
			all.Go(func() {
				l, refused := a.Admit("shop", peerA, conn)
				if refused != nil {
					return
				}
				for range 10 {
					if l.Take(10) == nil {
						l.Give(10)
					}
				}
				if l.Take(5) == nil {
					defer l.Give(5)
				}
				l.Done()
			})
		}
		all.Go(conn.Gone)
	}
	all.Wait()
	wantEmpty(t, a)
}
