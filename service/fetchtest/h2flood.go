package fetchtest

import (
	"bytes"

	"golang.org/x/net/http2"
)

// Frame types that golang.org/x/net/http2 has no name for: RFC 7838 section 4,
// RFC 8336 section 2, and one that nobody has defined.
const (
	frameAltSvc  http2.FrameType = 0xa
	frameOrigin  http2.FrameType = 0xc
	frameUnknown http2.FrameType = 0xf0
)

// floods break no rule by any one frame, or by one that is small.
var floods = []Hostile{
	{"reset-flood", "answers every request with 20,000 RST_STREAM frames on it",
		hostile(flood(func(s *session, stream uint32) error { return s.WriteRSTStream(stream, http2.ErrCodeCancel) }))},
	{"priority-flood", "answers with 20,000 PRIORITY frames",
		hostile(flood(func(s *session, stream uint32) error {
			return s.WritePriority(stream, http2.PriorityParam{StreamDep: stream + 2})
		}))},
	{"window-update-flood", "answers with 20,000 WINDOW_UPDATE(1) on the connection",
		hostile(flood(func(s *session, _ uint32) error { return s.WriteWindowUpdate(0, 1) }))},
	{"empty-head-flood", "begins a head and sends 20,000 empty CONTINUATION frames", hostile((*session).floodEmptyHead)},
	{"unknown-flood", "answers with 20,000 frames of an unknown type",
		hostile(flood(func(s *session, stream uint32) error { return s.WriteRawFrame(frameUnknown, 0xff, stream, nil) }))},
	{"padding-flood", "answers with a head and 20,000 DATA frames of a byte and 255 of padding", hostile((*session).floodPadding)},
	{"large-frame-size", "breaks RFC 9113 section 6.5.2: SETTINGS_MAX_FRAME_SIZE=2^24",
		hostile(neverAnswer, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 24})},
	{"past-the-window", "sends 4 MB of a body, whatever the window", hostile((*session).ignoreWindow)},
	{"data-after-the-end", "sends DATA after the end of the response", hostile((*session).dataAfterEnd)},
	{"announcements", "sends ALTSVC and ORIGIN frames and an unknown setting before the answer", hostile((*session).announce)},
	{"reset-after-the-end", "answers whole, then RST_STREAM(NO_ERROR)", hostile((*session).resetAfterEnd)},
	{"short-status", "answers with :status 20", head(":status", "20")},
}

func (s *session) floodEmptyHead(stream uint32) error {
	if err := s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream}); err != nil {
		return err
	}
	return flood(func(s *session, stream uint32) error { return s.WriteContinuation(stream, false, nil) })(s, stream)
}

func (s *session) floodPadding(stream uint32) error {
	if err := s.writeHead(stream, false, ":status", "200"); err != nil {
		return err
	}
	padding := make([]byte, 255)
	return flood(func(s *session, stream uint32) error {
		return s.WriteDataPadded(stream, false, []byte("x"), padding)
	})(s, stream)
}

func (s *session) ignoreWindow(stream uint32) error {
	if err := s.writeHead(stream, false, ":status", "200"); err != nil {
		return err
	}
	block := bytes.Repeat([]byte("x"), frameSize)
	for range 4 << 20 / frameSize {
		if err := s.WriteData(stream, false, block); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) dataAfterEnd(stream uint32) error {
	if err := s.writeHead(stream, true, ":status", "200"); err != nil {
		return err
	}
	return s.WriteData(stream, false, []byte("more"))
}

func (s *session) announce(stream uint32) error {
	if err := s.WriteRawFrame(frameAltSvc, 0, stream, []byte("\x00\x00h2=\":1\"")); err != nil {
		return err
	}
	if err := s.WriteRawFrame(frameOrigin, 0, 0, []byte("\x00\x10https://evil.test")); err != nil {
		return err
	}
	if err := s.WriteSettings(http2.Setting{ID: 0xf0f0, Val: 1}); err != nil {
		return err
	}
	return s.writeHead(stream, true, ":status", "204")
}

func (s *session) resetAfterEnd(stream uint32) error {
	if err := s.writeHead(stream, true, ":status", "204"); err != nil {
		return err
	}
	return s.WriteRSTStream(stream, http2.ErrCodeNo)
}
