package transport

import (
	"container/list"
	"crypto/tls"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// key says which connections are alike: they may serve the same requests.
type key struct {
	origin fetch.Origin
	route  string
}

// group is what the pool knows of one key. The pool's lock guards it.
type group struct {
	key   key
	route fetch.Route
	// sessions are the TLS sessions to resume, never those of another key.
	sessions tls.ClientSessionCache
	protocol string // of the last connection; empty before the first
	// limit is how many requests the last connection that said so takes at a
	// time: the next is not given more before it can say so. 0 means not known.
	limit int

	free    []*conn   // HTTP/1.1 without work, the last used last
	shared  []*conn   // HTTP/2
	open    int       // connections and dials
	dialing int       // dials
	waiters list.List // of *waiter, the first come first
	touched time.Time
	// withdrawn tells that the pool no longer knows the group.
	withdrawn bool
}

// waiter is a request that waits for a connection.
type waiter struct {
	// shares tells that it waits for a dial, not for a place below the limit.
	shares bool
	// brief tells to look again after refusedPause.
	brief bool
	// fresh tells that nothing can be handed over, only looked for again.
	fresh bool
	// after tells that a connection opened before then is not to be handed over.
	after time.Time
	ready chan struct{}
	// conn is handed over; without one, the request looks again.
	conn *conn
	// alone tells to open a connection of its own, since the dial that the
	// request waited for has failed.
	alone bool
	group *group
	place *list.Element // in group.waiters; nil once it is out of the list
	// crowd is where it waits too, if all connections of all keys are in use.
	crowd   *list.List
	inCrowd *list.Element
}

// group returns the group of r's key.
func (p *pool) group(r *fetch.Request) *group {
	k := key{originOf(r), r.Route.Key}
	g := p.groups[k]
	if g == nil {
		g = &group{key: k, route: r.Route, sessions: tls.NewLRUClientSessionCache(1)}
		p.groups[k] = g
	}
	g.touched = time.Now()
	return g
}

// prune forgets g if it has nothing that a later request could use. Callers
// choose keys, so what came to nothing must not stay.
func (p *pool) prune(g *group) {
	worthless := g.protocol == "" || g.key.origin.Scheme == "http" // no TLS session to resume
	if worthless && g.open == 0 && g.waiters.Len() == 0 && p.groups[g.key] == g {
		delete(p.groups, g.key)
	}
}

// usable finds a connection, opened after that time, that can take a request,
// if there is one.
func (g *group) usable(after time.Time) *conn {
	now := time.Now()
	for _, c := range slices.Backward(g.free) {
		if now.Before(c.dies) && c.born.After(after) {
			return c
		}
	}
	for _, c := range g.shared {
		if c.hasRoom() && now.Before(c.dies) && !now.Before(c.paused) && c.born.After(after) {
			return c
		}
	}
	return nil
}

// spare finds a connection without work to close for another: one that is too
// old, or any that was used if a fresh one is wanted.
func (g *group) spare(fresh bool) *conn {
	if len(g.free) > 0 {
		return g.free[0]
	}
	if i := slices.IndexFunc(g.shared, func(c *conn) bool { return c.idle != nil }); i >= 0 && fresh {
		return g.shared[i]
	}
	return nil
}

// paused tells whether a connection will have room again without anyone's doing.
func (g *group) paused() bool {
	now := time.Now()
	return slices.ContainsFunc(g.shared, func(c *conn) bool { return c.hasRoom() && now.Before(c.paused) })
}

// mayShare tells whether a connection that is being opened can serve r beside
// the request that opens it.
func (g *group) mayShare(r *fetch.Request) bool {
	switch r.Route.Version {
	case fetch.HTTP1:
		return false
	case fetch.HTTP2:
		return true
	default:
		return r.Scheme == "https" && g.protocol != protocolH1
	}
}

func (g *group) wait(shares bool) *waiter {
	w := &waiter{shares: shares, brief: g.paused(), group: g, ready: make(chan struct{})}
	w.place = g.waiters.PushBack(w)
	return w
}

// join has w wait in the crowd too.
func (w *waiter) join(crowd *list.List) {
	w.crowd, w.inCrowd = crowd, crowd.PushBack(w)
}

// quit takes w out of the lists that it is in.
func (w *waiter) quit() {
	w.group.waiters.Remove(w.place)
	w.place = nil
	if w.crowd != nil {
		w.crowd.Remove(w.inCrowd)
	}
}

// serve ends the wait of w.
func (w *waiter) serve() {
	w.quit()
	close(w.ready)
}

// wakeOne has the first that waits look again.
func (g *group) wakeOne() {
	if e := g.waiters.Front(); e != nil {
		e.Value.(*waiter).serve()
	}
}

// wakeAll has all that wait look again.
func (g *group) wakeAll() {
	for g.waiters.Len() > 0 {
		g.wakeOne()
	}
}

// wakeSharing ends the wait for a dial.
func (g *group) wakeSharing(failed bool) {
	for e := g.waiters.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		if w.shares {
			w.alone = failed
			w.serve()
		}
	}
}

// handOver gives c to the first that waits for one that was used, if there is
// one.
func (g *group) handOver(c *conn) bool {
	for e := g.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*waiter); !w.fresh && c.born.After(w.after) {
			w.conn = c
			c.streams++
			w.serve()
			return true
		}
	}
	return false
}

func (g *group) unfree(c *conn) {
	if i := slices.Index(g.free, c); i >= 0 {
		g.free = slices.Delete(g.free, i, i+1)
	}
}

func (g *group) unshare(c *conn) {
	if i := slices.Index(g.shared, c); i >= 0 {
		g.shared = slices.Delete(g.shared, i, i+1)
	}
}
