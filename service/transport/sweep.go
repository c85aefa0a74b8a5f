package transport

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// sweepLoop closes, from time to time, what the pool no longer needs.
func (p *pool) sweepLoop() {
	defer close(p.stopped)
	// A sixth of the time: 15 s with the default idle timeout.
	ticks := time.NewTicker(max(p.limits.IdleTimeout/6, time.Millisecond))
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			victims, doubtful := p.sweep()
			for _, c := range victims {
				c.hangUp()
			}
			for _, c := range doubtful {
				p.examine(c)
			}
		case <-p.stop:
			return
		}
	}
}

// sweep takes out the connections without work that are too old, idle for too
// long or dead, and the groups that nobody asks for. Doubtful are connections
// over TLS that got something, which may be a message of TLS's own.
func (p *pool) sweep() (victims, doubtful []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for e := p.idle.Front(); e != nil; {
		c := e.Value.(*conn)
		e = e.Next()
		var why fetch.CloseCause
		stirred := c.protocol == protocolH1 && c.sock.stirred()
		switch {
		case stirred && c.tls == nil:
			why = fetch.ClosedPeer
		case !now.Before(c.dies):
			why = fetch.ClosedAge
		case now.Sub(c.idleAt) >= p.limits.IdleTimeout:
			why = fetch.ClosedIdle
		case stirred:
			p.occupy(c)
			doubtful = append(doubtful, c)
			continue
		default:
			continue
		}
		p.retire(c, why)
		victims = append(victims, c)
	}
	for k, g := range p.groups {
		// Its limit may have been raised since.
		for _, c := range g.shared {
			c.limit = unlimited
		}
		if g.open == 0 && g.waiters.Len() == 0 && now.Sub(g.touched) > p.limits.ConnectionLifetime {
			delete(p.groups, k)
		}
	}
	return victims, doubtful
}

// examine closes a doubtful connection, unless it can take a request.
func (p *pool) examine(c *conn) {
	if c.engine.alive() {
		p.put(c, "")
	} else {
		p.discard(c)
	}
}

// forget closes the idle connections of the routes that keep refuses and
// retires the others.
func (p *pool) forget(keep func(fetch.Route) bool) {
	p.mu.Lock()
	groups := maps.Clone(p.groups)
	p.mu.Unlock()
	for k, g := range groups {
		if keep(g.route) {
			continue
		}
		p.mu.Lock()
		victims := p.withdraw(g)
		if p.groups[k] == g {
			delete(p.groups, k) // and with it the TLS sessions
		}
		p.mu.Unlock()
		for _, c := range victims {
			c.hangUp()
		}
	}
}

// withdraw takes all connections of g out of use and returns those that have no
// work. Whoever waits for one looks again.
func (p *pool) withdraw(g *group) (victims []*conn) {
	g.withdrawn = true
	g.wakeAll()
	for c := range p.conns {
		if c.group != g {
			continue
		}
		if c.idle != nil {
			victims = append(victims, c)
		}
		p.retire(c, fetch.ClosedPolicy)
	}
	return victims
}

// close refuses new requests, waits for those under way until ctx ends, and
// closes everything. It returns ctx's error if some were still under way.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	var victims []*conn
	for _, g := range p.groups {
		victims = append(victims, p.withdraw(g)...)
	}
	p.mu.Unlock()
	if first {
		close(p.stop)
	}
	for _, c := range victims {
		c.hangUp()
	}
	<-p.stopped
	err := p.leases.wait(ctx)
	for _, c := range p.all() {
		c.cut()
	}
	return err
}

func (p *pool) all() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.conns))
}

// jittered returns d changed by up to 20 % either way, so that connections that
// were opened together do not end together.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
