package transport

import (
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// refusedHead is the failure of a response whose head breaks a rule.
func (x *exchange) refusedHead(fault *h1.Fault) *fetch.Failure {
	message := "the response head of " + x.name() + " breaks the rules of HTTP: " + fault.Rule
	if fault.Reason == fetch.ReasonHeadTooLarge {
		message = "the response head of " + x.name() + " is too large: " + fault.Rule
	}
	f := x.fail(fault.Reason, message, nil)
	f.LimitHit = fault.Limit
	return f
}

// refusedBody is the failure of a response whose chunks or trailers break a rule.
func (x *exchange) refusedBody(fault *h1.Fault) *fetch.Failure {
	message := "the chunks of the body that " + x.name() + " sends are broken: " + fault.Rule
	if fault.Reason == fetch.ReasonHeadTooLarge {
		message = "the trailer section of " + x.name() + " is too large: " + fault.Rule
	}
	f := x.fail(fault.Reason, message, nil)
	f.Stage, f.LimitHit = fetch.StageBody, fault.Limit
	return f
}
