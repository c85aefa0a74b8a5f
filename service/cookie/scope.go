package cookie

import (
	"bytes"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
	"golang.org/x/net/publicsuffix"
)

// scope tells what host may do with a cookie for domain: nothing (ok is false),
// or keep it for itself alone (hostOnly) or for all of domain (RFC 6265 section
// 5.3, steps 4 to 6). To the list an address is a public suffix of its own, so
// that its cookies are always host-only.
func scope(domain, host string) (hostOnly, ok bool) {
	if domain == "" {
		return true, true
	}
	if domain == host {
		suffix, _ := publicsuffix.PublicSuffix(host)
		return suffix == host, true
	}
	return false, reaches(domain, host)
}

// reaches reports whether the cookies of domain that are not host-only go to
// host: it domain-matches, and domain is longer than the public suffix of host.
// To ask the list about domain itself would not do: the rule *.kawasaki.jp makes
// each x.kawasaki.jp a public suffix, but not kawasaki.jp.
func reaches(domain, host string) bool {
	if domain == host {
		return true
	}
	suffix, _ := publicsuffix.PublicSuffix(host)
	return domainMatch(host, domain) && len(domain) > len(suffix)
}

// goesTo reports whether c is sent to a destination with this path (RFC 6265
// section 5.4, step 1).
func goesTo(c fetch.Cookie, to fetch.Destination, path []byte) bool {
	if c.Secure && to.Scheme != "https" || c.HostOnly && c.Domain != to.Host {
		return false
	}
	return reaches(c.Domain, to.Host) && pathMatch(path, c.Path)
}

// domainMatch is RFC 6265 section 5.1.3 for canonical names.
func domainMatch(host, domain string) bool {
	return host == domain || domain != "" && strings.HasSuffix(host, "."+domain)
}

// pathMatch is RFC 6265 section 5.1.4. Paths are compared as they are sent.
func pathMatch(path, cookiePath []byte) bool {
	rest, isPrefix := bytes.CutPrefix(path, cookiePath)
	return isPrefix && (len(rest) == 0 || rest[0] == '/' || bytes.HasSuffix(cookiePath, []byte{'/'}))
}

// requestPath returns the path of d, which for the target "*" is "/".
func requestPath(d fetch.Destination) []byte {
	if path := d.Path(); strings.HasPrefix(path, "/") {
		return []byte(path)
	}
	return []byte{'/'}
}

// defaultPath is RFC 6265 section 5.1.4: the path up to its last '/'.
func defaultPath(path []byte) []byte {
	return path[:max(bytes.LastIndexByte(path, '/'), 1)]
}
