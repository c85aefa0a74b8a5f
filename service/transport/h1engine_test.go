package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// overBoth runs a test over HTTP/1.1 with and without TLS; config is nil
// without.
func overBoth(t *testing.T, test func(t *testing.T, p protocol, config *tls.Config)) {
	t.Run(overH1.name, func(t *testing.T) { test(t, overH1, nil) })
	t.Run(overTLS.name, func(t *testing.T) { test(t, overTLS, h1TLS()) })
}

// waitingUpstream is the environment of the process that is the upstream of
// TestWaitingCostsLittle: "http" or "https".
const waitingUpstream = "TEST_WAITING_UPSTREAM"

// TestWaitingCostsLittle opens many exchanges whose upstream, a process of its
// own, has sent the head and nothing of the body. They cost no goroutine but the
// callers' own, and no buffer; no more do the idle connections that they leave.
func TestWaitingCostsLittle(t *testing.T) {
	if scheme := os.Getenv(waitingUpstream); scheme != "" {
		serveWaiting(scheme == "https")
		os.Exit(0)
	}
	for _, c := range []struct {
		p protocol
		// Bytes of the heap for one exchange or idle connection. Most of those
		// over TLS are crypto/tls's.
		most int
	}{{overH1, 4 << 10}, {overTLS, 12 << 10}} {
		t.Run(c.p.name, func(t *testing.T) { wait(t, c.p, c.most) })
	}
}

func wait(t *testing.T, p protocol, most int) {
	many := 2000
	if p.secure && testing.Short() {
		many = 500 // handshakes take their time
	}
	const others = 20 // goroutines that are none of this test's
	url, roots := startWaiting(t, p)
	limits := fetch.DefaultLimits()
	limits.MaxConnectionsPerRoute, limits.MaxIdlePerRoute, limits.MaxIdle = 2*many, many, many
	limits.IdleTimeout, limits.ConnectionLifetime = time.Hour, time.Hour
	tr := transport.New(transport.Options{Dialer: dial.New(dial.Options{Resolver: hosts{}}), Roots: roots, Limits: limits})
	defer func() { check(tr.Close(context.Background())) }()
	do(t, tr, get(t, url+"/first", p)) // what is made once is made

	heap, goroutines := heapInUse(), runtime.NumGoroutine()
	bodies := make([]fetch.Body, many)
	for i := range bodies {
		r := get(t, url+"/wait", p)
		r.Timeouts.Idle = time.Minute
		resp, _, err := tr.RoundTrip(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		bodies[i] = resp.Body
	}
	if n := runtime.NumGoroutine() - goroutines; n > others {
		t.Errorf("%d exchanges whose head came have %d goroutines", many, n)
	}
	var all sync.WaitGroup
	var lent, whole atomic.Int64
	for _, b := range bodies {
		all.Go(func() {
			got, _, err := b.ReadChunk(func() []byte { lent.Add(1); return make([]byte, 16) })
			if string(got) == "ok" && err == io.EOF {
				whole.Add(1)
			}
		})
	}
	for waitingReaders() < many {
		<-time.After(5 * time.Millisecond)
	}
	each := (int(heapInUse()) - int(heap)) / many
	t.Logf("%d bytes of the heap for each exchange that waits for its body", each)
	if n := runtime.NumGoroutine() - goroutines; n > many+others {
		t.Errorf("%d readers have %d goroutines", many, n)
	}
	if each > most || lent.Load() != 0 {
		t.Errorf("%d bytes for each, want at most %d; %d buffers are lent", each, most, lent.Load())
	}
	do(t, tr, get(t, url+"/release", p))
	all.Wait()
	clear(bodies)
	each = (int(heapInUse()) - int(heap)) / many
	t.Logf("%d bytes of the heap for each idle connection", each)
	if n := runtime.NumGoroutine() - goroutines; n > others || each > most || int(whole.Load()) != many || tr.Stats().Open[fetch.PoolState{State: "idle", Protocol: "h1"}] != many {
		t.Errorf("%d goroutines, %d bytes for each, %d whole, %+v", n, each, whole.Load(), tr.Stats())
	}
}

// waitingReaders counts the goroutines that wait for the body of a response.
func waitingReaders() (n int) {
	buf := make([]byte, 16<<20)
	for _, stack := range bytes.Split(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("[IO wait")) && bytes.Contains(stack, []byte("ReadChunk")) {
			n++
		}
	}
	return n
}

