package listener_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fetchgate/fetchgate/service/listener"
)

// TestCallersAreLeftAlone: what real clients do at their hardest goes through.
func TestCallersAreLeftAlone(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, s *server){
		"cancels 1,000 streams at once, 3 times": cancelAll,
		"10,000 RPCs, 1,000 at once":             manyRPCs,
		"downloads on 4 streams":                 download,
		"uploads 32 messages of 3 MiB at once":   uploadLarge,
		"uploads 50,000 small messages":          uploadSmall,
		"compresses":                             compress,
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, listener.Options{})
			use(t, s)
			if s.refused.all() != 0 {
				t.Errorf("counted %v", s.refused.n)
			}
		})
	}
}

func cancelAll(t *testing.T, s *server) {
	c := s.client(t)
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		for range maxStreams {
			g.Go(func() error {
				return c.Invoke(ctx, "/test.Echo/Hold", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
			})
		}
		for range maxStreams {
			<-s.begun
		}
		cancel()
		if err := g.Wait(); status.Code(err) != codes.Canceled {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if err := say(t.Context(), c, 1); err != nil {
		t.Error(err)
	}
}

func manyRPCs(t *testing.T, s *server) {
	c := s.client(t)
	var g errgroup.Group
	for range maxStreams {
		g.Go(func() error {
			for range 10 {
				if err := say(t.Context(), c, 100); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func download(t *testing.T, s *server) {
	for name, options := range map[string][]grpc.DialOption{
		"windows that grow":  nil,
		"windows of 64 KiB":  {grpc.WithStaticStreamWindowSize(64 << 10), grpc.WithStaticConnWindowSize(64 << 10)},
		"a window of 16 MiB": {grpc.WithStaticStreamWindowSize(16 << 20), grpc.WithStaticConnWindowSize(16 << 20)},
	} {
		c := s.client(t, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		var g errgroup.Group
		for range 4 {
			g.Go(func() error {
				n := 0
				stream, err := c.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Pour")
				if err != nil {
					return err
				}
				stream.CloseSend()
				for ; err == nil; n++ {
					err = stream.RecvMsg(new(wrapperspb.BytesValue))
				}
				if n-1 != pouredMessages {
					t.Errorf("%d messages, then %v", n-1, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func uploadLarge(t *testing.T, s *server) {
	c := s.client(t)
	var g errgroup.Group
	for range 32 {
		g.Go(func() error {
			return c.Invoke(t.Context(), "/test.Echo/Say", wrapperspb.Bytes(make([]byte, 3<<20)), new(wrapperspb.BytesValue))
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func uploadSmall(t *testing.T, s *server) {
	stream, err := s.client(t).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/test.Echo/Take")
	if err != nil {
		t.Fatal(err)
	}
	const messages = 50_000
	for range messages {
		if err := stream.SendMsg(wrapperspb.Bytes([]byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	stream.CloseSend()
	var n wrapperspb.Int64Value
	if err := stream.RecvMsg(&n); err != nil || n.Value != messages {
		t.Errorf("%d messages arrived: %v", n.Value, err)
	}
}

func compress(t *testing.T, s *server) {
	c := s.client(t)
	if encoding.GetCompressor("gzip") == nil {
		t.Fatal("no gzip")
	}
	for range 5 {
		if err := c.Invoke(t.Context(), "/test.Echo/Say", wrapperspb.Bytes(make([]byte, 1<<20)), new(wrapperspb.BytesValue), grpc.UseCompressor("gzip")); err != nil {
			t.Fatal(err)
		}
	}
}

// raw is a caller that sends odd requests, one after the other, and reads their
// answers.
type raw struct {
	net.Conn
	*http2.Framer
	buffer *bufio.Writer
	next   uint32
}

func newRaw(t *testing.T, address string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &raw{Conn: c, buffer: bufio.NewWriter(c), next: 1}
	r.Framer = http2.NewFramer(r.buffer, bufio.NewReader(c))
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(r.buffer, http2.ClientPreface)
	r.WriteSettings()
	return r
}

func (r *raw) open(path string, more ...hpack.HeaderField) (uint32, error) {
	return r.openWith(headerBlock(path, more...))
}

func (r *raw) openWith(block []byte) (uint32, error) {
	id := r.next
	r.next += 2
	return id, r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
}

func (r *raw) flush() { r.buffer.Flush() }

// status returns the next grpc-status, "HTTP" and the status without one,
// "RST" and the code, or "closed".
func (r *raw) status() string {
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return "RST " + f.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			if !f.StreamEnded() {
				continue
			}
			for _, h := range f.RegularFields() {
				if h.Name == "grpc-status" {
					return h.Value
				}
			}
			return "HTTP " + f.PseudoValue("status")
		}
	}
}

// TestOddMetadata (K14): what the specification of gRPC says of content-type
// and grpc-timeout.
func TestOddMetadata(t *testing.T) {
	s := serve(t, listener.Options{})
	field := func(name, value string) []hpack.HeaderField {
		return []hpack.HeaderField{{Name: name, Value: value}}
	}
	for name, c := range map[string]struct {
		more []hpack.HeaderField
		want string
	}{
		"fine":                 {nil, "0"},
		"timeout of 1 s":       {field("grpc-timeout", "1S"), "0"},
		"timeout of 0 s":       {field("grpc-timeout", "0S"), "4"},
		"negative timeout":     {field("grpc-timeout", "-1S"), "13"},
		"timeout of 9 digits":  {field("grpc-timeout", "123456789S"), "13"},
		"junk of a timeout":    {field("grpc-timeout", "soon"), "13"},
		"a page":               {field("content-type", "text/html"), "3"},
		"a type of its own":    {field("content-type", "application/grpc+proto"), "0"},
		"no trailers":          {field("te", "gzip"), "0"},
		"connection":           {field("connection", "close"), "RST PROTOCOL_ERROR"},
		"bad binary metadata":  {field("x-bin", "%%%"), "13"},
		"unknown compression":  {field("grpc-encoding", "snappy"), "12"},
		"a field in uppercase": {field("X-Upper", "1"), "RST PROTOCOL_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, s.address)
			id, _ := r.open("/test.Echo/Say", c.more...)
			compressed := byte(0)
			if name == "unknown compression" {
				compressed = 1
			}
			r.WriteData(id, true, []byte{compressed, 0, 0, 0, 0})
			r.flush()
			if got := r.status(); got != c.want {
				t.Errorf("grpc-status %s, want %s", got, c.want)
			}
		})
	}
}

// TestOddMessages (K15): a unary request is one message and a half close.
func TestOddMessages(t *testing.T) {
	s := serve(t, listener.Options{})
	empty := []byte{0, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		frames [][]byte
		want   string
	}{
		"one":               {[][]byte{empty}, "0"},
		"two":               {[][]byte{empty, empty}, "13"},
		"none":              {[][]byte{nil}, "13"},
		"half a message":    {[][]byte{{0, 0, 0, 0, 9, 1}}, "13"},
		"half a prefix":     {[][]byte{{0, 0}}, "13"},
		"bad flag":          {[][]byte{{7, 0, 0, 0, 0}}, "13"},
		"a late half close": {[][]byte{empty, nil}, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, s.address)
			id, _ := r.open("/test.Echo/Say")
			for i, f := range c.frames {
				r.WriteData(id, i == len(c.frames)-1, f)
			}
			r.flush()
			if got := r.status(); got != c.want {
				t.Errorf("grpc-status %s, want %s", got, c.want)
			}
		})
	}
}
