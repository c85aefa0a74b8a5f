package redirect

import "github.com/fetchgate/fetchgate/service/fetch"

// Hop is one request of a chain of redirects: what was sent, or is to be sent.
type Hop struct {
	Method      string
	Destination fetch.Destination
	// Fields are the request's own. What is made anew for each hop, such as the
	// Cookie field of a jar or what a credential adds, is not among them.
	Fields []fetch.Field
	// Trailers go along as Fields do, behind the body.
	Trailers []fetch.Field
	// Body tells that the request body goes along.
	Body bool
}

// Next returns the hop that resp, the answer to from, leads to; nil if resp is
// not followed. Followed are 301, 302, 303, 307 and 308 with a Location that is
// not empty (RFC 9110 section 15.4), for RedirectAIOHTTP also with a URI field
// in its place. Nothing else is: no Refresh, no Location of another status.
//
// The Location is resolved against from's URL (RFC 3986 section 5) and inherits
// its fragment (RFC 9110 section 10.2.2). Dot segments are removed, encoded
// ones too; bytes that a URL cannot have are percent-encoded, and the
// Destination's Encoded tells so. As with fetch.ParseURL, nothing else is
// repaired: what two parsers could read in two ways is refused.
//
// Method, body and fields follow plan.Profile. A field that is dropped stays
// dropped in the hops that follow, since they derive from this one. Next
// neither counts hops against plan.Max nor asks policy.
//
// The error is a *fetch.Failure: ReasonInvalidRedirectURL,
// ReasonUnsupportedScheme, or ReasonHeadTooLarge if the Location or what it
// leads to is longer than fetch.MaxURLBytes.
func Next(plan fetch.RedirectPlan, from Hop, resp fetch.Head) (*Hop, error) {
	if !isFollowed(resp.Status) {
		return nil, nil
	}
	p := profileOf(plan.Profile)
	location, err := p.location(resp)
	if location == "" || err != nil {
		return nil, err
	}
	destination, err := resolve(from.Destination, location)
	if err != nil {
		return nil, err
	}
	method, dropsBody := p.rewrite(resp.Status, from.Method)
	next := &Hop{Method: method, Destination: destination, Body: from.Body && !dropsBody}
	next.Fields = p.kept(plan, from, next, from.Fields, dropsBody)
	if next.Body {
		next.Trailers = p.kept(plan, from, next, from.Trailers, dropsBody)
	}
	return next, nil
}

func isFollowed(status int) bool {
	switch status {
	case 301, 302, 303, 307, 308:
		return true
	}
	return false
}
