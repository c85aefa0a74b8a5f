package policy

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

const (
	// maxNearMisses is how many an explanation has.
	maxNearMisses = 5
	// maxTried bounds the questions that are tried to find them, some of which
	// cost as much as a decision, and maxTrying the time that all but the first
	// untimed of them take.
	maxTried  = 100
	maxTrying = 20 * time.Millisecond
	untimed   = 10
)

// NearMiss is a rule that would allow what is denied if one thing about the
// request were different.
type NearMiss struct {
	Rule string
	// At is where the rule is written, as in [Rule].
	At string
	// Difference is that thing: "the method were GET" if the rule names methods,
	// "the path were /v1/*", "the request had the field X-Team", "the caller were
	// billing", "the query had team=7", "its condition (when) held", "the port were
	// 8443", "the scheme were https". Where servers read the path in more ways than one:
	// "servers read the path in one way alone". With the scheme
	// changes the port, where that is the scheme's. Another caller is named only to
	// who has the right to operate fetchgate.
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

// sitesOf yields the sites of the host of q. Of the wildcards above a special name
// there are those that deny.
func (p *Policy) sitesOf(q *question) iter.Seq[site] {
	return func(yield func(site) bool) {
		for key := range p.patterns(q.target) {
			for _, at := range p.sites[key.anywhere()] {
				if key.below && q.kind != ordinary && at.place >= p.denying {
					break
				}
				if !yield(at) {
					return
				}
			}
		}
	}
}

// isShown reports whether the caller of q may learn of the rule: it is for him,
// or he runs fetchgate.
func (r *rule) isShown(q *question) bool {
	return r.takesCaller(q) || q.ask.Caller.Rights&fetch.RightOperate != 0
}

// atOrigin yields the rules for the origin and the caller of q, those that deny or
// those that allow, whatever its path, in their order.
func (p *Policy) atOrigin(q *question, deny bool) iter.Seq[*rule] {
	var at []int
	for s := range p.sitesOf(q) {
		r := p.ordered[s.place]
		if s.scheme == q.origin.Scheme && s.port == q.origin.Port && r.deny == deny && r.takesCaller(q) {
			at = append(at, s.place)
		}
	}
	slices.Sort(at)
	return func(yield func(*rule) bool) {
		for _, place := range slices.Compact(at) {
			if !yield(p.ordered[place]) {
				return
			}
		}
	}
}

// distance says how far a site is from what was asked, the nearest first.
type distance int

const (
	sameOrigin distance = iota
	otherPort
	otherScheme
	tooFar // more than one thing would be different
)

func (s site) distanceTo(q *question) distance {
	switch here := q.origin; {
	case s.scheme == here.Scheme && s.port == here.Port:
		return sameOrigin
	case s.scheme == here.Scheme:
		return otherPort
	case isUsual(here) && isUsual(s.origin(q)), !isUsual(here) && s.port == here.Port:
		return otherScheme // as if the word were changed in the URL
	}
	return tooFar
}

// origin is the site as an origin of the host of q.
func (s site) origin(q *question) fetch.Origin {
	return fetch.Origin{Scheme: s.scheme, Host: q.origin.Host, Port: s.port}
}

// isUsual reports whether the port of o is the scheme's, which a URL leaves out.
func isUsual(o fetch.Origin) bool { return o.Authority() != o.HostPort() }

// variant is what was asked with one thing different.
type variant struct {
	Ask
	difference string
	by         *rule // that might allow it
	// held tells that the difference is that the condition of by holds.
	held bool
}

// candidate is a site that might allow a variant of what was asked.
type candidate struct {
	site
	distance distance
}

// variants are what r, whose site c is, might allow instead of q.
func (c candidate) variants(q *question, r *rule) []variant {
	asked := variant{Ask: *q.ask, by: r}
	if c.distance == sameOrigin {
		return asked.here(q, r)
	}
	asked.Destination.Origin = c.origin(q)
	asked.difference = "the scheme were " + c.scheme
	if c.distance == otherPort {
		asked.difference = fmt.Sprintf("the port were %d", c.port)
	}
	return []variant{asked}
}

// here are the variants of v at the same origin: another method, another path,
// another parameter, one more field, a condition that holds, another caller.
func (v variant) here(q *question, r *rule) []variant {
	var all []variant
	for _, method := range r.methods {
		other := v
		other.Method, other.difference = method, "the method were "+method
		all = append(all, other)
	}
	all = append(all, v.elsewhere(q, r)...)
	for _, p := range r.query {
		other := v
		other.Destination.Target = p.within(v.Destination.Target)
		other.difference = "the query had " + p.words()
		all = append(all, other)
	}
	for _, name := range r.headers {
		if _, there := fetch.Get(v.Fields, name); there {
			continue
		}
		other := v
		other.Fields = append(slices.Clip(v.Fields), fetch.Field{Name: name})
		other.difference = "the request had the field " + name
		all = append(all, other)
	}
	if r.when != nil {
		other := v
		other.difference, other.held = "its condition (when) held", true
		all = append(all, other)
	}
	for _, name := range r.callers {
		other := v
		other.Caller = fetch.Caller{Name: name, Rights: v.Caller.Rights}
		other.difference = "the caller were " + name
		all = append(all, other)
	}
	return all
}

// elsewhere are the variants of v at other paths of r. Where r stands for the path
// as it is sent, another is not what is missing: servers read it in other ways too.
func (v variant) elsewhere(q *question, r *rule) []variant {
	var all []variant
	paths, severalReadings := r.asPaths, false
	if i := slices.IndexFunc(paths, func(path string) bool { return !isPlain(q.path) && isMatch(path, q.path) }); i >= 0 {
		paths, severalReadings = paths[i:i+1], true
	}
	for _, path := range paths {
		other := v
		other.Destination.Target = someTarget(path, q.ask.Destination.RawQuery())
		other.difference = "the path were " + path
		if severalReadings {
			other.difference = "servers read the path in one way alone"
		}
		all = append(all, other)
	}
	return all
}

// isMatch reports whether the path of a rule stands for one of a request as it is
// sent.
func isMatch(path, sent string) bool {
	forms, _ := parsePath(path) // it was compiled
	return slices.ContainsFunc(forms, func(p pathPattern) bool { return p.matches(sent) })
}

// someTarget returns a target that the path of a rule stands for, with a query.
func someTarget(path, query string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if s == "*" || strings.HasPrefix(s, "{") {
			segments[i] = someLabel
		}
	}
	target := strings.Join(segments, "/")
	if query != "" {
		target += "?" + query
	}
	return target
}

