package caller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// renewEvery is how old keys become before they are fetched again.
	renewEvery = 5 * time.Minute
	// retryEvery is the least time between two fetches after one that failed, and
	// between two for tokens whose key is not known.
	retryEvery = 30 * time.Second
	// maxWaiting is how many RPCs may wait at once for the keys of one issuer. Who
	// sends them is not known yet.
	maxWaiting = 100
)

// Fetch gets what is at an https URL whose host resolves to public addresses or
// to some of allow, ranges or addresses. It is bounded in time and size, and
// follows no redirect.
type Fetch func(ctx context.Context, url string, allow []string) ([]byte, error)

var errNoFetch = errors.New("nothing is fetched here")

// fetchedKeys is a JSON Web Key Set (RFC 7517 section 5) at a URL, which is
// fetched again while it is in use.
type fetchedKeys struct {
	issuer  string // its name in the configuration
	url     string
	allow   []string
	fetch   Fetch
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[keySet]

	mu sync.Mutex // guards what follows
	// renewing is closed when the fetch under way ends; nil: none is.
	renewing chan struct{}
	waiting  int // how many RPCs wait for it
	// again tells that the one under way was begun with settings that have changed.
	again bool
	// tried is when a fetch began last, asked when one did for an unknown key.
	tried, asked time.Time
	// seen is the content that is in use.
	seen []byte
	// wrong is what was said of the last fetch, if it failed.
	wrong string
	told  IssuerKeys
}

// IssuerKeys is what came of the fetches of an issuer's keys.
type IssuerKeys struct {
	// Issuer is the name of the issuer in the configuration.
	Issuer string
	// Fetched and Failed count the fetches that gave usable keys, and the others.
	Fetched, Failed int64
	// At is when the last one gave usable keys; zero: none has yet.
	At time.Time
}

// fetchedKeys returns the keys of the issuer at a URL: those that before has, if
// it is the same one.
func (o Options) fetchedKeys(name, url string, allow []string) *fetchedKeys {
	if o.Before != nil {
		for _, i := range o.Before.issuers {
			if k, ok := i.keys.(*fetchedKeys); ok && k.issuer == name && k.url == url && slices.Equal(k.allow, allow) {
				return k
			}
		}
	}
	k := &fetchedKeys{issuer: name, url: url, allow: allow, fetch: o.Fetch, now: o.Now, log: o.Log, told: IssuerKeys{Issuer: name}}
	if k.fetch == nil {
		k.fetch = func(context.Context, string, []string) ([]byte, error) { return nil, errNoFetch }
	}
	return k
}

// latest returns the keys that were fetched last; nil: none were yet.
func (k *fetchedKeys) latest() *keySet { return k.current.Load() }

// find returns the public keys that a signature by the key of that ID may be of,
// and the set that they are from. If there is none, the keys are fetched at once,
// as often as retryEvery allows: keys are changed so. It waits until ctx ends.
func (k *fetchedKeys) find(ctx context.Context, id string, by jose.SignatureAlgorithm) ([]any, *keySet) {
	of := k.latest()
	keys := of.find(id, by)
	// What is under way may have begun before the key was there.
	for again := 0; len(keys) == 0 && again < 2 && k.ask(ctx); again++ {
		of = k.latest()
		keys = of.find(id, by)
	}
	return keys, of
}

// ask has the keys fetched, or waits for a fetch that is under way; false means
// that there is nothing new, nor worth another try.
func (k *fetchedKeys) ask(ctx context.Context) bool {
	k.mu.Lock()
	switch now := k.now(); {
	case k.renewing != nil && k.waiting < maxWaiting:
		k.waiting++
		done := k.renewing
		k.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		k.mu.Lock()
		k.waiting--
		failed := k.wrong != ""
		k.mu.Unlock()
		return ctx.Err() == nil && !failed
	case k.renewing == nil && (k.asked.IsZero() || now.Sub(k.asked) >= retryEvery):
		k.asked = now
		k.begin(now)
		k.mu.Unlock()
		// Else whoever asks and hangs up could keep the keys from being renewed.
		k.renew(context.WithoutCancel(ctx))
		return true
	}
	k.mu.Unlock()
	return false
}

