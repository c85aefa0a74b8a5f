package policy_test

import (
	"strings"
	"testing"

	"buf.build/go/protoyaml"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestLintCredentials: a binding that shares no request with the rule is found, and
// nothing else is.
func TestLintCredentials(t *testing.T) {
	for name, c := range map[string]struct{ rule, binding, want string }{
		"the same":                  {`origins: ["https://a.example"]`, `origins: ["https://a.example:443"]`, ""},
		"http":                      {`origins: ["http://a.example"]`, `origins: ["https://a.example"]`, "it goes to https alone"},
		"http and https":            {`origins: ["http://a.example", "https://a.example"]`, `origins: ["https://a.example"]`, ""},
		"another host":              {`origins: ["https://b.example"]`, `origins: ["https://a.example", "https://c.example"]`, "it is bound to https://a.example, https://c.example, and"},
		"another port":              {`origins: ["https://a.example"], ports: [8443]`, `origins: ["https://a.example"]`, "it is bound to https://a.example"},
		"below the rule's wildcard": {`origins: ["https://*.example"]`, `origins: ["https://a.b.example"]`, ""},
		"below the binding's":       {`origins: ["https://a.b.example.com"]`, `origins: ["https://*.example.com"]`, ""},
		"the wildcard's own name":   {`origins: ["https://example.com"]`, `origins: ["https://*.example.com"]`, "it is bound to https://*.example.com"},
		"every host":                {`origins: ["https://*"]`, `origins: ["https://a.example"]`, ""},
		"another method":            {`origins: ["https://a.example"], methods: [GET]`, `origins: ["https://a.example"], methods: [POST, PUT]`, "it is bound to the methods POST, PUT"},
		"another caller":            {`origins: ["https://a.example"], callers: [x]`, `origins: ["https://a.example"], callers: [y]`, "it is bound to the callers y"},
		"another path":              {`origins: ["https://a.example"], paths: ["/v1/*", "/v2"]`, `origins: ["https://a.example"], paths: ["/v2/*", "/v1"]`, "it is bound to the paths /v2/*, /v1"},
		"a path below":              {`origins: ["https://a.example"], paths: ["/v1/*"]`, `origins: ["https://a.example"], paths: ["/v1/a/b"]`, ""},
		"paths that cross":          {`origins: ["https://a.example"], paths: ["/{a}/b"]`, `origins: ["https://a.example"], paths: ["/a/{b}"]`, ""},
		"a longer path":             {`origins: ["https://a.example"], paths: ["/{a}"]`, `origins: ["https://a.example"], paths: ["/{a}/{b}"]`, "it is bound to the paths"},
		"another spelling":          {`origins: ["https://a.example"], paths: ["/%61%20b"]`, `origins: ["https://a.example"], paths: ["/a b"]`, ""},
		"no paths in the binding":   {`origins: ["https://a.example"], paths: ["/v1"]`, `origins: ["https://a.example"]`, ""},
	} {
		var in configv1.Config
		text := "rules: [{name: other, origins: ['https://other.example']}, {name: r, credentials: [key], " + c.rule + "}]\ncredentials: [{name: key, " + c.binding + "}]"
		if err := protoyaml.Unmarshal([]byte(text), &in); err != nil {
			t.Fatal(name, err)
		}
		found := policy.LintCredentials(in.GetRules(), in.GetCredentials())
		switch {
		case c.want == "" && len(found) > 0:
			t.Errorf("%s: found %q", name, found)
		case c.want != "" && (len(found) != 1 || found[0].Path != "rules[1].credentials[0]" || !strings.Contains(found[0].Message, `"key" never goes along: `+c.want)):
			t.Errorf("%s: found %q, want %q", name, found, c.want)
		}
	}
}
