package transport_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// readRequest reads one request with its body and returns it as it came.
func readRequest(br *bufio.Reader) (string, error) {
	var raw strings.Builder
	tee := bufio.NewReader(io.TeeReader(br, &raw))
	r, err := http.ReadRequest(tee)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return raw.String(), err
}

// answers is an upstream that gives each request on a connection the next
// answer, and closes the connection after the last.
func answers(t *testing.T, config *tls.Config, answers ...string) *upstream {
	return rawUpstream(t, config, func(c net.Conn) {
		br := bufio.NewReader(c)
		for _, a := range answers {
			if _, err := readRequest(br); err != nil {
				return
			}
			if _, err := io.WriteString(c, a); err != nil {
				return
			}
		}
	})
}

func TestH1HeadIsKeptAsItWas(t *testing.T) {
	u := answers(t, nil, "HTTP/1.1 299 My \xe9dd Reason\r\nzeta:  1 \r\nX-mIxEd: a\r\nalpha: 2\r\nx-MiXeD: c\r\nconnection: close\r\nCONTENT-length: 2\r\n\r\nok")
	e := do(t, newTransport(t), get(t, u.url, overH1))
	var got []string
	for _, f := range e.Fields {
		got = append(got, f.Name+"="+string(f.Value))
	}
	want := []string{"zeta=1", "X-mIxEd=a", "alpha=2", "x-MiXeD=c", "connection=close", "CONTENT-length=2"}
	if e.Status != 299 || string(e.Reason) != "My \xe9dd Reason" || !slices.Equal(got, want) || string(e.body) != "ok" {
		t.Errorf("%d %q %q %q", e.Status, e.Reason, got, e.body)
	}
}

func TestH1RequestOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name, want string
		alter      func(*fetch.Request)
	}{
		{"GET", "GET /p HTTP/1.1\r\nHost: %s\r\nx-b: 2\r\na: 1\r\nX-B: 3\r\n\r\n", func(r *fetch.Request) {
			r.Fields = []fetch.Field{{Name: "x-b", Value: []byte("2")}, {Name: "a", Value: []byte("1")}, {Name: "X-B", Value: []byte("3")}}
		}},
		{"POST without a body", "POST /p HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) { r.Method = "POST" }},
		{"DELETE of length 0", "DELETE /p HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", func(r *fetch.Request) {
			r.Method, r.Framing = "DELETE", fetch.FramingLength
		}},
		{"GET with a body", "GET /p HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nhi", func(r *fetch.Request) {
			r.Framing, r.Length, r.Body = fetch.FramingLength, 2, io.NopCloser(strings.NewReader("hi"))
		}},
		{"chunks and trailers", "PUT /p HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\nx-end: 1\r\n\r\n", func(r *fetch.Request) {
			r.Method, r.Framing = "PUT", fetch.FramingChunked
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("ab"), strings.NewReader("cde")))
			r.Trailers = func() []fetch.Field { return []fetch.Field{{Name: "x-end", Value: []byte("1")}} }
		}},
		{"closing", "GET /p HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", func(r *fetch.Request) { r.CloseAfter = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			u := rawUpstream(t, nil, func(conn net.Conn) {
				raw, err := readRequest(bufio.NewReader(conn))
				if err != nil {
					raw = err.Error()
				}
				got <- raw
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				io.Copy(io.Discard, conn)
			})
			r := get(t, u.url+"/p", overH1)
			c.alter(r)
			e := do(t, newTransport(t), r)
			raw := <-got
			if want := fmt.Sprintf(c.want, strings.TrimPrefix(u.url, "http://")); raw != want || e.facts.Sent != int64(len(want)) {
				t.Errorf("sent %q, want %q; counted %d", raw, want, e.facts.Sent)
			}
		})
	}
}

