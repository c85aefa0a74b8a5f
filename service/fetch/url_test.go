package fetch_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/idna"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// urlCases is testdata/urls.json; its "source" says where it is from.
type urlCases struct {
	URL []struct {
		ID, URL, Must string
		WHATWG        whatwgURL
	}
	Location []struct {
		ID, Location, Must string
		WHATWG             whatwgURL
	}
}

// whatwgURL is what the URL Standard reads in a URL.
type whatwgURL struct{ Protocol, Hostname, Port string }

// origin returns w as ParseURL would write it.
func (w whatwgURL) origin() string {
	scheme := strings.TrimSuffix(w.Protocol, ":")
	port := w.Port
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + " " + canonicalHost(w.Hostname) + " " + port
}

func origin(d fetch.Destination) string {
	return fmt.Sprintf("%s %s %d", d.Scheme, d.Host, d.Port)
}

// canonicalHost evens out what may differ between two readings of one host:
// case, final dot, brackets, the text of an IPv6 address, U-label or A-label.
func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String()
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		if ascii, err := idna.Lookup.ToASCII(host); err == nil {
			host = ascii
		}
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func readURLCases(t testing.TB) urlCases {
	t.Helper()
	data, err := os.ReadFile("testdata/urls.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases urlCases
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestParseURLWebPlatformTests(t *testing.T) {
	cases := readURLCases(t)
	accepted := 0
	for _, c := range cases.URL {
		d, err := fetch.ParseURL(c.URL)
		if err == nil {
			accepted++
		}
		switch c.Must {
		case "refuse":
			if err == nil {
				t.Errorf("%s %q: accepted as %s", c.ID, c.URL, d.URL())
			}
		case "refuse_scheme":
			want := fetch.ReasonUnsupportedScheme
			if strings.HasPrefix(c.URL, "#") { // no scheme at all
				want = fetch.ReasonInvalidURL
			}
			if e := (*fetch.URLError)(nil); !errors.As(err, &e) || e.Reason != want {
				t.Errorf("%s %q: %v, want %s", c.ID, c.URL, err, want)
			}
		case "refuse_or_same_host":
			if err == nil && origin(d) != c.WHATWG.origin() {
				t.Errorf("%s %q: %s, want %s", c.ID, c.URL, origin(d), c.WHATWG.origin())
			}
		default:
			t.Errorf("%s: unknown verdict %q", c.ID, c.Must)
		}
	}
	// A parser that refuses everything would hold the list too.
	if len(cases.URL) != 557 || accepted != 72 {
		t.Errorf("accepted %d of %d, want 72 of 557", accepted, len(cases.URL))
	}
}

// TestParseURLAbsoluteLocations reads the Locations that are absolute, for
// which the base does not matter.
func TestParseURLAbsoluteLocations(t *testing.T) {
	seen, accepted := 0, 0
	for _, c := range readURLCases(t).Location {
		if !strings.HasPrefix(c.Location, "http://") && !strings.HasPrefix(c.Location, "https://") {
			continue
		}
		seen++
		d, err := fetch.ParseURL(c.Location)
		if err != nil {
			continue
		}
		accepted++
		if c.Must == "stop" || origin(d) != c.WHATWG.origin() {
			t.Errorf("%s %q: accepted as %s, want %s, %s", c.ID, c.Location, d.URL(), c.Must, c.WHATWG.origin())
		}
	}
	if seen != 98 || accepted != 18 {
		t.Errorf("accepted %d of %d, want 18 of 98", accepted, seen)
	}
}

// refusals are URLs that must be refused, by case, with the part that is wrong.
var refusals = []struct {
	name, part string
	urls       []string
}{
	{"A01 empty", "", []string{"", "http://", "https:///path", "http://?x", "http://#x", "http://:80/"}},
	{"A02 schemes", "scheme", []string{
		"file:///etc/passwd", "gopher://x/", "dict://x/", "ftp://x/", "ldap://x/", "jar:http://x!/", "netdoc:///x",
		"data:text/plain,x", "javascript:alert(1)", "unix:///run/x", "ws://x/", "example.com:80/", "localhost:8080",
	}},
	{"A04 relative", "url", []string{"//example.com/", "example.com/", "/path", "?q", "1http://x/", "://x", "ht tp://x/"}},
	{"A05 slashes", "url", []string{"http:example.com", "http:/example.com", `http:\\example.com`, `https:/\example.com`}},
	{"A06 at signs", "userinfo", []string{"http://a@b@c/", "http://1.1.1.1 &@2.2.2.2# @3.3.3.3/", "http://@x/", "http://x:80@y/"}},
	{"A07 backslash", "", []string{`http://127.1.1.1:80\@127.2.2.2:80/`, `http://x\y/`, `http://x\`, `http://x\/y`}},
	{"A08 userinfo", "userinfo", []string{"http://user:pass@host/", "http://user@host/", "http://:@host/"}},
	{"A09 controls", "url", controlURLs()},
	{"A10 spaces", "url", []string{" http://x/", "http://x/ ", "http://x ", "http://x/#f "}},
	{"A11 ports", "port", []string{
		"http://host:0/", "http://host:65536/", "http://host:-1/", "http://host:+80/", "http://host:080/", "http://host: 80/",
		"http://host:٨٠/", "http://host:/", "http://host:8_0/", "http://host:0x50/", "http://host:80 /", "http://host:99999999999999999999/",
	}},
	{"A12 two ports", "port", []string{"http://host:80:80/", "http://[::1]:80:80/"}},
	{"A13 brackets", "", []string{
		"http://[::1", "http://::1/", "http://[::1]x/", "http://[127.0.0.1]/", "http://[[::1]]/", "http://[]/", "http://[example.com]/",
		"http://x[::1]/", "http://[::1]]/", "http://[::1]:80]/", "http://::1]/", "http://[v1.x]/", "http://[1::2::3]/", "http://[::1.2.3.04]/",
	}},
	{"A14 zones", "host", []string{"http://[fe80::1%25lo]/", "http://[2606::1%eth0]/", "http://[::1%25.example.com]/", "http://[::1%]/"}},
	{"A15 escapes in the host", "host", []string{"http://ex%61mple.com/", "http://ex%00ample.com/", "http://127%2e0%2e0%2e1/", "http://x%2f/"}},
	{"A16 characters", "host", []string{
		"http://a<b/", "http://a]b/", "http://a^b/", "http://a|b/", "http://ho%25st/", "http://a b/", "http://a,b/", "http://a*b/",
		"http://a'b/", "http://a;b/", "http://a=b/", "http://a(b)/", "http://a~b/", "http://a{b}/", "http://a`b/", `http://a"b/`,
	}},
	{"A17 numeric last label", "host", []string{
		"http://foo.09", "http://1.2.3.08", "http://foo.0x4", "http://256.0.0.1", "http://1.2.3.4.5", "http://foo.1.", "http://1.2.3", "http://foo.0x",
		"http://foo.0XAF", "http://1.2.3.04",
	}},
	{"A18 IPv4 in disguise", "host", []string{
		"http://0x7f000001", "http://2130706433", "http://0177.0.0.1", "http://127.1", "http://0", "http://0x7f.0.0.1", "http://0X7F000001/", "http://00000000.0.0.0",
	}},
	{"A19 digits of other scripts", "host", []string{
		"http://127。0。0。1/", "http://１２７.0.0.1/", "http://①②⑦.⓪.⓪.①/", "http://127.0.0.1。/", "http://127.0.0.𝟏/", "http://١٢٧.0.0.1/", "http://ⅷ.com/", "http://example。com/",
	}},
	{"A20 invisible characters", "host", []string{
		"http://exam\u200bple.com/", "http://127.0.0\u00ad.1/", "http://\ufeffexample.com/", "http://exam\u2060ple.com/", "http://\u202eexample.com/",
		"http://a\u200db.com/", "http://a\u200cb.com/", "http://a\ufe0fb.com/", "http://a\u00a0b.com/", "http://a\u3000b.com/", "http://a\u0085b.com/",
	}},
	{"A21 A-labels", "host", []string{
		"http://xn--/", "http://xn--example-.com", "http://xn--example-/", "http://xn--a/", "http://xn--\u00e9.com", "http://a.xn--99999999/",
		"http://xn--a-ecp.ru/", "http://xn--xn--x-8va/", "http://xn--zca.xn--/",
	}},
	{"A22 names that are mapped or break the Bidi rule", "host", []string{
		"http://BÜCHER.de/", "http://Ｇｏ.com/", "http://\u212aelvin.com/", "http://bu\u0308cher.de/", "http://aא.com/", "http://١.com/", "http://ﬁ.com/",
		"http://\u0301x.com/", "http://≠.com/", "http://a_b.bücher.de/", "http://\ufffd/", "http://\xff.com/", "http://b\xc3cher.de/",
	}},
	{"A23 labels", "host", []string{
		"http://" + strings.Repeat("a", 64) + ".com/", "http://" + longName(254) + "/", "http://a..b/", "http://.a/", "http://-a.com/", "http://a-.com/", "http://a.-/",
		"http://" + strings.Repeat("ü", 60) + ".de/", "http://" + strings.Repeat("ü.", 5000) + "de/",
	}},
	{"A24 two dots", "host", []string{"http://example.com../", "http://../", "http://./", "http://127.0.0.1../"}},
	{"A25 too long", "url", []string{"http://x/" + strings.Repeat("a", 8<<20)}},
	{"A26 many pairs", "url", []string{"http://x/" + strings.Repeat("?a=", 1_000_000), "http://x/" + strings.Repeat("../", 100_000)}},
}

func controlURLs() (urls []string) {
	for c := range rune(0x20) {
		urls = append(urls, fmt.Sprintf("http://x/a%cb", c), fmt.Sprintf("http://x%cy/", c), fmt.Sprintf("http://x/#%c", c))
	}
	return append(urls, "http://x/\x7f", "http://x\x7f/", "http://x/?\x7f", "\nhttp://x/", "http://x/\r\n", "ht\ttp://x/")
}

// longName returns a name of n bytes with labels of 63.
func longName(n int) string {
	return strings.Repeat(strings.Repeat("a", 63)+".", 4)[:n-1] + "b"
}

func TestParseURLRefuses(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			for _, raw := range c.urls {
				d, err := fetch.ParseURL(raw)
				e := (*fetch.URLError)(nil)
				if !errors.As(err, &e) {
					t.Errorf("%.100q: accepted as %.100q (%v)", raw, d.URL(), err)
					continue
				}
				if c.part != "" && e.Part != c.part {
					t.Errorf("%.100q: part %q, want %q", raw, e.Part, c.part)
				}
				wantReason := fetch.ReasonInvalidURL
				if e.Part == "scheme" {
					wantReason = fetch.ReasonUnsupportedScheme
				}
				if e.Reason != wantReason || len(e.Error()) > 700 {
					t.Errorf("%.100q: %.900s", raw, e)
				}
				if d != (fetch.Destination{}) {
					t.Errorf("%.100q: a destination beside the error", raw)
				}
			}
		})
	}
}

func TestParseURLAccepts(t *testing.T) {
	const utf8Path = "/%E4%BD%A0?%C3%A9#%C3%A9"
	for _, c := range []struct {
		name, raw, want string
		encoded         bool
	}{
		{"A03 case", "HTTP://EXAMPLE.COM", "http://example.com/", false},
		{"A03 case of the path", "HTTPS://Example.Com/A%2fB", "https://example.com/A%2fB", false},
		{"A11 ports", "http://host:65535/", "http://host:65535/", false},
		{"A11 default port", "https://host:443/x", "https://host/x", false},
		{"A11 default port of the other", "http://host:443/x", "http://host:443/x", false},
		{"A13 IPv6", "http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/", false},
		{"A13 IPv6 with IPv4 inside", "http://[::FFFF:7f00:1]/", "http://127.0.0.1/", false},
		{"A17 number in front", "http://1.2.3.4.com/", "http://1.2.3.4.com/", false},
		{"A17 not hexadecimal", "http://foo.0xg/", "http://foo.0xg/", false},
		{"A18 IPv4", "http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x", false},
		{"A21 A-label", "http://XN--Bcher-KVA.de/", "http://xn--bcher-kva.de/", false},
		{"A22 U-label", "http://bücher.De/", "http://xn--bcher-kva.de/", false},
		{"A22 deviation", "http://faß.example/", "http://xn--fa-hia.example/", false},
		{"A22 right to left", "http://אב.example/", "http://xn--4dbc.example/", false},
		{"A23 label of 63", "http://" + strings.Repeat("a", 63) + ".b/", "http://" + strings.Repeat("a", 63) + ".b/", false},
		{"A23 name of 253", "http://" + longName(253) + "/", "http://" + longName(253) + "/", false},
		{"A23 hyphens inside", "http://r3---sn-a.example/", "http://r3---sn-a.example/", false},
		{"underscore", "http://_a.b_c.example/", "http://_a.b_c.example/", false},
		{"A24 root dot", "http://example.com./", "http://example.com/", false},
		{"A24 root dot and port", "http://example.com.:81", "http://example.com:81/", false},
		{"A24 root dot of an address", "http://127.0.0.1./", "http://127.0.0.1/", false},
		{"A27 fragment", "http://x/p?q#x", "http://x/p?q#x", false},
		{"A27 fragment of a bare host", "http://x#/?@y", "http://x/#/?@y", false},
		{"A27 fragment with '#'", "http://x/#a#b", "http://x/#a%23b", true},
		{"A28 space", "http://x/a b?c d", "http://x/a%20b?c%20d", true},
		{"A28 quotes", `http://x/"<>?"<>`, "http://x/%22%3C%3E?%22%3C%3E", true},
		{"A28 others", "http://x/\\^`{|}[]?\\^`{|}[]", "http://x/%5C%5E%60%7B%7C%7D%5B%5D?%5C%5E%60%7B%7C%7D%5B%5D", true},
		{"A28 UTF-8", "http://x/你?é#é", "http://x" + utf8Path, true},
		{"A28 not UTF-8", "http://x/\xff?\xc3", "http://x/%FF?%C3", true},
		{"A28 line separators", "http://x/\u0085\u2028", "http://x/%C2%85%E2%80%A8", true},
		{"A28 stray percent", "http://x/%?%2#%zz", "http://x/%25?%252#%25zz", true},
		{"A29 escapes stay", "http://x/%2F%2e%2e%00//%zF%aB", "http://x/%2F%2e%2e%00//%25zF%aB", true},
		{"A29 dot segments stay", "http://x/a/../.././/b", "http://x/a/../.././/b", false},
		{"A29 path that looks like a host", "http://x//y/", "http://x//y/", false},
		{"legal punctuation stays", "http://x/-._~!$&'()*+,;=:@/?-._~!$&'()*+,;=:@/?#?/", "http://x/-._~!$&'()*+,;=:@/?-._~!$&'()*+,;=:@/?#?/", false},
		{"empty query stays", "http://x?", "http://x/?", false},
		{"at sign after the host", "http://x?@y", "http://x/?@y", false},
		{"longest", "http://x/" + strings.Repeat("a", fetch.MaxURLBytes-9), "http://x/" + strings.Repeat("a", fetch.MaxURLBytes-9), false},
	} {
		d, err := fetch.ParseURL(c.raw)
		if err != nil || d.URL() != c.want || d.Encoded != c.encoded {
			t.Errorf("%s: %.200q: %.200q, encoded %v, %v; want %.200q, encoded %v", c.name, c.raw, d.URL(), d.Encoded, err, c.want, c.encoded)
		}
		if strings.Contains(d.Target, "#") {
			t.Errorf("%s: the target %q holds the fragment", c.name, d.Target)
		}
	}
}

// TestParseURLLimitIsOfTheCanonicalURL: a URL that grows over the limit when it
// is encoded is refused, or it could be sent but not be parsed again.
func TestParseURLLimitIsOfTheCanonicalURL(t *testing.T) {
	for _, raw := range []string{
		"http://x/" + strings.Repeat("\"", fetch.MaxURLBytes/3),
		"http://x?" + strings.Repeat("a", fetch.MaxURLBytes-9),
		"http://x/" + strings.Repeat("a", fetch.MaxURLBytes-8),
	} {
		if d, err := fetch.ParseURL(raw); err == nil {
			t.Errorf("%.20q of %d bytes: accepted with %d bytes", raw, len(raw), len(d.URL()))
		}
	}
}

func TestURLErrorsKeepSecrets(t *testing.T) {
	const secret = "S3CR3T"
	for _, raw := range []string{
		"http://user:" + secret + "@host/", "http://" + secret + "@host", "http://user:" + secret + "/x@host/", "http://user:" + secret,
		secret + ":pass@host/", `http:\\user:` + secret + "@host/", "http:/user:" + secret + "@host", "ftp://user:" + secret + "@host",
		"http://h h/?" + secret, "http://h/?k=" + secret + "\n", "http://h/#" + secret + "\x00", "http://h:x/?" + secret, "/?" + secret,
		"http://" + strings.Repeat("h", 100) + secret + ".x/\\", " http://h/" + secret,
	} {
		_, err := fetch.ParseURL(raw)
		if err == nil || strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret)) {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if _, err := fetch.ParseURL("http://u@h/"); !strings.Contains(err.Error(), "options.credentials") {
		t.Errorf("the refusal of userinfo does not say what to use instead: %v", err)
	}
}

func parse(t testing.TB, raw string) fetch.Destination {
	t.Helper()
	d, err := fetch.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDestinationForms(t *testing.T) {
	for _, c := range []struct{ raw, origin, authority, hostPort, path, query, redacted string }{
		{"http://x:80", "http://x", "x", "x:80", "/", "", "http://x/"},
		{"https://x:80/a?b=c&d#e", "https://x:80", "x:80", "x:80", "/a", "b=c&d", "https://x:80/a?[redacted]"},
		{"https://[::1]/?", "https://[::1]", "[::1]", "[::1]:443", "/", "", "https://[::1]/?"},
		{"http://[::1]:8080/a??#e", "http://[::1]:8080", "[::1]:8080", "[::1]:8080", "/a", "?", "http://[::1]:8080/a?[redacted]"},
	} {
		d := parse(t, c.raw)
		got := []string{d.Origin.String(), d.Authority(), d.HostPort(), d.Path(), d.RawQuery(), d.RedactedURL()}
		want := []string{c.origin, c.authority, c.hostPort, c.path, c.query, c.redacted}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %q, want %q", c.raw, got[i], want[i])
			}
		}
	}
}

