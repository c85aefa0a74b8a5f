package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// steady streams what settles a stream, and no more until the stream is ended.
type steady struct {
	fetchgatev1.UnimplementedFetchServiceServer
	open atomic.Int64
}

func (s *steady) StreamFetch(_ *fetchgatev1.StreamFetchRequest, stream grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
	s.open.Add(1)
	defer s.open.Add(-1)
	head := &fetchgatev1.StreamFetchResponse_Head{Head: &fetchgatev1.HttpHead{Status: http.StatusOK}}
	err := stream.Send(&fetchgatev1.StreamFetchResponse{Event: head})
	for offset := int64(0); err == nil && offset < settledBytes; offset += pieceBytes {
		from := offset % period
		data := &fetchgatev1.Data{OffsetBytes: offset, Data: page[from : from+pieceBytes]}
		err = stream.Send(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{Data: data}})
	}
	<-stream.Context().Done()
	return err
}

func TestHoldMeasuresWhileAllStreamsGoOn(t *testing.T) {
	const streams = 2*opening + 3
	for _, want := range []error{nil, errors.New("no memory")} {
		s, measured := new(steady), 0
		client := clientOf(t, s)
		err := hold(t.Context(), []fetchgatev1.FetchServiceClient{client}, "http://127.0.0.1/", streams, func(context.Context) error {
			measured++
			if open := s.open.Load(); open != streams {
				t.Errorf("%d of %d streams were open", open, streams)
			}
			return want
		})
		if !errors.Is(err, want) || measured != 1 {
			t.Errorf("error %v after %d measurements, want %v", err, measured, want)
		}
	}
}

func TestHoldEndsWithItsContext(t *testing.T) {
	client := clientOf(t, new(steady))
	ctx, cancel := context.WithCancel(t.Context())
	err := hold(ctx, []fetchgatev1.FetchServiceClient{client}, "http://127.0.0.1/", 3, func(ctx context.Context) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestHoldRefusesWrongStreams(t *testing.T) {
	const head, first, second = "head {status: 200}", `data {data: "\x00\x01"}`, `data {offset_bytes: 2 data: "\x02"}`
	for what, events := range map[string][]string{
		"ended":              {head, first, second},
		"ended at once":      {},
		"ended with summary": {head, first, second, "summary {body_bytes: 3}"},
		"status":             {"head {status: 503}", first, second},
		"two heads":          {head, first, head, second},
		"no head":            {first, second},
		"offset":             {head, first, `data {offset_bytes: 1 data: "\x02"}`},
		"content":            {head, first, `data {offset_bytes: 2 data: "\x03"}`},
	} {
		l := new(liar) // the one before may still answer a stream
		for _, text := range events {
			l.events = append(l.events, answered(t, new(fetchgatev1.StreamFetchResponse), text))
		}
		err := hold(t.Context(), []fetchgatev1.FetchServiceClient{l.client(t)}, "http://127.0.0.1/", 2, func(context.Context) error {
			t.Errorf("%s: measured", what)
			return nil
		})
		named := map[string]string{"status": "status 503", "two heads": "status 200 instead of 200, once", "no head": "without a head",
			"offset": "says offset 1", "content": "not those that the upstream sent", "ended with summary": "with the summary"}[what]
		if err == nil || !strings.Contains(err.Error(), named) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestRoomFor(t *testing.T) {
	if err := roomFor(1); err != nil {
		t.Error(err)
	}
	if err := roomFor(maxSlow + 1); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("the error is %v", err)
	}
}

// TestWheelBody reads what the wheel sends as a client of HTTP does.
func TestWheelBody(t *testing.T) {
	w, joined := new(wheel), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.ServeHTTP(rw, r)
		close(joined)
	}))
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	<-joined
	for range 3 {
		for slot := range slots {
			w.serve(slot)
		}
	}
	body := make([]byte, 3*pieceBytes)
	if _, err := io.ReadFull(response.Body, body); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	if !bytes.Equal(body, page[:len(body)]) {
		t.Errorf("the body begins with %q", body)
	}
}

