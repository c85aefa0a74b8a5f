package transport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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

func TestKeysAreKeptApart(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
		tr := p.newTransport(t)
		request := func(key, host string) *fetch.Request {
			r := get(t, u.url, p)
			r.Route.Key, r.Host = key, host
			return r
		}
		from := map[string]string{}
		for range 2 {
			for _, key := range []string{"a", "b"} {
				for _, host := range []string{"127.0.0.1", "up.test"} {
					addr := string(do(t, tr, request(key, host)).body)
					if before := from[key+host]; before != "" && before != addr {
						t.Errorf("%s %s: a second connection", key, host)
					}
					from[key+host] = addr
				}
			}
		}
		if n := u.conns.Load(); n != 4 {
			t.Errorf("%d connections for 4 keys", n)
		}
	})
}

// TestDeadConnectionsAreNoticed has the upstream close idle connections.
func TestDeadConnectionsAreNoticed(t *testing.T) {
	for _, p := range []protocol{overH1, overTLS} {
		t.Run(p.name, func(t *testing.T) {
			config := h1TLS()
			if !p.secure {
				config = nil
			}
			hang := make(chan struct{})
			u := rawUpstream(t, config, func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				<-hang
			})
			tr := newTransport(t)
			do(t, tr, get(t, u.url, p))
			close(hang)
			u.waitGone(t)
			e := do(t, tr, get(t, u.url, p))
			if e.facts.Stale != 1 || e.facts.Reused || e.facts.Dials != 1 {
				t.Errorf("%+v", e.facts)
			}
		})
	}
}

func TestPoolBound(t *testing.T) {
	let := make(chan struct{})
	u := serve(t, overH1, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-let
		}
		io.WriteString(w, "ok")
	})
	tr := newTransport(t, func(l *fetch.Limits) { l.MaxConnectionsPerRoute = 2 })
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() { do(t, tr, get(t, u.url+"/wait", overH1)) })
	}
	for u.conns.Load() < 2 {
		f := get(t, u.url, overH1)
		f.Timeouts.Pool = time.Millisecond
		if resp, _, err := tr.RoundTrip(t.Context(), f); err == nil {
			io.ReadAll(resp.Body)
			resp.Body.Close()
		}
	}

	r := get(t, u.url, overH1)
	r.Timeouts.Pool = 30 * time.Millisecond
	f, facts := fails(t, tr, r, fetch.ReasonPoolTimeout)
	if f.Stage != fetch.StageWait || f.Sent != fetch.SentNo || facts.Dials != 0 || facts.Times.Pool < 30*time.Millisecond {
		t.Errorf("%+v, %+v", f, facts)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := tr.RoundTrip(ctx, get(t, u.url, overH1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait whose context ends: %v", err)
	}

	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			if e := do(t, tr, get(t, u.url, overH1)); !e.facts.Reused {
				t.Errorf("%+v", e.facts)
			}
		})
	}
	close(let)
	busy.Wait()
	waiting.Wait()
	if n := u.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	r = get(t, u.url, overH1)
	r.Fresh = true
	if e := do(t, tr, r); e.facts.Reused {
		t.Error("fresh at the bound: an idle connection was used, not closed")
	}
}

// TestFreshAtTheBound wants a new connection where only one may be open.
func TestFreshAtTheBound(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {})
		tr := p.newTransport(t, func(l *fetch.Limits) { l.MaxConnectionsPerRoute = 1 })
		for range 3 {
			r := get(t, u.url, p)
			r.Fresh = true
			if e := do(t, tr, r); e.facts.Reused || e.facts.Dials != 1 {
				t.Errorf("%+v", e.facts)
			}
		}
	})
}

func TestIdleBounds(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*fetch.Limits)
		left  int64
	}{
		"of a route": {func(l *fetch.Limits) { l.MaxIdlePerRoute = 2 }, 4},
		"of all":     {func(l *fetch.Limits) { l.MaxIdle = 3 }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			let := make(chan struct{})
			var here sync.WaitGroup
			here.Add(10)
			u := serve(t, overH1, func(w http.ResponseWriter, r *http.Request) {
				here.Done()
				<-let
			})
			tr := newTransport(t, c.alter)
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() {
					r := get(t, u.url, overH1)
					r.Route.Key = fmt.Sprint("key ", i%2)
					do(t, tr, r)
				})
			}
			here.Wait()
			close(let)
			all.Wait()
			for range 10 - c.left {
				u.waitGone(t)
			}
			if n := u.open.Load(); n != c.left {
				t.Errorf("%d connections are open, want %d", n, c.left)
			}
		})
	}
}