func TestH1HeadsRefused(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for head, want := range map[string]fetch.Reason{
		ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": fetch.ReasonConflictingLength,
		ok + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello":     fetch.ReasonConflictingLength,
		ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!":             fetch.ReasonConflictingLength,
		ok + "Content-Length: 5, 5\r\n\r\nhello":                                fetch.ReasonMalformedHead,
		ok + "Content-Length: +5\r\n\r\nhello":                                  fetch.ReasonMalformedHead,
		ok + "Content-Length: 0x5\r\n\r\nhello":                                 fetch.ReasonMalformedHead,
		ok + "Content-Length: -1\r\n\r\nhello":                                  fetch.ReasonMalformedHead,
		ok + "Content-Length: 9223372036854775808\r\n\r\nhello":                 fetch.ReasonMalformedHead,
		ok + "Content-Length: \r\n\r\nhello":                                    fetch.ReasonMalformedHead,
		ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":                fetch.ReasonMalformedHead,
		ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": fetch.ReasonMalformedHead,
		ok + "Transfer-Encoding: xchunked\r\n\r\n":                              fetch.ReasonMalformedHead,
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":        fetch.ReasonMalformedHead,
		ok + "no colon\r\n\r\n":                                                 fetch.ReasonMalformedHead,
		ok + ": no name\r\n\r\n":                                                fetch.ReasonMalformedHead,
		ok + "Name : v\r\n\r\n":                                                 fetch.ReasonMalformedHead,
		ok + "X: a\r\n folded\r\n\r\n":                                          fetch.ReasonMalformedHead,
		ok + "X: a\x00b\r\n\r\n":                                                fetch.ReasonMalformedHead,
		ok + "X: a\rb\r\n\r\n":                                                  fetch.ReasonMalformedHead,
		"HTTP/1.1 200 OK\nX: a\n\n":                                             fetch.ReasonMalformedHead,
		"HTTP/1.2 200 OK\r\n\r\n":                                               fetch.ReasonMalformedHead,
		"HTTP/2.0 200 OK\r\n\r\n":                                               fetch.ReasonMalformedHead,
		"ICE/1.0 200 OK\r\n\r\n":                                                fetch.ReasonMalformedHead,
		"HTTP/1.1 099 Low\r\n\r\n":                                              fetch.ReasonMalformedHead,
		"HTTP/1.1 1000 High\r\n\r\n":                                            fetch.ReasonMalformedHead,
		"HTTP/1.1 +20 Sign\r\n\r\n":                                             fetch.ReasonMalformedHead,
		"HTTP/1.1  200 OK\r\n\r\n":                                              fetch.ReasonMalformedHead,
		"HTTP/1.1 200 O\x00K\r\n\r\n":                                           fetch.ReasonMalformedHead,
		"\r\nHTTP/1.1 200 OK\r\n\r\n":                                           fetch.ReasonMalformedHead,
		"SSH-2.0-secret":                                                        fetch.ReasonMalformedHead,
		"220 mail.example ESMTP\r\n":                                            fetch.ReasonMalformedHead,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n":                fetch.ReasonMalformedHead,
		ok + strings.Repeat("A: b\r\n", 257) + "\r\n":                           fetch.ReasonHeadTooLarge,
		ok + "A: " + strings.Repeat("b", 70_000):                                fetch.ReasonHeadTooLarge,
		strings.Repeat("HTTP/1.1 100 Go on\r\n\r\n", 7):                         fetch.ReasonTooManyInterim,
		"":                         fetch.ReasonDisconnected,
		"HTTP/1.1 200 OK\r\nConte": fetch.ReasonConnectionReset,
	} {
		t.Run(fmt.Sprintf("%.40q", head), func(t *testing.T) {
			u := answers(t, nil, head)
			f, facts := fails(t, newTransport(t), get(t, u.url, overH1), want)
			if f.Stage != fetch.StageHead || f.Sent != fetch.SentYes || facts.Stage != fetch.StageHead || facts.Remote.Port() == 0 {
				t.Errorf("failure %+v, facts %+v", f, facts)
			}
			if strings.Contains(f.Message, "secret") || strings.Contains(f.Message, "mail") {
				t.Errorf("the message shows what the upstream wrote: %s", f.Message)
			}
			u.waitGone(t)
		})
	}
}

func TestH1HeadsTaken(t *testing.T) {
	for head, want := range map[string]string{
		"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok":                                      "200 ok",
		"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok":                                  "999 ok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok":              "200 ok",
		"HTTP/1.1 200 OK\r\nX:\r\n\r\nuntil the end":                                       "200 until the end",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end":                                             "200 until the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=\"y\"\r\nk\r\n0\r\n\r\n": "200 k",
		"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":         "200 ok",
	} {
		u := answers(t, nil, head)
		e := do(t, newTransport(t), get(t, u.url, overH1))
		if got := fmt.Sprintf("%d %s", e.Status, e.body); got != want || e.err != nil {
			t.Errorf("%q: %s, %v", head, got, e.err)
		}
	}
}

func TestH1HeadByteByByte(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		for _, b := range []byte("HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
			c.Write([]byte{b})
		}
	})
	if e := do(t, newTransport(t), get(t, u.url, overH1)); string(e.body) != "ok" || e.err != nil {
		t.Errorf("%q, %v", e.body, e.err)
	}
}

func TestH1BodiesThatBreakOff(t *testing.T) {
	for raw, want := range map[string]fetch.Reason{
		"Content-Length: 10\r\n\r\nhello":                                       fetch.ReasonIncompleteBody,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n":                      fetch.ReasonIncompleteBody,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n":                 fetch.ReasonIncompleteBody,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y":             fetch.ReasonIncompleteBody,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x1\r\na\r\n0\r\n\r\n": fetch.ReasonInvalidChunk,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n":               fetch.ReasonInvalidChunk,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\na\r\n0\r\n\r\n":  fetch.ReasonInvalidChunk,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n11111111111111111\r\n": fetch.ReasonInvalidChunk,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nno colon\r\n\r\n": fetch.ReasonInvalidChunk,
	} {
		t.Run(fmt.Sprintf("%.60q", raw), func(t *testing.T) {
			u := rawUpstream(t, nil, func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+raw)
				if want == fetch.ReasonInvalidChunk {
					io.Copy(io.Discard, c)
				}
			})
			e := do(t, newTransport(t), get(t, u.url, overH1))
			f := isFailure(t, e.err, want)
			if string(e.body) != "hello" || f.Stage != fetch.StageBody {
				t.Errorf("body %q, %+v", e.body, f)
			}
			if want == fetch.ReasonIncompleteBody && (f.Short == nil || f.Short.Received != 5) {
				t.Errorf("short %+v", f.Short)
			}
		})
	}
}

