package server

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// asIs returns the plan of a verbatim request with these lines of fields.
func asIs(t *testing.T, lines []string, alter func(*fetchgatev1.HttpRequest, *fetchgatev1.FetchOptions)) (*fetch.Plan, []violation) {
	t.Helper()
	return planned(t, unary, func(r *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) {
		o.Verbatim = proto.Bool(true)
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ": ")
			r.Headers = append(r.Headers, &fetchgatev1.HeaderField{Name: name, Value: []byte(value)})
		}
		if alter != nil {
			alter(r, o)
		}
	})
}

// TestVerbatimAddsNothing: the plan of a verbatim request says what the request
// says, and makes nothing of the answer.
func TestVerbatimAddsNothing(t *testing.T) {
	lines := []string{"x_b: 1", "HOST: EXAMPLE.com", "x_b: ", "Accept: */*"}
	plan, violations := asIs(t, lines, func(r *fetchgatev1.HttpRequest, _ *fetchgatev1.FetchOptions) { r.Body = jsonBody("{}") })
	if violations != nil {
		t.Fatal(violations)
	}
	var got []string
	for _, f := range plan.Fields {
		got = append(got, f.Name+": "+string(f.Value))
	}
	if !slices.Equal(got, lines) {
		t.Errorf("the fields are %q, want %q", got, lines)
	}
	if !plan.Verbatim || plan.Response.Decode || plan.Redirect.Max != 0 || plan.Retry.MaxAttempts != 1 || plan.Retry.Conditions != 0 || plan.Source == nil {
		t.Errorf("the plan is %+v", plan)
	}
}

// TestVerbatimRefuses: what would do more, or less, than the request says.
func TestVerbatimRefuses(t *testing.T) {
	type request = fetchgatev1.HttpRequest
	type options = fetchgatev1.FetchOptions
	for name, c := range map[string]struct {
		alter func(*request, *options)
		path  string
	}{
		"cookies":                  {func(r *request, _ *options) { r.Cookies = []*fetchgatev1.Cookie{{Name: []byte("a")}} }, "request.cookies"},
		"decoding":                 {func(_ *request, o *options) { o.Response.Decode = proto.Bool(true) }, "options.response.decode"},
		"redirects":                {func(_ *request, o *options) { o.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(1)} }, "options.redirect.max_redirects"},
		"redirects by default":     {func(_ *request, o *options) { o.Redirect = &fetchgatev1.RedirectPolicy{KeepFields: []string{"a"}} }, "options.redirect.max_redirects"},
		"attempts":                 {func(_ *request, o *options) { o.Retry = &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(2)} }, "options.retry.max_attempts"},
		"attempts by default":      {func(_ *request, o *options) { o.Retry = &fetchgatev1.RetryPolicy{Methods: []string{"POST"}} }, "options.retry.max_attempts"},
		"an omitted field of ours": {func(r *request, _ *options) { r.OmitDefaultFields = []string{"host"} }, "request.omit_default_fields[0]"},
		"a method":                 {func(r *request, _ *options) { r.Method = "get" }, "request.method"},
	} {
		_, violations := asIs(t, nil, c.alter)
		if len(violations) != 1 || violations[0].path != c.path || violations[0].reason != "FIELD_INVALID" {
			t.Errorf("%s: refused are %v, want %s", name, violations, c.path)
		}
	}
	for name, alter := range map[string]func(*request, *options){
		"no decoding":            func(_ *request, o *options) { o.Response.Decode = proto.Bool(false) },
		"no redirects":           func(_ *request, o *options) { o.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(0)} },
		"an empty redirect":      func(_ *request, o *options) { o.Redirect = &fetchgatev1.RedirectPolicy{} },
		"one attempt":            func(_ *request, o *options) { o.Retry = &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)} },
		"an empty retry":         func(_ *request, o *options) { o.Retry = &fetchgatev1.RetryPolicy{} },
		"interim heads":          func(_ *request, o *options) { o.Response.Interim = proto.Bool(true) },
		"an omitted default":     func(r *request, _ *options) { r.OmitDefaultFields = []string{"accept"} },
		"names with underscores": func(r *request, _ *options) { r.Body, r.Trailers = rawBody(1), fieldsNamed("a_b") },
	} {
		if _, violations := asIs(t, nil, alter); violations != nil {
			t.Errorf("%s: refused are %v", name, violations)
		}
	}
}