func TestOriginAddr(t *testing.T) {
	for raw, want := range map[string]netip.Addr{
		"http://127.0.0.1./": netip.MustParseAddr("127.0.0.1"),
		"http://[::1]/":      netip.IPv6Loopback(),
		"http://1.2.3.4.x/":  {},
	} {
		addr, ok := parse(t, raw).Addr()
		if addr != want || ok != want.IsValid() {
			t.Errorf("%s: %v, %v; want %v", raw, addr, ok, want)
		}
	}
}

func TestWithParams(t *testing.T) {
	p := func(pairs ...string) (params []fetch.Param) {
		for i := 0; i < len(pairs); i += 2 {
			params = append(params, fetch.Param{Name: pairs[i], Value: pairs[i+1]})
		}
		return params
	}
	for _, c := range []struct {
		raw    string
		params []fetch.Param
		want   string
	}{
		{"http://x/?a%20b#f", nil, "http://x/?a%20b#f"},
		{"http://x", p("a", "1", "a", "2"), "http://x/?a=1&a=2"},
		{"http://x?", p("a", "1"), "http://x/?a=1"},
		{"http://x?a", p("b", ""), "http://x/?a&b="},
		{"http://x?a&", p("", "c"), "http://x/?a&&=c"},
		{"http://x/p?q=1#f", p("a b", "c+d", "é", "\n%&=;#?/@"), "http://x/p?q=1&a+b=c%2Bd&%C3%A9=%0A%25%26%3D%3B%23%3F%2F%40#f"},
		{"http://x", p("k", "AZaz09-_.~*'()!"), "http://x/?k=AZaz09-_.~%2A%27%28%29%21"},
	} {
		d := parse(t, c.raw)
		before := d
		got, err := d.WithParams(c.params)
		if err != nil || got.URL() != c.want || d != before {
			t.Errorf("%s: %s, %v; want %s", c.raw, got.URL(), err, c.want)
		}
	}
}

