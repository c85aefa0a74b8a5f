// Package iana reports what kind of address an IP is (special-purpose registries).
//
// An address is [Public] if IANA's special-purpose registries do not say that
// it is not globally reachable (RFC 6890, RFC 8190) and, for IPv6, if it lies
// in the global unicast space 2000::/3 (RFC 4291 section 2.4). Every other
// class names why it is not. Forms that carry an IPv4 address inside an IPv6
// one are either judged by that address (IPv4-mapped, NAT64) or never public
// (6to4, Teredo, ISATAP and the like, class [Tunnel]).
//
// The registries are embedded from data/, see data/SOURCE.
package iana

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Class is what kind of address an IP is. Its zero value is [Special], so that
// a class nobody set is never public.
type Class uint8

const (
	// Special is anything IANA does not call globally reachable and no other
	// class names: documentation, benchmarking, reserved and deprecated blocks.
	// Also an invalid address, and a public one with a zone.
	Special Class = iota
	// Public is a globally reachable unicast address.
	Public
	// Private is RFC 1918 space and IPv6 unique local space (RFC 4193).
	Private
	// Loopback is 127.0.0.0/8 and ::1, and the unspecified addresses 0.0.0.0
	// and ::, which a host connects to itself.
	Loopback
	// LinkLocal is 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291).
	LinkLocal
	// Multicast is 224.0.0.0/4 (RFC 5771) and ff00::/8 (RFC 4291).
	Multicast
	// Shared is carrier-grade NAT space, 100.64.0.0/10 (RFC 6598).
	Shared
	// Metadata is an address at which a cloud serves credentials or control to
	// its machines, see data/metadata.csv. It wins over every other class.
	Metadata
	// Tunnel is an IPv6 form that carries an IPv4 address which some router or
	// host would take out again: 6to4, Teredo, ISATAP, IPv4-compatible and
	// IPv4-translated.
	Tunnel
	// Outside is IPv6 outside 2000::/3 to which no other class applies.
	Outside
)

var classNames = [...]string{
	Special:   "special",
	Public:    "public",
	Private:   "private",
	Loopback:  "loopback",
	LinkLocal: "link_local",
	Multicast: "multicast",
	Shared:    "shared",
	Metadata:  "metadata",
	Tunnel:    "tunnel",
	Outside:   "outside",
}

// String returns the class as audit records and metric labels spell it. The
// words are a closed list and part of the interface.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// Table classifies addresses, given the NAT64 prefixes that are in use. It is
// immutable and safe for concurrent use. The zero Table knows no NAT64 prefix,
// not even the well-known one, so it calls every NAT64 address non-public.
type Table struct {
	nat64 []netip.Prefix // disjoint, each checked by checkNAT64
}

var defaultTable = &Table{nat64: []netip.Prefix{wellKnownNAT64}}

// Default returns the table that knows only the well-known NAT64 prefix
// 64:ff9b::/96 (RFC 6052 section 2.1).
func Default() *Table { return defaultTable }

// Classify reports the class of a according to [Default].
func Classify(a netip.Addr) Class { return defaultTable.Classify(a) }

// Classify reports the class of a. It does not allocate.
//
// An IPv4-mapped address is judged as its IPv4 address, and so is an address
// in a NAT64 prefix of the table: NAT64 of 8.8.8.8 is [Public], of 10.0.0.1
// [Private]. An address in a NAT64 prefix whose reserved bits are not zero
// (RFC 6052 section 2.2) is never public, and neither is one with a zone.
func (t *Table) Classify(a netip.Addr) Class {
	if !a.IsValid() {
		return Special
	}
	c := t.classify(a.WithZone("").Unmap())
	if c == Public && a.Zone() != "" {
		return Special
	}
	return c
}

func (t *Table) classify(a netip.Addr) Class {
	own := registries().class(a)
	if a.Is4() || own == Metadata {
		return own
	}
	for _, p := range t.nat64 {
		if p.Contains(a) {
			return translated(a, p)
		}
	}
	if own != Multicast && isISATAP(a) {
		return Tunnel
	}
	return own
}

// translated classifies a, which lies in the NAT64 prefix p, by the IPv4
// address that a translator would send to.
func translated(a netip.Addr, p netip.Prefix) Class {
	v4, wellFormed := extract(a, p)
	c := registries().class(v4)
	if c == Public && !wellFormed {
		return Special
	}
	return c
}

// isISATAP tells whether a has an ISATAP interface identifier, ::0:5efe:a.b.c.d
// or ::200:5efe:a.b.c.d (RFC 5214 section 6.1), which any prefix can precede.
func isISATAP(a netip.Addr) bool {
	const universal = 0x0200_0000 // the u bit: set if the IPv4 address is globally unique
	b := a.As16()
	return binary.BigEndian.Uint32(b[8:])&^universal == 0x0000_5efe
}
