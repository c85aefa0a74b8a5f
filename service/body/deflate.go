package body

import (
	"bufio"
	"compress/flate"
	"compress/zlib"
	"io"
)

// deflateDecoder undoes deflate: the zlib format (RFC 1950), as RFC 9110
// section 8.4.1.2 has it, and the bare one (RFC 1951) that some servers send.
type deflateDecoder struct {
	in   *bufio.Reader
	zlib io.ReadCloser // made when first needed
	bare io.ReadCloser
	data io.Reader // zlib or bare; nil before the format is known
}

func openDeflate() decoder { return &deflateDecoder{bare: flate.NewReader(nil)} }

func (d *deflateDecoder) Reset(in *bufio.Reader) { d.in, d.data = in, nil }

func (d *deflateDecoder) Read(p []byte) (int, error) {
	if d.data == nil {
		if err := d.begin(); err != nil {
			return 0, err
		}
	}
	return d.data.Read(p)
}

// begin finds out which format it is. When the input breaks off before that,
// reading it as bare tells why.
func (d *deflateDecoder) begin() (err error) {
	head, _ := d.in.Peek(2)
	switch {
	case !isZlib(head):
		d.data, err = d.bare, d.bare.(flate.Resetter).Reset(d.in, nil)
	case d.zlib != nil:
		d.data, err = d.zlib, d.zlib.(zlib.Resetter).Reset(d.in, nil)
	default:
		d.zlib, err = zlib.NewReader(d.in)
		d.data = d.zlib
	}
	return err
}

// isZlib tells whether head begins a zlib stream (RFC 1950 section 2.2): the
// method is 8, the window at most 32 KiB and the check bits are right. Bare
// data looks so only if it begins with a stored block that has other padding
// than the zeros that encoders write.
func isZlib(head []byte) bool {
	return len(head) == 2 && head[0]&0x0f == 8 && head[0]>>4 <= 7 && (uint(head[0])<<8|uint(head[1]))%31 == 0
}