func TestWithParamsRefuses(t *testing.T) {
	options, err := parse(t, "http://x").WithRawTarget("*", "OPTIONS")
	if err != nil {
		t.Fatal(err)
	}
	long := fetch.Param{Name: "a", Value: strings.Repeat("\"", fetch.MaxURLBytes/3)}
	for _, c := range []struct {
		d fetch.Destination
		p fetch.Param
	}{{options, fetch.Param{Name: "a"}}, {parse(t, "http://x"), long}} {
		_, err := c.d.WithParams([]fetch.Param{c.p})
		if e := (*fetch.URLError)(nil); !errors.As(err, &e) || e.Part != "params" {
			t.Errorf("%s: %v", c.d.URL(), err)
		}
	}
}

func TestWithRawTarget(t *testing.T) {
	base := parse(t, "https://x:8443/a b?c#f")
	for _, c := range []struct{ raw, method, url, path, query, redacted string }{
		{"/", "GET", "https://x:8443/#f", "/", "", "https://x:8443/"},
		{`/%2F..//"<>\^{}|[]%?a?b%`, "GET", `https://x:8443/%2F..//"<>\^{}|[]%?a?b%#f`, `/%2F..//"<>\^{}|[]%`, "a?b%", `https://x:8443/%2F..//"<>\^{}|[]%?[redacted]`},
		{"//evil/x", "GET", "https://x:8443//evil/x#f", "//evil/x", "", "https://x:8443//evil/x"},
		{"*", "OPTIONS", "https://x:8443#f", "*", "", "https://x:8443"},
	} {
		d, err := base.WithRawTarget(c.raw, c.method)
		if err != nil || d.Target != c.raw || d.Encoded || d.Origin != base.Origin {
			t.Errorf("%s: %+v, %v", c.raw, d, err)
		}
		if d.URL() != c.url || d.Path() != c.path || d.RawQuery() != c.query || d.RedactedURL() != c.redacted {
			t.Errorf("%s: %q, %q, %q, %q", c.raw, d.URL(), d.Path(), d.RawQuery(), d.RedactedURL())
		}
	}
	for raw, method := range map[string]string{
		"": "GET", "*": "GET", "**": "OPTIONS", "http://evil/": "GET", "x": "GET", "?q": "GET", "/ HTTP/1.1\r\nX: y": "GET", "/a b": "GET",
		"/a\tb": "GET", "/\x00": "GET", "/\x7f": "GET", "/é": "GET", "/#f": "GET", "/" + strings.Repeat("a", fetch.MaxURLBytes): "GET",
	} {
		_, err := base.WithRawTarget(raw, method)
		if e := (*fetch.URLError)(nil); !errors.As(err, &e) || e.Part != "raw_target" {
			t.Errorf("%.50q with %s: %v", raw, method, err)
		}
	}
}

