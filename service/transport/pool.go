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
	x     *exchange
	fresh bool // no connection that was used before
	share bool // may wait for another request's dial
	until time.Time
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
func (p *pool) take(ctx context.Context, x *exchange, fresh bool) (*group, *conn, error) {
	began := time.Now()
	defer func() { x.facts.Times.Pool += time.Since(began) }()
	x.enter(fetch.StageWait)
	p.leases.add()
	s := &search{x: x, fresh: fresh, share: !fresh, until: began.Add(x.req.Timeouts.Pool)}
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
	if c := g.usable(); c != nil && !s.fresh {
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
	if len(g.free) > 0 {
		c := g.free[0]
		p.retire(c)
		return found{group: g, victim: c}, nil
	}
	return found{group: g, waiter: g.wait(false)}, nil
}

// await waits until f's waiter is served. Without a connection and an error,
// the request looks again.
func (p *pool) await(ctx context.Context, s *search, f found) (*conn, error) {
	w := f.waiter
	patience := time.Until(s.until)
	if w.shares {
		patience = min(patience, shareDial)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-w.ready:
		s.share = s.share && !w.alone
		return w.conn, nil
	case <-timer.C:
		s.share = false
		if !w.shares {
			err = s.x.fail(fetch.ReasonPoolTimeout, fmt.Sprintf("all %d connections to %s stayed busy for %s",
				p.limits.MaxConnectionsPerRoute, s.x.name, s.x.req.Timeouts.Pool), nil)
		}
	case <-ctx.Done():
		err = s.x.ended(ctx)
	}
	if c := p.leave(f.group, w); c != nil && err != nil {
		p.put(c, true, false)
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
	c.streams = 1
	p.conns[c] = struct{}{}
	if c.engine.shared() {
		g.shared = append(g.shared, c)
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
	p.mu.Unlock()
	p.leases.done()
}

// release ends a lease. A connection that is not reusable takes no more work.
func (p *pool) release(c *conn, reusable bool) {
	p.put(c, reusable, false)
	p.leases.done()
}

// releaseFull ends a lease of a shared connection that took no request: it had
// no room, or is dead and closes when its other requests are done.
func (p *pool) releaseFull(c *conn, dead bool) {
	p.put(c, !dead, true)
	p.leases.done()
}

// put takes a request off c, which full tells to have no room for another.
func (p *pool) put(c *conn, reusable, full bool) {
	for _, victim := range p.lighten(c, reusable, full) {
		victim.hangUp()
	}
}

func (p *pool) lighten(c *conn, reusable, full bool) (victims []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	c.full = full
	c.retired = c.retired || !reusable || p.closed || !time.Now().Before(c.dies)
	switch {
	case c.gone:
		return nil
	case c.retired && c.streams == 0:
		return []*conn{c}
	case c.retired:
		return nil
	case c.engine.shared() && !full:
		c.group.wakeOne()
	case !c.engine.shared() && c.group.handOver(c):
		return nil
	}
	if c.streams > 0 {
		return nil
	}
	return p.rest(c)
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
}
