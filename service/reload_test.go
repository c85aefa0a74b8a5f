package service_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// reloadable is a service with a configuration file. Its files are looked at
// when the test says so.
type reloadable struct {
	*server
	policy fetchgatev1.PolicyServiceClient
	file   string
	ticks  chan time.Time
	log    *logged
}

// logged is what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func reloading(t *testing.T, yaml string) *reloadable {
	t.Helper()
	return reloadingAt(t, filepath.Join(t.TempDir(), "fetchgate.yaml"), yaml, service.Options{})
}

func reloadingAt(t *testing.T, file, yaml string, o service.Options) *reloadable {
	t.Helper()
	r := &reloadable{file: file, ticks: make(chan time.Time), log: &logged{}}
	r.write(t, yaml)
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	o.Config, o.GRPCAddress, o.Ticks = loaded, "127.0.0.1:0", r.ticks
	o.Log = slog.New(slog.NewTextHandler(io.MultiWriter(r.log, t.Output()), nil))
	r.server = serveWith(t, o)
	r.policy = fetchgatev1.NewPolicyServiceClient(r.conn)
	return r
}

// write exchanges the file for another.
func (r *reloadable) write(t *testing.T, yaml string) {
	t.Helper()
	next := r.file + ".next"
	if err := os.WriteFile(next, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, r.file); err != nil {
		t.Fatal(err)
	}
}

// look has the files looked at until what has changed was read: the first look
// sees that, the second that they change no more, and when the third begins the
// second is over.
func (r *reloadable) look() {
	for range 3 {
		r.ticks <- time.Time{}
	}
}

// change exchanges the file and has it read.
func (r *reloadable) change(t *testing.T, yaml string) {
	t.Helper()
	r.write(t, yaml)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// inForce is what WaitForGeneration says at once.
func (r *reloadable) inForce(t *testing.T) *fetchgatev1.WaitForGenerationResponse {
	t.Helper()
	now, err := r.policy.WaitForGeneration(within(t), &fetchgatev1.WaitForGenerationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func digestOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// opening is a configuration that opens upstreams, with a grace for what it
// closes.
func opening(grace string, upstreams ...*fetchtest.Upstream) string {
	text := "audit: {sink: none}\nreload: {revoke_grace: " + grace + "}\nrules:\n  - {name: other, origins: [\"https://example.com\"]}\n"
	for i, u := range upstreams {
		text += fmt.Sprintf("  - {name: open-%d, origins: [%q], dangerous_allow_loopback: true}\n", i, fetchtest.OriginOf(u))
	}
	return text
}

// TestReloadsUnderLoad: each configuration has its own rule, field and timeout, and
// the caller stays: no fetch fails, and none sees two of them, in its report or at
// the upstream, on either of its hops.
func TestReloadsUnderLoad(t *testing.T) {
	reloads := 50
	if !testing.Short() {
		reloads = 1000
	}
	u := fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		field := r.Header.Get("X-Generation")
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/arrived?"+field, http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%s %s", r.URL.RawQuery, field)
	}), nil)
	yaml := func(n int) string {
		return fmt.Sprintf(`
audit: {sink: none}
reload: {revoke_grace: 0s}
callers: [{name: load, dangerous_anonymous: true}]
rules: [{name: r%[1]d, callers: [load], origins: [%[2]q], dangerous_allow_loopback: true, set_fields: {X-Generation: "%[1]d"}}]
limits: {timeouts: {total: %[3]dms}}
`, n, fetchtest.OriginOf(u), 20_000+n)
	}
	s := reloading(t, yaml(1))
	load := loadReloads(t, s, u.URL("/"))
	for n := 2; n <= reloads+1; n++ {
		s.change(t, yaml(n))
		eventually(t, func() error {
			if t.Failed() || load.newest.Load() >= int64(n) {
				return nil
			}
			return fmt.Errorf("no fetch under generation %d", n)
		})
	}
	load.end()
	t.Logf("%d reloads, %d fetches", reloads, load.fetches.Load())
	if got := s.inForce(t); got.GetGeneration() != int64(reloads+1) || got.GetConfigSha256() != digestOf(yaml(reloads+1)) {
		t.Errorf("in force is %v", got)
	}
}

// reloadLoad are fetches that go on while configurations change.
type reloadLoad struct {
	fetches, newest atomic.Int64 // how many, and the newest generation of one
	end             func()
}

