package fetch

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxURLBytes is the longest URL, both as it is given and in canonical form.
const MaxURLBytes = 16 << 10

// MaxMethodBytes is the longest method.
const MaxMethodBytes = 32

const (
	maxNameBytes  = 253 // RFC 1035 section 3.1, without the root label
	maxLabelBytes = 63  // RFC 1035 section 2.3.4
	maxQuoted     = 100 // bytes of a caller's word in a message
)

// The bytes that RFC 3986 allows unencoded in each part of a URL, '%' aside.
const (
	letters    = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits     = "0123456789"
	unreserved = letters + digits + "-._~"         // section 2.3
	pchar      = unreserved + "!$&'()*+,;=" + ":@" // section 3.3
)

var (
	inPath     = setOf(pchar + "/")
	inQuery    = setOf(pchar + "/?") // the fragment too, sections 3.4 and 3.5
	inForm     = setOf(unreserved)
	inHost     = setOf(letters + digits + "-_.")
	inScheme   = setOf(letters + digits + "+-.")
	hexDigits  = setOf(digits + "abcdefABCDEF")
	tokenBytes = setOf(letters + digits + "!#$%&'*+-.^_`|~") // RFC 9110 section 5.6.2
)

// byteSet is a set of bytes.
type byteSet [256]bool

func setOf(members string) *byteSet {
	var s byteSet
	for i := range len(members) {
		s[members[i]] = true
	}
	return &s
}

// outside returns the index of the first byte of text that is not in s, or -1.
func (s *byteSet) outside(text string) int {
	for i := range len(text) {
		if !s[text[i]] {
			return i
		}
	}
	return -1
}

// IsToken tells whether s is one (RFC 9110 section 5.6.2).
func IsToken[T string | []byte](s T) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// URLError says which part of a URL is wrong and how to write it. Message
// holds no userinfo, no query and never the whole URL.
type URLError struct {
	// Reason is ReasonInvalidURL or ReasonUnsupportedScheme.
	Reason Reason
	// Part is "url", "scheme", "userinfo", "host", "port", "params" or
	// "raw_target".
	Part    string
	Message string
}

func (e *URLError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

func invalidURL(part, format string, args ...any) error {
	return &URLError{Reason: ReasonInvalidURL, Part: part, Message: fmt.Sprintf(format, args...)}
}

// quoted returns a caller's word for a message, escaped and cut.
func quoted(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted-len(ellipsis)] + ellipsis
	}
	return strconv.QuoteToASCII(s)
}

