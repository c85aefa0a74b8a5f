package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The tests of this file are what every engine must do.

func TestRequestArrivesAsAsked(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		var got *http.Request
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { got = r })
		tr := p.newTransport(t)
		r := get(t, u.url, p)
		r.Method = "PURGE"
		r.Target = []byte(`/a%2Fb/../c;d?x=%5B1%5D&y=a|b&z`)
		r.HostField = "other.example:8080"
		r.Fields = []fetch.Field{{Name: "x-two", Value: []byte("b")}, {Name: "X-Two", Value: []byte("a")}, {Name: "Accept", Value: []byte("caf\xe9")}}
		e := do(t, tr, r)
		if e.Status != 200 || e.Protocol != p.is || e.facts.Protocol != p.is {
			t.Errorf("status %d over %s, facts say %s", e.Status, e.Protocol, e.facts.Protocol)
		}
		if got.Method != "PURGE" || got.RequestURI != string(r.Target) || got.Host != r.HostField {
			t.Errorf("arrived: %s %s of %s", got.Method, got.RequestURI, got.Host)
		}
		want := http.Header{"X-Two": {"b", "a"}, "Accept": {"caf\xe9"}}
		if fmt.Sprint(got.Header) != fmt.Sprint(want) {
			t.Errorf("fields arrived as %v, want %v", got.Header, want)
		}
	})
}

func TestIPv6Literal(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	got := make(chan string, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r.Host })}
	go s.Serve(l)
	defer s.Close()
	if do(t, newTransport(t), get(t, "http://"+l.Addr().String()+"/", overH1)); <-got != l.Addr().String() {
		t.Error("Host is not the literal in brackets")
	}
}

func TestTargets(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		got := make(chan string, 1)
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { got <- r.RequestURI })
		tr := p.newTransport(t)
		for _, target := range []string{"/", "//", "//host/x", "///a//b?c=//d", "/?", "//a?", "//a%2f%41?q", "/a?b?c"} {
			r := get(t, u.url, p)
			r.Target = []byte(target)
			if do(t, tr, r); <-got != target {
				t.Errorf("target %q arrived differently", target)
			}
		}
	})
}

func TestUserAgentIsTheCallers(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		got := make(chan []string, 1)
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { got <- r.Header["User-Agent"] })
		r := get(t, u.url, p)
		r.Fields = []fetch.Field{{Name: "User-Agent", Value: []byte("mine/1")}}
		do(t, p.newTransport(t), r)
		if ua := <-got; !slices.Equal(ua, []string{"mine/1"}) {
			t.Errorf("User-Agent arrived as %q", ua)
		}
	})
}

func TestRequestBodies(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 40_000)
	for _, c := range []struct {
		name, body string
		length     int64
	}{
		{"empty with a length", "", 0}, {"short", "hello", 5}, {"long", big, int64(len(big))},
		{"chunked", "hello", -1}, {"chunked and long", big, -1}, {"chunked and empty", "", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			overAll(t, func(t *testing.T, p protocol) {
				u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
					sum := sha256.New()
					n, err := io.Copy(sum, r.Body)
					fmt.Fprintf(w, "%d %v %x length %d", n, err, sum.Sum(nil), r.ContentLength)
				})
				b := newBody(strings.NewReader(c.body))
				e := do(t, p.newTransport(t), post(t, u.url, p, b, c.length))
				want := fmt.Sprintf("%d <nil> %x length %d", len(c.body), sha256.Sum256([]byte(c.body)), c.length)
				if string(e.body) != want || e.err != nil {
					t.Errorf("the upstream got %q, want %q; %v", e.body, want, e.err)
				}
				if e.facts.Sent < min(int64(len(c.body)), 1) || e.facts.Stage != fetch.StageHead {
					t.Errorf("facts: %+v", e.facts)
				}
				isClosed(t, b)
			})
		})
	}
}

func TestUploadLengthIsHeld(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		tr := p.newTransport(t)
		for _, body := range []string{"four", "six!!!"} {
			b := newBody(strings.NewReader(body))
			fails(t, tr, post(t, u.url, p, b, 5), fetch.ReasonUploadLengthMismatch)
			isClosed(t, b)
		}
	})
}