// TestVerbatimFramingFields: the fields that fetchgate writes itself may be
// there if they say what it writes.
func TestVerbatimFramingFields(t *testing.T) {
	type request = fetchgatev1.HttpRequest
	type options = fetchgatev1.FetchOptions
	three := func(r *request, _ *options) { r.Body = rawBody(3) }
	closing := func(_ *request, o *options) { o.Connection.CloseAfter = proto.Bool(true) }
	expecting := func(r *request, o *options) { three(r, o); expect(o) }
	trailing := func(r *request, o *options) { three(r, o); r.Trailers = fieldsNamed("A", "b", "a") }
	const none = -2 // no body; -1 is one in chunks
	for _, c := range []struct {
		lines  []string
		alter  func(*request, *options)
		length int64
		wrong  string // the field that is refused; empty means that none is
	}{
		{[]string{"host: example.com"}, nil, none, ""},
		{[]string{"Host: other.example"}, nil, none, "[0]"},
		{[]string{"Host: example.com:80"}, nil, none, "[0]"},
		{[]string{"Host: "}, nil, none, "[0]"},
		{[]string{"Host: example.com", "A: b", "host: example.com"}, nil, none, "[2]"},
		{[]string{"Host: [2606:4700::1]:8080"}, func(r *request, _ *options) { r.Url = "http://[2606:4700:0::1]:8080/" }, none, ""},
		{[]string{"Content-Length: 3"}, three, 3, ""},
		{[]string{"A: b", "content-length: 4"}, three, none, "[1]"},
		{[]string{"Content-Length: 03"}, three, none, "[0]"},
		{[]string{"Content-Length: 3", "Content-Length: 3"}, three, none, "[1]"},
		{[]string{"Content-Length: 0"}, nil, 0, ""},
		{[]string{"Content-Length: 1"}, nil, none, "[0]"},
		{[]string{"Content-Length: 0"}, func(r *request, _ *options) { r.Body = rawBody(0) }, 0, ""},
		{[]string{"Content-Length: 0"}, three, none, "[0]"},
		{[]string{"Content-Length: 3"}, trailing, none, "[0]"},
		{[]string{"Transfer-Encoding: Chunked"}, three, -1, ""},
		{[]string{"Transfer-Encoding: chunked"}, trailing, -1, ""},
		{[]string{"Transfer-Encoding: chunked"}, nil, none, "[0]"},
		{[]string{"Transfer-Encoding: gzip, chunked"}, three, none, "[0]"},
		{[]string{"Transfer-Encoding: chunked", "Content-Length: 3"}, three, none, "[1]"},
		{[]string{"Content-Length: 3", "Transfer-Encoding: chunked"}, three, none, "[1]"},
		{[]string{"Content-Length: 0", "Transfer-Encoding: chunked"}, nil, none, "[1]"},
		{[]string{"Connection: Keep-Alive"}, nil, none, ""},
		{[]string{"Connection: close"}, closing, none, ""},
		{[]string{"Connection: close"}, nil, none, "[0]"},
		{[]string{"Connection: keep-alive"}, closing, none, "[0]"},
		{[]string{"Connection: keep-alive, x"}, nil, none, "[0]"},
		{[]string{"Connection: upgrade"}, nil, none, "[0]"},
		{[]string{"Expect: 100-Continue"}, expecting, 3, ""},
		{nil, expecting, 3, ""},
		{[]string{"Expect: 100-continue"}, three, none, "[0]"},
		{[]string{"Expect: x"}, expecting, none, "[0]"},
		{[]string{"TE: trailers"}, nil, none, ""},
		{[]string{"TE: gzip"}, nil, none, "[0]"},
		{[]string{"Trailer: a, B"}, trailing, 3, ""},
		{[]string{"Trailer: a,B"}, trailing, none, "[0]"},
		{[]string{"Trailer: b, A"}, trailing, none, "[0]"},
		{[]string{"Trailer: A"}, trailing, none, "[0]"},
		{[]string{"Trailer: A"}, three, none, "[0]"},
		{[]string{"Trailer: "}, three, none, "[0]"},
		{[]string{"Proxy-Authorization: x"}, nil, none, "[0]"},
		{[]string{"Upgrade: x"}, nil, none, "[0]"},
		{[]string{"HTTP2-Settings: x"}, nil, none, "[0]"},
		{[]string{"Keep-Alive: timeout=5"}, nil, none, "[0]"},
		{[]string{":authority: example.com"}, nil, none, "[0]"},
	} {
		plan, violations := asIs(t, c.lines, c.alter)
		switch {
		case c.wrong != "":
			wantRefused(t, violations, "request.headers"+c.wrong, "FIELD_INVALID")
		case violations != nil:
			t.Errorf("%q: refused are %v", c.lines, violations)
		case (plan.Source == nil) != (c.length == none), plan.Source != nil && plan.Source.Length() != c.length:
			t.Errorf("%q: the body is %v, want a length of %d", c.lines, plan.Source, c.length)
		case len(plan.Fields) != len(c.lines):
			t.Errorf("%q: the fields are %v", c.lines, plan.Fields)
		}
	}
}

// TestVerbatimBlamesOnce: what is wrong elsewhere is not wrong a second time in
// the field that would say it.
func TestVerbatimBlamesOnce(t *testing.T) {
	_, violations := asIs(t, []string{"Host: example.com", "Content-Length: 1"}, func(r *fetchgatev1.HttpRequest, _ *fetchgatev1.FetchOptions) {
		r.Url, r.Body = "example.com", jsonBody("{")
	})
	if got, want := paths(violations), []string{"request.url", "request.body.json"}; !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}

// TestVerbatimSaysWhatIsRefusedElsewhere holds sameAs to the fields that may stand
// in a verbatim request alone.
func TestVerbatimSaysWhatIsRefusedElsewhere(t *testing.T) {
	want := 0
	for _, r := range fetch.RefusedFields {
		name := strings.ToLower(r.Name)
		if (r.Instead != "") != (sameAs[name] != nil) {
			t.Errorf("%s: fetch.RefusedFields has %q in its place, and sameAs compares it: %t", r.Name, r.Instead, sameAs[name] != nil)
		}
		if r.Instead != "" {
			want++
		}
	}
	if len(sameAs) != want {
		t.Errorf("sameAs has %d fields, and fetch.RefusedFields has %d with something in their place", len(sameAs), want)
	}
}
