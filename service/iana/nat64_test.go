package iana

import (
	"net/netip"
	"strings"
	"testing"
)

// TestExtract holds the decoding against the examples of RFC 6052 section 2.4.
func TestExtract(t *testing.T) {
	want := netip.MustParseAddr("192.0.2.33")
	for prefix, text := range map[string]string{
		"2001:db8::/32":         "2001:db8:c000:221::",
		"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":          "64:ff9b::192.0.2.33",
	} {
		got, wellFormed := extract(netip.MustParseAddr(text), netip.MustParsePrefix(prefix))
		if got != want || !wellFormed {
			t.Errorf("%s in %s: %v, well-formed %v; want %v", text, prefix, got, wellFormed, want)
		}
	}
}

func TestDeclaredNAT64(t *testing.T) {
	// Each prefix with its addresses of 8.8.4.4, 10.1.2.3, 127.0.0.1 and 169.254.169.254.
	forms := map[string][4]string{
		"2001:db8::/32":           {"2001:db8:808:404::", "2001:db8:a01:203::", "2001:db8:7f00:1::", "2001:db8:a9fe:a9fe::"},
		"2001:db8:100::/40":       {"2001:db8:108:804:4::", "2001:db8:10a:102:3::", "2001:db8:17f:0:1::", "2001:db8:1a9:fea9:fe::"},
		"2001:db8:122::/48":       {"2001:db8:122:808:4:400::", "2001:db8:122:a01:2:300::", "2001:db8:122:7f00:0:100::", "2001:db8:122:a9fe:a9:fe00::"},
		"2001:db8:122:300::/56":   {"2001:db8:122:308:8:404::", "2001:db8:122:30a:1:203::", "2001:db8:122:37f:0:1::", "2001:db8:122:3a9:fe:a9fe::"},
		"2001:db8:122:344::/64":   {"2001:db8:122:344:8:804:400::", "2001:db8:122:344:a:102:300::", "2001:db8:122:344:7f:0:100::", "2001:db8:122:344:a9:fea9:fe00::"},
		"2001:db8:122:344::/96":   {"2001:db8:122:344::8.8.4.4", "2001:db8:122:344::10.1.2.3", "2001:db8:122:344::127.0.0.1", "2001:db8:122:344::169.254.169.254"},
		"64:ff9b:1::/48":          {"64:ff9b:1:808:4:400::", "64:ff9b:1:a01:2:300::", "64:ff9b:1:7f00:0:100::", "64:ff9b:1:a9fe:a9:fe00::"},
		"64:ff9b:1:fffe::/96":     {"64:ff9b:1:fffe::8.8.4.4", "64:ff9b:1:fffe::10.1.2.3", "64:ff9b:1:fffe::127.0.0.1", "64:ff9b:1:fffe::169.254.169.254"},
		"fd00:64:0:100::/56":      {"fd00:64:0:108:8:404::", "fd00:64:0:10a:1:203::", "fd00:64:0:17f:0:1::", "fd00:64:0:1a9:fe:a9fe::"},
		"2a00:1098:2b:0:0:1::/96": {"2a00:1098:2b::1:808:404", "2a00:1098:2b::1:a01:203", "2a00:1098:2b::1:7f00:1", "2a00:1098:2b::1:a9fe:a9fe"},
	}
	want := [4]Class{Public, Private, Loopback, Metadata}
	for prefix, addresses := range forms {
		table, err := New(netip.MustParsePrefix(prefix))
		if err != nil {
			t.Errorf("%s: %v", prefix, err)
			continue
		}
		for i, text := range addresses {
			if got := table.Classify(netip.MustParseAddr(text)); got != want[i] {
				t.Errorf("%s in %s is %v, want %v", text, prefix, got, want[i])
			}
		}
		if got := table.Classify(netip.MustParseAddr("64:ff9b::8.8.8.8")); got != Public {
			t.Errorf("beside %s, the well-known prefix is %v", prefix, got)
		}
	}
}

func TestMalformedNAT64IsNeverPublic(t *testing.T) {
	table, err := New(netip.MustParsePrefix("2001:db8:122::/48"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]Class{
		"2001:db8:122:808:8:800::":    Public,
		"2001:db8:122:808:108:800::":  Special, // bits 64 to 71
		"2001:db8:122:808:8:801::":    Special, // the suffix's first byte
		"2001:db8:122:808:8:800::1":   Special, // its last
		"2001:db8:122:a9fe:a9:fe00::": Metadata,
		"2001:db8:122:a9fe:a9:fe01::": Metadata, // a translator that ignores the suffix would send it there
	} {
		if got := table.Classify(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	parse := netip.MustParsePrefix
	for _, test := range []struct {
		prefixes []netip.Prefix
		why      string
	}{
		{[]netip.Prefix{{}}, "not an IPv6 prefix"},
		{[]netip.Prefix{parse("10.0.0.0/32")}, "not an IPv6 prefix"},
		{[]netip.Prefix{parse("2001:db8::/33")}, "length must be one of"},
		{[]netip.Prefix{parse("::/0")}, "length must be one of"},
		{[]netip.Prefix{parse("2001:db8::1/96")}, "did you mean 2001:db8::/96?"},
		{[]netip.Prefix{parse("2001:db8:0:0:100::/96")}, "bits 64 to 71"},
		{[]netip.Prefix{parse("::ffff:0:0/96")}, "must lie in one of"},
		{[]netip.Prefix{parse("64:ff9b::/48")}, "must lie in one of"},
		{[]netip.Prefix{parse("fe80::/64")}, "must lie in one of"},
		{[]netip.Prefix{parse("ff00::/32")}, "must lie in one of"},
		{[]netip.Prefix{parse("2002:808:808::/48")}, "6to4 or Teredo"},
		{[]netip.Prefix{parse("2001::/32")}, "6to4 or Teredo"},
		{[]netip.Prefix{parse("2001:db8::/32"), parse("2001:db8:1::/48")}, "overlaps 2001:db8::/32"},
		{[]netip.Prefix{parse("fd00::/96"), parse("fd00::/96")}, "overlaps fd00::/96"},
	} {
		_, err := New(test.prefixes...)
		if err == nil || !strings.Contains(err.Error(), test.why) || !strings.HasPrefix(err.Error(), "NAT64 prefix ") {
			t.Errorf("New(%v): %v, want an error that says %q", test.prefixes, err, test.why)
		}
	}
	if _, err := New(parse("64:ff9b::/96")); err != nil {
		t.Errorf("the well-known prefix repeated: %v", err)
	}
}
