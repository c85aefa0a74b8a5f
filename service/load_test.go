package service_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// counting is an upstream that counts its requests and answers each with a
// status.
func counting(t *testing.T, status int) (*fetchtest.Upstream, *atomic.Int64) {
	t.Helper()
	n := new(atomic.Int64)
	return fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		w.WriteHeader(status)
	}), nil), n
}

// TestRetriesDoNotBurdenAFailingUpstream: 200 fetches a second, all of which
// fail and would be retried, are counted where they arrive.
func TestRetriesDoNotBurdenAFailingUpstream(t *testing.T) {
	const rate = 200
	lasts := 2 * time.Second
	if !testing.Short() {
		lasts = 10 * time.Second
	}
	u, arrived := counting(t, http.StatusServiceUnavailable)
	s := serve(t, allowing(u, "60s"))
	var all sync.WaitGroup
	var suppressed atomic.Int64
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	fetches := int64(0)
	for over := time.After(lasts); ; {
		select {
		case <-tick.C:
			fetches++
			all.Go(func() {
				a, err := whole(t.Context(), s, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
				if err != nil || a.head.GetStatus() != 503 {
					t.Errorf("got %v, %v; want the 503 of the upstream", a, err)
				} else if a.report.GetRetrySuppressed() == fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_BUDGET {
					suppressed.Add(1)
				}
			})
			continue
		case <-over:
		}
		break
	}
	all.Wait()
	// The floor is 10 a second; a second that has begun counts.
	most := fetches + fetches/5 + 10*int64(lasts/time.Second+1)
	t.Logf("%d fetches, %d requests arrived (%.2f×), at most %d may; %d retries suppressed by the budget",
		fetches, arrived.Load(), float64(arrived.Load())/float64(fetches), most, suppressed.Load())
	if arrived.Load() > most || arrived.Load() == fetches || suppressed.Load() == 0 {
		t.Errorf("%d requests arrived of %d fetches, %d suppressed", arrived.Load(), fetches, suppressed.Load())
	}
}

// TestManyAtOnceOnOneChannel: 512 fetches of one connection, to an upstream that
// takes a second, end within their deadline.
func TestManyAtOnceOnOneChannel(t *testing.T) {
	u := fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Second):
			w.Write(pattern(1 << 10))
		case <-r.Context().Done():
		}
	}), nil)
	s := serve(t, allowing(u, "60s"))
	began := time.Now()
	var all sync.WaitGroup
	for range 512 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if a, err := whole(ctx, s, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}}); err != nil || a.failure != nil || len(a.body) != 1<<10 {
				t.Errorf("got %v, %v", err, a)
			}
		})
	}
	all.Wait()
	t.Logf("512 fetches took %v; the process has %s resident", time.Since(began).Round(time.Millisecond), resident(t))
}

// resident is the memory of the process as the system sees it.
func resident(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "an unknown amount"
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// TestRestartsUnderLoad drains and restarts one of two replicas again and again,
// while callers that retry UNAVAILABLE fetch from both: none of them fails.
func TestRestartsUnderLoad(t *testing.T) {
	restarts := 20
	if !testing.Short() {
		restarts = 1000
	}
	u, _ := counting(t, http.StatusOK)
	yaml := allowing(u, "30s") + "audit: {sink: none}\n"
	steady := serve(t, yaml)
	restarted := serveAt(t, yaml, "127.0.0.1:0")
	address := restarted.GRPCAddress()
	callers := replicas(t, steady.GRPCAddress(), address)

	stop := make(chan struct{})
	var all sync.WaitGroup
	var fetches atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				a, err := whole(ctx, callers, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
				cancel()
				if err != nil || a.failure != nil {
					t.Errorf("fetch %d failed: %v, %v", fetches.Load(), err, a)
					return
				}
				fetches.Add(1)
			}
		})
	}
	for range restarts {
		before := fetches.Load()
		restarted.stop()
		if err := <-restarted.served; err != nil {
			t.Error(err)
		}
		restarted = serveAt(t, yaml, address)
		eventually(t, func() error { // both serve for a while
			if fetches.Load() < before+20 && !t.Failed() {
				return fmt.Errorf("only %d fetches since the restart", fetches.Load()-before)
			}
			return nil
		})
	}
	close(stop)
	all.Wait()
	t.Logf("%d restarts, %d fetches, none failed", restarts, fetches.Load())
}

// quickly has a client look for a replica that was down without delay.
var quickly = backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond}

// replicas is a client of several fetchgates that retries what they did not
// carry out.
func replicas(t *testing.T, addresses ...string) fetchgatev1.FetchServiceClient {
	t.Helper()
	static := manual.NewBuilderWithScheme("replicas")
	var state resolver.State
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	static.InitialState(state)
	conn, err := grpc.NewClient(static.Scheme()+":///", grpc.WithResolvers(static),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quickly}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}],
			"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return fetchgatev1.NewFetchServiceClient(conn)
}

// TestStalledReadersHoldLittle: callers that open a stream and do not read it
// hold at most 256 KiB each, whatever the upstream sends.
func TestStalledReadersHoldLittle(t *testing.T) {
	const streams = 32
	for name, piece := range map[string]int{"small pieces": 200, "large pieces": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
				fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", piece)))
			s := serve(t, allowing(u, "0s")+"limits: {max_held_bytes: 67108864}\n")
			for range streams {
				begun, err := s.StreamFetch(t.Context(), &fetchgatev1.StreamFetchRequest{
					Request: &fetchgatev1.HttpRequest{Url: u.URL("/")},
					Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Total: durationpb.New(time.Minute)}, Report: full()},
				}, grpc.MaxCallRecvMsgSize(1<<20))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := begun.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			held := func() float64 {
				_, page, err := s.get("/metrics")
				if err != nil {
					t.Fatal(err)
				}
				_, rest, _ := strings.Cut(page, "\nfetchgate_load_ratio ")
				ratio, _, _ := strings.Cut(rest, "\n")
				n, err := strconv.ParseFloat(ratio, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n * 67108864
			}
			// What is held grows until the windows are full, and then no more.
			last := -1.0
			eventually(t, func() error {
				now := held()
				same := now == last && now > 0
				last = now
				if !same {
					return fmt.Errorf("what is held still grows: %.0f bytes", now)
				}
				return nil
			})
			if each := last / streams; each > 256<<10+200 { // the request counts too
				t.Errorf("a stalled stream holds %.0f bytes", each)
			} else {
				t.Logf("a stalled stream holds %.0f bytes", each)
			}
		})
	}
}
