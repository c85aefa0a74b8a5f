package cookie_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Each case is what a response of https://example.com/ sets and what goes back
// there; nothing if the field is ignored.
func TestPairs(t *testing.T) {
	long := strings.Repeat("x", cookie.MaxPairBytes)
	for _, test := range []struct{ set, want string }{
		{"a=b", "a=b"},
		{"  a \t=\t b  ; Secure", "a=b"},
		{"a=", "a="},
		{"a=b=c", "a=b=c"},
		{"a==", "a=="},
		{`a="b c, \d"`, `a="b c, \d"`},
		{`a="b;c"`, `a="b`},
		{"a=\xff\x80caf\xc3\xa9", "a=\xff\x80caf\xc3\xa9"},
		{"caf\xe9 (1)=2", "caf\xe9 (1)=2"},
		{"a=b\tc", "a=b\tc"},
		{"a=%0d%0a", "a=%0d%0a"},
		{"a=b, c=d", "a=b, c=d"},
		{"a=b;", "a=b"},
		{"a=b;;;=;=x;y=z;Secure=no", "a=b"},
		{"", ""}, {";", ""}, {"a", ""}, {"a; b=c", ""}, {"=b", ""}, {" = ", ""}, {"=", ""}, {"\t=b", ""},
		{"a=b\x00c", ""}, {"a=b\x1fc", ""}, {"a=b\x7fc", ""}, {"a\x01=b", ""}, {"a=b\r\nc", ""},
		{"a=b; Path=/\x00", ""}, {"a=b; other=\n", ""},
		{"a=" + long[1:], "a=" + long[1:]},
		{"a=" + long, ""},
		{long + "=", long + "="},
		{long + "x=", ""},
	} {
		jar := stored(t, "https://example.com/", test.set)
		if got := string(jar.Value(at(t, "https://example.com/"), noon)); got != test.want {
			t.Errorf("%.40q: %.40q, want %.40q", test.set, got, test.want)
		}
	}
}

func TestAttributes(t *testing.T) {
	end := func(t time.Time) string { return t.UTC().Format(time.DateTime) }
	long := strings.Repeat("1", cookie.MaxAttributeBytes+1)
	for _, test := range []struct{ set, want string }{
		{"", "/x host"},
		{"SECURE; HttpOnly=no", "/x host secure httponly"},
		{"secure ; \tHTTPONLY\t", "/x host secure httponly"},
		{"\u017fecure; \u017fame\u017fite=Lax", "/x host"}, // the long s
		{"Secured; Http-Only", "/x host"},
		{"Path = /a/b ", "/a/b host"},
		{"pAtH=/\xff", "/\xff host"},
		{"Path=/" + long, "/x host"},
		{"Path=/" + long[2:], "/" + long[2:] + " host"},
		{"Path=/a; Path=/" + long, "/a host"},
		{"Domain=example.com", "/x"},
		{"Domain=example.com; Domain=" + long, "/x"},
		{"SameSite=NONE", "/x host None"},
		{"SameSite=lax", "/x host Lax"},
		{"SameSite=Strict", "/x host Strict"},
		{"SameSite=Strict; SameSite=other", "/x host"},
		{"SameSite", "/x host"},
		{"Max-Age=60", "/x host " + end(noon.Add(time.Minute))},
		{"Max-Age=060", "/x host " + end(noon.Add(time.Minute))},
		{"Max-Age=60; Max-Age=120", "/x host " + end(noon.Add(2*time.Minute))},
		{"Max-Age=60; Max-Age=x; Max-Age=", "/x host " + end(noon.Add(time.Minute))},
		{"Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/x host " + end(noon.Add(time.Minute))},
		{"Expires=Fri, 31 Dec 9999 23:59:59 GMT; Max-Age=60", "/x host " + end(noon.Add(time.Minute))},
		{"Expires=Fri, 31 Dec 9999 23:59:59 GMT", "/x host 9999-12-31 23:59:59"},
		{"Expires=Fri, 31 Dec 9999 23:59:59 GMT; Expires=never", "/x host 9999-12-31 23:59:59"},
		{"Expires=never", "/x host"},
		{"Max-Age=1" + long[3:], "/x host " + end(noon.Add(1<<63-1).Truncate(time.Second))},
		{"Max-Age=1" + long, "/x host"},
		{"Max-Age=+60", "/x host"}, {"Max-Age=-", "/x host"}, {"Max-Age=--1", "/x host"}, {"Max-Age=6 0", "/x host"},
		{"Max-Age=6e1", "/x host"}, {"Max-Age=\u0666", "/x host"}, {`Max-Age="60"`, "/x host"},
		{"Max-Age=0", ""}, {"Max-Age=-1", ""}, {"Max-Age=-0", ""}, {"Max-Age=-" + long[2:], ""},
	} {
		got := ""
		for _, c := range stored(t, "https://example.com/x/", "a=b; "+test.set).Cookies(noon) {
			got = describe(c)
		}
		if got != test.want {
			t.Errorf("%.60q: %.60q, want %.60q", test.set, got, test.want)
		}
	}
}

