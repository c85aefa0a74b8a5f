package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestMain finds what a test of this package leaves behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reach is how soon the end of an RPC reaches the upstream's end of the
// connection. A machine that is busy with something else may need tries.
const (
	reach = 100 * time.Millisecond
	tries = 5
)

// trap is where fetches get stuck.
type trap struct {
	options fetchtest.Options
	request *request
	stage   string
	// stuck gives, for each fetch that got there, what waits until fetchgate has
	// let go of what the fetch was stuck in.
	stuck chan func(context.Context) error
}

func newTrap(stage string) *trap {
	return &trap{
		stage: stage, stuck: make(chan func(context.Context) error, tries),
		request: &request{Request: &fetchgatev1.HttpRequest{}, Options: &fetchgatev1.FetchOptions{}},
	}
}

func (s *trap) to(origin string) {
	s.options.Allow, s.request.Request.Url = []string{origin}, origin+"/"
}

// stick notes that a fetch is stuck until over is closed. Before anybody waits
// for that, begin is called.
func (s *trap) stick(over <-chan struct{}, begin func()) {
	s.stuck <- func(ctx context.Context) error {
		begin()
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wait is stuck until ctx ends.
func (s *trap) wait(ctx context.Context) error {
	s.stick(ctx.Done(), func() {})
	<-ctx.Done()
	return ctx.Err()
}

// traps are the phases of a fetch.
var traps = map[string]func(t *testing.T) *trap{
	"resolve": func(t *testing.T) *trap {
		s := newTrap("RESOLVE")
		s.to("http://upstream.test")
		s.options.DNS = fetchtest.NewDNS(t)
		s.options.DNS.Script("upstream.test", func(ctx context.Context) ([]netip.Addr, error) { return nil, s.wait(ctx) })
		return s
	},
	"connect": func(*testing.T) *trap {
		s := newTrap("CONNECT")
		s.to("http://127.0.0.1")
		s.options.Connect = func(ctx context.Context, _ netip.AddrPort, _ dial.Control) (net.Conn, error) { return nil, s.wait(ctx) }
		return s
	},
	"TLS": func(t *testing.T) *trap {
		return scripted(t, "TLS", "https", readBytes(1))
	},
	"upload": func(t *testing.T) *trap {
		s := scripted(t, "SEND", "http", readBytes(1))
		s.request.Request.Method, s.request.Request.Body = "POST", raw(strings.Repeat("x", 1<<20))
		s.options.Connect = smallBuffers
		return s
	},
	"head": func(t *testing.T) *trap {
		return scripted(t, "HEAD", "http", fetchtest.Request(), fetchtest.Write("HTTP/1.1 200"))
	},
	"body": func(t *testing.T) *trap {
		return scripted(t, "BODY", "http", fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\nhello"))
	},
	"HTTP/2 head": func(t *testing.T) *trap {
		return handled(t, "HEAD", func(http.ResponseWriter) {})
	},
	"HTTP/2 body": func(t *testing.T) *trap {
		return handled(t, "BODY", func(w http.ResponseWriter) {
			io.WriteString(w, "hello")
			http.NewResponseController(w).Flush()
		})
	},
}

// scripted is an upstream that gets fetches stuck after these steps.
func scripted(t *testing.T, stage, scheme string, steps ...fetchtest.Step) *trap {
	s := newTrap(stage)
	// An upstream learns of the end by reading, but to read on would let an
	// upload go on too.
	rest := func(c *fetchtest.Conn) error {
		let := make(chan struct{})
		s.stick(c.Ended(), func() { close(let) })
		return fetchtest.Steps(fetchtest.Pause(let), readBytes(math.MaxInt64))(c)
	}
	u := fetchtest.NewScript(t, fetchtest.Listen{}, append(steps, rest)...)
	s.to(scheme + "://" + u.Addr().String())
	return s
}

// handled is an upstream that gets fetches stuck after what begin writes.
func handled(t *testing.T, stage string, begin func(http.ResponseWriter)) *trap {
	s := newTrap(stage)
	u := fetchtest.NewH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin(w)
		s.wait(r.Context())
	}), nil)
	s.to(fetchtest.OriginOf(u.Upstream))
	requireH2(s.request)
	return s
}

// eachTrap runs a test for each phase and RPC.
func eachTrap(t *testing.T, test func(t *testing.T, s *trap, call func(context.Context) (*answer, error))) {
	for name, arrange := range traps {
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				s := arrange(t)
				g := fetchtest.Start(t, s.options)
				test(t, s, func(ctx context.Context) (*answer, error) { return rpc.call(ctx, g, s.request) })
			})
		}
	}
}

