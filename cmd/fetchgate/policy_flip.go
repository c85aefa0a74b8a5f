package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

// The ways in which two decisions about one request compare.
type change string

const (
	isSame   change = "same"
	toDeny   change = "allow to deny"
	toAllow  change = "deny to allow"
	isNoted  change = "noted otherwise" // it goes ahead by both, and rules deny by one
	isUntold change = "cannot be told"
)

// replay decides about requests by two configurations.
type replay struct {
	before, after *side
	groups        map[flip]int
	beyond        map[change]int // requests of groups that had no room
	counts        map[change]int
	skipped       int
}

// flip is what requests that are told together have in common.
type flip struct {
	change           change
	caller           string
	oldRule, newRule string
	origin, method   string
}

func newReplay(before, after *rulebook) (*replay, error) {
	r := &replay{groups: map[flip]int{}, beyond: map[change]int{}, counts: map[change]int{}}
	var err error
	if r.before, err = newSide(before); err != nil {
		return nil, err
	}
	r.after, err = newSide(after)
	return r, err
}

// line decides about one line of the record.
func (r *replay) line(l *auditLine) {
	to, ok := l.destination()
	if !ok {
		r.skipped++
		return
	}
	ask := policy.Ask{Method: l.Method, Destination: to}
	old, oldOpen := r.before.outcomes(ask, l)
	now, nowOpen := r.after.outcomes(ask, l)
	f := flip{change: compare(old[0], now[0]), caller: l.Caller, origin: to.String(), method: l.Method}
	together := slices.Equal(oldOpen, nowOpen) // conditions that differ need not hold together
	for i := range old {
		for j := range now {
			if (i == j || !together) && compare(old[i], now[j]) != f.change {
				f.change = isUntold
			}
		}
	}
	r.counts[f.change]++
	if f.change == isSame {
		return
	}
	f.oldRule, f.newRule = ruleAt(old[0].rule, r.before.rules.policy.RuleAt(old[0].rule)), ruleAt(now[0].rule, r.after.rules.policy.RuleAt(now[0].rule))
	if _, known := r.groups[f]; !known && len(r.groups) == maxFlipGroups {
		r.beyond[f.change]++
		return
	}
	r.groups[f]++
}

func compare(old, now replayed) change {
	switch {
	case old.ahead && now.ahead && old.profile != now.profile:
		return isUntold // which addresses the name has is not in the record
	case old.ahead && !now.ahead:
		return toDeny
	case !old.ahead && now.ahead:
		return toAllow
	case old.denied != now.denied:
		return isNoted
	}
	return isSame
}

// replayed is what one configuration does with a request.
type replayed struct {
	rule string
	// ahead tells that it goes ahead, denied that rules deny it all the same.
	ahead, denied bool
	// profile are the addresses that are open to it; empty if its address was
	// judged.
	profile string
}

// side is one of the two configurations.
type side struct {
	rules *rulebook
	// with and without are for requests with a query and without.
	with, without *variants
}

// variants are the rules in the ways that what a record does not tell may turn out:
// all that allow match and none that deny; none match; those that deny match, and
// conditions that cannot be judged deny. Between these, nothing else can come out.
type variants struct {
	all [3]*policy.Policy
	// uncertain are the rules that ask for what a record has not, without that;
	// contents are they, without name and owner, by name. nil: there are none.
	uncertain *policy.Policy
	contents  map[string]string
}

func newSide(rules *rulebook) (*side, error) {
	with, err := newVariants(rules, true)
	if err != nil {
		return nil, err
	}
	without, err := newVariants(rules, false)
	return &side{rules, with, without}, err
}

func newVariants(rules *rulebook, hasQuery bool) (*variants, error) {
	v := &variants{all: [3]*policy.Policy{rules.policy, rules.policy, rules.policy}, contents: map[string]string{}}
	wide, none, strict, matches := []*configv1.Rule{}, []*configv1.Rule{}, []*configv1.Rule{}, []*configv1.Rule{}
	for _, r := range rules.Config.GetRules() {
		if r.GetWhen() == "" && len(r.GetHeaders()) == 0 && (len(r.GetQuery()) == 0 || !hasQuery) {
			wide, none, strict = append(wide, r), append(none, r), append(strict, r)
			continue
		}
		bare := proto.CloneOf(r)
		bare.When, bare.Headers = "", nil
		if hasQuery {
			bare.Query = nil
		}
		denies := scopeOf(bare)
		switch {
		case r.GetAction() == "deny":
			strict = append(strict, bare)
		case r.GetWhen() != "": // a condition that cannot be judged denies
			wide, strict = append(wide, bare), append(strict, denies)
		default:
			wide = append(wide, bare)
		}
		matches = append(matches, scopeOf(bare))
		v.contents[r.GetName()] = contentOf(r)
	}
	if len(matches) == 0 {
		return v, nil
	}
	for i, list := range [][]*configv1.Rule{wide, none, strict} {
		var err error
		if v.all[i], err = policy.Compile(list, policy.Options{Mode: rules.Config.GetMode(), TLSProfiles: rules.TLSProfiles()}); err != nil {
			return nil, err
		}
	}
	var err error
	v.uncertain, err = policy.Compile(matches, policy.Options{})
	return v, err
}

