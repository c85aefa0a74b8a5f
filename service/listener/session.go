package listener

import (
	"encoding/binary"
	"time"
)

// The frames of RFC 9113 section 6 that matter here, and their flags.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	headBytes = 9
	// prefaceBytes are what a client sends before its first frame (RFC 9113
	// section 3.4).
	prefaceBytes = 24
	// prefixBytes precede each message of gRPC: whether it is compressed, and
	// its length.
	prefixBytes = 5
)

// frame is the head of a frame (RFC 9113 section 4.1).
type frame struct {
	length int
	kind   byte
	flags  byte
	stream uint32
}

// splitter finds the heads of frames in one direction of a connection.
type splitter struct {
	skip int // bytes until the next head
	have int // bytes of that head that have come
	head [headBytes]byte
}

// next returns the first head in p and what follows it; false means that p is
// used up.
func (s *splitter) next(p []byte) (frame, []byte, bool) {
	n := min(s.skip, len(p))
	s.skip -= n
	p = p[n:]
	n = copy(s.head[s.have:], p)
	s.have += n
	if s.have < headBytes {
		return frame{}, nil, false
	}
	s.have = 0
	f := frame{
		length: int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2]),
		kind:   s.head[3],
		flags:  s.head[4],
		stream: binary.BigEndian.Uint32(s.head[5:]) &^ (1 << 31),
	}
	s.skip = f.length
	return f, p[n:], true
}

// between tells whether the next byte is the first of a frame.
func (s *splitter) between() bool { return s.skip == 0 && s.have == 0 }

// stream is a request that has not been answered yet.
type stream struct {
	opened time.Duration
	// held counts the bytes of a message that is not whole.
	held int64
	// left are the bytes that the message still lacks; at 0, prefix has the
	// first bytes of the next one.
	left   int64
	prefix [prefixBytes]byte
	have   int
}

// payload is what has still to come of a DATA frame.
type payload struct {
	of     *stream
	padded bool
	left   int
}

// session is the accounting of one connection.
type session struct {
	limits  FrameLimits
	in, out splitter
	streams map[uint32]*stream
	// spare are streams that have ended, for those to come: as many as were open
	// at once.
	spare []*stream
	data  payload
	last  uint32 // the highest stream that the caller has opened
	block int    // bytes of the block of header fields that has begun
	held  int64  // the sum over streams

	resets, settings, control bucket
}

func newSession(l FrameLimits) session {
	return session{
		limits:   l,
		in:       splitter{skip: prefaceBytes},
		streams:  map[uint32]*stream{},
		resets:   newBucket(2*int64(l.Streams), 4*int64(l.Streams)),
		settings: newBucket(settingsPerSecond, settingsAtOnce),
		control:  newBucket(controlPerSecond, controlAtOnce),
	}
}

// received accounts for p, which the caller has sent; it returns the limit that
// it goes beyond, or "".
func (s *session) received(p []byte, now time.Duration) string {
	for len(p) > 0 {
		if s.data.of != nil && s.in.skip > 0 {
			n := min(s.in.skip, len(p))
			s.in.skip -= n
			s.carry(p[:n])
			p = p[n:]
			if s.held > s.limits.UnfinishedBytes {
				return Unfinished
			}
			continue
		}
		f, rest, ok := s.in.next(p)
		if !ok {
			return ""
		}
		p = rest
		if limit := s.take(f, now); limit != "" {
			return limit
		}
	}
	return ""
}

// take accounts for one frame of the caller.
func (s *session) take(f frame, now time.Duration) string {
	s.data.of = nil
	switch f.kind {
	case frameData:
		return s.takeData(f, now)
	case frameHeaders:
		return s.takeHeaders(f, now)
	case frameReset:
		return s.takeReset(f, now)
	case frameContinuation:
		if limit := s.extend(f); limit != "" {
			return limit
		}
	case frameSettings:
		if !s.settings.spend(now) {
			return Settings
		}
		return ""
	}
	return s.spendControl(now)
}

