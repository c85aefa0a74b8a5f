package service_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// logs is a real collector of OTLP that keeps the lines it is sent.
type logs struct {
	collector.UnimplementedLogsServiceServer
	endpoint string
	text     lines
}

func newLogs(t *testing.T) *logs {
	t.Helper()
	c := &logs{}
	c.endpoint = serveCollector(t, func(s *grpc.Server) { collector.RegisterLogsServiceServer(s, c) })
	return c
}

// Export implements collector.LogsServiceServer.
func (c *logs) Export(_ context.Context, m *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	for _, resource := range m.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, r := range scope.GetLogRecords() {
				fmt.Fprintln(&c.text, r.GetBody().GetStringValue())
			}
		}
	}
	return &collector.ExportLogsServiceResponse{}, nil
}

// auditSink is a sink that can be read again.
type auditSink struct {
	yaml string // settings of audit
	// text is all that was written, in how many files.
	text func(t *testing.T) (text string, files int)
}

func auditSinks(t *testing.T, stdout *lines) map[string]auditSink {
	file, to := filepath.Join(t.TempDir(), "audit.jsonl"), newLogs(t)
	return map[string]auditSink{
		"stdout": {"", func(*testing.T) (string, int) { return stdout.String(), 1 }},
		"otlp":   {"sink: otlp, otlp_endpoint: '" + to.endpoint + "', ", func(*testing.T) (string, int) { return to.text.String(), 1 }},
		"file": {fmt.Sprintf("sink: file, file: %q, max_file_bytes: 1048576, keep_files: 99, ", file), func(t *testing.T) (string, int) {
			names, err := filepath.Glob(file + "*")
			if err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, name := range names {
				text, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(text)
			}
			return all.String(), len(names)
		}},
	}
}

// long makes the line of a request so long that a thousand are more than 1 MiB.
func long(m *request) *request {
	m.Options.Labels = map[string]string{"a": strings.Repeat("a", 120), "b": strings.Repeat("b", 120)}
	return m
}

// mixedCallers is how many ask at once.
const mixedCallers = 12

