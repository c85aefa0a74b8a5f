package redirect

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// location returns where resp leads, as it was written; empty if nowhere.
func (p profile) location(resp fetch.Head) (string, error) {
	location, err := single(resp.Fields, "Location")
	if location == "" && err == nil && p.uriField {
		return single(resp.Fields, "URI")
	}
	return location, err
}

// single returns the value of the field called name without the blanks around
// it, which are not part of it (RFC 9110 section 5.5). Lines that differ lead
// to two places at once.
func single(fields []fetch.Field, name string) (string, error) {
	value, seen := "", false
	for _, f := range fields {
		if !strings.EqualFold(f.Name, name) {
			continue
		}
		v := strings.Trim(string(f.Value), " \t")
		if seen && v != value {
			return "", invalid("there are several of them, and they differ")
		}
		value, seen = v, true
	}
	return value, nil
}

// invalid says why a Location cannot be followed. What is said quotes nothing of
// it: an upstream may show there what it was sent.
func invalid(format string, args ...any) error {
	return refused(fetch.ReasonInvalidRedirectURL, "the Location of the redirect cannot be followed: "+fmt.Sprintf(format, args...))
}

func unsupportedScheme() error {
	// What precedes the colon may be half of a credential, so it is not shown.
	return refused(fetch.ReasonUnsupportedScheme, "the Location of the redirect has a scheme that is not http or https")
}

func tooLong() error {
	f := refused(fetch.ReasonHeadTooLarge, fmt.Sprintf(
		"the Location of the redirect is, or leads to, a URL of more than %d bytes", fetch.MaxURLBytes))
	f.LimitHit = &fetch.LimitHit{Limit: "max_url_bytes", Max: fetch.MaxURLBytes}
	return f
}

// refused blames the upstream, which wrote the Location, whatever the reason's
// usual blame.
func refused(reason fetch.Reason, message string) *fetch.Failure {
	f := fetch.Fail(reason, message, nil)
	f.Blame, f.Stage, f.Sent = fetch.BlameUpstream, fetch.StageHead, fetch.SentYes
	return f
}

// failure says which part of the URL that a Location leads to fetch.ParseURL
// refuses. What fetch.ParseURL says of it quotes the part, in which an upstream may
// show what it was sent.
func failure(err error) error {
	e := (*fetch.URLError)(nil)
	switch {
	case !errors.As(err, &e):
		return invalid("the URL that it leads to is not one that is requested")
	case e.Part == "url":
		// The URL is absolute and free of controls, so it is its length.
		return tooLong()
	case e.Part == "userinfo":
		return invalid("it has a user name or password before '@'; those are never taken from an upstream")
	}
	return invalid("the %s of the URL that it leads to is not a valid one", e.Part)
}
