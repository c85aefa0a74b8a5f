package caller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fetchgate/fetchgate/service/caller"
)

const keysURL = "https://issuer.example/keys"

// keyServer stands in for what is at the URL of an issuer's keys.
type keyServer struct {
	mu      sync.Mutex
	content []byte
	err     error
	asked   int
	// hold has each fetch wait for it; nil: they do not.
	hold chan struct{}
}

func (s *keyServer) fetch(ctx context.Context, url string, allow []string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	content, err, hold := s.content, s.err, s.hold
	if url != keysURL || !slices.Equal(allow, []string{"10.0.0.0/8"}) {
		err = fmt.Errorf("asked for %s at %v", url, allow)
	}
	if hold != nil {
		s.mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
	}
	return content, err
}

// set is what is there from now on.
func (s *keyServer) set(content []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content, s.err = content, err
}

func (s *keyServer) wantAsked(t *testing.T, when string, n int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != n {
		t.Errorf("%s, the keys were fetched %d times, want %d", when, s.asked, n)
	}
}

// fetching are the callers of known, of whose issuer the keys are fetched.
func fetching(s *keyServer, log *bytes.Buffer) caller.Options {
	o := known("")
	o.Issuers[0].JwksUrl, o.Issuers[0].JwksAllowAddresses = keysURL, []string{"10.0.0.0/8"}
	o.Fetch, o.Log = s.fetch, slog.New(slog.NewTextHandler(log, nil))
	return o
}

const notYet = "the keys of the JWT's issuer are not there yet"

// TestFetchedKeysAreRenewed: after five minutes, or 30 s after a failure; the last
// good ones stay, which is said once.
func TestFetchedKeysAreRenewed(t *testing.T) {
	var log bytes.Buffer
	one := newSigner(t, "one", jose.ES256)
	token := one.sign(t, fine(map[string]any{"exp": noon.Unix() + 10_000}), nil)
	s := &keyServer{err: errors.New("out of order")}
	o, now := fetching(s, &log), noon
	o.Now = func() time.Time { return now }
	a := build(t, o)
	s.wantAsked(t, "at the start", 0)
	good := keySet(t, one.public())
	for _, step := range []struct {
		after   time.Duration
		content []byte
		err     error
		asked   int
		who     string
		lines   int
	}{
		{0, nil, errors.New("out of order"), 1, "", 1},
		{29 * time.Second, good, nil, 1, "", 1},
		{time.Second, good, nil, 2, "billing", 2},
		{299 * time.Second, nil, errors.New("gone"), 2, "billing", 2},
		{time.Second, nil, errors.New("gone"), 3, "billing", 3},
		{29 * time.Second, []byte("<html>"), nil, 3, "billing", 3},
		{time.Second, []byte("<html>"), nil, 4, "billing", 4},
		{30 * time.Second, []byte("<html>"), nil, 5, "billing", 4},
		{30 * time.Second, bytes.Repeat([]byte(" "), 1<<20+1), nil, 6, "billing", 5},
		{30 * time.Second, good, nil, 7, "billing", 6},
		{299 * time.Second, good, nil, 7, "billing", 6},
		{time.Second, good, nil, 8, "billing", 6},
	} {
		now = now.Add(step.after)
		s.set(step.content, step.err)
		a.RenewKeys(t.Context())
		when := fmt.Sprintf("%s after noon", now.Sub(noon))
		s.wantAsked(t, when, step.asked)
		if step.who != "" {
			if got, err := who(t, a, shown(token)); got != step.who+" "+issuerURL+" billing" {
				t.Errorf("%s: got %q, %v", when, got, err)
			}
		}
		if lines := strings.Count(log.String(), "\n"); lines != step.lines {
			t.Errorf("%s the log has %d lines, want %d:\n%s", when, lines, step.lines, log.String())
		}
	}
	at := noon.Add(750 * time.Second)
	if got, want := a.FetchedKeys(), []caller.IssuerKeys{{Issuer: "corp", Fetched: 3, Failed: 5, At: at}}; !slices.Equal(got, want) {
		t.Errorf("the fetches are %+v, want %+v", got, want)
	}
	if !strings.Contains(log.String(), "until they can, its tokens are refused") || !strings.Contains(log.String(), "the last good ones stay") || strings.Contains(log.String(), "html") {
		t.Errorf("the log says\n%s", log.String())
	}
}

