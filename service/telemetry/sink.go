package telemetry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// rotated is a file that is put aside when it is full: FILE.1 is the newest of
// those, FILE.<keep> the oldest. One goroutine uses it.
type rotated struct {
	path string
	max  int64 // bytes
	keep int
	file *os.File
	size int64
	// torn tells that the file does not end with a whole line.
	torn bool
}

// openRotated opens a file to append to. The error says what to mend.
func openRotated(path string, maxBytes int64, keep int) (*rotated, error) {
	r := &rotated{path: path, max: maxBytes, keep: keep}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("audit.file: %w; its directory must exist and be writable", err)
	}
	if err := r.endLine(); err != nil {
		r.file.Close()
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	return r, nil
}

func (r *rotated) open() error {
	f, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	is, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.file, r.size = f, is.Size()
	return nil
}

// endLine ends the last line of the file where a process that was killed left
// only its beginning, so that it spoils no other.
func (r *rotated) endLine() error {
	is, err := r.file.Stat()
	if err != nil || !is.Mode().IsRegular() || r.size == 0 {
		return err
	}
	read, err := os.Open(r.path)
	if err != nil {
		return nil // who may only append cannot know
	}
	defer read.Close()
	last := make([]byte, 1)
	if _, err := read.ReadAt(last, r.size-1); err != nil || last[0] == '\n' {
		return err
	}
	n, err := r.file.Write([]byte{'\n'})
	r.size += int64(n)
	return err
}

// Write appends whole lines, or what of them there is room for. A file that they
// would make too large is put aside before, but never in the middle of a line.
func (r *rotated) Write(lines []byte) (int, error) {
	if r.file != nil && r.size > 0 && !r.torn && r.size+int64(len(lines)) > r.max {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	if r.file == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(lines)
	r.size += int64(n)
	if n > 0 {
		r.torn = lines[n-1] != '\n'
	}
	return n, err
}

// rotate puts the file aside. Where a step fails the next Write goes on from
// there, and moves nothing twice.
func (r *rotated) rotate() error {
	if r.keep == 0 {
		err := os.Truncate(r.path, 0)
		if err == nil {
			r.size = 0
		}
		return err
	}
	free := 1
	for free < r.keep && exists(r.aside(free)) {
		free++
	}
	for i := free; i > 1; i-- {
		if err := os.Rename(r.aside(i-1), r.aside(i)); err != nil {
			return err
		}
	}
	if err := os.Rename(r.path, r.aside(1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := r.file.Close()
	r.file = nil
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (r *rotated) aside(i int) string { return r.path + "." + strconv.Itoa(i) }

// Close closes the file.
func (r *rotated) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