// loadReloads fetches url of TestReloadsUnderLoad with eight at once until end.
func loadReloads(t *testing.T, s *reloadable, url string) *reloadLoad {
	l := &reloadLoad{}
	var all sync.WaitGroup
	stop := make(chan struct{})
	l.end = sync.OnceFunc(func() { close(stop); all.Wait() })
	t.Cleanup(l.end)
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				m := get(url)
				m.Options.Report = full()
				a, err := whole(t.Context(), s, m)
				if err != nil || a.failure != nil {
					t.Errorf("fetch %d failed: %v, %v", l.fetches.Load(), err, a)
					return
				}
				if seen := generations(a); len(seen) != 1 {
					t.Errorf("a fetch saw the generations %v", seen)
				}
				l.fetches.Add(1)
				for g := a.report.GetGeneration(); ; {
					if n := l.newest.Load(); n >= g || l.newest.CompareAndSwap(n, g) {
						break
					}
				}
			}
		})
	}
	return l
}

// generations are all that an answer of TestReloadsUnderLoad tells of; -1 stands
// for what cannot be read.
func generations(a *answer) map[int64]bool {
	seen := map[int64]bool{a.report.GetGeneration(): true}
	note := func(text, form string, times int) {
		numbers := make([]int64, times)
		into := make([]any, times)
		for i := range numbers {
			numbers[i] = -1
			into[i] = &numbers[i]
		}
		fmt.Sscanf(text, form, into...)
		for _, n := range numbers {
			seen[n] = true
		}
	}
	note(string(a.body), "%d %d", 2)
	note(a.report.GetRule(), "r%d", 1)
	hops := 0
	for _, attempt := range a.report.GetAttempts() {
		for _, h := range attempt.GetHops() {
			note(h.GetRule(), "r%d", 1)
			hops++
		}
	}
	if hops != 2 {
		seen[-1] = true
	}
	seen[a.report.GetLimits().GetTotal().AsDuration().Milliseconds()-20_000] = true
	return seen
}

// streaming is an upstream that says hello and goes on when it is released.
func streaming(t *testing.T, release <-chan struct{}) *fetchtest.Upstream {
	t.Helper()
	return fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
		fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Pause(release), fetchtest.Write("world"))
}

// rest receives what is left of a stream.
func rest(stream grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse]) (summary *fetchgatev1.StreamSummary, n int, err error) {
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return summary, n, nil
		case err != nil:
			return summary, n, err
		case event.GetSummary() != nil:
			summary = event.GetSummary()
		default:
			n += len(event.GetData().GetData())
		}
	}
}

// TestRevokedStreams: what a new configuration denies ends after its grace, and
// nothing else.
func TestRevokedStreams(t *testing.T) {
	release := make(chan struct{})
	kept, lost := streaming(t, release), streaming(t, nil)
	s := reloading(t, opening("5s", kept, lost))
	goesOn, ends := s.begin(t, kept), s.begin(t, lost)
	const grace = time.Second
	s.change(t, opening(grace.String(), lost))
	s.change(t, opening(grace.String(), lost, kept)) // taken back
	began := time.Now()
	s.change(t, opening(grace.String(), kept))
	if _, err := whole(within(t), s, get(lost.URL("/"))); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a new fetch ends with %v", err)
	}
	summary, _, err := rest(ends)
	if err != nil || summary.GetFailure().GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN {
		t.Fatalf("the stream that was revoked ends with %v, %v", err, summary)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("it ended after %v, within its grace", took)
	}
	f := summary.GetFailure()
	if f.GetDenial().GetRule() != "default-deny" || !strings.Contains(f.GetMessage(), "generation 4") || summary.GetReport().GetGeneration() != 1 {
		t.Errorf("the failure is %v of generation %d", f, summary.GetReport().GetGeneration())
	}
	close(release)
	if summary, n, err := rest(goesOn); err != nil || summary.GetFailure() != nil || n != len("world") {
		t.Errorf("the other stream ends with %v, %v, %d bytes", err, summary, n)
	}
}

