package service_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// heldMost is max_held_bytes of these tests.
const heldMost = 64 << 20

// large is an upstream that answers with 3 MiB, and /endless without an end.
func large(t *testing.T) *fetchtest.Upstream {
	t.Helper()
	body, piece := strings.Repeat("b", 3<<20), strings.Repeat("x", 64<<10)
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/endless" {
			return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(piece))
		}
		return fetchtest.Answer(200, body)
	}}).Upstream
}

// holding is a configuration that opens an upstream, with limits beside heldMost.
func holding(u *fetchtest.Upstream, limits string) string {
	return fmt.Sprintf("%slimits: {max_held_bytes: %d%s}\n", allowing(u, "1s"), heldMost, limits)
}

// deaf is a connection of a caller that asks and does not read.
type deaf struct {
	*grpc.ClientConn
	streams []grpc.ClientStream // kept: gRPC cancels what nobody refers to
}

// from is a connection from an address of this host, which ends with the test.
func from(t *testing.T, s *server, address string, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddress(), append(o, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newDeaf(t *testing.T, s *server, address string, o ...grpc.DialOption) *deaf {
	t.Helper()
	return &deaf{ClientConn: from(t, s, address, append(o, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(16<<20))...)}
}

// ask sends a request of an RPC that fetches, n times.
func (d *deaf) ask(t *testing.T, n int, rpc string, m proto.Message) {
	t.Helper()
	for range n {
		one, err := d.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, rpc)
		if err != nil {
			t.Fatal(err)
		}
		if err := one.SendMsg(m); err != nil {
			t.Fatal(err)
		}
		if err := one.CloseSend(); err != nil {
			t.Fatal(err)
		}
		d.streams = append(d.streams, one)
	}
}

// fetch asks for whole answers and waits until the server is done with them, but
// for what it could not send.
func (d *deaf) fetch(t *testing.T, s *server, n int, url string) {
	t.Helper()
	const answered = `grpc_server_handled_total{grpc_code="OK",grpc_method="Fetch",grpc_service="fetchgate.v1.FetchService",grpc_type="unary"}`
	before := s.metric(t, answered)
	d.ask(t, n, fetchgatev1.FetchService_Fetch_FullMethodName, get(url))
	eventually(t, func() error {
		if now := s.metric(t, answered) - before; now != float64(n) {
			return fmt.Errorf("of %d answers, %.0f are there", n, now)
		}
		return nil
	})
}

// wantHeld waits until the server holds as many bytes as is says.
func wantHeld(t *testing.T, s *server, is func(bytes float64) bool) {
	t.Helper()
	eventually(t, func() error {
		if held := s.metric(t, "fetchgate_load_ratio") * heldMost; !is(held) {
			return fmt.Errorf("%.0f bytes are held", held)
		}
		return nil
	})
}

// gotten is in short what a caller got.
func gotten(a *answer, err error) string {
	if a == nil || err != nil {
		return fmt.Sprint("the error ", err)
	}
	return fmt.Sprintf("%d bytes of body, failure %q", len(a.body), inWords(a.failure))
}

func nothing(bytes float64) bool { return bytes == 0 }

// atLeast is a lower bound for what is held.
func atLeast(least float64) func(float64) bool {
	return func(bytes float64) bool { return bytes >= least }
}

// TestHeldBytesComeBackWithTheirConnection: a caller that goes away without
// reading leaves nothing, neither of whole answers nor of streams.
func TestHeldBytesComeBackWithTheirConnection(t *testing.T) {
	u := large(t)
	for name, ask := range map[string]func(*testing.T, *server, *deaf){
		"answers of Fetch": func(t *testing.T, s *server, d *deaf) {
			d.fetch(t, s, 4, u.URL("/"))
			wantHeld(t, s, atLeast(4*(3<<20)))
		},
		"streams": func(t *testing.T, s *server, d *deaf) {
			d.ask(t, 20, fetchgatev1.FetchService_StreamFetch_FullMethodName, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/endless")}})
			wantHeld(t, s, atLeast(20*(64<<10)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, holding(u, ""))
			for range 3 {
				gone := newDeaf(t, s, "127.0.0.1")
				ask(t, s, gone)
				gone.Close()
				wantHeld(t, s, nothing)
			}
			for _, rpc := range rpcs {
				a, err := rpc.call(within(t), s, get(u.URL("/")))
				if err != nil || a.failure != nil || len(a.body) != 3<<20 {
					t.Errorf("%s: then another caller gets %s", rpc.name, gotten(a, err))
				}
			}
		})
	}
}

// TestHeldBytesOfCompressedRPCs: what is sent to a caller that compresses counts
// until it is read, as for others.
func TestHeldBytesOfCompressedRPCs(t *testing.T) {
	u := large(t)
	s := serve(t, holding(u, ""))
	d := newDeaf(t, s, "127.0.0.1", grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	d.fetch(t, s, 4, u.URL("/"))
	wantHeld(t, s, atLeast(4*(3<<20)))
	stream := &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/endless")}}
	d.ask(t, 20, fetchgatev1.FetchService_StreamFetch_FullMethodName, stream)
	wantHeld(t, s, atLeast(4*(3<<20)+20*(64<<10)))
	d.Close()
	wantHeld(t, s, nothing)
}

// TestUnreadAnswersEndTheirConnection: an answer that is not read is a live fetch
// until it is read, or its connection ends for that.
func TestUnreadAnswersEndTheirConnection(t *testing.T) {
	u := large(t)
	s := serve(t, holding(u, ", caller_stall: 1s, max_live_fetches: 2"))
	unread := newDeaf(t, s, "127.0.0.1")
	began := time.Now()
	unread.fetch(t, s, 2, u.URL("/"))
	if _, err := whole(within(t), s, get(u.URL("/"))); refusedWith(err) != "OVERLOADED" {
		t.Errorf("while two answers are not read, the third fetch gets %v", err)
	}
	wantHeld(t, s, nothing)
	if took := time.Since(began); took < 900*time.Millisecond || took > 20*time.Second {
		t.Errorf("what they held came back after %v, want a second", took)
	}
	for _, one := range unread.streams {
		if err := one.RecvMsg(&fetchgatev1.FetchResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("who reads in the end gets %v, want that the connection is gone", err)
		}
	}
	a, err := whole(within(t), s, get(u.URL("/")))
	if err != nil || a.failure != nil || len(a.body) != 3<<20 {
		t.Errorf("then another caller gets %s", gotten(a, err))
	}
}

// TestReadAnswersKeepTheirConnection: callers that read have their connection for
// as long as they want, and what else it carries goes on.
func TestReadAnswersKeepTheirConnection(t *testing.T) {
	u := large(t)
	s := serve(t, holding(u, ", caller_stall: 1s"))
	read := newDeaf(t, s, "127.0.0.1")
	c := fetchgatev1.NewFetchServiceClient(read)
	long, err := c.StreamFetch(t.Context(), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/endless")}})
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 2500*time.Millisecond; {
		a, err := whole(within(t), c, get(u.URL("/")))
		if err != nil || a.failure != nil || len(a.body) != 3<<20 {
			t.Fatalf("got %s", gotten(a, err))
		}
		if _, err := long.Recv(); err != nil {
			t.Fatalf("the stream beside it ends with %v", err)
		}
	}
	read.Close()
	wantHeld(t, s, nothing)
}

// TestOneAddressDoesNotHoldAll: while one address has all that it may hold, and
// is told so, the others still fetch.
func TestOneAddressDoesNotHoldAll(t *testing.T) {
	u := large(t)
	s := serve(t, holding(u, ""))
	greedy := newDeaf(t, s, "127.0.0.1")
	greedy.fetch(t, s, 30, u.URL("/"))
	wantHeld(t, s, func(bytes float64) bool { return bytes > heldMost/2 && bytes <= heldMost/4*3 })
	a, err := whole(within(t), s, get(u.URL("/")))
	if err != nil {
		t.Fatal(err)
	}
	if hit := a.failure.GetLimitHit(); hit.GetLimit() != "max_held_bytes" || hit.GetMaximum() != heldMost/4*3 {
		t.Errorf("the address gets %s", gotten(a, nil))
	}
	other := fetchgatev1.NewFetchServiceClient(from(t, s, "127.0.0.2"))
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), other, get(u.URL("/")))
		if err != nil || a.failure != nil || len(a.body) != 3<<20 {
			t.Errorf("%s: another gets %s", rpc.name, gotten(a, err))
		}
	}
}

// TestExplainHasAPlace: it is refused where a fetch would be.
func TestExplainHasAPlace(t *testing.T) {
	u := large(t)
	s := serve(t, holding(u, ", max_live_fetches: 1"))
	m := &fetchgatev1.ExplainRequest{Request: get(u.URL("/")).Request}
	policy := fetchgatev1.NewPolicyServiceClient(s.conn)
	if got, err := policy.Explain(within(t), m); err != nil || !got.GetAllowed() {
		t.Fatalf("got %v, %v", got, err)
	}
	busy := newDeaf(t, s, "127.0.0.1")
	busy.fetch(t, s, 1, u.URL("/"))
	if got, err := policy.Explain(within(t), m); refusedWith(err) != "OVERLOADED" {
		t.Errorf("got %v, %v; want OVERLOADED", got, err)
	}
	busy.Close()
	eventually(t, func() error {
		_, err := policy.Explain(within(t), m)
		return err
	})
}

// farAway is an upstream that redirects per times, by locations as long as may be,
// before each of its attempts; all but the last of these are to be tried again.
func farAway(t *testing.T, per, attempts, padding int, last fetchtest.Step) *fetchtest.Upstream {
	t.Helper()
	long := strings.Repeat("a", 16_000)
	var steps []fetchtest.Step
	for attempt := range attempts {
		for hop := range per {
			lines := []string{fmt.Sprintf("Location: /%s%d-%d", long, attempt, hop)}
			for i := range padding {
				lines = append(lines, fmt.Sprintf("X-%d: %s", i, strings.Repeat("x", 9000)))
			}
			steps = append(steps, fetchtest.Answer(302, "", lines...))
		}
		steps = append(steps, fetchtest.Answer(503, ""))
	}
	steps[len(steps)-1] = last
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(steps...)}).Upstream
}

