package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// modelACL is an ACL as smokescreen decides by it, written from its semantics and
// without the code of the import: func (*ACL) Decide, Rule and HostMatchesGlob in
// pkg/smokescreen/acl/v1/acl.go of stripe/smokescreen (MIT) at 04c639c.
type modelACL struct {
	Version  string
	Services []modelRule
	Default  *modelRule
	Deny     []string `yaml:"global_deny_list"`
	Allow    []string `yaml:"global_allow_list"`
}

type modelRule struct {
	Name, Project, Action string
	Allowed               []string `yaml:"allowed_domains"`
}

// decide is "allow", "report" (it goes ahead and is reported) or "deny".
func (a *modelACL) decide(service, host string) string {
	rule := a.Default
	for i := range a.Services {
		if a.Services[i].Name == service {
			rule = &a.Services[i]
		}
	}
	in := func(globs []string) bool {
		return slices.ContainsFunc(globs, func(glob string) bool {
			host, glob := strings.TrimRight(strings.ToLower(host), "."), strings.TrimRight(strings.ToLower(glob), ".")
			if strings.HasPrefix(glob, "*.") {
				return strings.HasSuffix(host, glob[1:])
			}
			return host == glob
		})
	}
	switch {
	case rule == nil:
		return "deny"
	case in(rule.Allowed):
		return "allow"
	case in(a.Deny):
		return "deny"
	case in(a.Allow):
		return "allow"
	}
	return map[string]string{"report": "report", "open": "allow", "enforce": "deny"}[rule.Action]
}

// importedPolicy is an ACL brought over, with that exit code, and filled in.
func importedPolicy(t *testing.T, acl string, code int) (*config.Loaded, *policy.Policy) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "acl.yaml")
	if err := os.WriteFile(path, []byte(acl), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runHere(t.Context(), "", "policy", "import", "smokescreen", path)
	if r.code != code {
		t.Fatalf("exit code %d\n%s\nof\n%s", r.code, r.err, acl)
	}
	text, path := filledIn(r.out), filepath.Join(dir, "fetchgate.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	checked, err := service.Check(path)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return checked.Config, checked.Policy
}

// filledIn puts a digest of its own at each place that is to be filled in.
func filledIn(text string) string {
	for n := 1; strings.Contains(text, `"FILL IN"]`); n++ {
		text = strings.Replace(text, `"FILL IN"]`, fmt.Sprintf(`"%064x"]`, n), 1)
	}
	return text
}

// inWords is what a policy decides, in the words of the model.
func inWords(t *testing.T, p *policy.Policy, caller, url string) string {
	t.Helper()
	to, err := fetch.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	switch d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: caller}, Method: "GET", Destination: to}); {
	case d.Denied != nil:
		return "deny"
	case d.WouldDeny != nil:
		return "report"
	}
	return "allow"
}

const smokescreenACL = `---
version: v1
services:
  - {name: enforcing, project: usersec, action: enforce, allowed_domains: [one.example, two.example, bad-one.example]}
  - {name: reporting, project: security, action: report, allowed_domains: [three.example]}
  - {name: opened, project: automation, action: open}
  - {name: below, project: below, action: enforce, allowed_domains: ["*.sub.example"]}
  - {name: within, project: within, action: open, allowed_domains: [ok.tunnel.example, "*.fine.tunnel.example", "*.bad-two.example"]}
  - {name: all-of-it, action: report, allowed_domains: ["*.tunnel.example", bad-two.example]}
default: {project: other, action: enforce, allowed_domains: [default.example]}
global_allow_list: [good-one.example, good-two.example, conflict.example]
global_deny_list: [bad-one.example, bad-two.example, conflict.example, "*.tunnel.example"]
`