// TestH1TruncationByTLS ends a body that the end of the connection delimits,
// with and without the close_notify that tells this end from an attacker's.
func TestH1TruncationByTLS(t *testing.T) {
	for _, polite := range []bool{true, false} {
		u := rawUpstream(t, h1TLS(), func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello")
			if polite {
				c.Close()
			}
		})
		e := do(t, newTransport(t), get(t, u.url, overTLS))
		if string(e.body) != "hello" {
			t.Errorf("body %q", e.body)
		}
		if !polite {
			isFailure(t, e.err, fetch.ReasonIncompleteBody)
		} else if e.err != nil {
			t.Errorf("with close_notify: %v", e.err)
		}
	}
}

func TestH1Reset(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   fetch.Reason
	}{{"", fetch.ReasonConnectionReset}, {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", fetch.ReasonIncompleteBody}} {
		read := make(chan struct{}, 1)
		u := rawUpstream(t, nil, func(conn net.Conn) {
			readRequest(bufio.NewReader(conn))
			io.WriteString(conn, c.answer)
			if c.answer != "" {
				<-read // else the reset overtakes the answer
			}
			conn.(*net.TCPConn).SetLinger(0)
		})
		resp, _, err := newTransport(t).RoundTrip(t.Context(), get(t, u.url, overH1))
		if err == nil {
			_, err = io.ReadFull(resp.Body, make([]byte, 5))
			read <- struct{}{}
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			resp.Body.Close()
		}
		if f := isFailure(t, err, c.want); f.Sent != fetch.SentYes {
			t.Errorf("%+v", f)
		}
	}
}

// TestH1AnswerBeforeReset gets the answer of an upstream that stops reading.
func TestH1AnswerBeforeReset(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		c.(*net.TCPConn).CloseWrite()
		io.CopyN(io.Discard, br, 1<<20)
	})
	b := endless{newBody(nil)}
	if e := do(t, newTransport(t), post(t, u.url, overH1, b, -1)); e.Status != 413 || string(e.body) != "no" {
		t.Errorf("%d %q %v", e.Status, e.body, e.err)
	}
	isClosed(t, b.bodyT)
}

// TestH1ResetWhileSending breaks a connection in the middle of an upload.
func TestH1ResetWhileSending(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		io.CopyN(io.Discard, c, 1<<20)
		c.(*net.TCPConn).SetLinger(0)
	})
	b := endless{newBody(nil)}
	if f, _ := fails(t, newTransport(t), post(t, u.url, overH1, b, -1), fetch.ReasonWriteFailed); f.Sent != fetch.SentYes || f.Stage != fetch.StageSend {
		t.Errorf("%+v", f)
	}
	isClosed(t, b.bodyT)
}

// TestH1PoisonedConnections follows a response with what a second request must
// not take for its answer.
func TestH1PoisonedConnections(t *testing.T) {
	const fake = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for name, c := range map[string]struct{ method, answer string }{
		"after a length":   {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal"},
		"after chunks":     {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nreal\r\n0\r\n\r\n"},
		"after no body":    {"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		"after a HEAD":     {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"},
		"after an interim": {"GET", "HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
	} {
		for _, together := range []bool{true, false} {
			for _, p := range []protocol{overH1, overTLS} {
				t.Run(fmt.Sprint(name, together, p.name), func(t *testing.T) {
					poisoned := make(chan struct{}, 10)
					seen := make(chan struct{}, 10)
					config := h1TLS()
					if !p.secure {
						config = nil
					}
					u := rawUpstream(t, config, func(conn net.Conn) {
						readRequest(bufio.NewReader(conn))
						if together {
							io.WriteString(conn, c.answer+fake)
						} else {
							io.WriteString(conn, c.answer)
							<-seen
							io.WriteString(conn, fake)
						}
						poisoned <- struct{}{}
						io.Copy(io.Discard, conn)
					})
					tr := newTransport(t)
					for range 3 {
						r := get(t, u.url, p)
						r.Method = c.method
						e := do(t, tr, r)
						if strings.Contains(string(e.body), "poison") || e.facts.Reused || e.err != nil {
							t.Errorf("body %q, %v, %+v", e.body, e.err, e.facts)
						}
						seen <- struct{}{}
						<-poisoned
					}
				})
			}
		}
	}
}

// TestH1HeadDrips sends a head so slowly that it never ends.
func TestH1HeadDrips(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	})
	r := get(t, u.url, overH1)
	r.Timeouts.Head = 60 * time.Millisecond
	began := time.Now()
	fails(t, newTransport(t), r, fetch.ReasonHeadTimeout)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	u.waitGone(t)
}
