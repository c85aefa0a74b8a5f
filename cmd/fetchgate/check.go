package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/policy"
)

type checkCommand struct {
	File string `arg:"" help:"The configuration file."`
}

// Help is the end of the command's help.
func (checkCommand) Help() string {
	return "Exit codes: 0 it can be served; 1 it has mistakes, each printed with its place; 2 it cannot be read."
}

// Run prints what serve would say about the file.
func (c *checkCommand) Run(s streams) error {
	if err := readable(c.File); err != nil {
		return &problem{exitUsage, "cannot check " + c.File, err.Error(), "name a file that can be read"}
	}
	checked, err := service.Check(c.File)
	if err != nil {
		fmt.Fprintln(s.out, err)
		return &problem{code: exitFailed, what: c.File + " cannot be served", next: "mend the places named above"}
	}
	_, err = fmt.Fprintf(s.out, "%s: ok (%s)\n", c.File, scope(checked.Config, checked.Policy))
	printDangers(s.out, checked.Config)
	for _, warning := range service.Warnings(checked.Config, time.Now()) {
		fmt.Fprintf(s.out, "  WARNING  %s\n", escaped(warning))
	}
	for _, a := range checked.Credentials.Awaited() {
		fmt.Fprintf(s.out, "  note: the next_file of the credential %q is not there: %s; that is right unless its secret is being changed\n", a.Credential, escaped(a.File))
	}
	for _, f := range policy.LintCredentials(checked.Config.Config.GetRules(), checked.Config.Config.GetCredentials()) {
		fmt.Fprintf(s.out, "  note: %s (%s)\n", escaped(f.Message), checked.Config.Locate(f.Path))
	}
	return err
}

// scope says how much a configuration names, and what holds where it names
// nothing.
func scope(c *config.Loaded, p *policy.Policy) string {
	rules, callers := p.Describe()[0], "no callers: loopback only"
	if n := len(c.Config.GetRules()); n > 0 {
		rules = count(int32(n), "rule")
	}
	if n := len(c.Config.GetCallers()); n > 0 {
		callers = count(int32(n), "caller")
	}
	return rules + "; " + callers
}

// readable tells a file that is not there from one with mistakes. It reads
// nothing: what a pipe holds can be read once.
func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if about, err := file.Stat(); err == nil && about.IsDir() {
		return errors.New("it is a directory")
	}
	return nil
}
