package main

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) *target {
	t.Helper()
	target, err := openTarget(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(target, text); err != nil {
		t.Fatal(err)
	}
	return target
}

func TestTargetAppearsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	target := write(t, path, "new")
	wantOnly(t, path+".part")
	if err := target.commit(); err != nil {
		t.Fatal(err)
	}
	target.discard() // after a commit it does nothing
	wantOnly(t, path)
	target = write(t, path, "newer")
	target.discard()
	wantOnly(t, path)
	if body, _ := os.ReadFile(path); string(body) != "new" {
		t.Errorf("the file holds %q", body)
	}
}

func TestTargetKeepsLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if err := write(t, link, "new").commit(); err != nil {
		t.Fatal(err)
	}
	about, err := os.Lstat(link)
	if err != nil || about.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v: %v", about.Mode(), err)
	}
	if body, _ := os.ReadFile(file); string(body) != "new" {
		t.Errorf("the file holds %q", body)
	}
}

// TestTargetSpecialFile: a pipe, and so /dev/null, is written to and stays.
func TestTargetSpecialFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	var got []byte
	reading.Go(func() { got, _ = os.ReadFile(path) })
	target := write(t, path, "through")
	if err := target.commit(); err != nil {
		t.Error(err)
	}
	target.discard()
	reading.Wait()
	if string(got) != "through" {
		t.Errorf("the reader got %q", got)
	}
	wantOnly(t, path)
}
