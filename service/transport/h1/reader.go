package h1

import (
	"bytes"
	"io"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Stream is where a Reader reads from.
type Stream interface {
	// Ready waits until Read has bytes, the end or an error to return without
	// waiting, or the time for reading is over.
	Ready() error
	// Read takes what is there, and does not wait if Ready has returned nil. An
	// error that comes with bytes comes again without.
	io.Reader
}

// Reader reads the responses on one connection, one after the other: Head until
// the head is final, Begin, and Read or ReadChunk to the end of the body.
//
// Errors are a *Fault, io.EOF at the end of a body, io.ErrUnexpectedEOF if the
// connection ends before, or the stream's.
type Reader struct {
	stream Stream
	limits Limits

	// spare holds what was read and not given yet, buf[at:]; without such bytes
	// it is nil.
	spare *[spareSize]byte
	buf   []byte
	at    int

	// Of the body that is being read:
	framing  Framing
	keep     bool
	chunks   chunks
	left     int64 // bytes that did not come yet; -1 means not known
	trailers []fetch.Field
	err      error // how it ended; nil until then
}

// spareSize is enough for most heads, and small enough to read ahead.
const spareSize = 4 << 10

var spares = sync.Pool{New: func() any { return new([spareSize]byte) }}

// NewReader returns a reader of stream. The limits hold for each head and for
// the trailers.
func NewReader(stream Stream, limits Limits) *Reader {
	return &Reader{stream: stream, limits: limits, err: io.EOF}
}

// Buffered is how many bytes were read and not given yet.
func (r *Reader) Buffered() int { return len(r.buf) - r.at }

// Wait waits for the first bytes of a response. io.EOF means that there are
// none.
func (r *Reader) Wait() error {
	if r.Buffered() > 0 {
		return nil
	}
	return r.more()
}

// Head reads the next head, interim or final. io.EOF means that the connection
// ended where a head could begin.
func (r *Reader) Head() (fetch.Head, error) {
	raw, fields, err := r.section(section{head: true})
	if err != nil {
		return fetch.Head{}, err
	}
	h, fault := parseHead(raw, fields)
	r.drop(len(raw))
	if fault != nil {
		return fetch.Head{}, fault
	}
	return h, nil
}

// section reads a section of lines, and how many fields it has. It stays in the
// buffer.
func (r *Reader) section(s section) (raw []byte, fields int, err error) {
	for {
		end, fault := s.find(r.buf[r.at:], r.limits)
		if fault != nil {
			return nil, 0, fault
		}
		if end > 0 {
			return r.buf[r.at : r.at+end], s.fields(), nil
		}
		if err := r.more(); err != nil {
			if err == io.EOF && r.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, 0, err
		}
	}
}

// more reads more bytes behind those that are there.
func (r *Reader) more() error {
	if err := r.stream.Ready(); err != nil {
		return err
	}
	if r.spare == nil {
		r.spare = spares.Get().(*[spareSize]byte)
		r.buf, r.at = r.spare[:0], 0
	}
	if r.at > 0 && len(r.buf) == cap(r.buf) {
		r.buf, r.at = r.buf[:copy(r.buf, r.buf[r.at:])], 0
	}
	if len(r.buf) == cap(r.buf) {
		r.buf = append(make([]byte, 0, 2*cap(r.buf)), r.buf...)
	}
	n, err := r.stream.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+n]
	if n > 0 {
		return nil // the error comes again
	}
	r.drop(0)
	return err
}

// drop lets go of n bytes of the buffer, and of the buffer once it is empty.
func (r *Reader) drop(n int) {
	if r.at += n; r.at == len(r.buf) && r.spare != nil {
		spares.Put(r.spare)
		r.spare, r.buf, r.at = nil, nil, 0
	}
}

// Begin starts the body behind the head that was read last. keep has ReadChunk
// never give bytes of two chunks at once, and tell where each ends.
func (r *Reader) Begin(f Framing, keep bool) {
	r.framing, r.keep = f, keep && f.Chunked
	r.chunks, r.left, r.trailers, r.err = chunks{}, f.Length, nil, nil
	if r.left == 0 {
		r.err = io.EOF
	}
}

// Trailers are those of the body that was read to its end.
func (r *Reader) Trailers() []fetch.Field { return r.trailers }

// Close lets go of what is buffered. What is left of the body cannot be read any
// more, and no other response.
func (r *Reader) Close() {
	r.drop(r.Buffered())
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
}

