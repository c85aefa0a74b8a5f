package listener_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fetchgate/fetchgate/service/listener"
)

// idle connects and says the preface, so that the connection stays.
func idle(t *testing.T, address string) *attacker {
	t.Helper()
	a := attack(t, address)
	a.buffer.Flush()
	return a
}

func (a *attacker) isClosed() bool {
	select {
	case <-a.closed:
		return true
	default:
		return false
	}
}

// TestMaxConnections (K11): at the most connections, the one that is idle
// longest goes for a new one; those that carry a stream stay, also the oldest.
func TestMaxConnections(t *testing.T) {
	const most = 20
	s := serve(t, listener.Options{MaxConnections: most})
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	carries := s.client(t)
	go func() {
		held <- carries.Invoke(ctx, "/test.Echo/Hold", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	}()
	<-s.begun
	var all []*attacker
	for range 5 * most {
		all = append(all, idle(t, s.address))
		// Served: so it was admitted before the next one connects.
		if err := say(t.Context(), carries, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := say(t.Context(), s.client(t), 1); err != nil {
		t.Errorf("a new caller: %v", err)
	}
	closed := 0
	for ; closed < len(all) && all[closed].isClosed(); closed++ {
	}
	for i, a := range all[closed:] {
		if a.isClosed() {
			t.Errorf("connection %d was closed before connection %d", closed+i, closed)
		}
	}
	cancel()
	<-held
	t.Logf("%d of %d idle connections were closed, the oldest first; counted %v", closed, len(all), s.refused.n)
	if want := 5*most - most + 3; closed < want-2 || closed > want {
		t.Errorf("%d were closed, want about %d", closed, want)
	}
	if s.refused.of(listener.Idle) == 0 || s.refused.of(listener.Connections) != 0 {
		t.Errorf("counted %v", s.refused.n)
	}
}

// TestAllBusy: when every connection carries a stream, a new one is refused,
// and admitted as soon as one is idle.
func TestAllBusy(t *testing.T) {
	const most = 5
	s := serve(t, listener.Options{MaxConnections: most})
	busy := make([]*raw, most)
	for i := range busy {
		busy[i] = newRaw(t, s.address)
		id, _ := busy[i].open("/test.Echo/Say")
		busy[i].flush()
		t.Cleanup(func() { busy[i].WriteRSTStream(id, 8); busy[i].flush() })
		<-s.begun
	}
	if err := s.refusedDial(t); err == nil {
		t.Error("a connection beyond the most was served")
	}
	if s.refused.of(listener.Connections) == 0 || s.refused.of(listener.Idle) != 0 {
		t.Errorf("counted %v", s.refused.n)
	}
	busy[0].WriteData(1, true, []byte{0, 0, 0, 0, 0})
	busy[0].flush()
	if got := busy[0].status(); got != "0" {
		t.Fatalf("grpc-status %s", got)
	}
	for s.refusedDial(t) != nil { // the search waits a moment after it failed
	}
	if s.refused.of(listener.Idle) != 1 {
		t.Errorf("counted %v", s.refused.n)
	}
}

// refusedDial connects and waits for the server's first byte.
func (s *server) refusedDial(t *testing.T) error {
	t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestMaxConnectionsPerPeer: one address has its share, another its own, and
// what closes makes room.
func TestMaxConnectionsPerPeer(t *testing.T) {
	s := serve(t, listener.Options{MaxConnectionsPerPeer: 3})
	for range 3 {
		idle(t, s.address)
	}
	if err := s.refusedDial(t); err == nil {
		t.Error("a fourth connection was served")
	}
	if s.refused.of(listener.ConnectionsPerPeer) != 1 {
		t.Errorf("counted %v", s.refused.n)
	}
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return from.DialContext(ctx, "tcp", a) }))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := say(t.Context(), other, 1); err != nil {
		t.Errorf("another address: %v", err)
	}
}

// scripted is a listener whose connections and errors a test makes up: no
// machine has the addresses, and none should run out of descriptors.
type scripted struct{ accept func() (net.Conn, error) }

func (s scripted) Accept() (net.Conn, error) { return s.accept() }
func (s scripted) Close() error              { return nil }
func (s scripted) Addr() net.Addr            { return &net.TCPAddr{} }

// from is a connection that names another end.
type from struct {
	net.Conn
	address net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.address }

// TestPeers: a peer is an IPv4 address, however written, or the /64 of an IPv6
// address; connections without an address only count together.
func TestPeers(t *testing.T) {
	for _, c := range []struct {
		first, second net.Addr
		same          bool
	}{
		{tcp("192.0.2.1"), tcp("192.0.2.1"), true},
		{tcp("192.0.2.1"), tcp("::ffff:192.0.2.1"), true},
		{tcp("192.0.2.1"), tcp("192.0.2.2"), false},
		{tcp("2001:db8::1"), tcp("2001:db8::ffff:1"), true},
		{tcp("2001:db8::1"), tcp("2001:db8:0:1::1"), false},
		{&net.UnixAddr{Name: "a"}, &net.UnixAddr{Name: "a"}, false},
	} {
		queue := []net.Addr{c.first, c.second}
		l := listener.New(scripted{func() (net.Conn, error) {
			if len(queue) == 0 {
				return nil, io.EOF
			}
			a, b := net.Pipe()
			t.Cleanup(func() { a.Close(); b.Close() })
			next := from{a, queue[0]}
			queue = queue[1:]
			return next, nil
		}}, listener.Options{MaxConnectionsPerPeer: 1})
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); (err != nil) != c.same {
			t.Errorf("%v and %v: %v", c.first, c.second, err)
		}
	}
}

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// TestNoDescriptors (J12): without descriptors, Accept waits longer each time,
// is there half a second after they are free again, and ends when it is closed.
func TestNoDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, tries := time.Now(), 0
		free := 10 * time.Second
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		var log bytes.Buffer
		var refused counts
		l := listener.New(scripted{func() (net.Conn, error) {
			if tries++; time.Since(start) < free {
				return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
			}
			return a, nil
		}}, listener.Options{OnRefused: refused.add, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		t.Logf("%d tries in %v", tries, took)
		if took > free+500*time.Millisecond || tries > 30 {
			t.Errorf("%d tries in %v", tries, took)
		}
		lines := bytes.Count(log.Bytes(), []byte("\n"))
		if refused.of(listener.Descriptors) != tries-1 || lines < 5 || lines > 11 {
			t.Errorf("counted %v; %d lines", refused.n, lines)
		}

		start = time.Now()
		time.AfterFunc(time.Second, func() { l.Close() })
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || time.Since(start) != time.Second {
			t.Errorf("closed after %v: %v", time.Since(start), err)
		}
	})
}

