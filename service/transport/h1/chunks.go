package h1

import (
	"math"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// What a chunked body may hold beside its data: bytes of one chunk-size line,
// and of all of them beyond what a body in chunks of a decent size needs.
const (
	maxSizeLine = 1 << 10
	maxExcess   = 16 << 10
	maxDigits   = 16
)

// where a chunked body is.
type place int

const (
	atSize    place = iota // the digits of a chunk-size
	atExtName              // the beginning of an extension's name
	atExt                  // the rest of its line
	atSizeLF               // the LF of its line
	atData                 // the data of a chunk
	atDataCR               // the CR behind it
	atDataLF               // the LF behind it
	atTrailer              // the trailer section
)

// chunks takes a chunked body apart (RFC 9112 section 7.1), in pieces of any
// length.
type chunks struct {
	at     place
	left   int64 // data bytes of the chunk that did not come yet
	digits int   // of the chunk-size so far
	line   int   // bytes of the chunk-size line so far
	excess int   // see maxExcess
}

// framing skips what lies before the next byte of data, and returns how many
// bytes that was. At the end of the chunks, it stops before the trailer section.
func (c *chunks) framing(b []byte) (n int, fault *Fault) {
	for n < len(b) && c.at != atTrailer && c.at != atData {
		if fault = c.step(b[n]); fault != nil {
			return n, fault
		}
		n++
	}
	return n, nil
}

// step takes one byte that is no data.
func (c *chunks) step(b byte) *Fault {
	switch c.at {
	case atSize, atExtName, atExt:
		if c.line++; c.line > maxSizeLine {
			return invalidChunk("the line of a chunk's size is too long")
		}
		return c.sizeLine(b)
	case atSizeLF:
		if b != '\n' {
			return invalidChunk("the line of a chunk's size does not end with CRLF")
		}
		return c.begin()
	case atDataCR:
		if b != '\r' {
			return invalidChunk("a chunk's data is not followed by CRLF")
		}
		c.at = atDataLF
	case atDataLF:
		if b != '\n' {
			return invalidChunk("a chunk's data is not followed by CRLF")
		}
		c.at, c.line = atSize, 0
	}
	return nil
}

// sizeLine takes one byte of a chunk-size line. Extensions are skipped; the first
// must have a name, and what follows that may be anything that fits into a line.
func (c *chunks) sizeLine(b byte) *Fault {
	if c.at == atSize {
		if digit, ok := unhex(b); ok {
			if c.digits++; c.digits > maxDigits || c.left > math.MaxInt64>>4 {
				return invalidChunk("the size of a chunk is too large")
			}
			c.left = c.left<<4 | int64(digit)
			return nil
		}
		switch {
		case c.digits == 0 || b != ';' && b != '\r':
			return invalidChunk("the size of a chunk is not a hexadecimal number")
		case b == ';':
			c.at = atExtName
			return nil
		}
	}
	switch {
	case c.at == atExtName && (b == ' ' || b == '\t'):
	case c.at == atExtName && !fetch.IsToken([]byte{b}):
		return invalidChunk("an extension of a chunk has no name")
	case c.at == atExtName:
		c.at = atExt
	case b == '\r':
		c.at = atSizeLF
	case b < ' ' && b != '\t' || b == 0x7f:
		return invalidChunk("an extension of a chunk has a control character")
	}
	return nil
}

// begin starts the chunk whose size is known.
func (c *chunks) begin() *Fault {
	// What chunks of a decent size need is allowed for: 16 bytes, and twice their
	// data for all that they like.
	c.excess = max(0, c.excess+c.line+4-16-2*int(min(c.left, maxExcess)))
	if c.excess > maxExcess {
		return invalidChunk("the chunks have too little data for what is around it")
	}
	c.digits, c.at = 0, atData
	if c.left == 0 {
		c.at = atTrailer
	}
	return nil
}

// took notes that n bytes of data were taken.
func (c *chunks) took(n int) {
	if c.left -= int64(n); c.left == 0 {
		c.at = atDataCR
	}
}

// squeeze moves the data of b, which begins with data, to its front, and returns
// how much that is and how many bytes were looked at: all of them, unless the
// chunks end before.
func (c *chunks) squeeze(b []byte) (data, used int, fault *Fault) {
	for used < len(b) && c.at != atTrailer {
		if c.at != atData {
			n, fault := c.framing(b[used:])
			used += n
			if fault != nil {
				return data, used, fault
			}
			continue
		}
		n := int(min(c.left, int64(len(b)-used)))
		copy(b[data:], b[used:used+n])
		data += n
		used += n
		c.took(n)
	}
	return data, used, nil
}

func unhex(b byte) (digit byte, ok bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}
