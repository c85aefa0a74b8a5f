package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// A fetch has a jar of its own: what its hops set goes along to the next ones,
// comes back in the answer, and is forgotten then.

// set is a redirect that sets cookies.
func set(location string, cookies ...string) page {
	p := page{status: 302, location: location}
	for _, c := range cookies {
		p.lines = append(p.lines, "Set-Cookie: "+c)
	}
	return p
}

// sentCookies are the Cookie fields of requests; "" for none. Two fields in one
// request are one too many.
func sentCookies(t *testing.T, got []fetchtest.Recorded) []string {
	t.Helper()
	var sent []string
	for _, r := range got {
		fields := 0
		for _, f := range r.Fields {
			if strings.EqualFold(f.Name, "Cookie") {
				fields++
			}
		}
		if fields > 1 {
			t.Errorf("%q has %d Cookie fields", fetched([]fetchtest.Recorded{r}), fields)
		}
		sent = append(sent, r.Get("Cookie"))
	}
	return sent
}

// held are the cookies of an answer in short: "name=value@domain/path".
func held(a *answer) []string {
	var short []string
	for _, c := range a.cookies {
		short = append(short, fmt.Sprintf("%s=%s@%s%s", c.GetName(), c.GetValue(), c.GetDomain(), c.GetPath()))
	}
	return short
}

// TestCookiesOfHops: which cookies each hop gets, and which come back.
func TestCookiesOfHops(t *testing.T) {
	const a, sub, b = "http://a.test/", "http://sub.a.test/", "http://b.test/"
	for _, c := range []struct {
		name  string
		pages pages
		from  string
		given []*fetchgatev1.Cookie
		sent  []string
		held  []string
	}{
		{
			name: "set on a hop, sent on the next", from: a,
			pages: pages{"a.test/": set("/2", "id=1; Path=/"), "a.test/2": set("/3", "two=2; Path=/")},
			sent:  []string{"", "id=1", "id=1; two=2"}, held: []string{"id=1@a.test/", "two=2@a.test/"},
		},
		{
			name: "set anew", from: a,
			pages: pages{"a.test/": set("/2", "id=1; Path=/"), "a.test/2": set("/3", "id=2; Path=/")},
			sent:  []string{"", "id=1", "id=2"}, held: []string{"id=2@a.test/"},
		},
		{
			name: "host-only", from: a,
			pages: pages{"a.test/": set(sub, "id=1"), "sub.a.test/": set(b), "b.test/": set(a + "2")},
			sent:  []string{"", "", "", "id=1"}, held: []string{"id=1@a.test/"},
		},
		{
			name: "of a domain", from: sub,
			pages: pages{"sub.a.test/": set(a, "id=1; Domain=.a.test"), "a.test/": set(b), "b.test/": set("http://a.test.evil.test/"), "a.test.evil.test/": set(sub + "2")},
			sent:  []string{"", "id=1", "", "", "id=1"}, held: []string{"id=1@a.test/"},
		},
		{
			name: "of somebody else's domain", from: a,
			pages: pages{"a.test/": set(b, "id=1; Domain=b.test", "di=2; Domain=sub.a.test"), "b.test/": set(sub)},
			sent:  []string{"", "", ""},
		},
		{
			name: "of a public suffix", from: "http://shop.co.uk/",
			pages: pages{"shop.co.uk/": set("/2", "id=1; Domain=co.uk", "di=2; Domain=uk", "ok=3; Domain=shop.co.uk; Path=/")},
			sent:  []string{"", "ok=3"}, held: []string{"ok=3@shop.co.uk/"},
		},
		{
			name: "Secure over http", from: a,
			pages: pages{"a.test/": set("/2", "id=1; Secure", "__Host-x=1; Path=/", "__Secure-y=1")},
			sent:  []string{"", ""},
		},
		{
			name: "of a path", from: a,
			pages: pages{
				"a.test/": set("/x/1", "id=1; Path=/x"), "a.test/x/1": set("/xy", "default=2"), "a.test/xy": set("/x"), "a.test/x": set("/x/2")},
			sent: []string{"", "id=1", "", "id=1; default=2", "id=1; default=2"}, held: []string{"id=1@a.test/x", "default=2@a.test/x"},
		},
		{
			name: "expired", from: a,
			pages: pages{
				"a.test/":  set("/2", "id=1; Path=/", "old=1; Path=/; Max-Age=0", "older=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
				"a.test/2": set("/3", "id=; Path=/; Max-Age=-1")},
			sent: []string{"", "id=1", ""},
		},
		{
			name: "of the request", from: a, given: []*fetchgatev1.Cookie{{Name: []byte("given"), Value: []byte("0")}},
			pages: pages{"a.test/": set(sub, "id=1; Path=/"), "sub.a.test/": set(a + "2")},
			sent:  []string{"given=0", "", "given=0; id=1"}, held: []string{"given=0@a.test/", "id=1@a.test/"},
		},
		{
			name: "of the request, for a domain", from: sub, given: []*fetchgatev1.Cookie{{Name: []byte("given"), Value: []byte("0"), Domain: "a.test"}},
			pages: pages{"sub.a.test/": set(a), "a.test/": set(b)},
			sent:  []string{"given=0", "given=0", ""}, held: []string{"given=0@a.test/"},
		},
		{
			name: "of the request, set anew", from: a, given: []*fetchgatev1.Cookie{{Name: []byte("id"), Value: []byte("0")}},
			pages: pages{"a.test/": set("/2", "id=1; Path=/")},
			sent:  []string{"id=0", "id=1"}, held: []string{"id=1@a.test/"},
		},
		{
			name: "of the request, over https alone", from: a, given: []*fetchgatev1.Cookie{{Name: []byte("id"), Value: []byte("0"), Secure: true}},
			pages: pages{"a.test/": set("/2")},
			sent:  []string{"", ""}, held: []string{"id=0@a.test/"},
		},
		{
			name: "with bytes that are not text", from: a,
			pages: pages{"a.test/": set("/2", "id=\xff\xfe; Path=/")},
			sent:  []string{"", "id=\xff\xfe"}, held: []string{"id=\xff\xfe@a.test/"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := get(c.from)
			m.Request.Cookies = c.given
			newWeb(t, c.pages).each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, 200, "ok")
				if sent := sentCookies(t, got); !slices.Equal(sent, c.sent) {
					t.Errorf("to %q went the cookies %q, want %q", fetched(got), sent, c.sent)
				}
				if held := held(a); !slices.Equal(held, c.held) {
					t.Errorf("the answer holds %q, want %q", held, c.held)
				}
			})
		})
	}
}