func describe(c fetch.Cookie) string {
	text := string(c.Path)
	for _, part := range []struct {
		has  bool
		name string
	}{{c.HostOnly, "host"}, {c.Secure, "secure"}, {c.HTTPOnly, "httponly"}, {c.SameSite != "", c.SameSite},
		{!c.Expires.IsZero(), c.Expires.UTC().Format(time.DateTime)}} {
		if part.has {
			text += " " + part.name
		}
	}
	return text
}

func TestNamePrefixes(t *testing.T) {
	for _, test := range []struct {
		url, set string
		taken    bool
	}{
		{"https://www.example.com/", "__Secure-a=1; Secure", true},
		{"https://www.example.com/", "__Secure-a=1; Secure; Domain=example.com; Path=/x", true},
		{"https://www.example.com/", "__Secure-a=1", false},
		{"https://www.example.com/", "__sEcUrE-a=1", false},
		{"http://www.example.com/", "__Secure-a=1; Secure", false},
		{"https://www.example.com/", "__Host-a=1; Secure; Path=/", true},
		{"https://www.example.com/", "__Host-=1; Secure; Path=/; Domain=", true},
		{"https://www.example.com/", "__Host-a=1; Path=/", false},
		{"https://www.example.com/", "__Host-a=1; Secure", false},
		{"https://www.example.com/x/", "__Host-a=1; Secure; Path=/x", false},
		{"https://www.example.com/", "__HOST-a=1; Secure; Path=/; Domain=www.example.com", false},
		{"http://www.example.com/", "__host-a=1; Secure; Path=/", false},
		{"http://www.example.com/", "__Hosta=1", true},
		{"http://www.example.com/", "a=__Host-a=1", true},
		{"http://www.example.com/", "=__Host-a=1", false},
	} {
		if got := len(stored(t, test.url, test.set).Cookies(noon)) == 1; got != test.taken {
			t.Errorf("%s sets %q: %t", test.url, test.set, got)
		}
	}
}

// A path that no attribute named has the bound of one that did.
func TestLongDefaultPath(t *testing.T) {
	for n, want := range map[int]int{cookie.MaxAttributeBytes: 1, cookie.MaxAttributeBytes + 1: 0} {
		url := "https://example.com/" + strings.Repeat("x", n-1) + "/y"
		if got := len(stored(t, url, "a=1").Cookies(noon)); got != want {
			t.Errorf("a default path of %d bytes: %d cookies", n, got)
		}
	}
}

func ExampleJar() {
	home, _ := fetch.ParseURL("https://www.example.com/login")
	next, _ := fetch.ParseURL("https://shop.example.com/")
	now := time.Now()

	var jar cookie.Jar
	err := jar.Add(fetch.Cookie{Name: []byte("language"), Value: []byte("en")}, home)
	jar.Store(home, []fetch.Field{{Name: "Set-Cookie", Value: []byte("id=7; Domain=example.com; Path=/; Secure")}}, now)
	fmt.Printf("%v\n%s\n%s\n", err, jar.Value(home, now), jar.Value(next, now))
	// Output:
	// <nil>
	// language=en; id=7
	// id=7
}
