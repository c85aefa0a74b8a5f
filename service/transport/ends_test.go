package transport_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// What one exchange leaves behind, and what it may not take from the next.

// TestContinueIsOverBeforeTLSLooks: the end of the wait for 100 Continue is no
// failure, however soon it comes.
func TestContinueIsOverBeforeTLSLooks(t *testing.T) {
	for _, p := range []protocol{overH1, overTLS} {
		t.Run(p.name, func(t *testing.T) {
			config := h1TLS()
			if !p.secure {
				config = nil
			}
			u := answers(t, config, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			r := post(t, u.url, p, io.NopCloser(strings.NewReader("hello")), 5)
			r.ExpectContinue = true
			r.Timeouts.Continue = time.Nanosecond
			e := do(t, newTransport(t), r)
			if e.Status != 200 {
				t.Error(e.Status)
			}
		})
	}
}

// TestResetToldToTheWriter: a body that the end of the connection delimits is not
// whole if that was a reset, although the upload heard of it and not the reader.
func TestResetToldToTheWriter(t *testing.T) {
	cut := make(chan struct{})
	u := rawUpstream(t, nil, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			line, err := br.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\npart")
		<-cut
		c.(*net.TCPConn).SetLinger(0)
	})
	b := endless{newBody(nil)}
	r := post(t, u.url, overH1, b, -1)
	resp, _, err := newTransport(t).RoundTrip(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 4)
	io.ReadFull(resp.Body, got)
	close(cut)
	isClosed(t, b.bodyT) // the write failed
	rest, err := io.ReadAll(resp.Body)
	if err == nil {
		t.Errorf("the body %q is whole, though the connection was reset", string(got)+string(rest))
	}
}

// TestUpgradedBodyClose: to close the body frees a connection that changed its
// protocol, too.
func TestUpgradedBodyClose(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nrest")
		io.Copy(io.Discard, c)
	})
	r := get(t, u.url, overH1)
	r.Framing = fetch.FramingUpgrade
	r.Fields = []fetch.Field{{Name: "Upgrade", Value: []byte("x")}}
	resp, _, err := newTransport(t).RoundTrip(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	u.waitGone(t)
	resp.Upgraded.Close()
}

// TestNoLineThroughNames: what becomes a line of the head is checked where it is
// sent.
func TestNoLineThroughNames(t *testing.T) {
	for name, alter := range map[string]func(*fetch.Request){
		"trailer name": func(r *fetch.Request) {
			r.Framing, r.Body = fetch.FramingChunked, io.NopCloser(bytes.NewReader(nil))
			r.Method = "POST"
			r.Trailers = func() []fetch.Field { return nil }
			r.TrailerNames = []string{"a\r\nContent-Length: 3"}
		},
		"upgrade value": func(r *fetch.Request) {
			r.Framing = fetch.FramingUpgrade
			r.Fields = []fetch.Field{{Name: "Upgrade", Value: []byte("x\r\nContent-Length: 3")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := answers(t, nil, "HTTP/1.1 204 No Content\r\n\r\n")
			r := get(t, u.url, overH1)
			alter(r)
			_, _, err := newTransport(t).RoundTrip(t.Context(), r)
			var f *fetch.Failure
			if !errors.As(err, &f) || f.Reason != fetch.ReasonInternalFault {
				t.Errorf("sent: %v", err)
			}
		})
	}
}

// inMemory is a body that says how much of it there is.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// TestEarlySuccessKeepsUpload: an upstream that says yes at once gets all of a
// body that lies in memory.
func TestEarlySuccessKeepsUpload(t *testing.T) {
	for _, p := range []protocol{overH1, overNet} {
		t.Run(p.name, func(t *testing.T) {
			got := make(chan int64, 1)
			u := rawUpstream(t, nil, func(c net.Conn) {
				br := bufio.NewReader(c)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
				n, _ := io.Copy(io.Discard, r.Body)
				got <- n
			})
			const size = 8 << 20
			r := post(t, u.url, p, inMemory{bytes.NewReader(make([]byte, size))}, size)
			e := do(t, p.newTransport(t), r)
			if n := <-got; n != size {
				t.Errorf("status %d; the upstream got %d of %d bytes", e.Status, n, size)
			}
		})
	}
}

// TestRecordsOfOneByte: where TLS's records end makes no difference.
func TestRecordsOfOneByte(t *testing.T) {
	u := rawUpstream(t, h1TLS(), func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			if _, err := readRequest(br); err != nil {
				return
			}
			for _, b := range []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nreal\r\n0\r\nA: b\r\n\r\n") {
				c.Write([]byte{b})
			}
		}
	})
	tr := newTransport(t)
	for i := range 200 {
		e := do(t, tr, get(t, u.url, overTLS))
		if string(e.body) != "real" || e.err != nil || e.facts.Reused != (i > 0) {
			t.Fatalf("%d: %q %v %+v", i, e.body, e.err, e.facts)
		}
	}
}
