package file_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/file"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	name, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(name, []byte("0123456789"), 0o600), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		most int64
		want string
		err  error
	}{
		{name, 10, "0123456789", nil},
		{name, 9, "0123456789", file.ErrTooLarge},
		{name, 3, "0123", file.ErrTooLarge},
		{pipe, 10, "", file.ErrNotRegular}, // nobody writes to it: a reader that waited would wait for ever
		{dir, 10, "", file.ErrNotRegular},
		{name + "2", 10, "", fs.ErrNotExist},
	} {
		content, about, err := file.Read(c.name, c.most)
		if string(content) != c.want || !errors.Is(err, c.err) || (about == nil) != (c.err == fs.ErrNotExist) {
			t.Errorf("%s, at most %d bytes: %q, %v, %v", filepath.Base(c.name), c.most, content, about, err)
		}
		if err != nil && strings.Contains(file.Cause(err).Error(), dir) {
			t.Errorf("%v has the name", file.Cause(err))
		}
	}
}

// TestUnchanged: a file that is written anew or replaced is another, also where it
// has the same size.
func TestUnchanged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	look := func() fs.FileInfo {
		about, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return about
	}
	write := func(name, content string, at time.Time) {
		if err := errors.Join(os.WriteFile(name, []byte(content), 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	write(name, "one", began)
	first := look()
	if !file.Unchanged(first, look()) || file.Unchanged(nil, first) || file.Unchanged(first, nil) || file.Unchanged(nil, nil) {
		t.Error("one file is not like itself, or like none")
	}
	for step, change := range map[string]func(){
		"longer": func() { write(name, "three", began) },
		"later":  func() { write(name, "two", began.Add(time.Second)) },
		"replaced": func() {
			write(name+"2", "two", began)
			if err := os.Rename(name+"2", name); err != nil {
				t.Fatal(err)
			}
		},
	} {
		was := look()
		if change(); file.Unchanged(was, look()) {
			t.Errorf("%s: it is as before", step)
		}
		write(name, "one", began)
	}
}
