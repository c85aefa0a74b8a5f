package listener_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/fetchgate/fetchgate/service/listener"
)

// socketIn is where the socket of a test is; t.TempDir may be too long for one.
func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func newTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := listener.ListenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestProcess: the system says whose process has connected, of each network as
// far as it does.
func TestProcess(t *testing.T) {
	path := socketIn(t)
	over := listener.New(newTCP(t), listener.Options{MaxConnectionsPerPeer: 1})
	beside := over.Beside(listenUnix(t, path))
	for _, l := range []*listener.Listener{beside, over} {
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		process, known := listener.ProcessOf(accepted)
		want := listener.Process{}
		if l == beside {
			want = listener.Process{UID: uint32(os.Getuid())}
		}
		if known != (l == beside) || process != want {
			t.Errorf("over %s: %+v, %v; want %+v", l.Addr().Network(), process, known, want)
		}
	}
}

// TestSocketHasItsPermissionsAtOnce: whoever sees the socket at its path sees it
// with its permissions, though the umask takes none away.
func TestSocketHasItsPermissionsAtOnce(t *testing.T) {
	path := socketIn(t)
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			about, err := os.Lstat(path)
			if err == nil && about.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("the socket is seen as %v", about.Mode())
				return
			}
		}
	})
	for range 200 {
		l, err := listener.ListenUnix(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	looking.Wait()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("it leaves %v, %v", entries, err)
	}
}

// TestCloseLeavesTheSocketOfAnother: what has taken the place of a socket stays
// when its listener closes.
func TestCloseLeavesTheSocketOfAnother(t *testing.T) {
	path := socketIn(t)
	first := listenUnix(t, path)
	if _, err := listener.ListenUnix(path, 0o600); err == nil {
		t.Fatal("two listen at one path")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listenUnix(t, path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := first.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second close: %v", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket of the second is gone: %v", err)
	}
	c.Close()
}

// TestSocketTakesNoLinkFurther: a symbolic link at the path is no socket, whatever
// it leads to, and that keeps its permissions.
func TestSocketTakesNoLinkFurther(t *testing.T) {
	path := socketIn(t)
	victim := filepath.Join(filepath.Dir(path), "victim")
	if err := os.WriteFile(victim, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{victim, victim + ".none"} {
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		if l, err := listener.ListenUnix(path, 0o666); err == nil {
			l.Close()
			t.Errorf("it listens in the place of a link to %s", to)
		}
		os.Remove(path)
	}
	if about, err := os.Lstat(victim); err != nil || about.Mode() != 0o400 {
		t.Errorf("the file is %v, %v", about.Mode(), err)
	}
}

// TestBoundsAreShared: connections beside one another count together, and those
// of a user apart from those of an address.
func TestBoundsAreShared(t *testing.T) {
	path := socketIn(t)
	over := listener.New(newTCP(t), listener.Options{MaxConnections: 3, MaxConnectionsPerPeer: 2})
	beside := over.Beside(listenUnix(t, path))
	var conns []net.Conn
	accept := func(l *listener.Listener) {
		t.Helper()
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		t.Cleanup(func() { c.Close(); accepted.Close() })
	}
	accept(beside)
	accept(beside)
	accept(over)
	// The first of the user is idle longest, and goes for the next of all.
	accept(over)
	if n, err := conns[0].Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the connection that is idle longest is open: %d, %v", n, err)
	}
}
