package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServiceOverUnix: get and explain reach a unix socket by the address that
// serve prints, as their user or with a token, and say what is in the way.
func TestServiceOverUnix(t *testing.T) {
	dir, err := os.MkdirTemp("", "fg") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, file, token := filepath.Join(dir, "api.sock"), filepath.Join(dir, "fetchgate.yaml"), filepath.Join(dir, "token")
	text := fmt.Sprintf("grpc: {unix: {path: api.sock}}\ncallers: [{name: me, unix_uids: [%d]}]\n", os.Getuid())
	if err := os.WriteFile(file, []byte(text+forExample), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("fg_nobodys"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config", file)
	for _, want := range []string{"  unix     unix://" + socket + "\n", "get --address unix://" + socket + " https://example.com"} {
		if !strings.Contains(s.screen, want) {
			t.Errorf("the first screen has no %q:\n%s", want, s.screen)
		}
	}
	for _, address := range []string{"unix://" + socket, "unix:" + socket} {
		runHere(t.Context(), "", "explain", "--address", address, "--token-file", token, "http://10.0.0.1/").wantVerdict(t, exitDenied)
		runHere(t.Context(), "", "get", "--address", address, "http://10.0.0.1/").wantCode(t, exitDenied)
	}
	for _, c := range []struct {
		address string
		flags   []string
		code    int
		says    string
	}{
		{"unix://" + socket + ".none", nil, exitRPC, "fetchgate: cannot reach fetchgate at unix://" + socket + ".none\n  no such file or directory"},
		{"unix://" + socket, []string{"--tls"}, exitUsage, "fetchgate: cannot speak TLS over unix://" + socket},
		{"unix://api.sock", nil, exitUsage, "it is neither HOST:PORT nor unix:///PATH"},
		{"unix:", nil, exitUsage, "it is neither HOST:PORT nor unix:///PATH"},
	} {
		r := runHere(t.Context(), "", append([]string{"get", "--address", c.address, "http://10.0.0.1/"}, c.flags...)...)
		r.wantCode(t, c.code)
		if !strings.Contains(r.err, c.says) {
			t.Errorf("%s says\n%swant\n%s", c.address, r.err, c.says)
		}
	}
	if r := runHere(t.Context(), "", "get", "--address", s.address, "http://10.0.0.1/"); !strings.Contains(r.err, "CALLER_UNKNOWN") {
		t.Errorf("over TCP: %s", r.err)
	}
}
