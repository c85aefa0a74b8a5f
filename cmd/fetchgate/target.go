package main

import (
	"errors"
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
	}
	file, err := os.Create(path + ".part")
	return &target{file, path}, err
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
