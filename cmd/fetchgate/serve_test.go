package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// served is a serve command that runs in this process.
type served struct {
	address string
	screen  string // up to the line that says what to type next
	stop    func() result
}

// serve runs the command until the test ends, or stop, which returns what it
// did, is called.
func serve(t *testing.T, args ...string) served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	var running sync.WaitGroup
	var out lockedBuffer
	var r result
	running.Go(func() {
		defer writer.Close()
		args := append([]string{"bin/fetchgate", "serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"}, args...)
		r.code = run(ctx, args, streams{strings.NewReader(""), &out, writer})
	})
	s := served{}
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		s.screen += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "next: ") || strings.Contains(lines.Text(), "msg=listening") {
			break
		}
	}
	var rest strings.Builder
	running.Go(func() { _, _ = io.Copy(&rest, reader) })
	s.stop = sync.OnceValue(func() result {
		cancel()
		running.Wait()
		r.out, r.err = out.String(), rest.String()
		return r
	})
	t.Cleanup(func() { s.stop() })
	if found := regexp.MustCompile(`(?m)^  gRPC     (\S+)`).FindStringSubmatch(s.screen); found != nil {
		s.address = found[1]
	} else {
		t.Fatalf("the first screen names no address:\n%s", s.screen)
	}
	return s
}

// configure writes a configuration that opens the origins.
func configure(t *testing.T, origins ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fetchgate.yaml")
	text := fmt.Sprintf("rules:\n  - name: upstream\n    origins: [%q]\n    dangerous_allow_loopback: true\n", strings.Join(origins, `", "`))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServeAndGet: every exit code of get that a real service and a real
// upstream can bring about.
func TestServeAndGet(t *testing.T) {
	t.Setenv("LC_ALL", "C") // so that charts are ASCII
	big := strings.Repeat("0123456789abcdef", 4<<20/16)
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		switch r.Target {
		case "/missing":
			return fetchtest.Answer(404, "no such page")
		case "/big":
			return fetchtest.Answer(200, big)
		case "/hostile":
			return fetchtest.Write("HTTP/1.1 200 Tr\xe8s bien\r\nX-Hostile: \xff\r\nContent-Length: 0\r\n\r\n")
		case "/short":
			return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), fetchtest.HalfClose())
		}
		return fetchtest.Answer(200, "hello\n")
	}})
	path := filepath.Join(t.TempDir(), "big")
	s := serve(t, "--config", configure(t, upstream.URL("")))
	for _, c := range []struct {
		path string
		args []string
		code int
		out  string
		says string
	}{
		{"/", nil, exitOK, "hello\n", ""},
		{"/", []string{"--stream"}, exitOK, "hello\n", ""},
		{"/", []string{"-d", "a=b", "--timeout", "5s"}, exitOK, "hello\n", ""},
		{"/missing", nil, exitOK, "no such page", ""},
		{"/missing", []string{"--fail"}, exitStatus, "", "404 Not Found"},
		{"/missing", []string{"--fail", "--stream"}, exitStatus, "", "404 Not Found"},
		{"/short", nil, exitFailed, "", "INCOMPLETE_BODY"},
		{"/short", []string{"--stream"}, exitFailed, "half", "INCOMPLETE_BODY"},
		{"/big", nil, exitFailed, "", "--stream or -o FILE"},
		{"/big", []string{"-o", path}, exitOK, "", "saved big  4.0 MiB in "},
		{"/", []string{"-H", "Host: elsewhere.example"}, exitRPC, "", `-H "Host": `},
	} {
		r := runHere(t.Context(), "", append([]string{"get", "--address", s.address, upstream.URL(c.path)}, c.args...)...)
		r.wantCode(t, c.code)
		if r.out != c.out || !strings.Contains(r.err, c.says) {
			t.Errorf("%s %q: stdout %.100q, want %q; stderr, want %q:\n%s", c.path, c.args, r.out, c.out, c.says, r.err)
		}
	}
	if body, err := os.ReadFile(path); err != nil || string(body) != big {
		t.Errorf("the file holds %d bytes: %v", len(body), err)
	}
	r := runHere(t.Context(), "", "get", "--address", s.address, "http://10.0.0.1/")
	r.wantCode(t, exitDenied)

	r = runHere(t.Context(), "", "get", "--address", s.address, "--report", upstream.URL("/hostile"))
	wantPrintable(t, "get --report", r.err)
	for _, says := range []string{`HTTP/1.1 200 Tr\xe8s bien`, `X-Hostile: \xff`, "report: 1 attempt, 1 hop", "rule upstream", "GET " + upstream.URL("/hostile"), "limits: total 30s"} {
		if !strings.Contains(r.err, says) {
			t.Errorf("the report does not say %q:\n%s", says, r.err)
		}
	}
	wantAudit(t, s.stop())
}

