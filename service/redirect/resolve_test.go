package redirect_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/redirect"
)

// locationCases is testdata/locations.json; its "source" says where it is from.
type locationCases struct {
	Location []struct {
		ID, Base, Location, Must string
		WHATWG                   struct{ Href, Protocol, Hostname, Port string }
	}
}

func readTestdata(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func destination(t testing.TB, raw string) fetch.Destination {
	t.Helper()
	d, err := fetch.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// moved is a 302 with a Location field for each location.
func moved(locations ...string) fetch.Head {
	head := fetch.Head{Status: 302}
	for _, l := range locations {
		head.Fields = append(head.Fields, fetch.Field{Name: "Location", Value: []byte(l)})
	}
	return head
}

// follow returns where a Location leads from base.
func follow(t testing.TB, base fetch.Destination, location string) (fetch.Destination, *fetch.Failure) {
	t.Helper()
	next, err := redirect.Next(fetch.RedirectPlan{}, redirect.Hop{Method: "GET", Destination: base}, moved(location))
	if err != nil {
		return fetch.Destination{}, failureOf(t, err)
	}
	if next == nil {
		t.Fatalf("%q is not followed", location)
	}
	return next.Destination, nil
}

// failureOf checks what holds of each failure and returns it.
func failureOf(t testing.TB, err error) *fetch.Failure {
	t.Helper()
	f := (*fetch.Failure)(nil)
	if !errors.As(err, &f) {
		t.Fatalf("%v is not a *fetch.Failure", err)
	}
	if f.Sent != fetch.SentYes || f.Blame != fetch.BlameUpstream || f.Stage != fetch.StageHead {
		t.Errorf("%v: sent %s, blame %s, stage %s", f, f.Sent, f.Blame, f.Stage)
	}
	return f
}

// otherHrefs are the cases whose URL differs from the URL Standard's in more
// than an empty fragment, which is not kept: bytes that RFC 3986 forbids there
// and the Standard leaves are percent-encoded.
var otherHrefs = map[string]string{
	"wpt-loc-0029": "http://example.org/foo/bar#%5C",
	"wpt-loc-0055": "http://foo/path;a??e#f%23g",
}

func TestNextWebPlatformTests(t *testing.T) {
	var cases locationCases
	readTestdata(t, "locations.json", &cases)
	unusable, empty, followed := 0, 0, 0
	for _, c := range cases.Location {
		base, err := fetch.ParseURL(c.Base)
		if err != nil {
			unusable++ // the base has userinfo, so no fetch could be there
			continue
		}
		next, err := redirect.Next(fetch.RedirectPlan{}, redirect.Hop{Method: "GET", Destination: base}, moved(c.Location))
		if err != nil {
			failureOf(t, err)
			continue
		}
		if next == nil {
			empty++
			if strings.Trim(c.Location, " \t") != "" {
				t.Errorf("%s %q: not followed", c.ID, c.Location)
			}
			continue
		}
		followed++
		if c.Must == "stop" {
			t.Errorf("%s %q: leads to %s", c.ID, c.Location, next.Destination.URL())
			continue
		}
		got, want := next.Destination.URL(), strings.TrimSuffix(c.WHATWG.Href, "#")
		if other, ok := otherHrefs[c.ID]; ok {
			want = other
		}
		if got != want {
			t.Errorf("%s %q: leads to %s, want %s", c.ID, c.Location, got, want)
		}
	}
	// A resolver that refuses everything would hold the list too.
	if len(cases.Location) != 202 || unusable != 3 || empty != 2 || followed != 46 {
		t.Errorf("of %d: %d bases unusable, %d empty, %d followed; want 202, 3, 2, 46",
			len(cases.Location), unusable, empty, followed)
	}
}

// TestNextResolvesReferences holds the examples of RFC 3986 section 5.4 for
// http, as far as they have one reading.
func TestNextResolvesReferences(t *testing.T) {
	base := destination(t, "http://a/b/c/d;p?q")
	for location, want := range map[string]string{
		"g": "/b/c/g", "./g": "/b/c/g", "g/": "/b/c/g/", "/g": "/g", "?y": "/b/c/d;p?y",
		"g?y": "/b/c/g?y", "#s": "/b/c/d;p?q#s", "g#s": "/b/c/g#s", "g?y#s": "/b/c/g?y#s",
		";x": "/b/c/;x", "g;x": "/b/c/g;x", "g;x?y#s": "/b/c/g;x?y#s", ".": "/b/c/", "./": "/b/c/",
		"..": "/b/", "../": "/b/", "../g": "/b/g", "../..": "/", "../../": "/", "../../g": "/g",
		"../../../g": "/g", "../../../../g": "/g", "/./g": "/g", "/../g": "/g", "g.": "/b/c/g.",
		".g": "/b/c/.g", "g..": "/b/c/g..", "..g": "/b/c/..g", "./../g": "/b/g", "./g/.": "/b/c/g/",
		"g/./h": "/b/c/g/h", "g/../h": "/b/c/h", "g;x=1/./y": "/b/c/g;x=1/y", "g;x=1/../y": "/b/c/y",
		"g?y/./x": "/b/c/g?y/./x", "g?y/../x": "/b/c/g?y/../x", "g#s/./x": "/b/c/g#s/./x", "g#s/../x": "/b/c/g#s/../x",

		"http://a/x/../y": "/y", "HTTP://A/x": "/x", "http://a": "/", "http://a?q": "/?q", "//a": "/",
		"%2e%2E/g": "/b/g", ".%2e/g": "/b/g", "%2e/g": "/b/c/g", "%2e%2e%2e/g": "/b/c/%2e%2e%2e/g",
		"/x//../y": "/x/y", "/..//a/b": "//a/b", "/a%2f..%2fb": "/a%2f..%2fb", "?": "/b/c/d;p?",
		"g?next=http://b/": "/b/c/g?next=http://b/", "./a:b": "/b/c/a:b", "?u=a:b": "/b/c/d;p?u=a:b",
	} {
		d, failure := follow(t, base, location)
		if failure != nil {
			t.Errorf("%q: %v", location, failure)
		} else if d.URL() != "http://a"+want || d.Encoded {
			t.Errorf("%q: %s (encoded %t), want %s", location, d.URL(), d.Encoded, "http://a"+want)
		}
	}
}

// TestNextResolvesAgainstRawTargets starts where only a raw target leads.
func TestNextResolvesAgainstRawTargets(t *testing.T) {
	for _, c := range []struct{ method, raw, location, want string }{
		{"OPTIONS", "*", "x", "http://a/x"},
		{"OPTIONS", "*", "#f", "http://a/#f"},
		{"GET", `/a"b/c`, "d", "http://a/a%22b/d"},
		{"GET", `/a\b/c`, "d", "http://a/a%5Cb/d"},
		{"GET", "/a/../b", "?q", "http://a/b?q"},
		{"GET", "//b/c", "d", "http://a//b/d"},
	} {
		base, err := destination(t, "http://a/").WithRawTarget(c.raw, c.method)
		if err != nil {
			t.Fatal(err)
		}
		d, failure := follow(t, base, c.location)
		if failure != nil || d.URL() != c.want {
			t.Errorf("%q onto %q: %s, %v; want %s", c.location, c.raw, d.URL(), failure, c.want)
		}
	}
}

func TestNextEncodesLocations(t *testing.T) { // D12
	base := destination(t, "http://a/b/c")
	for location, want := range map[string]string{
		"/x y":                  "/x%20y",
		"  /x y\t ":             "/x%20y",
		"/\xe4\xf6":             "/%E4%F6",
		"/ä?ö#ü":                "/%C3%A4?%C3%B6#%C3%BC",
		`/x"<>^{|}` + "`":       "/x%22%3C%3E%5E%7B%7C%7D%60",
		"/100%?%zz":             "/100%25?%25zz",
		`/x?a\b#c\d`:            `/x?a%5Cb#c%5Cd`,
		"/[x]?[y]":              "/%5Bx%5D?%5By%5D",
		"http://a/\xff\xfe/../": "/",
	} {
		d, failure := follow(t, base, location)
		if failure != nil || d.URL() != "http://a"+want {
			t.Errorf("%q: %s, %v; want %s", location, d.URL(), failure, "http://a"+want)
		} else if d.Encoded != (want != "/") {
			t.Errorf("%q: encoded %t", location, d.Encoded)
		}
	}
}

func TestNextInheritsFragments(t *testing.T) { // D22
	base := destination(t, "http://a/b#old")
	for location, want := range map[string]string{
		"/c": "http://a/c#old", "http://x/": "http://x/#old", "?q": "http://a/b?q#old",
		"/c#new": "http://a/c#new", "/c#": "http://a/c", "#": "http://a/b",
	} {
		d, failure := follow(t, base, location)
		if failure != nil || d.URL() != want || strings.Contains(d.Target, "#") {
			t.Errorf("%q: %s, target %q, %v; want %s", location, d.URL(), d.Target, failure, want)
		}
	}
}

func TestNextRefusesLocations(t *testing.T) {
	for _, c := range []struct {
		name, says string
		locations  []string
	}{
		{"D09 userinfo", "never taken from an upstream", []string{
			"http://user:hunter2@a/", "http://hunter2@a/", "//hunter2@a/", "http://@a/", "http://a@b@c/"}},
		{"D12 controls", "control character", []string{
			"/x\x00y", "/x\ty", "/x\ry", "/x\ny", "http://a\r\n/", "/x\x7f", "#\x01", "/?\x1f", "\n/x"}},
		{"D13 backslashes", `'\'`, []string{
			`\x`, `\\x\hello`, `/\x`, `//a\b`, `http:\\a`, `http://a\@b`, `http:/\a`, `x\y`, `http://a/b\c`}},
		{"D13 slashes", "without '//'", []string{"http:a.com", "http:/a.com", "https:a.com", "http:", "http:?q", "HTTP:x"}},
		{"D13 no host", "no host", []string{"///test", "//", "http://", "http:///a", "https://?q", "////a", "//?x", "//:80/"}},
		{"colons", "first segment", []string{":", ":a", "::23", "[::1]:80", "1:2", "a b:c", "ä:b"}},
		{"hosts", "host", []string{"http://0x7f.1/", "http://127.1/", "http://a%62/", "http://a b/", "//[::1", "http://a..b/", "http://ex\xe4mple/"}},
		{"ports", "port", []string{"http://a:0/", "http://a:65536/", "http://a:080/", "//a:/", "http://a: 80/"}},
	} {
		for _, location := range c.locations {
			d, f := follow(t, destination(t, "http://base/x/y"), location)
			switch {
			case f == nil:
				t.Errorf("%s: %q leads to %s", c.name, location, d.URL())
			case f.Reason != fetch.ReasonInvalidRedirectURL || !strings.Contains(f.Message, c.says):
				t.Errorf("%s: %q: %v, want a word of %q", c.name, location, f, c.says)
			case strings.Contains(f.Message, "hunter2"):
				t.Errorf("%s: %q: the message tells the secret: %s", c.name, location, f.Message)
			}
		}
	}
}

func TestNextRefusesSchemes(t *testing.T) { // D01
	for _, location := range []string{
		"file:///etc/passwd", "gopher://a/", "javascript:alert(1)", "data:text/plain,x", "ws://a/", "wss://a/",
		"ftp://a/", "FILE:x", "httpx://a/", "h:", "about:blank", "view-source:http://a/", "localhost:8080/x",
	} {
		if d, f := follow(t, destination(t, "http://base/"), location); f == nil || f.Reason != fetch.ReasonUnsupportedScheme {
			t.Errorf("%q: %s, %v", location, d.URL(), f)
		}
	}
}

func TestNextRefusesLongLocations(t *testing.T) { // D14
	const most = fetch.MaxURLBytes
	base := destination(t, "http://base/"+strings.Repeat("b/", 100))
	for name, location := range map[string]string{
		"mebibyte":        "/" + strings.Repeat("x", 1<<20),
		"one too many":    "http://a/" + strings.Repeat("x", most+1-len("http://a/")),
		"with its base":   strings.Repeat("x", most-100),
		"when encoded":    "/" + strings.Repeat("\xff", most/2),
		"only whitespace": "/" + strings.Repeat(" ", most/2) + "x",
	} {
		d, f := follow(t, base, location)
		if f == nil || f.Reason != fetch.ReasonHeadTooLarge || f.LimitHit == nil ||
			*f.LimitHit != (fetch.LimitHit{Limit: "max_url_bytes", Max: most}) {
			t.Errorf("%s: %d bytes, %v", name, len(d.URL()), f)
		}
	}
	longest := "http://a/" + strings.Repeat("x", most-len("http://a/"))
	if d, f := follow(t, base, longest); f != nil || d.URL() != longest {
		t.Errorf("the longest: %v", f)
	}
	if d, f := follow(t, base, strings.Repeat("../", most/3)); f != nil || d.Target != "/" {
		t.Errorf("many dot segments: %q, %v", d.Target, f)
	}
}

// FuzzNext holds, for any Location onto any base, that what is sent is legal,
// has one reading and goes where net/url goes too, and that nothing secret
// comes to another origin.
func FuzzNext(f *testing.F) {
	var cases locationCases
	readTestdata(f, "locations.json", &cases)
	for _, c := range cases.Location {
		f.Add(c.Base, []byte(c.Location), uint8(0), uint8(302-256))
	}
	f.Add("http://a:80/b#c", []byte("https://a/"), uint8(1), uint8(301-256))
	f.Add("https://[2001:db8::1]:8443/a//b/%2e?c", []byte("%2E./\xe4 x?\\#"), uint8(3), uint8(307-256))
	f.Fuzz(func(t *testing.T, rawBase string, location []byte, profile, status uint8) {
		base, err := fetch.ParseURL(rawBase)
		if err != nil {
			return
		}
		// The keep list asks for what must not be kept.
		plan := fetch.RedirectPlan{Profile: fetch.RedirectProfile(profile % 6),
			KeepFields: []string{"authorization", "COOKIE", "Proxy-Authorization"}}
		from := redirect.Hop{Method: "POST", Destination: base, Fields: secrets(), Body: true}
		head := fetch.Head{Status: 256 + int(status), Fields: []fetch.Field{{Name: "Location", Value: location}}}
		next, err := redirect.Next(plan, from, head)
		if err != nil {
			failureOf(t, err)
		}
		if next == nil {
			return
		}
		checkDestination(t, next.Destination)
		checkOracle(t, base, location, next.Destination)
		checkSecrets(t, plan.Profile, from, next)
	})
}

func checkDestination(t *testing.T, d fetch.Destination) {
	t.Helper()
	const legal = "-._~!$&'()*+,;=:@/?%"
	for i := range len(d.Target) {
		c := d.Target[i]
		isAlphanumeric := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !isAlphanumeric && !strings.ContainsRune(legal, rune(c)) {
			t.Errorf("the target %q has the byte %#02x", d.Target, c)
		}
	}
	if !strings.HasPrefix(d.Target, "/") {
		t.Errorf("the target %q is not absolute", d.Target)
	}
	for segment := range strings.SplitSeq(d.Path(), "/") {
		if dots := strings.ReplaceAll(strings.ToLower(segment), "%2e", "."); dots == "." || dots == ".." {
			t.Errorf("the target %q has a dot segment", d.Target)
		}
	}
	again, err := fetch.ParseURL(d.URL())
	again.Encoded = d.Encoded
	if err != nil || again != d {
		t.Errorf("%+v is read again as %+v, %v", d, again, err)
	}
}

// checkOracle compares with net/url where that takes the Location: it refuses
// what has a '%' without two digits.
func checkOracle(t *testing.T, base fetch.Destination, location []byte, d fetch.Destination) {
	t.Helper()
	origin, err := url.Parse(base.URL())
	if err != nil {
		return
	}
	u, err := origin.Parse(strings.Trim(string(location), " \t"))
	if err != nil {
		return
	}
	if want := originOf(u); d.Origin.String() != want {
		t.Errorf("%q onto %s leads to %s, by net/url to %s", location, base.URL(), d.Origin, want)
	}
}

func originOf(u *url.URL) string {
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.String()
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		// What an internationalized name becomes is fetch.ParseURL's to say.
		if d, err := fetch.ParseURL("http://" + host + "/"); err == nil {
			host = d.Host
		}
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	scheme := strings.ToLower(u.Scheme)
	if port == "" || port == map[string]string{"http": "80", "https": "443"}[scheme] {
		return fmt.Sprintf("%s://%s", scheme, host)
	}
	return fmt.Sprintf("%s://%s:%s", scheme, host, port)
}