// TestRevokedStreamThatNobodyReads: a caller that does not read keeps no
// connection to where it may not be any more.
func TestRevokedStreamThatNobodyReads(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
		fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), fetchtest.Forever("5\r\nhello\r\n"))
	s := reloading(t, opening("0s", u))
	events, err := s.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); err != nil {
		t.Fatal(err)
	}
	s.change(t, opening("0s"))
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
	if summary, _, err := rest(events); err != nil || summary.GetFailure().GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN {
		t.Errorf("the stream ends with %v, %v", err, summary)
	}
}

// TestRevokedAddresses: a name that may still be fetched, at an address that it
// may not have any more.
func TestRevokedAddresses(t *testing.T) {
	u := streaming(t, nil)
	dns := fetchtest.NewDNS(t)
	dns.Set("a.test", "127.0.0.1")
	yaml := func(more string) string {
		return fmt.Sprintf("reload: {revoke_grace: 0s}\nrules: [{name: a, origins: [\"http://a.test:%d\"]%s}]\n", u.Addr().Port(), more)
	}
	s := reloadingAt(t, filepath.Join(t.TempDir(), "fetchgate.yaml"), yaml(", dangerous_allow_loopback: true"), service.Options{Resolver: dns})
	events, err := s.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URLOf("a.test", "/")}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := events.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	s.change(t, yaml(""))
	summary, _, err := rest(events)
	if f := summary.GetFailure(); err != nil || f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN || f.GetDenial().GetRule() != "a" {
		t.Errorf("the stream ends with %v, %v", err, summary)
	}
}

// TestRevokedCallers: the streams of a caller that is no more end, those of
// another do not.
func TestRevokedCallers(t *testing.T) {
	release := make(chan struct{})
	u := streaming(t, release)
	yaml := func(callers string) string { return "callers: [" + callers + "]\n" + opening("0s", u) }
	const first, second = "{name: a, dangerous_anonymous: true}", "{name: b, dangerous_anonymous: true}"
	s := reloading(t, yaml(first))
	ends := s.begin(t, u)
	s.change(t, yaml(second))
	goesOn := s.begin(t, u)
	summary, _, err := rest(ends)
	if f := summary.GetFailure(); err != nil || f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN || !strings.Contains(f.GetMessage(), "the caller is not") {
		t.Errorf("the stream ends with %v, %v", err, summary)
	}
	s.change(t, yaml(second)+"limits: {max_attempts: 2}\n")
	close(release)
	if summary, n, err := rest(goesOn); err != nil || summary.GetFailure() != nil || n != len("world") {
		t.Errorf("the stream of the new caller ends with %v, %v, %d bytes", err, summary, n)
	}
}

// TestRevokedOnTheWay: a redirect that an older configuration allows leads to
// where the newer one denies.
func TestRevokedOnTheWay(t *testing.T) {
	never := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Hang())
	asked, release := make(chan struct{}), make(chan struct{})
	first := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		close(asked)
		return fetchtest.Steps(fetchtest.Pause(release), fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: "+never.URL("/")+"\r\nContent-Length: 0\r\n\r\n"))
	}})
	s := reloading(t, opening("0s", first.Upstream, never))
	var fetching sync.WaitGroup
	fetching.Go(func() {
		a, err := whole(within(t), s, get(first.URL("/")))
		if err != nil || a.failure.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN || a.report.GetHopCount() != 2 {
			t.Errorf("the fetch ends with %v, %v", err, a)
		}
	})
	<-asked
	s.change(t, opening("0s", first.Upstream))
	close(release)
	fetching.Wait()
}