// heapInUse is what is reachable. Pools let go of what they hold at the second
// collection.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// startWaiting starts the upstream, which ends with the test.
func startWaiting(t *testing.T, p protocol) (url string, roots *x509.CertPool) {
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWaitingCostsLittle$", "-test.timeout=90s")
	scheme := "http"
	if p.secure {
		scheme = "https"
	}
	c.Env = append(os.Environ(), waitingUpstream+"="+scheme)
	in, err := c.StdinPipe()
	check(err)
	out, err := c.StdoutPipe()
	check(err)
	check(c.Start())
	t.Cleanup(func() { in.Close(); c.Wait() })
	br := bufio.NewReader(out)
	address, err := br.ReadString('\n')
	check(err)
	var certificate strings.Builder
	for !strings.Contains(certificate.String(), "END CERTIFICATE") {
		line, err := br.ReadString('\n')
		check(err)
		certificate.WriteString(line)
	}
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(certificate.String())) {
		t.Fatal("no certificate")
	}
	return scheme + "://" + strings.TrimSpace(address), roots
}

// serveWaiting serves until the standard input ends.
func serveWaiting(secure bool) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(l.Addr())
	check(pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: ca().cert.Raw}))
	if secure {
		l = tls.NewListener(l, h1TLS())
	}
	release := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			check(err)
			go playWaiting(c, release)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

func playWaiting(c net.Conn, release chan struct{}) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		raw, err := readRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: test\r\n\r\n")
		switch {
		case strings.HasPrefix(raw, "GET /wait "):
			<-release
		case strings.HasPrefix(raw, "GET /release "):
			close(release)
		}
		io.WriteString(c, "ok")
	}
}