// TestFetchedKeysOfUnknownTokens: a token whose key is not known has the keys
// fetched and waits for them, once in 30 s, however often they were fetched by
// themselves.
func TestFetchedKeysOfUnknownTokens(t *testing.T) {
	var log bytes.Buffer
	one, two, three := newSigner(t, "one", jose.ES256), newSigner(t, "two", jose.ES256), newSigner(t, "three", jose.ES256)
	claims := fine(map[string]any{"exp": noon.Unix() + 10_000})
	s := &keyServer{content: keySet(t, one.public())}
	o, now := fetching(s, &log), noon
	o.Now = func() time.Time { return now }
	a := build(t, o)
	is := func(name string, by signer) {
		t.Helper()
		if got, err := who(t, a, shown(by.sign(t, claims, nil))); got != "billing "+issuerURL+" billing" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	is("the first token", one)
	s.wantAsked(t, "for the first token", 1)
	s.set(keySet(t, two.public()), nil)
	a.RenewKeys(t.Context())
	s.wantAsked(t, "when they are new", 1)
	wantRefused(t, a, "the second key at once", two.sign(t, claims, nil), "not signed with a key of its issuer")
	s.wantAsked(t, "at once after another", 1)
	now = now.Add(30 * time.Second)
	is("the second key", two)
	wantRefused(t, a, "the first key, which has gone", one.sign(t, claims, nil), "not signed with a key of its issuer")
	s.wantAsked(t, "for the second key", 2)
	now = now.Add(300 * time.Second)
	a.RenewKeys(t.Context())
	s.set(keySet(t, three.public()), nil)
	is("the third key, right after they were renewed", three)
	s.wantAsked(t, "for the third key", 4)
	// What is not of the issuer's keys does not ask for others.
	forged := two
	forged.id = "three"
	now = now.Add(time.Minute)
	wantRefused(t, a, "a forged one", forged.sign(t, claims, nil), "the signature of the JWT is not its issuer's")
	wantRefused(t, a, "of another issuer", one.sign(t, fine(map[string]any{"iss": "https://nobody.example"}), nil), "is not known here")
	s.wantAsked(t, "for tokens that are not the issuer's", 4)
}

// TestOneFetchForAll: while the keys are fetched, those who need them wait, 100 at
// most and no longer than their RPC; who hangs up does not end the fetch.
func TestOneFetchForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		one := newSigner(t, "one", jose.ES256)
		token := one.sign(t, fine(nil), nil)
		s := &keyServer{content: keySet(t, one.public()), hold: make(chan struct{})}
		a := build(t, fetching(s, &log))
		var waiting sync.WaitGroup
		var mu sync.Mutex
		said := map[string]int{}
		ask := func(ctx context.Context) {
			waiting.Go(func() {
				_, err := a.Authenticate(ctx)
				mu.Lock()
				defer mu.Unlock()
				said[fmt.Sprint(err != nil && strings.Contains(err.Error(), notYet), err == nil)]++
			})
			synctest.Wait()
		}
		impatient, hangUp := context.WithCancel(shown(token).context(t))
		ask(impatient) // it does the fetch
		ask(impatient)
		hangUp()
		synctest.Wait()
		if got := fmt.Sprint(said); got != "map[true false:1]" {
			t.Errorf("who hung up got %s", got)
		}
		for range 101 {
			ask(shown(token).context(t))
		}
		if got := fmt.Sprint(said); got != "map[true false:2]" {
			t.Errorf("with 100 waiting, others got %s", got)
		}
		a.RenewKeys(t.Context()) // does not wait for what is under way
		close(s.hold)
		waiting.Wait()
		s.wantAsked(t, "for all of them", 1)
		if got := fmt.Sprint(said); got != "map[false true:101 true false:2]" {
			t.Errorf("in the end they got %s", got)
		}
	})
}

// TestFetchedKeysOverReloads: an issuer at the same URL keeps its keys, and what
// was told of them; one at another has none yet.
func TestFetchedKeysOverReloads(t *testing.T) {
	var log bytes.Buffer
	one := newSigner(t, "one", jose.ES256)
	token := one.sign(t, fine(nil), nil)
	s := &keyServer{content: keySet(t, one.public())}
	first := build(t, fetching(s, &log))
	first.RenewKeys(t.Context())
	o := fetching(s, &log)
	o.Before, o.Issuers[0].Audiences = first, []string{"fetchgate"}
	same := build(t, o)
	same.RenewKeys(t.Context())
	if got, err := who(t, same, shown(token)); got != "billing "+issuerURL+" billing" {
		t.Errorf("after a reload: got %q, %v", got, err)
	}
	s.wantAsked(t, "with the same URL", 1)
	for name, change := range map[string]func(*caller.Options){
		"another URL":       func(o *caller.Options) { o.Issuers[0].JwksUrl += "2" },
		"other addresses":   func(o *caller.Options) { o.Issuers[0].JwksAllowAddresses = nil },
		"another name":      func(o *caller.Options) { o.Issuers[0].Name = "other" },
		"nothing before it": func(o *caller.Options) { o.Before = nil },
	} {
		o := fetching(s, &log)
		o.Before = same
		change(&o)
		o.Fetch = func(context.Context, string, []string) ([]byte, error) { return nil, errors.New("out of order") }
		wantRefused(t, build(t, o), name, token, notYet)
	}
	o = fetching(s, &log)
	o.Before, o.Issuers = same, nil
	if got, err := who(t, build(t, o), shown(token)); got != "guest" {
		t.Errorf("of an issuer that has gone: got %q, %v", got, err)
	}
}
