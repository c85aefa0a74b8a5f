package fetchtest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// h2Client returns a client that speaks nothing but HTTP/2.
func h2Client(t *testing.T, a *fetchtest.Authority) *http.Client {
	t.Helper()
	c := client(t, a)
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	c.Transport.(*http.Transport).Protocols = protocols
	return c
}

func TestH2Records(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		u := fetchtest.NewH2(t, nil, a)
		c := h2Client(t, a)
		for range 2 {
			request, err := http.NewRequestWithContext(within(t), http.MethodPost, u.URL("/a?b=%2F"), strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-Name", "value")
			request.Trailer = http.Header{"X-Sum": {"5"}}
			response, err := c.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if string(body) != "ok" || response.ProtoMajor != 2 || err != nil {
				t.Fatalf("got %s %q, %v", response.Proto, body, err)
			}
		}
		got := u.Requests()
		if len(got) != 2 {
			t.Fatalf("%d requests were recorded, want 2", len(got))
		}
		for _, g := range got {
			if g.Method != "POST" || g.Target != "/a?b=%2F" || g.Proto != "HTTP/2.0" || g.Host != u.Addr().String() || g.Conn != 1 {
				t.Errorf("recorded %s %s %s of %s on connection %d", g.Method, g.Target, g.Proto, g.Host, g.Conn)
			}
			if g.Get("x-name") != "value" || string(g.Body) != "hello" || g.Length != 5 || lines(g.Trailers) != "X-Sum=5|" || g.Err != nil {
				t.Errorf("recorded %q, body %q, trailers %q, Err %v", lines(g.Fields), g.Body, lines(g.Trailers), g.Err)
			}
			if (g.TLS == nil) != (a == nil) {
				t.Errorf("TLS is %v", g.TLS)
			}
		}
	})
}

func TestH2SeesACallerGo(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	entered := make(chan struct{})
	u := fetchtest.NewH2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}), a)
	c := h2Client(t, a)
	c.Transport.(*http.Transport).DisableKeepAlives = true // closes once the stream is over
	ctx, cancel := context.WithCancel(within(t))
	failed := make(chan error)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.URL("/"), nil)
		if err == nil {
			var response *http.Response
			if response, err = c.Do(request); err == nil {
				response.Body.Close()
			}
		}
		failed <- err
	}()
	<-entered
	cancel()
	if err := <-failed; err == nil {
		t.Error("the client got an answer")
	}
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
}

// The handler shares ended with the test and no lock: without the wait of Close
// this would be a data race.
func TestH2CloseWaitsForHandlers(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	ended := false
	u := fetchtest.NewH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended = true
	}), a)
	response, err := h2Client(t, a).Get(u.URL("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	u.Close()
	if !ended {
		t.Error("Close did not wait for the handler")
	}
}

// want is which frame shows what a hostile upstream does, and how many such
// frames come.
type want struct {
	count int
	shows func(http2.Frame) bool
}

// wants returns what to expect of each hostile upstream but "mute".
func wants() map[string]want {
	all := map[string]want{
		"goaway":                     {1, goAway},
		"window-overflow":            {1, windowUpdate(1)},
		"connection-window-overflow": {1, windowUpdate(0)},
		"no-streams":                 {1, setting(http2.SettingMaxConcurrentStreams)},
		"no-window":                  {1, setting(http2.SettingInitialWindowSize)},
		"no-frame-size":              {1, setting(http2.SettingMaxFrameSize)},
		"silent":                     {1, settingsAck},
		"reset-in-body":              {1, reset(http2.ErrCodeInternal)},
		"header-flood":               {1, fields(20_001)},
		"header-bomb":                {1, fields(12_001)},
		"continuation-flood":         {1_000, kind(http2.FrameContinuation)},
		"interim-flood":              {20_000, status("103")},
		"settings-flood":             {20_001, kind(http2.FrameSettings)}, // and the first one
		"ping-flood":                 {20_000, kind(http2.FramePing)},
		"empty-data-flood":           {20_000, kind(http2.FrameData)},
		"long-body":                  {1, kind(http2.FrameData)},
		"push":                       {1, kind(http2.FramePushPromise)},
		"no-status":                  {1, fields(1)},
		"two-statuses":               {1, fields(2)},
		"late-status":                {1, fields(2)},
		"upper-case-field":           {1, fields(2)},
		"connection-field":           {1, fields(2)},
		"newline-in-field":           {1, fields(2)},
		"reset-flood":                {20_000, reset(http2.ErrCodeCancel)},
		"priority-flood":             {20_000, kind(http2.FramePriority)},
		"window-update-flood":        {20_000, kind(http2.FrameWindowUpdate)},
		"empty-head-flood":           {20_000, kind(http2.FrameContinuation)},
		"unknown-flood":              {20_000, kind(0xf0)},
		"padding-flood":              {20_000, kind(http2.FrameData)},
		"large-frame-size":           {1, value(http2.SettingMaxFrameSize, 1<<24)},
		"past-the-window":            {256, kind(http2.FrameData)},
		"data-after-the-end":         {1, kind(http2.FrameData)},
		"announcements":              {1, kind(0xc)},
		"reset-after-the-end":        {1, reset(http2.ErrCodeNo)},
		"short-status":               {1, status("20")},
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		all["reset-"+strings.ReplaceAll(strings.ToLower(code.String()), "_", "-")] = want{1, reset(code)}
	}
	return all
}

func goAway(f http2.Frame) bool {
	g, ok := f.(*http2.GoAwayFrame)
	return ok && g.LastStreamID == 0
}

func kind(k http2.FrameType) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		settings, ok := f.(*http2.SettingsFrame)
		return f.Header().Type == k && !(ok && settings.IsAck())
	}
}

