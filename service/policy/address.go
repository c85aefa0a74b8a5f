package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/iana"
)

// publicProfile is the profile of a rule that opens and closes nothing.
const publicProfile = "public"

// classDenied is the class of addresses that deny_addresses lists.
const classDenied = "denied_range"

// opened is what a rule opens beside public addresses, and what it closes.
type opened struct {
	loopback bool           // dangerous_allow_loopback
	metadata bool           // dangerous_allow_metadata
	own      bool           // dangerous_allow_own_listeners
	prefixes []netip.Prefix // in order, each once
	closed   []netip.Prefix // the same
	profile  string
}

func compileOpened(path string, in *configv1.Rule, table *iana.Table, f *faults) opened {
	o := opened{
		loopback: in.GetDangerousAllowLoopback(),
		metadata: in.GetDangerousAllowMetadata(),
		own:      in.GetDangerousAllowOwnListeners(),
		prefixes: compilePrefixes(path+".allow_addresses", in.GetAllowAddresses(), table, f),
		closed:   compilePrefixes(path+".deny_addresses", in.GetDenyAddresses(), table, f),
	}
	o.profile = o.describe()
	return o
}

// compilePrefixes returns the ranges of a list in order, each once.
func compilePrefixes(path string, in []string, table *iana.Table, f *faults) []netip.Prefix {
	var prefixes []netip.Prefix
	for i, text := range in {
		prefix, err := parsePrefix(text, table)
		if err != nil {
			f.add(path+"["+strconv.Itoa(i)+"]", "%v", err)
			continue
		}
		prefixes = append(prefixes, prefix)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// parsePrefix reads an entry of allow_addresses or deny_addresses. It takes one spelling of each
// prefix only, and none that opens everything: an IPv4-mapped one could be read
// as 0.0.0.0/0.
func parsePrefix(text string, table *iana.Table) (netip.Prefix, error) {
	cidr := text
	if addr, err := netip.ParseAddr(text); err == nil {
		cidr = fmt.Sprintf("%s/%d", text, addr.BitLen())
	}
	p, err := netip.ParsePrefix(cidr)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%.100q is neither a range such as 10.1.0.0/16 nor one address without a zone", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is an IPv4-mapped form; write the IPv4 range itself", text)
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("%s is every address; name the networks that are meant", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits set beyond its length; write %s or %s/%d", text, p.Masked(), p.Addr(), p.Addr().BitLen())
	case wellKnownNAT64.Contains(p.Addr()):
		return netip.Prefix{}, errors.New("an address in 64:ff9b::/96 is judged by the IPv4 address inside; write the IPv4 range")
	case carriesIPv4(p.Addr(), table.Classify(p.Addr())):
		return netip.Prefix{}, fmt.Errorf("%s leads to IPv4 addresses that are not judged, so it is never dialed; write the IPv4 range", text)
	}
	return p, nil
}

// describe returns the address profile: by content, and not to be guessed from
// another.
func (o *opened) describe() string {
	profile := publicProfile
	if o.loopback {
		profile += "+loopback"
	}
	if o.metadata {
		profile += "+metadata"
	}
	if o.own {
		profile += "+own"
	}
	if len(o.prefixes) > 0 {
		profile += "+" + digestOf(o.prefixes)
	}
	if len(o.closed) > 0 {
		profile += "-" + digestOf(o.closed)
	}
	return profile
}

func digestOf(prefixes []netip.Prefix) string {
	digest := sha256.New()
	for _, p := range prefixes {
		fmt.Fprintln(digest, p)
	}
	return hex.EncodeToString(digest.Sum(nil)[:16])
}

// denies reports whether the rule closes addr, an address that is reached.
func (o *opened) denies(addr netip.Addr) bool {
	return slices.ContainsFunc(o.closed, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// has reports whether the rule opens addr, which is of class.
func (o *opened) has(addr netip.Addr, class iana.Class) bool {
	if carriesIPv4(addr, class) {
		return false
	}
	return slices.ContainsFunc(o.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// carriesIPv4 tells whether a network may lead from addr, which is of class, to
// an IPv4 address inside it that nobody has judged: a metadata service, or
// fetchgate itself. No rule opens such addresses.
func carriesIPv4(addr netip.Addr, class iana.Class) bool {
	return class == iana.Tunnel || class == iana.Special && localNAT64.Contains(addr)
}

// localNAT64 is the prefix of RFC 8215 for NAT64 of a network's own.
var localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")

// wellKnownNAT64 is the prefix of RFC 6052 section 2.1.
var wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")

// reached returns the address at which a connection to a arrives: the IPv4
// address inside, if a is IPv4-mapped or in the well-known NAT64 prefix.
func reached(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !wellKnownNAT64.Contains(a) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// judge says why a hop that r allows by name must not go to an address, or nil.
// A dangerous_ key of r opens what it is for and nothing beside: an own listener
// at a loopback address needs the key for that too.
func (p *Policy) judge(r *rule, t target, to netip.AddrPort) *fetch.Denied {
	addr := reached(to.Addr())
	class := p.table.Classify(to.Addr())
	isOwn, err := p.isOwn(to, class)
	switch {
	case class == iana.Metadata && !r.opened.metadata:
		return r.denyAddress(t, to, class.String(), r.hintMetadata())
	case (isOwn || err != nil) && !r.opened.own:
		denied := r.denyAddress(t, to, ClassOwn, r.hintOwn())
		if err != nil {
			denied.Audit += "; the addresses of this machine are not known: " + err.Error()
		}
		return denied
	case r.opened.denies(addr):
		return r.denyAddress(t, to, classDenied, "Ask "+r.whom()+" whether the address is meant to be closed.")
	case class == iana.Public:
		return nil
	case class == iana.Loopback && r.opened.loopback:
		return nil
	case class == iana.Loopback:
		return r.denyAddress(t, to, class.String(),
			"Ask "+r.whom()+" for a rule with dangerous_allow_loopback, if the upstream runs beside fetchgate.")
	case r.opened.has(addr, class):
		return nil
	case class == iana.Metadata:
		return r.denyAddress(t, to, class.String(), r.hintMetadata())
	}
	hint := "Check the host's DNS records; for an internal service ask "
	if t.isLiteral() {
		hint = "For an internal service ask "
	}
	return r.denyAddress(t, to, class.String(), hint+r.whom()+" for a rule with allow_addresses.")
}

// isOwn reports whether a connection to an address of class would arrive at a
// listener of fetchgate. The error tells that nobody knows.
func (p *Policy) isOwn(to netip.AddrPort, class iana.Class) (bool, error) {
	return p.listeners.has(netip.AddrPortFrom(reached(to.Addr()), to.Port()), class == iana.Loopback)
}