// TestRefusedReloads: each of these leaves the last good configuration in force,
// and the log, the metrics, /readyz and WaitForGeneration say so.
func TestRefusedReloads(t *testing.T) {
	u := fetchtest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	good := opening("5s", u)
	s := reloading(t, good)
	for name, c := range map[string]struct{ text, says string }{
		"a doubled section": {good + "audit: {sink: none}\n", "audit: is set twice"},
		"a doubled key":     {good + "limits: {max_attempts: 1, max_attempts: 2}\n", "limits.max_attempts: is set twice"},
		"an unknown key":    {good + "limts: {}\n", "limts: unknown setting"},
		"empty":             {"", "is empty"},
		"only a comment":    {"# nothing\n", "is empty"},
		"half a line":       {good[:len(good)-len(" dangerous_allow_loopback: true}\n")], "is not YAML"},
		"half a value":      {good + "log: {level: info}\nhttp:\n  address: 127.0.0.1:780", "ends in the middle of a line"},
		"a bad CIDR":        {good + "  - {name: cidr, origins: [\"https://a.example\"], allow_addresses: [10.0.0.0/33]}\n", "allow_addresses[0]"},
		"a wide wildcard":   {good + "  - {name: wide, origins: [\"https://*.co.uk\"]}\n", "origins[0]"},
		"beyond loopback":   {strings.Replace(good, "audit:", "grpc: {address: 0.0.0.0:1}\naudit:", 1), "lets everyone who reaches it call"},
	} {
		s.write(t, c.text)
		s.look()
		now := s.inForce(t)
		if now.GetGeneration() != 1 || now.GetConfigSha256() != digestOf(good) || now.GetRefused() == "" {
			t.Errorf("%s: in force is %v", name, now)
		}
		_, page, err := s.get("/readyz?verbose")
		if err != nil || !strings.HasPrefix(page, "ok\n") || !strings.Contains(page, "\ngeneration: 1\n") || !strings.Contains(page, "\nrefused: the file has changed") || strings.Contains(page, c.says) {
			t.Errorf("%s: /readyz?verbose says %v\n%s", name, err, page)
		}
		if !strings.Contains(s.log.String(), c.says) {
			t.Errorf("%s: the log does not say %q", name, c.says)
		}
		if a, err := whole(within(t), s, get(u.URL("/"))); err != nil || a.failure != nil {
			t.Errorf("%s: a fetch ends with %v, %v", name, err, a)
		}
	}
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	s.look()
	wantMetrics(t, s, `fetchgate_config_reloads_total{result="failure"} 11`, "fetchgate_config_last_reload_successful 0", `generation="1"`)
	s.write(t, good)
	s.look()
	wantMetrics(t, s, "fetchgate_config_last_reload_successful 1", `generation="1"`)
	if now := s.inForce(t); now.GetGeneration() != 1 || now.GetRefused() != "" {
		t.Errorf("with the first file again, in force is %v", now)
	}
	if _, page, err := s.get("/readyz"); err != nil || page != "ok\n" {
		t.Errorf("/readyz says %q, %v", page, err)
	}
}

func wantMetrics(t *testing.T, s *reloadable, want ...string) {
	t.Helper()
	_, page, err := s.get("/metrics")
	for _, line := range want {
		if err != nil || !strings.Contains(page, line) {
			t.Errorf("/metrics does not say %s: %v", line, err)
		}
	}
}

// TestWatch: a mounted ConfigMap is exchanged by a symbolic link to a directory.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	mount := func(name, yaml string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "fetchgate.yaml"), []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "..next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	texts := []string{"", "log: {level: info}\n", "log: {format: text}\n", "limits: {max_attempts: 4}\nreload: {watch: false}\n"}
	mount("1", texts[1])
	link := filepath.Join(dir, "fetchgate.yaml")
	if err := os.Symlink("..data/fetchgate.yaml", link); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(link)
	if err != nil {
		t.Fatal(err)
	}
	s := &reloadable{ticks: make(chan time.Time), log: &logged{}}
	s.server = serveWith(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", Ticks: s.ticks})
	s.policy = fetchgatev1.NewPolicyServiceClient(s.conn)
	want := func(generation int64, text string) {
		t.Helper()
		if now := s.inForce(t); now.GetGeneration() != generation || now.GetConfigSha256() != digestOf(text) {
			t.Errorf("in force is %v, want generation %d", now, generation)
		}
	}
	s.look()
	want(1, texts[1])
	mount("2", texts[2])
	s.look()
	want(2, texts[2])
	mount("3", texts[3])
	s.look()
	want(3, texts[3])
	mount("4", texts[1])
	for range 12 {
		s.ticks <- time.Time{}
	}
	want(3, texts[3]) // it no longer watches
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(4, texts[1])
}

// TestReloadTriesAgain: a file that was refused for one that it names comes into
// force once that is there.
func TestReloadTriesAgain(t *testing.T) {
	s := reloading(t, "log: {level: info}\n")
	s.write(t, "upstream_tls: {ca_files: [ca.pem]}\n")
	s.look()
	if now := s.inForce(t); now.GetGeneration() != 1 || now.GetRefused() == "" {
		t.Fatalf("in force is %v", now)
	}
	authority, err := os.ReadFile(fetchtest.NewAuthority(t).WriteFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.file), "ca.pem"), authority, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		s.ticks <- time.Time{}
	}
	if now := s.inForce(t); now.GetGeneration() != 2 || now.GetRefused() != "" {
		t.Errorf("in force is %v", now)
	}
	if n := strings.Count(s.log.String(), "the configuration is refused"); n != 1 {
		t.Errorf("the log says %d times that it is refused", n)
	}
}

