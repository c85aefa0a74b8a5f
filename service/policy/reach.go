package policy

import "github.com/fetchgate/fetchgate/service/fetch"

// Reaches tells whether some rule can still lead a fetch to o with this address
// profile: whoever asks, and whatever for. A connection that was opened for
// another must not stay.
func (p *Policy) Reaches(o fetch.Origin, profile string) bool {
	if p.lax && profile == publicProfile {
		return true // what rules deny may go ahead there
	}
	q := newQuestion(&Ask{Destination: fetch.Destination{Origin: o}})
	for s := range p.sitesOf(&q) {
		r := p.ordered[s.place]
		if s.scheme == o.Scheme && s.port == o.Port && !r.deny && r.opened.profile == profile {
			return true
		}
	}
	return false
}
