package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// asCommand makes the test binary be the command, so that tests can send it
// signals.
const asCommand = "FETCHGATE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// process is the command as a process of its own.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	return c
}

// result is what a command line did.
type result struct {
	code     int
	out, err string
}

// runHere carries out a command line in this process.
func runHere(ctx context.Context, stdin string, args ...string) result {
	var out, err lockedBuffer
	code := run(ctx, append([]string{"bin/fetchgate"}, args...), streams{strings.NewReader(stdin), &out, &err})
	return result{code, out.String(), err.String()}
}

// lockedBuffer is a buffer that a service may log to while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// wantCode fails the test unless the code is the one expected and, for a
// problem, standard error says so in one to three lines.
func (r result) wantCode(t *testing.T, code int) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nstdout: %q\nstderr: %s", r.code, code, r.out, r.err)
	}
	n := strings.Count(r.err, "\n")
	if code != exitOK && (n < 1 || n > 3 || !strings.HasPrefix(r.err, "fetchgate: ")) {
		t.Errorf("a problem in %d lines, want 1 to 3 that begin with the command's name:\n%s", n, r.err)
	}
}

// wantVerdict fails the test unless the code is the one expected and standard
// output alone says why.
func (r result) wantVerdict(t *testing.T, code int) {
	t.Helper()
	if r.code != code || r.out == "" || r.err != "" {
		t.Errorf("exit code %d, want %d, and what is decided on stdout alone\nstdout: %q\nstderr: %s", r.code, code, r.out, r.err)
	}
}

func TestVersion(t *testing.T) {
	for _, word := range []string{"version", "--version"} {
		r := runHere(t.Context(), "", word)
		r.wantCode(t, exitOK)
		if !strings.HasPrefix(r.out, "fetchgate dev go1.") || strings.Count(r.out, "\n") != 1 {
			t.Errorf("%s prints %q", word, r.out)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"get", "--help"}, {"demo", "--help"}, {"help", "--help"}, {"help"}, {"help", "get"}} {
		r := runHere(t.Context(), "", args...)
		r.wantCode(t, exitOK)
		if !strings.Contains(r.out, "Usage: fetchgate") || r.err != "" {
			t.Errorf("%q prints %q and %q", args, r.out, r.err)
		}
	}
}

// TestUsage: what cannot be meant is refused before anything is sent.
func TestUsage(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is not refused ends at once
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "--help"},
		{[]string{"gte"}, `did you mean "get"?`},
		{[]string{"get", "--reprot", "http://example.com/"}, `did you mean "--report"?`},
		{[]string{"get"}, "<url>"},
		{[]string{"get", "-d", "a", "--json", "{}", "http://example.com/"}, "can't be used together"},
		{[]string{"get", "--timeout", "0s", "http://example.com/"}, "--timeout must be more than 0"},
		{[]string{"get", "--timeout", "soon", "http://example.com/"}, `--timeout: "soon" is not a duration`},
		{[]string{"get", "--timeout", "10", "http://example.com/"}, "write 10s"},
		{[]string{"get", "--timeout", "1m30", "http://example.com/"}, "write 1m30s"},
		{[]string{"get", "-o", "", "http://example.com/"}, "--output"},
		{[]string{"get", "-X", "", "http://example.com/"}, "the value is empty"},
		{[]string{"serve", "--config", ""}, "--config"},
		{[]string{"get", "--retry=-1", "http://example.com/"}, "0 or more"},
		{[]string{"get", "--retry-delay", "0s", "http://example.com/"}, "--retry-delay must be more than 0"},
		{[]string{"get", "--max-redirs=-1", "http://example.com/"}, "the most is 30"},
		{[]string{"get", "-L", "--no-follow", "http://example.com/"}, "can't be used together"},
		{[]string{"get", "--no-follow", "--max-redirs", "2", "http://example.com/"}, "can't be used together"},
		{[]string{"get", "-I", "-d", "a", "http://example.com/"}, "can't be used together"},
		{[]string{"get", "-b", "cookies.txt", "http://example.com/"}, "NAME=VALUE"},
		{[]string{"get", "--data-urlencode", "content", "http://example.com/"}, "NAME=VALUE"},
		{[]string{"get", "--report=xml", "http://example.com/"}, "text or json"},
		{[]string{"serve", "a.yaml"}, "next: write --config a.yaml\n"},
		{[]string{"get", "--report", "json", "http://example.com/"}, "next: write --report=json\n"},
		{[]string{"get", "http://example.com/", "http://example.com/2"}, "next: one URL per call"},
		{[]string{"explain", "http://example.com/", "http://example.com/2"}, "next: one URL per call"},
		{[]string{"get", "--cert", "cert.pem", "http://example.com/"}, "must be used together"},
		{[]string{"get", "--ca", "/does/not/exist", "http://example.com/"}, "--ca /does/not/exist: no such file"},
		{[]string{"explain", "--ca", os.DevNull, "http://example.com/"}, "it holds no certificate"},
		{[]string{"get", "--cert", os.DevNull, "--key", os.DevNull, "http://example.com/"}, "--key " + os.DevNull},
		{[]string{"explain", "http://example.com/\xff"}, "UTF-8"},
		{[]string{"explain", "--address", "nowhere", "http://example.com/"}, "HOST:PORT"},
		{[]string{"help", "CONECT_TIMEOUT"}, "help CONNECT_TIMEOUT"},
		{[]string{"help", "\x1b[2J"}, "help --help"},
		{[]string{"get", "-H", "NoColon", "http://example.com/"}, "Name: value"},
		{[]string{"get", "-d", "@/does/not/exist", "http://example.com/"}, "\n  -d @/does/not/exist: no such file or directory\n"},
		{[]string{"get", "--json", "@", "http://example.com/"}, "\n  --json @: no such file"},
		{[]string{"get", "-o", "/does/not/exist", "http://example.com/"}, "cannot write to /does/not/exist\n  no such file or directory\n"},
		{[]string{"get", "--address", "nowhere", "http://example.com/"}, "HOST:PORT"},
		{[]string{"get", "http://example.com/\xff"}, "UTF-8"},
		{[]string{"get", "-o", os.TempDir(), "http://example.com/"}, "directory"},
		{[]string{"demo", "--break", "everything"}, "--break: there is no step \"everything\"; the steps are fetch, stream, "},
	} {
		r := runHere(ctx, "", c.args...)
		r.wantCode(t, exitUsage)
		if !strings.Contains(r.err, c.says) || !strings.Contains(r.err, "next: ") {
			t.Errorf("%q says\n%swant %q and what to do next", c.args, r.err, c.says)
		}
	}
}

// TestBodyTooLarge: a body that cannot be sent is not read to its end.
func TestBodyTooLarge(t *testing.T) {
	var out, err bytes.Buffer
	endless := io.MultiReader(strings.NewReader(strings.Repeat("x", maxRequestBody+1)), failingReader{t})
	code := run(t.Context(), []string{"fetchgate", "get", "-d", "@-", "http://example.com/"}, streams{endless, &out, &err})
	if code != exitUsage || !strings.Contains(err.String(), "3.0 MiB") {
		t.Errorf("exit code %d: %s", code, err.String())
	}
}

// failingReader fails the test that reads it.
type failingReader struct{ t *testing.T }

func (f failingReader) Read([]byte) (int, error) {
	f.t.Error("more was read than can be sent")
	return 0, io.EOF
}
