package fetchtest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Listen says where an upstream listens and how its connections are. The zero
// value is plain TCP on a free port of 127.0.0.1, and no fault of the network.
type Listen struct {
	// Address is a loopback address and a port; empty means "127.0.0.1:0".
	Address string
	// Authority makes the upstream speak TLS with a certificate of this
	// authority; nil means plain TCP.
	Authority *Authority
	// Names are the names of that certificate; nil means those of [IssueOptions].
	Names []string
	// TLS is used as it is, instead of what Authority and Names would give.
	TLS *tls.Config
	// Split is the seed by which every write is cut into pieces at random
	// places, at most 16 KiB long and most of them short. 0 means that writes
	// go out whole. [Seed] picks one.
	Split uint64
}

// Seed returns a random seed that is not 0, and logs it, so that a test which
// fails can be run again with the same one.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64() | 1
	t.Logf("fetchtest: seed %d", seed)
	return seed
}

func (l Listen) tls(protocols ...string) *tls.Config {
	if l.TLS != nil || l.Authority == nil {
		return l.TLS
	}
	return &tls.Config{
		Certificates: []tls.Certificate{l.Authority.Issue(IssueOptions{Names: l.Names})},
		NextProtos:   protocols,
	}
}

// errUpstreamClosed is who ended a connection that was open at the upstream's end.
var errUpstreamClosed = errors.New("the upstream was closed")

// Upstream listens on loopback and counts its connections, numbered from 1 in
// the order in which they were accepted. Its methods are safe for concurrent use.
type Upstream struct {
	t        testing.TB
	listener net.Listener
	config   *tls.Config // nil is plain TCP
	split    uint64

	closing sync.Once
	stop    func()         // ends what serves the connections besides closing them; may be nil
	running sync.WaitGroup // the accept loop and whatever serves its connections

	mu     sync.Mutex
	wires  []*wire       // all that were ever accepted
	grown  chan struct{} // closed and replaced when wires grows
	closed bool
}

// newUpstream listens and sees to it that t closes the upstream.
func newUpstream(t testing.TB, l Listen, config *tls.Config) *Upstream {
	t.Helper()
	address, err := netip.ParseAddrPort(cmp.Or(l.Address, "127.0.0.1:0"))
	if err != nil || !address.Addr().IsLoopback() {
		t.Fatalf("fetchtest: cannot listen on %q: want a loopback address and a port, like 127.0.0.1:0", l.Address)
	}
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		t.Fatalf("fetchtest: %v", err)
	}
	u := &Upstream{t: t, listener: listener, config: config, split: l.Split, grown: make(chan struct{})}
	t.Cleanup(u.Close)
	return u
}

// serve runs serve for each connection, in a goroutine that Close waits for.
func (u *Upstream) serve(serve func(*Conn)) {
	u.running.Go(func() {
		for {
			w, err := u.accept()
			if err != nil {
				return
			}
			u.running.Go(func() { u.serveConn(w, serve) })
		}
	})
}

func (u *Upstream) serveConn(w *wire, serve func(*Conn)) {
	c := newConn(w, u.config, u.split)
	defer c.join()
	defer w.Close()
	if secure, ok := c.Conn.(*tls.Conn); ok && secure.Handshake() != nil {
		return
	}
	c.readAhead()
	serve(c)
}

// accept returns the next connection, which Close will close.
func (u *Upstream) accept() (*wire, error) {
	conn, err := u.listener.Accept()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			u.t.Errorf("fetchtest: the upstream accepts no more: %v", err)
		}
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	w := &wire{Conn: conn, number: len(u.wires) + 1, ended: make(chan struct{})}
	u.wires = append(u.wires, w)
	close(u.grown)
	u.grown = make(chan struct{})
	return w, nil
}

// Close stops listening, closes every connection and waits for what served
// them. The end of the test calls it too.
func (u *Upstream) Close() {
	u.closing.Do(func() {
		u.listener.Close()
		u.mu.Lock()
		u.closed = true
		for _, w := range u.wires {
			w.hangUp(errUpstreamClosed)
		}
		u.mu.Unlock()
		if u.stop != nil {
			u.stop()
		}
		u.running.Wait()
	})
}

// Addr returns the address that the upstream listens on.
func (u *Upstream) Addr() netip.AddrPort {
	return u.listener.Addr().(*net.TCPAddr).AddrPort()
}

// URL returns the URL of a path, which begins with a slash, with the
// upstream's address as its host.
func (u *Upstream) URL(path string) string {
	return u.scheme() + "://" + u.Addr().String() + path
}

// URLOf returns the URL of a path, which begins with a slash, with a host name
// instead of the upstream's address. [DNS] makes such names resolve.
func (u *Upstream) URLOf(host, path string) string {
	return fmt.Sprintf("%s://%s:%d%s", u.scheme(), host, u.Addr().Port(), path)
}

func (u *Upstream) scheme() string {
	if u.config != nil {
		return "https"
	}
	return "http"
}

// Connections returns how many connections were opened so far, and how many of
// them are not known to have ended.
func (u *Upstream) Connections() (opened, open int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range u.wires {
		select {
		case <-w.ended:
		default:
			open++
		}
	}
	return len(u.wires), open
}

// WaitClosed waits until the peer has closed or reset the connection of that
// number, which need not be open yet. It fails when ctx ends first, or when the
// upstream itself ended the connection.
//
// An upstream learns of the end by reading: one that is busy with bytes the
// peer sent before learns of it only after them.
func (u *Upstream) WaitClosed(ctx context.Context, number int) error {
	for {
		w, grown := u.wire(number)
		if w == nil {
			select {
			case <-grown:
				continue
			case <-ctx.Done():
				return fmt.Errorf("connection %d was not opened: %w", number, ctx.Err())
			}
		}
		select {
		case <-w.ended:
			return w.by
		case <-ctx.Done():
			return fmt.Errorf("connection %d is still open: %w", number, ctx.Err())
		}
	}
}

// wire returns the connection of that number, or nil and what tells of the
// next one.
func (u *Upstream) wire(number int) (*wire, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if number < 1 || number > len(u.wires) {
		return nil, u.grown
	}
	return u.wires[number-1], nil
}
