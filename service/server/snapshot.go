package server

import (
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Settings are what one generation of the configuration says of fetches.
type Settings struct {
	Limits fetch.Limits
	// TLS are the settings of handshakes with upstreams.
	TLS fetch.TLSSettings
	// Generation is the number of the configuration.
	Generation int64
	// Policy decides, for fetches as for Explain.
	Policy *policy.Policy
	// Credentials are those that the server holds; nil means none.
	Credentials fetch.Credentials
}

// Snapshot answers RPCs under one generation of the configuration. It does not
// change: what began under it ends under it.
type Snapshot struct {
	planner planner
	policy  *policy.Policy
	engine  *engine.Engine
}

// Snapshot returns what answers RPCs under o.
func (s *Server) Snapshot(o Settings) *Snapshot {
	return &Snapshot{
		planner: planner{limits: o.Limits, tls: o.TLS, defaultFields: defaultFields(s.userAgent), generation: o.Generation, held: o.Credentials,
			underscores: o.Policy != nil && o.Policy.AllowsUnderscoreFields()},
		policy: o.Policy,
		engine: s.engine.With(o.Policy),
	}
}
