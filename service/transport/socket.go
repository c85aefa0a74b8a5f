package transport

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// socket is a connection to an upstream below TLS.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil if the connection has no file descriptor
	// sawFIN tells that the upstream closed the connection. Above TLS, that
	// without a close_notify is a truncation (RFC 8446 section 6.1).
	sawFIN atomic.Bool

	mu      sync.Mutex
	closed  bool
	onClose []func()
}

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c}
	if f, ok := c.(syscall.Conn); ok {
		s.raw, _ = f.SyscallConn()
	}
	return s
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		s.sawFIN.Store(true)
	}
	return n, err
}

// Close closes the connection at once, whoever reads or writes.
func (s *socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	onClose := s.onClose
	s.mu.Unlock()
	err := s.Conn.Close()
	for _, f := range onClose {
		f()
	}
	return err
}

// whenClosed has f called once the socket is closed, now if it is.
func (s *socket) whenClosed(f func()) {
	s.mu.Lock()
	closed := s.closed
	s.onClose = append(s.onClose, f)
	s.mu.Unlock()
	if closed {
		f()
	}
}

// stirred tells whether something came on a connection that expects nothing: a
// byte, the end, or an error.
func (s *socket) stirred() bool {
	came, over := s.look()
	return came || over
}

// look tells whether bytes came that nobody has read, and whether there are
// none and will be none. It takes nothing away and does not wait.
func (s *socket) look() (came, over bool) {
	if s.raw == nil {
		return false, false
	}
	var one [1]byte
	// Control, unlike Read, does not queue behind a reader that waits.
	err := s.raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		waits := err == syscall.EAGAIN || err == syscall.EINTR
		came, over = n > 0, n <= 0 && !waits
	})
	return came, over || err != nil
}
