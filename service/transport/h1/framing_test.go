package h1_test

import (
	"math"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// framed reads the framing of a head with these lines.
func framed(t *testing.T, method, raw string) (h1.Framing, *h1.Fault) {
	t.Helper()
	head, err := whole(t, raw+"\r\n").Head()
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return h1.FramingOf(method, head)
}

func TestFraming(t *testing.T) {
	length := func(n int64) h1.Framing { return h1.Framing{Length: n, Persistent: true} }
	inChunks, toTheEnd := h1.Framing{Length: -1, Chunked: true, Persistent: true}, h1.Framing{Length: -1}
	for _, c := range []struct {
		method, raw string
		want        h1.Framing
	}{
		{"GET", ok, toTheEnd},
		{"GET", "HTTP/1.0 200 OK\r\n", toTheEnd},
		{"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", toTheEnd},
		{"GET", ok + "Content-Length: 0\r\n", length(0)},
		{"GET", ok + "CONTENT-LENGTH:\t42 \r\n", length(42)},
		{"GET", ok + "Content-Length: 0000000000000000000000000000042\r\n", length(42)},
		{"GET", ok + "Content-Length: 42\r\ncontent-length: 42\r\nContent-Length: 42\r\n", length(42)},
		{"GET", ok + "Content-Length: 4294967297\r\n", length(1<<32 + 1)},
		{"GET", ok + "Content-Length: 9223372036854775807\r\n", length(math.MaxInt64)},
		{"GET", ok + "Content-Length-X: 5\r\nX-Transfer-Encoding: chunked\r\n", toTheEnd},
		{"GET", ok + "Transfer-Encoding: chunked\r\n", inChunks},
		{"GET", ok + "transfer-encoding: \t ChUnKeD \r\n", inChunks},
		{"HEAD", ok + "Content-Length: 42\r\n", length(0)},
		{"HEAD", ok + "Transfer-Encoding: chunked\r\n", length(0)},
		{"HEAD", ok, length(0)},
		{"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 42\r\n", length(0)},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 42\r\n", length(0)},
		{"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n", length(0)},
		{"GET", "HTTP/1.1 103 Early Hints\r\n", length(0)},
		{"GET", "HTTP/1.1 205 Reset Content\r\n", toTheEnd},
		{"head", ok + "Content-Length: 1\r\n", length(1)},
	} {
		if got, fault := framed(t, c.method, c.raw); fault != nil || got != c.want {
			t.Errorf("%s %q: %+v, %v, want %+v", c.method, c.raw, got, fault, c.want)
		}
	}
}

func TestFramingRefused(t *testing.T) {
	const (
		conflict = fetch.ReasonConflictingLength
		broken   = fetch.ReasonMalformedHead
	)
	for _, c := range []struct {
		fields string
		want   fetch.Reason
	}{
		{"Content-Length: 5\r\nContent-Length: 6\r\n", conflict},
		{"Content-Length: 5\r\nContent-Length: 05\r\n", conflict},
		{"Content-Length: 5\r\nContent-Length: 5, 5\r\n", conflict},
		{"Content-Length: 5\r\nContent-Length:\r\n", conflict},
		{"Content-Length: 42,42\r\n", broken},
		{"Content-Length: 42, 30\r\n", broken},
		{"Content-Length: +42\r\n", broken},
		{"Content-Length: -1\r\n", broken},
		{"Content-Length: 0x2a\r\n", broken},
		{"Content-Length: 4 2\r\n", broken},
		{"Content-Length: 42;\r\n", broken},
		{"Content-Length: 1_000\r\n", broken},
		{"Content-Length: 1e3\r\n", broken},
		{"Content-Length: \xd9\xa4\r\n", broken},
		{"Content-Length:\r\n", broken},
		{"Content-Length:\r\nContent-Length:\r\n", broken},
		{"Content-Length: 9223372036854775808\r\n", broken},
		{"Content-Length: 18446744073709551616\r\n", broken},
		{"Content-Length: 99999999999999999999999999\r\n", broken},
		{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", conflict},
		{"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", conflict},
		{"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", conflict},
		{"Transfer-Encoding:\r\nContent-Length: 5\r\n", conflict},
		{"Transfer-Encoding: chunked, identity\r\n", broken},
		{"Transfer-Encoding: gzip, chunked\r\n", broken},
		{"Transfer-Encoding: chunked, chunked\r\n", broken},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", broken},
		{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", broken},
		{"Transfer-Encoding: xchunked\r\n", broken},
		{"Transfer-Encoding: chunkedx\r\n", broken},
		{"Transfer-Encoding: chunked;q=1\r\n", broken},
		{"Transfer-Encoding: \"chunked\"\r\n", broken},
		{"Transfer-Encoding: ,chunked\r\n", broken},
		{"Transfer-Encoding: identity\r\n", broken},
		{"Transfer-Encoding:\r\n", broken},
		{"Transfer-Encoding: chun\u212aed\r\n", broken}, // a Kelvin sign, which Unicode folds to k
	} {
		for _, method := range methods {
			if got, fault := framed(t, method, ok+c.fields); fault == nil || fault.Reason != c.want {
				t.Errorf("%s %q: %+v, %v, want %s", method, c.fields, got, fault, c.want)
			}
		}
	}
	for _, method := range methods {
		if got, fault := framed(t, method, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n"); fault == nil || fault.Reason != broken {
			t.Errorf("%s: chunks in HTTP/1.0: %+v, %v", method, got, fault)
		}
	}
}

func TestPersistence(t *testing.T) {
	for _, c := range []struct {
		protocol, fields string
		want             bool
	}{
		{"HTTP/1.1", "", true},
		{"HTTP/1.1", "Connection: close\r\n", false},
		{"HTTP/1.1", "connection: x,\tCLOSE ,y\r\n", false},
		{"HTTP/1.1", "Connection: x\r\nConnection: close\r\n", false},
		{"HTTP/1.1", "Connection: keep-alive, close\r\n", false},
		{"HTTP/1.1", "Connection: closed\r\nX-Connection: close\r\n", true},
		{"HTTP/1.1", "Connection: \"close\"\r\n", true},
		{"HTTP/1.1", "Connection: clo\u017fe\r\n", true}, // a long s, which Unicode folds to s
		{"HTTP/1.0", "", false},
		{"HTTP/1.0", "Connection: Keep-Alive\r\n", true},
		{"HTTP/1.0", "Connection: \u212aeep-alive\r\n", false},
		{"HTTP/1.0", "Connection: keep-alive\r\nConnection: close\r\n", false},
		{"HTTP/1.0", "Keep-Alive: timeout=5\r\n", false},
	} {
		got, fault := framed(t, "GET", c.protocol+" 200 OK\r\nContent-Length: 0\r\n"+c.fields)
		if fault != nil || got.Persistent != c.want {
			t.Errorf("%s %q: %+v, %v", c.protocol, c.fields, got, fault)
		}
	}
}
