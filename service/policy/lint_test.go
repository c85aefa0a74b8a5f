package policy_test

import (
	"strings"
	"testing"

	"buf.build/go/protoyaml"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestLint: what is certain is found, and what is not is left alone.
func TestLint(t *testing.T) {
	for name, c := range map[string]struct {
		rules string
		want  []string // in order, each "path: part of the message"
	}{
		"a second with the same":          {`[{name: a, origins: ["https://a.example"]}, {name: b, origins: ["https://a.example:443"]}]`, []string{`rules[1]: never decides: rule "a", which allows`}},
		"behind a wildcard":               {`[{name: a, origins: ["https://*.example.com"]}, {name: b, origins: ["https://a.b.example.com"], methods: [GET]}]`, []string{"rules[1]: never decides"}},
		"the wildcard's own name":         {`[{name: a, origins: ["https://*.example.com"]}, {name: b, origins: ["https://example.com"]}]`, nil},
		"another port":                    {`[{name: a, origins: ["https://a.example"]}, {name: b, origins: ["https://a.example"], ports: [443, 8443]}]`, nil},
		"another scheme":                  {`[{name: a, origins: ["https://a.example"]}, {name: b, origins: ["http://a.example"]}]`, nil},
		"narrower first":                  {`[{name: a, origins: ["https://a.example"], methods: [GET]}, {name: b, origins: ["https://a.example"]}]`, nil},
		"behind a condition":              {`[{name: a, origins: ["https://a.example"], when: "true"}, {name: b, origins: ["https://a.example"]}]`, nil},
		"behind a field":                  {`[{name: a, origins: ["https://a.example"], headers: [X]}, {name: b, origins: ["https://a.example"]}]`, nil},
		"behind the same field":           {`[{name: a, origins: ["https://a.example"], headers: [X]}, {name: b, origins: ["https://a.example"], headers: [x, Y]}]`, []string{"rules[1]: never decides"}},
		"behind a parameter":              {`[{name: a, origins: ["https://a.example"], query: {p: "*"}}, {name: b, origins: ["https://a.example"], query: {p: "1"}}]`, []string{"rules[1]: never decides"}},
		"behind a narrower parameter":     {`[{name: a, origins: ["https://a.example"], query: {p: "1"}}, {name: b, origins: ["https://a.example"], query: {p: "*"}}]`, nil},
		"behind a path":                   {`[{name: a, origins: ["https://a.example"], paths: ["/v1/*"]}, {name: b, origins: ["https://a.example"], paths: ["/v1/{id}", "/v1/x/y"]}]`, []string{"rules[1]: never decides"}},
		"the path's own name":             {`[{name: a, origins: ["https://a.example"], paths: ["/v1/*"]}, {name: b, origins: ["https://a.example"], paths: ["/v1"]}]`, nil},
		"every path and the target *":     {`[{name: a, origins: ["https://a.example"], paths: ["/*"]}, {name: b, origins: ["https://a.example"]}]`, nil},
		"a denial behind an allow":        {`[{name: a, origins: ["https://a.example"]}, {name: b, action: deny, origins: ["https://a.example"], methods: [PUT]}]`, nil},
		"an allow before a denial of all": {`[{name: a, origins: ["https://a.example"]}, {name: b, action: deny, origins: ["https://a.example"]}]`, []string{`rules[0]: never decides: rule "b", which denies`}},
		"before a denial in report":       {`[{name: a, origins: ["https://a.example"]}, {name: b, action: deny, mode: report, origins: ["https://a.example"]}]`, nil},
		"a denial in open":                {`[{name: b, action: deny, mode: open, origins: ["https://a.example"]}, {name: c, origins: ["https://a.example"]}]`, []string{"rules[0]: never asked"}},
		"callers":                         {`[{name: a, callers: [x, y], origins: ["https://a.example"]}, {name: b, callers: [y], origins: ["https://a.example"]}, {name: c, origins: ["https://a.example"]}]`, []string{"rules[1]: never decides"}},
		"a special name":                  {`[{name: a, origins: ["https://*"], methods: [GET]}, {name: b, origins: ["https://db1"], methods: [GET]}]`, nil},
		"an address":                      {`[{name: a, origins: ["https://*"], methods: [GET]}, {name: b, origins: ["https://10.0.0.7"], methods: [GET]}]`, []string{"rules[1]: never decides"}},
		"every host":                      {`[{name: a, origins: ["https://*", "http://*:8080"]}]`, []string{"rules[0].origins[0]: every host", "rules[0].origins[1]: every host"}},
		"every host to read":              {`[{name: a, origins: ["https://*"], methods: [GET]}]`, nil},
		"overlapping":                     {`[{name: a, origins: ["https://a.example"], methods: [GET, PUT], isolate: caller}, {name: b, origins: ["https://a.example"], methods: [GET, POST]}]`, []string{`rules[1]: some requests are for rule "a" too`}},
		"overlapping alike":               {`[{name: a, origins: ["https://a.example"], methods: [GET, PUT]}, {name: b, origins: ["https://a.example"], methods: [GET, POST]}]`, nil},
		"a narrower exception first":      {`[{name: a, origins: ["https://a.example"], methods: [GET], isolate: caller}, {name: b, origins: ["https://a.example"]}]`, nil},
		"nothing for a caller":            {`[{name: a, callers: [x], origins: ["https://a.example"]}]`, []string{"callers[1]: no rule allows anything"}},
		"a profile that nobody names":     {`[{name: a, origins: ["https://a.example"], tls_profile: corp}]`, []string{"tls_profiles[1]: no rule names"}},
	} {
		t.Run(name, func(t *testing.T) {
			var in configv1.Config
			if err := protoyaml.Unmarshal([]byte("rules: "+c.rules), &in); err != nil {
				t.Fatal(err)
			}
			if _, err := policy.Compile(in.GetRules(), policy.Options{TLSProfiles: map[string]fetch.TLSSettings{"corp": {}}}); err != nil {
				t.Fatal(err)
			}
			callers, profiles := []string{"x"}, []string{"corp", "spare"}[:strings.Count(c.rules, "tls_profile")*2]
			if name == "nothing for a caller" {
				callers = append(callers, "y")
			}
			found := policy.Lint(in.GetRules(), "", callers, profiles)
			if len(found) != len(c.want) {
				t.Fatalf("found %q, want %q", found, c.want)
			}
			for i, want := range c.want {
				path, part, _ := strings.Cut(want, ": ")
				if found[i].Path != path || !strings.Contains(found[i].Message, part) {
					t.Errorf("found %q, want %q", found[i], want)
				}
			}
		})
	}
}
