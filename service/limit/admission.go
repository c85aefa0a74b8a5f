package limit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The limits that an Admission holds, by the names of their rows in
// docs/limits.md.
const (
	MaxLiveFetches          = "max_live_fetches"
	MaxLiveFetchesPerCaller = "max_live_fetches_per_caller"
	MaxLiveFetchesPerPeer   = "max_live_fetches_per_peer"
	MaxHeldBytes            = "max_held_bytes"
)

// What a limit is of.
const (
	ScopeServer = "server"
	ScopeCaller = "caller"
	ScopePeer   = "peer"
)

// Admission counts the fetches that are live and the bytes held for them, and
// refuses what would be too much. It remembers a caller or an address only while
// one of its fetches is live, so it never holds more than MaxLiveFetches of
// either. A limit of 0 allows nothing. It is safe for concurrent use.
type Admission struct {
	limits fetch.Limits
	held   atomic.Int64

	mu      sync.Mutex
	live    int
	callers map[string]int
	peers   map[netip.Addr]int

	refusals [4]atomic.Int64 // in the order of refusable
}

// refusable are the limits that refuse, with what they are of.
var refusable = [4]struct{ limit, scope string }{
	{MaxLiveFetchesPerCaller, ScopeCaller},
	{MaxLiveFetchesPerPeer, ScopePeer},
	{MaxLiveFetches, ScopeServer},
	{MaxHeldBytes, ScopeServer},
}

const (
	overCaller = iota
	overPeer
	overServer
	overHeld
)

// Refused says which limit would be exceeded.
type Refused struct {
	// Limit is the name of its row in docs/limits.md.
	Limit string
	// Scope is what it is of: ScopeServer, ScopeCaller or ScopePeer.
	Scope string
	// Max is its value, as a count or in bytes.
	Max int64
	// RetryAfter is when to try again: a second, give or take a half at random,
	// so that those who were refused together do not come back together.
	RetryAfter time.Duration
}

func (r *Refused) Error() string {
	var whose string
	switch r.Scope {
	case ScopeCaller:
		whose = "this caller has as many fetches under way as it may, %d; wait for some of them to end"
	case ScopePeer:
		whose = "this address has as many fetches under way as it may, %d; wait for some of them to end, or spread them over more replicas of the caller"
	default:
		whose = "fetchgate has as many fetches under way as it may, %d; ask another replica"
		if r.Limit == MaxHeldBytes {
			whose = "fetchgate holds as many bytes for its callers as it may, %d; read answers faster, or ask another replica"
		}
	}
	return fmt.Sprintf(whose+"; the limit is %s", r.Max, r.Limit)
}

// NewAdmission returns an Admission with nothing live.
func NewAdmission(l fetch.Limits) *Admission {
	return &Admission{limits: l, callers: map[string]int{}, peers: map[netip.Addr]int{}}
}

// Admit lets a fetch of caller begin, whose RPC came from peer, unless it would
// exceed a limit. What the caller can mend is named first: its own limit, that
// of its address, that of the server, and last the bytes held, which admit
// nobody while they are at their most. An IPv6 address counts as its /64, which
// is what one host may have; those without an address count as one.
func (a *Admission) Admit(caller string, peer netip.Addr) (*Lease, *Refused) {
	key := peerKey(peer)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.callers[caller] >= a.limits.MaxLiveFetchesPerCaller:
		return nil, a.refuse(overCaller, int64(a.limits.MaxLiveFetchesPerCaller))
	case a.peers[key] >= a.limits.MaxLiveFetchesPerPeer:
		return nil, a.refuse(overPeer, int64(a.limits.MaxLiveFetchesPerPeer))
	case a.live >= a.limits.MaxLiveFetches:
		return nil, a.refuse(overServer, int64(a.limits.MaxLiveFetches))
	case a.held.Load() >= a.limits.MaxHeldBytes:
		return nil, a.refuse(overHeld, a.limits.MaxHeldBytes)
	}
	a.live++
	a.callers[caller]++
	a.peers[key]++
	return &Lease{admission: a, caller: caller, peer: key}, nil
}

func peerKey(peer netip.Addr) netip.Addr {
	peer = peer.Unmap()
	if !peer.Is6() {
		return peer
	}
	prefix, err := peer.Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return prefix.Addr()
}

// retryAfter is the middle of what a refusal asks the caller to wait: fetches
// last about as long, and a caller that waits longer leaves capacity idle.
const retryAfter = time.Second

func (a *Admission) refuse(over int, most int64) *Refused {
	a.refusals[over].Add(1)
	r := refusable[over]
	return &Refused{Limit: r.limit, Scope: r.scope, Max: most, RetryAfter: retryAfter/2 + rand.N(retryAfter)}
}

// Load returns how many fetches are live and how many bytes are held.
func (a *Admission) Load() (live int, held int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live, a.held.Load()
}

// Refusals returns how often each limit has refused, by its name.
func (a *Admission) Refusals() map[string]int64 {
	refusals := make(map[string]int64, len(refusable))
	for i, r := range refusable {
		refusals[r.limit] = a.refusals[i].Load()
	}
	return refusals
}

// Lease is the place of one live fetch. Its methods are safe for concurrent use.
type Lease struct {
	admission *Admission
	caller    string
	peer      netip.Addr
	held      atomic.Int64
	done      atomic.Bool
}

// Take holds n more bytes for the fetch, or refuses them if there would be more
// than the server may hold; then none are held. An n below 1 holds nothing.
func (l *Lease) Take(n int) *Refused {
	if n <= 0 {
		return nil
	}
	a := l.admission
	for {
		held := a.held.Load()
		if int64(n) > a.limits.MaxHeldBytes-held {
			return a.refuse(overHeld, a.limits.MaxHeldBytes)
		}
		if a.held.CompareAndSwap(held, held+int64(n)) {
			l.held.Add(int64(n))
			return nil
		}
	}
}

// Give says that n bytes are held no more. It may be called after Done, since
// buffers can outlive the RPC. More than the lease holds is what it holds.
func (l *Lease) Give(n int) {
	for n > 0 {
		held := l.held.Load()
		given := min(int64(n), held)
		if l.held.CompareAndSwap(held, held-given) {
			l.admission.held.Add(-given)
			return
		}
	}
}

// Done ends the fetch; bytes that it holds stay held until they are given.
// Further calls do nothing.
func (l *Lease) Done() {
	if !l.done.CompareAndSwap(false, true) {
		return
	}
	a := l.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	less(a.callers, l.caller)
	less(a.peers, l.peer)
}

// less takes one off a count and forgets it at 0.
func less[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}
