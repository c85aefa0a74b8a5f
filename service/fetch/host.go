package fetch

import (
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

func parseHost(text string) (string, error) {
	if inner, isLiteral := strings.CutPrefix(text, "["); isLiteral {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", invalidURL("host", "the host %s is not an IPv6 address without a zone in brackets", quoted(text))
		}
		// ::ffff:0:0/96 is another spelling of IPv4 addresses (RFC 4291 section
		// 2.5.5.2); rules know one.
		return addr.Unmap().String(), nil
	}
	name, err := parseName(lowerASCII(strings.TrimSuffix(text, ".")))
	if err != nil {
		return "", err
	}
	if !endsInNumber(name) {
		return name, nil
	}
	// A name without a colon that netip takes is dotted-decimal, and canonical.
	if _, err := netip.ParseAddr(name); err != nil {
		return "", invalidURL("host",
			"the host %s ends in a number but is not an IPv4 address; write four decimal numbers without leading zeros", quoted(name))
	}
	return name, nil
}

// parseName checks a lower-case DNS name without its final dot and returns it
// in A-labels.
func parseName(name string) (string, error) {
	if name == "" {
		return "", invalidURL("host", "the URL has no host")
	}
	international := strings.HasPrefix(name, "xn--") || strings.Contains(name, ".xn--")
	for i := range len(name) {
		if name[i] >= 0x80 {
			international = true
		} else if !inHost[name[i]] {
			// What follows may be a query that lacks its '?', and secret.
			return "", invalidURL("host",
				"the host, which begins with %s, has the character %q; only letters, digits, '-', '_' and '.' are taken, and no percent-encoding", quoted(name[:i]), name[i])
		}
	}
	// A code point has at most four bytes and takes at least one in an A-label,
	// so a longer name need not be converted to be too long.
	if international && len(name) <= 4*maxNameBytes {
		ascii, ok := toALabels(name)
		if !ok {
			return "", invalidURL("host",
				"the host %s is not a canonical internationalized name (RFC 5891); write lower-case letters, or exact A-labels (xn--)", quoted(name))
		}
		name = ascii
	}
	return name, checkLabels(name)
}

// toALabels converts an internationalized name, and reports whether it was
// valid and each label is exactly the A-label or the U-label of the result. The
// profile maps nothing, so a name that only looks like another never becomes
// it; the comparison holds that whatever the profile does. STD 3, which the
// profile enforces, also refuses underscores in the labels beside it.
func toALabels(name string) (string, bool) {
	ascii, err := idna.Registration.ToASCII(name)
	if err != nil {
		return "", false
	}
	unicode, err := idna.Registration.ToUnicode(ascii)
	given, a, u := strings.Split(name, "."), strings.Split(ascii, "."), strings.Split(unicode, ".")
	ok := err == nil && len(given) == len(a) && len(given) == len(u)
	for i := 0; ok && i < len(given); i++ {
		ok = given[i] == a[i] || given[i] == u[i]
	}
	return ascii, ok
}

// checkLabels holds RFC 1123 section 2.1, but for underscores, which real
// hosts have. Two hyphens in the third place ("r3---sn") are in use as well.
func checkLabels(name string) error {
	if len(name) > maxNameBytes {
		return invalidURL("host", "the host %s is longer than %d bytes", quoted(name), maxNameBytes)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return invalidURL("host", "the host %s has an empty label; leave out the doubled dot", quoted(name))
		case len(label) > maxLabelBytes:
			return invalidURL("host", "the host %s has a label of more than %d bytes", quoted(name), maxLabelBytes)
		case label[0] == '-' || label[len(label)-1] == '-':
			return invalidURL("host", "the host %s has a label that begins or ends with a hyphen", quoted(name))
		}
	}
	return nil
}

// endsInNumber is the URL Standard's "ends in a number checker" for a
// lower-case name: the last label is decimal or, after 0x, hexadecimal.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return hexDigits.outside(hex) < 0
	}
	return strings.Trim(last, digits) == ""
}
