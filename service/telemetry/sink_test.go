package telemetry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func openTest(t *testing.T, path string, maxBytes int64, keep int) *rotated {
	t.Helper()
	r, err := openRotated(path, maxBytes, keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeLines(t *testing.T, r *rotated, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		line := fmt.Sprintf("%05d\n", i)
		if n, err := r.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	r := openTest(t, path, 12, 2)
	writeLines(t, r, 1, 9)
	for name, want := range map[string]string{"": "00009\n", ".1": "00007\n00008\n", ".2": "00005\n00006\n", ".3": "(none)"} {
		if got := contents(t, path+name); got != want {
			t.Errorf("%s: %q, want %q", path+name, got, want)
		}
	}
	r.Close()
	// Another process goes on where the last one stopped.
	r = openTest(t, path, 12, 2)
	writeLines(t, r, 10, 11)
	if got := contents(t, path+".1"); got != "00009\n00010\n" {
		t.Errorf("%q", got)
	}
}

func TestRotationKeepsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	writeLines(t, openTest(t, path, 12, 0), 1, 5)
	if got := contents(t, path) + contents(t, path+".1"); got != "00005\n(none)" {
		t.Errorf("%q", got)
	}
}

// What a failed rotation has moved is not moved again, so that trying again does
// not push the oldest files out.
func TestRotationThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	r := openTest(t, path, 12, 3)
	writeLines(t, r, 1, 8)
	// A directory that is not empty cannot be replaced by a file.
	if err := os.MkdirAll(filepath.Join(path+".3.d", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	oldest := contents(t, path+".3")
	if err := os.Rename(path+".3", path+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".3.d", path+".3"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if n, err := r.Write([]byte("00009\n")); n != 0 || err == nil {
			t.Fatal(n, err)
		}
	}
	if got := contents(t, path+".1") + contents(t, path+".2"); got != "00005\n00006\n00003\n00004\n" {
		t.Errorf("%q", got)
	}
	if err := os.RemoveAll(path + ".3"); err != nil {
		t.Fatal(err)
	}
	writeLines(t, r, 9, 9)
	if got := contents(t, path+".3") + contents(t, path); got != "00003\n00004\n00009\n" || oldest != "00001\n00002\n" {
		t.Errorf("%q", got)
	}
}

// A file that was moved away by others is begun anew at its next rotation.
func TestRotationOfMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	r := openTest(t, path, 12, 2)
	writeLines(t, r, 1, 2)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeLines(t, r, 3, 3)
	if got := contents(t, path); got != "00003\n" {
		t.Errorf("%q", got)
	}
}

// A torn line is ended before the file is put aside.
func TestNoRotationWithinLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	r := openTest(t, path, 12, 2)
	writeLines(t, r, 1, 1)
	for _, part := range []string{"00", "002\n00003\n", "00004\n"} {
		if _, err := r.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, path+".1"); got != "00001\n00002\n00003\n" {
		t.Errorf("%q", got)
	}
}

func TestDiskFull(t *testing.T) {
	r, err := openRotated("/dev/full", 1<<20, 2)
	if err != nil {
		t.Skip(err)
	}
	defer r.Close()
	if n, err := r.Write([]byte("line\n")); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestFileThatCannotBe(t *testing.T) {
	_, err := openRotated(filepath.Join(t.TempDir(), "none", "audit.jsonl"), 1<<20, 2)
	if err == nil || !strings.Contains(err.Error(), "audit.file") || !strings.Contains(err.Error(), "must exist") {
		t.Errorf("%v", err)
	}
}

// What a process that was killed left of a line spoils no line of the next one.
func TestTornLineOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for before, want := range map[string]string{
		"": "00001\n", "00000\n": "00000\n00001\n", "00000\n000": "00000\n000\n00001\n",
	} {
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		r := openTest(t, path, 1<<10, 1)
		writeLines(t, r, 1, 1)
		if got := contents(t, path); got != want || r.size != int64(len(want)) {
			t.Errorf("%q becomes %q of %d bytes, want %q", before, got, r.size, want)
		}
	}
}
