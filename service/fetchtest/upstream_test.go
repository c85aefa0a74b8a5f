package fetchtest_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestConnectionsAreCounted(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a}, fetchtest.Write("hello"), fetchtest.Hang())
		var conns []net.Conn
		for range 3 {
			conn := dial(t, u, a)
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		if opened, open := u.Connections(); opened != 3 || open != 3 {
			t.Fatalf("%d opened, %d open, want 3 and 3", opened, open)
		}
		conns[1].Close()
		if err := u.WaitClosed(within(t), 2); err != nil {
			t.Fatal(err)
		}
		if opened, open := u.Connections(); opened != 3 || open != 2 {
			t.Errorf("%d opened, %d open, want 3 and 2", opened, open)
		}
	})
}

func TestWaitClosedFails(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.PerConnection(fetchtest.Hang(), fetchtest.Steps(fetchtest.Request(), fetchtest.Reset())))

	if err := u.WaitClosed(ended, 1); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not opened") {
		t.Errorf("before the connection: %v", err)
	}
	dial(t, u, nil)
	reset := dial(t, u, nil)
	send(t, reset, "GET / HTTP/1.1\r\n\r\n")
	if _, err := reset.Read(make([]byte, 1)); err == nil {
		t.Error("the second connection was not reset")
	}
	if err := u.WaitClosed(ended, 1); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "still open") {
		t.Errorf("while the connection is open: %v", err)
	}
	if err := u.WaitClosed(within(t), 2); err == nil || !strings.Contains(err.Error(), "own step") {
		t.Errorf("after the upstream's own reset: %v", err)
	}
	u.Close()
	if err := u.WaitClosed(within(t), 1); err == nil || !strings.Contains(err.Error(), "upstream was closed") {
		t.Errorf("after the upstream was closed: %v", err)
	}
}

func TestWaitClosedWaitsForTheConnection(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Hang())
	closed := make(chan error)
	ctx := within(t)
	go func() { closed <- u.WaitClosed(ctx, 1) }()
	dial(t, u, nil).Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a}, fetchtest.Write("hello"), fetchtest.Forever("endless"))
		conn := dial(t, u, a)
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		u.Close()
		if _, err := net.Dial("tcp", u.Addr().String()); err == nil {
			t.Error("a closed upstream still listens")
		}
		if _, open := u.Connections(); open != 0 {
			t.Errorf("%d connections are open", open)
		}
	})
}

// The step shares ended with the test and no lock: without the wait of Close
// this would be a data race.
func TestCloseWaitsForSteps(t *testing.T) {
	ended := false
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Write("hello"), func(c *fetchtest.Conn) error {
		<-c.Ended()
		ended = true
		return nil
	})
	if _, err := dial(t, u, nil).Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	u.Close()
	if !ended {
		t.Error("Close did not wait for the step")
	}
}

func TestURLs(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	plain := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Address: "[::1]:0"}})
	secure := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Authority: a}})
	if got, want := plain.URL("/a"), "http://"+plain.Addr().String()+"/a"; got != want || !strings.Contains(got, "[::1]") {
		t.Errorf("URL is %s, want %s", got, want)
	}
	_, port, err := net.SplitHostPort(secure.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := secure.URLOf("api.test", "/a?b"), "https://api.test:"+port+"/a?b"; got != want {
		t.Errorf("URLOf is %s, want %s", got, want)
	}
}

// refusing is a test that takes note of how it was failed.
type refusing struct {
	testing.TB
	message string
}

func (r *refusing) Helper() {}
func (r *refusing) Fatalf(format string, _ ...any) {
	r.message = format
	runtime.Goexit()
}

func TestNothingListensBeyondLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", "192.0.2.1:0", ":0", "localhost"} {
		r := &refusing{TB: t}
		over := make(chan struct{})
		go func() {
			defer close(over)
			fetchtest.NewScript(r, fetchtest.Listen{Address: address})
		}()
		<-over
		if !strings.Contains(r.message, "want a loopback address") {
			t.Errorf("%q was not refused: %q", address, r.message)
		}
	}
}

func TestSplitWritesKeepTheBytes(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	want := strings.Repeat("0123456789", 10_000)
	sizes := func(seed uint64) []int {
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a, Split: seed}, fetchtest.Write(want))
		conn := dial(t, u, a)
		var pieces []int
		var got strings.Builder
		buffer := make([]byte, 32<<10) // holds a whole TLS record, so each Read is one Write
		for {
			n, err := conn.Read(buffer)
			got.Write(buffer[:n])
			if err != nil {
				break
			}
			pieces = append(pieces, n)
		}
		if got.String() != want {
			t.Errorf("seed %d: the bytes are not those that were written", seed)
		}
		return pieces
	}
	first, again, other := sizes(7), sizes(7), sizes(8)
	if len(first) < 10 {
		t.Errorf("only %d pieces", len(first))
	}
	if !equal(first, again) {
		t.Errorf("one seed cuts in two ways: %v and %v", first, again)
	}
	if equal(first, other) {
		t.Error("two seeds cut in one way")
	}
	if fetchtest.Seed(t) == 0 {
		t.Error("Seed returned 0")
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
