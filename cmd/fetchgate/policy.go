package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/file"
	"github.com/fetchgate/fetchgate/service/policy"
)

// policyCommand is for who writes rules. Nothing of it needs a service.
type policyCommand struct {
	Test    policyCases   `cmd:"" help:"Check what rules decide against cases in a file."`
	Diff    policyDiff    `cmd:"" help:"See what a change of rules would do to requests of the audit record."`
	Lint    policyLint    `cmd:"" help:"Find rules that never decide, clash, or open too much."`
	Suggest policySuggest `cmd:"" help:"Write the rules that denied requests of the audit record need."`
	Import  policyImport  `cmd:"" help:"Turn the policy of another proxy into a configuration."`
}

// findingsHelp ends the help of each command that looks for something.
const findingsHelp = "Exit codes: 0 fine; 1 findings; 2 it could not run."

// found is the exit code of findings, which the output has told.
var found = &problem{code: exitFailed}

// rulebook is a configuration with its rules compiled.
type rulebook struct {
	*config.Loaded
	policy *policy.Policy
}

// readRules loads the configuration at path as serve does.
func readRules(path string, name program) (*rulebook, error) {
	cannot := func(err error, next string) error {
		return &problem{exitUsage, "cannot use the rules of " + path, err.Error(), next}
	}
	if err := readable(path); err != nil {
		return nil, cannot(file.Cause(err), fmt.Sprintf("name a configuration that is there, or write one: %s init %s", name, path))
	}
	loaded, err := config.Load(path)
	if err != nil {
		return nil, cannot(firstOf(err), fmt.Sprintf("%s check %s", name, path))
	}
	compiled, err := service.CompilePolicy(loaded, nil)
	if err != nil {
		return nil, cannot(firstOf(err), fmt.Sprintf("%s check %s", name, path))
	}
	return &rulebook{loaded, compiled}, nil
}

// firstOf is the first line of an error that may have many.
func firstOf(err error) error { return errors.New(firstLine(err.Error())) }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// caller is who asks, as the rules know a caller of that name.
func (r *rulebook) caller(name string) fetch.Caller {
	who := fetch.Caller{Name: name}
	for _, c := range r.Config.GetCallers() {
		if c.GetName() == name {
			who.Owner = c.GetOwner()
		}
	}
	return who
}

// callerNames are those that rules can name.
func (r *rulebook) callerNames() []string {
	var names []string
	for _, c := range r.Config.GetCallers() {
		names = append(names, c.GetName())
	}
	if names == nil {
		names = []string{anonymous}
	}
	return names
}

// anonymous is who calls where the configuration names nobody.
const anonymous = "anonymous"

// profileNames are the TLS profiles that rules can name.
func (r *rulebook) profileNames() (names []string) {
	for _, p := range r.Config.GetTlsProfiles() {
		names = append(names, p.GetName())
	}
	return names
}