// ParseURL reads an absolute http or https URL of at most MaxURLBytes, which
// must have only one reading: a URL that two common parsers could take to two
// hosts is refused, since the one would be judged and the other dialed.
//
// Nothing is repaired up to the path. The authority (RFC 3986 section 3.2) has
// no userinfo; its host is a DNS name, which may have underscores, a
// dotted-decimal IPv4 address or an IPv6 address in brackets without a zone.
// An internationalized name is taken only if it is exactly what its A-labels
// stand for (RFC 5891 section 4). One final dot is dropped, a name is
// lower-cased, and a name whose last label is numeric is refused, since some
// resolvers take it for an address.
//
// In path, query and fragment the bytes that RFC 3986 forbids there, a '%'
// without two hexadecimal digits included, are percent-encoded, and Encoded
// tells so. Everything else stays as it is: existing escapes, dot segments,
// doubled slashes. Control characters, and spaces at either end, are refused
// everywhere.
//
// The error is a *URLError.
func ParseURL(raw string) (Destination, error) {
	if len(raw) > MaxURLBytes {
		return Destination{}, errTooLong("url")
	}
	scheme, rest, err := parseScheme(raw)
	if err != nil {
		return Destination{}, err
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	d := Destination{Origin: Origin{Scheme: scheme}}
	if d.Host, d.Port, err = parseAuthority(rest[:end], scheme); err != nil {
		return Destination{}, err
	}
	target, fragment, _ := strings.Cut(rest[end:], "#")
	path, query, hasQuery := strings.Cut(target, "?")

	d.Target = percentEncode(path, inPath)
	if hasQuery {
		d.Target += "?" + percentEncode(query, inQuery)
	}
	d.Fragment = percentEncode(fragment, inQuery)
	d.Encoded = d.Target != target || d.Fragment != fragment
	if path == "" {
		d.Target = "/" + d.Target
	}
	return d.bounded("url")
}

// parseScheme returns the scheme and what follows its "//". It also looks for
// the bytes that are refused in every part.
func parseScheme(raw string) (scheme, rest string, err error) {
	scheme, rest, found := strings.Cut(raw, ":")
	isScheme := found && scheme != "" && isLetter(scheme[0]) && inScheme.outside(scheme) < 0
	scheme = lowerASCII(scheme)
	rest, isHierarchical := strings.CutPrefix(rest, "//")
	if isScheme && scheme != "http" && scheme != "https" {
		return "", "", unsupportedScheme(scheme, isHierarchical)
	}
	if i := strings.IndexFunc(raw, isControl); i >= 0 {
		return "", "", invalidURL("url",
			"the URL has the control character %#02x at byte %d; percent-encode it or leave it out", raw[i], i)
	}
	if strings.Trim(raw, " ") != raw {
		return "", "", invalidURL("url", "the URL begins or ends with a space; leave it out")
	}
	if !isScheme || !isHierarchical {
		return "", "", invalidURL("url", "the URL is not absolute; it must begin with http:// or https:// and a host")
	}
	return scheme, rest, nil
}

// unsupportedScheme shows the scheme only before "//": without it, what
// precedes the colon may be half of a credential.
func unsupportedScheme(scheme string, isHierarchical bool) error {
	message := "the URL does not begin with http:// or https://"
	if isHierarchical {
		message = "the scheme " + quoted(scheme) + " is not offered; use http or https"
	}
	return &URLError{Reason: ReasonUnsupportedScheme, Part: "scheme", Message: message}
}

// isControl reports whether r is a C0 control or DEL.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// lowerASCII lower-cases ASCII alone: strings.ToLower makes a 'k' of the
// Kelvin sign, which would be a repair.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

func parseAuthority(authority, scheme string) (host string, port uint16, err error) {
	if strings.Contains(authority, "@") {
		return "", 0, invalidURL("userinfo",
			"the URL has a user name or password before '@'; send an authorization field instead, or options.credentials where the server offers it")
	}
	port = defaultPort(scheme)
	// The colons before the last bracket are those of an IPv6 address.
	end := strings.LastIndexByte(authority, ']') + 1
	text, portText, hasPort := strings.Cut(authority[end:], ":")
	if host, err = parseHost(authority[:end] + text); err != nil {
		return "", 0, err
	}
	if hasPort {
		port, err = parsePort(portText)
	}
	return host, port, err
}

// parsePort does not show the port: it may be the password of a URL that was
// cut at the wrong place.
func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
		return 0, invalidURL("port",
			"the port is not a number from 1 to 65535 without sign and leading zeros; leave out the colon for the default port, and put an IPv6 address in brackets")
	}
	return uint16(n), nil
}

// percentEncode encodes the bytes of s that are not legal (RFC 3986 section
// 2.1). A '%' that begins an escape is legal.
func percentEncode(s string, legal *byteSet) string {
	if legal.outside(s) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		isEscape := s[i] == '%' && i+2 < len(s) && hexDigits[s[i+1]] && hexDigits[s[i+2]]
		if legal[s[i]] || isEscape {
			b.WriteByte(s[i])
		} else {
			writeEscape(&b, s[i])
		}
	}
	return b.String()
}

func writeEscape(b *strings.Builder, c byte) {
	const upperHex = "0123456789ABCDEF"
	b.Write([]byte{'%', upperHex[c>>4], upperHex[c&0xf]})
}

func errTooLong(part string) error {
	return invalidURL(part, "the URL is longer than %d bytes; send what is in the query as a body, if the upstream takes it", MaxURLBytes)
}

