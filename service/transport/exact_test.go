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
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The tests of this file are what the exact engine does more than others. Each
// says what the reference loses.

// list makes fields of lines.
func list(lines ...string) (fields []fetch.Field) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		fields = append(fields, fetch.Field{Name: name, Value: []byte(value)})
	}
	return fields
}

// lines makes lines of fields.
func lines(fields []fetch.Field) (lines []string) {
	for _, f := range fields {
		lines = append(lines, f.Name+": "+string(f.Value))
	}
	return lines
}

func TestRequestFieldsAreExact(t *testing.T) {
	overExact(t, "sorts the fields by name and writes the names in a case of its own", func(t *testing.T, p protocol) {
		got := make(chan string, 1)
		u := wireUpstream(t, p, func(c net.Conn) {
			raw, _ := readRequest(bufio.NewReader(c))
			got <- raw
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		})
		want := []string{"zeta: 1", "x-b: 2", "ALPHA: 3", "X-B: 4", "user-agent: mine", "x-b: 2", "User-Agent: and mine", "Empty: "}
		r := get(t, u.url, p)
		r.HostField, r.Fields = "up.test", list(want...)
		do(t, p.newTransport(t), r)
		head := "GET / HTTP/1.1\r\nHost: up.test\r\n" + strings.Join(want, "\r\n") + "\r\n\r\n"
		if raw := <-got; raw != head {
			t.Errorf("sent %q, want %q", raw, head)
		}
	})
}

func TestResponseFieldsAreExact(t *testing.T) {
	overExact(t, "has the fields of a response in a map, with names in a case of its own", func(t *testing.T, p protocol) {
		want := []string{"zeta: 1", "x-b: 2", "ALPHA: 3", "X-B: 4", "Pragma: no-cache", "x-b: 2", "transfer-encoding: chunked", "Empty: "}
		u := wireUpstream(t, p, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 103 Soon \xe9\r\nb: 1\r\nA: 2\r\nB: 3\r\n\r\n")
			io.WriteString(c, "HTTP/1.1 299 My  \xe9dd Reason\r\n"+strings.Join(want, "\r\n")+"\r\n\r\n0\r\n\r\n")
		})
		var interim fetch.Head
		r := get(t, u.url, p)
		r.Interim = func(h fetch.Head) { interim = h }
		e := do(t, p.newTransport(t), r)
		if string(e.Reason) != "My  \xe9dd Reason" || !reflect.DeepEqual(lines(e.Fields), want) || e.err != nil {
			t.Errorf("%q %q %v", e.Reason, lines(e.Fields), e.err)
		}
		if string(interim.Reason) != "Soon \xe9" || !reflect.DeepEqual(lines(interim.Fields), []string{"b: 1", "A: 2", "B: 3"}) {
			t.Errorf("interim %q %q", interim.Reason, lines(interim.Fields))
		}
	})
}

func TestTrailersAreExact(t *testing.T) {
	overExact(t, "has trailers in a map", func(t *testing.T, p protocol) {
		got := make(chan string, 1)
		u := wireUpstream(t, p, func(c net.Conn) {
			raw, _ := readRequest(bufio.NewReader(c))
			got <- raw
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+
				"z: 1\r\nContent-Length: 7\r\nA: 2\r\nhost: evil\r\nTransfer-Encoding: chunked\r\nZ: 3\r\nConnection: close\r\nz: 1\r\nTrailer: a\r\n\r\n")
		})
		r := post(t, u.url, p, newBody(strings.NewReader("in")), -1)
		r.Trailers = func() []fetch.Field { return list("z: 1", "A: 2", "Z: 3", "z: 1") }
		e := do(t, p.newTransport(t), r)
		if want := []string{"z: 1", "A: 2", "Z: 3", "z: 1"}; !reflect.DeepEqual(lines(e.Trailers()), want) || e.err != nil {
			t.Errorf("trailers %q, %v", lines(e.Trailers()), e.err)
		}
		if raw := <-got; !strings.HasSuffix(raw, "\r\n\r\n2\r\nin\r\n0\r\nz: 1\r\nA: 2\r\nZ: 3\r\nz: 1\r\n\r\n") {
			t.Errorf("sent %q", raw)
		}
	})
}