// TestFirstRequestsShareADial sends many requests to an origin of which nothing
// is known yet.
func TestFirstRequestsShareADial(t *testing.T) {
	u := serve(t, overH2, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	tr := newTransport(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { do(t, tr, get(t, u.url, overH2)) })
	}
	all.Wait()
	if n := u.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestFailedDialIsNotShared has each request find out for itself.
func TestFailedDialIsNotShared(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) { io.CopyN(io.Discard, c, 1) })
	tr := newTransport(t)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			r := get(t, strings.Replace(u.url, "http:", "https:", 1), overH2)
			if _, _, err := tr.RoundTrip(t.Context(), r); err == nil {
				t.Error("no error")
			}
		})
	}
	all.Wait()
	if n := u.conns.Load(); n != 10 {
		t.Errorf("%d connections for 10 requests", n)
	}
}

func TestDeniedAddress(t *testing.T) {
	u := serve(t, overH1, func(http.ResponseWriter, *http.Request) {})
	no := &fetch.Denied{Reason: fetch.ReasonAddressDenied, Message: "no"}
	r := post(t, u.url, overH1, newBody(strings.NewReader("x")), 1)
	r.Route.Allow = func(netip.AddrPort) error { return no }
	_, facts, err := newTransport(t).RoundTrip(t.Context(), r)
	var denied *fetch.Denied
	if !errors.As(err, &denied) || denied != no || facts.Dials != 0 || facts.Sent != 0 || u.conns.Load() != 0 {
		t.Errorf("%v, %+v, %d connections", err, facts, u.conns.Load())
	}
	isClosed(t, r.Body.(*bodyT))
}

func TestForget(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		let := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				io.WriteString(w, "begin")
				w.(http.Flusher).Flush()
				<-let
			}
			io.WriteString(w, "ok")
		})
		tr := p.newTransport(t)
		request := func(key, path string) *fetch.Request {
			r := get(t, u.url+path, p)
			r.Route.Key = key
			return r
		}
		busy, _, err := tr.RoundTrip(t.Context(), request("busy", "/wait"))
		if err != nil {
			t.Fatal(err)
		}
		do(t, tr, request("kept", "/"))
		do(t, tr, request("withdrawn", "/"))
		tr.Forget(func(r fetch.Route) bool { return r.Key == "kept" })
		u.waitGone(t)
		if e := do(t, tr, request("kept", "/")); !e.facts.Reused {
			t.Error("the connection of the kept route is gone")
		}
		if e := do(t, tr, request("withdrawn", "/")); e.facts.Reused {
			t.Error("a connection of the withdrawn route was used")
		}
		if e := do(t, tr, request("busy", "/")); e.facts.Reused {
			t.Error("a busy connection of a withdrawn route was used")
		}
		close(let)
		if b, err := io.ReadAll(busy.Body); string(b) != "beginok" {
			t.Errorf("the body under way: %q, %v", b, err)
		}
		busy.Body.Close()
		u.waitGone(t)
	})
}

func TestClose(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		let := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				return
			}
			io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
			select {
			case <-let:
			case <-r.Context().Done():
			}
		})
		for _, patient := range []bool{true, false} {
			tr := p.newTransport(t)
			resp, _, err := tr.RoundTrip(t.Context(), get(t, u.url, p))
			if err != nil {
				t.Fatal(err)
			}
			closed := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { closed <- tr.Close(ctx) }()
			for {
				late, _, err := tr.RoundTrip(t.Context(), get(t, u.url+"/late", p))
				if err != nil {
					isFailure(t, err, fetch.ReasonDraining)
					break
				}
				late.Body.Close()
			}
			if patient {
				let <- struct{}{}
				if b, err := io.ReadAll(resp.Body); string(b) != "begin" || err != nil {
					t.Errorf("the body under way: %q, %v", b, err)
				}
			} else {
				cancel()
			}
			if !patient {
				if err := <-closed; !errors.Is(err, context.Canceled) {
					t.Errorf("Close: %v", err)
				}
				_, err := io.ReadAll(resp.Body)
				isFailure(t, err, fetch.ReasonIncompleteBody)
			}
			resp.Body.Close()
			if patient {
				if err := <-closed; err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			cancel()
		}
	})
}

