package listener

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestEndedRPCsAreForgotten: what ended without its request is not kept for as
// long as it could have been waited for.
func TestEndedRPCsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(nil, Options{OnRefused: func(string) { t.Error("one counts as silent") }})
		stays := l.Expect(t.Context())
		for range 3 {
			ctx, end := context.WithCancel(t.Context())
			l.Expect(ctx)
			end()
		}
		time.Sleep(forgetEvery) // of the bubble
		synctest.Wait()
		left := 0
		for e := l.expected.ring.after; e != &l.expected.ring; e = e.after {
			left++
		}
		if left != 1 {
			t.Errorf("%d RPCs are expected, want 1", left)
		}
		Received(stays)
		time.Sleep(forgetEvery)
		synctest.Wait()
		if l.expected.ring.after != &l.expected.ring || l.expected.armed {
			t.Error("one is still expected")
		}
	})
}
