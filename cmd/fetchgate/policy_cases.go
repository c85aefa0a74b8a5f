package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/fetchgate/fetchgate/service/file"
	"github.com/fetchgate/fetchgate/service/policy"
)

type policyCases struct {
	Cases  string `arg:"" name:"cases" help:"The file with the cases."`
	Config string `name:"config" type:"given" placeholder:"FILE" default:"fetchgate.yaml" help:"The configuration whose rules are asked (${default})."`
}

// Help is the end of the command's help.
func (policyCases) Help() string {
	return `A case is an item of the list "cases" in a YAML file: name, caller, method, url, headers, labels, expect (allow or deny), ` +
		`and rule, the name of the rule that must decide. Nothing is resolved or sent: names are judged, and addresses only where the URL has one. ` +
		`What rules deny is denied here in every mode.` + "\n\n" + findingsHelp
}

// Run decides about each case and prints those that came out otherwise.
func (c *policyCases) Run(s streams, name program) error {
	rules, err := readRules(c.Config, name)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.Cases)
	if err != nil {
		return &problem{exitUsage, "cannot read the cases of " + c.Cases, file.Cause(err).Error(), "name a file with cases; docs/policy.md shows one"}
	}
	cases, err := readCases(c.Cases, text, rules)
	if err != nil {
		return &problem{exitUsage, "cannot use the cases of " + c.Cases, err.Error(), "mend that place; docs/policy.md shows a case"}
	}
	failed := int32(0)
	for _, one := range cases {
		e := rules.policy.Explain(context.Background(), one.ask)
		if one.holds(e) {
			continue
		}
		failed++
		one.print(s, e)
	}
	if _, err := fmt.Fprintf(s.out, "%s, %d failed\n", count(int32(len(cases)), "case"), failed); err != nil {
		return err
	}
	if failed > 0 {
		return found
	}
	return nil
}

// policyCase is one request and what is to be decided about it.
type policyCase struct {
	at, name string // at is "cases.yaml:3:5"
	ask      policy.Ask
	expect   string
	rule     string // empty if it does not matter
}

// holds tells whether the decision is the expected one.
func (c *policyCase) holds(e policy.Explanation) bool {
	return wordOf(e) == c.expect && (c.rule == "" || c.rule == e.Decision.Rule)
}

// wordOf is what rules say, whether or not their mode carries it out.
func wordOf(e policy.Explanation) string {
	if e.Decision.Denied != nil || goesAhead(e) {
		return "deny"
	}
	return "allow"
}

// goesAhead tells that rules deny and their mode lets it go ahead.
func goesAhead(e policy.Explanation) bool {
	return e.Decision.Denied == nil && slices.ContainsFunc(e.Checks, func(c policy.Check) bool { return c.Name == "mode" })
}

func (c *policyCase) print(s streams, e policy.Explanation) {
	wanted := c.expect
	if c.rule != "" {
		wanted += " by rule " + c.rule
	}
	carried := ""
	if goesAhead(e) {
		carried = fmt.Sprintf(", which the mode %q does not carry out", e.Mode)
	}
	fmt.Fprintf(s.out, "%s: %s: expected %s, decided %s by rule %s%s\n", c.at, escaped(cmp.Or(c.name, c.ask.Method+" "+c.ask.Destination.Origin.String())),
		wanted, wordOf(e), ruleAt(e.Decision.Rule, e.RuleAt), carried)
	fmt.Fprintf(s.out, "  why: %s\n", escaped(e.Why))
	for _, near := range e.NearMisses {
		fmt.Fprintf(s.out, "  near: rule %s would decide otherwise if %s\n", ruleAt(near.Rule, near.At), escaped(near.Difference))
	}
}
