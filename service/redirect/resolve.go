package redirect

import (
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// reference is a URI reference to an http or https resource in its parts
// (RFC 3986 section 4.1). A part that is absent differs from an empty one.
type reference struct {
	scheme       string // empty if absent
	authority    string
	path         string
	query        string
	fragment     string
	hasAuthority bool
	hasQuery     bool
	hasFragment  bool
}

// resolve returns where location leads from base (RFC 3986 section 5.2). The
// parts are put together again for fetch.ParseURL, so a Location is held to the
// same rules as a URL of a caller.
func resolve(base fetch.Destination, location string) (fetch.Destination, error) {
	ref, err := parseReference(location)
	if err != nil {
		return fetch.Destination{}, err
	}
	ref = ref.onto(base)
	if ref.authority == "" || ref.authority[0] == ':' {
		return fetch.Destination{}, invalid("the URL that it leads to has no host")
	}
	var b strings.Builder
	b.WriteString(ref.scheme + "://" + ref.authority + removeDotSegments(ref.path))
	if ref.hasQuery {
		b.WriteString("?" + ref.query)
	}
	if ref.hasFragment {
		b.WriteString("#" + ref.fragment)
	}
	destination, err := fetch.ParseURL(b.String())
	if err != nil {
		return fetch.Destination{}, failure(err)
	}
	return destination, nil
}

// parseReference cuts a Location into its parts. It refuses what the URL
// Standard and RFC 3986 read differently.
func parseReference(raw string) (reference, error) {
	if len(raw) > fetch.MaxURLBytes {
		return reference{}, tooLong()
	}
	for i := range len(raw) {
		if raw[i] < ' ' || raw[i] == 0x7f {
			return reference{}, invalid("it has the control character %#02x at byte %d", raw[i], i)
		}
	}
	var r reference
	raw, r.fragment, r.hasFragment = strings.Cut(raw, "#")
	raw, r.query, r.hasQuery = strings.Cut(raw, "?")
	if strings.Contains(raw, `\`) {
		return reference{}, invalid(`it has a '\' before its query, which some read as '/'`)
	}
	raw, err := r.cutScheme(raw)
	if err != nil {
		return reference{}, err
	}
	r.path = raw
	if rest, found := strings.CutPrefix(raw, "//"); found {
		end := strings.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		r.hasAuthority, r.authority, r.path = true, rest[:end], rest[end:]
	}
	return r, nil
}

// cutScheme sets the scheme of a reference that has one and returns the rest.
func (r *reference) cutScheme(raw string) (rest string, err error) {
	colon := strings.IndexByte(raw, ':')
	if colon < 0 || strings.Contains(raw[:colon], "/") {
		return raw, nil
	}
	scheme, rest := raw[:colon], raw[colon+1:]
	switch {
	case !isScheme(scheme):
		return "", invalid("it is relative with a ':' in its first segment, which RFC 3986 section 4.2 forbids; './' before it would help")
	case !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https"):
		return "", unsupportedScheme()
	case !strings.HasPrefix(rest, "//"):
		return "", invalid("it has a scheme without '//', which some read as relative")
	}
	r.scheme = strings.ToLower(scheme)
	return rest, nil
}

// isScheme reports whether s is a scheme (RFC 3986 section 3.1).
func isScheme(s string) bool {
	for i := range len(s) {
		isLetter := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		isOther := '0' <= s[i] && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.'
		if !isLetter && (i == 0 || !isOther) {
			return false
		}
	}
	return s != ""
}

// onto fills the parts that r lacks from base. The fragment of base is kept
// wherever r has none.
func (r reference) onto(base fetch.Destination) reference {
	if r.scheme == "" {
		r.scheme = base.Scheme
	}
	if !r.hasFragment && base.Fragment != "" {
		r.fragment, r.hasFragment = base.Fragment, true
	}
	if r.hasAuthority {
		return r
	}
	r.authority = base.Authority()
	basePath, baseQuery, baseHasQuery := strings.Cut(base.Target, "?")
	if basePath == "*" { // stands for an empty path (RFC 9110 section 7.1)
		basePath = "/"
	}
	switch {
	case r.path == "":
		r.path = basePath
		if !r.hasQuery {
			r.query, r.hasQuery = baseQuery, baseHasQuery
		}
	case r.path[0] != '/':
		r.path = basePath[:strings.LastIndexByte(basePath, '/')+1] + r.path
	}
	return r
}

// removeDotSegments returns an absolute or empty path without "." and ".."
// (RFC 3986 section 5.2.4). Encoded dots count as dots, as in the URL Standard:
// they are the same path (section 6.2.2.2).
func removeDotSegments(path string) string {
	if path == "" {
		return ""
	}
	var kept []string
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		dots := countDots(segment)
		if dots == 2 && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		switch {
		case dots == 0:
			kept = append(kept, segment)
		case i == len(segments)-1:
			kept = append(kept, "") // what ends in a dot segment is a directory
		}
	}
	return "/" + strings.Join(kept, "/")
}

// countDots returns 1 for ".", 2 for "..", encoded or not, else 0.
func countDots(segment string) int {
	n := 0
	for segment != "" {
		switch {
		case segment[0] == '.':
			segment = segment[1:]
		case len(segment) >= 3 && strings.EqualFold(segment[:3], "%2e"):
			segment = segment[3:]
		default:
			return 0
		}
		if n++; n > 2 {
			return 0
		}
	}
	return n
}
