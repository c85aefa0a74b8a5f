package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/config"
)

func TestCompare(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("builds three programs and reads /proc of Linux")
	}
	dir := t.TempDir()
	if err := build(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	quick := settings{rounds: 1, starts: 1, slice: 300 * time.Millisecond, streamMiB: 64, limit: 30 * time.Second}
	t.Run("beside naive", func(t *testing.T) {
		wantTable(t, (&rig{settings: quick, dir: dir}).compare,
			"| case | unit | fetchgate | naive | ratio |", "CPU µs per fetch", "one stream of 64 MiB", "peak MiB resident")
	})
	t.Run("beside naive, slow, with TLS", func(t *testing.T) {
		s := quick
		s.slow, s.tls = 200, true
		wantTable(t, (&rig{settings: s, dir: dir}).compareSlow, "HTTP/1.1 with TLS", "| fetchgate | naive |", "KiB resident per stream")
	})
	t.Run("beside a revision", func(t *testing.T) { compareRevision(t, quick, dir) })
	t.Run("a flood", func(t *testing.T) {
		var out bytes.Buffer
		if err := floodBuilt(t.Context(), dir, &out); err != nil || !strings.Contains(out.String(), "MiB resident at most") {
			t.Errorf("%v\n%s", err, &out)
		}
		t.Log(out.String())
	})
	t.Run("its limit", func(t *testing.T) {
		s := settings{rounds: 1000, starts: 1, slice: time.Second, streamMiB: 1 << 20, limit: time.Second}
		err := (&rig{settings: s, dir: dir}).compare(t.Context(), io.Discard)
		if err == nil || !strings.Contains(err.Error(), "not done after 1s") {
			t.Errorf("the error is %v", err)
		}
	})
}

func compareRevision(t *testing.T, s settings, dir string) {
	wantGit(t)
	s.against, s.tls, s.starts = "HEAD", true, 2
	commit, err := buildRevision(t.Context(), dir, s.against)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{settings: s, dir: dir, commit: commit}
	wantTable(t, r.compare, "HTTP/1.1 with TLS; HEAD is "+commit, "1 rounds in each of 2 starts",
		"| case | unit | this tree | HEAD | ratio |", "| allocations per fetch |", "| KiB allocated per fetch |")
	r.slow, r.tls = 200, false
	wantTable(t, r.compareSlow, "| this tree | HEAD |", "| 200 streams of 512 bytes each 1s |",
		"KiB resident per stream", "KiB of stacks per stream", "goroutines per stream")
}

func wantTable(t *testing.T, compare func(context.Context, io.Writer) error, want ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := compare(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range want {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the table:\n%s", want, &out)
		}
	}
	for _, never := range []string{"NaN", "Inf", "| 0.00", "| -"} {
		if strings.Contains(strings.ReplaceAll(out.String(), "|---", ""), never) {
			t.Errorf("%q in the table:\n%s", never, &out)
		}
	}
}

// wantGit skips a test where these files are in no git repository.
func wantGit(t *testing.T) {
	t.Helper()
	if said, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--verify", "HEAD").CombinedOutput(); err != nil {
		t.Skipf("no git, or no repository: %v: %s", err, said)
	}
}

func TestBuildRevisionRefuses(t *testing.T) {
	wantGit(t)
	for _, revision := range []string{"no/such/revision", "--help", "HEAD:bench", ""} {
		dir := t.TempDir()
		_, err := buildRevision(t.Context(), dir, revision)
		if err == nil || !strings.Contains(err.Error(), revision+" is no revision") {
			t.Errorf("%q: the error is %v", revision, err)
		}
	}
}

