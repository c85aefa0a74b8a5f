package main

import (
	"io"
	"io/fs"
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
	if filepath.Dir(target.Name()) != filepath.Dir(path) {
		t.Errorf("the file begins at %s, where it may not be possible to move it from", target.Name())
	}
	wantOnly(t, target.Name())
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

// TestTargetIsAlone: neither another download nor what is called like the file
// gets in the way.
func TestTargetIsAlone(t *testing.T) {
	dir := t.TempDir()
	path, part := filepath.Join(dir, "file"), filepath.Join(dir, "file.part")
	if err := os.WriteFile(part, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, other := write(t, path, "one"), write(t, path, "other")
	for _, target := range []*target{one, other} {
		if err := target.commit(); err != nil {
			t.Error(err)
		}
	}
	for path, want := range map[string]string{path: "other", part: "mine"} {
		if body, _ := os.ReadFile(path); string(body) != want {
			t.Errorf("%s holds %q, want %q", path, body, want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("the directory holds %v", entries)
	}
}

// TestTargetMode: a file keeps its mode, and a new one has that of any other
// new file.
func TestTargetMode(t *testing.T) {
	dir := t.TempDir()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	usual, err := other.Stat()
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	path := filepath.Join(dir, "file")
	for _, want := range []fs.FileMode{usual.Mode(), 0o600, 0o666} {
		if want != usual.Mode() {
			if err := os.Chmod(path, want); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(t, path, "new").commit(); err != nil {
			t.Fatal(err)
		}
		if about, err := os.Stat(path); err != nil || about.Mode() != want {
			t.Errorf("the mode is %v, want %v: %v", about.Mode(), want, err)
		}
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