// renewIfDue fetches the keys again if they are old, or the last fetch failed.
func (k *fetchedKeys) renewIfDue(ctx context.Context) {
	k.mu.Lock()
	every, now := renewEvery, k.now()
	if k.wrong != "" {
		every = retryEvery
	}
	if k.renewing != nil || !k.tried.IsZero() && now.Sub(k.tried) < every {
		k.mu.Unlock()
		return
	}
	k.begin(now)
	k.mu.Unlock()
	k.renew(ctx)
}

// begin notes that a fetch begins; the lock is held.
func (k *fetchedKeys) begin(now time.Time) {
	k.tried, k.renewing = now, make(chan struct{})
}

// renew fetches the keys; who has called begin calls it.
func (k *fetchedKeys) renew(ctx context.Context) {
	var next *keySet
	err := errNoFetch
	var content []byte
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if ctx.Err() == nil {
			k.note(content, next, err)
		}
		if k.again && err != nil {
			k.tried, k.asked = time.Time{}, time.Time{}
		}
		k.again = false
		close(k.renewing)
		k.renewing = nil
	}()
	if content, err = k.fetch(ctx, k.url, k.allow); err != nil {
		return
	}
	if len(content) > maxKeyFileBytes {
		err = errors.New("it is larger than 1048576 bytes")
		return
	}
	if next, err = parseKeys(content); err != nil {
		err = fmt.Errorf("what is there %w", err)
	}
}

// note takes what a fetch gave; the lock is held. The same content is the same
// set, so that tokens that were verified with it still are.
func (k *fetchedKeys) note(content []byte, next *keySet, err error) {
	if err != nil {
		k.told.Failed++
		if k.wrong != err.Error() {
			what := "the keys of an issuer cannot be fetched; the last good ones stay"
			if k.current.Load() == nil {
				what = "the keys of an issuer cannot be fetched; until they can, its tokens are refused"
			}
			k.log.Error(what, "issuer", k.issuer, "host", k.host(), "err", err, "next_try_in", retryEvery.String())
		}
		k.wrong = err.Error()
		return
	}
	changed := k.current.Load() == nil || !bytes.Equal(content, k.seen)
	if changed {
		k.seen = content
		k.current.Store(next)
	}
	if changed || k.wrong != "" {
		k.log.Info("the keys of an issuer have been fetched and are in use", "issuer", k.issuer, "keys", len(next.keys))
	}
	k.wrong = ""
	k.told.Fetched++
	k.told.At = k.now()
}

// host is that of the URL, whose path and query may say too much for a log.
func (k *fetchedKeys) host() string {
	at, err := url.Parse(k.url)
	if err != nil {
		return ""
	}
	return at.Host
}

// retry makes a fetch due if the last one failed, or the one under way does.
func (k *fetchedKeys) retry() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wrong != "" {
		k.tried, k.asked = time.Time{}, time.Time{}
	}
	k.again = k.renewing != nil
}

// status is what came of the fetches so far.
func (k *fetchedKeys) status() IssuerKeys {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.told
}

// fetched are the keys of issuers that are fetched.
func (a *Authenticator) fetched() []*fetchedKeys {
	var all []*fetchedKeys
	for _, i := range a.issuers {
		if k, ok := i.keys.(*fetchedKeys); ok {
			all = append(all, k)
		}
	}
	return all
}

// RenewKeys fetches the keys of issuers that are due, one after the other; it is
// to be called every second or so. A ctx that ends ends it, without a word on
// what it was about.
func (a *Authenticator) RenewKeys(ctx context.Context) {
	for _, k := range a.fetched() {
		if ctx.Err() != nil {
			return
		}
		k.renewIfDue(ctx)
	}
}

// RetryKeys has RenewKeys fetch those keys at once whose last fetch failed: what
// kept them away may have changed.
func (a *Authenticator) RetryKeys() {
	for _, k := range a.fetched() {
		k.retry()
	}
}

// FetchedKeys tells what came of the fetches of keys, for each issuer whose keys
// are fetched.
func (a *Authenticator) FetchedKeys() []IssuerKeys {
	var all []IssuerKeys
	for _, k := range a.fetched() {
		all = append(all, k.status())
	}
	return all
}
