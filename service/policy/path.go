package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxPathBytes is the longest path of a rule.
const maxPathBytes = 1024

// pathPattern is what a rule says of paths: segments, of which "{name}" stands for any
// one that is not empty, and below everything that begins so.
type pathPattern struct {
	segments []string // anySegment is "{name}"
	below    bool     // "/*" follows
}

// anySegment stands for "{name}" in the segments of a path. No segment is like
// this.
const anySegment = "/"

// parsePath reads "/v1/items", "/v1/items/{id}" or "/v1/*". It returns every
// form in which the path may stand in a target: percent-encoded and not.
func parsePath(text string) ([]pathPattern, error) {
	switch {
	case len(text) > maxPathBytes:
		return nil, fmt.Errorf("the path is longer than %d bytes", maxPathBytes)
	case !strings.HasPrefix(text, "/"):
		return nil, fmt.Errorf(`%.100q is not a path; write it like "/v1/items", "/v1/items/{id}" or "/v1/*"`, text)
	case strings.ContainsAny(text, "?#"):
		return nil, errors.New("a path has no query and no fragment; leave out what follows, and use the key query for parameters")
	case strings.ContainsAny(text, `\;`) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, errors.New(`a path that servers read in different ways matches nothing: leave out '\', ';' and control characters`)
	}
	inner, below := strings.CutSuffix(text, "/*")
	if inner == "" && below {
		return []pathPattern{{below: true}}, nil
	}
	written := pathPattern{segments: strings.Split(inner[1:], "/"), below: below}
	for i, s := range written.segments {
		isLast := i == len(written.segments)-1
		switch {
		case len(s) > 2 && s[0] == '{' && s[len(s)-1] == '}' && !strings.ContainsAny(s[1:len(s)-1], "{}*"):
			written.segments[i] = anySegment
		case strings.ContainsAny(s, "{}*"):
			return nil, fmt.Errorf(`%.100q: "{name}" stands for a whole segment and "*" for all that follows the last '/'; nothing else does`, s)
		case s == "" && (!isLast || below):
			return nil, errors.New("a path that servers read in different ways matches nothing: write one '/' between two segments")
		case isDots(decoded(s)) || strings.ContainsAny(decoded(s), `/\;%`) || isUnreadable(s):
			return nil, fmt.Errorf("%.100q: a path that servers read in different ways matches nothing; write the segments that are meant", s)
		}
	}
	forms := []pathPattern{written}
	for _, form := range []func(string) string{decoded, encoded} {
		other := pathPattern{segments: make([]string, len(written.segments)), below: below}
		for i, s := range written.segments {
			other.segments[i] = s
			if s != anySegment {
				other.segments[i] = form(decoded(s))
			}
		}
		if !slices.ContainsFunc(forms, func(p pathPattern) bool { return slices.Equal(p.segments, other.segments) }) {
			forms = append(forms, other)
		}
	}
	return forms, nil
}

func isDots(s string) bool { return s == "." || s == ".." }

// matches reports whether p stands for target, a path.
func (p pathPattern) matches(target string) bool {
	rest, isPath := strings.CutPrefix(target, "/")
	for i, want := range p.segments {
		segment, after, more := strings.Cut(rest, "/")
		if !isPath || want == anySegment && segment == "" || want != anySegment && want != segment {
			return false
		}
		if isLast := i == len(p.segments)-1; more != (!isLast || p.below) {
			return false
		}
		rest = after
	}
	return isPath
}

// takesPath reports whether the rule is for the path of q.
func (r *rule) takesPath(q *question) bool {
	return len(r.paths) == 0 || slices.ContainsFunc(r.paths, func(p pathPattern) bool { return p.matches(q.path) })
}

// maxReadings is how many ways of reading a path are judged.
const maxReadings = 24

// steps are what servers do to a path, each in an order of its own: some leave out
// parameters before they decode, some after, some decode twice with something else
// in between, some decode dots and no slashes. None makes a path longer, so they
// come to an end.
var steps = []func(string) string{decoded, decodedSegments, decodedDots.Replace, withoutParams, withoutBackslashes, withoutEmpty, withoutDots}