// TestH1ConnectionIsUsedAgain counts the connections of two requests that are
// answered alike.
func TestH1ConnectionIsUsedAgain(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name, method, answer, body string
		again                      bool
	}{
		{"length", "GET", ok + "Content-Length: 2\r\n\r\nok", "ok", true},
		{"length of 0", "GET", ok + "Content-Length: 0\r\n\r\n", "", true},
		{"the same length twice", "GET", ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok", true},
		{"chunks", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", "ok", true},
		{"no chunk", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", true},
		{"chunks and trailers", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n", "ok", true},
		{"large chunks", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n9000\r\n" + strings.Repeat("x", 0x9000) + "\r\n0\r\n\r\n", strings.Repeat("x", 0x9000), true},
		{"HEAD", "HEAD", ok + "Content-Length: 2\r\n\r\n", "", true},
		{"HEAD of chunks", "HEAD", ok + "Transfer-Encoding: chunked\r\n\r\n", "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "", true},
		{"HTTP/1.0 that keeps", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", "ok", true},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"close", "GET", ok + "Connection: x, Close\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"a byte behind a length", "GET", ok + "Content-Length: 2\r\n\r\nok!", "ok", false},
		{"a byte behind chunks", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!", "ok", false},
		{"a byte behind no chunk", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n!", "", false},
		{"a login of the connection is offered", "GET", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"a login of the request is asked for", "GET", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok", "ok", true},
		{"a body behind HEAD", "HEAD", ok + "Content-Length: 2\r\n\r\nok", "", false},
		{"a body behind 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nok", "", false},
		{"a body behind 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
				u := answers(t, config, c.answer, c.answer, c.answer)
				tr := newTransport(t)
				for i := range 3 {
					r := get(t, u.url, p)
					r.Method = c.method
					e := do(t, tr, r)
					// A leftover is found with the answer, not when the next request
					// is to go out.
					if string(e.body) != c.body || e.err != nil || e.facts.Reused != (c.again && i > 0) || e.facts.Stale != 0 {
						t.Errorf("answer %d is %.20q, %v, %+v", i, e.body, e.err, e.facts)
					}
				}
				if n := u.conns.Load(); c.again && n != 1 || !c.again && n != 3 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// TestH1PartialRecordLendsNoBuffer sends a record of TLS byte by byte.
func TestH1PartialRecordLendsNoBuffer(t *testing.T) {
	taken := make(chan struct{})
	var lent atomic.Int64
	u := rawUpstream(t, nil, func(c net.Conn) {
		cork := &corked{Conn: c}
		secured := tls.Server(cork, h1TLS())
		if secured.Handshake() != nil {
			return
		}
		readRequest(bufio.NewReader(secured))
		io.WriteString(secured, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
		cork.on = true
		io.WriteString(secured, "hello")
		for i, b := range cork.buf {
			<-taken
			if n := lent.Load(); n > 0 {
				t.Errorf("a buffer is lent with byte %d of %d", i, len(cork.buf))
			}
			c.Write([]byte{b})
		}
	})
	d := &noting{Dialer: dial.New(dial.Options{Resolver: hosts{}})}
	tr := transport.New(transport.Options{Dialer: d, Roots: ca().pool, Limits: fetch.DefaultLimits()})
	defer func() { check(tr.Close(context.Background())) }()
	r := get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS)
	resp, _, err := tr.RoundTrip(t.Context(), r)
	check(err)
	defer resp.Body.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b, _, err := resp.Body.ReadChunk(func() []byte { lent.Add(1); return make([]byte, 100) })
		if string(b) != "hello" || err != io.EOF {
			t.Errorf("%q, %v", b, err)
		}
	}()
	for {
		select {
		case taken <- struct{}{}: // each byte, before the next comes
			d.awaitCalm(r.Route.Key)
			continue
		case <-ended:
		}
		break
	}
}

// TestH1IdleTLS has messages of TLS's own come on an idle connection, and time
// pass there: it is used again.
func TestH1IdleTLS(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, c := range map[string]struct {
		come func(s *sealer) error
		// reply is how many bytes of TLS the upstream gets for it.
		reply int
		idle  time.Duration // a sweep comes after a sixth of it
	}{
		"a ticket":                      {(*sealer).ticket, 0, time.Hour},
		"a ticket before a sweep":       {(*sealer).ticket, 0, 3 * time.Second},
		"a KeyUpdate":                   {func(s *sealer) error { return s.update(0) }, 0, time.Hour},
		"a KeyUpdate that asks for one": {func(s *sealer) error { return s.update(1) }, 5 + 5 + 1 + 16, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			let := make(chan struct{})
			u := rawUpstream(t, nil, func(conn net.Conn) {
				s := newSealer(sipping{conn})
				if s == nil {
					return
				}
				buf := make([]byte, 4096)
				conn.Read(buf)
				s.write(23, []byte(answer)...)
				select {
				case <-let:
				case <-t.Context().Done():
					return
				}
				if err := c.come(s); err != nil {
					t.Error(err)
				}
				io.ReadFull(conn, buf[:c.reply])
				conn.Read(buf)
				s.write(23, []byte(answer)...)
				io.Copy(io.Discard, conn)
			})
			d := &noting{Dialer: dial.New(dial.Options{Resolver: hosts{}})}
			limits := fetch.DefaultLimits()
			limits.IdleTimeout = c.idle
			tr := transport.New(transport.Options{Dialer: d, Roots: ca().pool, Limits: limits})
			defer func() { check(tr.Close(context.Background())) }()
			r := get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS)
			do(t, tr, r)
			close(let)
			d.awaitStir(r.Route.Key)
			if c.idle < time.Hour {
				<-time.After(c.idle / 6 * 3 / 2)
			}
			if e := do(t, tr, r); !e.facts.Reused || e.facts.Stale != 0 || string(e.body) != "ok" {
				t.Errorf("%+v, %q", e.facts, e.body)
			}
		})
	}
}

// sipping is a connection that is read byte by byte, so that TLS reads nothing
// behind what it needs.
type sipping struct{ net.Conn }

func (s sipping) Read(p []byte) (int, error) { return s.Conn.Read(p[:min(1, len(p))]) }

// TestH1TimeoutsEndWithTheirRequest leaves a connection idle for longer than
// any read of its last response could take.
func TestH1TimeoutsEndWithTheirRequest(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
		const answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
		u := answers(t, config, answer, answer)
		tr := newTransport(t)
		r := get(t, u.url, p)
		r.Timeouts.Head, r.Timeouts.Idle, r.Timeouts.Write = 500*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
		do(t, tr, r)
		<-time.After(60 * time.Millisecond)
		if e := do(t, tr, r); !e.facts.Reused || e.facts.Stale != 0 {
			t.Errorf("%+v", e.facts)
		}
	})
}

// TestH1IdleTLSEnds ends an idle connection in every way, when the time of its
// last read is over.
func TestH1IdleTLSEnds(t *testing.T) {
	for name, end := range map[string]func(c net.Conn){
		"close_notify":         func(c net.Conn) { c.(*tls.Conn).CloseWrite() },
		"close_notify and FIN": func(c net.Conn) { c.Close() },
		"FIN":                  func(c net.Conn) { tcp(c).CloseWrite() },
		"RST":                  func(c net.Conn) { tcp(c).SetLinger(0); tcp(c).Close() },
		"a byte":               func(c net.Conn) { c.Write([]byte("x")) },
		"no TLS":               func(c net.Conn) { tcp(c).Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			let := make(chan struct{})
			u := rawUpstream(t, h1TLS(), func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
				<-let
				end(c)
				io.Copy(io.Discard, tcp(c))
			})
			d := &noting{Dialer: dial.New(dial.Options{Resolver: hosts{}})}
			tr := transport.New(transport.Options{Dialer: d, Roots: ca().pool, Limits: fetch.DefaultLimits()})
			defer func() { check(tr.Close(context.Background())) }()
			r := get(t, u.url, overTLS)
			r.Timeouts.Idle = 30 * time.Millisecond
			do(t, tr, r)
			<-time.After(40 * time.Millisecond)
			close(let)
			d.awaitStir(r.Route.Key)
			if e := do(t, tr, r); e.facts.Reused || e.facts.Stale != 1 || e.facts.Dials != 1 {
				t.Errorf("%+v", e.facts)
			}
		})
	}
}

// TestH1TruncationIsSeen ends bodies over TLS without a close_notify.
func TestH1TruncationIsSeen(t *testing.T) {
	const untilEnd, length = "HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	for name, c := range map[string]struct {
		answer string
		end    func(c net.Conn)
		cut    bool
	}{
		"close_notify":                 {untilEnd, func(c net.Conn) { c.(*tls.Conn).CloseWrite() }, false},
		"FIN":                          {untilEnd, func(c net.Conn) {}, true},
		"FIN in a record":              {untilEnd, func(c net.Conn) { tcp(c).Write([]byte{23, 3, 3, 0, 100, 1, 2, 3}) }, true},
		"FIN in the head of a record":  {untilEnd, func(c net.Conn) { tcp(c).Write([]byte{23, 3}) }, true},
		"FIN behind all of the length": {length, func(c net.Conn) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := rawUpstream(t, h1TLS(), func(conn net.Conn) {
				readRequest(bufio.NewReader(conn))
				io.WriteString(conn, c.answer)
				c.end(conn)
			})
			e := do(t, newTransport(t), get(t, u.url, overTLS))
			if string(e.body) != "hello" || !c.cut && e.err != nil {
				t.Errorf("%q, %v", e.body, e.err)
			}
			if c.cut {
				isFailure(t, e.err, fetch.ReasonIncompleteBody)
			}
		})
	}
}

// TestH1FramingDrips sends what is around chunks byte by byte, without end: that
// is no progress of the body.
func TestH1FramingDrips(t *testing.T) {
	for name, begin := range map[string]string{
		"an extension": "5\r\nhello\r\n5;x=",
		"a trailer":    "5\r\nhello\r\n0\r\nx: ",
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
				u := rawUpstream(t, config, func(c net.Conn) {
					readRequest(bufio.NewReader(c))
					io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+begin)
					tick := time.NewTicker(5 * time.Millisecond)
					defer tick.Stop()
					for range tick.C {
						if _, err := c.Write([]byte("x")); err != nil {
							return
						}
					}
				})
				r := get(t, u.url, p)
				r.Timeouts.Idle = 100 * time.Millisecond
				began := time.Now()
				e := do(t, newTransport(t), r)
				isFailure(t, e.err, fetch.ReasonBodyTimeout)
				if took := time.Since(began); string(e.body) != "hello" || took > 2*time.Second {
					t.Errorf("%q after %s", e.body, took)
				}
				u.waitGone(t)
			})
		})
	}
}

