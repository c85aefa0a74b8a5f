package cookie

import (
	"bytes"
	"strings"
)

// indexControl returns the index of the first control character but tab, which
// alone is legal in a field's value (RFC 9110 section 5.5), or -1.
func indexControl(b []byte) int {
	for i, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return i
		}
	}
	return -1
}

// isNotToken reports whether r is no character of a token (RFC 9110 section
// 5.6.2).
func isNotToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

// trim takes away the white space that RFC 6265 section 5.2 does.
func trim(b []byte) []byte { return bytes.Trim(b, " \t") }

// lower returns b with its ASCII letters in lower case. Other letters stay, so
// that none becomes one that means something here, as the Kelvin sign would.
func lower(b []byte) string {
	l := bytes.Clone(b)
	for i, c := range l {
		if 'A' <= c && c <= 'Z' {
			l[i] = c + 'a' - 'A'
		}
	}
	return string(l)
}