// TestAcceptFails: other errors end Accept.
func TestAcceptFails(t *testing.T) {
	l := listener.New(scripted{func() (net.Conn, error) { return nil, io.ErrUnexpectedEOF }}, listener.Options{})
	if _, err := l.Accept(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// stalled is a connection whose peer takes nothing.
func stalled(t *testing.T, o listener.Options) net.Conn {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	l := listener.New(scripted{func() (net.Conn, error) { return a, nil }}, o)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStalledWrite: a caller that takes nothing for 30 s is gone; the deadline
// of a handshake holds until it is lifted.
func TestStalledWrite(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(net.Conn)
		want    time.Duration
	}{
		"no deadline":       {func(net.Conn) {}, listener.MaxWriteStall},
		"handshake":         {func(c net.Conn) { c.SetDeadline(time.Now().Add(5 * time.Second)) }, 5 * time.Second},
		"after a handshake": {func(c net.Conn) { c.SetDeadline(time.Now().Add(5 * time.Second)); c.SetDeadline(time.Time{}) }, listener.MaxWriteStall},
		"lifted meanwhile": {func(c net.Conn) {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			time.AfterFunc(time.Second, func() { c.SetDeadline(time.Time{}) })
		}, time.Second + listener.MaxWriteStall},
		"a deadline long ago": {func(c net.Conn) { c.SetDeadline(time.Time{}); time.Sleep(time.Hour) }, listener.MaxWriteStall},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := stalled(t, listener.Options{})
				c.prepare(conn)
				start := time.Now()
				_, err := conn.Write([]byte("x"))
				if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != c.want {
					t.Errorf("failed after %v, want %v: %v", took, c.want, err)
				}
			})
		})
	}
}
