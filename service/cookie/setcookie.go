package cookie

import (
	"bytes"
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// setCookie is what a Set-Cookie field says (RFC 6265 section 5.2). Of an
// attribute that is repeated the last counts.
type setCookie struct {
	name, value      []byte
	domain           string // in lower case, without a dot in front
	path             []byte // empty without a Path that begins with "/"
	secure, httpOnly bool
	sameSite         string
	expires, maxAge  time.Time // when the cookie ends by each; zero without
}

// parse reads the value of a Set-Cookie field that came at now. The name is
// empty if the field is to be ignored. The result has no bytes of field.
func parse(field []byte, now time.Time) setCookie {
	var s setCookie
	if indexControl(field) >= 0 {
		return s
	}
	pair, attributes, _ := bytes.Cut(field, []byte{';'})
	name, value, hasValue := bytes.Cut(pair, []byte{'='})
	name, value = trim(name), trim(value)
	if !hasValue || len(name)+len(value) > MaxPairBytes {
		return s
	}
	s.name, s.value = bytes.Clone(name), bytes.Clone(value)
	for attribute := range bytes.SplitSeq(attributes, []byte{';'}) {
		name, value, _ := bytes.Cut(attribute, []byte{'='})
		if value = trim(value); len(value) <= MaxAttributeBytes {
			s.setAttribute(lower(trim(name)), value, now)
		}
	}
	return s
}

// setAttribute follows RFC 6265 sections 5.2.1 to 5.2.6 and, for SameSite,
// RFC 6265bis section 5.6.7.
func (s *setCookie) setAttribute(name string, value []byte, now time.Time) {
	switch name {
	case "expires":
		if t, ok := parseDate(value); ok {
			s.expires = t
		}
	case "max-age":
		if t, ok := parseMaxAge(value, now); ok {
			s.maxAge = t
		}
	case "domain":
		if len(value) > 0 {
			s.domain = strings.TrimPrefix(lower(value), ".")
		}
	case "path":
		s.path = nil
		if len(value) > 0 && value[0] == '/' {
			s.path = bytes.Clone(value)
		}
	case "secure":
		s.secure = true
	case "httponly":
		s.httpOnly = true
	case "samesite":
		s.sameSite = sameSites[lower(value)]
	}
}

var sameSites = map[string]string{"none": "None", "lax": "Lax", "strict": "Strict"}

// maxAgeSeconds is the longest Max-Age that a time.Duration holds, 292 years.
const maxAgeSeconds = math.MaxInt64 / int64(time.Second)

// parseMaxAge returns when a cookie that came at now ends by its Max-Age
// (RFC 6265 section 5.2.2); it is over at once if that is not positive.
func parseMaxAge(value []byte, now time.Time) (time.Time, bool) {
	digits, _ := bytes.CutPrefix(value, []byte{'-'})
	if len(digits) == 0 || len(bytes.Trim(digits, "0123456789")) > 0 {
		return time.Time{}, false
	}
	// Out of range, it is the nearest number that is in it.
	seconds, _ := strconv.ParseInt(string(value), 10, 64)
	seconds = min(max(seconds, 0), maxAgeSeconds)
	return now.Add(time.Duration(seconds) * time.Second), true
}

// cookie returns the cookie that from may set by s, and false if it may not
// (RFC 6265 section 5.3 and RFC 6265bis section 5.7).
func (s setCookie) cookie(from fetch.Destination) (fetch.Cookie, bool) {
	hostOnly, ok := scope(s.domain, from.Host)
	if !ok || len(s.name) == 0 || s.secure && from.Scheme != "https" || !s.keepsPrefix(hostOnly) {
		return fetch.Cookie{}, false
	}
	path := s.path
	if path == nil {
		path = defaultPath(requestPath(from))
	}
	expires := s.maxAge
	if expires.IsZero() {
		expires = s.expires
	}
	return fetch.Cookie{
		Name: s.name, Value: s.value,
		Domain: cmp.Or(s.domain, from.Host), Path: path, HostOnly: hostOnly,
		Secure: s.secure, HTTPOnly: s.httpOnly,
		Expires: expires, SameSite: s.sameSite,
	}, len(path) <= MaxAttributeBytes
}

// keepsPrefix reports whether s is what the prefix of its name promises
// (RFC 6265bis section 5.7).
func (s setCookie) keepsPrefix(hostOnly bool) bool {
	name := lower(s.name)
	switch {
	case strings.HasPrefix(name, "__secure-"):
		return s.secure
	case strings.HasPrefix(name, "__host-"):
		return s.secure && hostOnly && string(s.path) == "/"
	}
	return true
}
