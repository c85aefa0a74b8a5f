package cookie_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"golang.org/x/net/publicsuffix"
)

// The oracle is the jar of net/http. The words below keep to where both should
// agree. They differ by intention, and the words avoid it, in that the oracle
//
//   - reads only names that are tokens, values of visible ASCII without '"',
//     ';' and '\', dates in two forms, no Max-Age with a leading zero, and no
//     attribute with spaces around its "="; it keeps those after a name's "=";
//   - takes the last Domain even if it is empty, an Expires that is no date for
//     none at all where an earlier one was good, and ignores a cookie with
//     "Domain=." or, from an address, with a dot in front of it;
//   - compares paths after percent-decoding;
//   - sends Secure cookies to localhost over http, takes Secure cookies from
//     http and lets http replace them, and knows no __Secure- and __Host-;
//   - takes a cookie for the parent of a wildcard's public suffixes, though it
//     then sends it below one of them only;
//   - lets a cookie that replaces one which is over, but was not yet looked at,
//     keep its creation time;
//   - has no bounds.
var (
	wordHosts = []string{
		"example.com", "www.example.com", "a.www.example.com", "badexample.com", "example.co.uk", "www.example.co.uk", "github.io",
		"me.github.io", "intranet", "a.intranet", "192.0.2.7", "192.0.2.70", "x.kawasaki.jp", "a.x.kawasaki.jp", "a.city.kawasaki.jp",
	}
	wordPaths = []string{"/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c"}
	wordNames = []string{"n", "m", "", "N"}
	wordPairs = []string{"=1", "=2", "=", "=x=y", " =3 ", "", `="q"`}
	wordsEach = [][]string{
		{"", "", "; Path=/", "; path=/a", "; Path=/a/", "; PATH=/a/b", "; Path=", "; Path=a", "; Path"},
		{"", "", "; Domain=", "; Domain=com", "; Domain=.co.uk", "; domain=EXAMPLE.com", "; Domain=.www.example.com", "; Domain=example.co.uk",
			"; Domain=github.io", "; Domain=intranet", "; Domain=192.0.2.7", "; Domain=2.7", "; Domain=..example.com", "; Domain=example.com.",
			"; Domain=x.kawasaki.jp", "; Domain=city.kawasaki.jp", "; Domain=xample.com"},
		{"", "", "", "; Max-Age=0", "; Max-Age=-1", "; Max-Age=90", "; max-age=3600", "; Max-Age=x", "; Max-Age="},
		{"", "", "", "; Expires=Sun, 06 Nov 1994 08:49:37 GMT", "; expires=Sat, 01 Jan 2000 00:01:30 GMT", "; Expires=Sun, 06-Nov-2094 08:49:37 GMT", "; Expires=soon"},
		{"", "; HttpOnly", "; SameSite=Lax", "; unknown=1", ";", "; =; "},
	}
)

// words draws the steps of a comparison from bytes, and nothing but zeros when
// they are used up.
type words struct{ rest []byte }

func (w *words) number(n int) int {
	if len(w.rest) == 0 {
		return 0
	}
	b := w.rest[0]
	w.rest = w.rest[1:]
	return int(b) % n
}

func (w *words) of(list []string) string { return list[w.number(len(list))] }

// setCookie draws a Set-Cookie field. Only the name "s" is Secure, which keeps
// it from being set and replaced over http.
func (w *words) setCookie(scheme string) string {
	set := w.of(wordNames) + w.of(wordPairs)
	if scheme == "https" && w.number(4) == 0 {
		set = "s" + w.of(wordPairs) + "; Secure"
	}
	for _, list := range wordsEach {
		set += w.of(list)
	}
	return set
}

// oracle writes the Cookie field that the other jar would, quotes included.
func oracle(jar http.CookieJar, u *url.URL) string {
	var pairs []string
	for _, c := range jar.Cookies(u) {
		if c.Quoted {
			c.Value = `"` + c.Value + `"`
		}
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// compare lets both jars see the same responses, with time passing, and after
// each asks both about every host: so nothing that is over stays unseen.
func compare(t *testing.T, w *words) {
	other, err := cookiejar.New(&cookiejar.Options{PublicSuffixList: publicsuffix.List})
	if err != nil {
		t.Fatal(err)
	}
	var jar cookie.Jar
	var log strings.Builder
	for step := 0; step < 20 && len(w.rest) > 0; step++ {
		<-time.After(time.Duration(w.number(3)) * time.Minute)
		scheme := w.of([]string{"https", "http"})
		from := scheme + "://" + w.of(wordHosts) + w.of(wordPaths)
		set := []string{w.setCookie(scheme), w.setCookie(scheme)}
		fmt.Fprintf(&log, "%s %s %q\n", time.Now().Format(time.TimeOnly), from, set)
		jar.Store(at(t, from), setCookies(set...), time.Now())
		u, _ := url.Parse(from)
		other.SetCookies(u, (&http.Response{Header: http.Header{"Set-Cookie": set}}).Cookies())
		scheme, path := w.of([]string{"http", "https"}), w.of(wordPaths)
		for _, host := range wordHosts {
			to := scheme + "://" + host + path
			u, _ := url.Parse(to)
			if got, want := string(jar.Value(at(t, to), time.Now())), oracle(other, u); got != want {
				t.Fatalf("%sto %s: %q, net/http sends %q", &log, to, got, want)
			}
		}
	}
}

func TestAgreesWithNetHTTP(t *testing.T) {
	for seed := range byte(100) {
		synctest.Test(t, func(t *testing.T) {
			steps := make([]byte, 500)
			_, _ = rand.NewChaCha8([32]byte{seed}).Read(steps)
			compare(t, &words{steps})
		})
	}
}

// FuzzAgreesWithNetHTTP is TestAgreesWithNetHTTP with steps that it looks for.
func FuzzAgreesWithNetHTTP(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		synctest.Test(t, func(t *testing.T) { compare(t, &words{steps}) })
	})
}