// TestNoAnswerGoesAstray sends numbered requests over few connections, many of
// them broken off, to an upstream that echoes.
func TestNoAnswerGoesAstray(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			id := r.URL.Query().Get("id")
			switch len(id) % 3 {
			case 0:
				w.Header().Set("Content-Length", fmt.Sprint(2*len(id)))
			case 1:
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, id)
			if strings.HasSuffix(id, "7") {
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, id)
		})
		tr := p.newTransport(t, func(l *fetch.Limits) { l.MaxConnectionsPerRoute = 4 })
		var next, whole atomic.Int64
		var all sync.WaitGroup
		rounds := 150
		if testing.Short() {
			rounds = 50
		}
		for range 8 {
			all.Go(func() {
				for range rounds {
					n := next.Add(1)
					id := fmt.Sprint(n * n)
					ctx, cancel := context.WithCancel(t.Context())
					if n%10 == 0 {
						time.AfterFunc(time.Duration(n%7)*100*time.Microsecond, cancel)
					}
					resp, _, err := tr.RoundTrip(ctx, get(t, u.url+"/?id="+id, p))
					if err == nil && n%11 != 0 {
						b, err := io.ReadAll(resp.Body)
						if err == nil {
							whole.Add(1)
						}
						if !strings.HasPrefix(id+id, string(b)) || err == nil && string(b) != id+id {
							t.Errorf("%s got %q, %v", id, b, err)
						}
					}
					if err == nil {
						resp.Body.Close()
					} else if ctx.Err() == nil {
						t.Errorf("%s: %v", id, err)
					}
					cancel()
				}
			})
		}
		all.Wait()
		if whole.Load() < int64(8*rounds*2/3) {
			t.Errorf("only %d whole answers", whole.Load())
		}
	})
}

// pipes is a dialer to servers at the other end of a pipe.
type pipes struct {
	dials atomic.Int64
	all   sync.WaitGroup
}

func (p *pipes) Dial(context.Context, string, uint16, fetch.Route, fetch.Timeouts, int) (dial.Result, error) {
	p.dials.Add(1)
	ours, theirs := net.Pipe()
	p.all.Go(func() {
		defer theirs.Close()
		br := bufio.NewReader(theirs)
		for {
			if _, err := readRequest(br); err != nil {
				return
			}
			io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	return dial.Result{Conn: ours, Remote: netip.MustParseAddrPort("192.0.2.1:80"), Dials: 1}, nil
}

// TestLifetimes runs under a clock of its own.
func TestLifetimes(t *testing.T) {
	ended := map[time.Duration]bool{}
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			d := &pipes{}
			tr := transport.New(transport.Options{Dialer: d, Limits: fetch.DefaultLimits()})
			began := time.Now()
			for d.dials.Load() < 2 {
				<-time.After(10 * time.Second)
				do(t, tr, get(t, "http://192.0.2.1:80", overH1))
			}
			lived := time.Since(began)
			if lived < 240*time.Second || lived > 380*time.Second {
				t.Errorf("a connection in use lived for %s, want 5 min ± 20 %%", lived)
			}
			ended[lived] = true

			<-time.After(80 * time.Second)
			do(t, tr, get(t, "http://192.0.2.1:80", overH1))
			if n := d.dials.Load(); n != 2 {
				t.Errorf("%d dials: a connection was closed before the idle timeout", n)
			}
			last := time.Now()
			d.all.Wait() // the servers end with their connections
			if idle := time.Since(last); idle < 90*time.Second || idle > 106*time.Second {
				t.Errorf("a connection was idle for %s, want 90 s and the time between two sweeps", idle)
			}
			tr.Close(t.Context())
		})
	}
	if len(ended) == 1 {
		t.Error("all connections live for the same time")
	}
}
