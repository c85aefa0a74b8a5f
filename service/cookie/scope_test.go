package cookie_test

import "testing"

// Each case is whether a cookie of set that a response of from sets goes to to.
func TestDomains(t *testing.T) {
	for _, test := range []struct {
		from, set, to string
		sent          bool
	}{
		{"www.example.com", "", "www.example.com", true},
		{"www.example.com", "", "a.www.example.com", false},
		{"www.example.com", "", "example.com", false},
		{"www.example.com", "Domain=", "a.www.example.com", false},
		{"www.example.com", "Domain=.", "www.example.com", true},
		{"www.example.com", "Domain=.", "a.www.example.com", false},
		{"www.example.com", "Domain=example.com", "example.com", true},
		{"www.example.com", "Domain=.EXAMPLE.com", "other.example.com", true},
		{"www.example.com", "Domain=example.com", "badexample.com", false},
		{"www.example.com", "Domain=www.example.com", "a.www.example.com", true},
		{"www.example.com", "Domain=www.example.com", "example.com", false},
		{"www.example.com", "Domain=..example.com", "www.example.com", false},
		{"www.example.com", "Domain=example.com.", "www.example.com", false},
		{"www.example.com", "Domain=xample.com", "www.example.com", false},
		{"www.example.com", "Domain=a.www.example.com", "a.www.example.com", false},
		{"www.example.com", "Domain=example.org", "example.org", false},
		{"www.example.com", "Domain=example.org; Domain=example.com", "example.com", true},
		{"www.example.com", "Domain=example.com; Domain=example.org", "example.com", false},
		{"www.example.com", "Domain=example.com; Domain=", "example.com", true},
		{"www.kexample.com", "Domain=\u212aexample.com", "www.kexample.com", false}, // the Kelvin sign
		// public suffixes
		{"www.example.com", "Domain=com", "www.example.com", false},
		{"www.example.co.uk", "Domain=co.uk", "www.example.co.uk", false},
		{"www.example.co.uk", "Domain=example.co.uk", "a.example.co.uk", true},
		{"me.github.io", "Domain=github.io", "me.github.io", false},
		{"github.io", "Domain=github.io", "github.io", true},
		{"github.io", "Domain=github.io", "me.github.io", false},
		{"intranet", "Domain=intranet", "intranet", true},
		{"intranet", "Domain=intranet", "a.intranet", false},
		{"a.intranet", "Domain=intranet", "intranet", false},
		{"a.x.kawasaki.jp", "Domain=kawasaki.jp", "b.y.kawasaki.jp", false},
		{"a.x.kawasaki.jp", "Domain=x.kawasaki.jp", "b.x.kawasaki.jp", false},
		{"kawasaki.jp", "Domain=kawasaki.jp", "a.x.kawasaki.jp", false},
		{"a.city.kawasaki.jp", "Domain=city.kawasaki.jp", "b.city.kawasaki.jp", true},
		{"a.city.kawasaki.jp", "Domain=kawasaki.jp", "a.city.kawasaki.jp", false},
		// addresses
		{"192.0.2.7", "", "192.0.2.7", true},
		{"192.0.2.7", "Domain=192.0.2.7", "192.0.2.7", true},
		{"192.0.2.7", "Domain=2.7", "192.0.2.7", false},
		{"192.0.2.7", "Domain=0.2.7", "192.0.2.7", false},
		{"[2001:db8::1]", "", "[2001:db8::1]", true},
		{"[2001:db8::1]", "Domain=2001:db8::1", "[2001:db8::1]", true},
		{"[2001:db8::1]", "", "[2001:db8::2]", false},
	} {
		jar := stored(t, "https://"+test.from+"/", "a=1; "+test.set)
		if got := jar.Value(at(t, "https://"+test.to+"/"), noon) != nil; got != test.sent {
			t.Errorf("%s sets %q: sent to %s: %t", test.from, test.set, test.to, got)
		}
	}
}

func TestPublicSuffixIsHostOnly(t *testing.T) {
	for _, host := range []string{"github.io", "intranet", "192.0.2.7"} {
		jar := stored(t, "https://"+host+"/", "a=1; Domain="+host)
		if c := jar.Cookies(noon)[0]; !c.HostOnly || c.Domain != host {
			t.Errorf("%s: %+v", host, c)
		}
	}
	if c := stored(t, "https://example.com/", "a=1; Domain=example.com").Cookies(noon)[0]; c.HostOnly {
		t.Errorf("%+v", c)
	}
}

// Each case is whether a cookie that a response of from sets goes to to.
func TestPaths(t *testing.T) {
	for _, test := range []struct {
		from, set, to string
		sent          bool
	}{
		{"/", "Path=/foo", "/foo", true},
		{"/", "Path=/foo", "/foo/", true},
		{"/", "Path=/foo", "/foo/bar", true},
		{"/", "Path=/foo", "/foo?q=/", true},
		{"/", "Path=/foo", "/foobar", false},
		{"/", "Path=/foo", "/Foo", false},
		{"/", "Path=/foo", "/fo", false},
		{"/", "Path=/foo", "/?/foo", false},
		{"/", "Path=/foo/", "/foo", false},
		{"/", "Path=/foo/", "/foo/bar", true},
		{"/", "Path=/", "/any/thing", true},
		{"/", `Path="/"`, "/x", true},
		{"/", "Path=/%66oo", "/foo", false},
		{"/", "Path=/foo; Path=", "/", true},
		{"/", "Path=/foo; Path=/bar", "/bar", true},
		// default paths
		{"/a/b/c", "", "/a/b", true},
		{"/a/b/c", "", "/a/b/d", true},
		{"/a/b/c", "", "/a/bc", false},
		{"/a/b/", "", "/a/b/", true},
		{"/a/b/", "", "/a", false},
		{"/a", "", "/z", true},
		{"/", "", "/z", true},
		{"/a?/b/c", "", "/z", true},
		{"/a/b", "Path=relative", "/a/x", true},
		{"/a/b", "Path=relative", "/x", false},
		{"/a/b", "Path", "/x", false},
	} {
		jar := stored(t, "https://example.com"+test.from, "a=1; "+test.set)
		if got := jar.Value(at(t, "https://example.com"+test.to), noon) != nil; got != test.sent {
			t.Errorf("%s sets %q: sent to %s: %t", test.from, test.set, test.to, got)
		}
	}
}

func TestTargetWithoutPath(t *testing.T) {
	server := at(t, "https://example.com/")
	server.Target = "*"
	jar := stored(t, "https://example.com/", "deep=1; Path=/x")
	jar.Store(server, setCookies("a=1"), noon)
	if got := string(jar.Value(server, noon)); got != "a=1" {
		t.Errorf("%q", got)
	}
	wantValue(t, jar, "https://example.com/x", "deep=1; a=1")
}
