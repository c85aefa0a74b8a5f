package listener_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fetchgate/fetchgate/service/listener"
)

// attacker is a caller that writes frames as it likes.
type attacker struct {
	net.Conn
	*http2.Framer
	buffer  *bufio.Writer
	started time.Time
	block   []byte        // header fields of /test.Echo/Hold
	closed  chan struct{} // the server has closed the connection
	ended   time.Time     // when it had
	goAway  string
	answers int // frames of RPCs that came back
	next    uint32
}

// attack connects and says the preface; what comes back is read until the end.
func attack(t *testing.T, address string) *attacker {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{Conn: c, buffer: bufio.NewWriterSize(c, 16<<10), closed: make(chan struct{}), next: 1, started: time.Now()}
	a.Framer = http2.NewFramer(a.buffer, bufio.NewReader(c))
	a.AllowIllegalWrites = true
	a.block = headerBlock("/test.Echo/Hold")
	io.WriteString(a.buffer, http2.ClientPreface)
	a.WriteSettings()
	go a.listen()
	t.Cleanup(func() { c.Close(); <-a.closed })
	return a
}

func (a *attacker) listen() {
	defer close(a.closed)
	for {
		f, err := a.ReadFrame()
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			a.goAway = f.ErrCode.String() + " " + string(f.DebugData())
		case *http2.HeadersFrame, *http2.DataFrame:
			a.answers++
		}
		if err != nil {
			a.ended = time.Now()
			return
		}
	}
}

// after is how long it took the server to close the connection; after 5 s
// nobody waits any longer.
func (a *attacker) after() time.Duration {
	a.SetReadDeadline(a.started.Add(5 * time.Second))
	<-a.closed
	return a.ended.Sub(a.started).Round(time.Millisecond)
}

// headerBlock is a block of header fields that names no new entry of a table.
// More come in the place of fields of the same name, or at the end.
func headerBlock(path string, more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path},
		{Name: ":authority", Value: "test"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		if i := slices.IndexFunc(more, func(m hpack.HeaderField) bool { return m.Name == f.Name }); i < 0 || more[i] == f {
			e.WriteField(f)
		}
	}
	return b.Bytes()
}

// open starts a stream.
func (a *attacker) open(end bool) (uint32, error) {
	id := a.next
	a.next += 2
	return id, a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.block, EndHeaders: true, EndStream: end})
}

// flood repeats one until it fails, n times at most, or until d is over; it
// returns how often.
func (a *attacker) flood(n int, d time.Duration, one func(i int) error) int {
	a.started = time.Now()
	for i := range n {
		if one(i) != nil {
			return i
		}
		if i%64 == 0 && time.Since(a.started) > d {
			return i
		}
	}
	a.buffer.Flush()
	return n
}

// floods are what one connection can send without end, for one reason each.
var floods = []struct {
	name  string
	limit string
	one   func(a *attacker) func(i int) error
}{
	{"rapid reset", listener.Resets, func(a *attacker) func(int) error {
		return func(int) error {
			id, _ := a.open(false)
			return a.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}},
	{"reset of whole requests", listener.Resets, func(a *attacker) func(int) error {
		return func(int) error {
			id, _ := a.open(false)
			a.WriteData(id, true, make([]byte, 5))
			return a.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}},
	{"hoard of streams", listener.Resets, func(a *attacker) func(int) error {
		return func(int) error { _, err := a.open(false); return err }
	}},
	{"SETTINGS", listener.Settings, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteSettings() }
	}},
	{"SETTINGS acknowledgement", listener.Settings, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteSettingsAck() }
	}},
	{"PING acknowledgement", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WritePing(true, [8]byte{}) }
	}},
	{"WINDOW_UPDATE", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteWindowUpdate(0, 1) }
	}},
	{"PRIORITY", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }
	}},
	{"empty DATA", listener.Control, func(a *attacker) func(int) error {
		return func(i int) error {
			if i == 0 {
				a.open(false)
			}
			return a.WriteData(1, false, nil)
		}
	}},
	{"DATA of no stream", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteData(1, false, []byte{0}) }
	}},
	{"unknown frames", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteRawFrame(0xfe, 0, 0, []byte("hello")) }
	}},
	{"GOAWAY", listener.Control, func(a *attacker) func(int) error {
		return func(int) error { return a.WriteGoAway(0, http2.ErrCodeNo, nil) }
	}},
	{"one message in bytes", listener.Unfinished, func(a *attacker) func(int) error {
		return func(i int) error {
			if i == 0 {
				a.open(false)
				return a.WriteData(1, false, binary.BigEndian.AppendUint32([]byte{0}, 4<<20))
			}
			return a.WriteData(1, false, []byte{0})
		}
	}},
}

