package body_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// pause is what an upstream does between two writes.
type pause = time.Duration

// piped copies what a real server sends, over a connection in memory, to sink,
// and returns how long it took and the cause with which the context ended.
func piped(t *testing.T, sink fetch.Sink, min fetch.Throughput, serve http.HandlerFunc) (took time.Duration, cause, err error) {
	here, there := net.Pipe()
	server := &http.Server{Handler: serve}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(&oneConn{conn: there, closed: make(chan struct{})})
	}()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return here, nil }}
	defer func() {
		transport.CloseIdleConnections()
		server.Close()
		<-served
	}()

	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	got, err := transport.RoundTrip(must(http.NewRequestWithContext(ctx, "GET", "http://upstream/", nil)))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	opts := body.Options{MinThroughput: min, Stop: stop}
	_, err = body.Copy(sink, response(newWireBody(got.Body)), streamPlan(), opts)
	return time.Since(start), context.Cause(ctx), err
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (l *oneConn) Close() error { close(l.closed); return nil }

// sends returns an upstream that takes a pause, sends some bytes, and so on.
func sends(script ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		for _, s := range script {
			switch s := s.(type) {
			case pause:
				select {
				case <-time.After(s):
				case <-r.Context().Done():
					return
				}
			case int:
				w.Write(make([]byte, s))
				w.(http.Flusher).Flush()
			}
		}
	}
}

func repeat(n int, script ...any) (all []any) {
	for range n {
		all = append(all, script...)
	}
	return all
}

func TestMinThroughput(t *testing.T) {
	perHalfMinute := fetch.Throughput{Bytes: 30 << 10, Over: 30 * time.Second}
	for _, tt := range []struct {
		name  string
		sends []any
		slow  time.Duration // when the body is too slow, 0 if never
	}{
		{"nothing for half a minute", []any{pause(time.Minute)}, 30 * time.Second},
		{"a window may be almost silent", []any{pause(29999 * time.Millisecond), 30 << 10, pause(29999 * time.Millisecond), 30 << 10}, 0},
		{"steady and fast enough", repeat(200, pause(999*time.Millisecond), 1<<10), 0},
		{"steady and too slow", repeat(200, pause(time.Second), 1<<10-40), 30 * time.Second},
		{"one byte less than enough", []any{30<<10 - 1, pause(time.Minute), 1}, 30 * time.Second},
		{"enough opens a new window", []any{pause(20 * time.Second), 30 << 10, pause(time.Minute)}, 50 * time.Second},
		{"more than enough does not count twice", []any{1 << 20, pause(time.Minute)}, 30 * time.Second},
		{"a short body that ends", []any{pause(29 * time.Second), 1}, 0},
		{"an empty body that ends", []any{pause(29 * time.Second)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, cause, err := piped(t, new(discard), perHalfMinute, sends(tt.sends...))
				if tt.slow == 0 {
					if err != nil || cause != nil {
						t.Errorf("after %v: %v, %v", took, err, cause)
					}
					return
				}
				f := wantFailure(t, err, fetch.ReasonBodyTooSlow)
				if took != tt.slow || !errors.Is(cause, f) {
					t.Errorf("ended after %v, want %v; the cause is %v", took, tt.slow, cause)
				}
				if f.LimitHit == nil || *f.LimitHit != (fetch.LimitHit{Limit: "min_throughput", Max: 30 << 10}) {
					t.Errorf("limit %+v", f.LimitHit)
				}
			})
		})
	}
}

func TestNoMinThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took, cause, err := piped(t, new(discard), fetch.Throughput{Over: time.Second}, sends(pause(10*time.Hour), 1))
		if err != nil || cause != nil || took != 10*time.Hour {
			t.Errorf("after %v: %v, %v", took, err, cause)
		}
	})
}

// A caller that takes its time does not make the upstream slow.
func TestThroughputClockStopsWhileTheSinkBlocks(t *testing.T) {
	min := fetch.Throughput{Bytes: 1, Over: 10 * time.Second}
	blocks := func(int) error { <-time.After(time.Minute); return nil }
	synctest.Test(t, func(t *testing.T) {
		// The upstream is waited for 9.9 s each time.
		script := repeat(5, 1, pause(69900*time.Millisecond))
		if took, cause, err := piped(t, &collector{took: blocks}, min, sends(script...)); err != nil || cause != nil {
			t.Errorf("after %v: %v, %v", took, err, cause)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		took, cause, err := piped(t, &collector{took: blocks}, min, sends(1, pause(69*time.Second), 1, pause(71*time.Second), 1))
		f := wantFailure(t, err, fetch.ReasonBodyTooSlow)
		if want := 2*time.Minute + 19*time.Second; took != want || !errors.Is(cause, f) {
			t.Errorf("ended after %v, want %v; the cause is %v", took, want, cause)
		}
	})
}

// Bytes that wait for a buffer, while the sink takes the one before, have come.
func TestThroughputClockStopsWhileABufferIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &collector{
			sending: func() bool { return true },
			took:    func(int) error { <-time.After(time.Minute); return nil },
		}
		opts := body.Options{
			MinThroughput: fetch.Throughput{Bytes: 1, Over: 10 * time.Second},
			Stop:          func(cause error) { t.Errorf("stopped at %v: %v", time.Now(), cause) },
		}
		if err := copyScript(sink, opts, step{data: "a"}, step{after: time.Second, data: "b"}); err != nil {
			t.Error(err)
		}
	})
}

// What had come before the body was too slow is given.
func TestBytesBeforeBodyTooSlowAreGiven(t *testing.T) {
	forEachSample(t, func(t *testing.T, s sample) {
		if s.coding == "zstd" {
			t.Skip("its decoder has a channel, which must not leave the bubble by the pool of decoders")
		}
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			var coded bytes.Buffer
			w := s.encode(&coded)
			must(w.Write([]byte("flushed")))
			w.Flush()
			from := &script{ctx: ctx, steps: []step{{data: coded.String()}, {after: time.Hour, data: "x"}}}
			opts := body.Options{MinThroughput: fetch.Throughput{Bytes: 1 << 10, Over: time.Second}, Stop: stop}
			sink := &collector{sending: func() bool { return true }}
			_, err := body.Copy(sink, response(from, s.coding), streamPlan(), opts)
			wantFailure(t, err, fetch.ReasonBodyTooSlow)
			if sink.got.String() != "flushed" || !from.closed {
				t.Errorf("%q was given, closed: %t", sink.got.String(), from.closed)
			}
		})
	})
}
