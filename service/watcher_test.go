package service

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/config"
)

// TestWatcherLeavesAChangingFileAlone: a file is read once it is the same at two
// looks, and from time to time if it stays so.
func TestWatcherLeavesAChangingFileAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	write := func(n int) {
		if err := os.WriteFile(file, []byte("log: {level: info}\n"+strings.Repeat("#", n)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	w := watcher{}
	due := func(looks int) (n int) {
		for range looks {
			if w.isDue(c) {
				n++
			}
		}
		return n
	}
	if n := due(2); n != 1 {
		t.Errorf("it is due %d times at the beginning, want 1", n)
	}
	for n := range 5 {
		write(n + 1)
		if due(1) != 0 {
			t.Errorf("it is due after write %d", n)
		}
	}
	if n := due(3); n != 1 {
		t.Errorf("it is due %d times after the last write, want 1", n)
	}
	if n := due(3 * retryEvery); n != 3 {
		t.Errorf("it is due %d times in %d looks without a change, want 3", n, 3*retryEvery)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if n := due(2); n != 1 {
		t.Errorf("it is due %d times without the file, want 1", n)
	}
}

// TestAnRPCKeepsItsGeneration: what was in force when its caller was found out
// is what it is answered under.
func TestAnRPCKeepsItsGeneration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fetchgate.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {level: info}\n")
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Config: c, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := s.authenticate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write("limits: {max_attempts: 2}\n")
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if old, now := s.pinned(ctx).config.Generation, s.pinned(t.Context()).config.Generation; old != 1 || now != 2 {
		t.Errorf("the RPC is answered under generation %d, want 1; in force is %d, want 2", old, now)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if err := s.Serve(over); err != nil {
		t.Error(err)
	}
}
