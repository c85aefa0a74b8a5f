package listener_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/fetchgate/fetchgate/service/listener"
)

// played is a connection that brings what a test wrote down, in pieces, and
// takes whatever it is given.
type played struct {
	net.Conn
	content []byte
	piece   int
	over    bool
	written bytes.Buffer
}

func (p *played) Read(b []byte) (int, error) {
	if p.over {
		return 0, os.ErrDeadlineExceeded
	}
	if len(p.content) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.piece)], p.content)
	p.content = p.content[n:]
	return n, nil
}

func (p *played) Write(b []byte) (int, error)        { return p.written.Write(b) }
func (p *played) Close() error                       { p.over = true; return nil }
func (p *played) RemoteAddr() net.Addr               { return tcp("192.0.2.1") }
func (p *played) SetReadDeadline(time.Time) error    { p.over = true; return nil }
func (p *played) SetWriteDeadline(t time.Time) error { return nil }

// verdict plays content and returns the limit that it goes beyond.
func verdict(content []byte, piece int, limits listener.FrameLimits) (limit string, written []byte) {
	l := listener.New(scripted{}, listener.Options{Frames: limits, OnRefused: func(s string) { limit = s }})
	c := &played{content: content, piece: piece}
	w := l.Watch(c, c)
	buffer := make([]byte, 4096)
	for {
		if _, err := w.Read(buffer); err != nil {
			return limit, c.written.Bytes()
		}
	}
}

// frames writes down what a caller sends.
func frames(write func(f *http2.Framer)) []byte {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	write(f)
	return b.Bytes()
}

func headers(f *http2.Framer, id uint32) {
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte("x"), EndHeaders: true})
}

// TestUnfinished: what counts are the bytes of messages that are not whole,
// over all streams, wherever frames, padding and reads cut them.
func TestUnfinished(t *testing.T) {
	whole := append([]byte{0, 0, 0, 4, 0}, make([]byte, 1024)...)
	limits := listener.FrameLimits{UnfinishedBytes: 20_000}
	for name, c := range map[string]struct {
		write func(f *http2.Framer)
		want  string
	}{
		"whole messages": {func(f *http2.Framer) {
			headers(f, 1)
			for range 100 {
				f.WriteData(1, false, whole)
			}
		}, ""},
		"messages across frames": {func(f *http2.Framer) {
			headers(f, 1)
			for range 100 {
				f.WriteData(1, false, whole[:3])
				f.WriteData(1, false, whole[3:700])
				f.WriteData(1, false, append(whole[700:], whole[:500]...))
				f.WriteData(1, false, whole[500:])
			}
		}, ""},
		"padded messages": {func(f *http2.Framer) {
			headers(f, 1)
			for range 100 {
				f.WriteDataPadded(1, false, whole[:500], make([]byte, 255))
				f.WriteDataPadded(1, false, whole[500:], make([]byte, 1))
			}
		}, ""},
		"empty messages": {func(f *http2.Framer) {
			headers(f, 1)
			for range 100 {
				f.WriteData(1, false, make([]byte, 500))
			}
		}, ""},
		"one that lacks a byte on each of 20 streams": {func(f *http2.Framer) {
			for id := uint32(1); id < 41; id += 2 {
				headers(f, id)
				f.WriteData(id, false, whole[:len(whole)-1])
			}
		}, listener.Unfinished},
		"the same, each then reset": {func(f *http2.Framer) {
			for id := uint32(1); id < 41; id += 2 {
				headers(f, id)
				f.WriteData(id, false, whole[:len(whole)-1])
				f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		}, ""},
		"the same, each then ended": {func(f *http2.Framer) {
			for id := uint32(1); id < 41; id += 2 {
				headers(f, id)
				f.WriteData(id, false, whole[:len(whole)-1])
				f.WriteData(id, true, nil)
			}
		}, ""},
		"a long one": {func(f *http2.Framer) {
			headers(f, 1)
			f.WriteData(1, false, []byte{0, 0xff, 0xff, 0xff, 0xff})
			for range 20 {
				f.WriteData(1, false, make([]byte, 1000))
			}
		}, listener.Unfinished},
	} {
		for _, piece := range []int{1, 7, 4096} {
			limit, written := verdict(frames(c.write), piece, limits)
			if limit != c.want {
				t.Errorf("%s, read by %d: %q, want %q", name, piece, limit, c.want)
			}
			if told := len(written) > 0 && bytes.Contains(written, []byte(limit)); told != (limit != "") {
				t.Errorf("%s: the caller is told %q", name, written)
			}
		}
	}
}

// TestHeaderBlock: the bytes of HEADERS and CONTINUATION count together, up to
// END_HEADERS.
func TestHeaderBlock(t *testing.T) {
	block := func(f *http2.Framer, id uint32, pieces int) {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 8<<10)})
		for i := range pieces {
			f.WriteContinuation(id, i == pieces-1, make([]byte, 8<<10))
		}
	}
	for pieces, want := range map[int]string{1: "", 3: "", 4: listener.HeaderBlock} {
		got, _ := verdict(frames(func(f *http2.Framer) { block(f, 1, pieces); block(f, 3, pieces) }), 4096, listener.FrameLimits{})
		if got != want {
			t.Errorf("%d KiB: %q, want %q", 8+8*pieces, got, want)
		}
	}
}

