// Package listener admits the connections of callers, over TCP with or without TLS
// and over unix sockets, and bounds what one of them may send.
package listener

import (
	"container/heap"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What Options.OnRefused is told: the limit that a connection was refused or
// closed for.
const (
	// Connections: as many connections as may be, and each carries a stream.
	Connections = "connections"
	// ConnectionsPerPeer: as many connections as one address may have.
	ConnectionsPerPeer = "connections_per_peer"
	// Idle: the connection that was idle longest made room for a new one.
	Idle = "idle"
	// Descriptors: the system gives no socket for a connection that waits.
	Descriptors = "descriptors"
	// StalledWrite: the caller took nothing that was sent for MaxWriteStall.
	StalledWrite = "stalled_write"
	// Resets, Settings, Control, HeaderBlock and Unfinished: see FrameLimits.
	Resets      = "resets"
	Settings    = "settings"
	Control     = "control_frames"
	HeaderBlock = "header_block"
	Unfinished  = "unfinished_messages"
)

// The bounds that a Listener has when Options name none.
const (
	DefaultMaxConnections        = 10_000
	DefaultMaxConnectionsPerPeer = 1_000
)

// Options are what a Listener is built from.
type Options struct {
	// MaxConnections are the most connections at once; 0 means
	// DefaultMaxConnections. At that number, the connection that has been idle
	// longest and carries no stream is closed for a new one.
	MaxConnections int
	// MaxConnectionsPerPeer are the most connections at once from one address,
	// which for IPv6 is its /64, or from the processes of one user over unix
	// sockets; 0 means DefaultMaxConnectionsPerPeer.
	MaxConnectionsPerPeer int
	// Frames bound what one connection may send.
	Frames FrameLimits
	// OnRefused is called with the limit for each connection that is refused or
	// closed; nil means nobody counts. It must not block.
	OnRefused func(limit string)
	// Log takes one line a second at most for each limit; nil discards it.
	Log *slog.Logger
}

// Listener is a net.Listener that accepts only what its Options admit. Its
// Accept outlasts a shortage of descriptors.
type Listener struct {
	net.Listener
	*admission
	closed  chan struct{}
	closing sync.Once
	// expected are the RPCs whose requests have yet to come.
	expected expected
}

// admission are the connections that listeners with the same bounds have
// admitted.
type admission struct {
	options Options
	start   time.Time

	mu       sync.Mutex
	admitted byIdle
	peers    map[peer]int
	// allBusy is when no connection was found idle; the next search waits.
	allBusy time.Duration
	said    map[string]time.Duration
}

// New returns a listener that admits the connections of l.
func New(l net.Listener, o Options) *Listener {
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.MaxConnectionsPerPeer == 0 {
		o.MaxConnectionsPerPeer = DefaultMaxConnectionsPerPeer
	}
	if o.OnRefused == nil {
		o.OnRefused = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Frames = o.Frames.withDefaults()
	return newListener(l, &admission{
		options: o, start: time.Now(), peers: map[peer]int{}, allBusy: math.MinInt64, said: map[string]time.Duration{},
	})
}

func newListener(l net.Listener, a *admission) *Listener {
	return &Listener{Listener: l, admission: a, closed: make(chan struct{})}
}

// Beside returns a listener that admits the connections of other within the
// bounds of l: those of both count together.
func (l *Listener) Beside(other net.Listener) *Listener { return newListener(other, l.admission) }

// Watch returns secured such that it closes when its caller sends more than the
// FrameLimits. Accepted is what Accept returned; secured is the same connection
// after the handshake of TLS, or accepted itself. A connection is watched once,
// from its first byte of HTTP/2 on.
func (l *Listener) Watch(accepted, secured net.Conn) net.Conn {
	w := &watched{Conn: secured, listener: l, session: newSession(l.options.Frames)}
	if a, ok := accepted.(*admitted); ok {
		w.idleSince = &a.idleSince
	} else {
		w.idleSince = new(atomic.Int64)
	}
	return w
}

// Accept waits for the next connection that is admitted. The others are closed
// at once.
func (l *Listener) Accept() (net.Conn, error) {
	for wait := shortestWait; ; {
		c, err := l.Listener.Accept()
		if err != nil {
			if !passes(err) {
				return nil, err
			}
			l.refused(Descriptors, "error", err)
			if !l.pause(wait) {
				return nil, net.ErrClosed
			}
			wait = min(2*wait, longestWait)
			continue
		}
		wait = shortestWait
		if a := l.admit(c); a != nil {
			return a, nil
		}
		c.Close()
	}
}

// Close closes the listener; the connections that it admitted stay.
func (l *Listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Waits between attempts to accept while the system is short of something.
const (
	shortestWait = 5 * time.Millisecond
	longestWait  = 500 * time.Millisecond
)

// passes tells the errors of accept(2) that end by themselves.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// pause tells whether the listener is still open after d.
func (l *Listener) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.closed:
		return false
	}
}

// admit returns nil for a connection beyond the bounds.
func (l *Listener) admit(c net.Conn) *admitted {
	a := &admitted{Conn: c, listener: l}
	if err := a.identify(); err != nil {
		l.options.Log.Debug("the system does not say whose process has connected to the unix socket", "err", err)
		return nil
	}
	a.armed.Store(-int64(rearmEvery))
	limit, dropped := l.enter(a)
	if limit != "" {
		l.refused(limit, "peer", a.RemoteAddr())
		return nil
	}
	if dropped != nil {
		dropped.Close()
		l.refused(Idle, "peer", dropped.RemoteAddr())
	}
	return a
}

// enter counts a in; it returns the limit that is in the way, or the connection
// that has to go for it.
func (l *admission) enter(a *admitted) (limit string, dropped *admitted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.peer.isKnown() && l.peers[a.peer] >= l.options.MaxConnectionsPerPeer {
		return ConnectionsPerPeer, nil
	}
	now := time.Since(l.start)
	if len(l.admitted) >= l.options.MaxConnections {
		if dropped = l.idleLongest(now); dropped == nil {
			return Connections, nil
		}
		l.leave(dropped)
	}
	a.idleSince.Store(int64(now))
	a.lastSeen = int64(now)
	heap.Push(&l.admitted, a)
	if a.peer.isKnown() {
		l.peers[a.peer]++
	}
	return "", dropped
}

// leave forgets a connection; the second time, nothing happens.
func (l *admission) leave(a *admitted) {
	if a.index < 0 {
		return
	}
	heap.Remove(&l.admitted, a.index)
	if !a.peer.isKnown() {
		return
	}
	if l.peers[a.peer]--; l.peers[a.peer] == 0 {
		delete(l.peers, a.peer)
	}
}

// searchPause bounds what the search for an idle connection costs while all
// carry streams.
const searchPause = 10 * time.Millisecond

func (l *admission) idleLongest(now time.Duration) *admitted {
	if l.allBusy > now-searchPause {
		return nil
	}
	found := l.admitted.longest(int64(now))
	if found == nil {
		l.allBusy = now
	}
	return found
}

// sayEvery is the least time between two lines of the log about one limit.
const sayEvery = time.Second

func (l *admission) refused(limit string, about string, what any) {
	l.options.OnRefused(limit)
	now := time.Since(l.start)
	l.mu.Lock()
	last, before := l.said[limit]
	say := !before || now-last >= sayEvery
	if say {
		l.said[limit] = now
	}
	l.mu.Unlock()
	if say {
		l.options.Log.Warn("a connection of a caller is refused or closed", "limit", limit, about, what)
	}
}

// peer is what MaxConnectionsPerPeer counts by: an address, or a user of this
// machine. The zero peer does not count.
type peer struct {
	address netip.Addr
	user    uint32
	isUser  bool
}

func (p peer) isKnown() bool { return p.isUser || p.address.IsValid() }

// peerAt is the peer at the address of a connection; the zero peer if it has no
// IP address.
func peerAt(address net.Addr) peer {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return peer{}
	}
	a := tcp.AddrPort().Addr().Unmap().WithZone("")
	if a.Is6() {
		// A caller has a whole /64 (RFC 6177 section 2).
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return peer{address: a}
}
