package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// target is a file that appears under its name when it is whole, or not at all.
// What is not a regular file, such as /dev/null or a named pipe, cannot be
// replaced by one: it is written to as it is.
type target struct {
	*os.File
	path string // where it will appear; empty: it is there already
}

// openTarget begins a file beside path. It follows a symbolic link, so that the
// link stays.
func openTarget(path string) (*target, error) {
	existing, err := os.Stat(path)
	mode := fs.FileMode(0o666) // the umask applies
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case existing.IsDir():
		return nil, errors.New("it is a directory")
	case !existing.Mode().IsRegular():
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &target{File: file}, err
	default:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
		mode = existing.Mode().Perm()
	}
	file, err := createBeside(path, mode)
	if err != nil {
		return nil, err
	}
	t := &target{file, path}
	if existing != nil { // its mode may be wider than the umask
		err = file.Chmod(mode)
	}
	if err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// createBeside creates a file in the directory of path whose name nobody else
// has or can foresee. os.CreateTemp would do so without regard to the umask.
func createBeside(path string, mode fs.FileMode) (*os.File, error) {
	name := fmt.Sprintf(".%s.%s.part", filepath.Base(path), rand.Text())
	return os.OpenFile(filepath.Join(filepath.Dir(path), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
}

// commit makes the file appear under its name.
func (t *target) commit() error {
	if err := t.Close(); err != nil {
		return err
	}
	if t.path == "" {
		return nil
	}
	return os.Rename(t.Name(), t.path)
}

// discard removes what was written, unless commit made it appear.
func (t *target) discard() {
	t.Close()
	if t.path != "" {
		os.Remove(t.Name())
	}
}