func TestUploadFails(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		tr := p.newTransport(t)
		gone := io.MultiReader(strings.NewReader("begin"), iotest.ErrReader(errors.New("the caller has gone")))
		f, _ := fails(t, tr, post(t, u.url, p, newBody(gone), -1), fetch.ReasonUploadAborted)
		if f.Sent != fetch.SentYes {
			t.Errorf("Sent is %s", f.Sent)
		}
		own := fetch.Fail(fetch.ReasonBodyNotRewindable, "own", nil)
		fails(t, tr, post(t, u.url, p, newBody(iotest.ErrReader(own)), -1), fetch.ReasonBodyNotRewindable)
	})
}

func TestResponseTrailers(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		})
		e := do(t, p.newTransport(t), get(t, u.url, p))
		if got := e.Trailers(); len(got) != 1 || string(got[0].Value) != "42" || !strings.EqualFold(got[0].Name, "X-Sum") {
			t.Errorf("trailers: %v", got)
		}
	})
}

func TestRequestTrailers(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			_, named := r.Trailer["X-Sum"]
			io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, named, " ", r.Trailer)
		})
		r := post(t, u.url, p, newBody(strings.NewReader("body")), -1)
		r.TrailerNames = []string{"X-Sum", "X-Not"}
		r.Trailers = func() []fetch.Field { return list("x-sum: 1", "X-Sum: 2") }
		if e := do(t, p.newTransport(t), r); string(e.body) != "true map[X-Not:[] X-Sum:[1 2]]" {
			t.Errorf("arrived: %s", e.body)
		}
	})
}

func TestExpectContinue(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/no" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			io.Copy(w, r.Body)
		})
		tr := p.newTransport(t)
		r := post(t, u.url, p, newBody(strings.NewReader("body")), 4)
		r.ExpectContinue = true
		if e := do(t, tr, r); string(e.body) != "body" {
			t.Errorf("body %q", e.body)
		}
		refused := endless{newBody(nil)}
		r = post(t, u.url+"/no", p, refused, -1)
		r.ExpectContinue = true
		if e := do(t, tr, r); e.Status != http.StatusExpectationFailed {
			t.Errorf("status %d", e.Status)
		}
		isClosed(t, refused.bodyT)
	})
}

func TestAnswersWithoutBody(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("Content-Length", "10")
				w.WriteHeader(304)
			default:
				w.Header().Set("Content-Length", "10")
			}
		})
		tr := p.newTransport(t)
		for path, status := range map[string]int{"/204": 204, "/304": 304, "/head": 200} {
			r := get(t, u.url+path, p)
			if path == "/head" {
				r.Method = "HEAD"
			}
			if e := do(t, tr, r); e.Status != status || len(e.body) != 0 || e.err != nil || e.Length != 0 {
				t.Errorf("%s: status %d, body %q, length %d, %v", path, e.Status, e.body, e.Length, e.err)
			}
		}
		if n := u.conns.Load(); n != 1 {
			t.Errorf("%d connections for three requests", n)
		}
	})
}

func TestInterimResponses(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			n := 2
			if r.URL.Path == "/many" {
				n = 6
			}
			for i := range n {
				w.Header().Set("Link", fmt.Sprint("</", i, ">"))
				w.WriteHeader(http.StatusEarlyHints)
			}
			io.WriteString(w, "done")
		})
		tr := p.newTransport(t)
		var heads []fetch.Head
		r := get(t, u.url, p)
		r.Interim = func(h fetch.Head) { heads = append(heads, h) }
		e := do(t, tr, r)
		if string(e.body) != "done" || len(heads) != 2 || heads[1].Status != 103 || field(heads[1].Fields, "link") != "</1>" {
			t.Errorf("body %q after %v", e.body, heads)
		}
		f, _ := fails(t, tr, get(t, u.url+"/many", p), fetch.ReasonTooManyInterim)
		if f.LimitHit == nil || f.LimitHit.Max != 5 {
			t.Errorf("limit: %+v", f.LimitHit)
		}
	})
}