// TestConfigurations has fetchgate itself read what the rig writes.
func TestConfigurations(t *testing.T) {
	dir := t.TempDir()
	if err := writeCertificate(filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []settings{{}, {tls: true}, {slow: 1}, {slow: maxSlow, tls: true}} {
		r := &rig{settings: s, dir: dir}
		if err := r.configure(r.origin(&process{address: "127.0.0.1:7"})); err != nil {
			t.Fatal(err)
		}
		loaded, err := config.Load(r.config())
		if err != nil {
			t.Errorf("%+v: %v", s, err)
			continue
		}
		limits := loaded.Config.GetLimits()
		for name, most := range map[string]int64{
			"max_live_fetches":            int64(limits.GetMaxLiveFetches()),
			"max_live_fetches_per_caller": int64(limits.GetMaxLiveFetchesPerCaller()),
			"max_live_fetches_per_peer":   int64(limits.GetMaxLiveFetchesPerPeer()),
			"max_connections":             int64(limits.GetMaxConnections()),
			"max_connections_per_route":   int64(limits.GetMaxConnectionsPerRoute()),
		} {
			if s.slow > 0 && most <= int64(s.slow) {
				t.Errorf("%+v: %s is %d", s, name, most)
			}
		}
		if got := len(loaded.Config.GetUpstreamTls().GetCaFiles()); (got == 1) != s.tls {
			t.Errorf("%+v: %d authorities", s, got)
		}
	}
}

// liar answers with what the test gives it.
type liar struct {
	fetchgatev1.UnimplementedFetchServiceServer
	answer *fetchgatev1.FetchResponse
	events []*fetchgatev1.StreamFetchResponse
}

func (l *liar) Fetch(context.Context, *fetchgatev1.FetchRequest) (*fetchgatev1.FetchResponse, error) {
	return l.answer, nil
}

func (l *liar) StreamFetch(_ *fetchgatev1.StreamFetchRequest, s grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
	for _, event := range l.events {
		if err := s.Send(event); err != nil {
			return err
		}
	}
	return nil
}

func (l *liar) client(t *testing.T) fetchgatev1.FetchServiceClient { return clientOf(t, l) }

// clientOf returns a client of a service on loopback.
func clientOf(t *testing.T, service fetchgatev1.FetchServiceServer) fetchgatev1.FetchServiceClient {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fetchgatev1.RegisterFetchServiceServer(server, service)
	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		serving.Wait()
	})
	return fetchgatev1.NewFetchServiceClient(conn)
}

// answered is an answer in the form of text.
func answered[M proto.Message](t *testing.T, into M, text string) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestFetchOnceRefusesWrongAnswers(t *testing.T) {
	l := new(liar)
	client := l.client(t)
	for text, right := range map[string]bool{
		`response {head {status: 200} body: "\x00\x01\x02"}`: true,
		`response {head {status: 503} body: "\x00\x01\x02"}`: false,
		`response {head {status: 200} body: "\x00\x01"}`:     false,
		`response {head {status: 200} body: "\x00\x02\x01"}`: false,
		`failure {}`: false,
		``:           false,
	} {
		l.answer = answered(t, new(fetchgatev1.FetchResponse), text)
		if err := fetchOnce(t.Context(), client, "http://127.0.0.1/3", page[:3]); (err == nil) != right {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestStreamOnceRefusesWrongAnswers(t *testing.T) {
	const head, summary = "head {status: 200}", "summary {body_bytes: 3}"
	const first, second = `data {data: "\x00\x01"}`, `data {offset_bytes: 2 data: "\x02"}`
	l := new(liar)
	client := l.client(t)
	for _, c := range []struct {
		what   string
		right  bool
		events []string
	}{
		{"whole", true, []string{head, first, second, summary}},
		{"status", false, []string{"head {status: 503}", first, second, summary}},
		{"no head", false, []string{first, second, summary}},
		{"no summary", false, []string{head, first, second}},
		{"short", false, []string{head, first, summary}},
		{"repeated", false, []string{head, first, first, summary}},
		{"offset", false, []string{head, first, `data {offset_bytes: 1 data: "\x02"}`, summary}},
		{"content", false, []string{head, first, `data {offset_bytes: 2 data: "\x03"}`, summary}},
		{"failure", false, []string{head, first, second, "summary {body_bytes: 3 failure {}}"}},
	} {
		l.events = nil
		for _, text := range c.events {
			l.events = append(l.events, answered(t, new(fetchgatev1.StreamFetchResponse), text))
		}
		if err := streamOnce(t.Context(), client, "http://127.0.0.1/3", 3); (err == nil) != c.right {
			t.Errorf("%s: error %v", c.what, err)
		}
	}
}

func TestParseCPU(t *testing.T) {
	for stat, want := range map[string]time.Duration{
		"7 (fetchgate) S 1 7 7 0 -1 4194304 900 0 0 0 150 25 0 0 20": 1750 * time.Millisecond,
		"7 (a) b) (c) R 1 7 7 0 -1 4194304 900 0 0 0 0 1 0 0 20":     10 * time.Millisecond,
		"7 (cut) S 1 7": -1,
		"7 (bad) S 1 7 7 0 -1 4194304 900 0 0 0 x 25 0 0 20": -1,
		"": -1,
	} {
		got, err := parseCPU(stat)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, error %v; want %v", stat, got, err, want)
		}
	}
}

func FuzzParseCPU(f *testing.F) {
	f.Add("7 (fetchgate) S 1 7 7 0 -1 4194304 900 0 0 0 150 25 0 0 20")
	f.Add("7 (cut) S 1 7")
	f.Fuzz(func(t *testing.T, stat string) {
		if d, err := parseCPU(stat); err == nil && (d < 0 || d%tick != 0) {
			t.Errorf("%q: %v", stat, d)
		}
	})
}
