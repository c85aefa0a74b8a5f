package config

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// byteOrderMark is what some editors begin a UTF-8 file with.
const byteOrderMark = "\ufeff"

// checkText refuses what an editor would not show as it is, and what costs the
// YAML parser more time than it has bytes.
func checkText(text []byte) *Problem {
	if len(text) > maxFileBytes {
		return &Problem{Message: fmt.Sprintf("is larger than %d bytes, the most that is read; make it smaller", maxFileBytes)}
	}
	number := 0
	for line := range bytes.SplitSeq(bytes.TrimPrefix(text, []byte(byteOrderMark)), []byte("\n")) {
		number++
		if column, message := checkLine(bytes.TrimSuffix(line, []byte("\r"))); message != "" {
			return &Problem{Line: number, Column: column, Message: message}
		}
	}
	return nil
}

func checkLine(line []byte) (column int, message string) {
	if bytes.HasPrefix(line, []byte("%")) {
		return 1, "begins with %, which is a YAML directive; remove the line"
	}
	indentation := true
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		line = line[size:]
		column++
		switch {
		case r == utf8.RuneError && size == 1:
			return column, "is not UTF-8; save the file as UTF-8"
		case r == '\t' && indentation:
			return column, "is indented with a tab, which YAML does not allow; use spaces"
		case r != '\t' && isHidden(r):
			return column, fmt.Sprintf("holds the invisible character %U; remove it", r)
		}
		indentation = indentation && r == ' '
	}
	return 0, ""
}

// isHidden tells whether r is a control character, a line break that only YAML
// takes for one, or a code point that YAML does not allow.
func isHidden(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) || r == 0xfeff || r == 0xfffe || r == 0xffff
}
