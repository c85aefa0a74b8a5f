package transport

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// shareDial is how long a request waits for the connection that another one is
// opening, and that may turn out to be HTTP/2, before it opens its own.
const shareDial = time.Second

// refusedPause is how long a connection that refused a request, though it
// carries fewer than it may, gets no other. It waits for the end of streams
// that were given up, or for the upstream's word that it has ended them.
const refusedPause = 5 * time.Millisecond

// pool holds the connections of all keys. It opens none: take tells a request
// to open one itself. It calls no engine while it holds its lock, so that an
// engine that hangs takes nobody along.
type pool struct {
	limits fetch.Limits
	// leases are the requests between take and the end of their exchange.
	leases  tally
	stop    chan struct{} // ends sweepLoop
	stopped chan struct{} // sweepLoop has ended

	mu     sync.Mutex
	groups map[key]*group
	conns  map[*conn]struct{} // all that are open
	idle   list.List          // of *conn without work, the longest so first
	closed bool
}

func newPool(limits fetch.Limits) *pool {
	p := &pool{
		limits: limits,
		groups: map[key]*group{}, conns: map[*conn]struct{}{},
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go p.sweepLoop() // close ends it and waits for it
	return p
}

// search is what a request looks for.
type search struct {
	x *exchange
	// fresh wants no connection that was used before, renew only if there must
	// not be one more.
	fresh, renew bool
	share        bool // may wait for another request's dial
}

// found is a connection, a place to wait, a connection to close that is in the
// way, or none of them: then the request may dial.
type found struct {
	group  *group
	conn   *conn
	waiter *waiter
	victim *conn
}

// take finds a connection for x, or waits for one at most x's pool timeout.
// Without a connection and an error, the caller opens one for the group and
// then calls add or dialFailed. If there is no error, the lease lasts until
// release or dialFailed.
func (p *pool) take(ctx context.Context, x *exchange) (*group, *conn, error) {
	began := time.Now()
	defer func() { x.facts.Times.Pool += time.Since(began) }()
	x.enter(fetch.StageWait)
	p.leases.add()
	if x.until.IsZero() {
		x.until = began.Add(x.req.Timeouts.Pool)
	}
	s := &search{x: x, fresh: x.req.Fresh, renew: x.refusals > 0}
	s.share = !s.fresh && !s.renew
	for {
		f, err := p.find(s)
		if err == nil && f.waiter != nil {
			f.conn, err = p.await(ctx, s, f)
		}
		switch {
		case err != nil:
			p.leases.done()
			return nil, nil, err
		case f.victim != nil:
			f.victim.hangUp()
		case f.conn != nil && f.conn.engine.alive():
			return f.group, f.conn, nil
		case f.conn != nil:
			x.facts.Stale++
			f.conn.cut()
		case f.waiter == nil:
			return f.group, nil, nil
		}
	}
}

func (p *pool) find(s *search) (found, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return found{}, s.x.fail(fetch.ReasonDraining, "fetchgate is stopping and opens no connection", nil)
	}
	g := p.group(s.x.req)
	c := g.usable()
	if c != nil && !s.fresh && !s.renew {
		p.occupy(c)
		return found{group: g, conn: c}, nil
	}
	if s.share && g.dialing > 0 && g.mayShare(s.x.req) {
		return found{group: g, waiter: g.wait(true)}, nil
	}
	if g.open < p.limits.MaxConnectionsPerRoute {
		g.open++
		g.dialing++
		return found{group: g}, nil
	}
	if c != nil && !s.fresh {
		p.occupy(c)
		return found{group: g, conn: c}, nil
	}
	if c := g.spare(s.fresh); c != nil {
		p.retire(c)
		return found{group: g, victim: c}, nil
	}
	w := g.wait(false)
	w.fresh = s.fresh
	return found{group: g, waiter: w}, nil
}

// await waits until f's waiter is served. Without a connection and an error,
// the request looks again.
func (p *pool) await(ctx context.Context, s *search, f found) (*conn, error) {
	w := f.waiter
	patience := time.Until(s.x.until)
	last := patience <= refusedPause
	switch {
	case w.shares:
		patience = min(patience, shareDial)
	case w.brief:
		patience = min(patience, refusedPause)
	default:
		last = true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-w.ready:
		s.share = s.share && !w.alone
		return w.conn, nil
	case <-timer.C:
		s.share = s.share && !w.shares
		if last && !w.shares {
			err = s.x.fail(fetch.ReasonPoolTimeout, fmt.Sprintf("all %d connections to %s stayed busy for %s",
				p.limits.MaxConnectionsPerRoute, s.x.name, s.x.req.Timeouts.Pool), nil)
		}
	case <-ctx.Done():
		err = s.x.ended(ctx)
	}
	if c := p.leave(f.group, w); c != nil && err != nil {
		p.put(c, true)
	} else if c != nil {
		return c, nil
	}
	return nil, err
}

