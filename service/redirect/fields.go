package redirect

import (
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

var (
	// framingFields delimit the body and go with it.
	framingFields = []string{"Content-Length", "Transfer-Encoding"}
	// offOriginFields are kept off-origin: they say what the client can take
	// and which part it wants, not who it is.
	offOriginFields = []string{
		"Accept", "Accept-Language", "Accept-Encoding", "User-Agent",
		"Range", "If-Range", "If-None-Match", "If-Modified-Since",
	}
)

// kept returns those of the fields of from that go along to next, in a list of
// its own.
func (p profile) kept(plan fetch.RedirectPlan, from Hop, next *Hop, fields []fetch.Field, dropsBody bool) []fetch.Field {
	to := next.Destination.Origin
	leaves := from.Destination.Origin != to
	keepsBound := p.upgrades && isUpgrade(from.Destination.Origin, to)

	var kept []fetch.Field
	for _, f := range fields {
		switch {
		case named(p.everyHop, f.Name):
		case dropsBody && (named(framingFields, f.Name) || named(p.bodyFields, f.Name)):
		case leaves && !p.crosses(plan, f.Name, next.Body, keepsBound):
		default:
			kept = append(kept, f)
		}
	}
	return kept
}

// crosses reports whether the field called name goes along to another origin.
func (p profile) crosses(plan fetch.RedirectPlan, name string, hasBody, keepsBound bool) bool {
	switch {
	case strings.EqualFold(name, "Host"), named(plan.RemoveFields, name):
		return false
	case named(fetch.BoundFields, name):
		return keepsBound
	case p.keepsOffOrigin, named(offOriginFields, name), named(plan.KeepFields, name):
		return true
	}
	return hasBody && describesBody(name)
}

// describesBody reports whether name is one of the Content-* fields.
func describesBody(name string) bool {
	const prefix = "Content-"
	return len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// isUpgrade reports whether to is from with TLS, both at their default port.
func isUpgrade(from, to fetch.Origin) bool {
	return from == fetch.Origin{Scheme: "http", Host: to.Host, Port: 80} &&
		to == fetch.Origin{Scheme: "https", Host: to.Host, Port: 443}
}

// named reports whether name is in names, without regard to case.
func named(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}
