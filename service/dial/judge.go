package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/iana"
)

// maxAddresses is how many addresses of one answer are kept.
const maxAddresses = 16

// judge returns the addresses of an answer that may be dialed, in its order and
// each once. All are judged, also those beyond maxAddresses, so that a decision
// does not depend on how the resolver turned its answer.
func judge(answer []netip.Addr, port uint16, name string, route fetch.Route) ([]netip.AddrPort, error) {
	var allowed []netip.AddrPort
	var denial error
	for _, a := range answer {
		to, err := judgeOne(a, port, name, route)
		switch {
		case err == nil:
			if len(allowed) < maxAddresses && !slices.Contains(allowed, to) {
				allowed = append(allowed, to)
			}
		case !route.FilterMixed:
			return nil, err
		case denial == nil:
			denial = err
		}
	}
	if len(allowed) == 0 {
		return nil, denial
	}
	return allowed, nil
}

// judgeOne returns where a connect to one address of an answer would go, and why
// it must not.
func judgeOne(a netip.Addr, port uint16, name string, route fetch.Route) (netip.AddrPort, error) {
	to := netip.AddrPortFrom(a.Unmap(), port)
	err := route.Allow(to)
	if err == nil && a.Zone() != "" {
		err = zoned(a, name)
	}
	return to, err
}

// Judge resolves host as Dial does and says of each address of the answer, in its
// order and each once, whether Dial would connect to it. It connects to none.
//
// The error is the one with which Dial would end before its first connect. A
// denial comes with the addresses, what else ends it without. An answer holds
// only for now: Dial asks and judges anew.
func (d *Dialer) Judge(ctx context.Context, host string, port uint16, route fetch.Route, timeout time.Duration) ([]fetch.JudgedAddress, error) {
	name := net.JoinHostPort(host, strconv.Itoa(int(port)))
	if route.Allow == nil {
		return nil, fail(fetch.ReasonInternalFault, "nothing judges the addresses of "+name, nil)
	}
	answer, _, err := d.resolve(ctx, host, name, timeout)
	if err != nil {
		return nil, err
	}
	judged := make([]fetch.JudgedAddress, 0, len(answer))
	seen := make(map[netip.AddrPort]bool, len(answer))
	for _, a := range answer {
		to, denial := judgeOne(a, port, name, route)
		if !seen[to] {
			seen[to] = true
			judged = append(judged, fetch.JudgedAddress{Address: to.Addr(), Denial: denial})
		}
	}
	_, err = judge(answer, port, name, route)
	return judged, err
}

// zoned denies an address that means something on one link only (RFC 4007
// section 6), even if policy has no objection.
func zoned(a netip.Addr, name string) *fetch.Denied {
	return &fetch.Denied{
		Reason:  fetch.ReasonAddressDenied,
		Message: name + " has an address that is valid on one network interface only",
		Hint:    "Give the host an address without a zone.",
		Audit:   fmt.Sprintf("%s: zoned address %s", name, a),
		Class:   iana.Special.String(),
	}
}

// interleave orders addresses so that the families take turns, beginning with
// the family of the first (RFC 8305 section 4).
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	first := make([]netip.AddrPort, 0, len(addrs))
	var second []netip.AddrPort
	for _, a := range addrs {
		if a.Addr().Is4() == addrs[0].Addr().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	turns := min(len(first), len(second))
	order := make([]netip.AddrPort, 0, len(addrs))
	for i := range turns {
		order = append(order, first[i], second[i])
	}
	return append(append(order, first[turns:]...), second[turns:]...)
}