// TestImportedDecisions: what smokescreen decides, the imported rules decide. The
// first part are the situations of smokescreen's own table, testCases of
// pkg/smokescreen/acl/v1/acl_test.go at dab4bde, lines 18 to 157, and of its
// TestHostMatchesGlob; the names behind # are those of that table.
func TestImportedDecisions(t *testing.T) {
	_, rules := importedPolicy(t, smokescreenACL, exitOK)
	var model modelACL
	if err := yaml.Unmarshal([]byte(smokescreenACL), &model); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ service, host, want string }{
		{"enforcing", "one.example", "allow"},              // allowed by list when enforcing
		{"enforcing", "www.one.example", "deny"},           // disallowed when enforcing
		{"reporting", "three.example", "allow"},            // allowed by list when reporting
		{"reporting", "one.example", "report"},             // reported when reporting
		{"opened", "anything.example", "allow"},            // allowed when open
		{"below", "other.example", "deny"},                 // deny by glob
		{"below", "sub.example", "deny"},                   // deny by glob missing subdomain
		{"below", "api.sub.example", "allow"},              // allow by glob
		{"below", "more.api.sub.example", "allow"},         // leading wildcard matches first two components
		{"unknown", "nope.example", "deny"},                // deny from default
		{"unknown", "default.example", "allow"},            // allow from default list
		{"enforcing", "good-one.example", "allow"},         // allow from global allowlist enforce service
		{"unknown", "good-two.example", "allow"},           // allow from global allowlist unknown service
		{"enforcing", "bad-one.example", "allow"},          // allow despite global denylist with allowed domains override
		{"reporting", "bad-one.example", "deny"},           // deny from global denylist report service
		{"unknown", "bad-two.example", "deny"},             // deny from global denylist unknown service
		{"opened", "bad-two.example", "deny"},              // deny from global denylist open service
		{"opened", "bad-two.example.", "deny"},             // deny from global denylist trailing dot open service
		{"opened", "bAd-TwO.eXaMpLe", "deny"},              // deny from global denylist case mismatch open service
		{"opened", "conflict.example", "deny"},             // deny from conflicting lists open service
		{"enforcing", "ONE.EXAMPLE.", "allow"},             // uppercase host with lowercase glob, trailing dot
		{"reporting", "good-one.example", "allow"},         // beyond the table: not reported
		{"within", "ok.tunnel.example", "allow"},           // one host of a denied domain
		{"within", "a.fine.tunnel.example", "allow"},       // a domain in a denied one
		{"within", "fine.tunnel.example", "deny"},          // which is not its own subdomain
		{"within", "other.tunnel.example", "deny"},         // the rest of the denied domain
		{"within", "tunnel.example", "allow"},              // which the list does not deny
		{"all-of-it", "other.tunnel.example", "allow"},     // all of a denied domain
		{"all-of-it", "bad-two.example", "allow"},          // a denied host
		{"reporting", "other.tunnel.example", "deny"},      // report does not weaken the list
		{"reporting", "tunnel.example.other", "report"},    // a suffix is not enough
		{"all-of-it", "xtunnel.example", "report"},         // nor is one without a dot
		{"opened", "one.bad-two.example", "allow"},         // a host does not stand for those below
		{"enforcing", "a.sub.example", "deny"},             // the list of another
		{"unknown", "one.example", "deny"},                 // the same, by default
		{"enforcing", "default.example", "deny"},           // the default's list is for others alone
		{"reporting", "[2606:4700::1111]", "report"},       // an address
		{"enforcing", "93.184.215.14", "deny"},             // the same
		{"opened", "deep.er.other.tunnel.example", "deny"}, // deep below
	} {
		if m := model.decide(c.service, c.host); m != c.want {
			t.Errorf("%s to %s: the model says %s, smokescreen %s", c.service, c.host, m, c.want)
		}
		caller := strings.ReplaceAll(c.service, "unknown", "others")
		for _, scheme := range []string{"https://", "http://"} {
			if d := inWords(t, rules, caller, scheme+c.host+"/"); d != c.want {
				t.Errorf("%s to %s%s: the rules say %s, smokescreen %s", c.service, scheme, c.host, d, c.want)
			}
		}
	}
}

