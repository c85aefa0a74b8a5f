package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Process is what the system says about the process that connected to a unix
// socket, as of that moment. Whom it hands the connection to later does not show.
type Process struct {
	// UID is the effective user id.
	UID uint32
}

// ProcessOf returns the process at the other end of a connection that a Listener
// accepted on a unix socket; false means that it is of another network.
func ProcessOf(c net.Conn) (Process, bool) {
	a, ok := c.(*admitted)
	if !ok || a.process == nil {
		return Process{}, false
	}
	return *a.process, true
}

// identify finds out which peer a is of.
func (a *admitted) identify() error {
	unix, ok := a.Conn.(*net.UnixConn)
	if !ok {
		a.peer = peerAt(a.Conn.RemoteAddr())
		return nil
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return err
	}
	var process Process
	var said error
	if err := raw.Control(func(fd uintptr) { process, said = processAt(int(fd)) }); err != nil {
		return err
	}
	if said != nil {
		return said
	}
	a.process, a.peer = &process, peer{user: process.UID, isUser: true}
	return nil
}

// RemoteAddr is the user at the other end of a unix socket, which has no address
// that tells anything.
func (a *admitted) RemoteAddr() net.Addr {
	if a.process == nil {
		return a.Conn.RemoteAddr()
	}
	return userAddr(a.process.UID)
}

// userAddr is a user as an address.
type userAddr uint32

func (userAddr) Network() string  { return "unix" }
func (u userAddr) String() string { return "unix:uid=" + strconv.FormatUint(uint64(u), 10) }

// answerTimeout is how long a server may take to take a connection from its
// socket before it is held to be alive.
const answerTimeout = time.Second

// ListenUnix listens on a unix socket at path with these permissions, from the
// first moment on: it appears when it is complete, in the place of one that
// nobody listens on any more. What else is at path stays and is an error. Close
// removes the socket, unless it is another's by then.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if err := checkVacant(path); err != nil {
		return nil, err
	}
	// Nobody else can enter the directory, so that nobody connects before the
	// permissions are right, or has them set on something else.
	private, err := os.MkdirTemp(filepath.Dir(path), ".f")
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket beside it: %w", cause(err))
	}
	defer os.RemoveAll(private)
	name := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, cause(err)
	}
	l.SetUnlinkOnClose(false)
	own := &unixListener{UnixListener: l, path: path}
	if err := own.appear(name, mode); err != nil {
		return nil, errors.Join(cause(err), l.Close())
	}
	return own, nil
}

// checkVacant tells why a socket at path must not be put there.
func checkVacant(path string) error {
	about, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return cause(err)
	case about.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something else than a socket, which is left alone")
	}
	c, err := net.DialTimeout("unix", path, answerTimeout)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return errors.New("another server listens there, or may do so")
	}
	return nil
}

// cause is what went wrong, without the names of files of ours.
func cause(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// unixListener is a socket that goes with its listener.
type unixListener struct {
	*net.UnixListener
	path    string
	about   fs.FileInfo
	closing sync.Once
}

// appear gives the socket at name its permissions and its place.
func (l *unixListener) appear(name string, mode fs.FileMode) (err error) {
	if err = os.Chmod(name, mode); err != nil {
		return err
	}
	if l.about, err = os.Lstat(name); err != nil {
		return err
	}
	return os.Rename(name, l.path)
}

// Addr is where the socket is.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close ends the listener and removes its socket.
func (l *unixListener) Close() error {
	l.closing.Do(func() {
		if about, err := os.Lstat(l.path); err == nil && os.SameFile(about, l.about) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
