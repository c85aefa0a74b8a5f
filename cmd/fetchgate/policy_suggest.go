package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// maxNeeds is how many pairs of caller and origin rules are written for,
// maxNeedPaths how many pairs of path and method of one are told apart, and
// maxNeedAddresses how many addresses.
const (
	maxNeeds         = 1_000
	maxNeedPaths     = 1_000
	maxNeedAddresses = 10
)

type policySuggest struct {
	From   string `name:"from" type:"given" required:"" placeholder:"AUDIT.jsonl" help:"The audit record; - reads standard input."`
	Config string `name:"config" type:"given" placeholder:"FILE" help:"Leave out what the rules of this configuration allow, or would but for a condition, and list those of them that never decided."`
}

// Help is the end of the command's help.
func (policySuggest) Help() string {
	return "It writes rules for the requests that no rule allowed, denied or only noted in the mode report: for each caller and origin, one for each set of methods with the paths that were asked for by these. " +
		"Where a rule is wider than what was seen, since that were more than 10 paths, a comment says so; it says too what stays denied for its address. " +
		"What a rule denied in earnest, and denials of redirects, are counted and get no rule; with --config the same goes for what a rule would allow but for its headers, query or when. Read each rule before you take it over.\n\n" +
		"Exit codes: 0 nothing to suggest; 1 suggestions, or rules that never decided; 2 it could not run."
}

// need is what a caller asked for at an origin.
type need struct {
	caller    string
	origin    fetch.Origin
	asked     map[string]map[string]int // how often, by path and method
	pairs     int                       // of path and method
	beyond    int                       // requests that had no room
	addresses map[string]bool           // that are closed, each with the key that opens it
}

// needs collects them from a record.
type needs struct {
	rules   *rulebook      // nil: none are asked
	bare    *policy.Policy // those of rules that have conditions, without these; nil: there are none
	all     map[[2]string]*need
	decided map[string]bool
	held    map[string]int // how many requests a rule would allow but for its conditions

	byRule, byAddress, unclear, withNoRoom int
}

// Run prints rules as YAML, what else there is to say in comments.
func (c *policySuggest) Run(s streams, name program) error {
	n := needs{all: map[[2]string]*need{}, decided: map[string]bool{}, held: map[string]int{}}
	if c.Config != "" {
		rules, err := readRules(c.Config, name)
		if err != nil {
			return err
		}
		n.rules = rules
		if n.bare, err = withoutConditions(rules); err != nil {
			return &problem{exitUsage, "cannot tell what these rules would allow", err.Error(), "mend the rules that are named"}
		}
	}
	trail, err := readAudit(c.From, s.in, n.line)
	if err != nil {
		return auditProblem(err)
	}
	return n.print(s, trail)
}

// withoutConditions are the rules that allow under conditions that a record does
// not tell of, as if these held; nil: there are none.
func withoutConditions(rules *rulebook) (*policy.Policy, error) {
	var bare []*configv1.Rule
	for _, r := range rules.Config.GetRules() {
		if r.GetAction() != "deny" && (r.GetWhen() != "" || len(r.GetHeaders())+len(r.GetQuery()) > 0) {
			r = proto.CloneOf(r)
			r.When, r.Headers, r.Query = "", nil, nil
			bare = append(bare, r)
		}
	}
	if bare == nil {
		return nil, nil
	}
	return policy.Compile(bare, policy.Options{TLSProfiles: rules.TLSProfiles()})
}

func (n *needs) line(l *auditLine) {
	n.decided[l.Rule] = true
	to, ok := l.destination()
	switch {
	case l.Rule != policy.DefaultDeny:
		switch {
		case !l.Allowed && l.Reason == string(fetch.ReasonAddressDenied):
			n.byAddress++
		case !l.Allowed && l.Rule != "":
			n.byRule++
		}
		return
	case !ok || l.Final != "" || l.Path == "*":
		n.unclear++
		return
	}
	if n.isCovered(policy.Ask{Method: l.Method, Destination: to}, l.Caller) {
		return
	}
	key := [2]string{l.Caller, to.Origin.String()}
	one := n.all[key]
	if one == nil {
		if len(n.all) == maxNeeds {
			n.withNoRoom++
			return
		}
		one = &need{caller: l.Caller, origin: to.Origin, asked: map[string]map[string]int{}, addresses: map[string]bool{}}
		n.all[key] = one
	}
	one.add(l)
}

