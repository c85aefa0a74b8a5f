package fetchtest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the most that a test waits for what must happen at once.
const patience = 10 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// dial opens a connection to an upstream, with TLS if there is an authority.
func dial(t *testing.T, u *fetchtest.Upstream, a *fetchtest.Authority, protocols ...string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", u.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if a == nil {
		return conn
	}
	return tls.Client(conn, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", NextProtos: protocols})
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// answer reads a response and its body.
func answer(t *testing.T, r *bufio.Reader, method string) (status int, body string) {
	t.Helper()
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode, string(content)
}

// overBoth runs a test over plain TCP and over TLS.
func overBoth(t *testing.T, test func(t *testing.T, a *fetchtest.Authority)) {
	t.Run("tcp", func(t *testing.T) { test(t, nil) })
	t.Run("tls", func(t *testing.T) { test(t, fetchtest.NewAuthority(t)) })
}

// client returns a client that trusts an authority.
func client(t *testing.T, a *fetchtest.Authority) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	if a != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: a.Pool()}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
