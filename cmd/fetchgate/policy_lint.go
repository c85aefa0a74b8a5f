package main

import (
	"fmt"

	"github.com/fetchgate/fetchgate/service/policy"
)

type policyLint struct {
	File string `arg:"" optional:"" default:"fetchgate.yaml" help:"The configuration (${default})."`
}

// Help is the end of the command's help.
func (policyLint) Help() string {
	return "It finds rules that never decide since another decides first, rules that share requests and carry them out in different ways, origins that stand for every host, dangerous_ settings, callers to whom nothing is allowed, and TLS profiles that no rule names. " +
		"Only what is certain is told: rules are compared two by two, and one with a condition (when) is never taken to cover another.\n\n" + findingsHelp
}

// Run prints what is found, each with its place.
func (c *policyLint) Run(s streams, name program) error {
	rules, err := readRules(c.File, name)
	if err != nil {
		return err
	}
	findings := policy.Lint(rules.Config.GetRules(), rules.Config.GetMode(), rules.callerNames(), rules.profileNames())
	for _, path := range rules.Dangerous() {
		findings = append(findings, policy.Finding{Path: path, Message: "it takes protection away; is it still needed?"})
	}
	for _, f := range findings {
		fmt.Fprintf(s.out, "%s: %s: %s\n", rules.Locate(f.Path), f.Path, f.Message)
	}
	if _, err := fmt.Fprintf(s.out, "%s: %s, %s\n", c.File, plural(len(rules.Config.GetRules()), "rule"), plural(len(findings), "finding")); err != nil {
		return err
	}
	if len(findings) > 0 {
		return found
	}
	return nil
}
