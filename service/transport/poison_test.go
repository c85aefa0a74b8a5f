package transport_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// spoiler is an upstream that answers with the token of the request, and leaves
// something behind on the connection by which another could see it. It does so
// at once: nobody can tell what comes after the next request from its answer.
type spoiler struct{ served atomic.Int64 }

func (s *spoiler) play(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		token := r.Header.Get("X-Token")
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(token), token)
		n := s.served.Add(1) % 8
		if n == 1 { // early: the request's body is still on its way
			io.WriteString(c, strings.Replace(answer, "200 OK", "413 Too Large", 1))
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		switch n {
		case 1:
		case 2: // twice
			io.WriteString(c, answer+answer)
		case 3, 4: // a body that is longer than was said
			io.WriteString(c, answer+token)
		case 5: // too late for who is in a hurry
			<-time.After(3 * time.Millisecond)
			io.WriteString(c, answer)
		default:
			io.WriteString(c, answer)
		}
	}
}

// TestNoPoisonSpreads sends tokens through an upstream that spoils connections:
// no request may see another's token.
func TestNoPoisonSpreads(t *testing.T) {
	for _, p := range []protocol{overH1, overTLS} {
		t.Run(p.name, func(t *testing.T) {
			config := h1TLS()
			if !p.secure {
				config = nil
			}
			u := rawUpstream(t, config, new(spoiler).play)
			u.gone = make(chan struct{}, 10_000)
			tr := newTransport(t)
			var next, right, reused atomic.Int64
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 100 {
						n := next.Add(1)
						token := fmt.Sprintf("token-%06d", n)
						ctx, cancel := context.WithCancel(t.Context())
						if n%5 == 0 {
							time.AfterFunc(time.Duration(n%3)*time.Millisecond, cancel)
						}
						r := get(t, u.url, p)
						if n%2 == 0 {
							r = post(t, u.url, p, newBody(strings.NewReader(strings.Repeat("x", 50_000))), 50_000)
						}
						r.Fields = append(r.Fields, fetch.Field{Name: "X-Token", Value: []byte(token)})
						resp, facts, err := tr.RoundTrip(ctx, r)
						if facts.Reused {
							reused.Add(1)
						}
						if err == nil {
							body, err := io.ReadAll(resp.Body)
							if !strings.HasPrefix(token, string(body)) || err == nil && string(body) != token {
								t.Errorf("%s got %q, %v", token, body, err)
							}
							resp.Body.Close()
							right.Add(1)
						}
						cancel()
					}
				})
			}
			all.Wait()
			t.Logf("%d of 800 were answered, %d went over a connection that was used", right.Load(), reused.Load())
			if right.Load() < 400 || reused.Load() < 100 {
				t.Errorf("%d of 800 were answered, %d went over a connection that was used", right.Load(), reused.Load())
			}
		})
	}
}