// mixed asks for n things from all sides, of which some are denied, fail, are
// wrong or find no place, and returns how many of them should have a line: all
// but those that were refused because they would have had none.
func mixed(t *testing.T, s *server, u *fetchtest.Recorder, closed string, n int64) int {
	path := "/" + strings.Repeat("p", 400)
	urls := []string{u.URL(path), "http://denied.test" + path, closed + path, "http://a b/", u.URL(path)}
	var next, recorded atomic.Int64
	var all sync.WaitGroup
	for range mixedCallers {
		all.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				m := long(get(urls[i%int64(len(urls))]))
				_, err := rpcs[i%int64(len(rpcs))].call(within(t), s, m)
				if status.Code(err) != codes.Unavailable {
					recorded.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(recorded.Load())
}

// TestEveryFetchHasItsLine: whatever the sink and the choice, there are as many
// lines as fetches and denials, each once, under load and over rotations.
func TestEveryFetchHasItsLine(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	closed := "http://" + closedAddress(t)
	for _, onFull := range []string{"drop_and_count", "refuse", "block"} {
		var stdout lines
		for name, sink := range auditSinks(t, &stdout) {
			t.Run(name+" "+onFull, func(t *testing.T) {
				loaded, err := config.Parse("test.yaml", []byte(fmt.Sprintf(
					"rules:\n  - {name: test, dangerous_allow_loopback: true, origins: [%q, %q]}\nlimits: {max_live_fetches_per_peer: 8}\naudit: {%son_full: %s}\n",
					fetchtest.OriginOf(u.Upstream), closed, sink.yaml, onFull)))
				if err != nil {
					t.Fatal(err)
				}
				n := int64(300)
				if !testing.Short() || name == "file" { // of which more than 1 MiB are rotated
					n = 1200
				}
				s := serveWith(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", Stdout: &stdout})
				want := mixed(t, s, u, closed, n)
				eventually(t, func() error {
					if got := s.sums(t, "fetchgate_audit_records_total"); got != float64(want) {
						return fmt.Errorf("%v lines were written or lost, want %d", got, want)
					}
					return nil
				})
				lost := s.sums(t, "fetchgate_audit_records_lost_total")
				s.conn.Close()
				s.stop()
				if err := <-s.served; err != nil {
					t.Error(err)
				}
				s.served <- nil
				text, files := sink.text(t)
				wantLines(t, text, want, lost)
				if name == "file" && files < 2 {
					t.Errorf("nothing was rotated: the lines are in %d files", files)
				}
			})
		}
	}
}

// TestSinkThatStalls: a sink that takes nothing until the queue is full, then all:
// each choice loses, refuses or delays, and every fetch that was begun has its
// line, or is counted as lost.
func TestSinkThatStalls(t *testing.T) {
	t.Parallel()
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	closed := "http://" + closedAddress(t)
	for _, onFull := range []string{"drop_and_count", "refuse", "block"} {
		t.Run(onFull, func(t *testing.T) {
			loaded, err := config.Parse("test.yaml", []byte(fmt.Sprintf(
				"rules:\n  - {name: test, dangerous_allow_loopback: true, origins: [%q, %q]}\nlimits: {max_live_fetches_per_peer: 8}\naudit: {max_queue_bytes: 1048576, on_full: %s}\n",
				fetchtest.OriginOf(u.Upstream), closed, onFull)))
			if err != nil {
				t.Fatal(err)
			}
			sink := &shut{}
			s := serveWith(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", Stdout: sink})
			const n = 1500
			var want int
			var asking sync.WaitGroup
			asking.Go(func() { want = mixed(t, s, u, closed, n) })
			if onFull == "block" {
				eventually(t, func() error {
					if got := s.sums(t, "fetchgate_audit_blocked_fetches"); got != mixedCallers {
						return fmt.Errorf("%v fetches wait, want %d", got, mixedCallers)
					}
					return nil
				})
			} else {
				asking.Wait()
			}
			sink.open.Store(true)
			asking.Wait()
			eventually(t, func() error {
				lines, lost := strings.Count(sink.String(), "\n"), s.sums(t, "fetchgate_audit_records_lost_total")
				if lines+int(lost) != want {
					return fmt.Errorf("%d lines and %v lost of %d", lines, lost, want)
				}
				return nil
			})
			lost := s.sums(t, "fetchgate_audit_records_lost_total")
			if (onFull == "drop_and_count") != (lost > 0) || (onFull == "refuse") != (want < n) {
				t.Errorf("%v were lost and %d of %d not refused", lost, want, n)
			}
			if onFull == "refuse" {
				if got := s.metric(t, `fetchgate_limit_rejections_total{limit="audit_queue",scope="server"}`); got != float64(n-want) {
					t.Errorf("%v refusals are counted, want %d", got, n-want)
				}
			}
		})
	}
}

// wantLines wants a line for each of n fetches, whole and once, but for those
// that were lost; some of each kind.
func wantLines(t *testing.T, text string, n int, lost float64) {
	t.Helper()
	outcomes, seen := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(text) {
		var l struct {
			ID      string `json:"fetch_id"`
			Outcome string `json:"outcome"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.ID == "" || seen[l.ID] {
			t.Fatalf("%q: %v, or it is there twice", line, err)
		}
		seen[l.ID] = true
		outcomes[l.Outcome]++
	}
	if len(seen)+int(lost) != n || lost > 0 {
		t.Errorf("%d lines and %v lost of %d fetches: %v", len(seen), lost, n, outcomes)
	}
	for _, outcome := range []string{"response", "denied", "failure", "rejected"} {
		if outcomes[outcome] == 0 {
			t.Errorf("there is no line of the outcome %s: %v", outcome, outcomes)
		}
	}
}

// sums adds up the series of a metric.
func (s *server) sums(t *testing.T, name string) float64 {
	t.Helper()
	_, text, err := s.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		if rest, is := strings.CutPrefix(line, name); is && (rest[0] == ' ' || rest[0] == '{') {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// shut is a sink that takes nothing until it is opened.
type shut struct {
	lines
	open atomic.Bool
}

func (s *shut) Write(p []byte) (int, error) {
	if !s.open.Load() {
		return 0, syscall.ENOSPC
	}
	return s.lines.Write(p)
}

// blocking is a service whose sink takes nothing, and whose callers all wait.
type blocking struct {
	*server
	sink    *shut
	log     lines
	callers sync.WaitGroup
	// answered are fetches that got their answer, broken those that did not.
	answered, broken atomic.Int64
}

// blockedCallers are as many as may fetch at once.
const blockedCallers = 6

// newBlocking has callers ask for n things, of url or, if it is empty, of an
// upstream that answers.
func newBlocking(t *testing.T, n int64, url string) *blocking {
	t.Helper()
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	loaded, err := config.Parse("test.yaml", []byte(fmt.Sprintf(
		"%slimits: {max_live_fetches: %d}\naudit: {on_full: block, max_queue_bytes: 1048576}\n", allowing(u.Upstream, "300ms"), blockedCallers)))
	if err != nil {
		t.Fatal(err)
	}
	b := &blocking{sink: &shut{}}
	b.server = serveWith(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", Stdout: b.sink, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	var next atomic.Int64
	for range blockedCallers {
		b.callers.Go(func() {
			for next.Add(1) <= n {
				if _, err := whole(within(t), b.server, long(get(cmp.Or(url, u.URL("/"))))); err != nil && status.Code(err) != codes.PermissionDenied {
					b.broken.Add(1)
					return
				}
				b.answered.Add(1)
			}
		})
	}
	eventually(t, func() error {
		if got := b.sums(t, "fetchgate_audit_blocked_fetches"); got != blockedCallers {
			return fmt.Errorf("%v fetches wait, want %d", got, blockedCallers)
		}
		return nil
	})
	return b
}

// TestBlockedFetchesKeepTheirPlace: while the sink takes nothing the fetches that
// ended hold their places, so that whoever comes waits too; once it does, all
// end, with a line each.
func TestBlockedFetchesKeepTheirPlace(t *testing.T) {
	const n = 1200
	// A denial holds nothing else that would keep its place.
	b := newBlocking(t, n, "http://denied.test/")
	if load := b.sums(t, "fetchgate_load_ratio"); load != 1 {
		t.Errorf("the load is %v, want 1", load)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.Fetch(short, get("http://denied.test/")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one more caller got %v", err)
	}
	b.sink.open.Store(true)
	b.callers.Wait()
	if b.answered.Load() != n || b.broken.Load() != 0 {
		t.Errorf("%d were answered, %d broke", b.answered.Load(), b.broken.Load())
	}
	eventually(t, func() error {
		if got := strings.Count(b.sink.String(), "\n"); got != n+1 {
			return fmt.Errorf("%d lines, want %d", got, n+1)
		}
		return nil
	})
	if lost, waited := b.sums(t, "fetchgate_audit_records_lost_total"), b.sums(t, "fetchgate_audit_blocked_seconds_total"); lost != 0 || waited < 0.2 {
		t.Errorf("%v were lost, they waited for %v s", lost, waited)
	}
}

// TestStopWithDeadSink: a service whose sink is dead stops all the same; who
// waited gets the answer, and the log says that the record is not whole.
func TestStopWithDeadSink(t *testing.T) {
	t.Parallel()
	b := newBlocking(t, 1<<40, "")
	before := b.answered.Load()
	began := time.Now()
	b.stop()
	if err := <-b.served; err != nil {
		t.Error(err)
	}
	b.served <- nil
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}
	b.callers.Wait()
	if got := b.answered.Load() - before; got < blockedCallers {
		t.Errorf("%d of %d that waited were answered", got, blockedCallers)
	}
	if !strings.Contains(b.log.String(), "the audit record is not whole") {
		t.Errorf("the log says nothing: %s", b.log.String())
	}
}

// TestCollectorNeedNotBeThere: a service starts, serves and stops without its
// collector.
func TestCollectorNeedNotBeThere(t *testing.T) {
	t.Parallel()
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	s := serve(t, allowing(u.Upstream, "1s")+"audit: {sink: otlp, otlp_endpoint: 'http://"+closedAddress(t)+"'}\n")
	a, err := whole(within(t), s, get(u.URL("/")))
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, a, 200, "ok")
	s.conn.Close()
	s.stop()
	if err := <-s.served; err != nil {
		t.Error(err)
	}
	s.served <- nil
}
