package limit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
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
// refuses what would be too much. It remembers a caller or a peer only while
// one of its fetches is live, so it never holds more than MaxLiveFetches of
// either. A limit of 0 allows nothing. It is safe for concurrent use.
type Admission struct {
	limits fetch.Limits
	held   atomic.Int64

	mu      sync.Mutex
	live    int
	callers map[string]int
	peers   map[Peer]*peer

	refusals [5]atomic.Int64 // in the order of refusable
}

// Peer is where RPCs come from: an address, or the processes of one user over
// unix sockets. The zero Peer is one too, that of RPCs without either.
type Peer struct {
	address netip.Addr
	user    uint32
	isUser  bool
}

// AtAddress is the peer at an address. An IPv6 address counts as its /64, which
// is what one host may have.
func AtAddress(a netip.Addr) Peer { return Peer{address: network(a)} }

// OfUser is the peer that a user's processes are.
func OfUser(id uint32) Peer { return Peer{user: id, isUser: true} }

// peer is what is under way from one Peer.
type peer struct {
	live int // guarded by Admission.mu
	held atomic.Int64
}

// The most of MaxHeldBytes that is held for one peer, so that others find
// some whatever it does.
const peerShareNumerator, peerShareDenominator = 3, 4

// refusable are the limits that refuse, with what they are of.
var refusable = [5]struct{ limit, scope string }{
	{MaxLiveFetchesPerCaller, ScopeCaller},
	{MaxLiveFetchesPerPeer, ScopePeer},
	{MaxLiveFetches, ScopeServer},
	{MaxHeldBytes, ScopeServer},
	{MaxHeldBytes, ScopePeer},
}

const (
	overCaller = iota
	overPeer
	overServer
	overHeld
	overPeerHeld
)

// Refused says which limit would be exceeded.
type Refused struct {
	// Limit is the name of its row in docs/limits.md.
	Limit string
	// Scope is what it is of: ScopeServer, ScopeCaller or ScopePeer.
	Scope string
	// Max is its value, as a count or in bytes.
	Max int64
	// User tells that the peer is a user of this machine, and no address.
	User bool
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
		of, next := "address", "spread them over more replicas of the caller"
		if r.User {
			of, next = "user of the unix socket", "give its services users of their own"
		}
		whose = "this " + of + " has as many fetches under way as it may, %d; wait for some of them to end, or " + next
		if r.Limit == MaxHeldBytes {
			whose = "as many bytes as may be are held for this " + of + ", %d; read answers faster, or " + strings.Replace(next, "them", "fetches", 1)
		}
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
	return &Admission{limits: l, callers: map[string]int{}, peers: map[Peer]*peer{}}
}

// Admit lets a fetch of caller begin, whose RPC came from at over conn, unless it
// would exceed a limit. What the caller can mend is named first: its own limit,
// that of its peer, that of the server, and last the bytes held, which admit
// nobody while they are at their most. A nil conn never ends.
func (a *Admission) Admit(caller string, at Peer, conn *Connection) (*Lease, *Refused) {
	a.mu.Lock()
	defer a.mu.Unlock()
	from := a.peers[at]
	switch {
	case a.callers[caller] >= a.limits.MaxLiveFetchesPerCaller:
		return nil, a.refuse(overCaller, int64(a.limits.MaxLiveFetchesPerCaller))
	case a.limits.MaxLiveFetchesPerPeer <= 0, from != nil && from.live >= a.limits.MaxLiveFetchesPerPeer:
		refused := a.refuse(overPeer, int64(a.limits.MaxLiveFetchesPerPeer))
		refused.User = at.isUser
		return nil, refused
	case a.live >= a.limits.MaxLiveFetches:
		return nil, a.refuse(overServer, int64(a.limits.MaxLiveFetches))
	case a.held.Load() >= a.limits.MaxHeldBytes:
		return nil, a.refuse(overHeld, a.limits.MaxHeldBytes)
	}
	if from == nil {
		from = &peer{}
		a.peers[at] = from
	}
	a.live++
	a.callers[caller]++
	from.live++
	l := &Lease{admission: a, caller: caller, at: at, peer: from, conn: conn}
	conn.add(l)
	return l, nil
}

func network(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !a.Is6() {
		return a
	}
	prefix, err := a.Prefix(64)
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
		refusals[r.limit] += a.refusals[i].Load()
	}
	return refusals
}

// Lease is the place of one live fetch. Its methods are safe for concurrent use.
type Lease struct {
	admission *Admission
	caller    string
	at        Peer
	peer      *peer
	conn      *Connection
	held      atomic.Int64
	done      atomic.Bool
	// forfeited tells that the connection has gone: nothing more is held.
	forfeited atomic.Bool
	vacated   atomic.Bool
}

// Take holds n more bytes for the fetch, or refuses them if there would be more
// than the server may hold, or than it may for one peer; then none are held.
// An n below 1 holds nothing. After Done nothing more is held.
func (l *Lease) Take(n int) *Refused {
	if n <= 0 {
		return nil
	}
	a := l.admission
	most := a.limits.MaxHeldBytes
	share := most / peerShareDenominator * peerShareNumerator
	switch {
	case !addUpTo(&a.held, int64(n), most):
		return a.refuse(overHeld, most)
	case !addUpTo(&l.peer.held, int64(n), share):
		a.held.Add(-int64(n))
		refused := a.refuse(overPeerHeld, share)
		refused.User = l.at.isUser
		return refused
	}
	l.held.Add(int64(n))
	if l.forfeited.Load() || l.done.Load() {
		l.Give(n)
		return &Refused{Limit: MaxHeldBytes, Scope: ScopePeer} // there is nobody to tell
	}
	return nil
}

// addUpTo adds n unless there would be more than most.
func addUpTo(sum *atomic.Int64, n, most int64) bool {
	for {
		before := sum.Load()
		if n > most-before {
			return false
		}
		if sum.CompareAndSwap(before, before+n) {
			return true
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
			l.peer.held.Add(-given)
			l.admission.held.Add(-given)
			break
		}
	}
	l.vacate()
}

// Done ends the fetch. Its place is free once it holds nothing any more: what
// its caller has not read of the answer counts. Further calls do nothing.
func (l *Lease) Done() {
	if !l.done.CompareAndSwap(false, true) {
		return
	}
	if !l.vacate() {
		l.conn.unread(l)
	}
}

// Forfeit gives back all that is held, and lets nothing more be: nobody will
// send it, or say that it was not sent.
func (l *Lease) Forfeit() {
	l.forfeited.Store(true)
	l.Give(math.MaxInt)
}

// vacate frees the place of a fetch that is done and holds nothing, once.
func (l *Lease) vacate() bool {
	if !l.done.Load() || l.held.Load() != 0 || !l.vacated.CompareAndSwap(false, true) {
		return l.vacated.Load()
	}
	l.conn.remove(l)
	a := l.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	if l.peer.live--; l.peer.live == 0 {
		delete(a.peers, l.at)
	}
	if a.callers[l.caller]--; a.callers[l.caller] == 0 {
		delete(a.callers, l.caller)
	}
	return true
}
