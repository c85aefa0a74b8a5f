package policy

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/fetchgate/fetchgate/service/fetch"
)

const (
	// maxNearMisses is how many an explanation has.
	maxNearMisses = 5
	// maxTried bounds the questions that are tried to find them, each of which
	// costs as much as a decision.
	maxTried = 100
)

// NearMiss is a rule that would allow what is denied if one thing about the
// request were different.
type NearMiss struct {
	Rule string
	// At is where the rule is written, as in [Rule].
	At string
	// Difference is that thing: "the method were GET" if the rule names methods,
	// "the port were 8443", "the scheme were https". With the scheme changes the
	// port, where that is the scheme's.
	Difference string
}

// site is where a rule allows something on a host.
type site struct {
	scheme string
	port   uint16
	place  int // of the rule
}

// sites finds, by the host of a pattern, on which ports and by which schemes
// there are rules for it, in the order of the rules. Only what explains looks
// here: decisions are made by index.
type sites map[pattern][]site

func (s sites) add(p pattern, place int) {
	host := p.anywhere()
	s[host] = append(s[host], site{p.Scheme, p.Port, place})
}

// anywhere returns p without scheme and port.
func (p pattern) anywhere() pattern {
	p.Scheme, p.Port = "", 0
	return p
}

// of yields the sites of the host of q.
func (s sites) of(q question) iter.Seq[site] {
	return func(yield func(site) bool) {
		for key := range q.patterns() {
			for _, at := range s[key.anywhere()] {
				if !yield(at) {
					return
				}
			}
		}
	}
}

// distance says how far a site is from what was asked, the nearest first.
type distance int

const (
	otherMethod distance = iota
	otherPort
	otherScheme
	tooFar // more than one thing would be different
)

func (s site) distanceTo(q question) distance {
	switch here := q.origin; {
	case s.scheme == here.Scheme && s.port == here.Port:
		return otherMethod
	case s.scheme == here.Scheme:
		return otherPort
	case isUsual(here) && isUsual(s.origin(q)), !isUsual(here) && s.port == here.Port:
		return otherScheme // as if the word were changed in the URL
	}
	return tooFar
}

// origin is the site as an origin of the host of q.
func (s site) origin(q question) fetch.Origin {
	return fetch.Origin{Scheme: s.scheme, Host: q.origin.Host, Port: s.port}
}

// isUsual reports whether the port of o is the scheme's, which a URL leaves out.
func isUsual(o fetch.Origin) bool { return o.Authority() != o.HostPort() }

// variant is a question with one thing different.
type variant struct {
	question
	difference string
	by         *rule // that might allow it
}

// candidate is a site that might allow a variant of what was asked.
type candidate struct {
	site
	distance distance
}

// variants are what r, whose site c is, might allow instead of q.
func (c candidate) variants(q question, r *rule) []variant {
	switch c.distance {
	case otherMethod:
		all := make([]variant, len(r.methods))
		for i, method := range r.methods {
			all[i] = variant{q, "the method were " + method, r}
			all[i].method = method
		}
		return all
	case otherPort:
		v := variant{q, fmt.Sprintf("the port were %d", c.port), r}
		v.origin = c.origin(q)
		return []variant{v}
	case otherScheme:
		v := variant{q, "the scheme were " + c.scheme, r}
		v.origin = c.origin(q)
		return []variant{v}
	}
	return nil
}

// near yields the variants of q, the nearest first; of those the ones of the
// first rule first.
func (p *Policy) near(q question) iter.Seq[variant] {
	var found []candidate
	for s := range p.sites.of(q) {
		if away := s.distanceTo(q); away < tooFar {
			found = append(found, candidate{s, away})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.place, b.place))
	})
	return func(yield func(variant) bool) {
		for _, c := range found {
			for _, v := range c.variants(q, p.rules[c.place]) {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// nearMisses returns the rules that would allow a variant of q, each once. They
// are rules for the host of q: nothing is told of other hosts.
func (p *Policy) nearMisses(q question) []NearMiss {
	var misses []NearMiss
	seen := map[*rule]bool{}
	tried := 0
	for v := range p.near(q) {
		if seen[v.by] {
			continue
		}
		if tried++; tried > maxTried || len(misses) == maxNearMisses {
			break
		}
		if d, r := p.settle(&v.question); r == v.by && d.Denied == nil {
			seen[r] = true
			misses = append(misses, NearMiss{Rule: r.name, At: r.at, Difference: v.difference})
		}
	}
	return misses
}
