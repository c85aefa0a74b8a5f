package main

import (
	"os"
	"path/filepath"
	"slices"
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
		{"rules:\n  - {name: one, action: deny, mode: report, origins: [\"https://one.example\"]}\n", exitOK, "  DANGER   rules[0].mode: report: what this rule denies is not enforced"},
		{"rules:\n  - {name: one, mode: report, origins: [\"https://one.example\"]}\n", exitOK, "  DANGER   rules[0].mode: report: what this rule, all else of which holds, cannot decide (a condition that cannot be judged, a path with several readings) is not enforced: it goes ahead"},
		{"credentials:\n  - {name: key, origins: [\"https://one.example\"], bearer: {token: {file: key, next_file: key.nxt}}}\n", exitOK, "key.nxt; that is right unless its secret is being changed\n"},
		{"credentials:\n  - {name: key, origins: [\"https://one.example\"], bearer: {token: {file: key}}}\nrules:\n  - {name: one, origins: [\"http://one.example\"], credentials: [key]}\n", exitOK, "  note: the credential \"key\" never goes along: it goes to https alone, and the rule has http origins alone; "},
		{"rulez: []\n", exitFailed, "fetchgate.yaml:1:1: "},
		{"rules:\n  - {name: one, origins: [\"ftp://one.example\"]}\n", exitFailed, "fetchgate.yaml:2:"},
		{"rules:\n  - name: one\n    origins: [\"https://one.example\"]\n    tls_profile: strict\n", exitFailed, "fetchgate.yaml:4:5: "},
		{"grpc: {address: \"0.0.0.0:7801\"}\n", exitFailed, "0.0.0.0"},
		{"audit: {sink: file,\n  file: none/audit.jsonl}\n", exitFailed, ":2:3: audit.file: the directory \""},
		{"audit: {sink: file, file: audit.jsonl}\ngrpc: {unix: {path: audit.sock}}\n", exitOK, ": ok"},
		{"grpc:\n  unix: {path: none/fetchgate.sock}\n", exitFailed, ":2:10: grpc.unix.path: the directory \""},
		{"grpc:\n  unix: {path: key/fetchgate.sock}\n", exitFailed, "key\" is no directory"},
		{"jwt_issuers:\n  - {name: corp, issuer: corp, audiences: [a], jwks_file: /does/not/exist}\n", exitFailed, "jwt_issuers[0].jwks_file: \"/does/not/exist\" cannot be read"},
	} {
		path := filepath.Join(t.TempDir(), "fetchgate.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "key"), []byte("secret"), 0o600); err != nil {
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

// TestCheckSaysAll: mistakes that different parts of the service find are told in
// one run, in the order of the file, each once.
func TestCheckSaysAll(t *testing.T) {
	t.Chdir(written(t, map[string]string{"fetchgate.yaml": `credentials:
  - name: key
    bearer: {token: {file: none.txt}}
    origins: ["https://*.com"]
rules:
  - name: one
    callers: [shop]
    origins: ["ftp://one.example"]
    credentials: [kee]
  - name: one
    origins: ["https://one.example"]
    when: "nothing"
callers:
  - {name: billing}
jwt_issuers:
  - {name: corp, issuer: corp, audiences: [a], jwks_file: none.json}
`}))
	r := runHere(t.Context(), "", "check", "fetchgate.yaml")
	r.wantCode(t, exitFailed)
	var said []string
	for line := range strings.Lines(r.out) {
		parts := strings.SplitN(line, ": ", 3)
		said = append(said, parts[0][len("fetchgate.yaml:"):]+" "+parts[1])
	}
	want := []string{
		"3:22 credentials[0].bearer.token.file", "4:15 credentials[0].origins[0]",
		"7:15 rules[0].callers[0]", "8:15 rules[0].origins[0]", "9:19 rules[0].credentials[0]", "10:5 rules[1].name", "12:5 rules[1].when",
		"14:5 callers[0]", "16:48 jwt_issuers[0].jwks_file",
	}
	if !slices.Equal(said, want) {
		t.Errorf("it says\n%swant the places %q", r.out, want)
	}
}
