package main

import (
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// screen is a terminal as the sink of a body. It takes text alone: anything
// else can hide what stands there, or change how the terminal behaves.
type screen struct {
	terminal io.Writer
	cut      []byte // the beginning of a character whose rest is to come
}

// Write refuses b as a whole if it is not text.
func (s *screen) Write(b []byte) (int, error) {
	rest, ok := afterText(slices.Concat(s.cut, b))
	if !ok {
		return 0, &problem{exitOutput, "the body is not written to the terminal",
			"it is not text, and a terminal may take it for commands", "add -o FILE, or pipe it to a program"}
	}
	s.cut = rest
	return s.terminal.Write(b)
}

// afterText returns what follows the last whole character of b, and whether all
// of b is text so far: UTF-8 without control characters but those of lines.
func afterText(b []byte) (rest []byte, ok bool) {
	for len(b) > 0 && utf8.FullRune(b) {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 || unicode.IsControl(r) && !strings.ContainsRune("\t\n\f\r", r) {
			return nil, false
		}
		b = b[size:]
	}
	return b, true
}
