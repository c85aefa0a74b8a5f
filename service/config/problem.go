package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxProblems is how many problems of one file are told.
const maxProblems = 20

// Problem is one thing that is wrong in a file.
type Problem struct {
	// Line and Column count from 1, Column in characters. They are those of the
	// setting's key, or of the item of a list. Both are 0 for the file itself.
	Line, Column int
	// Path is the setting, such as "rules[2].origins[0]"; empty if the problem
	// is not in one.
	Path string
	// Message says what is wrong and what to do.
	Message string
}

// Error says why a configuration is refused.
type Error struct {
	// Source is the name of the file.
	Source string
	// Problems are in the order of the file: at least 1, at most 20.
	Problems []Problem

	cut bool
}

func newError(source string, problems []Problem) *Error {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	shown := min(len(problems), maxProblems)
	return &Error{Source: source, Problems: problems[:shown:shown], cut: shown < len(problems)}
}

// Together returns an error with the problems of all that are there, nil if none
// is. Of a setting that several refuse, it tells what the first says.
func Together(all ...*Error) *Error {
	var problems []Problem
	source, cut, told := "", false, map[string]bool{}
	for _, e := range all {
		if e == nil {
			continue
		}
		source, cut = e.Source, cut || e.cut
		for _, p := range e.Problems {
			if p.Path == "" || !told[p.Path] {
				problems = append(problems, p)
			}
		}
		for _, p := range e.Problems {
			told[p.Path] = true
		}
	}
	if problems == nil {
		return nil
	}
	e := newError(source, problems)
	e.cut = e.cut || cut
	return e
}

// Error has one line for each problem, "file:line:column: setting: what is
// wrong; what to do", and one more if there are problems beyond the 20th.
func (e *Error) Error() string {
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, e.line(p))
	}
	if e.cut {
		lines = append(lines, e.Source+": there are more problems; solve these first")
	}
	return strings.Join(lines, "\n")
}

func (e *Error) line(p Problem) string {
	var b strings.Builder
	b.WriteString(e.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Path != "" {
		b.WriteString(": " + p.Path)
	}
	b.WriteString(": " + p.Message)
	return b.String()
}
