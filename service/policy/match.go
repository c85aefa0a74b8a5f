package policy

import (
	"iter"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// pattern is one origin of a rule, with its port. Its host stands for itself or,
// with below, for all names below it; every host is below the empty one.
type pattern struct {
	fetch.Origin
	below bool
}

// check is something that a rule asks of a hop beyond its origin and, which the
// index sees to, its path.
type check struct {
	name string
	fits func(*rule, *question) bool
	// used tells that a rule asks it.
	used func(*rule) bool
	// asked says what a rule allows or not, after "but not".
	asked func(*question) string
	// met is what an explanation says where a rule asks for it and gets it, unasked
	// where only rules are left that do not ask; empty: as asked says.
	met, unasked string
}

// checks are all of them, in the order in which an explanation has them. A rule
// matches if every one fits.
var checks = []check{
	{
		"method", (*rule).takesMethod, func(r *rule) bool { return true },
		func(q *question) string { return "the method " + q.ask.Method }, "", "",
	},
	{
		"path", (*rule).takesPath, func(r *rule) bool { return len(r.paths) > 0 },
		func(*question) string { return "the path" }, "", "",
	},
	{
		"query", (*rule).takesQuery, func(r *rule) bool { return len(r.query) > 0 },
		func(*question) string { return "the query" },
		"the query has the parameters that a rule names", "a rule that is left names no parameters",
	},
	{
		"header", (*rule).takesFields, func(r *rule) bool { return len(r.headers) > 0 },
		func(*question) string { return "a request without the header fields that it names" },
		"the request has the header fields that a rule names", "a rule that is left names no header fields",
	},
	{
		"when", (*rule).takesRest, func(r *rule) bool { return r.when != nil },
		func(*question) string { return "what its condition leaves out" },
		"the condition of a rule holds", "a rule that is left has no condition",
	},
}

// takes reports whether the rule is for q, by this reading of its path.
func (r *rule) takes(q *question) bool {
	return r.takesCaller(q) && !slices.ContainsFunc(checks, func(c check) bool { return !c.fits(r, q) })
}

func (r *rule) takesMethod(q *question) bool {
	return len(r.methods) == 0 || slices.Contains(r.methods, q.ask.Method)
}

// takesCaller reports whether the rule is for the caller of q.
func (r *rule) takesCaller(q *question) bool {
	if len(r.callers) == 0 {
		return true
	}
	_, found := slices.BinarySearch(r.callers, q.ask.Caller.Name)
	return found
}

// takesRest reports whether the condition of the rule holds or cannot be judged.
func (r *rule) takesRest(q *question) bool {
	if r.when == nil {
		return true
	}
	holds, why := r.when.holds(q)
	return holds || why != isClear
}

// ask returns what the rules at or behind from say of q by its reading of the
// path. Its cost is that of some look-ups for each label of the host and each
// segment of the path, and of the rules that have origin, path and caller in
// common.
func (p *Policy) ask(q *question, from int) outcome {
	s := search{ordered: p.ordered, q: q, from: from, best: len(p.ordered)}
	if g := p.index[pattern{Origin: q.origin}]; g != nil {
		s.group(g)
	}
	if q.kind == ordinary {
		p.searchAbove(&s)
	} else {
		s.denying(p, func() { p.searchAbove(&s) })
	}
	if q.isLiteral() && wellKnownNAT64.Contains(q.literal) {
		inside := pattern{Origin: q.origin}
		inside.Host = reached(q.literal).String()
		if g := p.index[inside]; g != nil {
			s.denying(p, func() { s.group(g) })
		}
	}
	if s.best == len(p.ordered) {
		return outcome{}
	}
	return outcome{p.ordered[s.best], s.why}
}

// searchAbove looks at the rules with wildcards for the host. Those that allow do
// not stand for special names.
func (p *Policy) searchAbove(s *search) {
	above := pattern{s.q.origin, true}
	for labels := strings.Count(s.q.origin.Host, "."); labels >= 0; labels-- {
		_, above.Host, _ = strings.Cut(above.Host, ".")
		if labels > p.deepest {
			continue
		}
		if g := p.index[above]; g != nil {
			s.group(g)
		}
	}
}

// patterns yields every pattern that the origin of t may match: itself and the
// wildcards above it. Above an IP literal there is only the one for every host,
// since a wildcard that ends in a number does not compile.
func (p *Policy) patterns(t target) iter.Seq[pattern] {
	return func(yield func(pattern) bool) {
		o := t.origin
		if !yield(pattern{Origin: o}) {
			return
		}
		labels := strings.Count(t.origin.Host, ".") + 1
		for o.Host = range parents(t.origin.Host) {
			if labels--; labels > p.deepest {
				continue
			}
			if !yield(pattern{o, true}) {
				return
			}
		}
		o.Host = ""
		yield(pattern{o, true})
	}
}

// parents yields the names above name, without the root: "b.c" and "c" for
// "a.b.c".
func parents(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, parent, found := strings.Cut(name, ".")
			if !found || !yield(parent) {
				return
			}
			name = parent
		}
	}
}
