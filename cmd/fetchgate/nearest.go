package main

import (
	"maps"
	"slices"
)

// nearest returns the word that is most like the one that was typed, or "" when
// none is much like it. Of two that are as near, the first in the alphabet wins.
func nearest(typed string, words []string) string {
	found, least := "", max(2, len(typed)/3)+1
	for _, word := range slices.Sorted(slices.Values(words)) {
		if d := distance(typed, word); d < least {
			found, least = word, d
		}
	}
	return found
}

// distance is how many bytes must be inserted, dropped or replaced to make one
// word the other (Levenshtein, 1965).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of the distances from a[:i] to each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func keysOf[V any](m map[string]V) []string { return slices.Collect(maps.Keys(m)) }
