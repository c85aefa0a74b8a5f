package transport

import (
	"maps"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Stats returns what the pool holds now and what it has done. It walks over the
// open connections: it is for whoever reads metrics, not for each request.
func (t *Transport) Stats() fetch.PoolStats { return t.pool.stats() }

// stats counts the connections. Of one that is closing the state is "active".
func (p *pool) stats() fetch.PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := fetch.PoolStats{Open: map[fetch.PoolState]int{}, Dialing: p.dialing, Closed: maps.Clone(p.ended)}
	for c := range p.conns {
		state := fetch.PoolState{State: "active", Protocol: "h1"}
		if c.idle != nil {
			state.State = "idle"
		}
		if c.protocol == protocolH2 {
			state.Protocol = "h2"
		}
		s.Open[state]++
	}
	return s
}