// TestImportedDecisionsAtRandom compares the rules with the model over ACLs whose
// lists overlap in every way.
func TestImportedDecisionsAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	hosts := []string{"one.example", "a.one.example", "b.a.one.example", "a.b.one.example", "two.example", "a.two.example", "aone.example", "b.b.two.example"}
	globs := slices.Clone(hosts)
	for _, host := range hosts {
		globs = append(globs, "*."+host)
	}
	list := func(most int) string {
		var texts []string
		for range random.IntN(most + 1) {
			texts = append(texts, fmt.Sprintf("%q", pick(globs)))
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	rounds := 100
	if testing.Short() {
		rounds = 25
	}
	for range rounds {
		var acl strings.Builder
		acl.WriteString("version: v1\nservices:\n")
		names := []string{"others"}
		for i := range 1 + random.IntN(4) {
			names = append(names, fmt.Sprintf("service%d", i))
			fmt.Fprintf(&acl, "  - {name: service%d, action: %s, allowed_domains: %s}\n", i, pick(aclActions), list(4))
		}
		fmt.Fprintf(&acl, "default: {action: %s, allowed_domains: %s}\n", pick(aclActions), list(3))
		fmt.Fprintf(&acl, "global_deny_list: %s\nglobal_allow_list: %s\n", list(4), list(3))
		var model modelACL
		if err := yaml.Unmarshal([]byte(acl.String()), &model); err != nil {
			t.Fatal(err)
		}
		_, rules := importedPolicy(t, acl.String(), exitOK)
		for _, name := range names {
			for _, host := range append(hosts, "c.a.one.example", "c.a.two.example", "other.example") {
				if got, want := inWords(t, rules, name, "https://"+host+"/"), model.decide(name, host); got != want {
					t.Fatalf("%s to %s: the rules say %s, smokescreen %s, by\n%s", name, host, got, want, acl.String())
				}
			}
		}
	}
}

// TestImportedIsServed: a server takes the filled-in configuration, and tells each
// caller over gRPC what smokescreen decides.
func TestImportedIsServed(t *testing.T) {
	t.Chdir(written(t, map[string]string{"acl.yaml": smokescreenACL}))
	r := runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml")
	text := r.out
	callers := []string{"enforcing", "reporting", "opened", "below", "within", "all-of-it", "others"}
	for _, name := range callers {
		r := runHere(t.Context(), "", "token", "-o", name)
		r.wantCode(t, exitOK)
		text = strings.Replace(text, `"FILL IN"]`, strings.TrimPrefix(strings.TrimSpace(r.out), "token_sha256: ")+"]", 1)
	}
	if err := os.WriteFile("fetchgate.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	service := serve(t, "--config", "fetchgate.yaml")
	for _, c := range []struct {
		caller, url, says string
		code              int
	}{
		{"enforcing", "https://bad-one.example/", "allowed: ", exitOK},
		{"reporting", "https://bad-one.example/", "denied: ", exitDenied},
		{"reporting", "https://one.example/", "would be denied: ", exitOK},
		{"within", "https://ok.tunnel.example/", "allowed: ", exitOK},
		{"within", "https://not-ok.tunnel.example/", "denied: ", exitDenied},
		{"others", "http://good-one.example/", "allowed: ", exitOK},
		{"others", "http://one.example/", "denied: ", exitDenied},
	} {
		r := runHere(t.Context(), "", "explain", "--address", service.address, "--token-file", c.caller, c.url)
		if r.code != c.code || !strings.HasPrefix(r.out, c.says) {
			t.Errorf("%s to %s: exit code %d, want %d and %q\n%s%s", c.caller, c.url, r.code, c.code, c.says, r.out, r.err)
		}
	}
}

// TestImportedReport: an allowed host that no rule can name is not reported.
func TestImportedReport(t *testing.T) {
	_, rules := importedPolicy(t, "version: v1\nservices: [{name: a, action: report, allowed_domains: [\"*.com\"]}]\nglobal_allow_list: [\"*.org\"]\n", exitFailed)
	for host, want := range map[string]string{"some.com": "allow", "some.org": "allow", "some.net": "report"} {
		if d := inWords(t, rules, "a", "https://"+host); d != want {
			t.Errorf("%s: %s, want %s", host, d, want)
		}
	}
}

// TestImportFindings: what is not carried over is said at its place, and the rest
// is carried over.
func TestImportFindings(t *testing.T) {
	for _, c := range []struct{ name, service, says string }{
		{"a public suffix", `allowed_domains: ["*.com", a.example]`, `acl.yaml:3: "*.com" is not carried over: anyone can register a name there`},
		{"names of other networks", `allowed_domains: ["*.corp.internal"]`, `"*.corp.internal" is not carried over: such names mean something else`},
		{"a star inside", `allowed_domains: ["a.*.example"]`, `"a.*.example" of allowed_domains is not carried over: smokescreen has "*." at the beginning alone`},
		{"every host", `allowed_domains: ["*"]`, `"*" of allowed_domains is not carried over`},
		{"a port", `allowed_domains: ["a.example:443"]`, `"a.example:443" of allowed_domains is not carried over: it is no host`},
		{"no name", `allowed_domains: ["a b.example"]`, `"a b.example" of allowed_domains is not carried over`},
		{"metadata", `allowed_domains: [metadata.google.internal]`, `"metadata.google.internal" is in the rule and denied all the same: metadata.google.internal is the name`},
		{"a private address", `allowed_domains: [10.0.0.1]`, `"10.0.0.1" is in the rule and denied all the same: 10.0.0.1 is an address that policy denies (private)`},
		{"proxies", `allowed_external_proxies: [proxy.example]`, `acl.yaml:3: "proxy.example" of allowed_external_proxies is not carried over`},
		{"logs", `allowed_domains: [a.example], mitm_domains: [{domain: a.example, detailed_http_logs: true}]`, `detailed_http_logs of "a.example" is not carried over`},
		{"a proof", `allowed_domains: [a.example], mitm_domains: [{domain: a.example, add_headers: {Authorization: x, X-A: b}}]`, `the header field "Authorization" of "a.example" is not carried over`},
		{"framing", `allowed_domains_mitm: [{domain: a.example, add_headers: {Content-Length: "1"}}]`, `the header field "Content-Length" of "a.example" is not carried over`},
		{"a long owner", `project: ` + strings.Repeat("a", 129), "the project is cut to 128 characters"},
		{"too many for a condition", `allowed_domains: [` + strings.Repeat("a.bad.example, ", 1) + manyHosts(300, "bad.example") + `]`, `"*.bad.example" is denied to every caller`},
		{"too many to report", `allowed_domains: [` + manyHosts(300, "good.example") + `]`, "allowed hosts of shop are recorded as such that would be denied too"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, map[string]string{"acl.yaml": "version: v1\nservices:\n  - {name: shop, action: report, " + c.service + "}\nglobal_deny_list: [\"*.bad.example\"]\n"})
			t.Chdir(dir)
			r := runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml")
			if r.code != exitFailed || !strings.Contains(r.err, c.says) {
				t.Errorf("exit code %d, %s\nwant %q", r.code, r.err, c.says)
			}
			note := "# NOTE " + c.says
			if !strings.HasPrefix(c.says, "acl.yaml:") {
				note = ": " + c.says
			}
			if !strings.Contains(r.out, note) {
				t.Errorf("the file has not %q:\n%s", note, r.out)
			}
			if err := os.WriteFile("filled.yaml", []byte(filledIn(r.out)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := service.Check("filled.yaml"); err != nil {
				t.Errorf("%v\nin\n%s", err, r.out)
			}
		})
	}
}

// manyHosts are n names below one, as items of a list.
func manyHosts(n int, below string) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("host-%d.%s", i, below))
	}
	return strings.Join(names, ", ")
}

