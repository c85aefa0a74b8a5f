package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"time"
)

// secured is TLS over a socket as a stream that is waited for without a buffer:
// below it, the socket is prompt.
type secured struct {
	*tls.Conn
	sock *socket
	// first was decrypted to find out that there is something.
	first [1]byte
	holds bool
	err   error // how reading ended; nil until then
}

func newSecured(c *tls.Conn, sock *socket) *secured {
	sock.prompt = true
	return &secured{Conn: c, sock: sock}
}

// Ready waits for a byte of data. What comes before it, part of a record or a
// message of TLS's own, is kept by TLS.
func (s *secured) Ready() error {
	for !s.look() {
		if err := s.sock.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// look tells whether Read has something to return.
func (s *secured) look() bool {
	if s.holds || s.err != nil {
		return true
	}
	n, err := s.Conn.Read(s.first[:])
	s.holds = n > 0
	s.end(err)
	return s.holds || s.err != nil
}

// end notes how reading ended, if it did. An end without TLS's own close_notify
// is a truncation (RFC 8446 section 6.1).
func (s *secured) end(err error) {
	switch {
	case err == nil, err == errNothing, errors.Is(err, os.ErrDeadlineExceeded):
	case err == io.EOF && s.sock.sawFIN.Load():
		s.err = io.ErrUnexpectedEOF
	default:
		s.err = err
	}
}

// Quiet tells that no data came, and not the end. To find out takes a read,
// which the time that the last one had, and that may be over, is not for.
func (s *secured) Quiet() bool {
	if s.sock.raw == nil {
		return true // nothing can be found out without waiting
	}
	s.SetReadDeadline(time.Time{})
	return !s.look()
}

// Read takes what is there. Records are small, so it takes several.
func (s *secured) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.Ready(); err != nil {
		return 0, err
	}
	if s.holds {
		n, p[0], s.holds = 1, s.first[0], false
	}
	for n < len(p) && s.err == nil && (n == 0 || s.sock.raw != nil) {
		m, err := s.Conn.Read(p[n:])
		n += m
		s.end(err)
		if err != nil || m == 0 {
			break
		}
	}
	if n > 0 {
		return n, nil // the error comes again
	}
	return 0, s.err
}