func TestResponseFields(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Set-Cookie"] = []string{"b=2", "a=1"}
			w.Header().Set("X-Latin", "caf\xe9")
			w.Header().Set("Pragma", "no-cache")
			if r.URL.Path == "/many" {
				for i := range 300 {
					w.Header().Set(fmt.Sprint("X-", i), "1")
				}
			}
			if r.URL.Path == "/large" {
				w.Header().Set("X-Large", strings.Repeat("x", 70_000))
			}
		})
		tr := p.newTransport(t)
		e := do(t, tr, get(t, u.url, p))
		var cookies []string
		for _, f := range e.Fields {
			if strings.EqualFold(f.Name, "Set-Cookie") {
				cookies = append(cookies, string(f.Value))
			}
		}
		if !slices.Equal(cookies, []string{"b=2", "a=1"}) || field(e.Fields, "x-latin") != "caf\xe9" {
			t.Errorf("fields: %q", e.Fields)
		}
		// net/http makes one up for Pragma: no-cache.
		if _, added := fetch.Get(e.Fields, "Cache-Control"); added && p.engine != reference {
			t.Error("a Cache-Control was made up")
		}
		for _, path := range []string{"/many", "/large"} {
			f, _ := fails(t, tr, get(t, u.url+path, p), fetch.ReasonHeadTooLarge)
			if f.LimitHit == nil {
				t.Errorf("%s: no limit named", path)
			}
		}
	})
}

// TestChunksAreNotHeldBack reads a body that pauses after a few bytes.
func TestChunksAreNotHeldBack(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		for _, framing := range []string{"chunked", "length"} {
			more := make(chan struct{})
			u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
				if framing == "length" {
					w.Header().Set("Content-Length", "10")
				}
				io.WriteString(w, "hello")
				w.(http.Flusher).Flush()
				<-more
				io.WriteString(w, "world")
			})
			resp, _, err := p.newTransport(t).RoundTrip(t.Context(), get(t, u.url, p))
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			lend := func() []byte { asked++; return make([]byte, 0, 100) }
			var got []byte
			for len(got) < 5 {
				b, end, err := resp.Body.ReadChunk(lend)
				if err != nil || end {
					t.Fatalf("%s: %q, %v, %v", framing, b, end, err)
				}
				got = append(got, b...)
			}
			close(more)
			for {
				b, _, err := resp.Body.ReadChunk(lend)
				got = append(got, b...)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if string(got) != "helloworld" || asked > 11 {
				t.Errorf("%s: %q with %d buffers", framing, got, asked)
			}
			resp.Body.Close()
		}
	})
}

func TestLargeBodyThroughSmallAndLargeBuffers(t *testing.T) {
	body := make([]byte, 3<<20)
	for i := range body {
		body[i] = byte(i * 7 >> 3)
	}
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			w.Write(body)
		})
		tr := p.newTransport(t)
		for _, path := range []string{"/length", "/chunked"} {
			for _, size := range []int{1000, 256 << 10} {
				resp, _, err := tr.RoundTrip(t.Context(), get(t, u.url+path, p))
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				for err == nil {
					var b []byte
					b, _, err = resp.Body.ReadChunk(func() []byte { return make([]byte, 0, size) })
					got.Write(b)
				}
				resp.Body.Close()
				if err != io.EOF || !bytes.Equal(got.Bytes(), body) {
					t.Errorf("%s by %d: %d bytes, %v", path, size, got.Len(), err)
				}
			}
		}
		if n := u.conns.Load(); n != 1 {
			t.Errorf("%d connections were opened for 4 requests in a row", n)
		}
	})
}

func TestConnectionIsUsedAgain(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
		tr := p.newTransport(t)
		first := do(t, tr, get(t, u.url, p)).facts
		if first.Reused || first.Dials != 1 || !first.Remote.IsValid() || first.Times.Connect <= 0 || (first.TLS != nil) != p.secure {
			t.Errorf("first: %+v", first)
		}
		for range 5 {
			again := do(t, tr, get(t, u.url, p)).facts
			if !again.Reused || again.Dials != 0 || again.Remote != first.Remote || again.TLS != first.TLS || again.Stale != 0 {
				t.Errorf("again: %+v", again)
			}
		}
		r := get(t, u.url, p)
		r.Fresh = true
		if f := do(t, tr, r).facts; f.Reused || f.Dials != 1 {
			t.Errorf("fresh: %+v", f)
		}
	})
}

func TestCloseAfter(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
		r := get(t, u.url, p)
		r.CloseAfter = true
		do(t, p.newTransport(t), r)
		u.waitGone(t)
	})
}

