package policy

import (
	"slices"
	"strconv"
	"strings"
)

// withoutRulesText is the line of Describe for withoutRules.
const withoutRulesText = "default: http on port 80 and https on port 443 of public addresses"

// withoutRulesOpenText is the same where the mode lets go ahead what no rule
// allows: of withoutRules only the addresses are left.
const withoutRulesOpenText = "default: http and https on ports 80 and 443 of public addresses"

// deniesAllText is the line of Describe for an empty list of rules.
const deniesAllText = "no rules: everything is denied; add rules (docs/policy.md)"

// maxPortsShown is how many ports, paths or callers of a rule its line names.
const maxPortsShown = 8

// Rule is what may be told about a rule to whoever operates fetchgate.
type Rule struct {
	Name string
	// At is where it is written, "fetchgate.yaml:12:5". Empty: it is the default
	// of a configuration without rules, or Options.Locate was nil.
	At    string
	Owner string
	// Origins are as they are written.
	Origins []string
}

// Rules returns the rules in the order of the configuration.
func (p *Policy) Rules() []Rule {
	all := make([]Rule, len(p.written))
	for i, r := range p.written {
		all[i] = Rule{Name: r.name, At: r.at, Owner: r.owner, Origins: slices.Clone(r.origins)}
	}
	return all
}

// RuleAt returns where the rule called name is written, "fetchgate.yaml:12:5".
// It is empty for DefaultDeny, for the default of a configuration without rules
// and for a name that no rule has.
func (p *Policy) RuleAt(name string) string {
	if r := p.named[name]; r != nil {
		return r.at
	}
	return ""
}

// Owner returns the owner of the rule called name; empty if it says none, or if
// no rule has the name.
func (p *Policy) Owner(name string) string {
	if r := p.named[name]; r != nil {
		return r.owner
	}
	return ""
}

// Describe says what is allowed, one line for each rule in the order of the
// configuration, or one where it has none.
func (p *Policy) Describe() []string {
	switch {
	case len(p.written) == 0 && p.mode == enforce:
		return []string{deniesAllText}
	case (p.builtin || len(p.written) == 0) && p.mode != enforce:
		return []string{withoutRulesOpenText + ", mode " + p.mode.String()}
	case p.builtin:
		return []string{withoutRulesText}
	}
	lines := make([]string, len(p.written))
	for i, r := range p.written {
		lines[i] = r.describe()
	}
	return lines
}

func (r *rule) describe() string {
	line := r.name + ": "
	if r.deny {
		line += "deny "
	}
	line += strings.Join(r.origins, ", ")
	if len(r.ports) > 0 {
		line += " on " + portsText(r.ports)
	}
	if len(r.methods) > 0 {
		line += " (" + strings.Join(r.methods, ", ") + ")"
	}
	if len(r.asPaths) > 0 {
		line += " at " + some(r.asPaths)
	}
	if len(r.callers) > 0 {
		line += " for " + some(r.callers)
	}
	if len(r.query) > 0 || len(r.headers) > 0 || r.when != nil {
		line += ", under conditions"
	}
	if r.profile != "" {
		line += ", TLS profile " + r.profile
	}
	if r.mode != enforce {
		line += ", mode " + r.mode.String()
	}
	return line
}

// some are the first words of a list.
func some(list []string) string {
	if more := len(list) - maxPortsShown; more > 0 {
		return strings.Join(list[:maxPortsShown], ", ") + " and " + strconv.Itoa(more) + " more"
	}
	return strings.Join(list, ", ")
}

// portsText is "port 8080" or "ports 8080, 9090", cut where there are many.
func portsText(ports []uint16) string {
	words := make([]string, 0, maxPortsShown+1)
	for _, port := range ports[:min(len(ports), maxPortsShown)] {
		words = append(words, strconv.Itoa(int(port)))
	}
	if more := len(ports) - len(words); more > 0 {
		words = append(words, "and "+strconv.Itoa(more)+" more")
	}
	if len(words) == 1 {
		return "port " + words[0]
	}
	return "ports " + strings.Join(words, ", ")
}
