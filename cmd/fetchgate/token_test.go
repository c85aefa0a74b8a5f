package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/config"
)

// TestToken: each token is another, and a configuration takes its digest.
func TestToken(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		r := runHere(t.Context(), "", "token")
		r.wantCode(t, exitOK)
		m := regexp.MustCompile(`^token:        (fg_[A-Za-z0-9_-]{43})\ntoken_sha256: ([0-9a-f]{64})\n$`).FindStringSubmatch(r.out)
		if m == nil || r.err != "" {
			t.Fatalf("it prints %q and %q", r.out, r.err)
		}
		wantDigest(t, m[1], m[2])
		if seen[m[1]] {
			t.Errorf("%s is there twice", m[1])
		}
		seen[m[1]] = true
	}
	var printed struct {
		Token  string `json:"token"`
		Digest string `json:"token_sha256"`
	}
	r := runHere(t.Context(), "", "token", "--json")
	r.wantCode(t, exitOK)
	if err := json.Unmarshal([]byte(r.out), &printed); err != nil {
		t.Fatal(err)
	}
	wantDigest(t, printed.Token, printed.Digest)
}

// TestTokenOutput: a token goes into a new file for its owner alone, not to the
// terminal, and get can show it.
func TestTokenOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.token")
	r := runHere(t.Context(), "", "token", "-o", path)
	r.wantCode(t, exitOK)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	token, digest := strings.TrimSpace(string(text)), strings.TrimSpace(strings.TrimPrefix(r.out, "token_sha256: "))
	wantDigest(t, token, digest)
	if about, err := os.Stat(path); err != nil || about.Mode().Perm() != 0o600 || strings.Contains(r.out+r.err, token) {
		t.Errorf("the file is %v (%v), and it prints\n%s%s", about.Mode(), err, r.out, r.err)
	}
	again := runHere(t.Context(), "", "token", "-o", path)
	again.wantCode(t, exitUsage)
	if kept, _ := os.ReadFile(path); string(kept) != string(text) || !strings.Contains(again.err, "exists") {
		t.Errorf("the file holds %d bytes more, and it says\n%s", len(kept)-len(text), again.err)
	}
	r = runHere(t.Context(), "", "token", "--json", "-o", filepath.Join(t.TempDir(), "other.token"))
	if r.wantCode(t, exitOK); !strings.HasPrefix(r.out, `{"token_sha256":"`) || strings.Contains(r.out, `"token":`) {
		t.Errorf("it prints %s", r.out)
	}
}

// TestTokenDigest: the digest of a token that there is, however its line ends.
func TestTokenDigest(t *testing.T) {
	dir := written(t, map[string]string{"unix": "fg_abc\n", "windows": "fg_abc\r\n", "bare": "fg_abc", "empty": " \n", "two": "fg_abc\nfg_def\n"})
	want := fmt.Sprintf("%x", sha256.Sum256([]byte("fg_abc")))
	for _, name := range []string{"@unix", "@windows", "@bare"} {
		r := in(t, dir, "token", "--digest", name)
		if r.wantCode(t, exitOK); r.out != "token_sha256: "+want+"\n" {
			t.Errorf("%s: it prints %q", name, r.out)
		}
	}
	r := runHere(t.Context(), "fg_abc\n", "token", "--json", "--digest", "-")
	if r.wantCode(t, exitOK); r.out != `{"token_sha256":"`+want+`"}`+"\n" {
		t.Errorf("it prints %q", r.out)
	}
	for args, says := range map[string]string{
		"@empty": "it holds no token", "@two": "more than one", "@none": "no such file", "@unix -o @new": "can't be used together",
	} {
		r := in(t, dir, append([]string{"token", "--digest"}, strings.Fields(args)...)...)
		r.wantCode(t, exitUsage)
		r.says(t, says, "-fg_abc")
	}
}

func wantDigest(t *testing.T, token, digest string) {
	t.Helper()
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(token))); digest != want {
		t.Errorf("the digest of %s is %s, want %s", token, digest, want)
	}
	if _, err := config.Parse("test.yaml", []byte("callers: [{name: a, token_sha256: ["+digest+"]}]")); err != nil {
		t.Error(err)
	}
}

// TestTokenFile: get and explain show a token, and tell what is wrong with one
// without showing it.
func TestTokenFile(t *testing.T) {
	made := runHere(t.Context(), "", "token", "--json")
	var printed struct {
		Token  string `json:"token"`
		Digest string `json:"token_sha256"`
	}
	if err := json.Unmarshal([]byte(made.out), &printed); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	service := serve(t, "--config", write("fetchgate.yaml", "callers: [{name: a, token_sha256: ["+printed.Digest+"]}]\n"+forExample))
	if !strings.Contains(service.screen, " --token-file FILE") {
		t.Errorf("the first screen does not say how to show a token:\n%s", service.screen)
	}
	good, other := write("good", printed.Token+"\n"), write("other", "fg_secretofsomebody\n")
	for _, command := range []string{"get", "explain"} {
		for _, c := range []struct {
			file string
			code int
			says string
		}{
			{good, exitDenied, "10.0.0.1"},
			{other, exitRPC, "the token is of no caller here"},
			{"", exitRPC, "nothing proves who is calling"},
			{write("empty", " \n"), exitUsage, "holds no token"},
			{write("two", printed.Token+"\n"+printed.Token), exitUsage, "more than one"},
			{"/does/not/exist", exitUsage, "--token-file /does/not/exist: no such file"},
		} {
			args := []string{command, "--address", service.address, "http://10.0.0.1/"}
			if c.file != "" {
				args = append(args, "--token-file", c.file)
			}
			r := runHere(t.Context(), "", args...)
			if r.code != c.code || !strings.Contains(r.out+r.err, c.says) || strings.Contains(r.out+r.err, "secretofsomebody") || strings.Contains(r.out+r.err, printed.Token) {
				t.Errorf("%q: exit code %d\n%s%s", args, r.code, r.out, r.err)
			}
		}
	}
	r := runHere(t.Context(), "", "get", "--address", "192.0.2.1:7801", "--token-file", good, "http://10.0.0.1/")
	r.wantCode(t, exitUsage)
	if !strings.Contains(r.err, "the token was not sent") {
		t.Errorf("in the clear: %s", r.err)
	}
}
