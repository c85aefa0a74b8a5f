package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
	return "Without --against it names what differs: rules, callers, credentials, TLS profiles and issuers by name, other settings by section. With it, each line of the record is decided by the rules of both files, and what would flip is told by caller, rules, origin and method. " +
		"The record has no header fields and no values of queries: where a rule asks for them, or has a condition (when), and that could matter, the request is counted as one that cannot be told. What differs beside rules decides about no request of the record: it is named, and does not count. " +
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
	err = r.print(p, trail)
	if more := beyondRules(before.Config, after.Config); len(more) > 0 {
		p.list([]string{"not replayed, and it has changed too: " + strings.Join(more, "; ")})
	}
	return err
}

// rules tells what differs, rules first.
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
	lines = append(lines, beyondRules(before.Config, after.Config)...)
	p.head(plural(len(lines), "difference"))
	p.list(lines)
	if len(lines) > 0 {
		return found
	}
	return nil
}

// beyondRules tells what differs beside rules and mode: who calls, what goes along
// with a request, how it is carried out, and the settings of the service.
func beyondRules(before, after *configv1.Config) []string {
	lines := slices.Concat(
		changed("caller", before.GetCallers(), after.GetCallers()),
		changed("credential", before.GetCredentials(), after.GetCredentials()),
		changed("tls_profile", before.GetTlsProfiles(), after.GetTlsProfiles()),
		changed("jwt_issuer", before.GetJwtIssuers(), after.GetJwtIssuers()),
	)
	told := map[protoreflect.Name]bool{"rules": true, "mode": true, "callers": true, "credentials": true, "tls_profiles": true, "jwt_issuers": true}
	var sections []string
	old, now := before.ProtoReflect(), after.ProtoReflect()
	for i := range old.Descriptor().Fields().Len() {
		field := old.Descriptor().Fields().Get(i)
		if name := field.Name(); !told[name] && (old.Has(field) != now.Has(field) || !old.Get(field).Equal(now.Get(field))) {
			sections = append(sections, string(name))
		}
	}
	if sections != nil {
		lines = append(lines, "also changed, which no decision shows: "+strings.Join(sections, ", "))
	}
	return lines
}

// changed names what was removed, changed or added.
func changed[T interface {
	proto.Message
	GetName() string
}](kind string, before, after []T) (lines []string) {
	old, now := map[string]T{}, map[string]T{}
	for _, one := range before {
		old[one.GetName()] = one
	}
	for _, one := range after {
		now[one.GetName()] = one
		if _, known := old[one.GetName()]; !known {
			lines = append(lines, "added "+kind+" "+one.GetName())
		}
	}
	for _, one := range before {
		switch other, stays := now[one.GetName()]; {
		case !stays:
			lines = append(lines, "removed "+kind+" "+one.GetName())
		case !proto.Equal(one, other):
			lines = append(lines, "changed "+kind+" "+one.GetName())
		}
	}
	return lines
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
