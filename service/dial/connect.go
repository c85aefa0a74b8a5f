package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// keepalive is how long a connection is silent before it is probed, and the
// time between two probes.
const keepalive = 15 * time.Second

// Connect opens one TCP connection to an address. It asks control about the
// socket that it has created before it connects it, and gives up with control's
// error. It returns when ctx ends.
type Connect func(ctx context.Context, to netip.AddrPort, control Control) (net.Conn, error)

// Control judges a socket, as net.Dialer.Control: network is "tcp4" or "tcp6",
// address an IP address with its port. The connection is not looked at.
type Control func(network, address string, c syscall.RawConn) error

// connectTCP is the Connect of a service. It does not use Dialer.DialTCP, which
// binds the socket to a port of its own first: two connections to different
// upstreams could then no longer share a local port.
func connectTCP(ctx context.Context, to netip.AddrPort, control Control) (net.Conn, error) {
	network := "tcp6"
	if to.Addr().Is4() {
		network = "tcp4"
	}
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepalive, Interval: keepalive},
		ControlContext: func(_ context.Context, network, address string, c syscall.RawConn) error {
			return control(network, address, c)
		},
	}
	return d.DialContext(ctx, network, to.String())
}

// guard judges the address of one socket when it is about to connect.
type guard struct {
	to     netip.AddrPort
	allow  func(netip.AddrPort) error
	asked  bool
	denial error
}

// control is a Control. It remembers its answer, which net wraps.
func (g *guard) control(network, address string, _ syscall.RawConn) error {
	g.asked = true
	if g.denial == nil {
		g.denial = g.judge(network, address)
	}
	return g.denial
}

func (g *guard) judge(network, address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || to != g.to || (network != "tcp4" && network != "tcp6") {
		return fail(fetch.ReasonInternalFault, "a socket was about to connect elsewhere than to the address that was judged",
			fmt.Errorf("%s %q instead of %s", network, address, g.to))
	}
	return g.allow(to)
}

// connectFailure says why a connect brought no connection.
func connectFailure(name string, err error) *fetch.Failure {
	switch {
	case timedOut(err):
		return fail(fetch.ReasonConnectTimeout, name+" did not accept a connection in time", err)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return fail(fetch.ReasonConnectRefused, name+" refuses connections", err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		f := fail(fetch.ReasonConnectUnreachable, "fetchgate has no file descriptor left for a connection to "+name+
			"; the operator should raise its limit of open files", err)
		f.Blame = fetch.BlameFetchgate
		return f
	default:
		return fail(fetch.ReasonConnectUnreachable, name+" cannot be reached from here", err)
	}
}
