package service_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Between fetchgate and real upstreams stands a relay that does harm. Whatever
// it does, a caller gets the exact body or is told that it has not.

// harmed are the upstreams behind the relay: each answers /N with N bytes of
// pattern, and a request that has a body with that body.
var harmed = []struct {
	name  string
	start func(t *testing.T, authority *fetchtest.Authority) *fetchtest.Upstream
	alter func(*request)
}{
	{"HTTP/1.1", func(t *testing.T, _ *fetchtest.Authority) *fetchtest.Upstream {
		return fetchtest.NewServer(t, http.HandlerFunc(patterned), nil)
	}, func(*request) {}},
	{"HTTP/1.1 in chunks", func(t *testing.T, _ *fetchtest.Authority) *fetchtest.Upstream {
		return fetchtest.NewServer(t, http.HandlerFunc(patternedChunks), nil)
	}, func(*request) {}},
	{"HTTP/1.1 over TLS", func(t *testing.T, a *fetchtest.Authority) *fetchtest.Upstream {
		return fetchtest.NewServer(t, http.HandlerFunc(patterned), a)
	}, func(*request) {}},
	{"HTTP/2", func(t *testing.T, _ *fetchtest.Authority) *fetchtest.Upstream {
		return fetchtest.NewH2(t, http.HandlerFunc(patterned), nil).Upstream
	}, requireH2},
	{"HTTP/2 over TLS", func(t *testing.T, a *fetchtest.Authority) *fetchtest.Upstream {
		return fetchtest.NewH2(t, http.HandlerFunc(patterned), a).Upstream
	}, requireH2},
}

// pattern are n bytes that differ from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func patterned(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // half of a request is none
		}
		w.Write(b)
		return
	}
	n, _ := strconv.Atoi(r.URL.Path[1:])
	w.Header().Set("Content-Length", strconv.Itoa(n))
	w.Write(pattern(n))
}

func patternedChunks(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Path[1:])
	for rest := pattern(n); len(rest) > 0; {
		size := min(len(rest), 500)
		w.Write(rest[:size])
		http.NewResponseController(w).Flush()
		rest = rest[size:]
	}
}

// rig is a fetchgate with a relay in front of each upstream.
type rig struct {
	*server
	relays []*fetchtest.Relay
	fault  atomic.Pointer[fetchtest.Fault] // of every connection
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.fault.Store(&fetchtest.Fault{})
	authority := fetchtest.NewAuthority(t)
	yaml := fmt.Sprintf("upstream_tls: {ca_files: [%q]}\naudit: {sink: none}\nrules:\n  - name: test\n    dangerous_allow_loopback: true\n    origins:\n", authority.WriteFile(t))
	for _, h := range harmed {
		relay := fetchtest.NewRelay(t, h.start(t, authority), func(int) fetchtest.Fault { return *r.fault.Load() })
		r.relays = append(r.relays, relay)
		yaml += fmt.Sprintf("      - %q\n", fetchtest.OriginOf(relay.Upstream))
	}
	r.server = serve(t, yaml)
	return r
}

// request is one for n bytes of the upstream at place i, on a new connection
// and once.
func (r *rig) request(i, n int) *request {
	m := &request{
		Request: &fetchgatev1.HttpRequest{Url: r.relays[i].URL("/" + strconv.Itoa(n))},
		Options: &fetchgatev1.FetchOptions{
			Connection: &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true), CloseAfter: proto.Bool(true)},
			Retry:      &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)},
		},
	}
	harmed[i].alter(m)
	return m
}

// exact tells what is wrong with an answer whose body should be want: nothing,
// if it is whole or says that it is not.
func exact(a *answer, err error, want []byte) error {
	switch {
	case err != nil:
		return fmt.Errorf("the RPC failed: %w", err)
	case a.failure == nil && a.head.GetStatus() == 200 && !bytes.Equal(a.body, want):
		return fmt.Errorf("%d bytes that are not the body of %d came as whole", len(a.body), len(want))
	case a.failure == nil && a.head.GetStatus() == 400:
		return nil // the upstream saw the harm first
	case a.failure == nil && a.head.GetStatus() != 200:
		return fmt.Errorf("the status is %d", a.head.GetStatus())
	case a.failure != nil && !bytes.HasPrefix(want, a.body):
		return fmt.Errorf("the %d bytes beside %s are no beginning of the body", len(a.body), a.failure.GetReason())
	}
	return nil
}

// underWay are the gauges of what is held for fetches: memory, their number,
// connections in use and dials.
var underWay = regexp.MustCompile(`(?m)^(fetchgate_load_ratio|fetchgate_fetches_in_flight\{.*\}|fetchgate_pool_connections\{.*state="(?:active|dialing)".*\}) (\S+)$`)

// settled waits until nothing is left of the fetches so far.
func (r *rig) settled(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		_, page, err := r.get("/metrics")
		if err != nil {
			return err
		}
		left := 0
		for _, gauge := range underWay.FindAllStringSubmatch(page, -1) {
			if left++; gauge[2] != "0" {
				return fmt.Errorf("%s is %s", gauge[1], gauge[2])
			}
		}
		if left < 4 {
			return fmt.Errorf("/metrics has only %d gauges of what is under way", left)
		}
		return nil
	})
}

// descriptors are how many files and sockets the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("there is no /proc to count descriptors in")
	}
	return len(open)
}

