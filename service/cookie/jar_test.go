package cookie_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
)

var noon = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

func at(t testing.TB, url string) fetch.Destination {
	t.Helper()
	d, err := fetch.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func setCookies(values ...string) []fetch.Field {
	var fields []fetch.Field
	for _, v := range values {
		fields = append(fields, fetch.Field{Name: "Set-Cookie", Value: []byte(v)})
	}
	return fields
}

// stored returns a jar that took the cookies of one response of url.
func stored(t testing.TB, url string, values ...string) *cookie.Jar {
	t.Helper()
	jar := new(cookie.Jar)
	jar.Store(at(t, url), setCookies(values...), noon)
	return jar
}

func wantValue(t *testing.T, jar *cookie.Jar, url, want string) {
	t.Helper()
	if got := string(jar.Value(at(t, url), noon)); got != want {
		t.Errorf("to %s: %q, want %q", url, got, want)
	}
}

func names(jar *cookie.Jar, now time.Time) string {
	var all []string
	for _, c := range jar.Cookies(now) {
		all = append(all, string(c.Name))
	}
	return strings.Join(all, " ")
}

func TestEmptyJar(t *testing.T) {
	var jar cookie.Jar
	if v := jar.Value(at(t, "https://example.com/"), noon); v != nil {
		t.Errorf("%q, want nil", v)
	}
	if all := jar.Cookies(noon); len(all) != 0 {
		t.Errorf("%v, want none", all)
	}
}

func TestFieldNameHasNoCase(t *testing.T) {
	var jar cookie.Jar
	jar.Store(at(t, "https://example.com/"), []fetch.Field{
		{Name: "set-COOKIE", Value: []byte("a=1")},
		{Name: "Set-Cookie2", Value: []byte("b=2")},
		{Name: "Cookie", Value: []byte("c=3")},
	}, noon)
	wantValue(t, &jar, "https://example.com/", "a=1")
}

func TestOrder(t *testing.T) {
	jar := stored(t, "https://example.com/x/y/z", "old=1; Path=/", "deep=2; Path=/x/y", "middle=3; Path=/x", "young=4; Path=/")
	wantValue(t, jar, "https://example.com/x/y/z", "deep=2; middle=3; old=1; young=4")
	if got := names(jar, noon); got != "old deep middle young" {
		t.Errorf("in order of creation: %s", got)
	}
}

func TestReplacementKeepsCreation(t *testing.T) {
	jar := stored(t, "https://example.com/", "a=1; Secure", "b=2", "a=3; HttpOnly", "a=other; Path=/x")
	wantValue(t, jar, "https://example.com/", "a=3; b=2")
	first := jar.Cookies(noon)[0]
	if first.Secure || !first.HTTPOnly || string(first.Value) != "3" {
		t.Errorf("the cookie is not replaced as a whole: %+v", first)
	}
}

// What is over is deleted, so that the same cookie is created anew.
func TestExpiry(t *testing.T) {
	jar := stored(t, "https://example.com/", "short=1; Max-Age=10", "session=2", "long=3; Max-Age=100")
	home := at(t, "https://example.com/")
	if got := string(jar.Value(home, noon.Add(9*time.Second))); got != "short=1; session=2; long=3" {
		t.Errorf("before: %s", got)
	}
	end := noon.Add(10 * time.Second)
	if got := string(jar.Value(home, end)); got != "session=2; long=3" {
		t.Errorf("at its end: %s", got)
	}
	jar.Store(home, setCookies("short=4"), end)
	if got := names(jar, end); got != "session long short" {
		t.Errorf("created anew: %s", got)
	}
	jar.Store(home, setCookies("session=; Max-Age=0", "long=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "unknown=; Max-Age=-1"), end)
	if got := names(jar, end); got != "short" {
		t.Errorf("deleted by the upstream: %s", got)
	}
}

func TestExpiredCookieMakesRoom(t *testing.T) {
	home := at(t, "https://example.com/")
	jar := stored(t, "https://example.com/", "keep=1", "short=1; Max-Age=1")
	var many []string
	for i := range cookie.MaxPerDomain - 1 {
		many = append(many, fmt.Sprintf("n%d=", i))
	}
	jar.Store(home, setCookies(many...), noon.Add(time.Second))
	all := jar.Cookies(noon.Add(time.Second))
	if len(all) != cookie.MaxPerDomain || string(all[0].Name) != "keep" {
		t.Errorf("%d cookies, the first is %s", len(all), all[0].Name)
	}
}

func TestSecureStaysOffHTTP(t *testing.T) {
	jar := stored(t, "https://example.com/", "s=1; Secure", "p=2")
	wantValue(t, jar, "https://example.com/", "s=1; p=2")
	wantValue(t, jar, "https://example.com:8443/", "s=1; p=2")
	wantValue(t, jar, "http://example.com/", "p=2")
	wantValue(t, jar, "http://localhost/", "")
	jar.Store(at(t, "http://example.com/"), setCookies("new=1; Secure"), noon)
	if got := names(jar, noon); got != "s p" {
		t.Errorf("a Secure cookie was set over http: %s", got)
	}
}

func TestHTTPHidesNoSecureCookie(t *testing.T) {
	for _, test := range []struct {
		url, set string
		taken    bool
	}{
		{"http://www.example.com/", "id=evil; Path=/login", false},
		{"http://www.example.com/", "id=evil; Path=/login/deeper", false},
		{"http://www.example.com/", "id=evil; Domain=example.com; Path=/login", false},
		{"http://a.www.example.com/", "id=evil; Path=/login", false},
		{"http://www.example.com/", "id=; Path=/login; Max-Age=0", false},
		{"http://www.example.com/", "id=1; Path=/", true},
		{"http://www.example.com/", "other=1; Path=/login", true},
		{"http://two.example.com/", "id=1; Path=/login", true},
		{"https://www.example.com/", "id=1; Path=/login; Domain=example.com", true},
	} {
		jar := stored(t, "https://www.example.com/", "id=good; Secure; Path=/login")
		before := len(jar.Cookies(noon))
		jar.Store(at(t, test.url), setCookies(test.set), noon)
		after := jar.Cookies(noon)
		if string(after[0].Value) != "good" || len(after) > before != test.taken {
			t.Errorf("%s sets %q: %+v", test.url, test.set, after)
		}
	}
}

func TestOldestOfDomainGoes(t *testing.T) {
	jar := stored(t, "https://www.example.com/", "theirs=1; Domain=example.com")
	for i := range cookie.MaxPerDomain + 3 {
		jar.Store(at(t, "https://www.example.com/"), setCookies(fmt.Sprintf("n%d=", i)), noon)
	}
	all := jar.Cookies(noon)
	if len(all) != cookie.MaxPerDomain+1 || string(all[0].Name) != "theirs" || string(all[1].Name) != "n3" {
		t.Errorf("%d cookies: %s", len(all), names(jar, noon))
	}
	jar.Store(at(t, "https://www.example.com/"), setCookies("n3=again"), noon)
	if got := jar.Cookies(noon); len(got) != len(all) || string(got[1].Value) != "again" {
		t.Error("a replacement pushed out another")
	}
}

func TestFullJar(t *testing.T) {
	var jar cookie.Jar
	for d := range cookie.MaxTotal / 40 {
		for i := range 40 {
			jar.Store(at(t, fmt.Sprintf("https://d%d.example/", d)), setCookies(fmt.Sprintf("n%d=", i)), noon)
		}
	}
	count := func(domain string) (n int, first string) {
		for _, c := range slices.Backward(jar.Cookies(noon)) {
			if c.Domain == domain {
				n, first = n+1, string(c.Name)
			}
		}
		return n, first
	}
	jar.Store(at(t, "https://d3.example/"), setCookies("more="), noon)
	if n, first := count("d3.example"); n != 40 || first != "n1" {
		t.Errorf("d3 has %d cookies from %s on, want its own oldest gone", n, first)
	}
	jar.Store(at(t, "https://new.example/"), setCookies("a=", "b="), noon)
	if n, _ := count("new.example"); n != 1 {
		t.Errorf("new has %d cookies, want the one that took the place of another domain's", n)
	}
	if n, first := count("d0.example"); n != 39 || first != "n1" {
		t.Errorf("d0 has %d cookies from %s on, want the oldest of the fullest domain gone", n, first)
	}
	if n := len(jar.Cookies(noon)); n != cookie.MaxTotal {
		t.Errorf("%d cookies", n)
	}
}

// A field's bytes may be overwritten after Store, a request's after Add.
func TestJarKeepsItsOwnBytes(t *testing.T) {
	var jar cookie.Jar
	home := at(t, "https://example.com/")
	fields := setCookies("a=1; Path=/x")
	given := fetch.Cookie{Name: []byte("b"), Value: []byte("2"), Path: []byte("/x")}
	jar.Store(home, fields, noon)
	if err := jar.Add(given, home); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{fields[0].Value, given.Name, given.Value, given.Path} {
		copy(b, bytes.Repeat([]byte{'\n'}, len(b)))
	}
	wantValue(t, &jar, "https://example.com/x", "a=1; b=2")
}
