package main

import (
	"fmt"
	"strings"
)

// moreSays begins the command that a hint of policy ends with. The service knows
// only the origin and the method, and not how it was asked.
const moreSays = "More: fetchgate explain "

// moreOffline stands for that command. Rules may ask for fields, the query, the
// size of the body and more, some of which is secret and not to be printed: only
// what was typed, asked again, is sure to be decided alike.
const moreOffline = "More: the same command with --offline"

// withoutMore is a hint without the command at its end.
func withoutMore(hint string) string {
	hint, _, _ = strings.Cut(hint, moreSays)
	return strings.TrimSuffix(hint, " ")
}

// shellWord is text as one word of a command line.
func shellWord(text string) string {
	isPlain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_-./:@%+,=", r)
	}
	if text != "" && strings.TrimFunc(text, isPlain) == "" {
		return text
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(text, "'", `'\''`))
}
