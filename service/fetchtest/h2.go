package fetchtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// H2 is an HTTP/2 upstream that keeps to RFC 9113: net/http's server. It
// records every request.
type H2 struct {
	*Upstream

	mu       sync.Mutex
	requests []*Recorded
}

// NewH2 starts an HTTP/2 upstream: over TLS with a certificate of authority,
// or, when that is nil, over TCP with prior knowledge (RFC 9113 section 3.3).
// A nil handler reads the body and answers 200 with the body "ok". A handler
// must return when its request's context ends.
func NewH2(t testing.TB, handler http.Handler, authority *Authority) *H2 {
	t.Helper()
	if handler == nil {
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "ok")
		})
	}
	l := Listen{Authority: authority}
	u := &H2{Upstream: newUpstream(t, l, l.tls("h2"))}
	server := &http.Server{
		Handler:     u.recording(handler),
		Protocols:   new(http.Protocols),
		ConnContext: withNumber,
		ConnState:   u.noteState,
		ErrorLog:    log.New(io.Discard, "", 0),
	}
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	u.stop = func() { _ = server.Close() }
	u.running.Go(func() { _ = server.Serve(tracked{u.Upstream}) })
	return u
}

// Requests returns the requests so far, in the order in which they began. The
// Body of each is what the handler has read of it.
func (u *H2) Requests() []Recorded {
	u.mu.Lock()
	defer u.mu.Unlock()
	requests := make([]Recorded, len(u.requests))
	for i, r := range u.requests {
		requests[i] = *r
	}
	return requests
}

// noteState makes Close wait for the server's goroutine of each connection.
func (u *Upstream) noteState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		u.running.Add(1)
	case http.StateClosed:
		u.running.Done()
	}
}

// recording records a request before the handler sees it, and its body as the
// handler reads it. Close waits for the handler.
func (u *H2) recording(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !u.begin() {
			return
		}
		defer u.running.Done()
		recorded := &Recorded{
			Method: r.Method, Target: r.RequestURI, Proto: r.Proto, Host: r.Host,
			Fields: sortedFields(r.Header), TLS: r.TLS,
			Conn: r.Context().Value(numberKey{}).(int),
		}
		u.mu.Lock()
		u.requests = append(u.requests, recorded)
		u.mu.Unlock()
		r.Body = &recordedBody{ReadCloser: r.Body, upstream: u, recorded: recorded, request: r}
		handler.ServeHTTP(w, r)
	})
}

// begin counts a handler, which is over with running.Done, unless the upstream
// is closed: a handler can start after its connection has ended.
func (u *H2) begin() bool {
	u.Upstream.mu.Lock()
	defer u.Upstream.mu.Unlock()
	if !u.closed {
		u.running.Add(1)
	}
	return !u.closed
}

// recordedBody copies what is read of a body into the record of its request.
type recordedBody struct {
	io.ReadCloser
	upstream *H2
	recorded *Recorded
	request  *http.Request
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.upstream.mu.Lock()
	defer b.upstream.mu.Unlock()
	b.recorded.Body = keep(b.recorded.Body, p[:n]...)
	b.recorded.Length += int64(n)
	switch err {
	case nil:
	case io.EOF:
		b.recorded.Trailers = sortedFields(b.request.Trailer)
	default:
		b.recorded.Err = err
	}
	return n, err
}

func sortedFields(header http.Header) []fetch.Field {
	var fields []fetch.Field
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			fields = append(fields, fetch.Field{Name: name, Value: []byte(value)})
		}
	}
	return fields
}

// tracked is an Upstream as the listener of a server that runs its own
// connections.
type tracked struct{ *Upstream }

func (l tracked) Accept() (net.Conn, error) {
	w, err := l.accept()
	if err != nil {
		return nil, err
	}
	if l.config != nil {
		return tls.Server(w, l.config), nil
	}
	return w, nil
}

func (l tracked) Close() error   { return l.listener.Close() }
func (l tracked) Addr() net.Addr { return l.listener.Addr() }

// numberKey is the context key of a connection's number.
type numberKey struct{}

func withNumber(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return context.WithValue(ctx, numberKey{}, conn.(*wire).number)
}

// Hostile is one way in which an HTTP/2 upstream can harm who calls it.
type Hostile struct {
	// Name is what NewHostile knows it by.
	Name string
	// Does says what it does, in words that follow the name.
	Does string
	// Serve plays the upstream on one connection, on which HTTP/2 is spoken
	// with prior knowledge or was agreed on, until the peer closes it.
	Serve func(net.Conn)
}

// Hostiles returns every kind of hostile upstream, for tests that walk over
// all of them.
func Hostiles() []Hostile { return slices.Concat(hostiles, floods, resets()) }