// wantAudit fails the test unless serve has ended well and printed the audit
// record alone.
func wantAudit(t *testing.T, r result) {
	t.Helper()
	if r.code != exitOK || r.out == "" {
		t.Errorf("serve ends with %d, stdout %q", r.code, r.out)
	}
	for line := range strings.Lines(r.out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("serve prints %q", line)
		}
	}
}

// TestServeAttempts: what get asks for and tells of attempts, redirects and
// decisions is what a real service does.
func TestServeAttempts(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	var unsteady atomic.Int32
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		switch {
		case r.Target == "/unsteady" && unsteady.Add(1)%2 == 1, r.Target == "/down":
			return fetchtest.Answer(503, "later")
		case r.Target == "/moved":
			return fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: /arrived\r\nContent-Length: 0\r\n\r\n")
		case r.Target == "/trap":
			return fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n")
		}
		return fetchtest.Answer(200, "hello\n")
	}})
	s := serve(t, "--config", configure(t, upstream.URL("")))
	for _, c := range []struct {
		path string
		args []string
		code int
		out  string
		says []string
	}{
		{"/unsteady", []string{"-v"}, exitOK, "hello\n", []string{"< HTTP/1.1 503\n<\n* waited ", "* attempt 2\n", "< HTTP/1.1 200 OK\n"}},
		{"/unsteady", []string{"--retry", "0"}, exitOK, "later", nil},
		{"/down", []string{"--retry", "1", "--retry-delay", "1ms", "--report"}, exitOK, "later", []string{"report: 2 attempts, 2 hops", "|", "no further attempt: MAX: ", ", 2 attempts, "}},
		{"/down", []string{"-X", "POST", "--report"}, exitOK, "later", []string{"report: 1 attempt, ", "no further attempt: NOT_IDEMPOTENT: "}},
		{"/moved", []string{"-L", "-v"}, exitOK, "hello\n", []string{"< Location: /arrived\n", "> GET /arrived HTTP/1.1\n"}},
		{"/moved", []string{"-v", "--stream"}, exitOK, "hello\n", []string{"< Location: /arrived\n", "* hop 2: GET " + upstream.URL("/arrived") + ": 200, rule upstream\n"}},
		{"/moved", []string{"--no-follow"}, exitOK, "", []string{"302 Found, which leads to /arrived and is not followed"}},
		{"/trap", []string{"-v"}, exitDenied, "", []string{"* hop 2: GET http://10.0.0.1/\n", "* nothing was sent\n", "denied by policy on the way: REDIRECT_DENIED"}},
		{"/hello", []string{"--timeout", "9000s", "--retry", "99"}, exitOK, "hello\n", []string{"note: lowered to the server's maximum: --timeout, --retry\n"}},
		{"/hello", []string{"--offline", "--max-redirs", "4"}, exitOK, "GET " + upstream.URL("/hello") + "\n", nil},
	} {
		r := runHere(t.Context(), "", append([]string{"get", "--address", s.address, upstream.URL(c.path)}, c.args...)...)
		if r.code != c.code || !strings.HasPrefix(r.out, c.out) {
			t.Errorf("%s %q: exit code %d, stdout %q", c.path, c.args, r.code, r.out)
		}
		for _, says := range c.says {
			if !strings.Contains(r.err, says) {
				t.Errorf("%s %q: stderr, want %q:\n%s", c.path, c.args, says, r.err)
			}
		}
	}
	runHere(t.Context(), "", "explain", "--address", s.address, upstream.URL("/")).wantCode(t, exitOK)
	runHere(t.Context(), "", "explain", "--address", s.address, "http://10.0.0.1/").wantVerdict(t, exitDenied)
	runHere(t.Context(), "", "explain", "--address", s.address, "-H", "Host: a", upstream.URL("/")).wantVerdict(t, exitRPC)
}

