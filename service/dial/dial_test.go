package dial_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// listen returns a listener on a loopback address and its port.
func listen(t *testing.T, address string) (*net.TCPListener, uint16) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
	if err != nil {
		t.Skipf("no listener on %s: %v", address, err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, uint16(ln.Addr().(*net.TCPAddr).Port)
}

// untouched fails the test if somebody connected to ln.
func untouched(t *testing.T, ln *net.TCPListener) {
	t.Helper()
	_ = ln.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if conn, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accepted %v, %v; want no connection", conn, err)
	}
}

func TestConnectsToTheAddressOfTheName(t *testing.T) {
	ln, port := listen(t, "127.0.0.1")
	resolver := resolves("127.0.0.1")
	d := dial.New(dial.Options{Resolver: resolver})
	r, err := d.Dial(t.Context(), "upstream.test", port, routeTo(nothing), timeouts, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Conn.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := r.Conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if want := ln.Addr().(*net.TCPAddr).AddrPort(); r.Remote != want || r.Dials != 1 || r.Connect <= 0 {
		t.Errorf("result is %+v, want one dial to %s and its duration", r, want)
	}
}

func TestLiteralIsJudgedWithoutALookUp(t *testing.T) {
	for host, want := range map[string]string{
		"127.0.0.1":        "127.0.0.1",
		"::1":              "::1",
		"::ffff:127.0.0.1": "127.0.0.1",
	} {
		t.Run(host, func(t *testing.T) {
			ln, port := listen(t, want)
			resolver := resolves("192.0.2.1")
			d := dial.New(dial.Options{Resolver: resolver})
			r, err := d.Dial(t.Context(), host, port, routeTo(nothing), timeouts, 4)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Conn.Close()
			if got := r.Remote.Addr().String(); got != want || r.DNS != 0 {
				t.Errorf("remote is %s after a look-up of %s, want %s and none", got, r.DNS, want)
			}
			if _, err := ln.Accept(); err != nil {
				t.Error(err)
			}

			_, err = d.Dial(t.Context(), host, port, routeTo(inside), timeouts, 4)
			isDenied(t, err)
			untouched(t, ln)
			equal(t, "what was looked up", resolver.asked, nil)
		})
	}
}

func TestRefusedPort(t *testing.T) {
	ln, port := listen(t, "127.0.0.1")
	_ = ln.Close()
	d := dial.New(dial.Options{Resolver: resolves("127.0.0.1")})
	r, err := d.Dial(t.Context(), "upstream.test", port, routeTo(nothing), timeouts, 4)
	isFailure(t, err, fetch.ReasonConnectRefused)
	if r.Conn != nil || r.Remote.IsValid() || r.Dials != 1 {
		t.Errorf("result is %+v, want one dial and no connection", r)
	}
}

// A name that changes between two look-ups never brings an unjudged address:
// each call looks up once and dials what it judged.
func TestRebinding(t *testing.T) {
	ln, port := listen(t, "127.0.0.1")
	metadata := netip.MustParseAddr("169.254.169.254")
	resolver := &stub{answers: [][]netip.Addr{parse("127.0.0.1"), {metadata}}}
	d := dial.New(dial.Options{Resolver: resolver})
	var judged []netip.Addr
	route := routeTo(func(a netip.Addr) bool { judged = append(judged, a); return a == metadata })

	r, err := d.Dial(t.Context(), "flip.test", port, route, timeouts, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Conn.Close()
	if got := r.Conn.RemoteAddr().String(); got != ln.Addr().String() {
		t.Errorf("connected to %s, want %s", got, ln.Addr())
	}
	equal(t, "what was judged", judged, parse("127.0.0.1", "127.0.0.1"))
	equal(t, "what was looked up", resolver.asked, []string{"ip flip.test."})

	r, err = d.Dial(t.Context(), "flip.test", port, route, timeouts, 4)
	isDenied(t, err)
	if r.Dials != 0 {
		t.Errorf("%d dials, want none", r.Dials)
	}
}

// What the socket is about to connect to is judged too, and before a packet
// leaves.
func TestSocketIsJudgedAgain(t *testing.T) {
	ln, port := listen(t, "127.0.0.1")
	withdrawn := &fetch.Denied{Reason: fetch.ReasonAddressDenied, Message: "withdrawn"}
	var asked atomic.Int32
	route := fetch.Route{MaxDials: 4, Allow: func(netip.AddrPort) error {
		if asked.Add(1) == 1 {
			return nil
		}
		return withdrawn
	}}
	d := dial.New(dial.Options{Resolver: resolves("127.0.0.1")})
	r, err := d.Dial(t.Context(), "upstream.test", port, route, timeouts, 4)
	if isDenied(t, err) != withdrawn {
		t.Errorf("error is %v, want the very one of Allow", err)
	}
	if r.Conn != nil || r.Dials != 1 {
		t.Errorf("result is %+v, want one dial and no connection", r)
	}
	untouched(t, ln)
}

func TestNothingIsDoneWithoutLeaveToDial(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	none := routeTo(nothing)
	none.MaxDials = 0
	unjudged := fetch.Route{MaxDials: 4}
	for name, c := range map[string]struct {
		ctx    context.Context
		route  fetch.Route
		budget int
		reason fetch.Reason
	}{
		"no budget":        {t.Context(), routeTo(nothing), 0, fetch.ReasonTooManyDials},
		"negative budget":  {t.Context(), routeTo(nothing), -1, fetch.ReasonTooManyDials},
		"route without":    {t.Context(), none, 4, fetch.ReasonTooManyDials},
		"nobody to judge":  {t.Context(), unjudged, 4, fetch.ReasonInternalFault},
		"a context at end": {ended, routeTo(nothing), 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			resolver, w := resolves("192.0.2.1"), newWire(nil)
			d := dial.New(dial.Options{Resolver: resolver, Connect: w.connect})
			_, err := d.Dial(c.ctx, "upstream.test", 443, c.route, timeouts, c.budget)
			if c.reason != "" {
				isFailure(t, err, c.reason)
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v, want that of the context", err)
			}
			equal(t, "what was looked up", resolver.asked, nil)
			equal(t, "what was dialed", w.dialed, nil)
		})
	}
}