// NewHostile starts the hostile upstream of that name: over TLS with a
// certificate of authority, or, when that is nil, over TCP with prior knowledge.
func NewHostile(t testing.TB, name string, authority *Authority) *Upstream {
	t.Helper()
	all := Hostiles()
	i := slices.IndexFunc(all, func(h Hostile) bool { return h.Name == name })
	if i < 0 {
		t.Fatalf("fetchtest: there is no hostile upstream %q; Hostiles lists them", name)
	}
	l := Listen{Authority: authority}
	u := newUpstream(t, l, l.tls("h2"))
	u.serve(func(c *Conn) { all[i].Serve(c) })
	return u
}

// The floods end, so that a peer without a limit is found by what it took, not
// by the memory of the machine.
const (
	floodFrames = 20_000 // small frames of a flood: up to 1 MB
	floodBlocks = 1_000  // CONTINUATION frames of about 15 KiB: 15 MB
	frameSize   = 16 << 10
)

var hostiles = []Hostile{
	{"goaway", "answers every request with GOAWAY(last=0)",
		hostile(func(s *session, _ uint32) error { return s.WriteGoAway(0, http2.ErrCodeNo, nil) })},
	{"window-overflow", "answers with WINDOW_UPDATE(2^31-1) on the request's stream",
		hostile(func(s *session, stream uint32) error { return s.WriteWindowUpdate(stream, 1<<31-1) })},
	{"connection-window-overflow", "answers with WINDOW_UPDATE(2^31-1) on the connection",
		hostile(func(s *session, _ uint32) error { return s.WriteWindowUpdate(0, 1<<31-1) })},
	{"no-streams", "allows no stream: SETTINGS_MAX_CONCURRENT_STREAMS=0",
		hostile(neverAnswer, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})},
	{"no-window", "lets no body through: SETTINGS_INITIAL_WINDOW_SIZE=0",
		hostile(neverAnswer, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})},
	{"no-frame-size", "breaks RFC 9113 section 6.5.2: SETTINGS_MAX_FRAME_SIZE=0",
		hostile(neverAnswer, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})},
	{"silent", "answers SETTINGS and PING, but no request", hostile(neverAnswer)},
	{"mute", "sends nothing at all", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }},
	{"reset-in-body", "sends a head and a part of the body, then RST_STREAM(INTERNAL_ERROR)",
		hostile((*session).resetInBody)},
	{"header-flood", "answers with a head of 20,000 fields", hostile((*session).floodFields)},
	{"header-bomb", "answers with a head of 12,000 references to one field of 4,000 bytes",
		hostile((*session).bombFields)},
	{"continuation-flood", "begins a head and sends 15 MB of CONTINUATION frames without its end",
		hostile((*session).floodContinuations)},
	{"interim-flood", "sends 20,000 heads of status 103 before the answer", hostile((*session).floodInterim)},
	{"settings-flood", "answers with 20,000 SETTINGS frames",
		hostile(flood(func(s *session, _ uint32) error { return s.WriteSettings() }))},
	{"ping-flood", "answers with 20,000 PING frames",
		hostile(flood(func(s *session, _ uint32) error { return s.WritePing(false, [8]byte{}) }))},
	{"empty-data-flood", "answers with a head and 20,000 empty DATA frames", hostile((*session).floodEmptyData)},
	{"long-body", "announces a body of 2 bytes and sends 10", hostile((*session).longBody)},
	{"push", "pushes a stream, which nobody allowed", hostile((*session).push)},
	{"no-status", "answers with a head that has no :status", head("content-type", "text/plain")},
	{"two-statuses", "answers with a head that has two :status", head(":status", "200", ":status", "204")},
	{"late-status", "answers with :status after a field", head("content-type", "text/plain", ":status", "200")},
	{"upper-case-field", "answers with a field name in upper case", head(":status", "200", "X-Upper", "1")},
	{"connection-field", "answers with a connection field", head(":status", "200", "connection", "close")},
	{"newline-in-field", "answers with a field value that holds CR LF", head(":status", "200", "x", "1\r\nevil: 1")},
}

// resets returns an upstream for each error code of RFC 9113 section 7, called
// "reset-" and the code: "reset-refused-stream".
func resets() []Hostile {
	var all []Hostile
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		all = append(all, Hostile{
			Name: "reset-" + strings.ReplaceAll(strings.ToLower(code.String()), "_", "-"),
			Does: "answers every request with RST_STREAM(" + code.String() + ")",
			Serve: hostile(func(s *session, stream uint32) error {
				return s.WriteRSTStream(stream, code)
			}),
		})
	}
	return all
}

// session is a hostile upstream's end of a connection.
type session struct {
	*http2.Framer
	block   bytes.Buffer // what encoder wrote
	encoder *hpack.Encoder
}