// TestImportRefuses: what no ACL of smokescreen has is refused with its place.
func TestImportRefuses(t *testing.T) {
	const services = "version: v1\nservices:\n"
	for text, says := range map[string]string{
		"":                                    "acl.yaml is empty",
		"a: [":                                "acl.yaml is not YAML",
		"services: []":                        `acl.yaml:1:1: it needs "version: v1"`,
		"version: v2\nservices: []":           `it needs "version: v1"`,
		"version: v1":                         "it has no services and no default",
		"version: v1\n---\nversion: v1":       "more than one YAML document",
		"version: v1\nservises: []":           `acl.yaml:2:1: unknown key "servises"; did you mean "services"?`,
		"version: v1\nservices: {}":           "acl.yaml:2:11: it needs a list",
		"[]":                                  "acl.yaml:1:1: it needs keys with values",
		services + "  - {action: open}":       "acl.yaml:3:5: a service needs a name",
		services + "  - {name: a}":            `acl.yaml:3:5: its action is ""; write one of enforce, report, open`,
		services + "  - {name: a, action: x}": `its action is "x"`,
		services + "  - {name: a, action: open}\n  - {name: a, action: open}":                    `acl.yaml:4:5: the service "a" stands in line 3 already`,
		services + "  - {name: a, action: open, name: b}":                                        `acl.yaml:3:29: "name" is there twice`,
		services + "  - {name: a, action: open, allowed_domain: [b]}":                            `acl.yaml:3:29: unknown key "allowed_domain"; did you mean "allowed_domains"?`,
		services + "  - {name: a, action: open, allowed_domains: [[b]]}":                         "acl.yaml:3:47: it needs a text",
		services + "  - {name: a, action: open, allowed_domains: [\"\"]}":                        "an item is empty",
		services + "  - {name: a, action: open, mitm_domains: [{domain: b.example}]}":            `"b.example" is not among allowed_domains`,
		services + "  - {name: a, action: open, mitm_domains: [{}]}":                             "it needs a domain",
		"version: v1\ndefault: {action: open}\nunsafe_allow_wildcards_across_public_suffixes: t": "acl.yaml:3:1: unknown key",
	} {
		t.Chdir(written(t, map[string]string{"acl.yaml": text}))
		r := runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml")
		r.wantCode(t, exitUsage)
		r.says(t, says, "next: ")
		if r.out != "" {
			t.Errorf("for %q it writes\n%s", text, r.out)
		}
	}
}

