package telemetry

import "unicode/utf8"

const hexDigits = "0123456789abcdef"

// ellipsis ends, or begins, what was cut.
const ellipsis = "..."

// isPlain tells that a byte stands for itself in a JSON string of printable
// ASCII.
func isPlain(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }

// appendQuoted appends s as a JSON string (RFC 8259 section 7) of printable
// ASCII with at most most bytes between its quotes, so that nothing an upstream
// or a caller wrote can end a line or control a terminal. What does not fit is
// cut and ends in an ellipsis; a byte that is not UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, s string, most int) []byte {
	b = append(b, '"')
	plain := 0
	for plain < len(s) && isPlain(s[plain]) {
		plain++
	}
	if plain == len(s) && plain <= most {
		return append(append(b, s...), '"')
	}
	start, cut := len(b), len(b)
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		if len(b)-start+width(r) > most {
			return append(append(b[:cut], ellipsis...), '"')
		}
		b = appendRune(b, r)
		if len(b)-start <= most-len(ellipsis) {
			cut = len(b)
		}
		i += size
	}
	return append(b, '"')
}

// width is how many bytes appendRune appends.
func width(r rune) int {
	switch {
	case r == '"' || r == '\\':
		return len(`\"`)
	case r < utf8.RuneSelf && isPlain(byte(r)):
		return 1
	case r > 0xffff:
		return 2 * len(`\u0000`)
	}
	return len(`\u0000`)
}

func appendRune(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r < utf8.RuneSelf && isPlain(byte(r)):
		return append(b, byte(r))
	case r > 0xffff:
		// A surrogate pair, RFC 8259 section 7.
		r -= 0x10000
		return appendUnit(appendUnit(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
	}
	return appendUnit(b, r)
}

func appendUnit(b []byte, u rune) []byte {
	return append(b, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// tail returns the end of s that has at most most bytes when it is quoted.
func tail(s string, most int) string {
	i := len(s)
	for i > 0 {
		r, size := utf8.DecodeLastRuneInString(s[:i])
		if most -= width(r); most < 0 {
			break
		}
		i -= size
	}
	return s[i:]
}
