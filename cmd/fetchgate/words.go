package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

type helpCommand struct {
	Word string `arg:"" optional:"" help:"A reason of a failure (CONNECT_TIMEOUT), a word of an RPC error (NOT_OFFERED), why a retry was not made (BUDGET), or a command."`
}

// Help is the end of the command's help.
func (helpCommand) Help() string {
	var reasons, refusals, suppressed []string
	for _, e := range fetch.ReasonTable {
		reasons = append(reasons, string(e.Reason))
	}
	for _, e := range fetch.RefusalTable {
		refusals = append(refusals, e.Word)
	}
	for _, e := range fetch.SuppressedTable {
		suppressed = append(suppressed, e.Word)
	}
	return "Case does not matter, nor do the prefixes of the contract's enums. docs/errors.md has the same on one page.\n\n" +
		"Reasons of failures: " + strings.Join(reasons, ", ") + ".\n\n" +
		"Words of RPC errors: " + strings.Join(refusals, ", ") + ", and reasons.\n\n" +
		"Why a retry was not made: " + strings.Join(suppressed, ", ") + ".\n\n" +
		"Exit codes: 0 the word is known; 2 it is not."
}

// Run prints what the word means.
func (c *helpCommand) Run(ctx context.Context, s streams, name program) error {
	if c.Word == "" {
		run(ctx, []string{string(name), "--help"}, s)
		return nil
	}
	for _, command := range strings.Split(commandNames, ",") {
		if c.Word == command {
			run(ctx, []string{string(name), command, "--help"}, s)
			return nil
		}
	}
	known := explanations()
	word := strings.ToUpper(strings.ReplaceAll(c.Word, "-", "_"))
	for _, prefix := range []string{"FAILURE_REASON_", "RETRY_SUPPRESSED_"} {
		word = strings.TrimPrefix(word, prefix)
	}
	if e, ok := known[word]; ok {
		e.print(s.out)
		return nil
	}
	p := &problem{exitUsage, fmt.Sprintf("no word %+.64q is known", c.Word), "", fmt.Sprintf("%s help --help says which there are", name)}
	if near := nearest(word, keysOf(known)); near != "" {
		p.why, p.next = fmt.Sprintf("did you mean %s?", near), fmt.Sprintf("%s help %s", name, near)
	}
	return p
}

// explanation is what there is to say about a word.
type explanation struct {
	word, means string
	lines       []explained
}

type explained struct{ name, text string }

func (e explanation) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n  %s\n\n", e.word, e.means)
	for _, line := range e.lines {
		fmt.Fprintf(w, "  %-13s %s\n", line.name+":", line.text)
	}
	fmt.Fprintf(w, "  %-13s docs/errors.md#%s\n", "page:", strings.ToLower(e.word))
}

// explanations are those of all words, by word.
func explanations() map[string]explanation {
	known := map[string]explanation{}
	for _, e := range fetch.ReasonTable {
		known[string(e.Reason)] = explanation{string(e.Reason), e.Means, []explained{
			{"must act", e.Blame.Who()}, {"happens", e.Stage.Where()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}}}
	}
	for _, e := range fetch.RefusalTable {
		known[e.Word] = explanation{e.Word, e.Means, []explained{
			{"status code", e.Code}, {"must act", e.Blame.Who()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}}}
	}
	for _, e := range fetch.SuppressedTable {
		known[e.Word] = explanation{e.Word, e.Means, []explained{
			{"must act", e.Blame.Who()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}}}
	}
	return known
}

func again(retryable bool) string {
	if retryable {
		return "can help a little later"
	}
	return "does not help by itself"
}