func TestCancellationReachesTheUpstream(t *testing.T) {
	eachTrap(t, func(t *testing.T, s *trap, call func(context.Context) (*answer, error)) {
		best := patience
		for try := 1; try <= tries && best > reach; try++ {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { // ends with ctx; ended is waited for below
				_, err := call(ctx)
				ended <- err
			}()
			free := s.next(t)
			began := time.Now()
			cancel()
			if err := free(within(t)); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(began))
			if err := <-ended; status.Code(err) != codes.Canceled {
				t.Errorf("the RPC ended with %v, want Canceled", err)
			}
		}
		if best > reach {
			t.Errorf("the cancellation reached the upstream after %v, want %v", best, reach)
		}
	})
}

// TestDeadlineReachesTheUpstream: the answer of a fetch that takes too long
// comes before the RPC's own deadline, or its evidence would be lost.
func TestDeadlineReachesTheUpstream(t *testing.T) {
	const patient = 300 * time.Millisecond
	eachTrap(t, func(t *testing.T, s *trap, call func(context.Context) (*answer, error)) {
		var last error
		for try := 1; try <= tries; try++ {
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			deadline, _ := ctx.Deadline()
			a, err := call(ctx)
			if len(s.stuck) == 0 {
				last = errors.New("the fetch did not get there in time")
				continue
			}
			if err := s.next(t)(within(t)); err != nil {
				t.Fatal(err)
			}
			late := time.Since(deadline)
			want := "TOTAL_TIMEOUT CALLER " + s.stage
			switch {
			case err != nil:
				last = fmt.Errorf("the RPC ended with %w, want an answer", err)
			case !strings.HasPrefix(inWords(a.failure), want):
				t.Fatalf("the answer is %s, want %s", inWords(a.failure), want)
			case late > reach:
				last = fmt.Errorf("the deadline reached the upstream after %v, want %v", late, reach)
			default:
				return
			}
		}
		t.Error(last)
	})
}

// within is a context for what must happen.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// next is that of the next fetch that gets stuck.
func (s *trap) next(t *testing.T) func(context.Context) error {
	t.Helper()
	select {
	case free := <-s.stuck:
		return free
	case <-within(t).Done():
		t.Fatal("the fetch does not get there")
		return nil
	}
}

// durations are the fields of Timeouts that are durations.
func durations() []protoreflect.FieldDescriptor {
	var found []protoreflect.FieldDescriptor
	fields := (&fetchgatev1.Timeouts{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if fields.Get(i).Message() != nil {
			found = append(found, fields.Get(i))
		}
	}
	return found
}

func withTimeout(url string, fd protoreflect.FieldDescriptor, d *durationpb.Duration) *request {
	m := &request{Request: &fetchgatev1.HttpRequest{Url: url}, Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{}, Report: full()}}
	m.Options.Timeouts.ProtoReflect().Set(fd, protoreflect.ValueOfMessage(d.ProtoReflect()))
	return m
}

func TestDurationsThatMakeNoSenseAreRefused(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for _, fd := range durations() {
		for _, d := range []*durationpb.Duration{{}, {Seconds: -1}, {Nanos: -1}, {Seconds: 1, Nanos: -1}, {Nanos: 1e9}, {Seconds: 1 << 60}} {
			for _, rpc := range rpcs {
				_, err := rpc.call(t.Context(), g, withTimeout(u.URL("/"), fd, d))
				wantRefused(t, fmt.Sprintf("%s with %v", rpc.name, d), err, "options.timeouts."+string(fd.Name()))
			}
		}
	}
	if opened, _ := u.Connections(); opened != 0 {
		t.Errorf("the upstream got %d connections", opened)
	}
}

// TestDurationsThatAreTooLongAreClamped: the caller gets the maximum and is
// told so.
func TestDurationsThatAreTooLongAreClamped(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	most := map[protoreflect.Name]time.Duration{
		"dns": 30 * time.Second, "connect": time.Minute, "tls": time.Minute, "pool": time.Minute,
		"response_header": 5 * time.Minute, "idle_read": 15 * time.Minute, "write": 15 * time.Minute,
		"attempt": 5 * time.Minute, "total": 5 * time.Minute,
	}
	for _, fd := range durations() {
		for _, rpc := range rpcs {
			most := most[fd.Name()]
			if fd.Name() == "total" && rpc.name == "StreamFetch" {
				most = 24 * time.Hour
			}
			a, err := rpc.call(t.Context(), g, withTimeout(u.URL("/"), fd, durationpb.New(most+1)))
			if err != nil || a.failure != nil {
				t.Errorf("%s, %s: %v %v", rpc.name, fd.Name(), err, a)
				continue
			}
			limits := a.report.GetLimits().ProtoReflect()
			inForce := limits.Get(limits.Descriptor().Fields().ByName(fd.Name())).Message().Interface().(*durationpb.Duration)
			if path := "options.timeouts." + string(fd.Name()); !slices.Equal(a.report.GetClamped(), []string{path}) || inForce.AsDuration() != most {
				t.Errorf("%s: %s is in force with %v, want %v; clamped is %q, want it alone", rpc.name, path, inForce.AsDuration(), most, a.report.GetClamped())
			}
		}
	}
}