// within returns a target with p as the only parameter of its name.
func (p param) within(target string) string {
	path, query, _ := strings.Cut(target, "?")
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(part, "="); part != "" && !isForm(name, p.name) {
			kept = append(kept, part)
		}
	}
	value := p.value
	if value == anyValue {
		value = someLabel
	}
	return path + "?" + strings.Join(append(kept, url.QueryEscape(p.name)+"="+url.QueryEscape(value)), "&")
}

// words are p in a sentence.
func (p param) words() string {
	if p.value == anyValue {
		return "the parameter " + p.name
	}
	return p.name + "=" + p.value
}

// near yields the variants of q, the nearest first; of those the ones of the
// first rule first.
func (p *Policy) near(q *question) iter.Seq[variant] {
	var found []candidate
	for s := range p.sitesOf(q) {
		away := s.distanceTo(q)
		if r := p.ordered[s.place]; away < tooFar && !r.deny && r.isShown(q) {
			found = append(found, candidate{s, away})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.place, b.place))
	})
	return func(yield func(variant) bool) {
		for _, c := range found {
			for _, v := range c.variants(q, p.ordered[c.place]) {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// nearMisses returns the rules that would allow a variant of q, each once. They
// are rules for the host and the caller of q: nothing is told of others, but to
// who runs fetchgate. ambiguous tells that q is denied since its path is read in
// more ways than one.
func (p *Policy) nearMisses(ctx context.Context, q *question, ambiguous bool) []NearMiss {
	began := time.Now()
	var misses []NearMiss
	seen := map[*rule]bool{}
	tried := 0
	for v := range p.near(q) {
		if seen[v.by] {
			continue
		}
		if tried++; tried > maxTried || len(misses) == maxNearMisses || ctx.Err() != nil || tried > untimed && time.Since(began) > maxTrying {
			break
		}
		if v.held {
			if !ambiguous && p.lacksCondition(v.by, q) {
				seen[v.by] = true
				misses = append(misses, NearMiss{Rule: v.by.name, At: v.by.at, Difference: v.difference})
			}
			continue
		}
		asked := newQuestion(&v.Ask)
		if !v.by.takes(&asked) {
			continue
		}
		if d, _, r := p.settle(&asked); r == v.by && d.Denied == nil && d.WouldDeny == nil {
			seen[r] = true
			misses = append(misses, NearMiss{Rule: r.name, At: r.at, Difference: v.difference})
		}
	}
	return misses
}

// lacksCondition reports whether r would be for q, which no rule is for, if its
// condition held.
func (p *Policy) lacksCondition(r *rule, q *question) bool {
	for _, reading := range p.readings(q) {
		for _, c := range checks {
			if c.name != "when" && !c.fits(r, &reading) {
				return false
			}
		}
	}
	return r.takesCaller(q) && !r.takesRest(q)
}