func TestCheckMethod(t *testing.T) {
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "propfind", "M-SEARCH", "X!#$%&'*+-.^_`|~", strings.Repeat("M", 32)} {
		if err := fetch.CheckMethod(m); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
	// A30 and its neighbours.
	for m, hint := range map[string]string{
		"": "token", "GET / HTTP/1.1\r\nX: y": "token", "GET ": "token", "G\x00T": "token", "GÉT": "token", "GET:": "token",
		strings.Repeat("M", 33): "32 bytes", strings.Repeat("M", 10_000): "32 bytes",
		"gEt": "GET", "get": "GET", "Post": "POST", "head": "HEAD", "put": "PUT", "patch": "PATCH", "Delete": "DELETE", "options": "OPTIONS",
		"CONNECT": "not offered", "connect": "not offered", "TRACE": "not offered", "Trace": "not offered", "PRI": "not offered", "pri": "not offered",
	} {
		if err := fetch.CheckMethod(m); err == nil || !strings.Contains(err.Error(), hint) || len(err.Error()) > 200 {
			t.Errorf("%.40q: %v, want something with %q", m, err, hint)
		}
	}
}

// checkSent fails the test if target cannot stand in a request line.
func checkSent(t *testing.T, target string) {
	t.Helper()
	if !strings.HasPrefix(target, "/") {
		t.Fatalf("the target %q is no origin-form", target)
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			t.Fatalf("the target %q has the byte %#02x", target, c)
		}
	}
}

