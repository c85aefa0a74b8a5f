package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// A slow stream has a piece of its body in each turn of the wheel.
	pieceBytes = 512
	turn       = time.Second
	slots      = 50
	// pieceLimit is how long a piece may take to be written: a service that does
	// not read ends all streams.
	pieceLimit = 5 * time.Second

	slowHead = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// serveSlowly answers every request with a stream that does not end, until the
// process ends.
func serveSlowly(log io.Writer, files []string) error {
	w := new(wheel)
	serving, ctx := errgroup.WithContext(context.Background())
	serving.Go(func() error { return listenAndServe(log, w, files) })
	serving.Go(func() error {
		w.run(ctx)
		return nil
	})
	return serving.Wait()
}

// wheel sends a piece to each of its streams in each turn, from one goroutine.
// The streams are spread over its slots, so that a turn is even.
type wheel struct {
	mu    sync.Mutex
	slots [slots][]*slowStream
	next  int // the slot that the next stream joins
}

// slowStream is an answer that goes on.
type slowStream struct {
	conn   net.Conn
	offset int64 // in the body
}

// ServeHTTP sends the head and leaves the rest to the wheel.
func (w *wheel) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(conn, slowHead); err != nil {
		conn.Close()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[w.next] = append(w.slots[w.next], &slowStream{conn: conn})
	w.next = (w.next + 1) % slots
}

// run turns the wheel until ctx ends.
func (w *wheel) run(ctx context.Context) {
	ticks := time.NewTicker(turn / slots)
	defer ticks.Stop()
	for slot := 0; ; slot = (slot + 1) % slots {
		select {
		case <-ticks.C:
			w.serve(slot)
		case <-ctx.Done():
			return
		}
	}
}

// serve sends a piece to each stream of a slot and drops those whose peer is
// gone.
func (w *wheel) serve(slot int) {
	w.mu.Lock()
	streams := w.slots[slot]
	w.slots[slot] = nil
	w.mu.Unlock()
	kept := streams[:0]
	for _, s := range streams {
		if err := s.send(); err != nil {
			s.conn.Close()
			continue
		}
		kept = append(kept, s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[slot] = append(kept, w.slots[slot]...) // some may have joined
}

// send sends the next piece as one chunk (RFC 9112, section 7.1).
func (s *slowStream) send() error {
	from := s.offset % period
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", pieceBytes, page[from:from+pieceBytes])
	s.offset += pieceBytes
	if err := s.conn.SetWriteDeadline(time.Now().Add(pieceLimit)); err != nil {
		return err
	}
	_, err := s.conn.Write(chunk)
	return err
}
