package policy

import "github.com/fetchgate/fetchgate/service/fetch"

// Reaches tells whether some rule can still lead a fetch over a connection of
// this route: whoever asks, and whatever for. A connection that was opened for
// another must not stay. server are the settings of TLS where a rule names no
// profile.
func (p *Policy) Reaches(to fetch.Route, server fetch.TLSSettings) bool {
	if p.lax && to.AddressProfile == publicProfile && isSameTLS(to.TLS, server) {
		return true // what rules deny may go ahead there
	}
	q := newQuestion(&Ask{Destination: fetch.Destination{Origin: to.Origin}})
	for s := range p.sitesOf(&q) {
		r := p.ordered[s.place]
		if s.scheme == to.Origin.Scheme && s.port == to.Origin.Port && !r.deny && r.opened.profile == to.AddressProfile && isSameTLS(to.TLS, r.tls(server)) {
			return true
		}
	}
	return false
}

// tls are the settings of TLS for a hop that r carries out.
func (r *rule) tls(server fetch.TLSSettings) fetch.TLSSettings {
	if r.settings == nil {
		return server
	}
	return server.With(r.settings.TLS)
}

// isSameTLS reports whether a connection with these settings is what a hop with
// the settings of now may use. A request may have asked for a newer version.
func isSameTLS(opened, now fetch.TLSSettings) bool {
	return opened.RootsID == now.RootsID && opened.Pins == now.Pins && opened.MinVersion >= now.MinVersion
}