// checkReadings fails the test if net/url reads another origin in raw than d.
func checkReadings(t *testing.T, raw string, d fetch.Destination) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("net/url does not read %q: %v", raw, err)
	}
	if got := (whatwgURL{u.Scheme + ":", u.Hostname(), u.Port()}).origin(); got != origin(d) {
		t.Fatalf("net/url reads %s in %q, ParseURL %s", got, raw, origin(d))
	}
}

func FuzzParseURL(f *testing.F) {
	for _, c := range readURLCases(f).URL {
		f.Add(c.URL)
	}
	for _, c := range refusals {
		for _, raw := range c.urls {
			if len(raw) < 300 {
				f.Add(raw)
			}
		}
	}
	f.Add("HTTPS://Bücher.example.:8443/a b%2f%?q=[x]&é#f#")
	f.Fuzz(func(t *testing.T, raw string) {
		d, err := fetch.ParseURL(raw)
		if err != nil {
			if e := (*fetch.URLError)(nil); !errors.As(err, &e) || e.Part == "" || strings.ContainsFunc(e.Message, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
				t.Fatalf("%q: the error %q", raw, err)
			}
			return
		}
		checkSent(t, d.Target)
		canonical := d.URL()
		checkReadings(t, canonical, d)
		if _, err := url.Parse(raw); err == nil {
			checkReadings(t, raw, d)
		}
		again, err := fetch.ParseURL(canonical)
		if err != nil || again.Encoded {
			t.Fatalf("%q: its canonical form %q: encoded %v, %v", raw, canonical, again.Encoded, err)
		}
		again.Encoded = d.Encoded
		if again != d {
			t.Fatalf("%q: %+v, its canonical form %+v", raw, d, again)
		}
	})
}

