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
	// prompt has Read not wait: it fails with errNothing instead.
	prompt bool
	turn   readTurn
	glance glance
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
	s.turn.ready, s.turn.read = s.turn.isReady, s.turn.readOnce
	s.glance.peek = s.glance.at
	return s
}

// readTurn is one look at the file descriptor. Its functions are made once, as
// each would be an allocation.
type readTurn struct {
	ready, read func(fd uintptr) (done bool)
	waited      bool
	one         [1]byte
	p           []byte
	n           int
	err         error
}

// isReady has the poller wait, unless something is there.
func (t *readTurn) isReady(fd uintptr) bool {
	if t.waited {
		return true
	}
	t.waited = true
	_, _, t.err = syscall.Recvfrom(int(fd), t.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return t.err != syscall.EAGAIN
}

func (t *readTurn) readOnce(fd uintptr) bool {
	t.n, t.err = syscall.Read(int(fd), t.p)
	for t.err == syscall.EINTR {
		t.n, t.err = syscall.Read(int(fd), t.p)
	}
	return true
}

// Ready waits, without a buffer, until Read returns at once. One goroutine reads
// at a time.
func (s *socket) Ready() error {
	if s.raw == nil {
		return nil
	}
	s.turn.waited, s.turn.err = false, nil
	if err := s.raw.Read(s.turn.ready); err != nil {
		return err
	}
	switch s.turn.err {
	case nil, syscall.EAGAIN, syscall.EINTR:
		return nil
	}
	// The socket tells of an error once, and then of an end.
	return readError(s.turn.err)
}

func readError(err error) error { return &net.OpError{Op: "read", Net: "tcp", Err: err} }

// Quiet tells that nothing came, the end included.
func (s *socket) Quiet() bool { return !s.stirred() }

// errNothing is what a prompt Read comes to when nothing is there. TLS takes it
// for a deadline, after which reading can go on.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.read(p)
	if err == io.EOF {
		s.sawFIN.Store(true)
	}
	return n, err
}

func (s *socket) read(p []byte) (int, error) {
	if !s.prompt || s.raw == nil {
		return s.Conn.Read(p)
	}
	s.turn.p = p
	err := s.raw.Read(s.turn.read)
	s.turn.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.turn.err == syscall.EAGAIN:
		return 0, errNothing
	case s.turn.err != nil:
		return 0, readError(s.turn.err)
	case s.turn.n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return s.turn.n, nil
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
	s.glance.mu.Lock()
	defer s.glance.mu.Unlock()
	s.glance.came, s.glance.over = false, false
	// Control, unlike Read, does not queue behind a reader that waits.
	err := s.raw.Control(s.glance.peek)
	return s.glance.came, s.glance.over || err != nil
}

// glance is a look that does not wait, by one goroutine at a time. Its function is
// made once, as it would be an allocation.
type glance struct {
	mu         sync.Mutex
	peek       func(fd uintptr)
	one        [1]byte
	came, over bool
}

func (g *glance) at(fd uintptr) {
	n, _, err := syscall.Recvfrom(int(fd), g.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	waits := err == syscall.EAGAIN || err == syscall.EINTR
	g.came, g.over = n > 0, n <= 0 && !waits
}
