package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// fields completes the fields of the plan: the caller's in order, then the
// body's Content-Type and the defaults, each only if the caller named none. A
// verbatim request has the caller's alone.
func (d *draft) fields(m *fetchgatev1.HttpRequest) {
	place := fetch.InHead
	switch {
	case d.plan.Verbatim:
		place = fetch.InVerbatimHead
	case d.underscores:
		place = fetch.InHeadByRule
	}
	given, ok := d.checked(place, "request.headers", m.GetHeaders(), nil)
	if !ok {
		return
	}
	defaults := d.defaults(m, given)
	if d.plan.Verbatim {
		d.plan.Fields = given
		return
	}
	own := append(d.plan.Fields, defaults...)
	for _, f := range own {
		if _, named := fetch.Get(given, f.Name); !named {
			given = append(given, f)
		}
	}
	d.plan.Fields = given
}

// checked returns the fields of a list of the request, beside those that were
// checked before, and false if one is wrong.
func (d *draft) checked(place fetch.FieldPlace, path string, list []*fetchgatev1.HeaderField, beside []fetch.Field) ([]fetch.Field, bool) {
	fields := make([]fetch.Field, 0, len(list)+4)
	for _, f := range list {
		fields = append(fields, fetch.Field{Name: f.GetName(), Value: f.GetValue()})
	}
	err := fetch.CheckFieldsIn(place, fields, beside, d.limits.MaxRequestFields, d.limits.MaxRequestFieldBytes)
	if bad, ok := errors.AsType[*fetch.FieldError](err); ok {
		d.wrong(fmt.Sprintf("%s[%d]", path, bad.Index), "%s", bad.Message)
	}
	return fields, err == nil
}

// defaultFields are those of requests that omit none. Nobody writes to their
// values.
func defaultFields(userAgent string) []fetch.Field {
	return []fetch.Field{
		{Name: "User-Agent", Value: []byte(userAgent)},
		{Name: "Accept", Value: []byte("*/*")},
		{Name: "Accept-Encoding", Value: []byte(body.AcceptEncoding)},
	}
}

// defaults returns the default fields that the request does not omit.
func (d *draft) defaults(m *fetchgatev1.HttpRequest, given []fetch.Field) []fetch.Field {
	fields := slices.Clone(d.defaultFields)
	// A part of a coded body cannot be decoded, and a body that is to stay as
	// it is should not be coded for our sake.
	if _, part := fetch.Get(given, "Range"); !d.plan.Response.Decode || part {
		fields = slices.DeleteFunc(fields, func(f fetch.Field) bool { return f.Name == "Accept-Encoding" })
	}
	for i, name := range m.GetOmitDefaultFields() {
		if !isDefaultField(name) {
			if len(d.violations) >= maxViolations {
				break
			}
			d.wrong(fmt.Sprintf("request.omit_default_fields[%d]", i), "%+.64q is not a default field; those are user-agent, accept and accept-encoding", name)
			continue
		}
		for j := range fields {
			if strings.EqualFold(fields[j].Name, name) {
				fields = append(fields[:j], fields[j+1:]...)
				break
			}
		}
	}
	return fields
}

func isDefaultField(name string) bool {
	switch strings.ToLower(name) {
	case "user-agent", "accept", "accept-encoding":
		return true
	}
	return false
}