// readings are the ways in which servers read a path: as it is sent, and what comes
// of it by steps, in every order and number; maxReadings of them at most. whole
// tells that they are all that there are, and that the path is not unreadable.
func readings(sent string) (all []string, whole bool) {
	all = []string{sent}
	if isPlain(sent) {
		return all, true
	}
	for next := 0; next < len(all); next++ {
		for _, step := range steps {
			other := step(all[next])
			if slices.Contains(all, other) {
				continue
			}
			if len(all) == maxReadings {
				return all, false
			}
			all = append(all, other)
		}
	}
	return all, !isUnreadable(sent)
}

// withoutParams leaves out what follows ';' in each segment.
func withoutParams(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// withoutBackslashes takes '\' for '/'.
func withoutBackslashes(path string) string { return strings.ReplaceAll(path, `\`, "/") }

// withoutEmpty takes several '/' for one.
func withoutEmpty(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// isPlain tells that a path has one reading.
func isPlain(sent string) bool {
	for i := range len(sent) {
		switch c := sent[i]; {
		case c == '%' || c == '\\' || c == ';' || c < ' ' || c >= 0x7f:
			return false
		case c == '/':
			if i+1 < len(sent) && (sent[i+1] == '/' || sent[i+1] == '.') {
				return false
			}
		}
	}
	return true
}

// isUnreadable tells that no list of readings of a path is complete: decoded as
// often as the most lenient server does, it has what ends a path or text for some
// (control characters, '?', '#'), what is no UTF-8, which may be another spelling
// of a letter, or a '%' that begins no escape.
func isUnreadable(sent string) bool {
	for range maxDecodings + 1 {
		if !utf8.ValidString(sent) || strings.ContainsAny(sent, "?#") {
			return true
		}
		for i := range len(sent) {
			if sent[i] < ' ' || sent[i] == 0x7f {
				return true
			}
			if _, n := decodedByte(sent[i:]); sent[i] == '%' && n == 1 {
				return true
			}
		}
		next := decoded(sent)
		if next == sent {
			return false
		}
		sent = next
	}
	return false
}

// maxDecodings is how often the most lenient server decodes.
const maxDecodings = 4

// withoutDots removes dot segments (RFC 3986 section 5.2.4).
func withoutDots(p string) string {
	if !strings.HasPrefix(p, "/") || !strings.Contains(p, "/.") {
		return p
	}
	var kept []string
	segments := strings.Split(p[1:], "/")
	for i, s := range segments {
		switch {
		case s == ".." && len(kept) > 0:
			kept = kept[:len(kept)-1]
		case !isDots(s):
			kept = append(kept, s)
			continue
		}
		if i == len(segments)-1 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// decoded undoes percent-encoding once (RFC 3986 section 2.1).
func decoded(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for s != "" {
		c, n := decodedByte(s)
		b, s = append(b, c), s[n:]
	}
	return string(b)
}

// decodedDots decodes what the URL Standard does, and proxies that normalize by RFC
// 3986 section 6.2.2 among others.
var decodedDots = strings.NewReplacer("%2e", ".", "%2E", ".")

// decodedSegments is decoded, but for slashes, which stay encoded: no segment
// becomes two before dot segments are removed.
func decodedSegments(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for s != "" {
		c, n := decodedByte(s)
		if c == '/' {
			b = append(b, s[:n]...)
		} else {
			b = append(b, c)
		}
		s = s[n:]
	}
	return string(b)
}

// decodedByte returns the first byte of s, which is not empty, and how many bytes
// of s it takes.
func decodedByte(s string) (byte, int) {
	if s[0] == '%' && len(s) > 2 {
		high, low := unhex(s[1]), unhex(s[2])
		if high < 16 && low < 16 {
			return high<<4 | low, 3
		}
	}
	return s[0], 1
}

// unhex returns the value of a hexadecimal digit; 16 if it is none.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// encoded percent-encodes what a path cannot have as it is (RFC 3986 section
// 3.3), as a URL is encoded that a caller gives so.
func encoded(s string) string {
	const plain = "-._~!$&'()*+,=:@"
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		isAlphanumeric := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if isAlphanumeric || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', digits[c>>4], digits[c&15]})
	}
	return b.String()
}
