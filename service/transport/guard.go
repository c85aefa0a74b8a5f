package transport

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// grace is how long a call into the HTTP/2 library may outlive its context
	// before it is left behind.
	grace = 40 * time.Millisecond
	// cutAfter is how long a call that was left behind may still last before
	// its connection is closed under it.
	cutAfter = time.Second
	// abandonAfter is how long calls may last after that.
	abandonAfter = time.Second
)

// guard makes calls into the HTTP/2 library, whose locks are held while it
// writes to the network and whose defects have held them for ever. Nobody
// waits longer for a call than for its context.
type guard struct {
	calls *tally
	log   *slog.Logger
}

// call runs f and tells whether it returned. If ctx ends and f does not follow
// at once, f is left behind: then what f works with belongs to it for good.
func (g guard) call(ctx context.Context, c *conn, f func()) bool {
	var finished atomic.Bool
	done := make(chan struct{})
	g.calls.add()
	go func() { // counted in calls, which Transport.Close waits for
		defer g.calls.done()
		f()
		finished.Store(true)
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-done:
		return true
	case <-patience.C:
	}
	time.AfterFunc(cutAfter, func() {
		if !finished.Load() {
			g.log.Warn("closing an HTTP/2 connection that does not let go of a request", "remote", c.remote.String())
			c.cut()
		}
	})
	return false
}
