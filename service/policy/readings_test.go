package policy_test

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

// tomcat is how Tomcat and all that is built on it read a path: parameters are left
// out before the path is decoded, so that an encoded slash in one is no slash.
func tomcat(sent string) string {
	segments := strings.Split(sent, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return path.Clean(unescaped(strings.Join(segments, "/")))
}

// servers are how some read a path, none of which is as lenient as another in all.
var servers = map[string]func(string) string{
	"net/http's FileServer, nginx":       func(sent string) string { return path.Clean(unescaped(sent)) },
	"Tomcat":                             tomcat,
	"Tomcat behind a proxy that decodes": func(sent string) string { return tomcat(unescaped(sent)) },
	"one that decodes twice":             func(sent string) string { return path.Clean(unescaped(unescaped(sent))) },
	"one that decodes three times, with backslashes": func(sent string) string {
		return path.Clean(strings.ReplaceAll(unescaped(unescaped(unescaped(sent))), `\`, "/"))
	},
	"one that only removes dots":                    path.Clean,
	"one that keeps slashes encoded":                withSlashesKept,
	"two, of which the first keeps slashes encoded": func(sent string) string { return path.Clean(unescaped(withSlashesKept(sent))) },
	"one that takes backslashes for slashes": func(sent string) string {
		return path.Clean(strings.ReplaceAll(unescaped(sent), `\`, "/"))
	},
}

// withSlashesKept is how all that goes by the URL Standard reads a path, and
// proxies that normalize by RFC 3986: dots count encoded too, slashes do not.
func withSlashesKept(sent string) string {
	return path.Clean(strings.NewReplacer("%2e", ".", "%2E", ".").Replace(sent))
}

func isBelow(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }

// TestReadings: no path gets past a rule at a server that does some of what servers
// do, in an order of its own.
func TestReadings(t *testing.T) {
	origins := []string{"https://a.example.com"}
	against := compile(t, []*configv1.Rule{
		{Name: "all", Origins: origins}, {Name: "no-admin", Action: "deny", Origins: origins, Paths: []string{"/admin", "/admin/*"}},
	}, policy.Options{})
	inside := compile(t, []*configv1.Rule{{Name: "v1", Origins: origins, Paths: []string{"/v1", "/v1/*"}}}, policy.Options{})
	binding, err := policy.CompileBinding("credentials[0]", &configv1.HeldCredential{Origins: origins, Paths: []string{"/v1", "/v1/*"}})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(target string) (passed int) {
		ask := policy.Ask{Method: "GET", Destination: parseURL(t, "https://a.example.com"+target)}
		pastDenial, pastPaths := against.Decide(ask).Denied == nil, inside.Decide(ask).Denied == nil
		bound := binding.Fits(ask.Caller, ask.Method, ask.Destination)
		for name, read := range servers {
			switch got := read(target); {
			case pastDenial && isBelow(got, "/admin"):
				t.Errorf("%s gets past a rule that denies; %s reads it as %s", target, name, got)
			case (pastPaths || bound) && !isBelow(got, "/v1"):
				t.Errorf("%s gets past the paths of a rule or credential; %s reads it as %s", target, name, got)
			}
		}
		if pastDenial || pastPaths {
			return 1
		}
		return 0
	}
	for _, target := range []string{
		"/z//..//admin/x/..;/../../secret", "/v1//../admin/..;/../v1/secret", // '//' is one, and ';' stays
		"/admin;%2f../secret", "/v1/../admin;%2f..%2fv1/secret", // parameters first
		"/%2561dmin/secret;x=%25252f..%25252f..%25252fpublic", // decoded twice, not four times
		"/x/../admin/%2e%2e/%2e%2e",                           // dots that are not encoded alone
		"/x%2fy/%2e%2e/admin/z", "/v1/x%2fy/%2e%2e/%2e%2e/z",  // an encoded slash is none, encoded dots are
	} {
		judge(target)
	}
	r := rand.New(rand.NewPCG(7, 8))
	pieces := []string{
		"admin", "%61dmin", "%2561dmin", "v1", "%76%31", "x", "", ".", "..", "..", "%2e%2e", "%252e%252e", "..;", ";", "x;p", "admin;%2f..", "..;%2f..",
		"v1;%2fadmin", "%2f..", "x%5c..", `\..`, "admin%3b", "admin%2f", "%2fadmin", "%25252e%25252e", ";%25252f..", "x%2fy",
	}
	passed := 0
	for range 50_000 {
		passed += judge([]string{"", "/v1"}[r.IntN(2)] + randomPath(r, pieces))
		if t.Failed() {
			return
		}
	}
	if passed < 5_000 {
		t.Errorf("%d of 50,000 paths pass: the question is not worth much", passed)
	}
}