// TestReloadWithoutAFile: what is built in stays, and is not refused.
func TestReloadWithoutAFile(t *testing.T) {
	s := serve(t, "log: {level: info}\n")
	if err := s.Reload(t.Context()); err == nil {
		t.Error("there is no file, and it is read")
	}
	if _, page, err := s.get("/readyz?verbose"); err != nil || page != "ok\nconfig: test.yaml\ngeneration: 1\nmode: enforce\n" {
		t.Errorf("/readyz?verbose says %v\n%s", err, page)
	}
}

// TestModeIsTold: who enforces less than all of the rules is told so by the log
// and by /readyz?verbose.
func TestModeIsTold(t *testing.T) {
	u := fetchtest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	s := reloading(t, opening("5s", u)+"mode: report\n")
	if _, page, err := s.get("/readyz?verbose"); err != nil || !strings.HasSuffix(page, "\nmode: report\nnot_enforced: mode: report\n") {
		t.Errorf("/readyz?verbose says %v\n%s", err, page)
	}
	s.change(t, opening("5s", u)+"  - {name: loose, mode: open, origins: [\"https://other.example\"]}\n")
	if _, page, err := s.get("/readyz?verbose"); err != nil || !strings.HasSuffix(page, "\nmode: enforce\nnot_enforced: rules[2].mode: open\n") {
		t.Errorf("/readyz?verbose says %v\n%s", err, page)
	}
	for _, says := range []string{`not_enforced="[mode: report]"`, `not_enforced="[rules[2].mode: open]"`} {
		if !strings.Contains(s.log.String(), says) {
			t.Errorf("the log does not say %q:\n%s", says, s.log.String())
		}
	}
}

// TestWaitForARestart: what can only be changed by a start stays, is told, and
// does not keep the rest from being changed.
func TestWaitForARestart(t *testing.T) {
	u := fetchtest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	s := reloading(t, opening("5s"))
	s.change(t, opening("5s", u)+"http: {address: \"127.0.0.1:1\"}\nlimits: {max_live_fetches: 1, max_attempts: 2}\n")
	_, page, err := s.get("/readyz?verbose")
	if err != nil || !strings.Contains(page, "\nwaits_for_restart: http.address, limits.max_live_fetches\n") {
		t.Errorf("/readyz?verbose says %v\n%s", err, page)
	}
	if !strings.Contains(s.log.String(), "wait for a restart") {
		t.Error("the log does not say what waits for a restart")
	}
	m := get(u.URL("/"))
	m.Options = &fetchgatev1.FetchOptions{Report: full()}
	if a, err := whole(within(t), s, m); err != nil || a.failure != nil || a.report.GetLimits().GetMaxAttempts() != 2 {
		t.Errorf("a fetch ends with %v, %v", err, a)
	}
}

