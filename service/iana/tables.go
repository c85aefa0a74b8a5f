package iana

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

//go:embed data/iana-ipv4-special-registry-1.csv
var registry4 string

//go:embed data/iana-ipv6-special-registry-1.csv
var registry6 string

//go:embed data/metadata.csv
var metadataTable string

var (
	allIPv4       = netip.MustParsePrefix("0.0.0.0/0")
	allIPv6       = netip.MustParsePrefix("::/0")
	globalUnicast = netip.MustParsePrefix("2000::/3") // RFC 4291 section 2.4
)

// named are the blocks with a class of their own. None is public, and none can
// become public by what a registry says of a block inside it.
var named = []assignment{
	{netip.MustParsePrefix("10.0.0.0/8"), Private},     // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), Private},  // RFC 1918
	{netip.MustParsePrefix("192.168.0.0/16"), Private}, // RFC 1918
	{netip.MustParsePrefix("fc00::/7"), Private},       // RFC 4193

	{netip.MustParsePrefix("127.0.0.0/8"), Loopback}, // RFC 1122 section 3.2.1.3
	{netip.MustParsePrefix("::1/128"), Loopback},     // RFC 4291 section 2.5.3
	{netip.MustParsePrefix("0.0.0.0/32"), Loopback},  // connecting to it reaches the host itself
	{netip.MustParsePrefix("::/128"), Loopback},      // likewise

	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal}, // RFC 3927
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},      // RFC 4291 section 2.5.6
	{netip.MustParsePrefix("224.0.0.0/4"), Multicast},    // RFC 5771
	{netip.MustParsePrefix("ff00::/8"), Multicast},       // RFC 4291 section 2.7
	{netip.MustParsePrefix("100.64.0.0/10"), Shared},     // RFC 6598

	{netip.MustParsePrefix("::/96"), Tunnel},           // IPv4-compatible, RFC 4291 section 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0:0/96"), Tunnel}, // IPv4-translated (SIIT), RFC 2765 section 2.1
	{netip.MustParsePrefix("2001::/32"), Tunnel},       // Teredo, RFC 4380 section 2.6
	{netip.MustParsePrefix("2002::/16"), Tunnel},       // 6to4, RFC 3056 section 2
}

// registries returns the classes of the whole address space, read once. It
// panics if the embedded data does not parse, which no input can cause.
var registries = sync.OnceValue(func() *ranges {
	fixed := append(metadataAddresses(), named...)
	registered := []assignment{{allIPv4, Public}, {allIPv6, Outside}, {globalUnicast, Public}}
	for _, text := range []string{registry4, registry6} {
		blocks, err := ReadRegistry(strings.NewReader(text))
		if err != nil {
			panic(fmt.Sprintf("iana: embedded %v", err))
		}
		for _, b := range blocks {
			registered = append(registered, assignment{b.Prefix, registeredClass(b)})
		}
	}
	var prefixes []netip.Prefix
	for _, list := range [][]assignment{fixed, registered} {
		for _, e := range list {
			prefixes = append(prefixes, e.prefix)
		}
	}
	return newRanges(prefixes, func(a netip.Addr) Class {
		if c, ok := mostSpecific(fixed, a); ok {
			return c
		}
		c, _ := mostSpecific(registered, a)
		return c
	})
})

// registeredClass is what a registry row alone makes of its block. To be
// globally reachable is not enough outside the global unicast space: of such
// blocks only 64:ff9b::/96 is known, and that is judged by its IPv4 addresses.
func registeredClass(b Block) Class {
	switch {
	case !b.Global:
		return Special
	case b.Prefix.Addr().Is4() || within(b.Prefix, globalUnicast):
		return Public
	default:
		return Outside
	}
}

// metadataAddresses reads data/metadata.csv: address, who uses it, source.
func metadataAddresses() []assignment {
	rows, err := csv.NewReader(strings.NewReader(metadataTable)).ReadAll()
	if err != nil {
		panic(fmt.Sprintf("iana: embedded metadata table: %v", err))
	}
	var list []assignment
	for _, row := range rows[1:] {
		a := netip.MustParseAddr(row[0])
		list = append(list, assignment{netip.PrefixFrom(a, a.BitLen()), Metadata})
	}
	return list
}
