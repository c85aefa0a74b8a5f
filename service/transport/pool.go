package transport

import (
	"cmp"
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
	crowd  list.List          // of *waiter for a place among all connections
	// open counts the connections and dials of all keys, dialing the dials.
	open, dialing int
	ended         map[fetch.CloseCause]int64 // connections that are closed
	closed        bool
}

func newPool(limits fetch.Limits) *pool {
	if limits.MaxConnections <= 0 {
		limits.MaxConnections = fetch.DefaultLimits().MaxConnections
	}
	p := &pool{
		limits: limits,
		groups: map[key]*group{}, conns: map[*conn]struct{}{}, ended: map[fetch.CloseCause]int64{},
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go p.sweepLoop() // close ends it and waits for it
	return p
}

// search is what a request looks for.
type search struct {
	x     *exchange
	fresh bool // wants no connection that was used before
	share bool // may wait for another request's dial
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
	s := &search{x: x, fresh: x.req.Fresh, share: !x.req.Fresh}
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
			p.discard(f.conn)
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
	if c := g.usable(s.x.after); c != nil && !s.fresh {
		p.occupy(c)
		p.passPlace()
		return found{group: g, conn: c}, nil
	}
	if s.share && g.dialing > 0 && g.mayShare(s.x.req) {
		p.passPlace()
		w := g.wait(true)
		w.after = s.x.after
		return found{group: g, waiter: w}, nil
	}
	full := g.open >= p.limits.MaxConnectionsPerRoute
	if !full && p.open < p.limits.MaxConnections {
		p.grow(g, 1)
		return found{group: g}, nil
	}
	if c := g.usable(time.Time{}); c != nil && !s.fresh {
		p.occupy(c)
		return found{group: g, conn: c}, nil
	}
	if c := p.spare(g, full, s.fresh); c != nil {
		p.retire(c, fetch.ClosedIdle)
		return found{group: g, victim: c}, nil
	}
	w := g.wait(false)
	w.fresh = s.fresh
	if !full {
		w.join(&p.crowd)
	}
	return found{group: g, waiter: w}, nil
}

// grow counts n more dials of g.
func (p *pool) grow(g *group, n int) {
	g.open += n
	g.dialing += n
	p.open += n
	p.dialing += n
}

// spare finds a connection without work to close for one of g: of g, if it is
// full, else the one of all keys that has been without for longest.
func (p *pool) spare(g *group, full, fresh bool) *conn {
	if full {
		return g.spare(fresh)
	}
	if e := p.idle.Front(); e != nil {
		return e.Value.(*conn)
	}
	return nil
}

// passPlace leaves a place among all connections, if there is one, to the next
// that waits for it: a request that was woken for it may do without.
func (p *pool) passPlace() {
	if p.open < p.limits.MaxConnections {
		p.wakeCrowd()
	}
}

// wakeCrowd has the first that waits for a place among all connections look
// again.
func (p *pool) wakeCrowd() {
	if e := p.crowd.Front(); e != nil {
		e.Value.(*waiter).serve()
	}
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
			err = p.timeout(s.x, w.crowd != nil)
		}
	case <-ctx.Done():
		err = s.x.givenUp(ctx)
	}
	if c := p.leave(w); c != nil && err != nil {
		p.put(c, "")
	} else if c != nil {
		return c, nil
	}
	return nil, err
}

// timeout is the failure of a request that waited too long, for a place among
// the connections of its key or of all.
func (p *pool) timeout(x *exchange, ofAll bool) *fetch.Failure {
	if !ofAll {
		return x.fail(fetch.ReasonPoolTimeout, fmt.Sprintf("all %d connections to %s stayed busy for %s",
			p.limits.MaxConnectionsPerRoute, x.name(), x.req.Timeouts.Pool), nil)
	}
	f := x.fail(fetch.ReasonPoolTimeout, fmt.Sprintf("all %d connections that fetchgate may have open stayed busy for %s",
		p.limits.MaxConnections, x.req.Timeouts.Pool), nil)
	f.LimitHit = &fetch.LimitHit{Limit: "max_connections", Max: int64(p.limits.MaxConnections)}
	return f
}