func FuzzWithParams(f *testing.F) {
	f.Add("http://x/?a=b", "n m", "v&=+%")
	f.Add("http://x", "", "\xff\x00\r\n")
	f.Fuzz(func(t *testing.T, raw, name, value string) {
		d, err := fetch.ParseURL(raw)
		if err != nil {
			return
		}
		more, err := d.WithParams([]fetch.Param{{Name: name, Value: value}})
		if err != nil {
			return
		}
		checkSent(t, more.Target)
		added := strings.TrimPrefix(strings.TrimPrefix(more.RawQuery(), d.RawQuery()), "&")
		got, err := url.ParseQuery(added)
		if err != nil || len(got) != 1 || len(got[name]) != 1 || got[name][0] != value {
			t.Fatalf("%q=%q became %q, which reads %v (%v)", name, value, added, got, err)
		}
	})
}

func FuzzWithRawTarget(f *testing.F) {
	f.Add("/a?b", "GET")
	f.Add("*", "OPTIONS")
	f.Add("http://evil/", "GET")
	f.Add("/%zz\\@evil", "GET")
	f.Fuzz(func(t *testing.T, raw, method string) {
		base := fetch.Destination{Origin: fetch.Origin{Scheme: "http", Host: "x", Port: 80}, Target: "/", Encoded: true}
		d, err := base.WithRawTarget(raw, method)
		if err != nil || d.Target == "*" && method == "OPTIONS" {
			return
		}
		checkSent(t, d.Target)
		if d.Target != raw {
			t.Fatalf("%q is sent as %q", raw, d.Target)
		}
		// ParseURL encodes what is not legal, but must find the same origin.
		if again, err := fetch.ParseURL(d.URL()); err == nil && again.Origin != base.Origin {
			t.Fatalf("%q leads to %s", raw, again.Origin)
		}
	})
}

