package policy

import (
	"slices"
	"strings"
)

// index finds the rules that may be for an origin and a path; of many at one
// place those that ask for what the request has (split).
type index map[pattern]*group

// group are the rules with one pattern, by their paths: those without, and the
// others as a tree of segments.
type group struct {
	everywhere places
	root       *node
}

// node is a place in paths, behind a '/'.
type node struct {
	next  map[string]*node // by segment; anySegment for "{name}"
	end   places           // of paths that end with this segment
	below places           // of paths that go on here in any way
}

// places are the rules at one place of the index, as places in Policy.ordered in
// ascending order. Where they are many, split tells them apart.
type places struct {
	list  []int
	split *split
}

func (x index) add(p pattern, place int, r *rule) (entries int) {
	g := x[p]
	if g == nil {
		g = &group{}
		x[p] = g
	}
	if len(r.paths) == 0 {
		return g.everywhere.add(place, r)
	}
	if g.root == nil {
		g.root = &node{}
	}
	for _, path := range r.paths {
		n := g.root
		for _, segment := range path.segments {
			if n.next == nil {
				n.next = map[string]*node{}
			}
			if n.next[segment] == nil {
				n.next[segment] = &node{}
			}
			n = n.next[segment]
		}
		at := &n.end
		if path.below {
			at = &n.below
		}
		entries += at.add(place, r)
	}
	return entries
}

// add enters r at its place, which is not below the last.
func (s *places) add(place int, r *rule) (entries int) {
	if n := len(s.list); n == 0 || s.list[n-1] != place {
		s.list = append(s.list, place)
	}
	return max(1, len(r.keys(byCaller)))
}

// search is a look for the first rule at or behind from that decides about q.
type search struct {
	ordered []*rule
	q       *question
	from    int
	best    int
	why     unclear // of the condition of the best
}

// denying makes a look find rules that deny alone.
func (s *search) denying(p *Policy, look func()) {
	before := s.best
	s.best = min(before, p.denying)
	bound := s.best
	if look(); s.best == bound {
		s.best = before
	}
}

func (s *search) group(g *group) {
	s.places(&g.everywhere)
	if g.root == nil {
		return
	}
	if rest, isPath := strings.CutPrefix(s.q.path, "/"); isPath {
		s.node(g.root, rest)
	}
}

// node looks at the paths that go on behind n with rest.
func (s *search) node(n *node, rest string) {
	s.places(&n.below)
	if n.next == nil {
		return
	}
	segment, after, more := strings.Cut(rest, "/")
	for _, word := range [...]string{segment, anySegment} {
		next := n.next[word]
		switch {
		case next == nil || word == anySegment && segment == "":
		case more:
			s.node(next, after)
		default:
			s.places(&next.end)
		}
	}
}

func (s *search) places(at *places) {
	if at.split != nil {
		s.split(at.split)
		return
	}
	s.list(at.list)
}

func (s *search) list(list []int) {
	if s.from > 0 && len(list) > 0 && list[0] < s.from {
		at, _ := slices.BinarySearch(list, s.from)
		list = list[at:]
	}
	for _, i := range list {
		if i >= s.best {
			return
		}
		if s.fits(s.ordered[i]) {
			s.best = i
			return
		}
	}
}

// fits reports whether r, whose origin and path are those of the question,
// decides about it: also if its condition cannot be judged, and then by a denial.
func (s *search) fits(r *rule) bool {
	if !r.takesCaller(s.q) || !r.takesMethod(s.q) || !r.takesFields(s.q) || !r.takesQuery(s.q) {
		return false
	}
	if r.when == nil {
		s.why = isClear
		return true
	}
	holds, why := r.when.holds(s.q)
	if !holds && why == isClear {
		return false
	}
	s.why = why
	return true
}