// TestH1HeadAtTheLimits sends heads that are as large as may be, and larger by
// one, at once and in pieces.
func TestH1HeadAtTheLimits(t *testing.T) {
	limits := fetch.DefaultLimits()
	head := func(size, fields int) string {
		const line, length = "HTTP/1.1 200 OK\r\n", "Content-Length: 2\r\n"
		s := line + length + strings.Repeat("a:\r\n", fields-2) + "b:"
		return s + strings.Repeat("x", size-len(s)-4) + "\r\n\r\n"
	}
	for _, c := range []struct {
		name         string
		size, fields int
		refused      bool
	}{
		{"most bytes", limits.MaxResponseFieldBytes, 3, false},
		{"one byte more", limits.MaxResponseFieldBytes + 1, 3, true},
		{"most fields", 2000, limits.MaxResponseFields, false},
		{"one field more", 2000, limits.MaxResponseFields + 1, true},
		{"most of both", limits.MaxResponseFieldBytes, limits.MaxResponseFields, false},
	} {
		for _, piece := range []int{16 << 10, 1 << 20, 1000} {
			t.Run(fmt.Sprint(c.name, " in pieces of ", piece), func(t *testing.T) {
				overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
					u := rawUpstream(t, config, func(conn net.Conn) {
						br := bufio.NewReader(conn)
						for {
							if _, err := readRequest(br); err != nil {
								return
							}
							for b := []byte(head(c.size, c.fields) + "ok"); len(b) > 0; {
								n, err := conn.Write(b[:min(piece, len(b))])
								if err != nil {
									return
								}
								b = b[n:]
							}
						}
					})
					tr := newTransport(t)
					if c.refused {
						fails(t, tr, get(t, u.url, p), fetch.ReasonHeadTooLarge)
						return
					}
					for i := range 2 {
						e := do(t, tr, get(t, u.url, p))
						if len(e.Fields) != c.fields || string(e.body) != "ok" || e.err != nil || e.facts.Reused != (i == 1) {
							t.Errorf("%d fields, %q, %v, %+v", len(e.Fields), e.body, e.err, e.facts)
						}
					}
				})
			})
		}
	}
}

