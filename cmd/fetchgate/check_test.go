package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		text string
		code int
		says string
	}{
		{"rules:\n  - {name: one, origins: [\"https://one.example\"]}\ncallers:\n  - {name: a, dangerous_anonymous: true}\n", exitOK, ": ok (1 rule; 1 caller)\n"},
		{"log: {level: debug}\n", exitOK, ": ok (no rules: everything is denied; add rules (docs/policy.md); no callers: loopback only)\n"},
		{"mode: open\n", exitOK, "public addresses, mode open; no callers: loopback only)\n  DANGER   mode: open: what rules deny, or no rule allows, is not enforced"},
		{"rules:\n  - {name: one, mode: report, origins: [\"https://one.example\"]}\n", exitOK, "  DANGER   rules[0].mode: report: what this rule denies is not enforced"},
		{"rulez: []\n", exitFailed, "fetchgate.yaml:1:1: "},
		{"rules:\n  - {name: one, origins: [\"ftp://one.example\"]}\n", exitFailed, "fetchgate.yaml:2:"},
		{"rules:\n  - name: one\n    origins: [\"https://one.example\"]\n    tls_profile: strict\n", exitFailed, "fetchgate.yaml:4:5: "},
		{"grpc: {address: \"0.0.0.0:7801\"}\n", exitFailed, "0.0.0.0"},
		{"jwt_issuers:\n  - {name: corp, issuer: corp, audiences: [a], jwks_file: /does/not/exist}\n", exitFailed, "jwt_issuers[0].jwks_file: \"/does/not/exist\" cannot be read"},
	} {
		path := filepath.Join(t.TempDir(), "fetchgate.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := runHere(t.Context(), "", "check", path)
		r.wantCode(t, c.code)
		if !strings.Contains(r.out, path) || !strings.Contains(r.out, c.says) {
			t.Errorf("for\n%s\nit says\n%swant %q", c.text, r.out, c.says)
		}
	}
	for _, path := range []string{"/does/not/exist", t.TempDir()} {
		runHere(t.Context(), "", "check", path).wantCode(t, exitUsage)
	}
}
