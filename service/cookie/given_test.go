package cookie_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func given(name, value string) fetch.Cookie {
	return fetch.Cookie{Name: []byte(name), Value: []byte(value)}
}

func TestAddDefaults(t *testing.T) {
	var jar cookie.Jar
	if err := jar.Add(given("a", "1"), at(t, "https://www.example.com/x/y")); err != nil {
		t.Fatal(err)
	}
	got := jar.Cookies(noon)[0]
	if got.Domain != "www.example.com" || string(got.Path) != "/" || !got.HostOnly || got.Secure {
		t.Errorf("%+v", got)
	}
	wantValue(t, &jar, "http://www.example.com/", "a=1")
	wantValue(t, &jar, "https://a.www.example.com/", "")
	wantValue(t, &jar, "https://example.com/", "")
}

func TestAddDomain(t *testing.T) {
	for _, test := range []struct {
		host, domain string
		hostOnly     bool
		want         string // "host", "domain" or the beginning of what is wrong
	}{
		{"www.example.com", "www.example.com", false, "domain"},
		{"www.example.com", "www.example.com", true, "host"},
		{"www.example.com", "example.com", false, "domain"},
		{"www.example.com", "example.com", true, "host"},
		{"192.0.2.7", "192.0.2.7", false, "host"},
		{"[2001:db8::1]", "2001:db8::1", false, "host"},
		{"github.io", "github.io", false, "host"},
		{"localhost", "localhost", false, "host"},
		{"www.example.com", "com", false, "the cookie's domain com is a public suffix"},
		{"www.example.com", "com", true, "the cookie's domain com is a public suffix"},
		{"me.github.io", "github.io", false, "the cookie's domain github.io is a public suffix"},
		{"a.x.kawasaki.jp", "kawasaki.jp", false, "the cookie's domain kawasaki.jp is a public suffix"},
		{"www.example.com", "example.org", false, "the cookie's domain example.org is neither"},
		{"www.example.com", "a.www.example.com", false, "the cookie's domain a.www.example.com is neither"},
		{"badexample.com", "example.com", false, "the cookie's domain example.com is neither"},
		{"www.example.com", ".example.com", false, "the cookie's domain .example.com is neither"},
		{"www.example.com", "Example.com", false, "the cookie's domain Example.com is neither"},
		{"www.example.com", "a\nb", false, `the cookie's domain a\nb is neither`},
		{"192.0.2.7", "2.7", false, "the cookie's domain 2.7 is"},
	} {
		var jar cookie.Jar
		c := given("a", "1")
		c.Domain, c.HostOnly = test.domain, test.hostOnly
		err := jar.Add(c, at(t, "https://"+test.host+"/"))
		got := fmt.Sprint(err)
		if err == nil {
			got = map[bool]string{true: "host", false: "domain"}[jar.Cookies(noon)[0].HostOnly]
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s adds a cookie of %q (%t): %s, want %s", test.host, test.domain, test.hostOnly, got, test.want)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	const secret = "hunter2"
	path := func(p string) fetch.Cookie {
		c := given("a", secret)
		c.Path = []byte(p)
		return c
	}
	for _, test := range []struct {
		cookie fetch.Cookie
		want   string
	}{
		{given("", secret), "no name"},
		{given("a=b", secret), "name has the byte 0x3d at 1"},
		{given("a b", secret), "name has the byte 0x20 at 1"},
		{given("a;b", secret), "name has the byte 0x3b at 1"},
		{given("n\xe9", secret), "name has the byte 0xe9 at 1"},
		{given("a", secret+"\r\nX: y"), "control character 0x0d at byte 7"},
		{given("a", secret+"\x00"), "control character 0x00 at byte 7"},
		{given("a", secret+"\x7f"), "control character 0x7f at byte 7"},
		{given("a", secret+"; b=2"), "';' at byte 7"},
		{given("a", " "+secret), "begins or ends with a space"},
		{given("a", secret+"\t"), "begins or ends with a space"},
		{given("a", secret+strings.Repeat("x", cookie.MaxPairBytes-len(secret))), "4097 bytes; at most 4096"},
		{path("x"), "path does not begin"},
		{path("/\n"), "path has the control character 0x0a at byte 1"},
		{path("/" + strings.Repeat("x", cookie.MaxAttributeBytes)), "path has 1025 bytes; at most 1024"},
	} {
		var jar cookie.Jar
		err := jar.Add(test.cookie, at(t, "https://example.com/"))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.20q=%.20q: %v, want %q", test.cookie.Name, test.cookie.Value, err, test.want)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the value is in %q", err)
		}
		if len(jar.Cookies(noon)) != 0 {
			t.Errorf("%.20q is held although it is refused", test.cookie.Name)
		}
	}
}

func TestAddTakes(t *testing.T) {
	for _, c := range []fetch.Cookie{
		given("a", ""),
		given("a", `"quoted, \ with"`),
		given("a", "b=c"),
		given("a", "caf\xe9\xff"),
		given("a", "tab\tinside"),
		given("__Host-a", "1"),
		given("!#$%&'*+-.^_`|~09", "1"),
		given("a", strings.Repeat("x", cookie.MaxPairBytes-1)),
	} {
		var jar cookie.Jar
		if err := jar.Add(c, at(t, "https://example.com/")); err != nil {
			t.Errorf("%.20q=%.20q: %v", c.Name, c.Value, err)
		}
		wantValue(t, &jar, "https://example.com/", string(c.Name)+"="+string(c.Value))
	}
}

func TestAddedCookieLives(t *testing.T) {
	var jar cookie.Jar
	home := at(t, "https://example.com/")
	over, later := given("over", "1"), given("later", "2")
	over.Expires, later.Expires = noon, noon.Add(time.Second)
	for _, c := range []fetch.Cookie{over, later, given("later", "3"), given("x", "4")} {
		if err := jar.Add(c, home); err != nil {
			t.Fatal(err)
		}
	}
	wantValue(t, &jar, "https://example.com/", "later=3; x=4")
	jar.Store(home, setCookies("x=5"), noon)
	wantValue(t, &jar, "https://example.com/", "later=3; x=5")
}

func TestAddTooMany(t *testing.T) {
	var jar cookie.Jar
	add := func(url string, i int) error { return jar.Add(given(fmt.Sprintf("n%d", i), "1"), at(t, url)) }
	for d := range cookie.MaxTotal / cookie.MaxPerDomain {
		url := fmt.Sprintf("https://d%d.example/", d)
		for i := range cookie.MaxPerDomain {
			if err := add(url, i); err != nil {
				t.Fatal(err)
			}
		}
		if err := add(url, cookie.MaxPerDomain); err == nil || !strings.Contains(err.Error(), "at most 50") {
			t.Errorf("one too many of its domain: %v", err)
		}
		if err := add(url, 0); err != nil {
			t.Errorf("a replacement needs no room: %v", err)
		}
	}
	if err := add("https://new.example/", 0); err == nil || !strings.Contains(err.Error(), "at most 200") {
		t.Errorf("one too many: %v", err)
	}
}
