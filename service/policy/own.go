package policy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// listeners knows where fetchgate itself listens.
type listeners struct {
	own   func() []netip.AddrPort
	local func() ([]netip.Addr, error)
}

func newListeners(o Options) listeners {
	l := listeners{own: o.Own, local: o.Local}
	if l.own == nil {
		l.own = func() []netip.AddrPort { return nil }
	}
	if l.local == nil {
		l.local = interfaceAddrs
	}
	return l
}

// has reports whether a connection to a, which may be a loopback address, would
// arrive at a listener of fetchgate: it has the port of one, and its address is
// the listener's or any of this machine. To which address of the machine the
// listener is bound does not matter, since packet filters redirect.
func (l listeners) has(a netip.AddrPort, isLoopback bool) (bool, error) {
	addr := plain(a.Addr())
	samePort := false
	for _, own := range l.own() {
		if own.Port() != a.Port() {
			continue
		}
		if isLoopback || plain(own.Addr()) == addr {
			return true, nil
		}
		samePort = true
	}
	if !samePort {
		return false, nil
	}
	local, err := l.local()
	return slices.ContainsFunc(local, func(a netip.Addr) bool { return plain(a) == addr }), err
}

// plain returns a as it compares equal to other forms of the same address.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// interfaceAddrs asks the system each time, since addresses come and go.
func interfaceAddrs() ([]netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, n := range nets {
		p, err := netip.ParsePrefix(n.String())
		if err != nil {
			return nil, fmt.Errorf("interface address %s: %w", n, err)
		}
		addrs = append(addrs, p.Addr())
	}
	return addrs, nil
}
