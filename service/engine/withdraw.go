package engine

import (
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
	// Needs are the rights of which the caller needs one for its RPC; 0: none.
	Needs fetch.Rights
	// Credentials are the names of those of the server that go with the hop.
	Credentials []string
}

// Withdrawal is a configuration that has taken the place of others.
type Withdrawal struct {
	// Generation is its number. Fetches that began under it are not asked about.
	Generation int64
	// Judge says whether it denies a hop that is under way; nil means that it may
	// go on. It is called by several goroutines at once.
	Judge func(Place) *fetch.Denied
	// Credentials are those that the server holds by the configuration: of those of
	// an older one, the hops to come go with no other. nil takes none away.
	Credentials fetch.Credentials
	// Grace is how long a fetch that is denied may go on after Since, when the
	// configuration came into force.
	Grace time.Duration
	Since time.Time
}

// Withdraw decides once more about every fetch that is under way, and about each
// that is still to come from an older configuration, at each of its hops. What is
// denied ends with WITHDRAWN: a hop under way once the grace is over, unless a
// later configuration allows it again before, a hop that is still to come at once.
func (e *Engine) Withdraw(w Withdrawal) {
	e.live.latest.Store(&w)
	for _, r := range e.live.all() {
		r.withdrawal.judge(r, &w)
	}
}

// live are the fetches under way.
type live struct {
	latest atomic.Pointer[Withdrawal]

	mu      sync.Mutex
	runs    map[*run]struct{}
	drained bool
}

func newLive() *live { return &live{runs: map[*run]struct{}{}} }

// enter makes r one of them until leave.
func (l *live) enter(r *run) {
	l.mu.Lock()
	l.runs[r] = struct{}{}
	drained := l.drained
	l.mu.Unlock()
	if drained {
		r.cut(errDraining)
	}
}

func (l *live) leave(r *run) {
	l.mu.Lock()
	delete(l.runs, r)
	l.mu.Unlock()
	r.withdrawal.end()
}

// drain ends them and all that are still to come.
func (l *live) drain() {
	l.mu.Lock()
	l.drained = true
	l.mu.Unlock()
	for _, r := range l.all() {
		r.cut(errDraining)
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
	mu    sync.Mutex
	place Place
	known bool        // that is not before the first hop
	by    int64       // the newest generation that has judged
	timer *time.Timer // nil while nothing is to end the fetch
	due   time.Time   // when the timer is over
	ended bool
}

// newest are the credentials of a configuration that is newer than that of r; nil
// if there is none.
func (r *run) newest() fetch.Credentials {
	if latest := r.engine.live.latest.Load(); latest != nil && latest.Generation > r.plan.Generation {
		return latest.Credentials
	}
	return nil
}

// goes notes where the next hop goes. The failure is that of a hop that the newest
// configuration denies: nothing of it is under way that a grace could be for.
func (w *withdrawal) goes(r *run, to Place) *fetch.Failure {
	w.mu.Lock()
	w.place, w.known = to, true
	w.mu.Unlock()
	if denied := w.look(r); denied != nil {
		return denied.before()
	}
	return nil
}

// reached notes the address that the hop went to.
func (w *withdrawal) reached(r *run, remote netip.AddrPort) {
	w.mu.Lock()
	w.place.Remote = remote
	w.mu.Unlock()
	w.look(r)
}

// look has the newest configuration judge a fetch of an older one; nil means that
// it may go on.
func (w *withdrawal) look(r *run) *withdrawn {
	if latest := r.engine.live.latest.Load(); latest != nil {
		return w.judge(r, latest)
	}
	return nil
}

// judge has the fetch end if by denies it, and go on if not.
func (w *withdrawal) judge(r *run, by *Withdrawal) *withdrawn {
	if r.plan.Generation >= by.Generation {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || !w.known || by.Generation < w.by {
		return nil
	}
	w.by = by.Generation
	denied, due := by.Judge(w.place), by.Since.Add(by.Grace)
	if denied == nil {
		w.spare()
		return nil
	}
	cause := &withdrawn{denied: denied, generation: by.Generation, grace: by.Grace}
	if w.timer == nil || due.Before(w.due) { // else an earlier one ends it sooner
		w.spare()
		w.timer, w.due = time.AfterFunc(time.Until(due), func() { r.cut(cause) }), due
	}
	return cause
}

// spare stops what would end the fetch. w.mu is held.
func (w *withdrawal) spare() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// end stops what would end the fetch.
func (w *withdrawal) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.spare()
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
	return w.fail(what)
}

// before is how the caller learns of a hop that does not begin.
func (w *withdrawn) before() *fetch.Failure {
	return w.fail(fmt.Sprintf("the configuration that came into force as generation %d denies the next hop of the fetch: %s", w.generation, w.denied.Message))
}

func (w *withdrawn) fail(what string) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonWithdrawn, what, w)
	f.Denial = w.denied
	return f
}
