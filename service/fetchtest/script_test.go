package fetchtest_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestScriptWritesBeforeItReads(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a},
			fetchtest.Write("SSH-2.0-x\r\n"), fetchtest.Dribble("ab\x00"), fetchtest.Repeat(3, "cd"), fetchtest.Repeat(0, "none"))
		got, err := io.ReadAll(dial(t, u, a))
		if want := "SSH-2.0-x\r\nab\x00cdcdcd"; string(got) != want || err != nil {
			t.Errorf("got %q, %v, want %q and the end", got, err, want)
		}
	})
}

func TestRepeatWritesEveryTime(t *testing.T) {
	const n, text = 10_001, "0123456789"
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Repeat(n, text))
	for range 2 {
		if got, err := io.ReadAll(dial(t, u, nil)); string(got) != strings.Repeat(text, n) || err != nil {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, n*len(text))
		}
	}
}

func TestDribbledBytesAreRecords(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	conn := dial(t, fetchtest.NewScript(t, fetchtest.Listen{Authority: a}, fetchtest.Dribble("abc")), a)
	for _, want := range "abc" {
		buffer := make([]byte, 10)
		if n, err := conn.Read(buffer); n != 1 || rune(buffer[0]) != want || err != nil {
			t.Errorf("got %q, %v, want %q", buffer[:n], err, want)
		}
	}
}

func TestScriptReadsARequest(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{},
		fetchtest.Request(), fetchtest.Answer(204, "", "X-First: 1"), fetchtest.Request(), fetchtest.Answer(200, "second"))
	conn := dial(t, u, nil)
	reader := bufio.NewReader(conn)
	send(t, conn, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
	if status, _ := answer(t, reader, "POST"); status != http.StatusNoContent {
		t.Errorf("got %d, want 204", status)
	}
	send(t, conn, "HEAD / HTTP/1.1\r\n\r\n")
	if status, body := answer(t, reader, "HEAD"); status != http.StatusOK || body != "" {
		t.Errorf("got %d %q, want 200", status, body)
	}
	if rest, err := io.ReadAll(reader); len(rest) != 0 || err != nil {
		t.Errorf("a HEAD request got a body: %q, %v", rest, err)
	}
}

func TestScriptEndsAtWhatIsNoRequest(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("never"))
	conn := dial(t, u, nil)
	send(t, conn, "\x00\x01\x02\r\n")
	if got, _ := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestPauseWaits(t *testing.T) {
	until := make(chan struct{})
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Write("a"), fetchtest.Pause(until), fetchtest.Write("b"))
	conn := dial(t, u, nil)
	if n, err := conn.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Fatalf("got %d bytes, %v, want the first alone", n, err)
	}
	close(until)
	if rest, err := io.ReadAll(conn); string(rest) != "b" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestEndsOfAConnection(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	for _, c := range []struct {
		name      string
		authority *fetchtest.Authority
		step      fetchtest.Step
		want      error // of the read after "cut"
	}{
		{"half-close", nil, fetchtest.HalfClose(), io.EOF},
		{"half-close of TLS", a, fetchtest.HalfClose(), io.EOF},
		{"truncation", nil, fetchtest.CloseWithoutNotify(), io.EOF},
		{"truncation of TLS", a, fetchtest.CloseWithoutNotify(), io.EOF},
		{"reset", nil, fetchtest.Reset(), syscall.ECONNRESET},
		{"reset of TLS", a, fetchtest.Reset(), syscall.ECONNRESET},
		{"close", nil, func(c *fetchtest.Conn) error { return c.Close() }, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived := make(chan struct{})
			u := fetchtest.NewScript(t, fetchtest.Listen{Authority: c.authority},
				fetchtest.Write("cut"), fetchtest.Pause(arrived), c.step, fetchtest.Write("never"))
			conn := dial(t, u, c.authority)
			if _, err := io.ReadFull(conn, make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			close(arrived)
			if n, err := conn.Read(make([]byte, 10)); n != 0 || !errors.Is(err, c.want) {
				t.Errorf("got %d bytes, %v, want %v", n, err, c.want)
			}
		})
	}
}

// counting counts the bytes that are read below TLS.
type counting struct {
	net.Conn
	read int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read += n
	return n, err
}

// crypto/tls reports io.EOF with and without the alert, so the difference is
// looked for below it.
func TestOnlyHalfCloseSendsCloseNotify(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	afterData := func(end fetchtest.Step) int {
		arrived := make(chan struct{})
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a}, fetchtest.Write("x"), fetchtest.Pause(arrived), end)
		below := &counting{Conn: dial(t, u, nil)}
		conn := tls.Client(below, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost"})
		if _, err := conn.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		before := below.read
		close(arrived)
		if _, err := conn.Read(make([]byte, 10)); err != io.EOF {
			t.Fatalf("got %v, want EOF", err)
		}
		return below.read - before
	}
	if n := afterData(fetchtest.HalfClose()); n == 0 {
		t.Error("HalfClose sent no close_notify")
	}
	if n := afterData(fetchtest.CloseWithoutNotify()); n != 0 {
		t.Errorf("CloseWithoutNotify sent %d bytes", n)
	}
}

func TestHalfCloseStillReads(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Write("early answer"))
	conn := dial(t, u, nil)
	send(t, conn, strings.Repeat("unread", 100_000))
	if got, err := io.ReadAll(conn); string(got) != "early answer" || err != nil {
		t.Errorf("got %q, %v: unread bytes reset the connection", got, err)
	}
	conn.Close()
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
}

func TestForeverEndsWithThePeer(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		u := fetchtest.NewScript(t, fetchtest.Listen{Authority: a}, fetchtest.Forever("x"))
		conn := dial(t, u, a)
		if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := u.WaitClosed(within(t), 1); err != nil {
			t.Error(err)
		}
	})
}

func TestStepsPerConnection(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{},
		fetchtest.PerConnection(fetchtest.Write("first"), fetchtest.Steps(fetchtest.Write("sec"), fetchtest.Write("ond"))))
	for _, want := range []string{"first", "second", "second"} {
		if got, err := io.ReadAll(dial(t, u, nil)); string(got) != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestScriptTakesAnyTLS(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	old := &tls.Config{Certificates: []tls.Certificate{a.Issue(fetchtest.IssueOptions{})}, MaxVersion: tls.VersionTLS12}
	conn := dial(t, fetchtest.NewScript(t, fetchtest.Listen{TLS: old}), a).(*tls.Conn)
	if err := conn.Handshake(); err != nil || conn.ConnectionState().Version != tls.VersionTLS12 {
		t.Errorf("got version %x, %v, want TLS 1.2", conn.ConnectionState().Version, err)
	}
}
