package server

import (
	"errors"
	"fmt"
	"slices"

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
	omitted := d.omitted(m, given)
	if d.plan.Verbatim {
		d.plan.Fields = given
		return
	}
	fields := given
	add := func(f fetch.Field) {
		if _, named := fetch.Get(given, f.Name); !named {
			fields = append(fields, f)
		}
	}
	for _, f := range d.plan.Fields {
		add(f)
	}
	for i, f := range d.defaultFields {
		if !omitted[i] {
			add(f)
		}
	}
	d.plan.Fields = fields
}

// checked returns the fields of a list of the request, beside those that were
// checked before, and false if one is wrong.
func (d *draft) checked(place fetch.FieldPlace, path string, list []*fetchgatev1.HeaderField, beside []fetch.Field) ([]fetch.Field, bool) {
	fields := make([]fetch.Field, 0, len(list)+1+defaultCount) // and a Content-Type
	for _, f := range list {
		fields = append(fields, fetch.Field{Name: f.GetName(), Value: f.GetValue()})
	}
	err := fetch.CheckFieldsIn(place, fields, beside, d.limits.MaxRequestFields, d.limits.MaxRequestFieldBytes)
	if bad, ok := errors.AsType[*fetch.FieldError](err); ok {
		d.wrong(fmt.Sprintf("%s[%d]", path, bad.Index), "%s", bad.Message)
	}
	return fields, err == nil
}

// defaultNames are the names of the default fields.
var defaultNames = [defaultCount]string{"User-Agent", "Accept", "Accept-Encoding"}

const defaultCount = 3

// defaultFields are those of requests that omit none. Nobody writes to their
// values.
func defaultFields(userAgent string) (fields [defaultCount]fetch.Field) {
	for i, value := range [defaultCount]string{userAgent, "*/*", body.AcceptEncoding} {
		fields[i] = fetch.Field{Name: defaultNames[i], Value: []byte(value)}
	}
	return fields
}

// omitted tells which default fields the request does without, by their place.
func (d *draft) omitted(m *fetchgatev1.HttpRequest, given []fetch.Field) (omitted [defaultCount]bool) {
	// A part of a coded body cannot be decoded, and a body that is to stay as
	// it is should not be coded for our sake.
	if _, part := fetch.Get(given, "Range"); !d.plan.Response.Decode || part {
		omitted[defaultField("Accept-Encoding")] = true
	}
	for i, name := range m.GetOmitDefaultFields() {
		place := defaultField(name)
		if place >= 0 {
			omitted[place] = true
			continue
		}
		if len(d.violations) >= maxViolations {
			break
		}
		d.wrong(fmt.Sprintf("request.omit_default_fields[%d]", i), "%+.64q is not a default field; those are user-agent, accept and accept-encoding", name)
	}
	return omitted
}

// defaultField is the place of the default field called name; -1 if there is none.
func defaultField(name string) int {
	return slices.IndexFunc(defaultNames[:], func(known string) bool { return fetch.EqualFold(name, known) })
}