// hostile returns a Serve that keeps to the protocol, but for the settings it
// announces and for what answer does with each request.
func hostile(answer func(s *session, stream uint32) error, settings ...http2.Setting) func(net.Conn) {
	return func(conn net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(conn, preface); err != nil {
			return
		}
		s := &session{Framer: http2.NewFramer(conn, conn)}
		s.AllowIllegalReads, s.AllowIllegalWrites = true, true
		s.encoder = hpack.NewEncoder(&s.block)
		err := s.WriteSettings(settings...)
		for err == nil {
			err = s.next(answer)
		}
	}
}

// next reads one frame and answers it.
func (s *session) next(answer func(*session, uint32) error) error {
	frame, err := s.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return s.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return s.WritePing(true, f.Data)
		}
	case *http2.HeadersFrame:
		return answer(s, f.StreamID)
	}
	return nil
}

func neverAnswer(*session, uint32) error { return nil }

// flood returns an answer that is the same frame again and again.
func flood(frame func(*session, uint32) error) func(*session, uint32) error {
	return func(s *session, stream uint32) error {
		for range floodFrames {
			if err := frame(s, stream); err != nil {
				return err
			}
		}
		return nil
	}
}

// head returns a Serve that answers with these names and values and no body.
func head(pairs ...string) func(net.Conn) {
	return hostile(func(s *session, stream uint32) error { return s.writeHead(stream, true, pairs...) })
}

func (s *session) encode(name, value string) {
	// The encoder's error is that of its writer, a buffer, which has none.
	_ = s.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
}

func (s *session) writeHead(stream uint32, end bool, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		s.encode(pairs[i], pairs[i+1])
	}
	return s.writeBlock(stream, end)
}

// writeBlock sends what was encoded as a HEADERS frame and as many
// CONTINUATION frames as it takes (RFC 9113 section 6.10).
func (s *session) writeBlock(stream uint32, end bool) error {
	first := s.block.Next(frameSize)
	err := s.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: s.block.Len() == 0,
	})
	for err == nil && s.block.Len() > 0 {
		next := s.block.Next(frameSize)
		err = s.WriteContinuation(stream, s.block.Len() == 0, next)
	}
	return err
}

func (s *session) resetInBody(stream uint32) error {
	if err := s.writeHead(stream, false, ":status", "200", "content-length", "10"); err != nil {
		return err
	}
	if err := s.WriteData(stream, false, []byte("hello")); err != nil {
		return err
	}
	return s.WriteRSTStream(stream, http2.ErrCodeInternal)
}

func (s *session) floodFields(stream uint32) error {
	s.encode(":status", "200")
	for range floodFrames {
		s.encode("x", "y")
	}
	return s.writeBlock(stream, true)
}

func (s *session) bombFields(stream uint32) error {
	s.encode(":status", "200")
	large := strings.Repeat("x", 4_000) // fits into the dynamic table (RFC 7541 section 4.1)
	for range 12_000 {
		s.encode("bomb", large)
	}
	return s.writeBlock(stream, true)
}

func (s *session) floodContinuations(stream uint32) error {
	if err := s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream}); err != nil {
		return err
	}
	// Sensitive fields are never indexed, so the same bytes can be sent again;
	// "&" takes no fewer bits in Huffman coding.
	field := hpack.HeaderField{Name: "x", Value: strings.Repeat("&", 1<<10), Sensitive: true}
	for s.block.Len() < frameSize-2<<10 {
		_ = s.encoder.WriteField(field)
	}
	block := s.block.Next(s.block.Len())
	for range floodBlocks {
		if err := s.WriteContinuation(stream, false, block); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) floodInterim(stream uint32) error {
	interim := flood(func(s *session, stream uint32) error {
		return s.writeHead(stream, false, ":status", "103", "link", "</style.css>; rel=preload")
	})
	if err := interim(s, stream); err != nil {
		return err
	}
	return s.writeHead(stream, true, ":status", "200")
}

func (s *session) floodEmptyData(stream uint32) error {
	if err := s.writeHead(stream, false, ":status", "200"); err != nil {
		return err
	}
	return flood(func(s *session, stream uint32) error { return s.WriteData(stream, false, nil) })(s, stream)
}

func (s *session) longBody(stream uint32) error {
	if err := s.writeHead(stream, false, ":status", "200", "content-length", "2"); err != nil {
		return err
	}
	return s.WriteData(stream, true, []byte("0123456789"))
}

func (s *session) push(stream uint32) error {
	for _, pair := range [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":authority", "pushed.test"}, {":path", "/"},
	} {
		s.encode(pair[0], pair[1])
	}
	block := s.block.Next(s.block.Len())
	err := s.WritePushPromise(http2.PushPromiseParam{
		StreamID: stream, PromiseID: 2, BlockFragment: block, EndHeaders: true,
	})
	if err != nil {
		return err
	}
	return s.writeHead(stream, true, ":status", "200")
}
