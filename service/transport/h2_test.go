package transport_test

import (
	"bytes"
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

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// peer is the upstream's end of an HTTP/2 connection.
type peer struct {
	*http2.Framer
	conn net.Conn
	buf  bytes.Buffer
	enc  *hpack.Encoder
}

// head sends a response head of the fields given as name, value, name, value.
func (p *peer) head(stream uint32, end bool, fields ...string) {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.buf.Bytes(), EndHeaders: true, EndStream: end})
}

// h2Upstream reads the frames of each connection and gives them to on, after
// the first that end the head of a request.
func h2Upstream(t *testing.T, p protocol, settings []http2.Setting, on func(p *peer, f http2.Frame) (more bool)) *upstream {
	config := h2TLS()
	if !p.secure {
		config = nil
	}
	return rawUpstream(t, config, func(c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		p := &peer{Framer: http2.NewFramer(c, c), conn: c}
		p.enc = hpack.NewEncoder(&p.buf)
		p.WriteSettings(settings...)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := f.(*http2.SettingsFrame); ok {
				if !s.IsAck() {
					p.WriteSettingsAck()
				}
				continue
			}
			if !on(p, f) {
				return
			}
		}
	})
}

// onHeaders is an on that answers heads only.
func onHeaders(answer func(p *peer, stream uint32)) func(*peer, http2.Frame) bool {
	return func(p *peer, f http2.Frame) bool {
		if h, ok := f.(*http2.HeadersFrame); ok {
			answer(p, h.StreamID)
		}
		return true
	}
}

// overBothH2 runs a test with and without TLS.
func overBothH2(t *testing.T, test func(t *testing.T, p protocol)) {
	for _, p := range []protocol{overH2, overH2C} {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// TestH2NeverServed meets upstreams that serve no request on any connection:
// whether to try again is not the transport's to say.
func TestH2NeverServed(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(p *peer, stream uint32)
		want   fetch.Reason
	}{
		"GOAWAY":  {func(p *peer, _ uint32) { p.WriteGoAway(0, http2.ErrCodeNo, nil) }, fetch.ReasonProtocolError},
		"refused": {func(p *peer, s uint32) { p.WriteRSTStream(s, http2.ErrCodeRefusedStream) }, fetch.ReasonStreamReset},
	} {
		t.Run(name, func(t *testing.T) {
			overBothH2(t, func(t *testing.T, p protocol) {
				u := h2Upstream(t, p, nil, onHeaders(c.answer))
				f, facts := fails(t, newTransport(t), get(t, u.url, p), c.want)
				if n := u.conns.Load(); n != 1 || facts.Dials != 1 || f.Sent != fetch.SentNo {
					t.Errorf("%d connections, %d dials, %+v", n, facts.Dials, f)
				}
			})
		})
	}
}

// TestH2NoStreamAtAll meets an upstream that takes no request on any connection:
// the dials are bounded, and so is the time.
func TestH2NoStreamAtAll(t *testing.T) {
	none := []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}
	u := h2Upstream(t, overH2, none, onHeaders(func(*peer, uint32) {})) // one sent on trust gets no answer
	tr := newTransport(t)
	var all sync.WaitGroup
	began := time.Now()
	for range 100 {
		all.Go(func() {
			r := get(t, u.url, overH2)
			r.Timeouts.Pool, r.Timeouts.Head = 100*time.Millisecond, 100*time.Millisecond
			resp, facts, err := tr.RoundTrip(t.Context(), r)
			if err == nil {
				resp.Body.Close()
				t.Error("an answer came")
			}
			if facts.Dials > 4 {
				t.Errorf("%d dials", facts.Dials)
			}
		})
	}
	all.Wait()
	if n := u.conns.Load(); n > 150 || time.Since(began) > 10*time.Second {
		t.Errorf("%d connections for 100 requests, after %s", n, time.Since(began))
	} else {
		t.Logf("%d connections for 100 requests, after %s", n, time.Since(began))
	}
}

