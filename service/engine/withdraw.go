package engine

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Place is where a fetch is.
type Place struct {
	// Ask is what its hop is about.
	Ask policy.Ask
	// Remote is the address that the hop went to; not valid before it is known.
	Remote netip.AddrPort
	// Downgraded tells that a redirect led from https to http here.
	Downgraded bool
}

// Withdrawal is a configuration that has taken the place of others.
type Withdrawal struct {
	// Generation is its number. Fetches that began under it are not asked about.
	Generation int64
	// Judge says whether it denies a hop that is under way; nil means that it may
	// go on. It is called by several goroutines at once.
	Judge func(Place) *fetch.Denied
	// Grace is how long a fetch that is denied may go on after Since, when the
	// configuration came into force.
	Grace time.Duration
	Since time.Time
}

// Withdraw decides once more about every fetch that is under way, and about each
// that is still to come from an older configuration, at each of its hops. What is
// denied ends with WITHDRAWN once the grace is over, unless a later configuration
// allows it again before.
func (e *Engine) Withdraw(w Withdrawal) {
	e.live.latest.Store(&w)
	for _, r := range e.live.all() {
		r.withdrawal.judge(r, &w)
	}
}

// live are the fetches under way.
type live struct {
	latest atomic.Pointer[Withdrawal]

	mu   sync.Mutex
	runs map[*run]struct{}
}

func newLive() *live { return &live{runs: map[*run]struct{}{}} }

// enter makes r one of them until leave is called.
func (l *live) enter(r *run) (leave func()) {
	l.mu.Lock()
	l.runs[r] = struct{}{}
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		delete(l.runs, r)
		l.mu.Unlock()
		r.withdrawal.end()
	}
}

func (l *live) all() []*run {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.runs))
}

// withdrawal is what is known of one fetch to those that may end it: its own
// goroutine tells where it is, that of a reload what is thought of that. Both
// orders of the two lead to a judgement.
type withdrawal struct {
	cut context.CancelCauseFunc

	mu    sync.Mutex
	place *Place      // nil before the first hop
	by    int64       // the newest generation that has judged
	timer *time.Timer // nil while nothing is to end the fetch
	due   time.Time   // when the timer is over
	ended bool
}

// goes notes where the next hop goes.
func (w *withdrawal) goes(r *run, ask policy.Ask, downgraded bool) {
	w.mu.Lock()
	w.place = &Place{Ask: ask, Downgraded: downgraded}
	w.mu.Unlock()
	w.look(r)
}

// reached notes the address that the hop went to.
func (w *withdrawal) reached(r *run, remote netip.AddrPort) {
	w.mu.Lock()
	w.place.Remote = remote
	w.mu.Unlock()
	w.look(r)
}

// look has the newest configuration judge a fetch of an older one.
func (w *withdrawal) look(r *run) {
	if latest := r.engine.live.latest.Load(); latest != nil {
		w.judge(r, latest)
	}
}

// judge has the fetch end if by denies it, and go on if not.
func (w *withdrawal) judge(r *run, by *Withdrawal) {
	if r.plan.Generation >= by.Generation {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.place == nil || by.Generation < w.by {
		return
	}
	w.by = by.Generation
	denied, due := by.Judge(*w.place), by.Since.Add(by.Grace)
	if denied != nil && w.timer != nil && !due.Before(w.due) {
		return // an earlier one ends it sooner
	}
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if denied != nil {
		cause := &withdrawn{denied: denied, generation: by.Generation, grace: by.Grace}
		w.timer, w.due = time.AfterFunc(time.Until(due), func() { w.cut(cause) }), due
	}
}

// end stops what would end the fetch.
func (w *withdrawal) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// withdrawn is why the context of a fetch ended that a newer configuration
// denies.
type withdrawn struct {
	denied     *fetch.Denied
	generation int64
	grace      time.Duration
}

func (w *withdrawn) Error() string { return w.denied.Error() }

// failure is how the caller learns of it.
func (w *withdrawn) failure(stage fetch.Stage) *fetch.Failure {
	what := fmt.Sprintf("the configuration that came into force as generation %d denies the fetch, and its grace of %s is over: %s", w.generation, w.grace, w.denied.Message)
	if stage != fetch.StageUnspecified {
		what += "; it was at the stage " + string(stage)
	}
	f := fetch.Fail(fetch.ReasonWithdrawn, what, w)
	f.Denial = w.denied
	return f
}
