package transport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestReusedConnectionEnds has the upstream end a connection when the second
// request arrives on it: too late for the transport to see, so the failure must
// say all that is needed to try again.
func TestReusedConnectionEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(net.Conn)
		want fetch.Reason
	}{
		"FIN": {func(c net.Conn) { c.Close() }, fetch.ReasonDisconnected},
		"RST": {func(c net.Conn) { tcp(c).SetLinger(0); tcp(c).Close() }, fetch.ReasonConnectionReset},
	} {
		for _, p := range []protocol{overH1, overTLS} {
			t.Run(fmt.Sprint(name, p.name), func(t *testing.T) {
				config := h1TLS()
				if !p.secure {
					config = nil
				}
				u := rawUpstream(t, config, func(conn net.Conn) {
					br := bufio.NewReader(conn)
					readRequest(br)
					io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
					if _, err := readRequest(br); err == nil {
						c.end(conn)
					}
				})
				tr := newTransport(t)
				do(t, tr, get(t, u.url, p))
				f, facts := fails(t, tr, get(t, u.url, p), c.want)
				if !facts.Reused || facts.Stale != 0 || facts.Dials != 0 || f.Sent != fetch.SentYes || f.Stage != fetch.StageHead {
					t.Errorf("%+v, %+v", f, facts)
				}
				do(t, tr, get(t, u.url, p)) // on a fresh one
			})
		}
	}
}

func tcp(c net.Conn) *net.TCPConn {
	if secured, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secured.NetConn()
	}
	return c.(*net.TCPConn)
}

// TestHalfClosedConnections are not used again, however the upstream ends them.
func TestHalfClosedConnections(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn){
		"FIN and still open": func(c *net.TCPConn) { c.CloseWrite() },
		"FIN":                func(c *net.TCPConn) { c.Close() },
		"RST":                func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			let, ended := make(chan struct{}), make(chan struct{}, 2)
			u := rawUpstream(t, nil, func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				<-let
				end(tcp(c))
				ended <- struct{}{}
				io.Copy(io.Discard, c)
			})
			tr := newTransport(t)
			do(t, tr, get(t, u.url, overH1))
			close(let)
			<-ended
			if e := do(t, tr, get(t, u.url, overH1)); e.facts.Reused || e.facts.Stale != 1 || e.facts.Dials != 1 {
				t.Errorf("%+v", e.facts)
			}
		})
	}
}

// TestUpstreamRestarts ends 1,000 idle connections, then sends 1,000 requests
// at once: none of them may meet a dead one.
func TestUpstreamRestarts(t *testing.T) {
	const many = 1000
	for _, p := range []protocol{overH1, overH2C} {
		t.Run(p.name, func(t *testing.T) {
			var here sync.WaitGroup
			let := make(chan struct{})
			u := restartable(t, p, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/wait" {
					here.Done()
					<-let
				}
			})
			tr := newTransport(t, func(l *fetch.Limits) { l.MaxIdlePerRoute, l.MaxConnectionsPerRoute = many, many })
			send := func(path string) (failed, stale int64) {
				var f, s atomic.Int64
				var all sync.WaitGroup
				for range many {
					all.Go(func() {
						r := get(t, u.url+path, p)
						r.Timeouts.Head = 30 * time.Second
						resp, facts, err := tr.RoundTrip(t.Context(), r)
						s.Add(int64(facts.Stale))
						if err != nil {
							f.Add(1)
							t.Log(err)
							return
						}
						resp.Body.Close()
					})
				}
				if path == "/wait" {
					here.Wait()
					close(let)
				}
				all.Wait()
				return f.Load(), s.Load()
			}
			here.Add(many)
			if failed, _ := send("/wait"); failed > 0 {
				t.Fatalf("%d requests failed at the start", failed)
			}
			u.restart()
			failed, stale := send("/")
			t.Logf("%d of %d requests failed, %d dead connections were found before use", failed, many, stale)
			if failed > 0 {
				t.Errorf("%d requests failed", failed)
			}
		})
	}
}

// restarting is an upstream that can end all of its connections and go on.
type restarting struct {
	url     string
	restart func()
}

func restartable(t *testing.T, p protocol, handler http.HandlerFunc) restarting {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	address := l.Addr().String()
	var server *http.Server
	var serving sync.WaitGroup
	start := func(l net.Listener) {
		server = &http.Server{Handler: handler, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(p.is == "HTTP/1.1")
		server.Protocols.SetUnencryptedHTTP2(p.is == "HTTP/2")
		running := server
		serving.Go(func() { running.Serve(l) })
	}
	start(l)
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return restarting{"http://" + address, func() {
		server.Close()
		serving.Wait()
		l, err := net.Listen("tcp", address)
		check(err)
		start(l)
	}}
}

// descriptorTest is the environment of the process that TestDescriptorsRunOut
// starts.
const descriptorTest = "TEST_DESCRIPTORS_RUN_OUT"

// TestDescriptorsRunOut takes all file descriptors of a process of its own.
func TestDescriptorsRunOut(t *testing.T) {
	if os.Getenv(descriptorTest) != "" {
		runOutOfDescriptors(t)
		return
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDescriptorsRunOut$", "-test.timeout=30s")
	c.Env = append(os.Environ(), descriptorTest+"=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func runOutOfDescriptors(t *testing.T) {
	u := serve(t, overH1, func(http.ResponseWriter, *http.Request) {})
	tr := newTransport(t)
	do(t, tr, get(t, u.url, overH1)) // whatever is opened once is open
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	r := get(t, u.url, overH1)
	r.Fresh = true
	began := time.Now()
	f, facts := fails(t, tr, r, fetch.ReasonConnectUnreachable)
	if f.Blame != fetch.BlameFetchgate || f.Sent != fetch.SentNo || facts.Dials > 1 || time.Since(began) > time.Second {
		t.Errorf("after %s: %+v, %+v", time.Since(began), f, facts)
	}
	if !strings.Contains(f.Message, "file descriptor") {
		t.Error(f.Message)
	}
	for _, f := range taken {
		f.Close()
	}
	do(t, tr, r)
}

// TestPortsRunOut has the system refuse a local port, as it does when all are in
// use: once per address, not again and again.
func TestPortsRunOut(t *testing.T) {
	r := get(t, "http://127.0.0.1:9", overH1)
	var asked atomic.Int64
	tr := newTransportOn(t, func(ctx context.Context) error {
		asked.Add(1)
		return &net.OpError{Op: "dial", Net: "tcp4", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
	})
	f, facts := fails(t, tr, r, fetch.ReasonConnectUnreachable)
	if asked.Load() != 1 || facts.Dials != 1 || f.Sent != fetch.SentNo || !errors.Is(f, syscall.EADDRNOTAVAIL) {
		t.Errorf("%d connects, %+v, %+v", asked.Load(), f, facts)
	}
}