// TestFlood: whoever sends without end is closed within a second, also one that
// resets 100,000 streams, and no more handlers run than streams are allowed.
func TestFlood(t *testing.T) {
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			s := serve(t, listener.Options{Frames: listener.FrameLimits{UnfinishedBytes: 16 << 20}})
			before := resident(t)
			a := attack(t, s.address)
			sent := a.flood(1_000_000, 3*time.Second, f.one(a))
			t.Logf("closed after %v and %d rounds; %q; %d handlers at once; resident + %d KiB", a.after(), sent, a.goAway, s.most.Load(), (resident(t)-before)>>10)
			if a.after() > time.Second {
				t.Errorf("the connection closed after %v", a.after())
			}
			if s.refused.of(f.limit) != 1 || s.refused.all() != 1 {
				t.Errorf("counted %v, want one of %s", s.refused.n, f.limit)
			}
			if n := s.most.Load(); n > maxStreams {
				t.Errorf("%d handlers ran at once", n)
			}
			if err := say(t.Context(), s.client(t), 1); err != nil {
				t.Errorf("another caller then: %v", err)
			}
		})
	}
}

// TestFloodAlone shows what gRPC does without the listener: nothing. A flood
// that it ends itself by now needs no budget of ours.
func TestFloodAlone(t *testing.T) {
	const patience = 200 * time.Millisecond
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			s := serveWith(t, listener.Options{}, insecure.NewCredentials(), unwatched)
			a := attack(t, s.address)
			sent := a.flood(1_000_000, patience, f.one(a))
			select {
			case <-a.closed:
				t.Logf("gRPC closes the connection itself after %d rounds: %q", sent, a.goAway)
			default:
				t.Logf("still open after %d rounds in %v", sent, time.Since(a.started).Round(time.Millisecond))
			}
		})
	}
}

// TestPingFlood (K12): gRPC's own enforcement ends a ping each millisecond.
func TestPingFlood(t *testing.T) {
	s := serve(t, listener.Options{})
	a := attack(t, s.address)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-tick.C:
			a.WritePing(false, [8]byte{})
			a.buffer.Flush()
		case <-a.closed:
			open = false
		}
	}
	t.Logf("closed after %v: %q", a.after(), a.goAway)
	if a.after() > 2*time.Second || !strings.HasPrefix(a.goAway, "ENHANCE_YOUR_CALM") {
		t.Errorf("closed after %v: %q", a.after(), a.goAway)
	}
}

// TestHeaderFloods (K06): no more than 32 KiB of one block of header fields.
func TestHeaderFloods(t *testing.T) {
	piece := bytes.Repeat([]byte{0x00, 0x01, 'a', 0x01, 'b'}, 1000) // literal fields "a: b"
	for name, one := range map[string]func(a *attacker) func(i int) error{
		"CONTINUATION without end": func(a *attacker) func(int) error {
			return func(i int) error {
				if i == 0 {
					return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block})
				}
				return a.WriteContinuation(1, false, piece)
			}
		},
		"empty CONTINUATION": func(a *attacker) func(int) error {
			return func(i int) error {
				if i == 0 {
					return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block})
				}
				return a.WriteContinuation(1, false, nil)
			}
		},
		"16 MiB of metadata": func(a *attacker) func(int) error {
			block := headerBlock("/test.Echo/Say", hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 16<<20)})
			return func(i int) error {
				if i == 0 {
					return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:16<<10]})
				}
				from := min(i*16<<10, len(block))
				return a.WriteContinuation(1, false, block[from:min(from+16<<10, len(block))])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, listener.Options{})
			a := attack(t, s.address)
			sent := a.flood(1_000_000, 3*time.Second, one(a))
			t.Logf("closed after %v and %d rounds: %q", a.after(), sent, a.goAway)
			if a.after() > time.Second || s.started.Load() != 0 {
				t.Errorf("closed after %v; %d handlers started", a.after(), s.started.Load())
			}
		})
	}
}