func (s *session) spendControl(now time.Duration) string {
	if !s.control.spend(now) {
		return Control
	}
	return ""
}

func (s *session) takeHeaders(f frame, now time.Duration) string {
	s.block = 0
	if limit := s.extend(f); limit != "" {
		return limit
	}
	if f.stream <= s.last {
		return s.spendControl(now)
	}
	s.last = f.stream
	if len(s.streams) >= s.limits.Streams && !s.resets.spend(now) {
		return Resets
	}
	s.streams[f.stream] = s.open(now)
	s.control.earn(controlForAnswer)
	return ""
}

func (s *session) open(now time.Duration) *stream {
	last := len(s.spare) - 1
	if last < 0 {
		return &stream{opened: now}
	}
	opened := s.spare[last]
	s.spare = s.spare[:last]
	*opened = stream{opened: now}
	return opened
}

// extend adds a frame to the block of header fields.
func (s *session) extend(f frame) string {
	if s.block += f.length; s.block > s.limits.HeaderBlockBytes {
		return HeaderBlock
	}
	if f.flags&flagEndHeaders != 0 {
		s.block = 0
	}
	return ""
}

func (s *session) takeReset(f frame, now time.Duration) string {
	reset, open := s.streams[f.stream]
	if !open {
		return s.spendControl(now)
	}
	s.end(f.stream)
	if now-reset.opened < RapidReset && !s.resets.spend(now) {
		return Resets
	}
	return ""
}

// takeData accounts for the head of a DATA frame; carry goes on with its
// payload.
func (s *session) takeData(f frame, now time.Duration) string {
	of := s.streams[f.stream]
	if f.flags&flagEndStream != 0 && of != nil {
		s.release(of)
	}
	if f.length == 0 || of == nil && f.length < frameOverhead {
		return s.spendControl(now)
	}
	if of != nil && f.flags&flagEndStream == 0 {
		s.data = payload{of: of, padded: f.flags&flagPadded != 0, left: f.length}
		s.hold(of, frameOverhead)
	}
	return ""
}

// carry follows the messages in p, a part of the payload of a DATA frame.
func (s *session) carry(p []byte) {
	d := &s.data
	if d.padded {
		d.padded = false
		d.left = max(0, d.left-1-int(p[0]))
		p = p[1:]
	}
	p = p[:min(len(p), d.left)]
	d.left -= len(p)
	for len(p) > 0 {
		n := 0
		if d.of.left > 0 {
			n = int(min(d.of.left, int64(len(p))))
			d.of.left -= int64(n)
		} else {
			n = copy(d.of.prefix[d.of.have:], p)
			if d.of.have += n; d.of.have == prefixBytes {
				d.of.have = 0
				d.of.left = int64(binary.BigEndian.Uint32(d.of.prefix[1:]))
			}
		}
		s.hold(d.of, int64(n))
		if d.of.left == 0 && d.of.have == 0 {
			s.release(d.of)
		}
		p = p[n:]
	}
}

func (s *session) hold(of *stream, n int64) {
	of.held += n
	s.held += n
}

func (s *session) release(of *stream) {
	s.held -= of.held
	of.held = 0
}

// end forgets a stream and tells whether it was open.
func (s *session) end(id uint32) bool {
	over, open := s.streams[id]
	if !open {
		return false
	}
	s.release(over)
	delete(s.streams, id)
	if s.data.of == over {
		s.data.of = nil
	}
	s.spare = append(s.spare, over)
	return true
}

// sent accounts for p, which the server sends.
func (s *session) sent(p []byte) {
	for {
		f, rest, ok := s.out.next(p)
		if !ok {
			return
		}
		p = rest
		switch f.kind {
		case frameData, frameHeaders:
			s.control.earn(controlForAnswer)
			if f.flags&flagEndStream != 0 && s.end(f.stream) {
				s.resets.earn(1)
			}
		case frameReset:
			s.end(f.stream)
		}
	}
}