// TestKilledAtEveryOffset ends the upstream's connection after each of its first
// bytes: by a reset, in order, or in order on its side only.
func TestKilledAtEveryOffset(t *testing.T) {
	const workers = 2
	offsets, size := 4096, 3900
	if !testing.Short() {
		offsets, size = 65536, 65300
	}
	var rigs [workers]*rig
	for i := range rigs {
		rigs[i] = newRig(t)
		rigs[i].settled(t)
	}
	before := descriptors(t)
	want := pattern(size)
	var whole atomic.Int64
	var all sync.WaitGroup
	for i, r := range rigs {
		all.Go(func() {
			for offset := i; offset < offsets && !t.Failed(); offset += workers {
				if r.kill(t, offset, want) {
					whole.Add(1)
				}
			}
		})
	}
	all.Wait()
	// All of the body needs more bytes than size on any wire.
	if most := int64(offsets - size); whole.Load() > most {
		t.Errorf("%d of %d were whole, at most %d can be", whole.Load(), offsets, most)
	}
	for _, r := range rigs {
		r.settled(t)
	}
	eventually(t, func() error {
		if after := descriptors(t); after > before+2*workers*len(harmed) {
			return fmt.Errorf("%d descriptors are open, %d were before", after, before)
		}
		return nil
	})
}

// kill fetches want while the connection ends at offset, and tells whether all
// of it came. Each upstream, RPC and kind of end comes in turn, shifted so that
// each meets each.
func (r *rig) kill(t *testing.T, offset int, want []byte) bool {
	kinds := []fetchtest.FaultKind{fetchtest.FaultReset, fetchtest.FaultTruncate, fetchtest.FaultHalfClose}
	upstream := offset % len(harmed)
	rpc := rpcs[offset/len(harmed)%len(rpcs)]
	kind := kinds[offset/(len(harmed)*len(rpcs))%len(kinds)]
	r.fault.Store(&fetchtest.Fault{Kind: kind, After: int64(offset)})
	a, err := rpc.call(t.Context(), r, r.request(upstream, len(want)))
	if wrong := exact(a, err, want); wrong != nil {
		t.Errorf("%s by %s, %v after %d bytes: %v", harmed[upstream].name, rpc.name, kind, offset, wrong)
		return false
	}
	return a.failure == nil
}

// TestHarmIsSeenOrHarmless does every kind of harm in both directions at random
// places, to uploads and downloads, many at a time.
func TestHarmIsSeenOrHarmless(t *testing.T) {
	seed := fetchtest.Seed(t)
	rounds := 12
	if !testing.Short() {
		rounds = 200
	}
	r := newRig(t)
	random := rand.New(rand.NewPCG(seed, 2))
	for range rounds {
		f := &fetchtest.Fault{
			Kind: fetchtest.FaultKinds[random.IntN(len(fetchtest.FaultKinds))], Up: random.IntN(2) == 0,
			After: random.Int64N(6000), Pause: 2 * time.Millisecond, Seed: random.Uint64(),
		}
		r.fault.Store(f)
		size := random.IntN(5000)
		var all sync.WaitGroup
		for i := range harmed {
			if f.Kind == fetchtest.FaultCorrupt && !strings.Contains(harmed[i].name, "TLS") {
				continue // nothing on the way protects such a body
			}
			for _, rpc := range rpcs {
				for _, method := range []string{"GET", "POST"} {
					if method == "POST" && harmed[i].name == "HTTP/1.1 in chunks" {
						continue // it echoes nothing
					}
					all.Go(func() {
						m := r.request(i, size)
						m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(5 * time.Second), IdleRead: durationpb.New(time.Second), ResponseHeader: durationpb.New(time.Second)}
						if m.Request.Method = method; method == "POST" {
							m.Request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: pattern(size)}}
						}
						a, err := rpc.call(t.Context(), r, m)
						if wrong := exact(a, err, pattern(size)); wrong != nil {
							t.Errorf("seed %d: %s %s by %s, %+v: %v", seed, method, harmed[i].name, rpc.name, *f, wrong)
						}
					})
				}
			}
		}
		all.Wait()
	}
	r.fault.Store(&fetchtest.Fault{})
	r.settled(t)
}

// TestRetriesMendWhatBreaksBeforeTheHead: where only the first connection is
// harmed, before the head, the caller never hears of it.
func TestRetriesMendWhatBreaksBeforeTheHead(t *testing.T) {
	u := fetchtest.NewServer(t, http.HandlerFunc(patterned), nil)
	var offset atomic.Int64
	relay := fetchtest.NewRelay(t, u, func(n int) fetchtest.Fault {
		if n%2 == 0 {
			return fetchtest.Fault{}
		}
		return fetchtest.Fault{Kind: fetchtest.FaultReset, After: offset.Load()}
	})
	r := serve(t, allowing(relay.Upstream, "60s")+"limits: {retry_budget_per_second: 1000}\n")
	for i, rpc := range rpcs {
		for n := range 40 {
			offset.Store(int64(n + 40*i))
			m := &request{
				Request: &fetchgatev1.HttpRequest{Url: relay.URL("/100")},
				Options: &fetchgatev1.FetchOptions{Connection: &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true), CloseAfter: proto.Bool(true)}},
			}
			a, err := rpc.call(t.Context(), r, m)
			if err != nil || a.failure != nil || !bytes.Equal(a.body, pattern(100)) || a.report.GetAttemptCount() != 2 {
				t.Fatalf("%s after %d bytes: %v, %v in %d attempts", rpc.name, offset.Load(), err, a.failure, a.report.GetAttemptCount())
			}
		}
	}
}
