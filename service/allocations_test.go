package service_test

import (
	"bytes"
	"net"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// mostAllocations is what a small Fetch may allocate, with what gRPC's client
// allocates for it in the same process, about 105 of them. It leaves a
// tenth of the service's own for what differs from run to run and by what libraries
// change. A change that goes beyond it says what the allocations are for.
const mostAllocations = 235

// TestAllocationsOfAFetch: what a fetch allocates is most of what it costs.
func TestAllocationsOfAFetch(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	origin := unallocating(t)
	s := fetchtest.Start(t, fetchtest.Options{Allow: []string{origin}})
	m := &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Method: "GET", Url: origin + "/"}}
	fetch := func() {
		answer, err := s.Fetch(t.Context(), m)
		if err != nil || len(answer.GetResponse().GetBody()) != 1<<10 {
			t.Fatalf("%v, %v", answer.GetFailure(), err)
		}
	}
	for range 100 {
		fetch() // fills pools
	}
	if got := testing.AllocsPerRun(1000, fetch); got > mostAllocations {
		t.Errorf("%.0f allocations, want at most %d", got, mostAllocations)
	} else {
		t.Logf("%.0f allocations", got)
	}
}

// unallocating is the origin of an upstream that answers with 1 KiB and allocates
// nothing for a request.
func unallocating(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	response := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"), make([]byte, 1<<10)...)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answerAll(c, response)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-served
	})
	return "http://" + l.Addr().String()
}

// answerAll answers each request on c, none of which has a body.
func answerAll(c net.Conn, response []byte) {
	defer c.Close()
	buffer := make([]byte, 16<<10)
	for have := 0; ; {
		n, err := c.Read(buffer[have:])
		if have += n; err != nil {
			return
		}
		if bytes.HasSuffix(buffer[:have], []byte("\r\n\r\n")) {
			have = 0
			if _, err := c.Write(response); err != nil {
				return
			}
		}
	}
}
