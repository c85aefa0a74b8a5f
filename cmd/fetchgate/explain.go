package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

type explainCommand struct {
	requestFlags
	serviceFlags

	JSON bool `name:"json" help:"Print the decision as JSON."`
}

// Help is the end of the command's help.
func (explainCommand) Help() string {
	return "It asks what policy decides about a request, and why. No byte goes to the upstream. " +
		"If your caller has the right explain:addresses, the service resolves the host and says which addresses a fetch may connect to now; a name that does not resolve is said, and denies nothing.\n\n" +
		"The flags of the request and of the fetch are those of get, so that the question is the same; only a body of get's --json is written -d JSON -H 'Content-Type: application/json'.\n\n" +
		"Where the mode is report or open, what rules deny goes ahead all the same: it is said (would be denied), and the exit code is 0.\n\n" +
		"Exit codes: 0 a fetch goes ahead; 2 wrong usage; 3 the service did not explain it, or would refuse a field of the request; 4 denied by policy; 130 interrupted."
}

// Run prints the decision.
func (c *explainCommand) Run(ctx context.Context, s streams, name program) error {
	asked, err := c.request(s.in)
	if err != nil {
		return &problem{exitUsage, "cannot explain this request", err.Error(), fmt.Sprintf("%s explain --help", name)}
	}
	service, err := c.connect()
	if err != nil {
		return err
	}
	defer service.Close()
	decision, err := service.policy.Explain(ctx, &fetchgatev1.ExplainRequest{Request: asked.GetRequest(), Options: asked.GetOptions()})
	if err != nil {
		return notExplained(service.problem(ctx, err, name), err)
	}
	if c.JSON {
		writeJSON(s.out, decision)
	} else {
		printDecision(s.out, decision)
	}
	return verdict(decision)
}

// notExplained is the problem of an Explain that gave no answer.
func notExplained(p *problem, err error) *problem {
	if status.Code(err) == codes.Unimplemented {
		return &problem{exitRPC, "the service does not explain its decisions", "it is older than this command", "ask its operator for a newer one, or another with --address"}
	}
	return p
}

// verdict is the exit code that a decision means for who wants to fetch. The
// decision is the output, so nothing is left to say.
func verdict(d *fetchgatev1.ExplainResponse) error {
	switch {
	case len(d.GetViolations()) > 0:
		return &problem{code: exitRPC}
	case !isAhead(d):
		return &problem{code: exitDenied}
	}
	return nil
}

// printDecision prints everything about a decision. Its texts may hold what a
// caller wrote, so all of them are escaped.
func printDecision(w io.Writer, d *fetchgatev1.ExplainResponse) {
	fmt.Fprintf(w, "%s: %s\n", decided(d), cmp.Or(escaped(d.GetCanonicalUrl()), "the request is not whole"))
	fmt.Fprintf(w, "  rule %s, generation %d\n", ruleAt(d.GetRule(), d.GetRuleLocation()), d.GetGeneration())
	if mode := d.GetMode(); mode != "" { // else the service is older than the field, or nothing was decided
		fmt.Fprintf(w, "  mode %s: %s\n", escaped(mode), ahead(d))
	}
	if names := d.GetCredentials(); len(names) > 0 {
		fmt.Fprintf(w, "  credentials: %s\n", escaped(strings.Join(names, ", ")))
	}
	next := withoutMore(d.GetHint()) // this is the command that says more
	if !d.GetAllowed() && len(d.GetViolations()) == 0 {
		next = cmp.Or(next, "ask the owner of the policy")
	}
	for _, line := range []struct{ name, text string }{{"why", d.GetWhy()}, {"next", next}} {
		if line.text != "" {
			fmt.Fprintf(w, "  %s: %s\n", line.name, escaped(line.text))
		}
	}
	for _, check := range d.GetChecks() {
		answer := "failed"
		if check.GetPassed() {
			answer = "passed"
		}
		fmt.Fprintf(w, "  check %s %s: %s\n", escaped(check.GetCheck()), answer, escaped(check.GetDetail()))
	}
	for _, near := range d.GetNearMisses() {
		fmt.Fprintf(w, "  near: rule %s would decide otherwise if %s\n", ruleAt(near.GetRule(), near.GetRuleLocation()), escaped(near.GetDifference()))
	}
	for _, address := range d.GetAddresses() {
		answer := "denied"
		if address.GetAllowed() {
			answer = "allowed"
		}
		fmt.Fprintf(w, "  address %s %s: %s\n", escaped(address.GetAddress()), answer, escaped(address.GetAddressClass()))
	}
	for _, v := range d.GetViolations() {
		fmt.Fprintf(w, "  refused: %s: %s\n", escaped(v.GetField()), escaped(v.GetDescription()))
	}
	for _, path := range d.GetClamped() {
		fmt.Fprintf(w, "  lowered to the service's maximum: %s\n", escaped(path))
	}
	printLimits(w, "  ", d.GetLimits())
}

func decided(d *fetchgatev1.ExplainResponse) string {
	switch {
	case len(d.GetViolations()) > 0:
		return "refused"
	case d.GetAllowed():
		return "allowed"
	case isAhead(d):
		return "would be denied"
	}
	return "denied"
}

// isAhead tells that a fetch would. An older service says only whether it is
// allowed, and means that.
func isAhead(d *fetchgatev1.ExplainResponse) bool { return d.GetGoesAhead() || d.GetAllowed() }

// ahead says whether a fetch goes ahead.
func ahead(d *fetchgatev1.ExplainResponse) string {
	switch {
	case !d.GetGoesAhead():
		said := "a fetch does not go ahead"
		for _, check := range d.GetChecks() {
			if check.GetCheck() == "mode" {
				said += ": " + escaped(check.GetDetail())
			}
		}
		return said
	case !d.GetAllowed():
		return "a fetch goes ahead all the same"
	}
	return "a fetch goes ahead"
}

// ruleAt names a rule and where it stands.
func ruleAt(rule, location string) string {
	name := cmp.Or(escaped(rule), "none")
	if location == "" {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, escaped(location))
}
