package transport_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestBoundOfAllConnections fills the pool with connections of other keys: those
// without work make room, those with work do not.
func TestBoundOfAllConnections(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		let := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			if r.URL.Path == "/wait" {
				<-let
			}
		})
		answer := sync.OnceFunc(func() { close(let) })
		t.Cleanup(answer)
		tr := p.newTransport(t, func(l *fetch.Limits) { l.MaxConnections = 3 })
		request := func(key int, path string) *fetch.Request {
			r := get(t, u.url+path, p)
			r.Route.Key = fmt.Sprint("key ", key)
			return r
		}
		for i := range 10 {
			if e := do(t, tr, request(i, "/")); e.facts.Reused {
				t.Error("a connection of another key was used")
			}
		}
		if s := tr.Stats(); s.Closed[fetch.ClosedIdle] != 7 {
			t.Errorf("%+v", s)
		}
		var busy []*fetch.Response
		for i := range 3 {
			resp, _, err := tr.RoundTrip(t.Context(), request(i, "/wait"))
			if err != nil {
				t.Fatal(err)
			}
			busy = append(busy, resp)
		}
		r := request(11, "/")
		r.Timeouts.Pool = 30 * time.Millisecond
		f, facts := fails(t, tr, r, fetch.ReasonPoolTimeout)
		if f.LimitHit == nil || *f.LimitHit != (fetch.LimitHit{Limit: "max_connections", Max: 3}) || f.Sent != fetch.SentNo || facts.Dials != 0 {
			t.Errorf("%+v, %+v", f, facts)
		}
		var waiting sync.WaitGroup
		for i := range 20 {
			waiting.Go(func() { do(t, tr, request(20+i, "/")) })
		}
		answer()
		for _, resp := range busy {
			io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		waiting.Wait()
		if open := u.open.Load(); open > 4 { // one may not have been seen to close
			t.Errorf("%d connections are open", open)
		}
	})
}

// TestBoundUnderLoad sends requests of many keys at once through few places.
func TestBoundUnderLoad(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.RawQuery) })
		tr := p.newTransport(t, func(l *fetch.Limits) { l.MaxConnections, l.MaxConnectionsPerRoute = 4, 2 })
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				for j := range 20 {
					id := fmt.Sprint(i, "-", j)
					r := get(t, u.url+"/?"+id, p)
					r.Route.Key = fmt.Sprint((i + j) % 7)
					r.Timeouts.Pool = 20 * time.Second
					if e := do(t, tr, r); string(e.body) != id {
						t.Errorf("%s got %q, %v", id, e.body, e.err)
					}
					if s := tr.Stats(); total(s) > 4 {
						t.Errorf("%+v", s)
					}
				}
			})
		}
		all.Wait()
	})
}

func total(s fetch.PoolStats) int {
	n := s.Dialing
	for _, open := range s.Open {
		n += open
	}
	return n
}

// TestNoBoundIsTheDefault: 0 is never "no limit", nor "nothing".
func TestNoBoundIsTheDefault(t *testing.T) {
	u := serve(t, overH1, func(http.ResponseWriter, *http.Request) {})
	do(t, newTransport(t, func(l *fetch.Limits) { l.MaxConnections = 0 }), get(t, u.url, overH1))
}