// TestH2GoAwayInMidLife has a connection end after its first answer: who is
// below the last stream is answered, who is above goes out once more, to one
// new connection that all of them share.
func TestH2GoAwayInMidLife(t *testing.T) {
	const above = 5
	overBothH2(t, func(t *testing.T, p protocol) {
		var conns atomic.Int64
		var mu sync.Mutex
		streams := map[*peer][]uint32{}
		u := h2Upstream(t, p, nil, onHeaders(func(p *peer, s uint32) {
			mu.Lock()
			defer mu.Unlock()
			streams[p] = append(streams[p], s)
			n := len(streams[p])
			switch {
			case n == 1:
				conns.Add(1)
				p.head(s, true, ":status", "204")
			case conns.Load() == 1 && n == 2:
				p.head(s, false, ":status", "200")
			case conns.Load() == 1 && n == 2+above:
				lower := streams[p][1]
				p.WriteGoAway(lower, http2.ErrCodeNo, nil)
				p.WriteData(lower, true, []byte("lower"))
			case conns.Load() > 1:
				p.head(s, true, ":status", "204")
			}
		}))
		tr := newTransport(t)
		do(t, tr, get(t, u.url, p))
		lower, _, err := tr.RoundTrip(t.Context(), get(t, u.url, p))
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range above {
			all.Go(func() {
				if e := do(t, tr, get(t, u.url, p)); e.Status != 204 || e.facts.Dials > 1 {
					t.Errorf("status %d, %+v", e.Status, e.facts)
				}
			})
		}
		all.Wait()
		if b, err := io.ReadAll(lower.Body); string(b) != "lower" || err != nil {
			t.Errorf("the lower stream: %q, %v", b, err)
		}
		lower.Body.Close()
		if n := u.conns.Load(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// TestH2GoAwayAgain has each connection answer once and then end: a request goes
// out twice, not for ever.
func TestH2GoAwayAgain(t *testing.T) {
	var mu sync.Mutex
	var sent int
	answered := map[*peer]bool{}
	u := h2Upstream(t, overH2, nil, onHeaders(func(p *peer, s uint32) {
		mu.Lock()
		defer mu.Unlock()
		if sent++; sent > 1 {
			p.WriteGoAway(0, http2.ErrCodeNo, nil)
			return
		}
		answered[p] = true
		p.head(s, true, ":status", "204")
	}))
	tr := newTransport(t)
	do(t, tr, get(t, u.url, overH2))
	f, facts := fails(t, tr, get(t, u.url, overH2), fetch.ReasonProtocolError)
	if f.Sent != fetch.SentNo || facts.Dials != 1 || sent != 3 {
		t.Errorf("%+v, %+v, %d requests arrived", f, facts, sent)
	}
}

// TestH2BodyIsNotSentTwice has the stream refused after the body was begun:
// only who can open the body again may try again.
func TestH2BodyIsNotSentTwice(t *testing.T) {
	u := h2Upstream(t, overH2, nil, func(p *peer, f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			p.WriteRSTStream(d.StreamID, http2.ErrCodeRefusedStream)
		}
		return true
	})
	b := newWaits("some bytes")
	f, facts := fails(t, newTransport(t), post(t, u.url, overH2, b, -1), fetch.ReasonStreamReset)
	if f.Sent != fetch.SentNo || facts.Dials != 1 {
		t.Errorf("sent %s, %+v", f.Sent, facts)
	}
	isClosed(t, b.bodyT)
}

// TestH2WindowOverflow replays the frame that hangs net/http's own copy of the
// HTTP/2 library for every origin.
func TestH2WindowOverflow(t *testing.T) {
	overBothH2(t, func(t *testing.T, p protocol) {
		bad := h2Upstream(t, p, nil, onHeaders(func(p *peer, s uint32) { p.WriteWindowUpdate(s, 1<<31-1) }))
		good := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
		tr := newTransport(t)
		for range 3 {
			began := time.Now()
			fails(t, tr, get(t, bad.url, p), fetch.ReasonProtocolError)
			if e := do(t, tr, get(t, good.url, p)); string(e.body) != "ok" {
				t.Errorf("the good upstream answered %q, %v", e.body, e.err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		}
		tr.Forget(func(fetch.Route) bool { return false })
		do(t, tr, get(t, good.url, p))
	})
}

func TestH2BadAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(p *peer, stream uint32)
		want   fetch.Reason
		sent   fetch.RequestSent
	}{
		"reset": {func(p *peer, s uint32) { p.WriteRSTStream(s, http2.ErrCodeInternal) }, fetch.ReasonStreamReset, fetch.SentYes},
		"GOAWAY with an error": {func(p *peer, s uint32) { p.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("secret")) },
			fetch.ReasonProtocolError, fetch.SentNo},
		"GOAWAY after the stream and the end": {func(p *peer, s uint32) { p.WriteGoAway(s, http2.ErrCodeNo, nil); p.conn.Close() },
			fetch.ReasonDisconnected, fetch.SentYes},
		"end":             {func(p *peer, s uint32) { p.conn.Close() }, fetch.ReasonDisconnected, fetch.SentYes},
		"no status":       {func(p *peer, s uint32) { p.head(s, true, "x", "y") }, fetch.ReasonProtocolError, fetch.SentYes},
		"low status":      {func(p *peer, s uint32) { p.head(s, true, ":status", "20") }, fetch.ReasonMalformedHead, fetch.SentYes},
		"odd status":      {func(p *peer, s uint32) { p.head(s, true, ":status", "2x0") }, fetch.ReasonProtocolError, fetch.SentYes},
		"upper case":      {func(p *peer, s uint32) { p.head(s, true, ":status", "200", "X", "y") }, fetch.ReasonProtocolError, fetch.SentYes},
		"line in a value": {func(p *peer, s uint32) { p.head(s, true, ":status", "200", "x", "a\r\nb") }, fetch.ReasonProtocolError, fetch.SentYes},
		"101":             {func(p *peer, s uint32) { p.head(s, false, ":status", "101") }, fetch.ReasonProtocolError, fetch.SentYes},
		"data before":     {func(p *peer, s uint32) { p.WriteData(s, false, []byte("x")) }, fetch.ReasonProtocolError, fetch.SentYes},
		"push":            {func(p *peer, s uint32) { p.WritePushPromise(http2.PushPromiseParam{StreamID: s, PromiseID: 2}) }, fetch.ReasonProtocolError, fetch.SentYes},
		"HTTP/1.1":        {func(p *peer, s uint32) { io.WriteString(p.conn, "HTTP/1.1 400 Bad Request\r\n\r\n") }, fetch.ReasonProtocolError, fetch.SentYes},
		"settings ack":    {func(p *peer, s uint32) { p.WriteSettingsAck() }, fetch.ReasonProtocolError, fetch.SentYes},
	} {
		t.Run(name, func(t *testing.T) {
			u := h2Upstream(t, overH2, nil, onHeaders(c.answer))
			f, facts := fails(t, newTransport(t), get(t, u.url, overH2), c.want)
			if f.Sent != c.sent || facts.Dials != 1 || strings.Contains(f.Message, "secret") {
				t.Errorf("%+v, %+v", f, facts)
			}
		})
	}
}

func TestH2BadBodies(t *testing.T) {
	for name, c := range map[string]struct {
		length string
		answer func(p *peer, stream uint32)
		want   fetch.Reason
	}{
		"reset":     {"", func(p *peer, s uint32) { p.WriteRSTStream(s, http2.ErrCodeCancel) }, fetch.ReasonStreamReset},
		"end":       {"", func(p *peer, s uint32) { p.conn.Close() }, fetch.ReasonIncompleteBody},
		"too short": {"10", func(p *peer, s uint32) { p.WriteData(s, true, nil) }, fetch.ReasonIncompleteBody},
		"too long":  {"6", func(p *peer, s uint32) { p.WriteData(s, true, []byte("12")) }, fetch.ReasonProtocolError},
		"GOAWAY":    {"", func(p *peer, s uint32) { p.WriteGoAway(s, http2.ErrCodeNo, nil); p.conn.Close() }, fetch.ReasonIncompleteBody},
	} {
		t.Run(name, func(t *testing.T) {
			read := make(chan struct{})
			u := h2Upstream(t, overH2, nil, onHeaders(func(p *peer, s uint32) {
				fields := []string{":status", "200"}
				if c.length != "" {
					fields = append(fields, "content-length", c.length)
				}
				p.head(s, false, fields...)
				p.WriteData(s, false, []byte("hello"))
				<-read
				c.answer(p, s)
			}))
			resp, _, err := newTransport(t).RoundTrip(t.Context(), get(t, u.url, overH2))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			close(read)
			_, err = io.ReadAll(resp.Body)
			f := isFailure(t, err, c.want)
			if f.Stage != fetch.StageBody || c.want == fetch.ReasonIncompleteBody && (f.Short == nil || f.Short.Received != 5) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestH2GracefulEnd lets a stream end on a connection that takes no more.
func TestH2GracefulEnd(t *testing.T) {
	u := h2Upstream(t, overH2, nil, onHeaders(func(p *peer, s uint32) {
		p.head(s, false, ":status", "200")
		p.WriteGoAway(s, http2.ErrCodeNo, nil)
		p.WriteData(s, true, []byte("hello"))
	}))
	tr := newTransport(t)
	for range 3 {
		if e := do(t, tr, get(t, u.url, overH2)); string(e.body) != "hello" || e.err != nil || e.facts.Reused {
			t.Errorf("%q, %v, %+v", e.body, e.err, e.facts)
		}
	}
	closed(t, tr, fetch.ClosedPeer, 3)
}

func TestH2OnTheWire(t *testing.T) {
	var decoded []string
	var mu sync.Mutex
	u := h2Upstream(t, overH2, nil, func() func(p *peer, f http2.Frame) bool {
		dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
			mu.Lock()
			defer mu.Unlock()
			decoded = append(decoded, f.Name+"="+f.Value)
		})
		return func(p *peer, f http2.Frame) bool {
			if h, ok := f.(*http2.HeadersFrame); ok {
				dec.Write(h.HeaderBlockFragment())
				if h.StreamEnded() {
					p.head(h.StreamID, true, ":status", "204")
				}
			}
			return true
		}
	}())
	r := post(t, u.url, overH2, newBody(strings.NewReader("x")), -1)
	r.Target = []byte("//x?y")
	r.Fields = []fetch.Field{{Name: "Accept", Value: []byte("a")}}
	r.TrailerNames = []string{"X-End"}
	r.Trailers = func() []fetch.Field { return []fetch.Field{{Name: "X-End", Value: []byte("1")}} }
	do(t, newTransport(t), r)
	want := fmt.Sprintf("[:authority=%s :method=POST :path=//x?y :scheme=https trailer=X-End accept=a x-end=1]", strings.TrimPrefix(u.url, "https://"))
	mu.Lock()
	defer mu.Unlock()
	if got := fmt.Sprint(decoded); got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
}

// TestH2UnnamedTrailers are refused, for the library would drop them.
func TestH2UnnamedTrailers(t *testing.T) {
	overBothH2(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		r := post(t, u.url, p, newBody(strings.NewReader("x")), -1)
		r.TrailerNames, r.Trailers = []string{"X-End"}, func() []fetch.Field { return list("X-Other: 1") }
		fails(t, newTransport(t), r, fetch.ReasonUploadAborted)
	})
}

// TestH2UploadWithoutWindow meets an upstream that never takes the body.
func TestH2UploadWithoutWindow(t *testing.T) {
	u := h2Upstream(t, overH2, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, onHeaders(func(*peer, uint32) {}))
	b := endless{newBody(nil)}
	r := post(t, u.url, overH2, b, -1)
	r.Timeouts.Write = 80 * time.Millisecond
	fails(t, newTransport(t), r, fetch.ReasonWriteTimeout)
	isClosed(t, b.bodyT)
}

// TestH2DeafUpstream meets one that reads nothing, so that the library is stuck
// in a write, and ends the request all the same.
func TestH2DeafUpstream(t *testing.T) {
	overBothH2(t, func(t *testing.T, p protocol) {
		config := h2TLS()
		if !p.secure {
			config = nil
		}
		done := make(chan struct{})
		u := rawUpstream(t, config, func(c net.Conn) {
			preface := make([]byte, len(http2.ClientPreface))
			if _, err := io.ReadFull(c, preface); err != nil {
				return
			}
			fr := http2.NewFramer(c, c)
			fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
			fr.WriteWindowUpdate(0, 1<<30)
			<-done
		})
		t.Cleanup(func() { close(done) })
		tr := newTransport(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		b := endless{newBody(nil)}
		r := post(t, u.url, p, b, -1)
		_, _, err := tr.RoundTrip(ctx, r)
		deadline, _ := ctx.Deadline()
		if late := time.Since(deadline); !errors.Is(err, context.DeadlineExceeded) || late > 3*time.Second {
			t.Errorf("%v, %s after the deadline", err, late)
		}
		isClosed(t, b.bodyT)
	})
}

func TestH2SilentUpstream(t *testing.T) {
	done := make(chan struct{})
	u := rawUpstream(t, h2TLS(), func(c net.Conn) { go io.Copy(io.Discard, c); <-done })
	t.Cleanup(func() { close(done) })
	r := get(t, u.url, overH2)
	r.Timeouts.Head = 50 * time.Millisecond
	fails(t, newTransport(t), r, fetch.ReasonHeadTimeout)
}

// TestH2SharesConnections sends many requests at once.
func TestH2SharesConnections(t *testing.T) {
	// 100 is what the library takes on trust before it knows the limit.
	for name, c := range map[string]struct{ streams, most int }{"many": {250, 1}, "few": {100, 9}} {
		t.Run(name, func(t *testing.T) {
			overBothH2(t, func(t *testing.T, p protocol) {
				u := serveH2(t, p, c.streams, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
				tr := newTransport(t, func(l *fetch.Limits) { l.MaxConnectionsPerRoute = 9 })
				var all sync.WaitGroup
				requests := 80
				if c.most > 1 {
					requests = 400
				}
				for range requests {
					all.Go(func() {
						for range 5 {
							resp, _, err := tr.RoundTrip(t.Context(), get(t, u.url, p))
							if err != nil {
								t.Error(err)
								return
							}
							if b, err := io.ReadAll(resp.Body); string(b) != "ok" {
								t.Errorf("%q, %v", b, err)
							}
							resp.Body.Close()
						}
					})
				}
				all.Wait()
				if n := int(u.conns.Load()); n > c.most {
					t.Errorf("%d connections, want at most %d", n, c.most)
				}
			})
		})
	}
}

// TestH2Crowd sends many requests at once to an upstream that takes few.
func TestH2Crowd(t *testing.T) {
	u := serveH2(t, overH2, 10, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	tr := newTransport(t, func(l *fetch.Limits) { l.MaxConnectionsPerRoute = 3 })
	do(t, tr, get(t, u.url, overH2)) // now the limit is known
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if e := do(t, tr, get(t, u.url, overH2)); string(e.body) != "ok" {
				t.Errorf("%q, %v", e.body, e.err)
			}
		})
	}
	all.Wait()
	if n := u.conns.Load(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

// TestH2OneStreamAtATime sends requests one after the other to an upstream that
// serves one at a time: one connection is enough.
func TestH2OneStreamAtATime(t *testing.T) {
	u := serveH2(t, overH2, 1, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	tr := newTransport(t)
	for range 3000 { // what is missed at the end of a stream is missed rarely
		do(t, tr, get(t, u.url, overH2))
	}
	if n := u.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestH2StreamsEndAlone ends one stream of a connection and reads on another.
func TestH2StreamsEndAlone(t *testing.T) {
	more := make(chan struct{})
	u := serve(t, overH2, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
		w.(http.Flusher).Flush()
		select {
		case <-more:
			io.WriteString(w, "world")
		case <-r.Context().Done():
		}
	})
	tr := newTransport(t)
	kept, _, err := tr.RoundTrip(t.Context(), get(t, u.url, overH2))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cut, facts, err := tr.RoundTrip(ctx, get(t, u.url, overH2))
	if err != nil || !facts.Reused {
		t.Fatal(err, facts)
	}
	cancel()
	if _, err := io.ReadAll(cut.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("the cut body ended with %v", err)
	}
	cut.Body.Close()
	close(more)
	if b, err := io.ReadAll(kept.Body); string(b) != "helloworld" {
		t.Errorf("the other body: %q, %v", b, err)
	}
	kept.Body.Close()
}

// TestH2SlowStream leaves one body of a connection unread, more than a window of
// it, and reads others: what the slow one holds back is its own.
func TestH2SlowStream(t *testing.T) {
	overBothH2(t, func(t *testing.T, p protocol) {
		u := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/slow" {
				io.WriteString(w, "ok")
				return
			}
			for block := make([]byte, 64<<10); r.Context().Err() == nil; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		})
		tr := newTransport(t)
		slow, _, err := tr.RoundTrip(t.Context(), get(t, u.url+"/slow", p))
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Body.Close()
		var worst time.Duration
		for range 300 {
			began := time.Now()
			if e := do(t, tr, get(t, u.url, p)); string(e.body) != "ok" || !e.facts.Reused {
				t.Fatalf("%q, %v, %+v", e.body, e.err, e.facts)
			}
			worst = max(worst, time.Since(began))
		}
		if n := u.conns.Load(); n != 1 || worst > time.Second {
			t.Errorf("%d connections, %s at worst", n, worst)
		}
	})
}

// TestH2PingsFindTheDead has an upstream take everything and send nothing: its
// connection ends within 15 s, whatever the timeouts of the request are.
func TestH2PingsFindTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deaf{}
		tr := transport.New(transport.Options{Dialer: d, Limits: fetch.DefaultLimits()})
		r := get(t, "http://192.0.2.1:80", overH2C)
		r.Timeouts.Head = 10 * time.Minute
		began := time.Now()
		f, facts := fails(t, tr, r, fetch.ReasonConnectionReset)
		if took := time.Since(began); took > 15*time.Second+time.Millisecond || took < 5*time.Second || f.Sent != fetch.SentYes || facts.Dials != 1 {
			t.Errorf("after %s: %+v, %+v", took, f, facts)
		}
		r.Timeouts.Head = time.Second
		if _, facts = fails(t, tr, r, fetch.ReasonHeadTimeout); facts.Reused || facts.Dials != 1 {
			t.Errorf("the next: %+v", facts)
		}
		tr.Close(t.Context())
		d.all.Wait()
	})
}

// deaf is a dialer to upstreams that read and say nothing.
type deaf struct{ all sync.WaitGroup }

func (d *deaf) Dial(context.Context, string, uint16, fetch.Route, fetch.Timeouts, int) (dial.Result, error) {
	ours, theirs := net.Pipe()
	d.all.Go(func() {
		io.Copy(io.Discard, theirs)
		theirs.Close()
	})
	return dial.Result{Conn: ours, Remote: netip.MustParseAddrPort("192.0.2.1:80"), Dials: 1}, nil
}
