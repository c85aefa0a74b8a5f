package iana

import (
	"fmt"
	"net/netip"
	"slices"
)

// wellKnownNAT64 is the prefix every NAT64 may use (RFC 6052 section 2.1).
var wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")

// nat64Homes is where a network can have a NAT64 prefix of its own: in space
// that is its to number, or in the block for local translation (RFC 8215).
var nat64Homes = []netip.Prefix{
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2000::/3"),
	netip.MustParsePrefix("fc00::/7"),
}

// nat64Lengths are the prefix lengths of RFC 6052 section 2.2.
var nat64Lengths = []int{32, 40, 48, 56, 64, 96}

// New returns a table that knows the well-known NAT64 prefix and the given
// ones: the network-specific prefixes under which the network's own NAT64
// translates. Order does not matter; the well-known prefix may be repeated.
//
// A prefix must be 32, 40, 48, 56, 64 or 96 bits long with nothing set beyond
// its length, have bits 64 to 71 zero (all RFC 6052 section 2.2), lie in
// 2000::/3, fc00::/7 or 64:ff9b:1::/48, be neither 6to4 nor Teredo space, and
// overlap no other. Otherwise the error names the prefix and what to change.
func New(nat64 ...netip.Prefix) (*Table, error) {
	known := []netip.Prefix{wellKnownNAT64}
	for _, p := range nat64 {
		if p == wellKnownNAT64 {
			continue
		}
		if err := checkNAT64(p); err != nil {
			return nil, fmt.Errorf("NAT64 prefix %v: %w", p, err)
		}
		if i := slices.IndexFunc(known, p.Overlaps); i >= 0 {
			return nil, fmt.Errorf("NAT64 prefix %v: overlaps %v; list each address once", p, known[i])
		}
		known = append(known, p)
	}
	return &Table{nat64: known}, nil
}

func checkNAT64(p netip.Prefix) error {
	base := p.Addr()
	switch {
	case !p.IsValid() || !base.Is6():
		return fmt.Errorf("not an IPv6 prefix")
	case !slices.Contains(nat64Lengths, p.Bits()):
		return fmt.Errorf("the length must be one of %v (RFC 6052 section 2.2)", nat64Lengths)
	case p != p.Masked():
		return fmt.Errorf("bits are set beyond the length; did you mean %v?", p.Masked())
	case base.As16()[8] != 0:
		return fmt.Errorf("bits 64 to 71 must be zero (RFC 6052 section 2.2)")
	case !slices.ContainsFunc(nat64Homes, func(home netip.Prefix) bool { return within(p, home) }):
		return fmt.Errorf("must lie in one of %v", nat64Homes)
	case registries().class(base) == Tunnel:
		return fmt.Errorf("is 6to4 or Teredo space, which NAT64 cannot use")
	}
	return nil
}

// extract takes the IPv4 address out of a, which lies in the NAT64 prefix p:
// the 32 bits after the prefix, skipping bits 64 to 71. wellFormed tells
// whether those bits and the ones after the IPv4 address are zero, as RFC 6052
// section 2.2 wants. A translator may well ignore them, so the address counts
// either way.
func extract(a netip.Addr, p netip.Prefix) (v4 netip.Addr, wellFormed bool) {
	const reserved = 8 // the byte of bits 64 to 71
	b := a.As16()
	wellFormed = b[reserved] == 0
	at := p.Bits() / 8
	var octets [4]byte
	for i := range octets {
		if at == reserved {
			at++
		}
		octets[i] = b[at]
		at++
	}
	for _, suffix := range b[at:] {
		wellFormed = wellFormed && suffix == 0
	}
	return netip.AddrFrom4(octets), wellFormed
}