// TestHPACKBomb (K06): 4 KiB of table entries, named again and again.
func TestHPACKBomb(t *testing.T) {
	s := serve(t, listener.Options{})
	a := attack(t, s.address)
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for range 4000 {
		e.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 4000)})
	}
	t.Logf("%d bytes stand for 16 MB", b.Len())
	a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(a.block, b.Bytes()...), EndHeaders: true, EndStream: true})
	a.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: a.block, EndHeaders: true, EndStream: true})
	a.buffer.Flush()
	want := time.After(5 * time.Second)
	select {
	case <-a.closed:
		t.Logf("closed: %q", a.goAway)
	case <-want:
		t.Error("the connection is still open")
	}
	if n := s.started.Load(); n > 1 {
		t.Errorf("%d handlers started", n)
	}
}

// TestLengthPrefix (K07): a length of 2 GiB is refused at once, and one of
// 4 MiB holds what came, not what was announced.
func TestLengthPrefix(t *testing.T) {
	s := serve(t, listener.Options{})
	for _, c := range []struct {
		announced uint32
		status    string
	}{{2 << 30, "8"}, {4 << 20, ""}} {
		before := resident(t)
		r := newRaw(t, s.address)
		const streams = 100
		for range streams {
			id, _ := r.open("/test.Echo/Say")
			r.WriteData(id, false, binary.BigEndian.AppendUint32([]byte{0}, c.announced))
		}
		r.flush()
		for range streams {
			if c.status == "" {
				break
			}
			if got := r.status(); got != c.status {
				t.Fatalf("length %d: grpc-status %q", c.announced, got)
			}
		}
		if grown := resident(t) - before; grown > 64<<20 {
			t.Errorf("length %d on %d streams: resident + %d MiB", c.announced, streams, grown>>20)
		} else {
			t.Logf("length %d on %d streams: resident + %d KiB", c.announced, streams, grown>>10)
		}
		r.Close()
	}
}

// TestGzipBomb (K08): what inflates beyond 4 MiB is RESOURCE_EXHAUSTED.
func TestGzipBomb(t *testing.T) {
	s := serve(t, listener.Options{})
	var member bytes.Buffer
	z, _ := gzip.NewWriterLevel(&member, gzip.BestCompression)
	z.Write(make([]byte, 16<<20))
	z.Close()
	// Members of gzip may follow one another; these fit the window of a stream.
	const members = 14
	b := bytes.Repeat(member.Bytes(), members)
	b = append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(b))), b...)

	r := newRaw(t, s.address)
	before := resident(t)
	id, _ := r.open("/test.Echo/Say", hpack.HeaderField{Name: "grpc-encoding", Value: "gzip"})
	size := len(b)
	for len(b) > 0 {
		n := min(len(b), 16<<10)
		r.WriteData(id, len(b) == n, b[:n])
		b = b[n:]
	}
	r.flush()
	if got := r.status(); got != "8" {
		t.Errorf("grpc-status %q", got)
	}
	t.Logf("%d KiB stand for %d MiB: resident + %d KiB", size>>10, members*16, (resident(t)-before)>>10)
	if grown := resident(t) - before; grown > 64<<20 {
		t.Errorf("resident + %d MiB", grown>>20)
	}
}

// TestHalfHandshake (K10): who does not finish a handshake is dropped in 5 s.
func TestHalfHandshake(t *testing.T) {
	t.Parallel()
	plain := serve(t, listener.Options{})
	pki := newAuthority(t)
	secure, _ := serveTLS(t, pki, false)
	for name, c := range map[string]struct{ address, first string }{
		"nothing":           {plain.address, ""},
		"preface only":      {plain.address, http2.ClientPreface},
		"half a preface":    {plain.address, http2.ClientPreface[:10]},
		"nothing of TLS":    {secure.address, ""},
		"half a hello":      {secure.address, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		"preface, no hello": {secure.address, http2.ClientPreface},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.first)
			start := time.Now()
			conn.SetReadDeadline(start.Add(10 * time.Second))
			_, err = io.Copy(io.Discard, conn)
			if took := time.Since(start); took > 5500*time.Millisecond || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("dropped after %v: %v", took, err)
			}
		})
	}
}

// resident is what the process holds of memory that the runtime has not given
// back.
func resident(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