// TestCookiesAndTheCallersOwnField: the field is the caller's and stays at its
// origin; the jar adds to it, and goes on without it elsewhere.
func TestCookiesAndTheCallersOwnField(t *testing.T) {
	w := newWeb(t, pages{"a.test/": set("/2", "id=1; Path=/"), "a.test/2": set("http://b.test/"), "b.test/": set("/2", "b=2; Path=/"), "b.test/2": set("http://a.test/3")})
	m := get("http://a.test/")
	m.Request.Headers = headers("Cookie", "own=0")
	w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
		wantAnswer(t, a, 200, "ok")
		want := []string{"own=0", "own=0; id=1", "", "b=2", "id=1"}
		if sent := sentCookies(t, got); !slices.Equal(sent, want) {
			t.Errorf("to %q went the cookies %q, want %q", fetched(got), sent, want)
		}
	})
}

// TestCookiesOverHTTPS: a Secure cookie goes to https alone.
func TestCookiesOverHTTPS(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	plain := newUpstreamOf(t, nil, fetchtest.Listen{})
	secure := newUpstreamOf(t, pages{
		"a.test/":  set("/2", "id=1; Secure; HttpOnly; SameSite=Strict; Path=/", "__Host-x=2; Secure; Path=/", "di=3; Path=/"),
		"a.test/2": {302, plain.URLOf("a.test", "/x"), nil, ""},
	}, fetchtest.Listen{Authority: authority})
	secure.start(t, fetchtest.Options{
		Trust: authority, Allow: []string{secure.URLOf("a.test", "")},
		Extra: fmt.Sprintf("  - name: plain\n    dangerous_allow_loopback: true\n    dangerous_allow_downgrade: true\n    origins: [%q]\n", plain.URLOf("a.test", "")),
	})
	secure.each(t, get(secure.URLOf("a.test", "/")), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
		wantAnswer(t, a, 200, "ok")
		if sent := sentCookies(t, got); !slices.Equal(sent, []string{"", "id=1; __Host-x=2; di=3"}) {
			t.Errorf("over https went %q", sent)
		}
		over := plain.Requests()
		if sent := sentCookies(t, over[len(over)-1:]); !slices.Equal(sent, []string{"di=3"}) {
			t.Errorf("over http went %q", sent)
		}
		want := &fetchgatev1.Cookie{
			Name: []byte("id"), Value: []byte("1"), Domain: "a.test", Path: []byte("/"),
			Secure: true, HttpOnly: true, HostOnly: true, SameSite: fetchgatev1.SameSite_SAME_SITE_STRICT,
		}
		if len(a.cookies) != 3 || !proto.Equal(a.cookies[0], want) {
			t.Errorf("the answer holds %v, want the first to be %v", a.cookies, want)
		}
	})
}

