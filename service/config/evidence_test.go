package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/config"
)

// TestSinkAndWhere: a sink that goes somewhere says where, and nothing else does.
func TestSinkAndWhere(t *testing.T) {
	for text, want := range map[string]string{
		"audit: {sink: otlp}":                                        `a.yaml:1:9: audit.sink: is "otlp" and audit.otlp_endpoint is missing; say which collector`,
		"audit: {sink: file}":                                        `a.yaml:1:9: audit.sink: is "file" and audit.file is missing; say which file`,
		"audit:\n  otlp_endpoint: http://127.0.0.1:4317":             `a.yaml:2:3: audit.otlp_endpoint: is not used with this audit.sink; write sink: otlp, or leave it out`,
		"audit: {sink: otlp, otlp_endpoint: 'http://a:1', file: f}":  `audit.file: is not used with this audit.sink; write sink: file, or leave it out`,
		"audit: {sink: file, otlp_endpoint: 'http://a:1', file: f}":  `audit.otlp_endpoint: is not used with this audit.sink; write sink: otlp, or leave it out`,
		"audit: {sink: otlp, otlp_endpoint: 'grpc://127.0.0.1:1'}":   `audit.otlp_endpoint`,
		"audit: {sink: otlp, otlp_endpoint: 'http://u:p@127.0.0.1'}": `audit.otlp_endpoint`,
		"audit: {sink: otlp, otlp_endpoint: 'http://:4317'}":         `audit.otlp_endpoint: "http://:4317" has no host`,
		"audit: {sink: otlp, otlp_endpoint: 'http://[::1'}":          `audit.otlp_endpoint: "http://[::1" has no host`,
		"audit: {on_full: wait}":                                     `write drop_and_count, refuse, block, count or fail_closed`,
	} {
		if _, err := config.Parse("a.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestOlderWords: a file with an older word of on_full starts, and means what it
// did; the new word in its place is no change.
func TestOlderWords(t *testing.T) {
	for older, word := range map[string]string{"count": "drop_and_count", "fail_closed": "refuse", "''": "drop_and_count", "block": "block"} {
		loaded, err := config.Parse("a.yaml", []byte("audit: {on_full: "+older+"}"))
		if err != nil {
			t.Fatal(err)
		}
		if got := loaded.Audit().GetOnFull(); got != word {
			t.Errorf("%s is %s, want %s", older, got, word)
		}
		next, err := config.Parse("a.yaml", []byte("audit: {on_full: "+word+"}"))
		if err != nil {
			t.Fatal(err)
		}
		if waits := next.WaitForRestart(loaded); waits != nil {
			t.Errorf("%s instead of %s waits for %q", word, older, waits)
		}
	}
}

// TestCollectorWaitsForRestart: where the lines go is read once.
func TestCollectorWaitsForRestart(t *testing.T) {
	loaded, err := config.Parse("a.yaml", []byte("audit: {sink: otlp, otlp_endpoint: 'http://127.0.0.1:4317'}"))
	if err != nil {
		t.Fatal(err)
	}
	if waits := loaded.WaitForRestart(config.Default()); !slices.Equal(waits, []string{"audit.sink", "audit.otlp_endpoint"}) {
		t.Errorf("%q wait", waits)
	}
}
