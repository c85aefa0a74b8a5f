package redirect_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/redirect"
)

func fieldsOf(names ...string) []fetch.Field {
	fields := make([]fetch.Field, len(names))
	for i, name := range names {
		fields[i] = fetch.Field{Name: name, Value: []byte("value of " + name)}
	}
	return fields
}

func namesOf(fields []fetch.Field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

// secrets are the fields that are bound to an origin, in a spelling of their own.
func secrets() []fetch.Field {
	return fieldsOf("AUTHORIZATION", "cookie", "Proxy-authorization", "Host", "Accept")
}

// checkSecrets holds the floor under every profile.
func checkSecrets(t *testing.T, profile fetch.RedirectProfile, from redirect.Hop, next *redirect.Hop) {
	t.Helper()
	a, b := from.Destination.Origin, next.Destination.Origin
	if a == b {
		return
	}
	isUpgrade := a.Scheme == "http" && a.Port == 80 && b.Scheme == "https" && b.Port == 443 && a.Host == b.Host
	excepted := isUpgrade && (profile == fetch.RedirectRequests || profile == fetch.RedirectHTTPX)
	for _, f := range slices.Concat(next.Fields, next.Trailers) {
		name := strings.ToLower(f.Name)
		isBound := name == "authorization" || name == "cookie" || name == "proxy-authorization"
		if name == "host" || isBound && !excepted {
			t.Errorf("%s goes from %s to %s", f.Name, a, b)
		}
	}
}

var everyProfile = map[string]fetch.RedirectProfile{
	"fetch": fetch.RedirectFetch, "requests": fetch.RedirectRequests, "urllib3": fetch.RedirectURLLib3,
	"httpx": fetch.RedirectHTTPX, "aiohttp": fetch.RedirectAIOHTTP,
}

func TestNextFollowsNothingElse(t *testing.T) { // D11, D16, D17, D21
	location := fetch.Field{Name: "Location", Value: []byte("/x")}
	for name, profile := range everyProfile {
		for status := 100; status < 1000; status++ {
			head := fetch.Head{Status: status, Fields: []fetch.Field{location}}
			next, err := redirect.Next(fetch.RedirectPlan{Profile: profile}, redirect.Hop{Method: "GET", Destination: destination(t, "http://a/")}, head)
			if isRedirect := slices.Contains([]int{301, 302, 303, 307, 308}, status); err != nil || (next != nil) != isRedirect {
				t.Errorf("%s: %d: %+v, %v", name, status, next, err)
			}
		}
		for _, fields := range [][]fetch.Field{
			nil,
			{{Name: "Location"}},
			{{Name: "Location", Value: []byte(" \t ")}, {Name: "location"}},
			{{Name: "Refresh", Value: []byte("0; url=/x")}, {Name: "Content-Location", Value: []byte("/x")}},
		} {
			for _, status := range []int{301, 302, 303, 307, 308} {
				next, err := redirect.Next(fetch.RedirectPlan{Profile: profile}, redirect.Hop{Destination: destination(t, "http://a/")},
					fetch.Head{Status: status, Fields: fields})
				if next != nil || err != nil {
					t.Errorf("%s: %d with %v: %+v, %v", name, status, fields, next, err)
				}
			}
		}
	}
	// What is not followed is not judged either.
	head := moved("http://user@a/", "file:///x")
	head.Status = 201
	if next, err := redirect.Next(fetch.RedirectPlan{}, redirect.Hop{Destination: destination(t, "http://a/")}, head); next != nil || err != nil {
		t.Errorf("201: %+v, %v", next, err)
	}
}

func TestNextURIField(t *testing.T) {
	for name, profile := range everyProfile {
		head := fetch.Head{Status: 302, Fields: []fetch.Field{{Name: "Location"}, {Name: "uri", Value: []byte("/x")}}}
		next, err := redirect.Next(fetch.RedirectPlan{Profile: profile}, redirect.Hop{Destination: destination(t, "http://a/")}, head)
		if err != nil || (next != nil) != (name == "aiohttp") {
			t.Errorf("%s: %+v, %v", name, next, err)
		}
		head.Fields[0].Value = []byte("/y")
		next, err = redirect.Next(fetch.RedirectPlan{Profile: profile}, redirect.Hop{Destination: destination(t, "http://a/")}, head)
		if err != nil || next.Destination.Target != "/y" {
			t.Errorf("%s: Location beside URI: %+v, %v", name, next, err)
		}
	}
}

func TestNextSeveralLocations(t *testing.T) { // D10
	from := redirect.Hop{Method: "GET", Destination: destination(t, "http://a/")}
	for _, locations := range [][]string{{"/x", "/y"}, {"/x", ""}, {"", "/x"}, {"/x", "/x", "http://a/x"}} {
		_, err := redirect.Next(fetch.RedirectPlan{}, from, moved(locations...))
		if f := failureOf(t, err); f.Reason != fetch.ReasonInvalidRedirectURL {
			t.Errorf("%q: %v", locations, f)
		}
	}
	if next, err := redirect.Next(fetch.RedirectPlan{}, from, moved("/x", " /x")); err != nil || next.Destination.Target != "/x" {
		t.Errorf("the same twice: %+v, %v", next, err)
	}
}

func TestNextMethodAndBody(t *testing.T) { // D05
	names := []string{"Content-Type", "content-encoding", "Content-Language", "Content-Location", "CONTENT-LENGTH",
		"Transfer-Encoding", "Content-Digest", "Accept", "Authorization", "X-Own"}
	withoutBody := []string{"Content-Digest", "Accept", "Authorization", "X-Own"}
	for _, c := range []struct {
		method   string
		statuses []int
		want     string
		drops    bool
	}{
		{"POST", []int{301, 302, 303}, "GET", true},
		{"PUT", []int{303}, "GET", true},
		{"DELETE", []int{303}, "GET", true},
		{"post", []int{303}, "GET", true}, // methods are case-sensitive: it is not POST
		{"post", []int{301, 302}, "post", false},
		{"PUT", []int{301, 302}, "PUT", false},
		{"GET", []int{301, 302, 303}, "GET", false},
		{"HEAD", []int{301, 302, 303}, "HEAD", false},
		{"POST", []int{307, 308}, "POST", false},
		{"PATCH", []int{307, 308}, "PATCH", false},
	} {
		for _, status := range c.statuses {
			for _, hasBody := range []bool{true, false} {
				from := redirect.Hop{Method: c.method, Destination: destination(t, "http://a/"), Fields: fieldsOf(names...), Body: hasBody}
				head := moved("/x")
				head.Status = status
				next, err := redirect.Next(fetch.RedirectPlan{}, from, head)
				if err != nil {
					t.Fatal(err)
				}
				want := names
				if c.drops {
					want = withoutBody
				}
				if next.Method != c.want || next.Body != (hasBody && !c.drops) || !slices.Equal(namesOf(next.Fields), want) {
					t.Errorf("%s %d (body %t): %s, body %t, %q", c.method, status, hasBody, next.Method, next.Body, namesOf(next.Fields))
				}
			}
		}
	}
}

func TestNextOffOrigin(t *testing.T) { // D06, D08
	always := []string{"Accept", "accept-language", "Accept-Encoding", "User-Agent", "Range", "If-Range", "If-None-Match", "If-Modified-Since"}
	describing := []string{"Content-Type", "content-md5", "Content-Encoding"}
	other := []string{"Authorization", "Cookie", "Proxy-Authorization", "Host", "X-Api-Key", "X-Trace", "Referer", "Origin", "If-Match", "Content-", "Digest"}
	plan := fetch.RedirectPlan{
		KeepFields:   []string{"x-trace", "AUTHORIZATION", "cookie", "Proxy-Authorization", "host", "X-Gone"},
		RemoveFields: []string{"user-agent", "X-GONE", "Content-MD5"},
	}
	from := redirect.Hop{Method: "POST", Destination: destination(t, "https://a.com/"), Body: true,
		Fields: fieldsOf(slices.Concat(always, describing, other, []string{"X-Gone"})...)}
	from.Trailers = from.Fields
	want := fieldsOf("Accept", "accept-language", "Accept-Encoding", "Range", "If-Range", "If-None-Match", "If-Modified-Since",
		"Content-Type", "Content-Encoding", "X-Trace")
	for location, leaves := range map[string]bool{
		"http://a.com/": true, "https://a.com:8443/": true, "https://a.com.evil.com/": true, "https://sub.a.com/": true,
		"//b.com/": true, "http://a.com:443/": true,
		"https://a.com:443/": false, "//A.com./": false, "/x": false, "https://a.com/": false,
	} {
		head := moved(location)
		head.Status = 307
		next, err := redirect.Next(plan, from, head)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		expected := from.Fields
		if leaves {
			expected = want
		}
		for _, got := range [][]fetch.Field{next.Fields, next.Trailers} {
			if !slices.Equal(namesOf(got), namesOf(expected)) {
				t.Errorf("%s: %q, want %q", location, namesOf(got), namesOf(expected))
			}
		}
	}
	// Without the body, what describes it stays behind as well.
	next, err := redirect.Next(fetch.RedirectPlan{KeepFields: []string{"Content-Type", "Content-MD5"}}, from, moved("//b.com/"))
	if want := append(slices.Clone(always), "content-md5"); err != nil || !slices.Equal(namesOf(next.Fields), want) || next.Trailers != nil {
		t.Errorf("302: %q, want %q, %v", namesOf(next.Fields), want, err)
	}
	// So does what describes a body that there never was.
	from.Method, from.Body = "GET", false
	next, err = redirect.Next(fetch.RedirectPlan{}, from, moved("//b.com/"))
	if err != nil || !slices.Equal(namesOf(next.Fields), always) {
		t.Errorf("GET: %q, want %q, %v", namesOf(next.Fields), always, err)
	}
}

// TestNextDroppedStaysDropped goes away and comes back (D07).
func TestNextDroppedStaysDropped(t *testing.T) {
	for name, profile := range everyProfile {
		for _, chain := range [][]string{{"http://b.com/", "/2"}, {"http://b.com/", "http://a.com/"}} {
			hop := redirect.Hop{Method: "GET", Destination: destination(t, "http://a.com/"), Fields: secrets()}
			for _, location := range chain {
				next, err := redirect.Next(fetch.RedirectPlan{Profile: profile}, hop, moved(location))
				if err != nil {
					t.Fatal(err)
				}
				hop = *next
			}
			if got := namesOf(hop.Fields); !slices.Equal(got, []string{"Accept"}) {
				t.Errorf("%s: %q: %q", name, chain, got)
			}
		}
	}
}

// TestNextLeavesItsInput appends to the fields it got, which are not those it gave.
func TestNextLeavesItsInput(t *testing.T) {
	from := redirect.Hop{Method: "GET", Destination: destination(t, "http://a/"), Fields: fieldsOf("Accept", "Cookie", "X-Own")}
	next, err := redirect.Next(fetch.RedirectPlan{Profile: fetch.RedirectHTTPX}, from, moved("/x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(next.Fields[:0], fieldsOf("One", "Two", "Three")...)
	if got := namesOf(from.Fields); !slices.Equal(got, []string{"Accept", "Cookie", "X-Own"}) {
		t.Errorf("%q", got)
	}
}

// profileRows is testdata/profiles.json: what each library sent after a
// redirect; its "source" names the versions.
type profileRows struct {
	Sent []string
	Rows []struct {
		Profile, Method string
		Body            bool
		Status          []int
		To              []string
		NextMethod      string `json:"next_method"`
		NextBody        bool   `json:"next_body"`
		Dropped         []string
	}
}

func TestNextProfiles(t *testing.T) {
	var table profileRows
	readTestdata(t, "profiles.json", &table)
	seen := 0
	for _, row := range table.Rows {
		for _, status := range row.Status {
			for _, to := range row.To {
				seen++
				from := redirect.Hop{Method: row.Method, Destination: destination(t, "http://a.test/start"),
					Fields: fieldsOf(table.Sent...), Body: row.Body}
				head := moved(to)
				head.Status = status
				profile := everyProfile[row.Profile]
				next, err := redirect.Next(fetch.RedirectPlan{Profile: profile}, from, head)
				if err != nil {
					t.Fatal(err)
				}
				checkSecrets(t, profile, from, next)
				dropped := row.Dropped
				if row.Profile == "httpx" && to != "/next" && to != "https://a.test/next" {
					// httpx would take it to another origin: the floor is above it.
					dropped = append(slices.Clone(dropped), "Proxy-Authorization")
				}
				want := slices.DeleteFunc(slices.Clone(table.Sent), func(name string) bool { return slices.Contains(dropped, name) })
				if next.Method != row.NextMethod || next.Body != row.NextBody || !slices.Equal(namesOf(next.Fields), want) {
					t.Errorf("%s %s %d to %s: %s, body %t, %q; want %s, body %t, %q", row.Profile, row.Method, status, to,
						next.Method, next.Body, namesOf(next.Fields), row.NextMethod, row.NextBody, want)
				}
			}
		}
	}
	if seen != 600 {
		t.Errorf("%d cases, want 600", seen)
	}
}

// TestNextProfilesRemoveFields drops what the plan names in every profile, and
// only off-origin.
func TestNextProfilesRemoveFields(t *testing.T) {
	for name, profile := range everyProfile {
		plan := fetch.RedirectPlan{Profile: profile, RemoveFields: []string{"x-api-key", "accept", "authorization"}}
		from := redirect.Hop{Method: "GET", Destination: destination(t, "http://a/"), Fields: fieldsOf("Accept", "X-Api-Key", "Authorization")}
		for location, want := range map[string]int{"/x": 3, "http://b/": 0, "https://a/": 0} {
			next, err := redirect.Next(plan, from, moved(location))
			if err != nil || len(next.Fields) != want {
				t.Errorf("%s: %s: %q, %v; want %d", name, location, namesOf(next.Fields), err, want)
			}
		}
	}
}

func TestNextUnknownProfile(t *testing.T) {
	from := redirect.Hop{Method: "GET", Destination: destination(t, "http://a/"), Fields: fieldsOf("Accept", "X-Own")}
	next, err := redirect.Next(fetch.RedirectPlan{Profile: 99}, from, moved("http://b/"))
	if err != nil || !slices.Equal(namesOf(next.Fields), []string{"Accept"}) {
		t.Errorf("%+v, %v", next, err)
	}
}
