package fetch

import (
	"net/netip"
	"strconv"
	"strings"
)

// Origin is a scheme, a host and a port (RFC 6454 section 4).
type Origin struct {
	Scheme string // "http" or "https"
	// Host is canonical: a lower-case A-label name without a final dot, or an
	// IP literal without brackets.
	Host string
	Port uint16
}

// Destination is where one hop goes.
type Destination struct {
	Origin
	// Target is the request target as it is sent, path and query (RFC 9112
	// section 3.2.1), or "*".
	Target string
	// Fragment is kept for the URL that is reported; it is never sent.
	Fragment string
	// Encoded tells that illegal bytes of the URL were percent-encoded.
	Encoded bool
}

func defaultPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// String returns the ASCII serialization of the origin (RFC 6454 section 6.2):
// "https://host", with the port unless it is the scheme's default. It is also
// how a Destination is printed, so that a query never is by accident.
func (o Origin) String() string {
	b := append(append(make([]byte, 0, shortURL), o.Scheme...), "://"...)
	return string(o.appendAuthority(b))
}

// shortURL is how long most URLs are at most: so much is put together without
// an allocation.
const shortURL = 128

// Authority returns the Host field or :authority of the origin: host and port,
// without the scheme's default port (RFC 9110 section 7.2).
func (o Origin) Authority() string { return string(o.appendAuthority(make([]byte, 0, shortURL))) }

// HostPort returns host and port, always with the port.
func (o Origin) HostPort() string { return string(o.appendHostPort(make([]byte, 0, shortURL))) }

func (o Origin) appendAuthority(b []byte) []byte {
	if o.Port == defaultPort(o.Scheme) {
		return o.appendHost(b)
	}
	return o.appendHostPort(b)
}

func (o Origin) appendHostPort(b []byte) []byte {
	return strconv.AppendUint(append(o.appendHost(b), ':'), uint64(o.Port), 10)
}

func (o Origin) appendHost(b []byte) []byte {
	if strings.Contains(o.Host, ":") {
		return append(append(append(b, '['), o.Host...), ']')
	}
	return append(b, o.Host...)
}

// Addr returns the address that the host is, and false if it is a name.
func (o Origin) Addr() (netip.Addr, bool) {
	addr, err := netip.ParseAddr(o.Host)
	return addr, err == nil
}

// URL returns the canonical URL with its fragment. The target "*" has no path
// to show (RFC 9110 section 7.1).
func (d Destination) URL() string { return string(d.appendURL(make([]byte, 0, shortURL))) }

func (d Destination) appendURL(b []byte) []byte {
	b = d.Origin.appendAuthority(append(append(b, d.Scheme...), "://"...))
	if d.Target != "*" {
		b = append(b, d.Target...)
	}
	if d.Fragment != "" {
		b = append(append(b, '#'), d.Fragment...)
	}
	return b
}

// RedactedURL is the URL for logs and messages: what a query holds is replaced
// by "[redacted]", and the fragment is left out, since both carry secrets.
func (d Destination) RedactedURL() string {
	u := d.Origin.String()
	if d.Target == "*" {
		return u
	}
	if d.RawQuery() == "" {
		return u + d.Target
	}
	return u + d.Path() + "?[redacted]"
}

// Path returns the target up to its query, as it is sent; or "*".
func (d Destination) Path() string {
	path, _, _ := strings.Cut(d.Target, "?")
	return path
}

// RawQuery returns what follows the first '?' of the target, as it is sent.
func (d Destination) RawQuery() string {
	_, query, _ := strings.Cut(d.Target, "?")
	return query
}
