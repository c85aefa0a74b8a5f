package dial

import (
	"errors"
	"net/netip"
	"testing"
)

// FuzzControl gives what a socket says of itself: it may connect only where it
// was sent, over TCP, and if policy says so about that very address.
func FuzzControl(f *testing.F) {
	for _, address := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		for _, network := range []string{"tcp4", "tcp6", "tcp", "udp4", ""} {
			f.Add(address, network, address, true)
			f.Add(address, network, address, false)
		}
	}
	f.Add("192.0.2.1:443", "tcp6", "[::ffff:192.0.2.1]:443", true)
	f.Add("192.0.2.1:443", "tcp4", "192.0.2.1:0443", true)
	f.Add("192.0.2.1:443", "tcp4", "192.0.02.1:443", true)
	f.Add("192.0.2.1:443", "tcp4", "192.0.2.1:https", true)
	f.Add("[2001:db8::1]:443", "tcp6", "[2001:db8::1%eth0]:443", true)
	denial := errors.New("denied")
	f.Fuzz(func(t *testing.T, sent, network, address string, allowed bool) {
		to, err := netip.ParseAddrPort(sent)
		if err != nil {
			t.Skip()
		}
		var judged []netip.AddrPort
		g := guard{to: to, allow: func(a netip.AddrPort) error {
			judged = append(judged, a)
			if allowed {
				return nil
			}
			return denial
		}}
		err = g.control(network, address, nil)
		if !g.asked || !errors.Is(err, g.denial) {
			t.Fatalf("guard forgot that it said %v: %+v", err, g)
		}
		here, parseErr := netip.ParseAddrPort(address)
		right := parseErr == nil && here == to && (network == "tcp4" || network == "tcp6")
		if want := right && allowed; (err == nil) != want {
			t.Fatalf("%s %q instead of %s: %v, want leave %t", network, address, sent, err, want)
		}
		if right != (len(judged) == 1) || right && judged[0] != to {
			t.Fatalf("%s %q instead of %s: policy was asked about %v", network, address, sent, judged)
		}
	})
}

// A socket that was once denied stays so.
func TestDenialOfASocketIsFinal(t *testing.T) {
	denials := []error{errors.New("denied"), nil}
	to := netip.MustParseAddrPort("192.0.2.1:443")
	g := guard{to: to, allow: func(netip.AddrPort) error {
		d := denials[0]
		denials = denials[1:]
		return d
	}}
	for range 2 {
		if err := g.control("tcp4", to.String(), nil); err == nil {
			t.Error("control gave leave")
		}
	}
}
