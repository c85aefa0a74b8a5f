package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
)

// write writes a file of this directory and returns its name.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "fetchgate.yaml", "log: {level: info}\n")
	first, err := config.Load(file)
	if err != nil || !first.IsFile() || !first.Watch() || first.RevokeGrace() != 5*time.Second {
		t.Fatal(err, first)
	}
	same, digest, err := first.Reload()
	if err != nil || !same.Equal(first) || same.Generation != 2 || digest != first.Digest {
		t.Errorf("the same file: %v, %+v", err, same)
	}
	write(t, dir, "fetchgate.yaml", "reload: {watch: false, revoke_grace: 0s}\n")
	second, digest, err := first.Reload()
	if err != nil || second.Equal(first) || second.Generation != 2 || digest != second.Digest || !second.IsFile() || second.Watch() || second.RevokeGrace() != 0 {
		t.Errorf("another file: %v, %+v", err, second)
	}
	third, _, err := second.Reload()
	if err != nil || third.Generation != 3 {
		t.Errorf("the generation after 2 is %v, %v", third, err)
	}
	if _, digest, err := config.Default().Reload(); err == nil || digest != "" {
		t.Error("the built-in configuration is read again")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, digest, err := first.Reload(); err == nil || digest != "" || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestReloadOpenEnded: half an origin is an origin, so that the last line has to
// end, unless it did not from the beginning.
func TestReloadOpenEnded(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "fetchgate.yaml", "log: {level: info}\n")
	ended, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "fetchgate.yaml", "# x\nrules:\n  - name: a\n    origins:\n      - https://a.exampl")
	if _, digest, err := ended.Reload(); err == nil || digest == "" || !strings.HasPrefix(err.Error(), file+":5:7: ") {
		t.Errorf("a file whose last line does not end: %v", err)
	}
	open, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := open.Reload(); err != nil {
		t.Errorf("a file whose last line never ended: %v", err)
	}
}

// TestEqual: the certificates of authorities are part of a configuration.
func TestEqual(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "ca.pem"), "first")
	first, err := config.Load(write(t, dir, "fetchgate.yaml", "upstream_tls: {ca_files: [ca.pem]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if same, _, err := first.Reload(); err != nil || !same.Equal(first) {
		t.Errorf("with the same authority: %v", err)
	}
	writeCertificate(t, filepath.Join(dir, "ca.pem"), "second")
	if other, _, err := first.Reload(); err != nil || other.Equal(first) {
		t.Errorf("with another authority it says the same: %v", err)
	}
	if files := first.Files(); !slices.Equal(files, []string{filepath.Join(dir, "fetchgate.yaml"), filepath.Join(dir, "ca.pem")}) {
		t.Errorf("its files are %q", files)
	}
}

