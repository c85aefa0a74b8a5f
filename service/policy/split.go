package policy

import (
	"slices"
	"strings"
)

// maxTogether is how many rules at one place of the index are looked at one after
// the other; more are split, where that helps.
const maxTogether = 8

// trait is something of a request that rules ask for. A rule that matches has one
// of its keys of each trait among those of the request.
type trait uint8

// The traits, in the order in which rules are split by them.
const (
	byCaller trait = iota
	byMethod
	byParam
	byField
	traits
)

// maxKeys are how many keys of a trait a rule may have to be found by it; one with
// more is looked at whatever the request has.
var maxKeys = [traits]int{byCaller: 16, byMethod: 8, byParam: 1, byField: 1}

// split tells rules apart by a trait.
type split struct {
	by trait
	// all are the rules that are not found by it, of the others by their keys.
	all places
	of  map[param]*places
}

// keys are what r asks for of a trait; none if it is not found by it.
func (r *rule) keys(t trait) []param {
	var keys []param
	switch t {
	case byCaller:
		keys = named(r.callers)
	case byMethod:
		keys = named(r.methods)
	case byParam:
		// Every parameter has to fit: the first with a value tells most.
		keys = r.query
		if i := slices.IndexFunc(keys, func(p param) bool { return p.value != anyValue }); i >= 0 {
			keys = keys[i:]
		}
		keys = keys[:min(1, len(keys))]
	case byField:
		keys = named(r.headers[:min(1, len(r.headers))])
		for i := range keys {
			keys[i].name = strings.ToLower(keys[i].name)
		}
	}
	if len(keys) > maxKeys[t] {
		return nil
	}
	return keys
}

// named are keys that are names alone.
func named(names []string) []param {
	keys := make([]param, len(names))
	for i, name := range names {
		keys[i].name = name
	}
	return keys
}

// divide splits rules that are too many by the first trait at or behind from that
// leaves at most three quarters of them together.
func (s *places) divide(ordered []*rule, from trait) {
	if len(s.list) <= maxTogether {
		return
	}
	for t := from; t < traits; t++ {
		found := split{by: t, of: map[param]*places{}}
		most := 0
		for _, place := range s.list {
			keys := ordered[place].keys(t)
			if len(keys) == 0 {
				found.all.list = append(found.all.list, place)
			}
			for _, key := range keys {
				if found.of[key] == nil {
					found.of[key] = &places{}
				}
				at := found.of[key]
				at.list = append(at.list, place)
				most = max(most, len(at.list))
			}
		}
		if most+len(found.all.list) > len(s.list)*3/4 {
			continue
		}
		found.all.divide(ordered, t+1)
		for _, at := range found.of {
			at.divide(ordered, t+1)
		}
		s.list, s.split = nil, &found
		return
	}
}

// divide splits the rules at every place of the index.
func (x index) divide(ordered []*rule) {
	for _, g := range x {
		g.everywhere.divide(ordered, 0)
		if g.root != nil {
			g.root.divide(ordered)
		}
	}
}

func (n *node) divide(ordered []*rule) {
	n.end.divide(ordered, 0)
	n.below.divide(ordered, 0)
	for _, next := range n.next {
		next.divide(ordered)
	}
}

// split looks at the rules of a split that may be for the question.
func (s *search) split(at *split) {
	s.places(&at.all)
	look := func(key param) {
		if found := at.of[key]; found != nil {
			s.places(found)
		}
	}
	switch at.by {
	case byCaller:
		look(param{name: s.q.ask.Caller.Name})
	case byMethod:
		look(param{name: s.q.ask.Method})
	case byParam:
		for _, key := range s.q.params() {
			look(key)
		}
	case byField:
		for _, key := range s.q.fieldNames() {
			look(key)
		}
	}
}

// seen are the keys of a request that it takes work to find, each once.
type seen struct{ params, fields []param }

// params are the parameters of the query, by both ways in which it is split, each
// with its value and with any.
func (q *question) params() []param {
	if q.seen.params != nil {
		return q.seen.params
	}
	query := q.ask.Destination.RawQuery()
	all := make([]param, 0, 2*strings.Count(query, "&")+2)
	add := func(wide bool) {
		for name, value := range pairs(query, wide) {
			key := param{formBytes(name), formBytes(value)}
			all = append(all, key, param{key.name, anyValue})
		}
	}
	add(false)
	if strings.Contains(query, ";") {
		add(true)
	}
	q.seen.params = once(all)
	return q.seen.params
}

// fieldNames are the names of the fields, in lower case.
func (q *question) fieldNames() []param {
	if q.seen.fields == nil {
		all := make([]param, 0, len(q.ask.Fields))
		for _, f := range q.ask.Fields {
			all = append(all, param{name: strings.ToLower(f.Name)})
		}
		q.seen.fields = once(all)
	}
	return q.seen.fields
}

// once returns keys each once.
func once(keys []param) []param {
	slices.SortFunc(keys, func(a, b param) int {
		if a.name != b.name {
			return strings.Compare(a.name, b.name)
		}
		return strings.Compare(a.value, b.value)
	})
	return slices.Compact(keys)
}