// server is a service that can be stopped as a signal stops it.
type server struct {
	*service.Service
	fetchgatev1.FetchServiceClient
	conn   *grpc.ClientConn
	stop   context.CancelFunc
	served chan error // gives what Serve returned, once
}

func serve(t *testing.T, yaml string) *server {
	t.Helper()
	return serveAt(t, yaml, "127.0.0.1:0")
}

// serveAt has it serve gRPC at an address.
func serveAt(t *testing.T, yaml, address string) *server {
	t.Helper()
	loaded, err := config.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return serveWith(t, service.Options{Config: loaded, GRPCAddress: address})
}

// serveWith has it be what o says; what is audited is discarded unless o says
// otherwise.
func serveWith(t *testing.T, o service.Options) *server {
	t.Helper()
	o.HTTPAddress = "127.0.0.1:0"
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	s := &server{served: make(chan error, 1)}
	var err error
	if s.Service, err = service.New(o); err != nil {
		t.Fatal(err)
	}
	s.conn, err = grpc.NewClient(s.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.FetchServiceClient = fetchgatev1.NewFetchServiceClient(s.conn)
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { // ends with ctx, which the end of the test sees to
		defer close(over)
		s.served <- s.Serve(ctx)
	}()
	t.Cleanup(func() {
		s.conn.Close()
		s.stop()
		<-over
	})
	return s
}

// get returns the status and the body of a page for operators.
func (s *server) get(path string) (int, string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Get("http://" + s.HTTPAddress() + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// begin starts a StreamFetch of u and receives its head and the first data.
func (s *server) begin(t *testing.T, u *fetchtest.Upstream) grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse] {
	t.Helper()
	events, err := s.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil {
		t.Fatal(err)
	}
	head, err := events.Recv()
	if err != nil || head.GetHead().GetStatus() != 200 {
		t.Fatalf("got %v, %v; want a head", head, err)
	}
	data, err := events.Recv()
	if err != nil || string(data.GetData().GetData()) != "hello" {
		t.Fatalf("got %v, %v; want data", data, err)
	}
	return events
}

// eventually waits until is does not return an error.
func eventually(t *testing.T, is func() error) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	over := within(t).Done()
	for {
		err := is()
		if err == nil {
			return
		}
		select {
		case <-over:
			t.Fatal(err)
		case <-again.C:
		}
	}
}

// allowing is a configuration that opens an upstream, with a grace for drains.
func allowing(u *fetchtest.Upstream, grace string) string {
	return fmt.Sprintf("grpc:\n  drain_grace: %s\nrules:\n  - name: test\n    dangerous_allow_loopback: true\n    origins: [%q]\n", grace, fetchtest.OriginOf(u))
}

// TestTotalEndsAStreamThatNobodyReads: a caller that opens a stream and does not
// read it holds nothing beyond the total timeout.
func TestTotalEndsAStreamThatNobodyReads(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
		fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", 1<<10)))
	s := serve(t, allowing(u, "60s"))
	stream, err := s.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: u.URL("/")},
		Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Total: durationpb.New(200 * time.Millisecond)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		const ended = `grpc_server_handled_total{grpc_code="DeadlineExceeded",grpc_method="StreamFetch",grpc_service="fetchgate.v1.FetchService",grpc_type="server_stream"} 1`
		if _, page, err := s.get("/metrics"); err != nil || !strings.Contains(page, ended) {
			return fmt.Errorf("the RPC has not ended (%w)", err)
		}
		return nil
	})
	for err = nil; err == nil; {
		var event *fetchgatev1.StreamFetchResponse
		if event, err = stream.Recv(); event.GetSummary() != nil {
			t.Errorf("there is a summary: %v", event)
		}
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("who reads in the end gets %v, want DeadlineExceeded", err)
	}
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
}

