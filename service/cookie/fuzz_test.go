package cookie_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
)

var longAgo = time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)

func storedLongAgo(t testing.TB, value string) *cookie.Jar {
	t.Helper()
	var jar cookie.Jar
	jar.Store(at(t, "https://example.com/"), setCookies(value), longAgo)
	return &jar
}

var fuzzURLs = []string{
	"https://www.example.com/a/b", "http://www.example.com/", "https://example.com/a/", "http://badexample.com/a/b/c",
	"https://me.github.io/", "https://192.0.2.7/a", "http://[2001:db8::1]/", "https://a.x.kawasaki.jp/a;b/c",
}

// FuzzStore stores any bytes, a field a line, from one URL after another:
// whatever they are, the bounds hold, what is sent is legal and goes only where
// it may, and each cookie can be given to the next fetch.
func FuzzStore(f *testing.F) {
	for _, seed := range []string{
		"a=b; Path=/a; Domain=example.com; Secure\na=c\n__Host-a=1; Secure; Path=/",
		"a=b\r; Domain=.\xff\xfe\n=\n;;;=\n\x00=\x00; Path=\x00",
		"a=" + strings.Repeat("x", 4095) + "\n" + strings.Repeat("y=1; Max-Age=99999999999999999999\n", 3),
		"a=b; Max-Age=-1\na=b; Expires=Sun, 06 Nov 2094 08:49:37 GMT\n \t=\t ;\ta = b \t",
		"a=b; Domain=io\na=b; Domain=github.io\na=b; Domain=2.7\na=b; Domain=kawasaki.jp\na=b; Domain=:db8::1",
		strings.Repeat("a=b; Path=/a\nb=c; Path=/\n", 30) + "SameSite=Lax; SameSite",
	} {
		f.Add([]byte(seed), byte(0), byte(4))
	}
	f.Fuzz(func(t *testing.T, lines []byte, first, second byte) {
		var jar cookie.Jar
		for i, url := range []byte{first, second} {
			from := at(t, fuzzURLs[int(url)%len(fuzzURLs)])
			var fields []fetch.Field
			for n, line := range bytes.Split(lines, []byte{'\n'}) {
				if n%2 == i || len(line) > 20 {
					fields = append(fields, fetch.Field{Name: "Set-Cookie", Value: line})
				}
			}
			before := jar.Cookies(noon)
			jar.Store(from, fields, noon)
			checkHeld(t, before, jar.Cookies(noon), from)
		}
		for _, url := range fuzzURLs {
			checkSent(t, &jar, at(t, url))
		}
	})
}

// checkHeld holds that the cookies that from has added are within the bounds and
// its own.
func checkHeld(t *testing.T, before, after []fetch.Cookie, from fetch.Destination) {
	t.Helper()
	ofDomain := map[string]int{}
	for _, c := range after {
		ofDomain[c.Domain]++
		if len(c.Name) == 0 || len(c.Name)+len(c.Value) > cookie.MaxPairBytes || len(c.Path) > cookie.MaxAttributeBytes ||
			c.Path[0] != '/' || ofDomain[c.Domain] > cookie.MaxPerDomain || len(after) > cookie.MaxTotal {
			t.Fatalf("beyond the bounds: %+v", c)
		}
		isOld := slices.ContainsFunc(before, func(old fetch.Cookie) bool {
			return bytes.Equal(old.Name, c.Name) && old.Domain == c.Domain && bytes.Equal(old.Path, c.Path) && bytes.Equal(old.Value, c.Value)
		})
		if isOld {
			continue
		}
		if c.Secure && from.Scheme == "http" {
			t.Fatalf("%s sets the Secure cookie %+v", from, c)
		}
		again := fetch.Cookie{Name: []byte("a"), Value: c.Value, Domain: c.Domain, Path: c.Path, HostOnly: c.HostOnly}
		if err := new(cookie.Jar).Add(again, from); err != nil {
			t.Fatalf("%+v cannot be given to %s: %v", c, from, err)
		}
	}
}

// checkSent holds that each cookie that is sent to to may go there, and that
// what is sent is legal and reads as that many cookies.
func checkSent(t *testing.T, jar *cookie.Jar, to fetch.Destination) {
	t.Helper()
	value := jar.Value(to, noon)
	if err := fetch.CheckField(fetch.Field{Name: "Cookie", Value: value}); err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	var may []string
	for _, c := range jar.Cookies(noon) {
		isNear := c.Domain == to.Host || !c.HostOnly && strings.HasSuffix(to.Host, "."+c.Domain)
		if isNear && strings.HasPrefix(to.Path(), string(c.Path)) && (to.Scheme == "https" || !c.Secure) {
			may = append(may, string(c.Name)+"="+string(c.Value))
		}
	}
	if len(value) == 0 {
		return
	}
	for pair := range bytes.SplitSeq(value, []byte("; ")) {
		i := slices.Index(may, string(pair))
		if i < 0 {
			t.Fatalf("%s is sent %q of %q", to, pair, value)
		}
		may = slices.Delete(may, i, i+1)
	}
}

// FuzzDate reads any text as a date: one in a form of RFC 9110 section 5.6.7 is
// read as such.
func FuzzDate(f *testing.F) {
	for _, seed := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "1:1:1 1 1 jan\xff 99"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == ';' }) || len(text) > cookie.MaxAttributeBytes {
			return
		}
		got := expires(t, text)
		if !got.IsZero() && (got.Year() < 1601 || got.Year() > 9999) {
			t.Errorf("%q: %v", text, got)
		}
		for _, layout := range []string{http.TimeFormat, time.ANSIC} {
			want, err := time.Parse(layout, text)
			if err == nil && want.Format(layout) == text && want.Year() >= 1601 && !got.Equal(want) {
				t.Errorf("%q: %v, want %v", text, got, want)
			}
		}
	})
}
