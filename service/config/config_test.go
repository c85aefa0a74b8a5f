package config_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func parse(t *testing.T, text string) *config.Loaded {
	t.Helper()
	loaded, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	text := []byte("\ufeffgrpc:\r\n  address: localhost:0\r\n")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.GRPCAddress() != "localhost:0" || loaded.Source != file || loaded.Generation != 1 ||
		loaded.Digest != fmt.Sprintf("%x", sha256.Sum256(text)) {
		t.Errorf("loaded is %+v", loaded)
	}
	if got, want := loaded.Locate("grpc.address"), file+":2:3"; got != want {
		t.Errorf("grpc.address is at %s, want %s", got, want)
	}
}

func TestLoadNothing(t *testing.T) {
	_, err := config.Load("absent.yaml")
	want := "absent.yaml: cannot be read: no such file or directory; check --config and the permissions of the file"
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

// TestNotAFile: what is not a regular file is refused at once, though nobody
// writes into the pipe.
func TestNotAFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, filepath.Dir(pipe), os.DevNull} {
		if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	regular := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := os.WriteFile(regular, []byte("mode: enforce\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := config.Load(regular)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(pipe, regular); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Reload(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a reload: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	text := []byte("log:\n  level: info\n" + strings.Repeat("#\n", 1<<19))
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(file)
	if err == nil || !strings.Contains(err.Error(), "is larger than 1048576 bytes") {
		t.Errorf("the error is %v", err)
	}
	if _, err := config.Parse("test.yaml", text[:1<<20]); err != nil {
		t.Errorf("1 MiB is refused: %v", err)
	}
}

// TestDefaults loads files that say little: an old file is one of them.
func TestDefaults(t *testing.T) {
	want := settings{
		GRPC: "127.0.0.1:7801", HTTP: "127.0.0.1:7802", Drain: 30 * time.Second, Streams: 1000,
		TLS: 0x0303, Level: "INFO", Limits: fetch.DefaultLimits(),
		Connections: [2]int{10_000, 1_000}, Audit: "stdout . 104857600 5 full drop_and_count 4194304", Leeway: 30 * time.Second,
		Watch: true, Revoke: 5 * time.Second,
	}
	loads := map[string]*config.Loaded{"built-in": config.Default()}
	for _, text := range []string{"log: {}", "grpc:\nhttp:\nlimits:\n  timeouts:\nupstream_tls:\nlog:\n", "limits: {max_dials_per_attempt: 4}"} {
		loads[text] = parse(t, text)
	}
	for name, loaded := range loads {
		if got := settingsOf(loaded); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the settings are\n%+v\nwant\n%+v", name, got, want)
		}
		if loaded.Config.GetCallers() != nil || loaded.Config.GetRules() != nil {
			t.Errorf("%s has callers or rules", name)
		}
	}
	if source := config.Default().Source; source != "built-in" {
		t.Errorf("the source of the default is %q", source)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "1.5s": 1500 * time.Millisecond, "5m": 5 * time.Minute,
		`"1h30m"`: 90 * time.Minute, "250ms": 250 * time.Millisecond, "0s": 0,
	} {
		if got := parse(t, "grpc: {drain_grace: "+text+"}").DrainGrace(); got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
}

// TestLimits sets every limit to a value of its own.
func TestLimits(t *testing.T) {
	got := parse(t, `
limits:
  max_response_fields: 101
  max_response_field_bytes: 1102
  max_request_body_bytes: 103
  max_response_body_bytes: 104
  max_decoded_ratio: 105
  max_dials_per_attempt: 2
  timeouts:
    {dns: 1s, connect: 2s, tls: 3s, response_header: 4s, idle_read: 5s, write: 6s, pool: 7s, attempt: 8s, total: 9s}
  max_timeouts:
    {dns: 11s, connect: 12s, tls: 13s, response_header: 14s, idle_read: 15s, write: 16s, pool: 17s, attempt: 18s, total: 19s}
  max_stream_total: 21s
  min_throughput_bytes_per_second: 106
  max_connections_per_route: 107
  max_idle_connections_per_route: 108
  max_idle_connections: 109
  idle_timeout: 22s
  connection_lifetime: 23s
`).Limits()
	const s = time.Second
	want := fetch.DefaultLimits()
	want.MaxResponseFields, want.MaxResponseFieldBytes = 101, 1102
	want.MaxRequestBodyBytes, want.MaxResponseBodyBytes = 103, 104
	want.MaxDecodedRatio, want.MaxDialsPerAttempt = 105, 2
	want.Timeouts = fetch.Timeouts{
		DNS: 1 * s, Connect: 2 * s, TLS: 3 * s, Head: 4 * s, Idle: 5 * s, Write: 6 * s, Pool: 7 * s, Attempt: 8 * s, Total: 9 * s, Continue: s,
	}
	want.MaxTimeouts = fetch.Timeouts{
		DNS: 11 * s, Connect: 12 * s, TLS: 13 * s, Head: 14 * s, Idle: 15 * s, Write: 16 * s, Pool: 17 * s, Attempt: 18 * s, Total: 19 * s, Continue: 30 * s,
	}
	want.MaxStreamTotal, want.IdleTimeout, want.ConnectionLifetime = 21*s, 22*s, 23*s
	want.MinThroughput = fetch.Throughput{Bytes: 106 * 30, Over: 30 * s}
	want.MaxConnectionsPerRoute, want.MaxIdlePerRoute, want.MaxIdle = 107, 108, 109
	if got != want {
		t.Errorf("the limits are\n%+v\nwant\n%+v", got, want)
	}
}

func TestTimeoutsFollowMaximum(t *testing.T) {
	limits := parse(t, "limits: {max_timeouts: {total: 10s, attempt: 5s}, timeouts: {dns: 30s}}").Limits()
	want := fetch.DefaultLimits()
	want.MaxTimeouts.Total, want.Timeouts.Total = 10*time.Second, 10*time.Second
	want.MaxTimeouts.Attempt = 5 * time.Second
	want.Timeouts.DNS = 30 * time.Second
	if limits != want {
		t.Errorf("the limits are\n%+v\nwant\n%+v", limits, want)
	}
}

func TestLocate(t *testing.T) {
	loaded := parse(t, `# a comment
rules:
  - name: a
    origins:
      - "https://example.com"
      - "https://example.net"
    query: {"a.b[\"c": x, d: y}
  - {name: b, origins: ["https://example.org"]}
log: {level: info}
`)
	for path, want := range map[string]string{
		"rules":                      "2:1",
		"rules[0]":                   "3:5",
		"rules[0].origins[1]":        "6:9",
		"rules[0].origins[7]":        "4:5",
		"rules[0].methods":           "3:5",
		`rules[0].query["a.b[\"c"]`:  "7:13",
		`rules[0].query["absent.x"]`: "7:5",
		`rules[0].query["absent[x"]`: "7:5",
		"rules[1].origins[0]":        "8:25",
		"rules[9].name":              "2:1",
		"log.level":                  "9:7",
		"limits.timeouts.dns":        "2:1",
		"":                           "2:1",
	} {
		if got := loaded.Locate(path); got != "test.yaml:"+want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
}

func TestDangerous(t *testing.T) {
	loaded := parse(t, `
rules:
  - {name: a, origins: ["https://example.com"], dangerous_allow_loopback: false}
  - {name: b, origins: ["https://example.com"], dangerous_allow_metadata: true, dangerous_allow_loopback: true}
callers: [{name: everyone, dangerous_anonymous: true}]
`)
	want := []string{"callers[0].dangerous_anonymous", "rules[1].dangerous_allow_loopback", "rules[1].dangerous_allow_metadata"}
	if got := loaded.Dangerous(); !slices.Equal(got, want) {
		t.Errorf("dangerous are %v, want %v", got, want)
	}
}

func TestNotEnforced(t *testing.T) {
	loaded := parse(t, `
mode: open
rules:
  - {name: a, origins: ["https://example.com"], mode: report}
  - {name: b, origins: ["https://example.com"], mode: enforce}
  - {name: c, origins: ["https://example.com"]}
`)
	want := []string{"mode: open", "rules[0].mode: report"}
	if got := loaded.NotEnforced(); !slices.Equal(got, want) {
		t.Errorf("not enforced are %v, want %v", got, want)
	}
	if got := parse(t, "mode: enforce").NotEnforced(); got != nil {
		t.Errorf("all is enforced, and %v is not", got)
	}
}

func TestCheckListen(t *testing.T) {
	closed := config.Default()
	open := parse(t, "callers: [{name: everyone, dangerous_anonymous: true}]")
	for _, address := range []string{"127.0.0.1:0", "127.9.9.9:80", "[::1]:65535", "[::ffff:127.0.0.1]:1", "localhost:80", "LocalHost:80"} {
		if err := closed.CheckListen(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{":7801", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80", "localhost.example.com:80", "127.1:80"} {
		if err := closed.CheckListen(address); err == nil || !strings.Contains(err.Error(), "dangerous_anonymous: true") {
			t.Errorf("%s without callers: %v", address, err)
		}
		if err := open.CheckListen(address); err != nil {
			t.Errorf("%s with callers: %v", address, err)
		}
	}
	for _, address := range []string{"", "127.0.0.1", "::1:80", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1"} {
		if err := open.CheckListen(address); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// TestHostileText gives Parse much of what a YAML parser has trouble with.
func TestHostileText(t *testing.T) {
	const size = 1 << 17
	for name, unit := range map[string]string{
		"lists":      "[",
		"dashes":     "- ",
		"questions":  "? ",
		"comments":   "#\n",
		"anchors":    "- &a [x]\n",
		"directives": "%TAG !a! b\n",
		"documents":  "---\n",
		"quotes":     `"`,
		"colons":     "a: ",
	} {
		_, err := config.Parse(name, []byte(strings.Repeat(unit, size/len(unit))))
		var refused *config.Error
		if !errors.As(err, &refused) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	var keys strings.Builder
	for i := 0; keys.Len() < size; i++ {
		fmt.Fprintf(&keys, "setting%d: 1\n", i)
	}
	_, err := config.Parse("keys", []byte(keys.String()))
	if err == nil || strings.Count(err.Error(), "\n") != 20 {
		t.Errorf("the error is %v", err)
	}
}

// FuzzParse holds Parse to its promises: no panic, problems that name their
// place, nothing that the decoder sees and the checks before it do not.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "default.yaml", "testdata/ten-rules.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		loaded, err := config.Parse("fuzz.yaml", text)
		if err == nil {
			loaded.Limits()
			loaded.Dangerous()
			if again, err := config.Parse("fuzz.yaml", text); err != nil || again.Digest != loaded.Digest {
				t.Errorf("the second time: %v", err)
			}
			return
		}
		var refused *config.Error
		if !errors.As(err, &refused) || len(refused.Problems) == 0 || len(refused.Problems) > 20 {
			t.Fatalf("the error is %#v", err)
		}
		if strings.Contains(err.Error(), "cannot be decoded") || strings.Contains(err.Error(), "is refused:") {
			t.Fatal(err)
		}
		lines := strings.Count(string(text), "\n") + 1
		for _, p := range refused.Problems {
			if p.Line > lines || p.Line == 0 != (p.Column == 0) || p.Line == 0 && p.Path != "" || strings.Contains(p.Message, "\n") {
				t.Errorf("the problem is %+v", p)
			}
		}
	})
}

// BenchmarkLoad measures what a start or a reload costs.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := config.Load("testdata/ten-rules.yaml"); err != nil {
			b.Fatal(err)
		}
	}
}
