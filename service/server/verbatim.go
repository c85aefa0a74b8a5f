package server

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// verbatim makes the plan that of a request which goes out once, as it is, and
// refuses what was asked for beside that.
func (d *draft) verbatim(m *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) {
	if len(m.GetCookies()) > 0 {
		d.wrong("request.cookies", "options.verbatim keeps no cookies; write the Cookie field into request.headers")
	}
	if response := o.GetResponse(); response.GetDecode() {
		d.wrong("options.response.decode", "options.verbatim decodes nothing; leave it out")
	}
	if redirect := o.GetRedirect(); redirect.GetMaxRedirects() > 0 || isSet(redirect) && redirect.MaxRedirects == nil {
		d.wrong("options.redirect.max_redirects", "options.verbatim follows no redirect; set it to 0, or leave options.redirect out")
	}
	retry := o.GetRetry()
	if retry.GetMaxAttempts() > 1 || isSet(retry) && retry.MaxAttempts == nil {
		d.wrong("options.retry.max_attempts", "options.verbatim sends the request once; set it to 1, or leave options.retry out")
	}
	if !isSet(retry) {
		d.plan.Retry = fetch.RetryPlan{} // nothing counts as a retry that was not made
	}
	d.plan.Retry.MaxAttempts, d.plan.Redirect = 1, fetch.RedirectPlan{}
	d.ownFields(m.GetBody() != nil)
}

// isSet tells that a message says something.
func isSet(m proto.Message) bool { return proto.Size(m) > 0 }

// ownFields compares those fields that fetchgate writes itself with what it will
// write. hasBody tells that the request has a body, right or wrong.
func (d *draft) ownFields(hasBody bool) {
	seen := map[string]bool{}
	for i, f := range d.plan.Fields {
		name := strings.ToLower(f.Name)
		same := sameAs[name]
		if same == nil {
			continue
		}
		path := fmt.Sprintf("request.headers[%d]", i)
		framed := seen["content-length"] || seen["transfer-encoding"]
		switch isFraming := name == "content-length" || name == "transfer-encoding"; {
		case seen[name]:
			d.wrong(path, "there is another field %s, and only one is sent", name)
		case isFraming && framed:
			d.wrong(path, "Content-Length and Transfer-Encoding exclude one another (RFC 9112 section 6.2)")
		case isFraming && hasBody && d.plan.Source == nil: // the body is wrong
		default:
			if err := same(d.plan, string(f.Value)); err != nil {
				d.wrong(path, "a verbatim request may have the field %s if it says what is sent anyway: %v", name, err)
			}
		}
		seen[name] = true
	}
}

// sameAs are, for the fields that fetchgate writes itself, what says why a value is
// not what it will write; nil means that it is. They are those of
// fetch.RefusedFields that may stand in a verbatim request.
var sameAs = map[string]func(p *fetch.Plan, value string) error{
	"host":              sameHost,
	"content-length":    sameLength,
	"transfer-encoding": sameCoding,
	"connection":        sameConnection,
	"expect":            sameExpectation,
	"te":                sameTE,
	"trailer":           sameTrailer,
}

func sameHost(p *fetch.Plan, value string) error {
	origin := p.Destination.Origin
	if origin.Host == "" || fetch.EqualFold(value, origin.Authority()) {
		return nil // without a host the URL is wrong, and said to be
	}
	return fmt.Errorf("it is %q, by the URL", origin.Authority())
}

// sameLength gives a request without a body an empty one, if its length is to be
// said: 0.
func sameLength(p *fetch.Plan, value string) error {
	switch {
	case len(p.Trailers) > 0:
		return errors.New("trailers follow a body in chunks, which has no length; leave it out")
	case p.Source == nil && value != "0":
		return errors.New("there is no body, so it is 0 or left out")
	case p.Source == nil:
		p.Source = body.Raw(nil)
	case value != strconv.FormatInt(p.Source.Length(), 10):
		return fmt.Errorf("the body has %d bytes", p.Source.Length())
	}
	return nil
}

func sameCoding(p *fetch.Plan, value string) error {
	switch {
	case !fetch.EqualFold(value, "chunked"):
		return errors.New("a body goes out in chunks or as it is, in no other coding; write chunked, or leave it out")
	case p.Source == nil:
		return errors.New("there is no body to send in chunks; set request.body, which may be empty")
	}
	p.Source = body.Unsized(p.Source)
	return nil
}

func sameConnection(p *fetch.Plan, value string) error {
	isClose, isKept := fetch.EqualFold(value, "close"), fetch.EqualFold(value, "keep-alive")
	switch {
	case !isClose && !isKept:
		return errors.New("it is keep-alive, or close with options.connection.close_after")
	case isClose && !p.CloseAfter:
		return errors.New("the connection stays open; set options.connection.close_after")
	case isKept && p.CloseAfter:
		return errors.New("options.connection.close_after says close")
	}
	return nil
}

func sameExpectation(p *fetch.Plan, value string) error {
	if fetch.EqualFold(value, "100-continue") && p.ExpectContinue {
		return nil
	}
	return errors.New("it is 100-continue with options.protocol.expect_continue")
}

func sameTE(p *fetch.Plan, value string) error {
	if fetch.EqualFold(value, "trailers") {
		return nil
	}
	return errors.New("no transfer coding but chunked is read, so it is trailers")
}

func sameTrailer(p *fetch.Plan, value string) error {
	if len(p.Trailers) == 0 {
		return errors.New("there are no request.trailers")
	}
	if fetch.EqualFold(value, strings.Join(fetch.FieldNames(p.Trailers), ", ")) {
		return nil
	}
	return errors.New(`it has the names of request.trailers in their order, each once, with ", " between them`)
}