// leave ends a wait before it was served; if it was meanwhile, whatever it got
// goes to its owner or to the next.
func (p *pool) leave(w *waiter) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.place != nil {
		w.quit()
	} else if w.conn == nil {
		w.group.wakeOne()
		p.wakeCrowd()
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
	if p.closed {
		p.grow(g, -1)
		p.mu.Unlock()
		p.leases.done()
		return x.fail(fetch.ReasonDraining, "fetchgate is stopping", nil)
	}
	g.dialing--
	p.dialing--
	g.protocol = c.protocol
	c.born, c.streams, c.limit = time.Now(), 1, 1
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
	p.grow(g, -1)
	g.wakeSharing(true)
	g.wakeOne()
	p.wakeCrowd()
	p.prune(g)
	p.mu.Unlock()
	p.leases.done()
}

// release ends a lease. A connection takes no more work if why says that it is
// to close.
func (p *pool) release(c *conn, why fetch.CloseCause) {
	p.put(c, why)
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
	why := fetch.CloseCause("")
	if u.dead {
		why = fetch.ClosedPeer
	}
	p.release(c, why)
}

// discard closes a connection that was found dead when a request was to go out.
func (p *pool) discard(c *conn) {
	p.mu.Lock()
	c.streams--
	p.retire(c, fetch.ClosedPeer)
	if c.gone {
		p.count(c)
	}
	p.mu.Unlock()
	c.cut()
}

// put takes a request off c.
func (p *pool) put(c *conn, why fetch.CloseCause) {
	for _, victim := range p.lighten(c, why) {
		victim.hangUp()
	}
}

func (p *pool) lighten(c *conn, why fetch.CloseCause) (victims []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	now := time.Now()
	switch {
	case why == fetch.ClosedError && c.protocol == protocolH2 && !c.gone:
		why = "" // a stream that failed says nothing about its connection
	case why != "":
	case p.closed || c.group.withdrawn:
		why = fetch.ClosedPolicy
	case !now.Before(c.dies):
		why = fetch.ClosedAge
	}
	if why != "" {
		p.retire(c, why)
	}
	switch {
	case c.gone:
		p.count(c)
		return nil
	case c.retired && c.streams == 0:
		return []*conn{c}
	case c.hasRoom() && !now.Before(c.paused) && c.group.handOver(c):
		return nil
	case c.streams == 0:
		victims = p.rest(c)
		// Who wants a fresh one, or one of another key, may close this.
		c.group.wakeOne()
		p.wakeCrowd()
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
		p.retire(g.free[0], fetch.ClosedIdle)
	}
	if p.idle.Len() > p.limits.MaxIdle {
		oldest := p.idle.Front().Value.(*conn)
		victims = append(victims, oldest)
		p.retire(oldest, fetch.ClosedIdle)
	}
	return victims
}

// retire takes c out of use. The first cause is the one that counts.
func (p *pool) retire(c *conn, why fetch.CloseCause) {
	if !c.retired {
		c.retired, c.why = true, why
	}
	p.unlist(c)
}

// gone forgets a connection that is closed. Its socket calls this, once.
func (p *pool) gone(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.gone = true
	p.count(c)
	p.unlist(c)
	delete(p.conns, c)
	g := c.group
	g.unshare(c)
	g.open--
	p.open--
	g.wakeOne()
	p.wakeCrowd()
	p.prune(g)
}

// count counts a connection that is closed once none of its requests is left,
// who know the cause best. Without one, the upstream closed it.
func (p *pool) count(c *conn) {
	if c.streams == 0 {
		p.ended[cmp.Or(c.why, fetch.ClosedPeer)]++
	}
}