func windowUpdate(stream uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		w, ok := f.(*http2.WindowUpdateFrame)
		return ok && w.StreamID == stream && w.Increment == 1<<31-1
	}
}

func setting(id http2.SettingID) func(http2.Frame) bool { return value(id, 0) }

func value(id http2.SettingID, want uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		s, ok := f.(*http2.SettingsFrame)
		if !ok {
			return false
		}
		got, ok := s.Value(id)
		return ok && got == want
	}
}

func settingsAck(f http2.Frame) bool {
	s, ok := f.(*http2.SettingsFrame)
	return ok && s.IsAck()
}

func reset(code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		return ok && r.StreamID == 1 && r.ErrCode == code
	}
}

// fields counts the fields of a head, which may come in several frames.
func fields(n int) func(http2.Frame) bool {
	decoder := hpack.NewDecoder(4096, nil)
	got := 0
	decoder.SetEmitFunc(func(hpack.HeaderField) { got++ })
	return func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.HeadersFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
			return f.HeadersEnded() && got == n
		case *http2.ContinuationFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
			return f.HeadersEnded() && got == n
		}
		return false
	}
}

func status(code string) func(http2.Frame) bool {
	decoder := hpack.NewDecoder(4096, nil)
	return func(f http2.Frame) bool {
		h, ok := f.(*http2.HeadersFrame)
		if !ok {
			return false
		}
		decoded, err := decoder.DecodeFull(h.HeaderBlockFragment())
		return err == nil && decoded[0].Name == ":status" && decoded[0].Value == code
	}
}

// open sends what a client of HTTP/2 sends first, and a GET on stream 1.
func open(t *testing.T, conn net.Conn) *http2.Framer {
	t.Helper()
	send(t, conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalReads = true
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, pair := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.test"}, {":path", "/"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]}); err != nil {
			t.Fatal(err)
		}
	}
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	return framer
}

func TestHostilesDoWhatTheySay(t *testing.T) {
	expected := wants()
	seen := make(map[string]bool)
	for _, h := range fetchtest.Hostiles() {
		if seen[h.Name] || h.Does == "" || h.Serve == nil {
			t.Errorf("%s is doubled or not whole", h.Name)
		}
		seen[h.Name] = true
		w, ok := expected[h.Name]
		switch {
		case ok:
			t.Run(h.Name, func(t *testing.T) { testHostile(t, h.Name, w) })
		case h.Name != "mute": // TestMuteSendsNothing
			t.Errorf("no test tells what %s does", h.Name)
		}
	}
	for name := range expected {
		if !seen[name] {
			t.Errorf("there is no hostile upstream %s", name)
		}
	}
}

func testHostile(t *testing.T, name string, w want) {
	u := fetchtest.NewHostile(t, name, nil)
	conn := dial(t, u, nil)
	framer := open(t, conn)
	for got := 0; got < w.count; {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", got, w.count, err)
		}
		if w.shows(f) {
			got++
		}
	}
	conn.Close()
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
	if opened, open := u.Connections(); opened != 1 || open != 0 {
		t.Errorf("%d connections opened, %d open", opened, open)
	}
}

func TestMuteSendsNothing(t *testing.T) {
	conn := dial(t, fetchtest.NewHostile(t, "mute", nil), nil)
	open(t, conn)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) != 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A silent upstream is polite otherwise: it answers PING, and nothing else.
func TestSilentAnswersPing(t *testing.T) {
	conn := dial(t, fetchtest.NewHostile(t, "silent", nil), nil)
	framer := open(t, conn)
	if err := framer.WritePing(false, [8]byte{7}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
		case *http2.PingFrame:
			if !f.IsAck() || f.Data != [8]byte{7} {
				t.Errorf("got %v", f)
			}
			return
		default:
			t.Fatalf("got %v", f)
		}
	}
}

func TestHostileSpeaksTLS(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	u := fetchtest.NewHostile(t, "reset-refused-stream", a)
	conn := dial(t, u, a, "h2").(*tls.Conn)
	framer := open(t, conn)
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Errorf("agreed on %q, want h2", got)
	}
	for refused := reset(http2.ErrCodeRefusedStream); ; {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if refused(f) {
			return
		}
	}
}