func TestServeFirstScreen(t *testing.T) {
	file := configure(t, "http://127.0.0.1:1")
	var more strings.Builder
	for i := range 6 {
		fmt.Fprintf(&more, "  - {name: more-%d, origins: [\"https://more-%d.example\"]}\n", i, i)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, more.String()...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", file)
	for _, says := range []string{
		"fetchgate dev\n", "gRPC     127.0.0.1:", "HTTP     http://127.0.0.1:", "config   " + file,
		"upstream", "more-3", "and 2 more", "DANGER   rules[0].dangerous_allow_loopback (" + file + ":4:5)",
		"next: bin/fetchgate get --address 127.0.0.1:", " http://127.0.0.1:1/\n",
	} {
		if !strings.Contains(s.screen, says) {
			t.Errorf("the first screen does not say %q:\n%s", says, s.screen)
		}
	}
	if strings.Contains(s.screen, "more-4") || strings.Count(s.screen, "\n") > 20 {
		t.Errorf("the first screen is too long:\n%s", s.screen)
	}
}

// TestServeLogsJSON: who reads the log as JSON finds nothing else in it.
func TestServeLogsJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := os.WriteFile(path, []byte("log: {format: json}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		defer writer.Close()
		run(ctx, []string{"fetchgate", "serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--config", path},
			streams{strings.NewReader(""), io.Discard, writer})
	})
	said := ""
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		var record struct{ Msg string }
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			t.Errorf("%q is not JSON: %v", lines.Text(), err)
		}
		if record.Msg == "listening" {
			cancel()
		}
		said += record.Msg + "\n"
	}
	running.Wait()
	cancel()
	if !strings.Contains(said, "listening\n") {
		t.Errorf("the log says %q", said)
	}
}