// TestCookiesAreForgotten: a fetch knows nothing of the one before, not even
// over the same connection, unless the caller gives what came back.
func TestCookiesAreForgotten(t *testing.T) {
	w := newWeb(t, pages{"a.test/": set("/2", "id=1; Path=/; Max-Age=3600")})
	w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
		if len(a.cookies) != 1 || time.Until(a.cookies[0].GetExpireTime().AsTime()) < 50*time.Minute {
			t.Fatalf("the answer holds %v", a.cookies)
		}
		for _, again := range []struct {
			given []*fetchgatev1.Cookie
			want  string
		}{{nil, ""}, {a.cookies, "id=1"}} {
			m := get("http://a.test/3")
			m.Request.Cookies = again.given
			w.each(t, m, func(t *testing.T, _ *answer, next []fetchtest.Recorded) {
				if sent := sentCookies(t, next); !slices.Equal(sent, []string{again.want}) || next[0].Conn != got[0].Conn {
					t.Errorf("the next fetch sent %q over connection %d, want %q over %d", sent, next[0].Conn, again.want, got[0].Conn)
				}
			})
		}
	})
}

// TestCookiesOfFailures come back too: a login that worked is worth knowing.
func TestCookiesOfFailures(t *testing.T) {
	w := newWeb(t, pages{"a.test/": set("http://private.test/", "id=1")})
	w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, _ []fetchtest.Recorded) {
		wantFailure(t, a, "ADDRESS_DENIED")
		if !slices.Equal(held(a), []string{"id=1@a.test/"}) {
			t.Errorf("the answer holds %q", held(a))
		}
	})
}

// TestCookiesOfAttempts: another attempt begins as the first did, but knows what
// the upstream has set.
func TestCookiesOfAttempts(t *testing.T) {
	u := newTurns(t, "", fetchtest.Answer(503, "busy", "Set-Cookie: id=1"), fetchtest.Answer(200, "ok"))
	u.each(t, retried("GET", nil), func(t *testing.T, a *answer, requests int) {
		wantAnswer(t, a, 200, "ok")
		if requests != 2 || !slices.Equal(held(a), []string{"id=1@127.0.0.1/"}) {
			t.Errorf("after %d requests the answer holds %q", requests, held(a))
		}
	})
	for _, r := range u.Requests() {
		if v := r.Get("Cookie"); v != "" && v != "id=1" {
			t.Errorf("%s got the cookies %q", r.Target, v)
		}
	}
}

// TestCookiesThatMakeNoSense are refused by their place.
func TestCookiesThatMakeNoSense(t *testing.T) {
	w := newWeb(t, nil)
	good := &fetchgatev1.Cookie{Name: []byte("id")}
	for name, c := range map[string]*fetchgatev1.Cookie{
		"without a name":                {Value: []byte("1")},
		"whose name is no token":        {Name: []byte("a b")},
		"whose value ends the field":    {Name: []byte("id"), Value: []byte("1\r\nX: y")},
		"whose value is two":            {Name: []byte("id"), Value: []byte("1; admin=1")},
		"of another host":               {Name: []byte("id"), Domain: "b.test"},
		"of a subdomain":                {Name: []byte("id"), Domain: "sub.a.test"},
		"of a public suffix":            {Name: []byte("id"), Domain: "test"},
		"whose path is none":            {Name: []byte("id"), Path: []byte("x")},
		"that are too long":             {Name: []byte("id"), Value: []byte(strings.Repeat("x", 4096))},
		"whose domain has a dot ahead":  {Name: []byte("id"), Domain: ".a.test"},
		"whose value has a NUL":         {Name: []byte("id"), Value: []byte("\x00")},
		"whose path ends the attribute": {Name: []byte("id"), Path: []byte("/\n")},
	} {
		for _, rpc := range rpcs {
			m := get(w.at("http://a.test/"))
			m.Request.Cookies = []*fetchgatev1.Cookie{good, c}
			_, err := rpc.call(t.Context(), w.gate, m)
			wantRefused(t, rpc.name+", a cookie "+name, err, "request.cookies[1]")
		}
	}
	for _, rpc := range rpcs {
		m := get(w.at("http://a.test/"))
		m.Request.Cookies = slices.Repeat([]*fetchgatev1.Cookie{good}, 51)
		_, err := rpc.call(t.Context(), w.gate, m)
		wantRefused(t, rpc.name, err, "request.cookies")
		m.Request.Cookies = []*fetchgatev1.Cookie{{Name: []byte("id"), ExpireTime: &timestamppb.Timestamp{Nanos: -1}}}
		_, err = rpc.call(t.Context(), w.gate, m)
		wantRefused(t, rpc.name, err, "request.cookies[0].expire_time")
	}
	if len(w.Requests()) != 0 {
		t.Errorf("the upstream got %q", fetched(w.Requests()))
	}
}