// TestDrain: a service that is told to stop takes nothing new, says so, and
// lets what is in flight end.
func TestDrain(t *testing.T) {
	release := make(chan struct{})
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
		fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello"), fetchtest.Pause(release), fetchtest.Write(" again"))
	s := serve(t, allowing(u, "60s"))
	events := s.begin(t, u)
	s.stop()

	eventually(t, func() error {
		if code, _, err := s.get("/readyz"); err != nil || code != http.StatusServiceUnavailable {
			return fmt.Errorf("/readyz says %d, %w; want 503", code, err)
		}
		return nil
	})
	if code, _, err := s.get("/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("/healthz says %d, %v; want 200", code, err)
	}
	eventually(t, func() error {
		// Until the drain gets there, it is refused for what it is.
		if _, err := s.Fetch(t.Context(), &request{}); status.Code(err) != codes.Unavailable {
			return fmt.Errorf("a new fetch got %v, want Unavailable", err)
		}
		return nil
	})

	close(release)
	var body string
	var summary *fetchgatev1.StreamSummary
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the fetch in flight ended with %v", err)
		}
		body += string(event.GetData().GetData())
		summary = event.GetSummary()
	}
	if body != " again" || summary == nil || summary.GetFailure() != nil {
		t.Errorf("the fetch in flight got %q, summary %v", body, summary)
	}
	if err := <-s.served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if _, _, err := s.get("/healthz"); err == nil {
		t.Error("the HTTP listener is still there")
	}
}

// TestGraceRunsOut: what outlives the grace says how far it came, is not taken
// for whole, and does not keep the service.
func TestGraceRunsOut(t *testing.T) {
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			begun := make(chan struct{})
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\nhello"),
				func(*fetchtest.Conn) error { close(begun); return nil }, fetchtest.Hang())
			s := serve(t, allowing(u, "200ms"))
			ctx := within(t)
			go func() { // ends with ctx, if the fetch does not get that far
				select {
				case <-begun:
					s.stop()
				case <-ctx.Done():
				}
			}()
			a, err := rpc.call(ctx, s, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
			if want := map[string]codes.Code{"Fetch": codes.OK, "StreamFetch": codes.Unavailable}[rpc.name]; status.Code(err) != want {
				t.Fatalf("the RPC ended with %v, want %v", err, want)
			}
			if got, want := inWords(a.failure), "DRAINING FETCHGATE BODY YES retryable"; got != want || string(a.body) != "hello" {
				t.Errorf("the failure is %s after %q, want %s", got, a.body, want)
			}
			if a.report.GetAttemptCount() != 1 || len(a.report.GetAttempts()) != 1 {
				t.Errorf("the report is %v, want one attempt in full", a.report)
			}
			if err := u.WaitClosed(within(t), 1); err != nil {
				t.Error(err)
			}
			if err := <-s.served; err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
	}
}

// TestWatchDoesNotHoldUpADrain: a client that watches the server's health does
// so for as long as the server lives.
func TestWatchDoesNotHoldUpADrain(t *testing.T) {
	s := serve(t, "grpc:\n  drain_grace: 60s\n")
	watch, err := healthpb.NewHealthClient(s.conn).Watch(within(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v; want SERVING", m, err)
	}
	s.stop()
	select {
	case err := <-s.served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the service has nothing to do and is still there")
	}
}

// TestOperatorsPages: what runs a service looks at its health, its metrics and
// its schema.
func TestOperatorsPages(t *testing.T) {
	s := serve(t, "log:\n  level: info\n")
	for _, path := range []string{"/readyz", "/healthz"} {
		eventually(t, func() error {
			if code, body, err := s.get(path); err != nil || code != http.StatusOK || body != "ok\n" {
				return fmt.Errorf("%s says %d %q, %w; want 200", path, code, body, err)
			}
			return nil
		})
	}
	checked, err := healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || checked.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %v, %v; want SERVING", checked, err)
	}
	if names := s.reflected(t); !slices.Contains(names, "fetchgate.v1.FetchService") || !slices.Contains(names, "fetchgate.v1.PolicyService") {
		t.Errorf("reflection names %q", names)
	}
	if _, err := s.Fetch(t.Context(), &request{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want InvalidArgument", err)
	}
	_, page, err := s.get("/metrics")
	want := `grpc_server_started_total{grpc_method="Fetch",grpc_service="fetchgate.v1.FetchService",grpc_type="unary"} 1`
	if err != nil || !strings.Contains(page, want+"\n") {
		t.Errorf("/metrics has no line %s: %v", want, err)
	}
}

// reflected are the services that reflection lists.
func (s *server) reflected(t *testing.T) []string {
	t.Helper()
	questions, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	err = questions.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := questions.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range listed.GetListServicesResponse().GetService() {
		names = append(names, found.GetName())
	}
	return names
}