func TestSampleURL(t *testing.T) {
	for rules, want := range map[string]string{
		`[{name: a, origins: ["https://*.example.org"]}]`:                                                             "",
		`[{name: a, origins: ["https://*.example.com"]}]`:                                                             "",
		`[{name: a, origins: ["https://*"]}]`:                                                                         exampleURL,
		`[{name: a, origins: ["https://one.example"], paths: ["/v1/*", "/v1/ok"]}]`:                                   "https://one.example/v1/ok",
		`[{name: a, origins: ["https://one.example"], paths: ["/v1/*"]}]`:                                             "",
		`[{name: a, origins: ["https://one.example"]}, {name: b, action: deny, origins: ["https://*"]}]`:              "",
		`[{name: a, origins: ["https://one.example"], headers: [X-Team]}]`:                                            "",
		`[{name: a, origins: ["https://*.example.org", "https://one.example:8443"]}]`:                                 "https://one.example:8443/",
		`[{name: a, origins: ["https://*"]}, {name: b, origins: ["http://two.example"]}]`:                             "http://two.example/",
		`[{name: a, origins: ["https://one.example"], methods: [POST]}, {name: b, origins: ["https://two.example"]}]`: "https://two.example/",
		`[{name: a, origins: ["https://one.example"], ports: [9443]}]`:                                                "https://one.example:9443/",
	} {
		path := filepath.Join(t.TempDir(), "fetchgate.yaml")
		if err := os.WriteFile(path, []byte("rules: "+rules+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := sampleFetch(loaded); got != want {
			t.Errorf("for the rules %s it is %s, want %s", rules, got, want)
		}
	}
}

// TestSampleIsAllowed: what the first screen says to type is allowed, to a caller
// that proves in one way who it is.
func TestSampleIsAllowed(t *testing.T) {
	const token, other = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
	files := writeKeys(t)
	tls := func(more string) string {
		return fmt.Sprintf("grpc: {tls: {cert_file: %q, key_file: %q%s}}\n", files.cert, files.key, more)
	}
	mutual, optional := tls(fmt.Sprintf(", client_ca_file: %q", files.ca)), tls(fmt.Sprintf(", client_ca_file: %q, client_certificates: optional", files.ca))
	byToken, byCertificate := "{name: tok, token_sha256: ["+token+"]}", `{name: crt, spiffe_ids: ["spiffe://example.org/caller"]}`
	const one = `rules: [{name: a, origins: ["https://one.example"]}`
	for name, c := range map[string]struct{ config, url, flags string }{
		"mutual, a caller of each kind": {mutual + "callers: [" + byToken + ", " + byCertificate + "]\n" + one + "]\n", "https://one.example/", " --ca FILE --cert FILE --key FILE"},
		"optional, the first":           {optional + "callers: [" + byToken + ", " + byCertificate + "]\n" + one + "]\n", "https://one.example/", " --ca FILE --token-file FILE"},
		"both proofs of one":            {mutual + `callers: [{name: both, token_sha256: [` + token + `], dns_names: [a.example]}]` + "\n" + one + "]\n", "https://one.example/", " --ca FILE --cert FILE --key FILE"},
		"mutual and tokens alone":       {mutual + "callers: [" + byToken + "]\n" + one + "]\n", "https://one.example/", " --ca FILE --cert FILE --key FILE --token-file FILE"},
		"TLS and no names":              {tls("") + one + "]\n", "https://one.example/", " --ca FILE"},
		"denied to the first caller": {mutual + "callers: [" + byCertificate + ", " + byToken + "]\n" + one + `, {name: b, action: deny, callers: [crt], origins: ["https://*"]}]` + "\n",
			"https://one.example/", " --ca FILE --cert FILE --key FILE --token-file FILE"},
		"denied by the owner": {"callers: [{name: a, owner: team-a, token_sha256: [" + token + "]}, {name: b, owner: team-b, token_sha256: [" + other + "]}]\n" +
			`rules: [{name: a, origins: ["https://one.example"], when: 'caller.owner == "team-b"'}]` + "\n", "https://one.example/", " --token-file FILE"},
		"an origin of a denial": {`rules: [{name: no, action: deny, origins: ["https://two.example"], paths: ["/admin/*"]}, {name: all, origins: ["https://*"]}, {name: a, origins: ["https://one.example"]}]` + "\n", "https://one.example/", ""},
		"by the mode open":      {"mode: open\n" + one + `, {name: b, action: deny, origins: ["https://*"]}]` + "\n", "", ""},
		"no right to fetch":     {"callers: [{name: tok, rights: [explain], token_sha256: [" + token + "]}]\n" + one + "]\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "fetchgate.yaml")
			if err := os.WriteFile(path, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			loaded, err := config.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			sample, by := sampleFetch(loaded)
			if sample != c.url || sample != "" && proofFlags(loaded, by) != c.flags {
				t.Errorf("it is %q with %q, want %q with %q", sample, proofFlags(loaded, by), c.url, c.flags)
			}
		})
	}
}

// TestServeTellsOfItsMode: a mode that enforces nothing is on the first screen,
// in the log and on /readyz, and nobody reads there that only ports 80 and 443 are
// open.
func TestServeTellsOfItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := os.WriteFile(path, []byte("mode: open\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", path)
	for _, says := range []string{
		"rules    default: http and https on ports 80 and 443 of public addresses, mode open\n",
		"DANGER   mode: open: what rules deny, or no rule allows, is not enforced", "(" + path + ":1:1)\n",
	} {
		if !strings.Contains(s.screen, says) {
			t.Errorf("the first screen does not say %q:\n%s", says, s.screen)
		}
	}
}

func TestServeDefaultAllowsPublicOnly(t *testing.T) {
	s := serve(t)
	if !strings.Contains(s.screen, "public") || strings.Contains(s.screen, "DANGER") {
		t.Errorf("the first screen:\n%s", s.screen)
	}
	runHere(t.Context(), "", "get", "--address", s.address, "http://127.0.0.1:1/").wantCode(t, exitDenied)
}

func TestServeCannotStart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("rulez: []\nlogs: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--grpc-address", listener.Addr().String()}, "next: choose another address with --grpc-address"},
		{[]string{"--grpc-address", "127.0.0.1:0", "--http-address", listener.Addr().String()}, "next: choose another address with --http-address"},
		{[]string{"--grpc-address", "0.0.0.0:0"}, "callers"},
		{[]string{"--config", bad}, bad + ":1:1: "},
		{[]string{"--config", bad}, "next: bin/fetchgate check " + bad},
		{[]string{"--config", "/does/not/exist"}, "no such file"},
	} {
		r := runHere(t.Context(), "", append([]string{"serve"}, c.args...)...)
		r.wantCode(t, exitUsage)
		if !strings.Contains(r.err, c.says) || !strings.Contains(r.err, "next: ") {
			t.Errorf("%q says\n%swant %q and what to do next", c.args, r.err, c.says)
		}
	}
}

