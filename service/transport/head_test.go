package transport

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
)

func newHeadReader() *headReader { return &headReader{maxBytes: 1 << 10, maxFields: 5} }

// FuzzHead gives a head whole and byte by byte, and compares what is taken with
// net/http, which may take more but nothing else.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", "HTTP/1.0 404\r\n\r\n", "HTTP/1.1 200 OK\nA: b\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 304 Not\r\nContent-Length: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", "\r\n", "HTTP/1.1 200 OK\r\n x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := newHeadReader()
		used, whole, fault := h.feed(raw)
		slow := newHeadReader()
		slowUsed, slowWhole := 0, false
		var slowFault *headFault
		for slowUsed < len(raw) && !slowWhole && slowFault == nil {
			var n int
			n, slowWhole, slowFault = slow.feed(raw[slowUsed : slowUsed+1])
			slowUsed += n
		}
		if whole != slowWhole || whole && used != slowUsed || (fault == nil) != (slowFault == nil) {
			t.Fatalf("at once: %d %t %v; byte by byte: %d %t %v", used, whole, fault, slowUsed, slowWhole, slowFault)
		}
		if !whole {
			return
		}
		head, fault := h.head()
		if fault != nil {
			return
		}
		framing, fault := framingOf("GET", head)
		if fault != nil {
			return
		}
		compare(t, raw, head, framing)
	})
}

func compare(t *testing.T, raw []byte, head fetch.Head, framing framing) {
	t.Helper()
	std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: "GET"})
	if err != nil {
		if strings.Contains(err.Error(), "trailer") {
			return // a Trailer field that names a framing field
		}
		t.Fatalf("taken, but not by net/http: %v", err)
	}
	if std.StatusCode != head.Status || std.Proto != head.Protocol {
		t.Fatalf("%s %d, net/http says %s %d", head.Protocol, head.Status, std.Proto, std.StatusCode)
	}
	if std.ContentLength != framing.length && head.Status >= 200 {
		t.Fatalf("length %d, net/http says %d", framing.length, std.ContentLength)
	}
	if framing.persistent && std.Close {
		t.Fatal("persistent, which net/http says it is not")
	}
	for _, f := range head.Fields {
		switch name := http.CanonicalHeaderKey(f.Name); name {
		case "Connection", "Trailer", "Transfer-Encoding", "Content-Length":
		default:
			if !strings.Contains(strings.Join(std.Header[name], "\n"), string(f.Value)) {
				t.Fatalf("field %s: %q, net/http says %q", f.Name, f.Value, std.Header[name])
			}
		}
	}
}

func TestHeadLimits(t *testing.T) {
	h := newHeadReader()
	_, _, fault := h.feed([]byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 5)))
	if fault != nil {
		t.Fatalf("5 fields: %v", fault)
	}
	if _, _, fault = h.feed([]byte("A: b\r\n")); fault == nil || fault.reason != fetch.ReasonHeadTooLarge {
		t.Fatalf("6 fields: %v", fault)
	}
	h = newHeadReader()
	used, _, fault := h.feed([]byte("HTTP/1.1 200 " + strings.Repeat("a", 2000)))
	if fault == nil || fault.reason != fetch.ReasonHeadTooLarge || used != 0 {
		t.Fatalf("2000 bytes: %d, %v", used, fault)
	}
}