func BenchmarkParseURL(b *testing.B) {
	fill := func(prefix, unit string) string {
		return (prefix + strings.Repeat(unit, fetch.MaxURLBytes))[:fetch.MaxURLBytes]
	}
	for name, raw := range map[string]string{
		"plain":         "https://api.example.com/v1/things/42?fields=a,b,c",
		"escape":        "https://api.example.com/v1/a thing?q=é",
		"unicode host":  "https://bücher.example/",
		"pairs":         fill("http://x/", "?a="),
		"dots":          fill("http://x/", "../"),
		"labels":        fill("http://x", ".ü"),
		"bad A-label":   fill("http://xn--", "9"),
		"million pairs": "http://x/" + strings.Repeat("?a=", 1_000_000),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fetch.ParseURL(raw) // refused or not, it has to be fast
			}
		})
	}
}

// TestWhatFollowsABadHostIsNotShown: it may be a query without its '?', or a
// password without its '@'.
func TestWhatFollowsABadHostIsNotShown(t *testing.T) {
	for _, raw := range []string{
		"https://api.example.com&api_key=s3cr3t", "https://api.example.com;token=s3cr3t",
		"https://api.example.com\\v1\\token=s3cr3t", "https://user%3as3cr3t%40host/",
	} {
		_, err := fetch.ParseURL(raw)
		if err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}
