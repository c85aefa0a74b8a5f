package iana

import (
	"net/netip"
	"slices"
)

// assignment gives a class to every address of a prefix.
type assignment struct {
	prefix netip.Prefix
	class  Class
}

// ranges cuts the whole address space, IPv4 before IPv6, into runs of one
// class each: classes[i] holds from starts[i] up to the next start.
type ranges struct {
	starts  []netip.Addr // ascending; netip orders IPv4 before IPv6
	classes []Class
}

// newRanges cuts the space wherever a prefix begins or ends and asks classOf
// once for each run. The prefixes must cover both address families.
func newRanges(prefixes []netip.Prefix, classOf func(netip.Addr) Class) *ranges {
	var starts []netip.Addr
	for _, p := range prefixes {
		starts = append(starts, p.Addr())
		if next := last(p).Next(); next.IsValid() {
			starts = append(starts, next)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	r := &ranges{starts: slices.Compact(starts)}
	for _, a := range r.starts {
		r.classes = append(r.classes, classOf(a))
	}
	return r
}

// class looks up a, which must be valid and have no zone.
func (r *ranges) class(a netip.Addr) Class {
	i, found := slices.BinarySearchFunc(r.starts, a, netip.Addr.Compare)
	if !found {
		i-- // a lies inside the run that starts before it
	}
	return r.classes[i]
}

// mostSpecific returns the class of the longest prefix that contains a.
func mostSpecific(list []assignment, a netip.Addr) (class Class, found bool) {
	bits := -1
	for _, e := range list {
		if e.prefix.Bits() > bits && e.prefix.Contains(a) {
			bits, class = e.prefix.Bits(), e.class
		}
	}
	return class, bits >= 0
}

// last returns the last address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		fixed := min(max(p.Bits()-8*i, 0), 8) // bits of this byte that belong to the prefix
		b[i] |= 0xff >> fixed
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// within tells whether outer contains all of inner.
func within(inner, outer netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