// TestEarlyAnswer gets an answer before the upload ended, and the upload stops.
func TestEarlyAnswer(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		stopped := make(chan struct{}, 2)
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			c.EnableFullDuplex()
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			c.Flush()
			<-stopped
			io.WriteString(w, "too large")
		})
		tr := p.newTransport(t)
		busy, waiting := endless{newBody(nil)}, newWaits("some bytes")
		for b, closed := range map[io.ReadCloser]*bodyT{busy: busy.bodyT, waiting: waiting.bodyT} {
			resp, _, err := tr.RoundTrip(t.Context(), post(t, u.url, p, b, -1))
			if err != nil {
				t.Fatal(err)
			}
			isClosed(t, closed)
			stopped <- struct{}{}
			body, err := io.ReadAll(resp.Body)
			if resp.Status != 413 || string(body) != "too large" || err != nil {
				t.Errorf("status %d, body %q, %v", resp.Status, body, err)
			}
			resp.Body.Close()
		}
	})
}

// TestEarlyAnswerRetires gets an answer before the upload ended, from an
// upstream that would go on: another request must not follow half of one.
func TestEarlyAnswerRetires(t *testing.T) {
	overWire(t, func(t *testing.T, p protocol) {
		for status, reason := range map[int]string{413: "Too Large", 200: "OK"} {
			u := wireUpstream(t, p, func(c net.Conn) {
				br := bufio.NewReader(c)
				http.ReadRequest(br)
				fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: 2\r\n\r\nno", status, reason)
				io.Copy(io.Discard, br)
			})
			tr := p.newTransport(t)
			b := newWaits("begin")
			if e := do(t, tr, post(t, u.url, p, b, -1)); e.Status != status || string(e.body) != "no" || e.err != nil {
				t.Errorf("%d %q %v", e.Status, e.body, e.err)
			}
			isClosed(t, b.bodyT)
			u.waitGone(t)
		}
	})
}

// TestBothWaysAtOnce has each piece of an upload answered before the next one
// is there.
func TestBothWaysAtOnce(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			c.EnableFullDuplex()
			c.Flush()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				c.Flush()
				if err != nil {
					return
				}
			}
		})
		tr := p.newTransport(t)
		upload, source := io.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		resp, _, err := tr.RoundTrip(ctx, post(t, u.url, p, upload, -1))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i := range 5 {
			piece := fmt.Sprint("piece ", i)
			io.WriteString(source, piece)
			got := make([]byte, len(piece))
			if _, err := io.ReadFull(resp.Body, got); string(got) != piece || err != nil {
				t.Fatalf("%q came back as %q, %v", piece, got, err)
			}
		}
		source.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
		if e := do(t, tr, get(t, u.url, p)); !e.facts.Reused {
			t.Error("the connection was not used again")
		}
	})
}

func TestUpstreamBreaksOff(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				w.Header().Set("Content-Length", "10")
			}
			if r.URL.Path != "/head" {
				io.WriteString(w, "hello")
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		})
		tr := p.newTransport(t)
		head, inBody := fetch.ReasonDisconnected, fetch.ReasonIncompleteBody
		if p.is == "HTTP/2" {
			head, inBody = fetch.ReasonStreamReset, fetch.ReasonStreamReset
		}
		if f, _ := fails(t, tr, get(t, u.url+"/head", p), head); f.Sent != fetch.SentYes || f.Stage != fetch.StageHead {
			t.Errorf("failure: %+v", f)
		}
		for path, length := range map[string]int64{"/body": 10, "/chunks": -1} {
			e := do(t, tr, get(t, u.url+path, p))
			f := isFailure(t, e.err, inBody)
			if string(e.body) != "hello" || f.Stage != fetch.StageBody {
				t.Errorf("%s: body %q, %+v", path, e.body, f)
			}
			if inBody == fetch.ReasonIncompleteBody && (f.Short == nil || *f.Short != (fetch.BodyShort{Received: 5, Expected: length})) {
				t.Errorf("%s: short %+v", path, f.Short)
			}
		}
	})
}