// TestWheelTurns counts what each stream has after some turns, and drops one.
func TestWheelTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(wheel)
		var received [2 * slots]atomic.Int64
		var reading errgroup.Group
		var ends []net.Conn
		for i := range received {
			near, far := net.Pipe()
			ends = append(ends, far)
			w.slots[i%slots] = append(w.slots[i%slots], &slowStream{conn: near})
			reading.Go(func() error {
				for b := make([]byte, 2*pieceBytes); ; {
					if _, err := far.Read(b); err != nil {
						return nil
					}
					received[i].Add(1)
				}
			})
		}
		ctx, stop := context.WithCancel(t.Context())
		turning := new(errgroup.Group)
		turning.Go(func() error {
			w.run(ctx)
			return nil
		})
		ends[0].Close()
		time.Sleep(3*turn + turn/slots/2) // of the bubble
		stop()
		turning.Wait()
		for i := range received {
			if got, want := received[i].Load(), int64(3); got != want && i > 0 {
				t.Errorf("stream %d has %d pieces in %d turns", i, got, want)
			}
		}
		if left := len(w.slots[0]); left != 1 {
			t.Errorf("%d streams are left of two, of which one is gone", left)
		}
		for _, streams := range w.slots {
			for _, s := range streams {
				s.conn.Close()
			}
		}
		reading.Wait()
	})
}

// TestServerOffersHTTP1 trusts the certificate as fetchgate does.
func TestServerOffersHTTP1(t *testing.T) {
	dir := t.TempDir()
	files := [2]string{filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile)}
	if err := writeCertificate(files[0], files[1]); err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(http.NotFoundHandler())
	var serving errgroup.Group
	serving.Go(func() error { return server.ServeTLS(listener, files[0], files[1]) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Proto != "HTTP/1.1" || response.TLS.NegotiatedProtocol != "http/1.1" {
		t.Errorf("it speaks %s, negotiated %q", response.Proto, response.TLS.NegotiatedProtocol)
	}
}

func TestAllocatedLeavesOutReading(t *testing.T) {
	var reads, working atomic.Int64
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		allocated := 5000 + 70*reads.Add(1) + working.Load()
		fmt.Fprintf(w, "%s %d\n%s %de+01\n%s 1\n%s 1\n", allocations, allocated, allocatedBytes, allocated, stackBytes, goroutines)
	}))
	defer metrics.Close()
	p := &process{metrics: metrics.Listener.Addr().String()}
	got, err := p.allocated(t.Context(), func() error {
		working.Store(42)
		return nil
	})
	if err != nil || got[allocations] != 42 || got[allocatedBytes] != 420 {
		t.Errorf("%v, error %v", got, err)
	}
	wrong := errors.New("a wrong answer")
	if _, err := p.allocated(t.Context(), func() error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the error is %v", err)
	}
}

func TestParseMetrics(t *testing.T) {
	const whole = "# HELP x y\n" + allocations + " 1.2e+06\n" + allocatedBytes + " 2\ngo_info{version=\"1\"} 1\n" + stackBytes + " 3\n" + goroutines + " 4\n"
	got, err := parseMetrics(strings.NewReader(whole))
	if err != nil || len(got) != 4 || got[allocations] != 1.2e6 || got[goroutines] != 4 {
		t.Errorf("%v, error %v", got, err)
	}
	for _, text := range []string{"", strings.Replace(whole, stackBytes, "x", 1), strings.Replace(whole, "1.2e", "z", 1)} {
		if got, err := parseMetrics(strings.NewReader(text)); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestSaidFindsAddresses(t *testing.T) {
	for _, c := range []struct {
		s    *said
		text string
		want string
	}{
		{&said{wanted: saysFetchgate}, "fetchgate 1\n  gRPC     127.0.0.1:41 (TLS)\n  HTTP     http://127.0.0.1:42/healthz\n", ""},
		{&said{wanted: saysFetchgate}, "fetchgate 1\n  gRPC     127.0.0.1:41\n  HTTP     http://127.0.0.1:42/healthz\n", "[127.0.0.1:41 127.0.0.1:42]"},
		{&said{wanted: saysNaive}, "gRPC 127.0.0.1:41\n", "[127.0.0.1:41]"},
		{&said{wanted: saysUpstream}, "HTTP 127.0.0.1:41\n", "[127.0.0.1:41]"},
	} {
		c.s.found = make(chan []string, 1)
		for _, b := range []byte(c.text) { // as late as can be
			c.s.Write([]byte{b})
		}
		c.s.Write([]byte(strings.Repeat("x", 2*keptBytes)))
		got := ""
		select {
		case addresses := <-c.s.found:
			got = fmt.Sprint(addresses)
		default:
		}
		if got != c.want || len(c.s.String()) != keptBytes {
			t.Errorf("%q: %s, want %s; %d bytes kept", c.text, got, c.want, len(c.s.String()))
		}
	}
}
