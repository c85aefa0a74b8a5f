package server

import (
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// trailers plans the fields behind the body.
func (d *draft) trailers(m *fetchgatev1.HttpRequest) {
	list := m.GetTrailers()
	if len(list) == 0 {
		return
	}
	if m.GetBody() == nil {
		d.wrong("request.trailers", "trailers follow a body; set request.body, which may be empty")
		return
	}
	place := fetch.InTrailers
	if d.plan.Verbatim {
		place = fetch.InVerbatimTrailers
	}
	given := d.plan.Fields[:min(len(m.GetHeaders()), len(d.plan.Fields))] // the defaults do not count
	if fields, ok := d.checked(place, "request.trailers", list, given); ok {
		d.plan.Trailers = fields
	}
}

// expectation plans whether the body waits for 100 Continue, and how long.
func (d *draft) expectation(m *fetchgatev1.ProtocolOptions, hasBody bool) {
	const path, timeout = "options.protocol.expect_continue", "options.protocol.continue_timeout"
	d.plan.ExpectContinue = m.GetExpectContinue()
	isEmpty := !hasBody || d.plan.Source != nil && d.plan.Source.Length() == 0
	if d.plan.ExpectContinue && isEmpty {
		d.wrong(path, "there is no body that could wait (RFC 9110 section 10.1.1); leave it out")
	}
	if m.GetContinueTimeout() != nil && !d.plan.ExpectContinue {
		d.wrong(timeout, "it goes with options.protocol.expect_continue")
	}
	d.plan.Timeouts.Continue = d.duration(timeout, m.GetContinueTimeout(), d.limits.Timeouts.Continue, d.limits.MaxTimeouts.Continue)
}
