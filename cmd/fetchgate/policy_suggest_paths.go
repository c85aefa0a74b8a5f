package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// maxExactPaths is how many paths of a rule are those that were seen; of more, it
// has what they have in common.
const maxExactPaths = 10

// minAlike is how many paths have to differ in nothing but identifiers for these
// to be taken for such.
const minAlike = 3

// proposal is a rule that would allow what was seen.
type proposal struct {
	rule     *configv1.Rule
	requests int
	notes    []string
}

// proposals are a rule for each set of methods, with the paths that were asked for
// by these. notes say what gets no rule.
func (one *need) proposals(names map[string]bool) (all []proposal, notes []string) {
	of := fmt.Sprintf("%s, %s: ", quotedText(one.caller), quotedText(one.origin.String()))
	if one.beyond > 0 {
		notes = append(notes, fmt.Sprintf("%s%s with more paths and methods than are told apart get no rule", of, plural(one.beyond, "request")))
	}
	byMethods := map[string][]string{}
	for path, methods := range one.asked {
		key := strings.Join(sortedKeys(methods), " ")
		byMethods[key] = append(byMethods[key], path)
	}
	for _, key := range sortedKeys(byMethods) {
		p := proposal{rule: &configv1.Rule{
			Name: "suggested", Callers: []string{one.caller}, Origins: []string{one.origin.String()}, Methods: sortedKeys(one.asked[byMethods[key][0]]),
		}}
		stays, err := one.decide(p.rule, "/")
		if err != nil {
			notes = append(notes, of+"no rule can allow it: "+quotedText(firstLine(err.Error())))
			continue
		}
		paths, odd := one.named(p.rule, byMethods[key], stays)
		if len(odd) > 0 {
			notes = append(notes, fmt.Sprintf("%s%s that rules cannot tell from others, such as %s, get no rule", of, plural(len(odd), "path"), quotedText(odd[0])))
		}
		if len(paths) == 0 {
			continue
		}
		for _, path := range paths {
			for _, times := range one.asked[path] {
				p.requests += times
			}
		}
		p.rule.Name = one.name(names)
		p.notes = one.denials(stays)
		var wider string
		if p.rule.Paths, wider = generalized(paths); wider != "" {
			p.notes = append(p.notes, wider)
		}
		all = append(all, p)
	}
	return all, notes
}

// decide is what a rule alone, with nothing more than what is named, makes of a
// request for path.
func (one *need) decide(rule *configv1.Rule, path string) (*fetch.Denied, error) {
	compiled, err := policy.Compile([]*configv1.Rule{rule}, policy.Options{})
	if err != nil {
		return nil, err
	}
	return compiled.Decide(policy.Ask{
		Caller: fetch.Caller{Name: one.caller}, Method: rule.Methods[0],
		Destination: fetch.Destination{Origin: one.origin, Target: path},
	}).Denied, nil
}

// named are those of paths that a rule can name, so that it is for them; what
// stays denied for its host is, whatever the path.
func (one *need) named(rule *configv1.Rule, paths []string, stays *fetch.Denied) (good, odd []string) {
	slices.Sort(paths)
	for _, path := range paths {
		alone := proto.CloneOf(rule)
		alone.Paths = []string{path}
		switch denied, err := one.decide(alone, path); {
		case err != nil, strings.ContainsAny(path, "{}*"), // which stand for something in a rule
			denied != nil && (stays == nil || denied.Reason != stays.Reason):
			odd = append(odd, path)
		default:
			good = append(good, path)
		}
	}
	return good, odd
}

// denials say why requests stay denied in spite of the rule.
func (one *need) denials(stays *fetch.Denied) (notes []string) {
	for _, closed := range sortedKeys(one.addresses) {
		notes = append(notes, "also denied for "+closed)
	}
	switch {
	case stays == nil:
	case stays.Reason != fetch.ReasonAddressDenied:
		notes = append(notes, "it stays denied: "+escaped(stays.Message+". "+withoutMore(stays.Hint)))
	case len(notes) == 0:
		notes = append(notes, fmt.Sprintf("also denied for its address %s: add %s", one.origin.Host, keyOf(stays.Class)))
	}
	return notes
}

// generalized are paths of a rule for all of these, and what to say if it is for
// others too.
func generalized(paths []string) (of []string, wider string) {
	if len(paths) <= maxExactPaths {
		return paths, ""
	}
	of = withIDs(paths)
	if len(of) <= maxExactPaths {
		return of, fmt.Sprintf("wider than the %d paths that were seen: {id} stands for what looked like one", len(paths))
	}
	for _, of := range [][]string{below(of), belowEach(of)} {
		if of != nil {
			return of, fmt.Sprintf("wider than the %d paths that were seen: /* stands for all that follows", len(paths))
		}
	}
	return nil, fmt.Sprintf("every path was not seen: %d were, which have too little in common", len(paths))
}

// likeID is a segment that names one of many things: a number, a UUID (RFC 9562)
// or a long hexadecimal number.
var likeID = regexp.MustCompile(`^([0-9]+|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{16,})$`)

// withIDs are paths with {id} for the identifiers of those that differ in nothing
// else.
func withIDs(paths []string) []string {
	alike := map[string][]string{}
	for _, path := range paths {
		segments := strings.Split(path, "/")
		for i, segment := range segments {
			if likeID.MatchString(segment) {
				segments[i] = "{id}"
			}
		}
		shape := strings.Join(segments, "/")
		alike[shape] = append(alike[shape], path)
	}
	var all []string
	for shape, of := range alike {
		if len(of) >= minAlike {
			of = []string{shape}
		}
		all = append(all, of...)
	}
	slices.Sort(all)
	return all
}

// below is what all paths begin with; nil: nothing.
func below(paths []string) []string {
	var common []string
	for i, path := range paths {
		segments := strings.Split(path, "/")
		segments = segments[:len(segments)-1]
		if i == 0 {
			common = segments
		}
		same := 0
		for same < min(len(common), len(segments)) && common[same] == segments[same] {
			same++
		}
		common = common[:same]
	}
	if len(common) < 2 {
		return nil
	}
	return []string{strings.Join(common, "/") + "/*"}
}

// belowEach is what those paths begin with that have their first segment in
// common; nil: these are too many.
func belowEach(paths []string) (all []string) {
	deep := map[string][]string{}
	for _, path := range paths {
		if first, _, isDeep := strings.Cut(path[1:], "/"); isDeep {
			deep[first] = append(deep[first], path)
		} else {
			all = append(all, path)
		}
	}
	for _, of := range deep {
		if len(of) > 1 {
			of = below(of)
		}
		all = append(all, of...)
	}
	if len(all) > maxExactPaths {
		return nil
	}
	slices.Sort(all)
	return all
}

// print writes the rule.
func (p *proposal) print(s streams) {
	for _, note := range p.notes {
		fmt.Fprintf(s.out, "  # %s\n", note)
	}
	fmt.Fprintf(s.out, "  - name: %s # %s\n    callers: %s\n    origins: %s\n    methods: %s\n",
		quotedText(p.rule.Name), plural(p.requests, "request"), flow(p.rule.Callers...), flow(p.rule.Origins...), flow(p.rule.Methods...))
	if len(p.rule.Paths) > 0 {
		fmt.Fprintf(s.out, "    paths: %s\n", flow(p.rule.Paths...))
	}
}