// TestControlInRelation: who downloads may send WINDOW_UPDATE for each DATA
// frame that it gets, for ever; who gets nothing may not.
func TestControlInRelation(t *testing.T) {
	var data bytes.Buffer
	http2.NewFramer(&data, nil).WriteData(1, false, make([]byte, 1000))
	for _, downloads := range []bool{true, false} {
		var limit string
		l := listener.New(scripted{}, listener.Options{OnRefused: func(s string) { limit = s }})
		c := &played{piece: 26, content: frames(func(f *http2.Framer) {
			headers(f, 1)
			for range 100_000 {
				f.WriteWindowUpdate(0, 500)
				f.WriteWindowUpdate(1, 500)
			}
		})}
		w := l.Watch(c, c)
		buffer := make([]byte, 4096)
		for {
			if _, err := w.Read(buffer); err != nil {
				break
			}
			if downloads {
				w.Write(data.Bytes())
				c.written.Reset()
			}
		}
		if (limit == "") != downloads {
			t.Errorf("downloads: %v; limit %q", downloads, limit)
		}
	}
}

// FuzzRead: whatever is sent, in whatever pieces, nothing fails but Read, and
// pieces make no difference.
func FuzzRead(f *testing.F) {
	for _, write := range []func(f *http2.Framer){
		func(f *http2.Framer) { headers(f, 1); f.WriteData(1, false, make([]byte, 100)) },
		func(f *http2.Framer) { headers(f, 1); f.WriteDataPadded(1, true, []byte("x"), make([]byte, 9)) },
		func(f *http2.Framer) {
			headers(f, 1)
			f.WriteRSTStream(1, 8)
			f.WriteSettings()
			f.WritePing(true, [8]byte{})
		},
	} {
		f.Add(frames(write)[len(http2.ClientPreface):], 3)
	}
	f.Add([]byte{0, 0, 1, 0, 8, 0, 0, 0, 1, 255}, 1)
	f.Fuzz(func(t *testing.T, content []byte, piece int) {
		content = append([]byte(http2.ClientPreface), content...)
		limits := listener.FrameLimits{Streams: 1, HeaderBlockBytes: 100, UnfinishedBytes: 2000}
		whole, _ := verdict(content, 4096, limits)
		if cut, _ := verdict(content, max(1, piece%4096), limits); cut != whole {
			t.Errorf("in pieces %q, else %q", cut, whole)
		}
	})
}

// endless brings the same bytes for ever.
type endless struct {
	played
	at int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.content[e.at:])
	if e.at += n; e.at == len(e.content) {
		e.at = 0
	}
	return n, nil
}

// BenchmarkRead is what a unary RPC costs: one read of HEADERS, DATA, PING and
// WINDOW_UPDATE, and one write of HEADERS, DATA and HEADERS. The stream's
// number is made to grow.
func BenchmarkRead(b *testing.B) {
	in := frames(func(f *http2.Framer) {
		headers(f, 1)
		f.WriteData(1, true, make([]byte, 100))
		f.WriteWindowUpdate(0, 100)
	})[len(http2.ClientPreface):]
	var out bytes.Buffer
	f := http2.NewFramer(&out, nil)
	headers(f, 1)
	f.WriteData(1, false, make([]byte, 1000))
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("x"), EndHeaders: true, EndStream: true})

	number := func(p []byte, at int, id uint32) {
		p[at], p[at+1], p[at+2], p[at+3] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
	}
	c := &endless{played: played{content: in}}
	l := listener.New(scripted{}, listener.Options{})
	watched := l.Watch(c, c)
	io.ReadFull(watched, make([]byte, 0))
	for name, conn := range map[string]net.Conn{"watched": watched, "bare": c} {
		b.Run(name, func(b *testing.B) {
			if name == "watched" {
				c.content = []byte(http2.ClientPreface)
				conn = l.Watch(c, c)
				conn.Read(make([]byte, 100))
				c.content, c.at = in, 0
			}
			b.ReportAllocs()
			buffer := make([]byte, 32<<10)
			id := uint32(1)
			for b.Loop() {
				number(in, 5, id)
				number(in, 5+9+1, id)
				number(out.Bytes(), 5, id)
				number(out.Bytes(), out.Len()-1-4, id)
				id += 2
				conn.Read(buffer)
				c.written.Reset()
				conn.Write(out.Bytes())
			}
		})
	}
}
