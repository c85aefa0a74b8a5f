package main

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

func TestGetWithoutService(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	r := runHere(t.Context(), "", "get", "--address", address, "http://example.com/")
	r.wantCode(t, exitRPC)
	want := "fetchgate: cannot reach fetchgate at " + address + "\n  connection refused\n  next: start it with: make run"
	if !strings.HasPrefix(r.err, want) {
		t.Errorf("it says\n%swant\n%s", r.err, want)
	}
}

// listen gives every connection to serve until the test ends, and returns the
// address. Connections are closed when serve returns, and at the end.
func listen(t *testing.T, serve func(context.Context, net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				serve(ctx, conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		cancel()
		running.Wait()
	})
	return listener.Addr().String()
}

func silent(ctx context.Context, _ net.Conn) { <-ctx.Done() }

// answering says text to whoever has sent something.
func answering(text string) func(context.Context, net.Conn) {
	return func(_ context.Context, conn net.Conn) {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, conn)
		}
	}
}

// breaking greets as HTTP/2 does and is gone when the RPC has begun, which is
// after more bytes than the greeting of the client has.
func breaking(_ context.Context, conn net.Conn) {
	_, _ = io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	_, _ = io.ReadFull(conn, make([]byte, 100))
}

// TestGetFromSomethingElse: what listens at the address is no fetchgate.
func TestGetFromSomethingElse(t *testing.T) {
	const notGRPC, unreachable = "fetchgate: what answers at ADDRESS does not speak gRPC\n  next: give fetchgate's gRPC port", "fetchgate: cannot reach fetchgate at ADDRESS\n"
	for name, c := range map[string]struct {
		serve func(context.Context, net.Conn)
		says  string
	}{
		"HTTP/1.1":     {answering("HTTP/1.1 400 Bad Request\r\n\r\n"), notGRPC},
		"no HTTP":      {answering("-ERR unknown command\r\n"), notGRPC},
		"hangs up":     {func(context.Context, net.Conn) {}, unreachable + "  what listens there takes connections and says nothing\n  next: start it with"},
		"breaks later": {breaking, "fetchgate: the connection to fetchgate at ADDRESS broke\n"},
	} {
		t.Run(name, func(t *testing.T) {
			address := listen(t, c.serve)
			r := runHere(t.Context(), "", "get", "--address", address, "http://example.com/")
			r.wantCode(t, exitRPC)
			if want := strings.Replace(c.says, "ADDRESS", address, 1); !strings.HasPrefix(r.err, want) {
				t.Errorf("it says\n%swant\n%s", r.err, want)
			}
		})
	}
}

// TestGetFromSilence: what accepts connections and says nothing is not reached,
// and is waited for no longer than a connection may take.
func TestGetFromSilence(t *testing.T) {
	address := listen(t, silent)
	want := "fetchgate: cannot reach fetchgate at " + address + "\n  what listens there takes connections and says nothing\n"
	t.Run("deadline first", func(t *testing.T) {
		service, err := dial(address, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer service.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = service.Fetch(ctx, &fetchgatev1.FetchRequest{})
		var said strings.Builder
		if code := tell(&said, service.problem(ctx, err, "fetchgate")); code != exitRPC || !strings.HasPrefix(said.String(), want) {
			t.Errorf("exit code %d; it says\n%s", code, said.String())
		}
	})
	if testing.Short() {
		t.Skip("the rest waits until a connection has taken too long")
	}
	var running sync.WaitGroup
	for _, args := range [][]string{nil, {"--timeout", "60s"}} {
		running.Go(func() {
			start := time.Now()
			r := runHere(t.Context(), "", append([]string{"get", "--address", address, "http://example.com/"}, args...)...)
			r.wantCode(t, exitRPC)
			if took := time.Since(start); took > 2*connectTimeout || !strings.HasPrefix(r.err, want) {
				t.Errorf("%q: after %s it says\n%s", args, took, r.err)
			}
		})
	}
	running.Wait()
}
