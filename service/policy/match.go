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

// index finds the rules that have a pattern, as places in Policy.rules in
// ascending order.
type index map[pattern][]int

// check is something that a rule asks of a hop beyond its origin.
type check struct {
	name string
	fits func(*rule, question) bool
	// asked says what a rule allows or not, after "but not".
	asked func(question) string
}

// checks are all of them. A rule matches if every one fits.
var checks = []check{
	{"method", (*rule).takesMethod, func(q question) string { return "the method " + q.method }},
}

func (r *rule) takesMethod(q question) bool {
	return len(r.methods) == 0 || slices.Contains(r.methods, q.method)
}

// mismatch returns the place of the first check that keeps r from matching q;
// len(checks) if none does.
func (r *rule) mismatch(q *question) int {
	for i := range checks {
		if !checks[i].fits(r, *q) {
			return i
		}
	}
	return len(checks)
}

// match returns the rule that decides about q, or nil.
func (p *Policy) match(q *question) *rule {
	return p.first(q, func(r *rule) bool { return r.mismatch(q) == len(checks) })
}

// first returns the first of the rules for the origin of q that is wanted, or
// nil. Its cost is that of one look-up for each label of the host, and of the
// rules that have the same pattern.
func (p *Policy) first(q *question, wanted func(*rule) bool) *rule {
	best := len(p.rules)
	for key := range q.patterns() {
		for _, i := range p.index[key] {
			if i >= best {
				break
			}
			if wanted(p.rules[i]) {
				best = i
			}
		}
	}
	if best == len(p.rules) {
		return nil
	}
	return p.rules[best]
}

// patterns yields every pattern that the origin of q matches: itself and, unless
// its host is a special name, the wildcards above it. Above an IP literal there
// is only the one for every host, since a wildcard that ends in a number does not
// compile.
func (q *question) patterns() iter.Seq[pattern] {
	return func(yield func(pattern) bool) {
		o := q.origin
		if !yield(pattern{Origin: o}) || q.kind != ordinary {
			return
		}
		for o.Host = range parents(q.origin.Host) {
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