// isCovered tells that rules allow it, or would but for a condition, which is
// counted.
func (n *needs) isCovered(ask policy.Ask, caller string) bool {
	if n.rules == nil {
		return false
	}
	ask.Caller = n.rules.caller(caller)
	if d := n.rules.policy.Decide(ask); d.Denied == nil && d.WouldDeny == nil && !d.Open {
		return true
	}
	if n.bare == nil {
		return false
	}
	d := n.bare.Decide(ask)
	if d.Denied != nil || d.WouldDeny != nil {
		return false
	}
	n.held[d.Rule]++
	return true
}

func (one *need) add(l *auditLine) {
	methods := one.asked[l.Path]
	switch {
	case methods[l.Method] > 0:
	case one.pairs == maxNeedPaths:
		one.beyond++
		return
	case methods == nil:
		methods = map[string]int{}
		one.asked[l.Path] = methods
		fallthrough
	default:
		one.pairs++
	}
	methods[l.Method]++
	if l.Reason == string(fetch.ReasonAddressDenied) && len(one.addresses) < maxNeedAddresses {
		one.addresses[l.closed()] = true
	}
}

// ofClosed is how the record names an address that a rule does not open.
var ofClosed = regexp.MustCompile(`does not open (\S+), which is of class ([a-z_]+)`)

// closed is the address that the request was denied for and the key of a rule
// that opens it, as far as the record has them.
func (l *auditLine) closed() string {
	found := ofClosed.FindStringSubmatch(l.Why)
	if found == nil {
		return "an address that the record does not name: add allow_addresses"
	}
	to, err := netip.ParseAddrPort(found[1])
	if err != nil {
		return "an address that the record does not name: add allow_addresses"
	}
	return fmt.Sprintf("its address %s: add %s", to.Addr().WithZone(""), keyOf(found[2]))
}

// keyOf is the key of a rule that opens addresses of a class.
func keyOf(class string) string {
	switch class {
	case policy.ClassOwn:
		return "dangerous_allow_own_listeners"
	case "loopback", "metadata":
		return "dangerous_allow_" + class
	}
	return "allow_addresses"
}

func (n *needs) print(s streams, trail auditTrail) error {
	var rules []proposal
	var without []string
	names := map[string]bool{}
	for _, one := range n.sorted() {
		some, notes := one.proposals(names)
		rules, without = append(rules, some...), append(without, notes...)
	}
	fmt.Fprintf(s.out, "# %s read; %s suggested\n", plural(trail.lines, "line"), plural(len(rules), "rule"))
	n.printNotes(s, trail)
	unused := n.unused()
	for _, name := range unused {
		fmt.Fprintf(s.out, "# never decided: %s\n", ruleAt(name, n.rules.policy.RuleAt(name)))
	}
	for _, note := range without {
		fmt.Fprintf(s.out, "# %s\n", note)
	}
	if n.rules == nil && len(rules) > 0 {
		fmt.Fprintln(s.out, "# what a rule kept out by its headers, query or when is among these: with --config it is not")
	}
	if len(rules) > 0 {
		fmt.Fprintln(s.out, "rules:")
	}
	for _, rule := range rules {
		rule.print(s)
	}
	if len(n.all)+len(unused) > 0 {
		return found
	}
	return nil
}

// printNotes counts the requests that get no rule.
func (n *needs) printNotes(s streams, trail auditTrail) {
	for _, note := range []struct {
		count int
		text  string
	}{
		{n.byRule, "denied by a rule, which is meant so"},
		{n.byAddress, "denied for an address that the rule does not open: see its allow_addresses"},
		{n.unclear, "denied on a redirect, or without a whole path: no rule is suggested"},
		{n.withNoRoom, "for more callers and origins than are told apart"},
	} {
		if note.count > 0 {
			fmt.Fprintf(s.out, "# %s %s\n", plural(note.count, "request"), note.text)
		}
	}
	for _, name := range sortedKeys(n.held) {
		fmt.Fprintf(s.out, "# rule %s would allow %s but for its condition (headers, query or when): not suggested\n",
			ruleAt(name, n.rules.policy.RuleAt(name)), plural(n.held[name], "request"))
	}
	if trail.cut {
		fmt.Fprintln(s.out, "# the last line is cut off and was left out")
	}
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
	slices.SortFunc(all, func(a, b *need) int {
		return cmp.Or(cmp.Compare(a.caller, b.caller), cmp.Compare(a.origin.String(), b.origin.String()))
	})
	return all
}

// notInName is what names of rules cannot have.
var notInName = regexp.MustCompile(`[^a-z0-9._-]+`)

// name is one that is not among names, to which it is added.
func (one *need) name(names map[string]bool) string {
	first := notInName.ReplaceAllString(one.caller+"-"+strings.SplitN(one.origin.String(), "://", 2)[1], "-")
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