// startProcess runs serve as a process of its own and returns its address.
func startProcess(t *testing.T, config string) (c *exec.Cmd, address string) {
	t.Helper()
	c = process(t, "serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--config", config)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if found := regexp.MustCompile(`^next: .* --address (\S+)`).FindStringSubmatch(lines.Text()); found != nil {
			return c, found[1]
		}
	}
	t.Fatal("the service did not start")
	return nil, ""
}

// TestServeSignals: the first signal lets a fetch in flight end, the second
// does not. SIGHUP ends nothing.
func TestServeSignals(t *testing.T) {
	for _, signals := range []int{1, 2} {
		arrived, release := make(chan struct{}), make(chan struct{})
		upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
			close(arrived)
			return fetchtest.Steps(fetchtest.Pause(release), fetchtest.Answer(200, "late"))
		}})
		c, address := startProcess(t, configure(t, upstream.URL("")))
		var fetching sync.WaitGroup
		var got result
		fetching.Go(func() { got = runHere(context.Background(), "", "get", "--address", address, upstream.URL("/")) })
		<-arrived
		if err := c.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		awaitDraining(t, address)
		if signals == 1 {
			close(release)
		}
		err := wait(c, signals == 2)
		fetching.Wait()
		if signals == 1 && (err != nil || got.code != exitOK || got.out != "late") {
			t.Errorf("one signal: serve ends with %v, get with %+v", err, got)
		}
		if signals == 2 && (c.ProcessState.Success() || got.code != exitRPC) {
			t.Errorf("two signals: serve ends with %v, get with %+v", err, got)
		}
	}
}

// TestServeReloads: a process that gets SIGHUP reads its configuration again,
// and goes on with the last good one if it cannot.
func TestServeReloads(t *testing.T) {
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(200, "hello")
	}})
	file := configure(t, "http://127.0.0.1:1")
	closed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := os.ReadFile(configure(t, upstream.URL("")))
	if err != nil {
		t.Fatal(err)
	}
	const unwatched = "reload: {watch: false}\n"
	change := func(c *exec.Cmd, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, append(closed, unwatched...), 0o600); err != nil {
		t.Fatal(err)
	}
	c, address := startProcess(t, file)
	get := func() int { return runHere(t.Context(), "", "get", "--address", address, upstream.URL("/")).code }
	if code := get(); code != exitDenied {
		t.Fatalf("get ends with %d before the reload", code)
	}
	change(c, string(opened)+unwatched)
	for get() != exitOK {
		if t.Context().Err() != nil {
			t.Fatal("the new configuration does not come into force")
		}
	}
	change(c, "rulez: []\n")
	if code := get(); code != exitOK {
		t.Errorf("get ends with %d after a bad configuration", code)
	}
	change(c, string(closed)+unwatched)
	for get() != exitDenied {
		if t.Context().Err() != nil {
			t.Fatal("the last configuration does not come into force")
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := wait(c, false); err != nil {
		t.Errorf("serve ends with %v", err)
	}
}

// wait waits for the end of c. It sends signals meanwhile if there are to be
// more: nobody outside can know whether the first has been dealt with.
func wait(c *exec.Cmd, more bool) error {
	ended := make(chan error)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
			if more {
				_ = c.Process.Signal(syscall.SIGTERM)
			}
		}
	}
}

// awaitDraining waits until the service takes no new connections.
func awaitDraining(t *testing.T, address string) {
	t.Helper()
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		conn.Close()
		if t.Context().Err() != nil {
			t.Fatal("the service does not drain")
		}
	}
}

func TestReachable(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:7801": "127.0.0.1:7801", "0.0.0.0:7801": "127.0.0.1:7801", "[::]:7801": "127.0.0.1:7801", "192.0.2.1:1": "192.0.2.1:1",
	} {
		if got := reachable(address); got != want {
			t.Errorf("%s is reached at %s, want %s", address, got, want)
		}
	}
	if got := nextGet("[::]:7801", " --ca FILE", exampleURL, "fetchgate"); got != "fetchgate get --ca FILE https://example.com/" {
		t.Errorf("next: %s", got)
	}
}