// bounded returns d if its canonical URL is within MaxURLBytes.
func (d Destination) bounded(part string) (Destination, error) {
	if len(d.appendURL(make([]byte, 0, shortURL))) > MaxURLBytes {
		return Destination{}, errTooLong(part)
	}
	return d, nil
}

// Param is one name and value to add to a query.
type Param struct{ Name, Value string }

// WithParams returns d with params added to its query in the order given, as
// the URL Standard's application/x-www-form-urlencoded, but with '~' as it is
// and '*' encoded, as Python's libraries do. The error is a *URLError if the
// URL becomes longer than MaxURLBytes or the target has no query.
func (d Destination) WithParams(params []Param) (Destination, error) {
	if len(params) == 0 {
		return d, nil
	}
	if d.Target == "*" {
		return Destination{}, invalidURL("params", "the target * has no query that params could be added to")
	}
	var b strings.Builder
	b.WriteString(d.Target)
	separator := byte('?')
	switch _, query, found := strings.Cut(d.Target, "?"); {
	case query != "":
		separator = '&'
	case found:
		separator = 0
	}
	if separator != 0 {
		b.WriteByte(separator)
	}
	b.WriteString(EncodeForm(params))
	d.Target = b.String()
	return d.bounded("params")
}

// EncodeForm returns params as the URL Standard's
// application/x-www-form-urlencoded in the variant of WithParams. No params
// make an empty string.
func EncodeForm(params []Param) string {
	var b strings.Builder
	for i, p := range params {
		if i > 0 {
			b.WriteByte('&')
		}
		writeForm(&b, p.Name)
		b.WriteByte('=')
		writeForm(&b, p.Value)
	}
	return b.String()
}

func writeForm(b *strings.Builder, s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			b.WriteByte('+')
		case inForm[c]:
			b.WriteByte(c)
		default:
			writeEscape(b, c)
		}
	}
}

// WithRawTarget returns d with raw, byte for byte, in the place of path and
// query. It is an origin-form, which begins with '/', or, with the method
// OPTIONS, "*" (RFC 9112 section 3.2); never an absolute-form, which would name
// another host than the one that was judged. It is visible ASCII without '#'.
// The error is a *URLError.
func (d Destination) WithRawTarget(raw, method string) (Destination, error) {
	const part = "raw_target"
	switch {
	case raw == "*" && method != "OPTIONS":
		return Destination{}, invalidURL(part, "the target * goes with the method OPTIONS only")
	case raw != "*" && !strings.HasPrefix(raw, "/"):
		return Destination{}, invalidURL(part, "the target does not begin with '/'; scheme and host go into url")
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return Destination{}, invalidURL(part, "the target has the byte %#02x at %d; only visible ASCII without '#' can be sent", c, i)
		}
	}
	d.Target, d.Encoded = raw, false
	return d.bounded(part)
}

// CheckMethod refuses what is not a method that can be sent: a token of 1 to
// MaxMethodBytes bytes (RFC 9110 section 9.1). CONNECT, TRACE and PRI are
// never sent; a standard method in other than upper case is a mistake, since
// methods are compared with regard to case. Any other token is sent as given.
func CheckMethod(method string) error {
	if method == "" || len(method) > MaxMethodBytes || tokenBytes.outside(method) >= 0 {
		return fmt.Errorf("the method is not a token of 1 to %d bytes, such as GET (RFC 9110 section 9.1)", MaxMethodBytes)
	}
	switch upper := strings.ToUpper(method); upper {
	case "CONNECT":
		return errors.New("the method CONNECT is not offered: fetchgate opens no tunnels")
	case "TRACE":
		return errors.New("the method TRACE is not offered: its answer shows the credentials that were sent")
	case "PRI":
		return errors.New("the method PRI is not offered: it begins an HTTP/2 connection (RFC 9113 section 3.4)")
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		if method != upper {
			return fmt.Errorf("the method %q is not %s: methods are case-sensitive; write it in upper case", method, upper)
		}
	}
	return nil
}