// TestAnswersWithLargeReports: an upstream that has callers go far makes no
// answer of a size that they cannot read.
func TestAnswersWithLargeReports(t *testing.T) {
	body := strings.Repeat("b", 3<<20)
	cut := fetchtest.Steps(fetchtest.Write(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body[1:])), fetchtest.HalfClose())
	var head []string
	for i := range 90 {
		head = append(head, fmt.Sprintf("X-%d: %s", i, strings.Repeat("x", 9000)))
	}
	for name, c := range map[string]struct {
		per, attempts, padding int
		last                   fetchtest.Step
		check                  func(*answer) bool
	}{
		"a response": {10, 3, 4, fetchtest.Answer(200, body), func(a *answer) bool { return a.failure == nil && string(a.body) == body }},
		"a failure": {10, 3, 4, cut, func(a *answer) bool {
			return a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_INCOMPLETE_BODY && strings.HasPrefix(body, string(a.body)) && len(a.body) > 2<<20 && len(a.body) < len(body)
		}},
		"all attempts and hops": {30, 10, 0, fetchtest.Answer(200, "whole"), func(a *answer) bool { return a.failure == nil && string(a.body) == "whole" }},
		"a large head as well": {30, 10, 0, fetchtest.Answer(200, body, head...), func(a *answer) bool {
			return a.failure == nil && string(a.body) == body || a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_RESPONSE_TOO_LARGE && len(a.body) > 2<<20
		}},
	} {
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				u := farAway(t, c.per, c.attempts, c.padding, c.last)
				s := serve(t, allowing(u, "1s")+"limits: {max_response_field_bytes: 1048576}\n")
				m := get(u.URL("/"))
				m.Options.Report = full()
				m.Options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(int32(c.per))}
				m.Options.Retry = &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(int32(c.attempts)), BackoffBase: millis(0)}
				a, err := rpc.call(within(t), s, m) // takes 4 MiB a message, as callers do
				if err != nil || !c.check(a) {
					t.Fatalf("got %s", gotten(a, err))
				}
				checkFar(t, a, u, c.per, c.attempts)
			})
		}
	}
}

// checkFar holds the report to all attempts and hops of farAway, each with as
// much of its URL as a report shows, and to what became of the heads.
func checkFar(t *testing.T, a *answer, u *fetchtest.Upstream, per, attempts int) {
	t.Helper()
	if len(a.report.GetAttempts()) != attempts {
		t.Errorf("the report has %d attempts, want %d", len(a.report.GetAttempts()), attempts)
	}
	for _, attempt := range a.report.GetAttempts() {
		if len(attempt.GetHops()) != per+1 {
			t.Errorf("attempt %d has %d hops, want %d", attempt.GetNumber(), len(attempt.GetHops()), per+1)
		}
		for i, hop := range attempt.GetHops() {
			if url := hop.GetUrl(); len(url) > 1<<10 || i > 0 && len(url) != 1<<10 || !strings.HasPrefix(url, u.URL("/")) {
				t.Fatalf("hop %d has a URL of %d bytes", i+1, len(url))
			}
		}
	}
	if seen := len(a.history) + int(a.report.GetHistoryCut()); seen != per {
		t.Errorf("%d heads came and %d were left out, want %d in all", len(a.history), a.report.GetHistoryCut(), per)
	}
}