// TestTruncationShows ends a response before its end, as each framing tells it.
func TestTruncationShows(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		answer string
		reset  bool // else what carries HTTP ends, and in TLS without a word
	}{
		"length":                {"Content-Length: 6\r\n\r\nhello", false},
		"length, reset":         {"Content-Length: 6\r\n\r\nhello", true},
		"in a chunk":            {chunked + "6\r\nhello", false},
		"behind a chunk":        {chunked + "5\r\nhello", false},
		"between chunks":        {chunked + "5\r\nhello\r\n", false},
		"in a size":             {chunked + "5\r\nhello\r\n1", false},
		"behind the last chunk": {chunked + "5\r\nhello\r\n0\r\n", false},
		"in the trailers":       {chunked + "5\r\nhello\r\n0\r\nX: y\r\n", false},
		"by the end, reset":     {"\r\nhello", true},
		"by the end":            {"\r\nhello", false},
	} {
		t.Run(name, func(t *testing.T) {
			overWire(t, func(t *testing.T, p protocol) {
				if name == "by the end" && !p.secure {
					t.Skip("the end of a connection is the end of this body")
				}
				read := make(chan struct{})
				u := wireUpstream(t, p, func(conn net.Conn) {
					readRequest(bufio.NewReader(conn))
					io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+c.answer)
					if c.reset {
						<-read // else the reset overtakes the answer
						tcp(conn).SetLinger(0)
					}
					tcp(conn).Close()
				})
				resp, _, err := p.newTransport(t).RoundTrip(t.Context(), get(t, u.url, p))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got := make([]byte, 5)
				io.ReadFull(resp.Body, got)
				close(read)
				rest, err := io.ReadAll(resp.Body)
				f := isFailure(t, err, fetch.ReasonIncompleteBody)
				if string(got)+string(rest) != "hello" || f.Short == nil || f.Short.Received != 5 || f.Stage != fetch.StageBody {
					t.Errorf("%q%q, %+v, short %+v", got, rest, f, f.Short)
				}
			})
		})
	}
}

func TestTimeouts(t *testing.T) {
	const short = 50 * time.Millisecond
	overAll(t, func(t *testing.T, p protocol) {
		stop := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				io.WriteString(w, "hello")
				w.(http.Flusher).Flush()
			}
			if r.URL.Path == "/slow" {
				for range 4 {
					<-time.After(short / 2)
					io.WriteString(w, "!")
					w.(http.Flusher).Flush()
				}
				return
			}
			<-stop
		})
		t.Cleanup(func() { close(stop) })
		tr := p.newTransport(t)

		r := get(t, u.url, p)
		r.Timeouts.Head = short
		began := time.Now()
		f, facts := fails(t, tr, r, fetch.ReasonHeadTimeout)
		if took := time.Since(began); took < short || took > 5*time.Second || f.Stage != fetch.StageHead || facts.Stage != fetch.StageHead || facts.Sent == 0 {
			t.Errorf("head: %+v after %s, %+v", f, took, facts)
		}

		r = get(t, u.url+"/slow", p)
		r.Timeouts.Head, r.Timeouts.Write = short, short
		e := do(t, tr, r)
		if string(e.body) != "hello!!!!" || e.err != nil {
			t.Errorf("a body that takes longer than the head may: %q, %v", e.body, e.err)
		}

		r = get(t, u.url+"/body", p)
		r.Timeouts.Idle = short
		e = do(t, tr, r)
		if isFailure(t, e.err, fetch.ReasonBodyTimeout); string(e.body) != "hello" {
			t.Errorf("body %q", e.body)
		}

		big := endless{newBody(nil)}
		r = post(t, u.url, p, big, -1)
		r.Timeouts.Write = short
		if f, _ = fails(t, tr, r, fetch.ReasonWriteTimeout); f.Stage != fetch.StageSend || f.Sent != fetch.SentYes {
			t.Errorf("write: %+v", f)
		}
		isClosed(t, big.bodyT)
	})
}

// lingering is an upstream that answers nothing, or at /body only a part, and
// tells of requests that arrived and that were given up.
type lingering struct {
	*upstream
	arrived, left chan struct{}
}

func linger(t *testing.T, p protocol) lingering {
	l := lingering{arrived: make(chan struct{}, 10), left: make(chan struct{}, 10)}
	l.upstream = serve(t, p, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
		}
		l.arrived <- struct{}{}
		if r.Method == "POST" {
			io.Copy(io.Discard, r.Body)
		}
		<-r.Context().Done()
		l.left <- struct{}{}
	})
	return l
}

func (l lingering) hasLeft(t *testing.T, began time.Time) {
	t.Helper()
	select {
	case <-l.left:
	case <-time.After(5 * time.Second):
		t.Fatal("the upstream was not told")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the upstream was told after %s", took)
	}
}

