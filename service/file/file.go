// Package file reads the files that an operator names, whole and bounded.
package file

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Why a file is not read.
var (
	ErrNotRegular = errors.New("it is not a regular file")
	ErrTooLarge   = errors.New("it is too large")
)

// Read returns what a file holds and, also with an error, what is known about
// it. What is not a regular file is refused, not waited for: the other end of a
// pipe may never come. Of a file of more than most bytes it returns one more,
// with ErrTooLarge. Other errors are those of package os, with the name.
func Read(name string, most int64) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		about, _ := os.Stat(name)
		return nil, about, err
	}
	defer f.Close()
	about, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !about.Mode().IsRegular() {
		return nil, about, ErrNotRegular
	}
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = ErrTooLarge
	}
	return content, about, err
}

// Unchanged tells that two looks at a name saw one file, as far as its size and the
// time of its last change tell. nil, for a look that saw none, is like nothing.
func Unchanged(was, is fs.FileInfo) bool {
	return was != nil && is != nil && os.SameFile(was, is) && was.Size() == is.Size() && was.ModTime().Equal(is.ModTime())
}

// Cause is err without the name of the file, where that is told beside it.
func Cause(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}
