package body

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// inputBytes is the size of the buffer in front of a decoder. A decoder that
// wants more at once reads past the buffer.
const inputBytes = 4 << 10

var errTrailing = errors.New("bytes follow the end of the coded data")

// layer is a body with some of its codings undone. The lowest one is the wire.
type layer interface {
	io.Reader
	// failure is why the layer broke off, nil as long as it did not.
	failure() error
}

// stage is the layer that undoes one coding of the layer below it.
type stage struct {
	coding string
	in     *bufio.Reader // reads below
	dec    decoder       // reads in

	below layer
	ratio ratio
	size  int64 // bytes given so far

	begun bool // below is not empty
	ended bool // dec came to the end of its data
	err   error
}

// newStage takes an idle stage, or makes one.
func newStage(coding string, below layer, r ratio) *stage {
	c := codings[coding]
	s, ok := c.idle.Get().(*stage)
	if !ok {
		s = &stage{coding: coding, in: bufio.NewReaderSize(nil, inputBytes), dec: c.open()}
	}
	s.in.Reset(below)
	s.below, s.ratio = below, r
	return s
}

// release keeps the decoders of s and of the stages below it for other bodies.
func (s *stage) release() {
	below := s.below
	s.in.Reset(nil)
	*s = stage{coding: s.coding, in: s.in, dec: s.dec}
	codings[s.coding].idle.Put(s)
	if b, ok := below.(*stage); ok {
		b.release()
	}
}

// Read waits for the layer below only when there is nothing to give. Its error
// is io.EOF, that of the wire, or a failure to decode.
func (s *stage) Read(p []byte) (int, error) {
	n := 0
	for n == 0 && s.err == nil {
		var err error
		n, err = s.step(p)
		s.size += int64(n)
		s.err = s.judge(err)
	}
	return n, s.err
}

// step makes one step through begun and ended.
func (s *stage) step(p []byte) (int, error) {
	switch {
	case !s.begun:
		// A body without a byte is empty whatever its Content-Encoding says:
		// answers to HEAD, 204 and 304 have one.
		_, err := s.in.Peek(1)
		if err == nil {
			s.begun = true
			s.dec.Reset(s.in)
		}
		return 0, err
	case s.ended:
		_, err := s.in.Peek(1)
		if err == nil {
			err = errTrailing
		}
		return 0, err
	}
	n, err := s.dec.Read(p)
	if err == io.EOF {
		s.ended, err = true, nil
	}
	return n, err
}

// judge returns what an error of step means. Where the layer below broke off,
// that is the reason, whatever the decoder makes of it.
func (s *stage) judge(err error) error {
	below := s.below.failure()
	switch {
	case err == nil && s.ratio.exceeded(s.size):
		return s.ratio.failure(s.coding)
	case err == nil, err == io.EOF:
		return err
	case below != nil:
		return below
	}
	what := err.Error()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		what = "the coded data ends too early"
	}
	return fail(fetch.ReasonDecodeFailed, fmt.Sprintf("the body cannot be decoded as %s: %s", s.coding, what), err)
}

func (s *stage) failure() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// ratio bounds what may come out of a stage by what came over the wire. Every
// stage has it, since bytes cost time also where the next one drops them.
type ratio struct {
	wire  *wire
	most  int64 // bytes for each byte of the wire
	floor int64 // bytes that are not counted against it
}

func (r ratio) exceeded(size int64) bool {
	// In floating point nothing overflows, and the last digits do not matter.
	return size > r.floor && float64(size) > float64(r.most)*float64(r.wire.size)
}

func (r ratio) failure(coding string) error {
	f := fail(fetch.ReasonDecodedTooLarge,
		fmt.Sprintf("the body grows to more than %d times its size when %s is undone", r.most, coding), nil)
	f.LimitHit = &fetch.LimitHit{Limit: "max_decoded_ratio", Max: r.most}
	return f
}
