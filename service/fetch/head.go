package fetch

import (
	"bytes"
	"slices"
	"strings"
)

// Field is one header or trailer line as it is on the wire (RFC 9110 section 5).
// The order of a list of fields, the case of their names and repeats matter.
type Field struct {
	Name  string
	Value []byte
}

// Head is what precedes a body: the status line and the header fields.
type Head struct {
	// Protocol is the version spoken, "HTTP/1.0", "HTTP/1.1" or "HTTP/2".
	Protocol string
	// Status is the status code, 100 to 999 (RFC 9110 section 15).
	Status int
	// Reason is the reason phrase as received, any bytes (RFC 9112 section 4);
	// empty on HTTP/2.
	Reason []byte
	// Fields are the header fields in the order received, where the
	// connection's engine keeps it.
	Fields []Field
}

// Get returns the value of the first field called name, which is compared
// without regard to case, and whether there is one.
func Get(fields []Field, name string) ([]byte, bool) {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value, true
		}
	}
	return nil, false
}

// Members returns the members of a field that is a comma-separated list
// (RFC 9110 section 5.6.1), over all of its lines, trimmed, in order and
// without the empty ones.
func Members(fields []Field, name string) []string {
	var members []string
	for _, f := range fields {
		if !strings.EqualFold(f.Name, name) {
			continue
		}
		for m := range bytes.SplitSeq(f.Value, []byte{','}) {
			if m = bytes.TrimSpace(m); len(m) > 0 {
				members = append(members, string(m))
			}
		}
	}
	return members
}

// FieldBytes is the size that limits on fields count: the bytes of each name and
// value and the four of ": " and CRLF, which is what HTTP/1.1 sends.
func FieldBytes(fields []Field) int {
	n := 0
	for _, f := range fields {
		n += len(f.Name) + len(f.Value) + len(": \r\n")
	}
	return n
}

// FieldNames are the names of fields, each once, without regard to case, in the
// order of their first.
func FieldNames(fields []Field) []string {
	var names []string
	for _, f := range fields {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, f.Name) }) {
			names = append(names, f.Name)
		}
	}
	return names
}

// EqualFold tells whether a and b differ in the case of ASCII letters at most.
// To strings.EqualFold, the Kelvin sign is a k too, and to no server.
func EqualFold[T string | []byte](a T, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// Alike tells that a and b are one field name to some server: case does not count
// (RFC 9110 section 5.1), and many do not tell '_' from '-' (RFC 3875 section
// 4.1.18).
func Alike(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if x, y := lower(a[i]), lower(b[i]); x != y && !(isDash(x) && isDash(y)) {
			return false
		}
	}
	return true
}

func isDash(c byte) bool { return c == '-' || c == '_' }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
