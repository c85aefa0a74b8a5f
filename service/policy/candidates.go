package policy

import "slices"

// Candidates returns the names of the denying rules whose origins, callers,
// methods and, by some reading, paths are those of ask, in their order: what they
// ask for beyond that is left out.
func (p *Policy) Candidates(ask Ask) []string {
	q := newQuestion(&ask)
	var names []string
	var all []question
	for r := range p.atOrigin(&q, true) {
		if all == nil {
			all = p.readings(&q)
		}
		if r.takesMethod(&q) && slices.ContainsFunc(all, func(q question) bool { return r.takesPath(&q) }) {
			names = append(names, r.name)
		}
	}
	return names
}
