package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fetchgate/fetchgate/service/policy"
)

// maxNeeds is how many pairs of caller and origin rules are written for, and
// maxNeedPaths how many paths of one are told apart before all are taken.
const (
	maxNeeds     = 1_000
	maxNeedPaths = 1_000
)

type policySuggest struct {
	From   string `name:"from" type:"given" required:"" placeholder:"AUDIT.jsonl" help:"The audit record; - reads standard input."`
	Config string `name:"config" type:"given" placeholder:"FILE" help:"Leave out what the rules of this configuration allow, and list those of them that never decided."`
}

// Help is the end of the command's help.
func (policySuggest) Help() string {
	return "It writes rules for the requests that no rule allowed, denied or only noted in the mode report: one for each caller and origin, with the methods that were used and the paths below which they were. " +
		"What a rule denied in earnest, and denials of addresses and redirects, are counted and get no rule. Read each rule before you take it over.\n\n" +
		"Exit codes: 0 nothing to suggest; 1 suggestions, or rules that never decided; 2 it could not run."
}

// need is what a caller asked for at an origin.
type need struct {
	caller, origin string
	methods        map[string]bool
	paths          map[string]bool
	requests       int
}

// needs collects them from a record.
type needs struct {
	rules                       *rulebook // nil: none are asked
	all                         map[[2]string]*need
	decided                     map[string]bool
	byRule, unclear, withNoRoom int
}

// Run prints rules as YAML, what else there is to say in comments.
func (c *policySuggest) Run(s streams, name program) error {
	n := needs{all: map[[2]string]*need{}, decided: map[string]bool{}}
	if c.Config != "" {
		rules, err := readRules(c.Config, name)
		if err != nil {
			return err
		}
		n.rules = rules
	}
	trail, err := readAudit(c.From, s.in, n.line)
	if err != nil {
		return auditProblem(err)
	}
	return n.print(s, trail)
}

func (n *needs) line(l *auditLine) {
	n.decided[l.Rule] = true
	to, ok := l.destination()
	switch {
	case l.Rule != policy.DefaultDeny:
		if !l.Allowed && l.Rule != "" {
			n.byRule++
		}
		return
	case !ok || l.Final != "" || l.Path == "*":
		n.unclear++
		return
	}
	if n.rules != nil {
		d := n.rules.policy.Decide(policy.Ask{Caller: n.rules.caller(l.Caller), Method: l.Method, Destination: to})
		if d.Denied == nil && d.WouldDeny == nil && !d.Open {
			return
		}
	}
	key := [2]string{l.Caller, to.Origin.String()}
	one := n.all[key]
	if one == nil {
		if len(n.all) == maxNeeds {
			n.withNoRoom++
			return
		}
		one = &need{caller: l.Caller, origin: key[1], methods: map[string]bool{}, paths: map[string]bool{}}
		n.all[key] = one
	}
	one.requests++
	one.methods[l.Method] = true
	if len(one.paths) < maxNeedPaths {
		one.paths[l.Path] = true
	}
}

func (n *needs) print(s streams, trail auditTrail) error {
	unused := n.unused()
	fmt.Fprintf(s.out, "# %s read; %s suggested\n", plural(trail.lines, "line"), plural(len(n.all), "rule"))
	for _, note := range []struct {
		count int
		text  string
	}{
		{n.byRule, "denied by a rule, which is meant so"},
		{n.unclear, "denied on a redirect, or without a whole path: no rule is suggested"},
		{n.withNoRoom, "for more callers and origins than are told apart"},
	} {
		if note.count > 0 {
			fmt.Fprintf(s.out, "# %s %s\n", plural(note.count, "request"), note.text)
		}
	}
	if trail.cut {
		fmt.Fprintln(s.out, "# the last line is cut off and was left out")
	}
	for _, name := range unused {
		fmt.Fprintf(s.out, "# never decided: %s\n", ruleAt(name, n.rules.policy.RuleAt(name)))
	}
	if len(n.all) > 0 {
		fmt.Fprintln(s.out, "rules:")
	}
	names := map[string]bool{}
	for _, one := range n.sorted() {
		one.print(s, names)
	}
	if len(n.all)+len(unused) > 0 {
		return found
	}
	return nil
}

// unused are the rules that decided nothing in the record.
func (n *needs) unused() []string {
	var names []string
	if n.rules != nil {
		for _, r := range n.rules.Config.GetRules() {
			if !n.decided[r.GetName()] {
				names = append(names, r.GetName())
			}
		}
	}
	return names
}

func (n *needs) sorted() []*need {
	var all []*need
	for _, one := range n.all {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *need) int { return cmp.Or(cmp.Compare(a.caller, b.caller), cmp.Compare(a.origin, b.origin)) })
	return all
}

// notInName is what names of rules cannot have.
var notInName = regexp.MustCompile(`[^a-z0-9._-]+`)

// print writes one rule.
func (one *need) print(s streams, names map[string]bool) {
	path, what := below(sortedKeys(one.paths)), plural(one.requests, "request")
	if path == "" || len(one.paths) == maxNeedPaths {
		path, what = "", what+"; every path"
	}
	fmt.Fprintf(s.out, "  - name: %s # %s\n    callers: %s\n    origins: %s\n    methods: %s\n",
		quotedText(one.name(names)), what, flow(one.caller), flow(one.origin), flow(sortedKeys(one.methods)...))
	if path != "" {
		fmt.Fprintf(s.out, "    paths: %s\n", flow(path))
	}
}

// name is one that is not among names, to which it is added.
func (one *need) name(names map[string]bool) string {
	first := notInName.ReplaceAllString(one.caller+"-"+strings.SplitN(one.origin, "://", 2)[1], "-")
	first = strings.TrimLeft(first, "._-")
	first = first[:min(len(first), 60)]
	name := first
	for n := 2; names[name]; n++ {
		name = fmt.Sprintf("%s-%d", first, n)
	}
	names[name] = true
	return name
}

// quotedText is a text of YAML, in ASCII without control characters: what is read
// of a record may be for the terminal. Go's escapes are among those of YAML.
func quotedText(text string) string {
	return strconv.QuoteToASCII(strings.ToValidUTF8(text, "\uFFFD"))
}

func flow(texts ...string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, quotedText(text))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// odd is what a path of a rule cannot have, or means something else by.
const odd = `%\;{}*?#`

// below is a path of a rule for all paths: the one that there is, or what all
// begin with. Empty: every path.
func below(paths []string) string {
	if len(paths) == 1 && !strings.ContainsAny(paths[0], odd) && !strings.Contains(paths[0], "//") && !strings.Contains(paths[0], "/.") {
		return paths[0]
	}
	common := strings.Split(paths[0], "/")
	common = common[:len(common)-1]
	for _, path := range paths[1:] {
		segments := strings.Split(path, "/")
		i := 0
		for i < len(common) && i < len(segments)-1 && common[i] == segments[i] {
			i++
		}
		common = common[:i]
	}
	for i, segment := range common {
		if i > 0 && (segment == "" || segment[0] == '.' || strings.ContainsAny(segment, odd)) {
			common = common[:i]
			break
		}
	}
	if len(common) < 2 {
		return ""
	}
	return strings.Join(common, "/") + "/*"
}