// TestH1WriteBlocked uploads to an upstream that reads nothing of the body.
func TestH1WriteBlocked(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
		ended := make(chan struct{})
		u := rawUpstream(t, config, func(c net.Conn) {
			c.Read(make([]byte, 16)) // TLS shakes hands
			<-ended
		})
		defer close(ended)
		b := endless{newBody(nil)}
		r := post(t, u.url, p, b, -1)
		r.Timeouts.Write = 100 * time.Millisecond
		began := time.Now()
		f, _ := fails(t, newTransport(t), r, fetch.ReasonWriteTimeout)
		if took := time.Since(began); f.Sent != fetch.SentYes || took > 5*time.Second {
			t.Errorf("after %s: %+v", took, f)
		}
		isClosed(t, b.bodyT)
	})
}

// TestH1AnswerToHalfAnUpload gets the whole answer of an upstream that then
// reads no more, and is not held up by what it does not read.
func TestH1AnswerToHalfAnUpload(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
		ended := make(chan struct{})
		u := rawUpstream(t, config, func(c net.Conn) {
			c.Read(make([]byte, 16))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			<-ended
		})
		defer close(ended)
		b := endless{newBody(nil)}
		began := time.Now()
		tr := newTransport(t)
		e := do(t, tr, post(t, u.url, p, b, -1))
		if took := time.Since(began); string(e.body) != "ok" || e.err != nil || took > 2*time.Second {
			t.Errorf("after %s: %q, %v", took, e.body, e.err)
		}
		isClosed(t, b.bodyT)
		if n := tr.Stats().Open; len(n) > 0 {
			t.Errorf("still open: %v", n)
		}
	})
}