// TestKeepChunks reads chunks that come all at once, and are larger than the
// buffer, as they are.
func TestKeepChunks(t *testing.T) {
	overExact(t, "does not tell where a chunk ends", func(t *testing.T, p protocol) {
		big := strings.Repeat("0123456789", 10_000)
		sent := []string{"a", "", "bcd", big, "e", big[:4096], "end"}
		u := wireUpstream(t, p, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			raw := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
			for _, s := range sent {
				if s != "" {
					raw += fmt.Sprintf("%x;ext=1\r\n%s\r\n", len(s), s)
				}
			}
			io.WriteString(c, raw+"0\r\n\r\n")
		})
		r := get(t, u.url, p)
		r.KeepChunks = true
		resp, _, err := p.newTransport(t).RoundTrip(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var got []string
		chunk, reads := "", 0
		for {
			b, end, err := resp.Body.ReadChunk(func() []byte { return make([]byte, 0, 4096) })
			chunk += string(b)
			reads++
			if end {
				got, chunk = append(got, chunk), ""
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want := append([]string{"a"}, sent[2:]...) // an empty one would have been the last
		if chunk != "" || !reflect.DeepEqual(got, want) {
			t.Errorf("%d chunks with %d bytes, %d bytes behind the last; want %d with %d", len(got), len(strings.Join(got, "")), len(chunk), len(want), len(strings.Join(want, "")))
		}
		if least := len(want) + len(big)/4096; reads < least {
			t.Errorf("%d reads, fewer than %d", reads, least)
		}
	})
}

// pieces is a body that each read gives one piece of.
type pieces [][]byte

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; len((*p)[0]) == 0 {
		*p = (*p)[1:]
	}
	return n, nil
}

func TestOneChunkForEachPiece(t *testing.T) {
	overExact(t, "copies the body through a buffer of its own, whose bounds become those of chunks", func(t *testing.T, p protocol) {
		large := strings.Repeat("x", 20_000)
		got := make(chan string, 1)
		u := wireUpstream(t, p, func(c net.Conn) {
			raw, _ := readRequest(bufio.NewReader(c))
			_, body, _ := strings.Cut(raw, "\r\n\r\n")
			got <- body
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		})
		var body pieces
		want := ""
		for _, s := range []string{"a", "bc", "bc", large, "d"} {
			body = append(body, []byte(s))
			want += fmt.Sprintf("%x\r\n%s\r\n", len(s), s)
		}
		do(t, p.newTransport(t), post(t, u.url, p, newBody(&body), -1))
		if raw := <-got; raw != want+"0\r\n\r\n" {
			t.Errorf("%d bytes came as %.60q…", len(raw), raw)
		}
	})
}

// ready is a body that lies in memory.
type ready struct {
	*strings.Reader
	io.Closer
}

// expectant is an upload of 4 bytes that waits to be asked for.
func expectant(t *testing.T, u *upstream, p protocol, length int64, wait time.Duration) (*fetch.Request, *bodyT) {
	b := newBody(strings.NewReader("body"))
	r := post(t, u.url, p, ready{b.Reader.(*strings.Reader), b}, length)
	r.ExpectContinue, r.Timeouts.Continue = true, wait
	return r, b
}

// TestContinueComes asks for a body that would not come for a minute.
func TestContinueComes(t *testing.T) {
	overExact(t, "has one time to wait for all requests", func(t *testing.T, p protocol) {
		u := wireUpstream(t, p, func(c net.Conn) {
			br := bufio.NewReader(c)
			r, err := http.ReadRequest(br)
			if err != nil || r.Header.Get("Expect") != "100-continue" {
				t.Errorf("%+v, %v", r, err)
				return
			}
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("before it was asked for, the body came: %v", err)
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			io.WriteString(c, "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
			got, _ := io.ReadAll(r.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(got), got)
		})
		for _, length := range []int64{4, -1} {
			r, _ := expectant(t, u, p, length, time.Minute)
			if e := do(t, p.newTransport(t), r); string(e.body) != "body" || e.err != nil {
				t.Errorf("length %d: %q, %v", length, e.body, e.err)
			}
		}
	})
}

// TestContinueNeverComes waits longer than is usual, then sends the body all the
// same.
func TestContinueNeverComes(t *testing.T) {
	const patience = 1100 * time.Millisecond
	overExact(t, "has one time to wait for all requests", func(t *testing.T, p protocol) {
		u := wireUpstream(t, p, func(c net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		})
		r, _ := expectant(t, u, p, 4, patience)
		began := time.Now()
		do(t, p.newTransport(t), r)
		if took := time.Since(began); took < patience || took > patience+5*time.Second {
			t.Errorf("the body was sent after %s", took)
		}
	})
}

// TestContinueRefused answers a request whose body waits: it stays here, and no
// other request follows.
func TestContinueRefused(t *testing.T) {
	overExact(t, "sends the body after a refusal, if the connection stays open", func(t *testing.T, p protocol) {
		for _, answer := range []string{"417 Expectation Failed", "401 Unauthorized", "200 OK"} {
			for _, length := range []int64{4, -1} {
				more := make(chan string, 1)
				u := wireUpstream(t, p, func(c net.Conn) {
					br := bufio.NewReader(c)
					http.ReadRequest(br)
					io.WriteString(c, "HTTP/1.1 "+answer+"\r\nContent-Length: 2\r\n\r\nno")
					b, _ := io.ReadAll(br)
					more <- string(b)
				})
				r, b := expectant(t, u, p, length, time.Minute)
				e := do(t, p.newTransport(t), r)
				isClosed(t, b)
				u.waitGone(t)
				if sent := <-more; sent != "" || string(e.body) != "no" || b.Reader.(*strings.Reader).Len() != 4 {
					t.Errorf("%s: %q was sent, and read %q", answer, sent, e.body)
				}
			}
		}
	})
}

// TestUpgrade takes a connection over, with what came with the head.
func TestUpgrade(t *testing.T) {
	overExact(t, "is not asked to upgrade", func(t *testing.T, p protocol) {
		u := wireUpstream(t, p, func(c net.Conn) {
			br := bufio.NewReader(c)
			r, err := http.ReadRequest(br)
			if err != nil || r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
				t.Errorf("%+v, %v", r, err)
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nready ")
			io.Copy(c, br)
		})
		tr := p.newTransport(t)
		r := get(t, u.url, p)
		r.Framing, r.Fields = fetch.FramingUpgrade, list("Upgrade: echo")
		r.Timeouts.Head, r.Timeouts.Idle, r.Timeouts.Write = 5*time.Second, time.Millisecond, time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		resp, _, err := tr.RoundTrip(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); resp.Status != 101 || resp.Upgraded == nil || len(body) > 0 || err != nil {
			t.Fatalf("%d, %q, %v", resp.Status, body, err)
		}
		large := strings.Repeat("0123456789", 30_000)
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(resp.Upgraded, large)
			written <- err
		}()
		got := make([]byte, len("ready ")+len(large))
		if _, err := io.ReadFull(resp.Upgraded, got); string(got) != "ready "+large || err != nil {
			t.Errorf("%.20q…, %v", got, err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		resp.Upgraded.Close()
		resp.Body.Close()
		u.waitGone(t)
		closed(t, tr, fetch.ClosedPolicy, 1)
	})
}

// TestUpgradeRefused goes on over HTTP.
func TestUpgradeRefused(t *testing.T) {
	overExact(t, "is not asked to upgrade", func(t *testing.T, p protocol) {
		u := wireUpstream(t, p, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, c)
		})
		r := get(t, u.url, p)
		r.Framing, r.Fields = fetch.FramingUpgrade, list("Upgrade: echo")
		if e := do(t, p.newTransport(t), r); e.Status != 400 || string(e.body) != "no" || e.Upgraded != nil {
			t.Errorf("%d %q", e.Status, e.body)
		}
	})
}

func TestUnaskedUpgrade(t *testing.T) {
	overWire(t, func(t *testing.T, p protocol) {
		u := wireUpstream(t, p, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, c)
		})
		fails(t, p.newTransport(t), get(t, u.url, p), fetch.ReasonMalformedHead)
		u.waitGone(t)
	})
}
