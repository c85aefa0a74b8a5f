package body

import (
	"bufio"
	"compress/gzip"
	"io"
)

// gzipDecoder undoes gzip (RFC 1952), which may have several members. It gives
// the end of a member before it waits for the next one.
type gzipDecoder struct {
	in     *bufio.Reader
	member *gzip.Reader
	begun  bool // member has begun and has not ended
	later  bool // a member has ended
}

func openGzip() decoder { return &gzipDecoder{member: new(gzip.Reader)} }

func (d *gzipDecoder) Reset(in *bufio.Reader) { d.in, d.begun, d.later = in, false, false }

func (d *gzipDecoder) Read(p []byte) (int, error) {
	if !d.begun {
		if err := d.begin(); err != nil {
			return 0, err
		}
		d.begun = true
	}
	n, err := d.member.Read(p)
	if err == io.EOF {
		d.begun, d.later, err = false, true, nil
	}
	return n, err
}

// begin reads the header of a member, or returns io.EOF where there is none.
func (d *gzipDecoder) begin() error {
	magic, err := d.in.Peek(2)
	switch {
	case len(magic) == 0:
		return err
	case d.later && string(magic) != "\x1f\x8b":
		return errTrailing
	}
	if err := d.member.Reset(d.in); err != nil {
		return err
	}
	d.member.Multistream(false)
	return nil
}