func TestCancelBeforeTheHead(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := linger(t, p)
		tr := p.newTransport(t)
		for _, r := range []*fetch.Request{get(t, u.url, p), post(t, u.url, p, newWaits("begin"), -1)} {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-u.arrived; cancel() }()
			_, facts, err := tr.RoundTrip(ctx, r)
			began := time.Now()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", r.Method, err)
			}
			if facts.Sent == 0 || facts.Times.Total <= 0 {
				t.Errorf("%s: %+v", r.Method, facts)
			}
			u.hasLeft(t, began)
			if r.Method == "POST" {
				isClosed(t, r.Body.(*waits).bodyT)
			}
		}
	})
}

func TestCancelInTheBody(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		u := linger(t, p)
		tr := p.newTransport(t)
		for _, reading := range []bool{true, false} {
			ctx, cancel := context.WithCancel(t.Context())
			resp, _, err := tr.RoundTrip(ctx, get(t, u.url+"/body", p))
			if err != nil {
				t.Fatal(err)
			}
			<-u.arrived
			began := time.Now()
			if reading {
				go cancel()
				if _, err = io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
					t.Errorf("body: %v", err)
				}
			}
			cancel()
			u.hasLeft(t, began)
			resp.Body.Close()
		}
	})
}

// TestCancelLeavesNothing ends the context of an exchange in each of its phases:
// who waits goes on at once, and no goroutine stays.
func TestCancelLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		upload func() io.ReadCloser
	}{
		"before the head":              {"/", nil},
		"in the body":                  {"/body", nil},
		"upload waits for its source":  {"/", func() io.ReadCloser { return newWaits("begin") }},
		"upload waits to be taken":     {"/stop", func() io.ReadCloser { return endless{newBody(nil)} }},
		"upload goes on":               {"/", func() io.ReadCloser { return endless{newBody(nil)} }},
		"in the body, the upload, too": {"/body", func() io.ReadCloser { return newWaits("begin") }},
	} {
		t.Run(name, func(t *testing.T) {
			overAll(t, func(t *testing.T, p protocol) {
				arrived, gone := make(chan struct{}), make(chan struct{})
				u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
					http.NewResponseController(w).EnableFullDuplex()
					if r.URL.Path == "/body" {
						io.WriteString(w, "hello")
						w.(http.Flusher).Flush()
					}
					close(arrived)
					if r.URL.Path == "/stop" {
						<-gone // who reads nothing learns nothing
						return
					}
					io.Copy(io.Discard, r.Body)
					<-r.Context().Done()
				})
				leave := sync.OnceFunc(func() { close(gone) })
				t.Cleanup(leave)
				before := goleak.IgnoreCurrent()
				tr := p.newTransport(t)
				r := get(t, u.url+c.path, p)
				if c.upload != nil {
					r = post(t, u.url+c.path, p, c.upload(), -1)
				}
				r.Timeouts.Head, r.Timeouts.Idle, r.Timeouts.Write = 10*time.Second, 10*time.Second, 10*time.Second
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var canceled time.Time
				go func() { <-arrived; canceled = time.Now(); cancel() }()
				resp, _, err := tr.RoundTrip(ctx, r)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				if took := time.Since(canceled); took > time.Second {
					t.Errorf("it took %s", took)
				}
				leave()
				tr.Close(t.Context())
				goleak.VerifyNone(t, before)
			})
		})
	}
}

// TestCutEndsABody: who waits for a body that is cut goes on at once with a
// failure, and its connection, which over HTTP/1.1 can serve no other, with it.
// To cut a body that has ended harms nobody.
func TestCutEndsABody(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		goOn := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			switch r.URL.Path {
			case "/waits":
				<-r.Context().Done()
			case "/later":
				<-goOn
				io.WriteString(w, ", again")
			}
		})
		tr := p.newTransport(t)
		r := get(t, u.url+"/waits", p)
		r.Timeouts.Idle = time.Minute
		resp, _, err := tr.RoundTrip(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(10*time.Millisecond, resp.Body.Cut)
		if n, err := resp.Body.Read(make([]byte, 5)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%d bytes and %v were read behind the cut", n, err)
		}
		resp.Body.Close()
		resp.Body.Cut()

		r = get(t, u.url+"/", p)
		ended, facts, err := tr.RoundTrip(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if isShared := p.is == "HTTP/2"; facts.Reused != isShared {
			t.Errorf("on a connection that was used before: %t", facts.Reused)
		}
		if _, err := io.ReadAll(ended.Body); err != nil {
			t.Fatal(err)
		}
		next, facts, err := tr.RoundTrip(t.Context(), get(t, u.url+"/later", p))
		if err != nil || !facts.Reused {
			t.Fatalf("the connection is not used again: %+v, %v", facts, err)
		}
		ended.Body.Cut()
		close(goOn)
		if b, err := io.ReadAll(next.Body); string(b) != "hello, again" || err != nil {
			t.Errorf("after another body was cut, %q and %v were read", b, err)
		}
	})
}