// halfReader is a dialer to an upstream that reads so much, answers, and reads
// no more.
type halfReader struct {
	reads  int64
	status int
	ended  chan struct{}
}

func (d *halfReader) Dial(context.Context, string, uint16, fetch.Route, fetch.Timeouts, int) (dial.Result, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer close(d.ended)
		defer theirs.Close()
		br := bufio.NewReaderSize(theirs, 16)
		for line := ""; line != "\r\n"; line, _ = br.ReadString('\n') {
		}
		io.CopyN(io.Discard, br, d.reads)
		fmt.Fprintf(theirs, "HTTP/1.1 %d Status\r\nContent-Length: 2\r\n\r\nok", d.status)
		<-time.After(time.Minute)
	}()
	return dial.Result{Conn: ours, Remote: netip.MustParseAddrPort("192.0.2.1:80"), Dials: 1}, nil
}

// TestH1LastPiece has an upstream answer before it took the last piece of an
// upload, all of which has been read at its source. One that refuses it gets
// little time for that, one that does not as much as for any piece.
func TestH1LastPiece(t *testing.T) {
	const length, write = 40_000, 2 * time.Second
	for status, want := range map[int]time.Duration{413: 50 * time.Millisecond, 200: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			d := &halfReader{reads: 35_000, status: status, ended: make(chan struct{})}
			tr := transport.New(transport.Options{Dialer: d, Limits: fetch.DefaultLimits()})
			b := newBody(strings.NewReader(strings.Repeat("x", length)))
			r := post(t, "http://192.0.2.1:80", overH1, b, length)
			r.Timeouts.Write = write
			began := time.Now()
			e := do(t, tr, r)
			if took := time.Since(began); took != want || string(e.body) != "ok" || e.err != nil {
				t.Errorf("%d after %s: %q, %v", status, took, e.body, e.err)
			}
			isClosed(t, b)
			if n := tr.Stats().Open; len(n) > 0 {
				t.Errorf("still open: %v", n)
			}
			tr.Close(t.Context())
			<-d.ended
		})
	}
}

// TestH1AnswerWins has an upstream answer and close while it is sent an upload
// that it does not read, so that its end is a reset.
func TestH1AnswerWins(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
		u := rawUpstream(t, config, func(c net.Conn) {
			c.Read(make([]byte, 16))
			io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")
		})
		tr := newTransport(t)
		for range 30 {
			b := endless{newBody(nil)}
			if e := do(t, tr, post(t, u.url, p, b, -1)); e.Status != 503 || string(e.body) != "no" || e.err != nil {
				t.Fatalf("%d %q, %v", e.Status, e.body, e.err)
			}
			isClosed(t, b.bodyT)
		}
	})
}

// TestH1CancelWhileTheSourceWaits gives up a request whose upload gives nothing.
func TestH1CancelWhileTheSourceWaits(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol, config *tls.Config) {
		got := make(chan struct{})
		u := rawUpstream(t, config, func(c net.Conn) {
			br := bufio.NewReader(c)
			for line := ""; line != "part\r\n"; line, _ = br.ReadString('\n') {
			}
			close(got)
			io.Copy(io.Discard, br)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-got; cancel() }()
		b := newWaits("part")
		_, _, err := newTransport(t).RoundTrip(ctx, post(t, u.url, p, b, -1))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		isClosed(t, b.bodyT)
		u.waitGone(t)
	})
}