// leave ends a wait before it was served; if it was meanwhile, whatever it got
// goes to its owner or to the next.
func (p *pool) leave(g *group, w *waiter) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.place != nil {
		g.waiters.Remove(w.place)
	} else if w.conn == nil {
		g.wakeOne()
	}
	return w.conn
}

// occupy gives c one more request.
func (p *pool) occupy(c *conn) {
	c.streams++
	if c.idle != nil {
		p.unlist(c)
	}
}

// unlist takes c out of those without work.
func (p *pool) unlist(c *conn) {
	if c.idle != nil {
		p.idle.Remove(c.idle)
		c.idle = nil
	}
	c.group.unfree(c)
}

// add puts a connection that the caller of take opened into the pool, with its
// first request. It fails if the pool was closed meanwhile.
func (p *pool) add(x *exchange, c *conn) error {
	p.mu.Lock()
	g := c.group
	g.dialing--
	if p.closed {
		p.mu.Unlock()
		p.leases.done()
		return x.fail(fetch.ReasonDraining, "fetchgate is stopping", nil)
	}
	g.protocol = c.protocol
	c.streams, c.limit = 1, 1
	p.conns[c] = struct{}{}
	if c.engine.shared() {
		c.limit = unlimited
		if g.limit > 0 {
			c.limit = g.limit
		}
		g.shared = append(g.shared, c)
		g.wakeAll()
	}
	g.wakeSharing(false)
	p.mu.Unlock()
	c.sock.whenClosed(func() { p.gone(c) })
	return nil
}

// dialFailed ends the lease of a request that was to open a connection.
func (p *pool) dialFailed(g *group) {
	p.mu.Lock()
	g.open--
	g.dialing--
	g.wakeSharing(true)
	g.wakeOne()
	p.prune(g)
	p.mu.Unlock()
	p.leases.done()
}

// release ends a lease. A connection that is not reusable takes no more work.
func (p *pool) release(c *conn, reusable bool) {
	p.put(c, reusable)
	p.leases.done()
}

// refused ends a lease of a shared connection that took no request.
func (p *pool) refused(c *conn, u *unserved) {
	p.mu.Lock()
	c.limit = u.limit
	if u.limit != unlimited {
		c.group.limit = u.limit
	}
	if c.streams <= c.limit {
		c.paused = time.Now().Add(refusedPause)
	}
	p.mu.Unlock()
	p.release(c, !u.dead)
}

// put takes a request off c.
func (p *pool) put(c *conn, reusable bool) {
	for _, victim := range p.lighten(c, reusable) {
		victim.hangUp()
	}
}

func (p *pool) lighten(c *conn, reusable bool) (victims []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	now := time.Now()
	c.retired = c.retired || !reusable || p.closed || c.group.withdrawn || !now.Before(c.dies)
	switch {
	case c.gone:
		return nil
	case c.retired && c.streams == 0:
		return []*conn{c}
	case c.hasRoom() && !now.Before(c.paused) && c.group.handOver(c):
		return nil
	case c.streams == 0:
		victims = p.rest(c)
		c.group.wakeOne() // who wants a fresh one may close this
	}
	return victims
}

// rest puts c among those without work, and returns those that are too many.
func (p *pool) rest(c *conn) (victims []*conn) {
	g := c.group
	c.idleAt = time.Now()
	c.idle = p.idle.PushBack(c)
	if !c.engine.shared() {
		g.free = append(g.free, c)
	}
	if len(g.free) > p.limits.MaxIdlePerRoute {
		victims = append(victims, g.free[0])
		p.retire(g.free[0])
	}
	if p.idle.Len() > p.limits.MaxIdle {
		oldest := p.idle.Front().Value.(*conn)
		victims = append(victims, oldest)
		p.retire(oldest)
	}
	return victims
}

// retire takes c out of use.
func (p *pool) retire(c *conn) {
	c.retired = true
	p.unlist(c)
}

// gone forgets a connection that is closed. Its socket calls this, once.
func (p *pool) gone(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.gone = true
	p.unlist(c)
	delete(p.conns, c)
	g := c.group
	g.unshare(c)
	g.open--
	g.wakeOne()
	p.prune(g)
}