// TestEqualLists: revocation lists are part of a configuration, and are taken
// apart when they change.
func TestEqualLists(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "tls.crt", "tls.key")
	writeLists(t, dir, "ca.pem", "lists.pem")
	first, err := config.Load(write(t, dir, "fetchgate.yaml", "grpc: {tls: {cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.pem, client_crl_file: lists.pem}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	same, _, err := first.Reload()
	if err != nil || !same.Equal(first) {
		t.Errorf("with the same lists: %v", err)
	}
	writeLists(t, dir, "other.pem", "lists.pem")
	if _, _, err := same.Reload(); err == nil || !strings.Contains(err.Error(), "has not signed it") {
		t.Errorf("with lists of another authority: %v", err)
	}
	writeLists(t, dir, "ca.pem", "lists.pem")
	if other, _, err := same.Reload(); err != nil || other.Equal(first) {
		t.Errorf("with other lists it says the same: %v", err)
	}
	if files := first.Files(); !slices.Contains(files, filepath.Join(dir, "lists.pem")) {
		t.Errorf("its files are %q", files)
	}
}

// TestWaitForRestart: every setting is either taken at once or waits, and these
// wait.
func TestWaitForRestart(t *testing.T) {
	started, err := config.Parse("a.yaml", []byte("log: {level: info}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if paths := started.WaitForRestart(started); paths != nil {
		t.Errorf("the same configuration waits for %q", paths)
	}
	spelled, err := config.Parse("a.yaml", []byte("grpc: {address: \"127.0.0.1:7801\", max_concurrent_streams: 1000}\naudit: {sink: stdout}\nlimits: {max_connections: 10000, caller_stall: 300s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if paths := spelled.WaitForRestart(started); paths != nil {
		t.Errorf("defaults that are written out wait for %q", paths)
	}
	next, err := config.Parse("a.yaml", []byte(`
grpc: {address: "127.0.0.1:1", max_concurrent_streams: 2, max_connections: 2, max_connections_per_peer: 2, drain_grace: 1s, drain_delay: 1s}
http: {address: "127.0.0.1:2"}
log: {level: debug, format: json}
audit: {sink: file, file: a, detail: denied_and_failed, on_full: refuse, max_file_bytes: 2000000, keep_files: 2, max_queue_bytes: 2000000}
telemetry: {origins: ["https://a.example"], tracing: {otlp_endpoint: "http://127.0.0.1:4317"}}
reload: {watch: false}
upstream_tls: {min_version: "1.3"}
limits:
  max_response_fields: 9
  max_response_field_bytes: 9000
  max_connections_per_route: 9
  max_idle_connections_per_route: 9
  max_idle_connections: 9
  idle_timeout: 9s
  connection_lifetime: 99s
  max_connections: 99
  max_live_fetches: 9
  max_live_fetches_per_caller: 9
  max_live_fetches_per_peer: 9
  max_held_bytes: 99999999
  retry_budget_ratio: 0.9
  retry_budget_per_second: 9
  caller_stall: 9s
  max_redirects: 9
  max_attempts: 9
`))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`
grpc.address grpc.max_concurrent_streams grpc.max_connections grpc.max_connections_per_peer http.address log.level log.format
audit.sink audit.file audit.detail audit.on_full audit.max_file_bytes audit.keep_files audit.max_queue_bytes telemetry.tracing.otlp_endpoint
limits.max_response_fields limits.max_response_field_bytes limits.max_connections_per_route limits.max_idle_connections_per_route
limits.max_idle_connections limits.idle_timeout limits.connection_lifetime limits.max_connections limits.max_live_fetches
limits.max_live_fetches_per_caller limits.max_live_fetches_per_peer limits.max_held_bytes limits.retry_budget_ratio
limits.retry_budget_per_second limits.caller_stall`)
	if paths := next.WaitForRestart(started); !slices.Equal(paths, want) {
		t.Errorf("%q wait, want %q", paths, want)
	}
	kept := config.KeepFixed(next.Limits(), started.Limits())
	if kept.MaxLiveFetches != started.Limits().MaxLiveFetches || kept.MaxAttempts != 9 || kept.RetryBudgetRatio != started.Limits().RetryBudgetRatio {
		t.Errorf("kept is %+v", kept)
	}
}

// TestStamp: whatever exchanges a file changes how it looks.
func TestStamp(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "a", "1")
	b := write(t, dir, "b", "1")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("a", link); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-time.Hour)
	for _, file := range []string{a, b} {
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{link, filepath.Join(dir, "none")}
	before := config.StampOf(files)
	if !before.Equal(config.StampOf(files)) {
		t.Error("what did not change looks otherwise")
	}
	for name, change := range map[string]func() error{
		"another file behind the link": func() error { return relink(link, "b") },
		"another time":                 func() error { return os.Chtimes(b, when, when.Add(time.Second)) },
		"another size":                 func() error { return os.Truncate(b, 9) },
		"no file":                      func() error { return os.Remove(b) },
		"a file where none was":        func() error { return os.WriteFile(files[1], nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if name != "another file behind the link" {
				if err := os.WriteFile(b, []byte("1"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(b, when, when); err != nil {
					t.Fatal(err)
				}
				if err := relink(link, "b"); err != nil {
					t.Fatal(err)
				}
			} else if err := relink(link, "a"); err != nil {
				t.Fatal(err)
			}
			before := config.StampOf(files)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if before.Equal(config.StampOf(files)) {
				t.Error("it looks as before")
			}
		})
	}
}

// relink has link lead to another file.
func relink(link, to string) error {
	if err := os.Symlink(to, link+".next"); err != nil {
		return err
	}
	return os.Rename(link+".next", link)
}
