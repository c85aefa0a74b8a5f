package transport_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// closed waits until so many connections of tr have ended, and wants them to
// have ended for that cause.
func closed(t *testing.T, tr *transport.Transport, why fetch.CloseCause, n int64) {
	t.Helper()
	var got map[fetch.CloseCause]int64
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if got = tr.Stats().Closed; got[why] == n {
			break
		}
	}
	if len(got) != 1 || got[why] != n {
		t.Errorf("connections ended by cause: %v, want %d by %q", got, n, why)
	}
}

func TestStatsOpen(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		let := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			if r.URL.Path == "/wait" {
				<-let
			}
		})
		tr := p.newTransport(t)
		short := "h1"
		if p.is == "HTTP/2" {
			short = "h2"
		}
		want := func(s fetch.PoolStats, idle, active int) {
			t.Helper()
			w := map[fetch.PoolState]int{}
			if idle > 0 {
				w[fetch.PoolState{State: "idle", Protocol: short}] = idle
			}
			if active > 0 {
				w[fetch.PoolState{State: "active", Protocol: short}] = active
			}
			if !maps.Equal(s.Open, w) || s.Dialing != 0 || len(s.Closed) != 0 {
				t.Errorf("%+v, want %v", s, w)
			}
		}
		want(tr.Stats(), 0, 0)
		resp, _, err := tr.RoundTrip(t.Context(), get(t, u.url+"/wait", p))
		if err != nil {
			t.Fatal(err)
		}
		other := get(t, u.url, p)
		other.Route.Key = "other"
		do(t, tr, other)
		want(tr.Stats(), 1, 1)
		close(let)
		io.ReadAll(resp.Body)
		resp.Body.Close()
		want(tr.Stats(), 2, 0)
	})
}

// TestStatsDialing looks while a handshake waits.
func TestStatsDialing(t *testing.T) {
	here, let := make(chan struct{}), make(chan struct{})
	u := rawUpstream(t, h1TLS(), func(c net.Conn) { close(here); <-let })
	tr := newTransport(t)
	var all sync.WaitGroup
	all.Go(func() {
		_, _, err := tr.RoundTrip(t.Context(), get(t, u.url, overTLS))
		isFailureOfAny(t, err)
	})
	<-here
	if s := tr.Stats(); s.Dialing != 1 || len(s.Open) != 0 {
		t.Errorf("%+v", s)
	}
	close(let)
	all.Wait()
	if s := tr.Stats(); s.Dialing != 0 || len(s.Open) != 0 || len(s.Closed) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStatsCloseCauses ends connections that nobody uses, in fetchgate's own name.
func TestStatsCloseCauses(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		serving := func(t *testing.T) *upstream {
			return serve(t, p, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "hello")
				w.(http.Flusher).Flush()
				if r.URL.Path == "/wait" {
					<-r.Context().Done()
				}
			})
		}
		t.Run("policy", func(t *testing.T) {
			u, tr := serving(t), p.newTransport(t)
			do(t, tr, get(t, u.url, p))
			tr.Forget(func(fetch.Route) bool { return false })
			closed(t, tr, fetch.ClosedPolicy, 1)
			r := get(t, u.url, p)
			r.CloseAfter = true
			do(t, tr, r)
			closed(t, tr, fetch.ClosedPolicy, 2)
		})
		t.Run("idle", func(t *testing.T) {
			u, tr := serving(t), p.newTransport(t, func(l *fetch.Limits) { l.MaxIdle = 1 })
			for i := range 3 {
				r := get(t, u.url, p)
				r.Route.Key = fmt.Sprint(i)
				do(t, tr, r)
			}
			closed(t, tr, fetch.ClosedIdle, 2)
		})
		t.Run("shut", func(t *testing.T) {
			u, tr := serving(t), p.newTransport(t)
			resp, _, err := tr.RoundTrip(t.Context(), get(t, u.url+"/wait", p))
			if err != nil {
				t.Fatal(err)
			}
			ended, end := context.WithCancel(t.Context())
			end()
			tr.Close(ended)
			resp.Body.Close()
			if got := tr.Stats().Closed; got[fetch.ClosedPolicy] != 1 {
				t.Errorf("%v", got)
			}
		})
	})
}

// TestStatsClosedByPeer is TestH2GracefulEnd where HTTP/2 is spoken.
func TestStatsClosedByPeer(t *testing.T) {
	for _, p := range []protocol{overH1, overTLS} {
		t.Run(p.name, func(t *testing.T) {
			let := make(chan struct{})
			config := h1TLS()
			if !p.secure {
				config = nil
			}
			u := rawUpstream(t, config, func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				<-let
			})
			tr := newTransport(t)
			do(t, tr, get(t, u.url, p))
			close(let)
			u.waitGone(t)
			do(t, tr, get(t, u.url, p))
			closed(t, tr, fetch.ClosedPeer, 1)
		})
	}
}

func TestStatsCloseCausesOfOne(t *testing.T) {
	t.Run("cut", func(t *testing.T) {
		u := rawUpstream(t, nil, func(c net.Conn) { readRequest(bufio.NewReader(c)) })
		tr := newTransport(t)
		fails(t, tr, get(t, u.url, overH1), fetch.ReasonDisconnected)
		closed(t, tr, fetch.ClosedError, 1)
	})
	t.Run("said so", func(t *testing.T) {
		u, tr := answers(t, nil, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"), newTransport(t)
		do(t, tr, get(t, u.url, overH1))
		closed(t, tr, fetch.ClosedPeer, 1)
	})
	t.Run("time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := &pipes{}
			tr := transport.New(transport.Options{Dialer: d, Limits: fetch.DefaultLimits()})
			do(t, tr, get(t, "http://192.0.2.1:80", overH1))
			<-time.After(2 * time.Minute)
			closed(t, tr, fetch.ClosedIdle, 1)
			for d.dials.Load() < 3 {
				do(t, tr, get(t, "http://192.0.2.1:80", overH1))
				<-time.After(10 * time.Second)
			}
			<-time.After(20 * time.Second) // the next sweep
			if got := tr.Stats().Closed; got[fetch.ClosedAge] != 1 {
				t.Errorf("%v", got)
			}
			tr.Close(t.Context())
			d.all.Wait()
		})
	})
}
