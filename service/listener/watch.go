package listener

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// watched is a connection whose frames are accounted for as they pass.
type watched struct {
	net.Conn
	listener  *Listener
	idleSince *atomic.Int64

	mu      sync.Mutex // guards session and busy
	session session
	busy    bool

	// writing is held during each write, so that GOAWAY goes between frames.
	writing sync.Mutex
	ended   bool
}

var errEnded = errors.New("the connection has ended with GOAWAY: its caller went beyond a limit")

// Read reads what the caller sends and fails beyond the FrameLimits.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	now := time.Since(w.listener.start)
	w.mu.Lock()
	limit := w.session.received(p[:n], now)
	w.noteBusy(now)
	w.mu.Unlock()
	if limit != "" {
		w.end(limit, p)
		return 0, errEnded
	}
	return n, err
}

// Write sends p to the caller.
func (w *watched) Write(p []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.ended {
		return 0, errEnded
	}
	w.mu.Lock()
	w.session.sent(p)
	if w.busy && len(w.session.streams) == 0 {
		w.noteBusy(time.Since(w.listener.start))
	}
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// noteBusy tells the listener when the first stream opens or the last one ends.
func (w *watched) noteBusy(now time.Duration) {
	is := len(w.session.streams) > 0
	if is == w.busy {
		return
	}
	if w.busy = is; is {
		w.idleSince.Store(busy)
	} else {
		w.idleSince.Store(int64(now))
	}
}

// The end of a connection: what its caller has sent already is taken for a
// moment, as closing a socket with unread bytes would take GOAWAY back.
const (
	lastWrite  = 50 * time.Millisecond
	lingering  = 100 * time.Millisecond
	lingerRead = 1 << 20
)

// end says GOAWAY if the caller takes it, and closes the connection.
func (w *watched) end(limit string, scratch []byte) {
	w.listener.refused(limit, "peer", w.RemoteAddr())
	if w.writing.TryLock() {
		w.ended = true
		if w.session.out.between() {
			w.Conn.SetWriteDeadline(time.Now().Add(lastWrite))
			w.Conn.Write(goAway(w.session.last, limit))
		}
		w.writing.Unlock()
		w.Conn.SetReadDeadline(time.Now().Add(lingering))
		for left := lingerRead; left > 0; {
			n, err := w.Conn.Read(scratch)
			if err != nil {
				break
			}
			left -= n
		}
	}
	w.Conn.Close()
}

// goAway is a GOAWAY frame (RFC 9113 section 6.8).
func goAway(last uint32, limit string) []byte {
	const kind, enhanceYourCalm = 0x7, 0xb
	debug := "fetchgate: this connection sent more than the limit on " + limit + "; see docs/limits.md"
	f := []byte{0, 0, byte(8 + len(debug)), kind, 0, 0, 0, 0, 0}
	f = binary.BigEndian.AppendUint32(f, last)
	f = binary.BigEndian.AppendUint32(f, enhanceYourCalm)
	return append(f, debug...)
}