// scopeOf is a rule that denies what r is for: one may have every origin that any
// rule may have.
func scopeOf(r *configv1.Rule) *configv1.Rule {
	return &configv1.Rule{
		Action: "deny", Name: r.GetName(), Mode: r.GetMode(), Callers: r.GetCallers(), Origins: r.GetOrigins(), Ports: r.GetPorts(),
		Methods: r.GetMethods(), Paths: r.GetPaths(), Query: r.GetQuery(),
	}
}

func contentOf(r *configv1.Rule) string {
	same := proto.CloneOf(r)
	same.Name, same.Owner = "", ""
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(same)
	if err != nil {
		return r.GetName() // texts are UTF-8, so this is not reached
	}
	return string(text)
}

// outcomes are what the configuration does with a request in each variant, and
// the uncertain rules that may match it.
func (s *side) outcomes(ask policy.Ask, l *auditLine) (each [3]replayed, may []string) {
	ask.Caller = s.rules.caller(l.Caller)
	v := s.without
	if l.hasQuery() {
		v = s.with
	}
	if v.uncertain != nil {
		for _, name := range v.uncertain.Candidates(ask) {
			may = append(may, v.contents[name])
		}
	}
	for i, p := range v.all {
		if each[i] = each[0]; i == 0 || len(may) > 0 {
			each[i] = outcomeOf(p.Decide(ask), l)
		}
	}
	return each, may
}

func outcomeOf(d policy.Decision, l *auditLine) replayed {
	o := replayed{rule: d.Rule, ahead: d.Denied == nil, denied: d.Denied != nil || d.WouldDeny != nil, profile: d.AddressProfile}
	remote, err := netip.ParseAddrPort(l.Remote)
	if !o.ahead || err != nil || l.Final != "" {
		return o
	}
	o.profile = ""
	if d.Allow(remote) != nil {
		o.ahead, o.denied = false, true
	}
	return o
}

// print tells what would flip.
func (r *replay) print(p printer, trail auditTrail) error {
	flips := r.counts[toDeny] + r.counts[toAllow]
	callers := map[string]bool{}
	for f := range r.groups {
		if f.change == toDeny || f.change == toAllow {
			callers[f.caller] = true
		}
	}
	p.head(fmt.Sprintf("%s, %s would flip", plural(len(callers), "caller"), plural(flips, "request")))
	p.list(r.summary(trail))
	for _, of := range []change{toDeny, toAllow, isNoted, isUntold} {
		r.table(p, of)
	}
	if flips+r.counts[isUntold]+r.counts[isNoted] > 0 {
		return found
	}
	return nil
}

func (r *replay) summary(trail auditTrail) []string {
	lines := []string{fmt.Sprintf("%s read; %d decided alike", plural(trail.lines, "line"), r.counts[isSame])}
	for _, of := range []struct {
		count int
		text  string
	}{
		{r.counts[isNoted], "go ahead by both, and would be noted otherwise"},
		{r.counts[isUntold], "cannot be told: rules ask for header fields, the query's values, a condition or addresses, which the record has not"},
		{r.skipped, "not replayed: without caller, method, origin or whole path"},
	} {
		if of.count > 0 {
			lines = append(lines, fmt.Sprintf("%d %s", of.count, of.text))
		}
	}
	if trail.cut {
		lines = append(lines, "the last line is cut off and was left out")
	}
	return lines
}

// table prints the groups of one change, the largest first.
func (r *replay) table(p printer, of change) {
	if r.counts[of] == 0 {
		return
	}
	var groups []flip
	for f := range r.groups {
		if f.change == of {
			groups = append(groups, f)
		}
	}
	slices.SortFunc(groups, func(a, b flip) int {
		return cmp.Or(cmp.Compare(r.groups[b], r.groups[a]), cmp.Compare(a.caller, b.caller), cmp.Compare(a.origin, b.origin),
			cmp.Compare(a.method, b.method), cmp.Compare(a.oldRule, b.oldRule), cmp.Compare(a.newRule, b.newRule))
	})
	var rows [][]string
	for _, f := range groups[:min(len(groups), maxFlipsShown)] {
		rows = append(rows, p.cells(strconv.Itoa(r.groups[f]), f.caller, f.oldRule, f.newRule, f.origin, f.method))
	}
	p.table(fmt.Sprintf("%s: %s", of, plural(r.counts[of], "request")), []string{"requests", "caller", "old rule", "new rule", "origin", "method"}, rows)
	rest := r.beyond[of]
	for _, f := range groups[len(rows):] {
		rest += r.groups[f]
	}
	if rest > 0 {
		p.list([]string{plural(rest, "more request") + " in smaller groups"})
	}
}

// cells are texts of a record, which callers wrote, for a table.
func (p printer) cells(texts ...string) []string {
	for i, text := range texts {
		texts[i] = escaped(text)
		if p.markdown {
			texts[i] = "`" + strings.NewReplacer("|", `\|`, "`", "'").Replace(texts[i]) + "`"
		}
	}
	return texts
}

// sortedKeys are the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
