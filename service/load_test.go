package service_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
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

// stalledBytes is the most memory of a stream whose caller does not read.
const stalledBytes = 256 << 10

// TestStalledReadersHoldLittle: callers that open a stream and do not read it
// hold at most 256 KiB each, whatever the upstream sends.
func TestStalledReadersHoldLittle(t *testing.T) {
	const streams = 32
	for name, piece := range map[string]int{"small pieces": 200, "large pieces": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
				fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", piece)))
			s := serve(t, holding(u, ""))
			stall(t, s, streams, u.URL("/"))
			each := s.heldAtLast(t, func() int64 { return 0 }) / streams
			if each > stalledBytes+stallRequest {
				t.Errorf("a stalled stream holds %.0f bytes", each)
			}
			t.Logf("a stalled stream holds %.0f bytes", each)
		})
	}
	for name, piece := range map[string]int{"HTTP/2 small pieces": 200, "HTTP/2 large pieces": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			authority := fetchtest.NewAuthority(t)
			u := newPressing(t, piece, authority)
			s := serve(t, holding(u.Upstream, "")+fmt.Sprintf("upstream_tls: {ca_files: [%q]}\n", authority.WriteFile(t)))
			stall(t, s, streams, u.URL("/"))
			each := s.heldAtLast(t, u.total) / streams
			u.check(t, streams, each)
		})
	}
}

const (
	stallWindow  = 64 << 10 // of the callers that stall, bytes that leave fetchgate
	stallRequest = 200      // bytes that are held of their request, at most
)

// stall opens streams that nobody reads.
func stall(t *testing.T, s *server, streams int, url string) {
	t.Helper()
	newDeaf(t, s, "127.0.0.1").ask(t, streams, fetchgatev1.FetchService_StreamFetch_FullMethodName, &fetchgatev1.StreamFetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: url},
		Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Total: durationpb.New(time.Minute)}, Report: full()},
	})
}

// heldAtLast is how many bytes s holds once neither they nor what the upstream
// has sent become more: they grow until the windows are full.
func (s *server) heldAtLast(t *testing.T, sent func() int64) float64 {
	t.Helper()
	const often = 10 // a busy machine pauses, too
	same, held, gone := 0, 0.0, int64(0)
	eventually(t, func() error {
		nowHeld, nowGone := s.metric(t, "fetchgate_load_ratio")*heldMost, sent()
		if same++; nowHeld != held || nowGone != gone || nowHeld == 0 {
			same = 0
		}
		held, gone = nowHeld, nowGone
		if same < often {
			return fmt.Errorf("what is held still grows: %.0f bytes", held)
		}
		return nil
	})
	return held
}

// pressing is an HTTP/2 upstream that answers with bodies without an end, and
// sends as much of each as its window allows.
type pressing struct {
	*fetchtest.Upstream
	piece []byte // of a body, in one frame

	mu     sync.Mutex
	window int64            // of a stream, when it begins
	sent   map[uint32]int64 // of each stream
}

func newPressing(t *testing.T, piece int, authority *fetchtest.Authority) *pressing {
	t.Helper()
	p := &pressing{piece: make([]byte, piece), sent: map[uint32]int64{}}
	p.Upstream = fetchtest.NewScript(t, fetchtest.Listen{TLS: &tls.Config{
		Certificates: []tls.Certificate{authority.Issue(fetchtest.IssueOptions{})}, NextProtos: []string{"h2"},
	}}, readBytes(int64(len(http2.ClientPreface))), p.answer)
	return p
}

// answer serves one connection, whose own window is never what holds it up.
func (p *pressing) answer(c *fetchtest.Conn) error {
	w := newFrameWriter(c)
	err := w.WriteSettings()
	left := map[uint32]int64{} // what the window of each stream allows
	for err == nil {
		var frame http2.Frame
		if frame, err = w.ReadFrame(); err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if window, ok := f.Value(http2.SettingInitialWindowSize); ok {
				p.mu.Lock()
				p.window = int64(window)
				p.mu.Unlock()
			}
			if !f.IsAck() {
				err = w.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = w.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			left[f.StreamID] = p.window
			// 0x88 is ":status: 200" (RFC 7541 appendix A).
			head := http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true}
			err = w.then(w.WriteHeaders(head), func() error { return p.press(w, f.StreamID, left) })
		case *http2.WindowUpdateFrame:
			if f.StreamID != 0 {
				left[f.StreamID] += int64(f.Increment)
				err = p.press(w, f.StreamID, left)
			}
		}
	}
	return err
}

// press sends what is left of the window of a stream.
func (p *pressing) press(w *frameWriter, stream uint32, left map[uint32]int64) error {
	for left[stream] > 0 {
		n := min(left[stream], int64(len(p.piece)))
		if err := w.WriteData(stream, false, p.piece[:n]); err != nil {
			return err
		}
		left[stream] -= n
		p.mu.Lock()
		p.sent[stream] += n
		p.mu.Unlock()
	}
	return nil
}

// total is how many bytes were sent on all streams.
func (p *pressing) total() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all int64
	for _, n := range p.sent {
		all += n
	}
	return all
}

// check compares what stalled streams hold, each of them on average, with what
// they may: the buffers that are accounted for and the window that was granted
// together, and what was sent and has not left fetchgate.
func (p *pressing) check(t *testing.T, streams int, each float64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	// What waits in a window lies in pieces of up to 16 KiB, of which the first
	// may be read and the last be empty but for a byte.
	const unused = 2 * 16 << 10
	whole := each - stallRequest + float64(p.window) + unused
	if whole > stalledBytes {
		t.Errorf("a stalled stream holds %.0f bytes beside a window of %d, with what is unused there %.0f", each, p.window, whole)
	}
	if len(p.sent) != streams {
		t.Errorf("%d streams were begun, want %d", len(p.sent), streams)
	}
	most := int64(0)
	for stream, n := range p.sent {
		most = max(most, n)
		if n > stallWindow+stalledBytes-unused {
			t.Errorf("of stream %d %d bytes were taken, of which %d went to the caller", stream, n, stallWindow)
		}
	}
	t.Logf("a stalled stream holds %.0f bytes and a window of %d; at most %d were sent", each, p.window, most)
}
