package limit

import (
	"container/list"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The window of a retry budget, and how many pairs of caller and origin are
// remembered: shards × pairsPerShard, 8,192.
const (
	budgetSeconds = 10
	budgetShards  = 16
	pairsPerShard = 512
)

// RetryBudget holds the retries of each caller to each origin, in any 10
// seconds, to a part of the first attempts in them, and to so many a second
// besides, for those who ask seldom. Seconds are those of the budget's own
// clock: what they allow and nobody took is gone with them.
//
// It remembers 8,192 pairs of caller and origin, in 16 parts by origin; a part
// that is full forgets the pair that was used least recently, which begins anew
// when it comes back: with nothing but its retries a second.
//
// It implements [fetch.RetryBudget].
type RetryBudget struct {
	deposit   int64 // of one first attempt
	perSecond int
	start     time.Time
	seed      maphash.Seed
	shards    [budgetShards]budgetShard
}

// A retry costs whole; deposits are parts of it, counted in millionths so that
// no sum of them drifts.
const whole = 1_000_000

type budgetShard struct {
	mu     sync.Mutex
	pairs  map[pair]*list.Element // of *account
	recent *list.List             // the most recently used first
}

// pair is what has a budget of its own.
type pair struct {
	caller string
	origin fetch.Origin
}

// account is what one pair put in and took out, by the second, as of the second
// now.
type account struct {
	pair
	now       int64
	seconds   [budgetSeconds]entry
	deposited int64 // the sum over seconds
	taken     int64 // likewise
	floor     int   // taken of this second's own
}

type entry struct{ deposited, taken int64 }

// NewRetryBudget returns a budget of ratio retries for each first attempt and
// perSecond retries a second besides. Both are at least 0; with both 0 there is
// no retry.
func NewRetryBudget(ratio float64, perSecond int) *RetryBudget {
	b := &RetryBudget{deposit: int64(ratio*whole + 0.5), perSecond: perSecond, start: time.Now(), seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].pairs, b.shards[i].recent = map[pair]*list.Element{}, list.New()
	}
	return b
}

// Sent notes one request of a first attempt to o.
func (b *RetryBudget) Sent(caller string, o fetch.Origin) {
	now, s := b.second(), b.shard(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(pair{caller, o}, now)
	a.seconds[a.now%budgetSeconds].deposited += b.deposit
	a.deposited += b.deposit
}

// Take takes a retry towards o out of the budget: out of what first attempts
// put in, else out of this second's own. False means that it is used up.
func (b *RetryBudget) Take(caller string, o fetch.Origin) bool {
	now, s := b.second(), b.shard(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(pair{caller, o}, now)
	switch {
	case a.deposited-a.taken >= whole:
		a.seconds[a.now%budgetSeconds].taken += whole
		a.taken += whole
	case a.floor < b.perSecond:
		a.floor++
	default:
		return false
	}
	return true
}

// Remaining is which part of the budget towards o is left, from 0 to 1, to the
// caller that has the least; false means that nobody asked for o of late. It
// looks at every origin of a part, so it is for a gauge, not for each fetch.
func (b *RetryBudget) Remaining(o fetch.Origin) (float64, bool) {
	now, s := b.second(), b.shard(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	least, found := 1.0, false
	for e := s.recent.Front(); e != nil; e = e.Next() {
		if a := e.Value.(*account); a.origin == o {
			a.advance(now)
			least, found = min(least, a.remaining(b.perSecond)), true
		}
	}
	return least, found
}

func (b *RetryBudget) second() int64 { return int64(time.Since(b.start) / time.Second) }

func (b *RetryBudget) shard(o fetch.Origin) *budgetShard {
	return &b.shards[maphash.String(b.seed, o.Host)%budgetShards]
}

// account returns the account of p as of now. Its key is a copy: the strings of
// a request may be parts of longer ones.
func (s *budgetShard) account(p pair, now int64) *account {
	if e, ok := s.pairs[p]; ok {
		s.recent.MoveToFront(e)
		a := e.Value.(*account)
		a.advance(now)
		return a
	}
	if len(s.pairs) >= pairsPerShard {
		oldest := s.recent.Back()
		delete(s.pairs, s.recent.Remove(oldest).(*account).pair)
	}
	p.caller, p.origin.Scheme, p.origin.Host = strings.Clone(p.caller), strings.Clone(p.origin.Scheme), strings.Clone(p.origin.Host)
	a := &account{pair: p, now: now}
	s.pairs[p] = s.recent.PushFront(a)
	return a
}

// advance forgets the seconds that are over. Of two who read the clock at a
// turn of the second, the one with the earlier reading may come second.
func (a *account) advance(now int64) {
	if now <= a.now {
		return
	}
	for second := max(a.now+1, now-budgetSeconds+1); second <= now; second++ {
		e := &a.seconds[second%budgetSeconds]
		a.deposited -= e.deposited
		a.taken -= e.taken
		*e = entry{}
	}
	a.now, a.floor = now, 0
}

func (a *account) remaining(perSecond int) float64 {
	all := float64(a.deposited)/whole + float64(perSecond)
	if all == 0 {
		return 0
	}
	left := float64(max(0, a.deposited-a.taken))/whole + float64(perSecond-a.floor)
	return left / all
}