// TestCancelBeforeTheRequest ends the context while the connection is made.
func TestCancelBeforeTheRequest(t *testing.T) {
	began := make(chan struct{}, 1)
	u := rawUpstream(t, nil, func(c net.Conn) {
		io.CopyN(io.Discard, c, 1)
		began <- struct{}{}
		io.Copy(io.Discard, c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	r := get(t, strings.Replace(u.url, "http:", "https:", 1), overH2)
	_, facts, err := newTransport(t).RoundTrip(ctx, r)
	if !errors.Is(err, context.Canceled) || facts.Stage != fetch.StageTLS || facts.Sent != 0 {
		t.Errorf("in the handshake: %v, %+v", err, facts)
	}
	u.waitGone(t)
	_, facts, err = newTransport(t).RoundTrip(ctx, r)
	if !errors.Is(err, context.Canceled) || facts.Dials != 0 {
		t.Errorf("before the dial: %v, %+v", err, facts)
	}
}

// TestCloseGivesUp closes a body that was not read.
func TestCloseGivesUp(t *testing.T) {
	overAll(t, func(t *testing.T, p protocol) {
		left := make(chan struct{})
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			defer close(left)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
		resp, _, err := p.newTransport(t).RoundTrip(t.Context(), get(t, u.url, p))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read after Close: %v", err)
		}
		select {
		case <-left:
		case <-time.After(5 * time.Second):
			t.Error("the upstream still sends")
		}
	})
}

func TestMistakesAreRefused(t *testing.T) {
	u := serve(t, overH1, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") })
	tr := newTransport(t)
	for name, alter := range map[string]func(*fetch.Request){
		"no pool key":         func(r *fetch.Request) { r.Route.Key = "" },
		"no dial":             func(r *fetch.Request) { r.Route.MaxDials = 0 },
		"no timeout":          func(r *fetch.Request) { r.Timeouts.Head = 0 },
		"space in the target": func(r *fetch.Request) { r.Target = []byte("/a b") },
		"absolute target":     func(r *fetch.Request) { r.Target = []byte("http://x/") },
		"line in the method":  func(r *fetch.Request) { r.Method = "GET / HTTP/1.1\r\nX" },
		"line in a field":     func(r *fetch.Request) { r.Fields = []fetch.Field{{Name: "X", Value: []byte("a\r\nb: c")}} },
		"line in a name":      func(r *fetch.Request) { r.Fields = []fetch.Field{{Name: "X\r\nY", Value: nil}} },
		"framing": func(r *fetch.Request) {
			r.Fields = []fetch.Field{{Name: "transfer-ENCODING", Value: []byte("chunked")}}
		},
		"length":   func(r *fetch.Request) { r.Fields = []fetch.Field{{Name: "content-length", Value: []byte("3")}} },
		"host":     func(r *fetch.Request) { r.Fields = []fetch.Field{{Name: "host", Value: []byte("x")}} },
		"bad host": func(r *fetch.Request) { r.HostField = "a b" },
		"CONNECT":  func(r *fetch.Request) { r.Method = "CONNECT" },
		"upgrade":  func(r *fetch.Request) { r.Framing = fetch.FramingUpgrade },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBody(strings.NewReader("x"))
			r := post(t, u.url, overH1, b, 1)
			alter(r)
			if f, _ := fails(t, tr, r, fetch.ReasonInternalFault); f.Sent != fetch.SentNo {
				t.Errorf("Sent is %s", f.Sent)
			}
			isClosed(t, b)
		})
	}
}