// TestImportCallers: callers prove themselves as the flags say.
func TestImportCallers(t *testing.T) {
	t.Chdir(written(t, map[string]string{"acl.yaml": `version: v1
services:
  - {name: shop, project: team-shop, action: enforce, allowed_domains: &both [a.example, b.example]}
  - {name: "Legacy Billing", action: enforce, allowed_domains: *both}
  - {name: legacy-billing, action: enforce, mitm_domains: [{domain: a.example, add_headers: {X-Team: legacy}}], allowed_domains: [a.example]}
default: {action: open}
`}))
	r := runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml", "-o", "token.yaml")
	if r.code != exitOK || r.out != "wrote token.yaml\n  next: bin/fetchgate check token.yaml\n" || r.err != "acl.yaml: 4 callers and 5 rules; 0 things not carried over\n" {
		t.Errorf("%d, %q, %q", r.code, r.out, r.err)
	}
	checked := runHere(t.Context(), "", "check", "token.yaml")
	for i := range 4 {
		checked.says(t, fmt.Sprintf(`callers[%d].token_sha256[0]: is "FILL IN"; write 64 digits`, i))
	}
	r = runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml", "-o", "token.yaml")
	r.wantCode(t, exitUsage) // it is there already
	text, err := os.ReadFile("token.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("filled.yaml", []byte(filledIn(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	runHere(t.Context(), "", "check", "filled.yaml").says(t, "filled.yaml: ok (5 rules; 4 callers)")

	r = runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml", "--spiffe-prefix", "spiffe://prod/ns", "--dns-suffix", "svc.example", "--port", "8443", "--port", "80")
	r.says(t, `spiffe_ids: ["spiffe://prod/ns/shop"]`, `dns_names: [shop.svc.example]`, `spiffe_ids: ["spiffe://prod/ns/*"]`, "# The role \"Legacy Billing\".\n  - name: legacy-billing-2\n    spiffe_ids: [\"FILL IN\"]",
		"  - name: legacy-billing\n    spiffe_ids: [\"spiffe://prod/ns/legacy-billing\"]", "ports: [443, 80, 8443]", "client_ca_file: callers-ca.crt", "  - name: legacy-billing/fields\n", `"X-Team": "legacy"`, "-token_sha256")
	for _, flags := range [][]string{{"--spiffe-prefix", "prod"}, {"--dns-suffix", "*.example"}, {"--port", "0"}, {"--port", "65536"}, {"--spiffe-prefix", ""}} {
		runHere(t.Context(), "", append([]string{"policy", "import", "smokescreen", "acl.yaml"}, flags...)...).wantCode(t, exitUsage)
	}
	runHere(t.Context(), "", "policy", "import", "smokescreen", "none.yaml").wantCode(t, exitUsage)
}

// TestImportNames: whatever services are called, callers and rules have names of
// their own that can be used.
func TestImportNames(t *testing.T) {
	names := []string{"default", "DEFAULT", "others", "global-deny", "null", "-", "é", "a/b", strings.Repeat("x", 80), strings.Repeat("x", 81), "x: [", "#", "\x1b[2J", "'"}
	var acl strings.Builder
	acl.WriteString("version: v1\nservices:\n")
	for _, name := range names {
		fmt.Fprintf(&acl, "  - {name: %s, action: report, allowed_domains: [a.example]}\n", quotedText(name))
	}
	acl.WriteString("default: {action: open}\nglobal_deny_list: [b.example]\n")
	loaded, rules := importedPolicy(t, acl.String(), exitOK)
	if n := len(loaded.Config.GetCallers()); n != len(names)+1 {
		t.Errorf("%d callers", n)
	}
	for _, c := range loaded.Config.GetCallers()[:len(names)] {
		for host, want := range map[string]string{"a.example": "allow", "b.example": "deny", "c.example": "report"} {
			if d := inWords(t, rules, c.GetName(), "https://"+host+"/"); d != want {
				t.Errorf("%s to %s: %s, want %s", c.GetName(), host, d, want)
			}
		}
	}
}

// FuzzImport: whatever an ACL says, what is made of it can be served once it is
// filled in.
func FuzzImport(f *testing.F) {
	f.Add(smokescreenACL, "", "")
	f.Add("version: v1\nservices:\n  - {name: \"\u2028 x: [#\", project: \"\\u0007\\ufeff'\", action: report, mitm_domains: [{domain: a.example, add_headers: {X: \"\\u00e9\"}}], allowed_domains: [a.example, \"*.com\", 10.0.0.1, \"::1\"]}\n", "spiffe://prod/", "")
	f.Add("version: v1\ndefault: {action: open, allowed_external_proxies: [a]}\nglobal_deny_list: [\"*.a.example\"]\n", "", ".svc.example")
	f.Fuzz(func(t *testing.T, text, prefix, suffix string) {
		flags := importSmokescreen{SpiffePrefix: prefix, DNSSuffix: suffix}
		from, err := flags.identities()
		if err != nil {
			return
		}
		a, err := readACL("acl.yaml", []byte(text))
		if err != nil {
			return
		}
		made := importACL("acl.yaml", a, from, nil)
		if err := made.compiles(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		made.write(&out, "acl.yaml", identitySource{}) // with others it names files
		config, err := config.Parse("fetchgate.yaml", []byte(filledIn(out.String())))
		switch {
		case err != nil && from == identitySource{} && out.Len() < maxConfigBytes:
			t.Errorf("%v\nin\n%s", err, out.String())
		case err == nil && len(config.Config.GetRules()) != len(made.rules):
			t.Errorf("%d rules, want %d", len(config.Config.GetRules()), len(made.rules))
		}
	})
}
