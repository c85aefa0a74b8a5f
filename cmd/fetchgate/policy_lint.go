package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/fetchgate/fetchgate/service/policy"
)

type policyLint struct {
	File   string   `arg:"" optional:"" default:"fetchgate.yaml" help:"The configuration (${default})."`
	Accept []string `name:"accept" sep:"none" placeholder:"NAME:KEY" help:"Do not count what is found at this key of the rule or caller of that name, such as local:dangerous_allow_loopback; may be repeated."`
}

// Help is the end of the command's help.
func (policyLint) Help() string {
	return "It finds rules that never decide since another decides first, rules that share requests and carry them out in different ways, origins that stand for every host, dangerous_ settings, callers to whom nothing is allowed, TLS profiles that no rule names, and credentials of rules that never go along since their binding has other origins, methods, callers or paths. " +
		"Only what is certain is told: rules are compared two by two, and one with a condition (when) is never taken to cover another.\n\n" +
		"What is meant is accepted with --accept: it is printed all the same and does not count. What is not about one key is accepted as NAME:rule, NAME:caller or NAME:tls_profile. An --accept for which nothing is found is a finding: it would hide what comes later.\n\n" + findingsHelp
}

// Run prints what is found, each with its place.
func (c *policyLint) Run(s streams, name program) error {
	rules, err := readRules(c.File, name)
	if err != nil {
		return err
	}
	findings := policy.Lint(rules.Config.GetRules(), rules.Config.GetMode(), rules.callerNames(), rules.profileNames())
	findings = append(findings, policy.LintCredentials(rules.Config.GetRules(), rules.Config.GetCredentials())...)
	for _, path := range rules.Dangerous() {
		findings = append(findings, policy.Finding{Path: path, Message: "it takes protection away; is it still needed?"})
	}
	used := map[string]bool{}
	counted, accepted := 0, 0
	for _, f := range findings {
		note := ""
		if key := rules.acceptable(f.Path); slices.Contains(c.Accept, key) {
			used[key], note = true, " (accepted)"
			accepted++
		} else {
			counted++
		}
		fmt.Fprintf(s.out, "%s: %s: %s%s\n", rules.Locate(f.Path), f.Path, f.Message, note)
	}
	for _, key := range c.Accept {
		if !used[key] {
			counted++
			fmt.Fprintf(s.out, "--accept %s: nothing is found there; leave it out\n", escaped(key))
		}
	}
	summary := plural(counted, "finding")
	if accepted > 0 {
		summary += fmt.Sprintf(", %d accepted", accepted)
	}
	if _, err := fmt.Fprintf(s.out, "%s: %s, %s\n", c.File, plural(len(rules.Config.GetRules()), "rule"), summary); err != nil {
		return err
	}
	if counted > 0 {
		return found
	}
	return nil
}

// ofItem is the path of a finding about an item of a list, or a key of that.
var ofItem = regexp.MustCompile(`^([a-z_]+)s\[([0-9]+)\](?:\.([a-z_]+))?`)

// acceptable is how --accept names a finding at path: by the name of what it is
// about, since places change with each edit, and by the key.
func (r *rulebook) acceptable(path string) string {
	parts := ofItem.FindStringSubmatch(path)
	if parts == nil {
		return path
	}
	place, err := strconv.Atoi(parts[2])
	if err != nil {
		return path
	}
	name := ""
	switch parts[1] {
	case "rule":
		name = r.Config.GetRules()[place].GetName()
	case "caller":
		name = r.Config.GetCallers()[place].GetName()
	case "tls_profile":
		name = r.Config.GetTlsProfiles()[place].GetName()
	default:
		return path
	}
	return name + ":" + cmp.Or(parts[3], parts[1])
}