// TestWaitForGeneration: who waits hears of what comes into force, of what is
// refused, and of the end.
func TestWaitForGeneration(t *testing.T) {
	text := func(n int) string { return fmt.Sprintf("limits: {max_attempts: %d}\n", n) }
	s := reloading(t, text(1))
	type outcome struct {
		*fetchgatev1.WaitForGenerationResponse
		err error
	}
	wait := func(m *fetchgatev1.WaitForGenerationRequest) <-chan outcome {
		got := make(chan outcome, 1)
		started := s.started(t, "WaitForGeneration")
		go func() { // ends with the RPC, whose context ends with the test
			now, err := s.policy.WaitForGeneration(within(t), m)
			got <- outcome{now, err}
		}()
		eventually(t, func() error {
			if s.started(t, "WaitForGeneration") == started {
				return fmt.Errorf("the call has not begun")
			}
			return nil
		})
		return got
	}
	byNumber, byDigest := wait(&fetchgatev1.WaitForGenerationRequest{Generation: 2}), wait(&fetchgatev1.WaitForGenerationRequest{ConfigSha256: digestOf(text(2))})
	later := wait(&fetchgatev1.WaitForGenerationRequest{Generation: 3})
	s.change(t, text(2))
	for _, got := range []outcome{<-byNumber, <-byDigest} {
		if got.err != nil || got.GetGeneration() != 2 || got.GetConfigSha256() != digestOf(text(2)) || got.GetRefused() != "" {
			t.Errorf("got %v, %v; want generation 2", got.WaitForGenerationResponse, got.err)
		}
	}
	bad := "limits: {max_attempts: 2000}\n"
	s.write(t, bad)
	if err := s.Reload(t.Context()); err == nil {
		t.Fatal("a bad file is taken")
	}
	if got := <-later; got.err != nil || got.GetGeneration() != 2 || got.GetRefused() == "" {
		t.Errorf("got %v, %v; want that the change was refused", got.WaitForGenerationResponse, got.err)
	}
	if now, err := s.policy.WaitForGeneration(within(t), &fetchgatev1.WaitForGenerationRequest{ConfigSha256: digestOf(bad)}); err != nil || now.GetRefused() == "" {
		t.Errorf("for the file that was refused before: %v, %v", now, err)
	}
	if now := s.inForce(t); now.GetRefused() == "" || strings.Contains(now.GetRefused(), s.file) {
		t.Errorf("who may not operate is told %q", now.GetRefused())
	}
	for _, m := range []*fetchgatev1.WaitForGenerationRequest{
		{Generation: -1}, {ConfigSha256: "abc"}, {ConfigSha256: strings.Repeat("g", 64)}, {Generation: 1, ConfigSha256: digestOf(bad)},
	} {
		if _, err := s.policy.WaitForGeneration(within(t), m); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", m, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.policy.WaitForGeneration(ctx, &fetchgatev1.WaitForGenerationRequest{Generation: 9}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("beyond the deadline: %v", err)
	}
	drained := wait(&fetchgatev1.WaitForGenerationRequest{Generation: 9})
	s.stop()
	if got := <-drained; status.Code(got.err) != codes.Unavailable || !strings.Contains(got.err.Error(), "ask another replica") {
		t.Errorf("in a drain: %v", got.err)
	}
}

// TestReloadRefusalIsForOperators: why a change is refused is told to those with
// the right operate, and nothing to those without a right to ask.
func TestReloadRefusalIsForOperators(t *testing.T) {
	s := reloading(t, "callers: [{name: ops, dangerous_anonymous: true, rights: [operate]}]\n")
	s.write(t, "limits: {max_attempts: 2000}\n")
	if err := s.Reload(t.Context()); err == nil {
		t.Fatal("a bad file is taken")
	}
	if now := s.inForce(t); !strings.HasPrefix(now.GetRefused(), s.file+":1:10: limits.max_attempts: ") {
		t.Errorf("the refusal says %q", now.GetRefused())
	}
	s.change(t, "callers: [{name: app, dangerous_anonymous: true, rights: [fetch]}]\n")
	if _, err := s.policy.WaitForGeneration(within(t), &fetchgatev1.WaitForGenerationRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a right: %v", err)
	}
}

// started is how often an RPC was called.
func (s *server) started(t *testing.T, rpc string) string {
	t.Helper()
	_, page, err := s.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(page, `grpc_server_started_total{grpc_method="`+rpc+`"`)
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

// TestReloadKeepsConnections: a connection of a route that is withdrawn closes,
// one that is not serves on.
func TestReloadKeepsConnections(t *testing.T) {
	answer := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	kept, lost := fetchtest.NewServer(t, answer, nil), fetchtest.NewServer(t, answer, nil)
	s := reloading(t, opening("5s", kept, lost))
	for _, u := range []*fetchtest.Upstream{kept, lost} {
		if a, err := whole(within(t), s, get(u.URL("/"))); err != nil || a.failure != nil {
			t.Fatalf("got %v, %v", a, err)
		}
	}
	s.change(t, opening("6s", kept))
	if err := lost.WaitClosed(within(t), 1); err != nil {
		t.Errorf("the connection of the route that was withdrawn: %v", err)
	}
	if a, err := whole(within(t), s, get(kept.URL("/"))); err != nil || a.failure != nil {
		t.Errorf("got %v, %v", a, err)
	}
	if opened, _ := kept.Connections(); opened != 1 {
		t.Errorf("%d connections were opened to the origin that is still allowed, want 1", opened)
	}
}