// Rest returns what is buffered, and lets go of it: the beginning of what
// follows a response that changes the protocol.
func (r *Reader) Rest() []byte {
	b := bytes.Clone(r.buf[r.at:])
	r.drop(len(b))
	return b
}

// Read reads what is there of the body, or waits for it.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, _, err := r.ReadChunk(func() []byte { return p[:0:len(p)] })
	return len(b), err
}

// ReadChunk is fetch.Body.ReadChunk.
func (r *Reader) ReadChunk(get func() []byte) (b []byte, endOfChunk bool, err error) {
	if err := r.await(); err != nil {
		return nil, false, err
	}
	p := get()
	p = p[:cap(p)]
	switch {
	case !r.framing.Chunked:
		n, err := r.readPlain(p)
		return p[:n], false, err
	case r.keep:
		n, err := r.take(p[:min(int64(len(p)), r.chunks.left)])
		r.chunks.took(n)
		r.err = unexpected(err)
		return p[:n], n > 0 && r.chunks.left == 0, r.err
	}
	n, err := r.readChunks(p)
	return p[:n], false, err
}

// await returns nil once the next byte of the body is there, or the end of a
// connection that the body ends with.
func (r *Reader) await() error {
	for r.err == nil && r.framing.Chunked && r.chunks.at != atData {
		if r.err = r.skip(); r.err != nil {
			return r.err
		}
	}
	if r.err != nil || r.Buffered() > 0 {
		return r.err
	}
	return r.stream.Ready()
}

// skip skips what lies before the next byte of a chunked body's data, as far as
// it is there, or waits for it.
func (r *Reader) skip() error {
	if r.chunks.at == atTrailer {
		return r.trailer()
	}
	if r.Buffered() == 0 {
		if err := r.more(); err != nil {
			return unexpected(err)
		}
	}
	n, fault := r.chunks.framing(r.buf[r.at:])
	r.drop(n)
	if fault != nil {
		return fault
	}
	return nil
}

// trailer reads the trailer section and returns io.EOF, if nothing is wrong.
func (r *Reader) trailer() error {
	raw, n, err := r.section(section{})
	if fault, ok := err.(*Fault); ok && fault.Reason == fetch.ReasonMalformedHead {
		return invalidChunk("in the trailer section, " + fault.Rule)
	}
	if err != nil {
		return unexpected(err)
	}
	fields, fault := parseFields(bytes.Clone(raw), n)
	r.drop(len(raw))
	if fault != nil {
		return invalidChunk("in the trailer section, " + fault.Rule)
	}
	r.trailers = fields
	return io.EOF
}

// unexpected is the error of a read in the middle of a chunked body.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readPlain reads a body that is not chunked.
func (r *Reader) readPlain(p []byte) (n int, err error) {
	if r.left < 0 {
		n, r.err = r.take(p)
		return n, r.err
	}
	n, err = r.take(p[:min(int64(len(p)), r.left)])
	if r.left -= int64(n); r.left == 0 {
		r.err = io.EOF
	} else {
		r.err = unexpected(err)
	}
	return n, r.err
}

// readChunks reads what is there of a chunked body, over the ends of chunks.
func (r *Reader) readChunks(p []byte) (int, error) {
	buffered := r.Buffered()
	var came int
	var err error
	if buffered > 0 {
		came = copy(p, r.buf[r.at:])
	} else {
		came, err = r.stream.Read(p)
	}
	data, used, fault := r.chunks.squeeze(p[:came])
	if buffered > 0 {
		r.drop(used)
	} else {
		r.hold(p[used:came])
	}
	switch {
	case fault != nil:
		r.err = fault
	case came == 0:
		r.err = unexpected(err)
	}
	if data > 0 {
		return data, nil // the error comes with the next read
	}
	return 0, r.err
}

// hold buffers what came behind the chunks, and no more of it than trailers may
// have: the rest belongs to no response.
func (r *Reader) hold(b []byte) {
	if len(b) == 0 {
		return
	}
	r.spare = spares.Get().(*[spareSize]byte)
	r.buf, r.at = append(r.spare[:0], b[:min(len(b), r.limits.Bytes+1)]...), 0
}

// take puts into p what is buffered, or else what is at the stream.
func (r *Reader) take(p []byte) (n int, err error) {
	if r.Buffered() == 0 {
		return r.stream.Read(p)
	}
	n = copy(p, r.buf[r.at:])
	r.drop(n)
	return n, nil
}
