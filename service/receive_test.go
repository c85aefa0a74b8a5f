package service_test

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
	"github.com/fetchgate/fetchgate/service/listener"
)

// TestRPCsThatStaySilentEnd: a caller that begins RPCs and sends no request, or
// half of one, is not waited for. What else its connection carries goes on,
// however long it takes.
func TestRPCsThatStaySilentEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("a request is waited for 30 s")
	}
	t.Parallel()
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"),
		every(time.Second, fetchtest.Write(strings.Repeat("x", 2<<10))))
	s := serve(t, allowing(u, "0s"))
	c := dialFrames(t, s.GRPCAddress())
	m, err := proto.Marshal(&fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil {
		t.Fatal(err)
	}
	lasting := c.begin("/fetchgate.v1.FetchService/StreamFetch")
	c.WriteData(lasting, true, append([]byte{0, 0, 0, 0, byte(len(m))}, m...))
	const each = 50
	silent := map[uint32]bool{}
	for _, path := range []string{
		"/fetchgate.v1.FetchService/Fetch", "/fetchgate.v1.FetchService/StreamFetch", "/fetchgate.v1.PolicyService/Explain",
		"/grpc.health.v1.Health/Watch",
	} {
		for i := range each {
			id := c.begin(path)
			silent[id] = true
			if i%2 == 1 { // half a request
				c.WriteData(id, false, []byte{0, 0, 0, 0, 9, 1})
			}
		}
	}
	began := time.Now()
	ended, received := c.follow(t, silent, lasting)
	if ended[lasting] != "" || received < 20<<10 {
		t.Errorf("the fetch that lasts got %d bytes and ended with %q", received, ended[lasting])
	}
	for id := range silent {
		if ended[id] != "4" { // DEADLINE_EXCEEDED
			t.Errorf("stream %d ended with %q", id, ended[id])
		}
	}
	if took := time.Since(began); took < listener.ReceiveTimeout-time.Second || took > listener.ReceiveTimeout+15*time.Second {
		t.Errorf("it took %v", took)
	}
	counted := regexp.MustCompile(fmt.Sprintf(`(?m)^fetchgate_limit_rejections_total{limit="%s",scope="peer"} %d$`, listener.Silent, len(silent)))
	eventually(t, func() error {
		if _, page, err := s.get("/metrics"); err != nil || !counted.MatchString(page) {
			return fmt.Errorf("/metrics has no line %s (%w)", counted, err)
		}
		return nil
	})
}

// framed is a connection of a caller that writes frames itself.
type framed struct {
	*http2.Framer
	next uint32
}

func dialFrames(t *testing.T, address string) *framed {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, http2.ClientPreface)
	c := &framed{Framer: http2.NewFramer(conn, conn), next: 1}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.WriteSettings()
	return c
}

// begin begins an RPC and sends nothing of its request.
func (c *framed) begin(path string) uint32 {
	var block strings.Builder
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "fetchgate.test"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	id := c.next
	c.next += 2
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block.String()), EndHeaders: true})
	return id
}

// follow reads until all streams of silent have ended. It returns the
// grpc-status of each stream that has, and the bytes that lasting got.
func (c *framed) follow(t *testing.T, silent map[uint32]bool, lasting uint32) (ended map[uint32]string, received int) {
	t.Helper()
	ended = map[uint32]string{}
	for left := len(silent); left > 0; {
		frame, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.DataFrame:
			if f.StreamID == lasting {
				received += len(f.Data())
			}
		case *http2.GoAwayFrame:
			t.Fatalf("the connection ends: %v", f)
		case *http2.MetaHeadersFrame:
			for _, field := range f.RegularFields() {
				if field.Name != "grpc-status" {
					continue
				}
				ended[f.StreamID] = field.Value
				if silent[f.StreamID] {
					left--
				}
			}
		}
	}
	return ended, received
}
