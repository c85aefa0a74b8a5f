package file_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
