package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// maxFlipGroups is how many groups of requests are told apart; what is beyond is
// counted alone. Callers choose the origins of an audit record.
const maxFlipGroups = 10_000

// maxFlipsShown is how many groups are printed for each direction, the largest
// first.
const maxFlipsShown = 100

type policyDiff struct {
	Old     string `arg:"" help:"The configuration as it is."`
	New     string `arg:"" help:"The configuration as it would be."`
	Against string `name:"against" type:"given" placeholder:"AUDIT.jsonl" help:"Decide about the requests of this audit record by both; - reads standard input."`
	Format  string `name:"format" enum:"text,markdown" default:"text" help:"text, or markdown for a review."`
}

// Help is the end of the command's help.
func (policyDiff) Help() string {
	return "Without --against it names the rules that differ. With it, each line of the record is decided by the rules of both files, and what would flip is told by caller, rules, origin and method. " +
		"The record has no header fields and no values of queries: where a rule asks for them, or has a condition (when), and that could matter, the request is counted as one that cannot be told. " +
		"Redirects are not replayed, and of addresses only the one that was connected to.\n\n" +
		"Exit codes: 0 nothing differs or flips; 1 something does, or cannot be told; 2 it could not run."
}

// Run compares the two configurations.
func (c *policyDiff) Run(s streams, name program) error {
	before, err := readRules(c.Old, name)
	if err != nil {
		return err
	}
	after, err := readRules(c.New, name)
	if err != nil {
		return err
	}
	p := printer{s.out, c.Format == "markdown"}
	if c.Against == "" {
		return c.rules(p, before, after)
	}
	r, err := newReplay(before, after)
	if err != nil {
		return &problem{exitUsage, "cannot replay with these rules", err.Error(), "mend the rules that are named"}
	}
	trail, err := readAudit(c.Against, s.in, r.line)
	if err != nil {
		return auditProblem(err)
	}
	return r.print(p, trail)
}

// rules tells which rules differ.
func (c *policyDiff) rules(p printer, before, after *rulebook) error {
	old, now := byName(before.Config.GetRules()), byName(after.Config.GetRules())
	var lines []string
	for _, r := range before.Config.GetRules() {
		switch other := now[r.GetName()]; {
		case other == nil:
			lines = append(lines, "removed "+r.GetName()+" ("+before.policy.RuleAt(r.GetName())+")")
		case !proto.Equal(r, other):
			lines = append(lines, "changed "+r.GetName()+" ("+after.policy.RuleAt(r.GetName())+")")
		}
	}
	for _, r := range after.Config.GetRules() {
		if old[r.GetName()] == nil {
			lines = append(lines, "added "+r.GetName()+" ("+after.policy.RuleAt(r.GetName())+")")
		}
	}
	if was, is := order(before, now), order(after, old); !slices.Equal(was, is) {
		lines = append(lines, "the order of rules that both have is another")
	}
	if was, is := cmp.Or(before.Config.GetMode(), "enforce"), cmp.Or(after.Config.GetMode(), "enforce"); was != is {
		lines = append(lines, fmt.Sprintf("mode was %s, is %s", was, is))
	}
	if len(before.Config.GetRules()) == 0 != (len(after.Config.GetRules()) == 0) {
		lines = append(lines, "only one of the files has rules; without, ports 80 and 443 of public addresses are open")
	}
	p.head(plural(len(lines), "difference"))
	p.list(lines)
	if len(lines) > 0 {
		return found
	}
	return nil
}

func byName(rules []*configv1.Rule) map[string]*configv1.Rule {
	named := map[string]*configv1.Rule{}
	for _, r := range rules {
		named[r.GetName()] = r
	}
	return named
}

// order are the names of the rules that the other file has too.
func order(of *rulebook, other map[string]*configv1.Rule) []string {
	var names []string
	for _, r := range of.Config.GetRules() {
		if other[r.GetName()] != nil {
			names = append(names, r.GetName())
		}
	}
	return names
}

func plural(n int, word string) string { return count(int32(n), word) }

// printer prints in one of two formats.
type printer struct {
	out      io.Writer
	markdown bool
}

func (p printer) head(text string) {
	if p.markdown {
		text = "**" + text + "**\n"
	}
	fmt.Fprintln(p.out, text)
}

func (p printer) list(lines []string) {
	for _, line := range lines {
		if p.markdown {
			line = "- " + line
		} else {
			line = "  " + line
		}
		fmt.Fprintln(p.out, line)
	}
}

// table prints rows of cells below their names.
func (p printer) table(title string, names []string, rows [][]string) {
	if p.markdown {
		fmt.Fprintf(p.out, "\n%s\n\n| %s |\n|%s\n", title, strings.Join(names, " | "), strings.Repeat(" --- |", len(names)))
		for _, row := range rows {
			fmt.Fprintf(p.out, "| %s |\n", strings.Join(row, " | "))
		}
		return
	}
	fmt.Fprintf(p.out, "\n%s\n", title)
	widths := make([]int, len(names))
	for _, row := range slices.Concat([][]string{names}, rows) {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range slices.Concat([][]string{names}, rows) {
		line := ""
		for i, cell := range row {
			line += "  " + cell + strings.Repeat(" ", widths[i]-len(cell))
		}
		fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	}
}
