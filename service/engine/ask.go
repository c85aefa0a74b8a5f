package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/redirect"
)

// PolicyAsk is what a policy is asked about the first hop of plan.
func PolicyAsk(plan *fetch.Plan) policy.Ask {
	var jar cookie.Jar
	for _, c := range plan.Cookies {
		_ = jar.Add(c, plan.Destination) // what does not fit is not sent
	}
	first := redirect.Hop{Method: plan.Method, Destination: plan.Destination, Fields: plan.Fields, Body: plan.Source != nil}
	return ask(plan, first, &jar, nil)
}

// ask is what a policy is asked about a hop: of what is written into it for the
// request's cookies and credentials, those in dropped left out, there are the
// names, with no value.
func ask(plan *fetch.Plan, next redirect.Hop, jar *cookie.Jar, dropped map[int]bool) policy.Ask {
	a := policy.Ask{
		Caller: plan.Caller, Method: next.Method, Destination: next.Destination,
		Fields: next.Fields, Labels: plan.Labels, Verbatim: plan.Verbatim,
	}
	if next.Body && plan.Source != nil {
		a.BodyBytes = plan.Source.Length()
	}
	if plan.Verbatim {
		return a // nothing is added to it
	}
	if jar.Value(next.Destination, time.Now()) != nil {
		a.Fields = withName(a.Fields, "Cookie")
	}
	for i, c := range plan.Credentials {
		if dropped[i] || !c.Fits(plan.Caller, next.Method, next.Destination) {
			continue
		}
		switch place := c.Place(); {
		case place.Field != "":
			a.Fields = withName(a.Fields, place.Field)
		case place.Param != "":
			a.Destination.Target = withParam(a.Destination.Target, place.Param)
		}
	}
	return a
}

// withName adds a field without a value, unless there is one of its name.
func withName(fields []fetch.Field, name string) []fetch.Field {
	if _, given := fetch.Get(fields, name); given {
		return fields
	}
	return append(slices.Clip(fields), fetch.Field{Name: name})
}

// withParam adds a query parameter without a value. The target * has no query.
func withParam(target, name string) string {
	if target == "*" {
		return target
	}
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	return target + separator + fetch.EncodeForm([]fetch.Param{{Name: name}})
}
