package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written are files in a directory of their own; it returns the directory.
func written(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// in runs a command line whose words with an @ before them are files of dir.
func in(t *testing.T, dir string, args ...string) result {
	t.Helper()
	for i, arg := range args {
		if name, isFile := strings.CutPrefix(arg, "@"); isFile {
			args[i] = filepath.Join(dir, name)
		}
	}
	return runHere(t.Context(), "", args...)
}

// audited is a line of the audit record.
func audited(caller, method, origin, path string, more map[string]any) string {
	line := map[string]any{
		"schema": 1, "caller": caller, "method": method, "origin": origin, "path": path, "allowed": true, "rule": "partner",
		"remote_address": "", "final_origin": "", "redacted": []string{}, "reason": "",
	}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // the test's own texts
	}
	return string(text) + "\n"
}

const twoCallers = `callers:
  - {name: shop, owner: team-shop, token_sha256: [9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08]}
  - {name: billing, token_sha256: [60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752]}
`

// says fails the test unless what the command printed has each text, or has not
// those after a "-".
func (r result) says(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if absent, isAbsent := strings.CutPrefix(text, "-"); isAbsent == strings.Contains(r.out+r.err, absent) {
			t.Errorf("want %q in\n%s%s", text, r.out, r.err)
		}
	}
}

const partnerRules = twoCallers + `rules:
  - name: partner
    callers: [billing]
    origins: ["https://api.partner.example"]
    methods: [GET, POST]
    paths: ["/v1/*"]
  - name: signed
    callers: [shop]
    origins: ["https://*"]
    methods: [POST]
    headers: [Signature]
    when: labels["event"] == "paid"
`

func TestPolicyTest(t *testing.T) {
	good := `cases:
  - {name: read, caller: billing, url: "https://api.partner.example/v1/a", expect: allow, rule: partner}
  - {name: signed, caller: shop, method: POST, url: "https://a.example/", headers: {signature: x}, labels: {event: paid}, expect: allow}
  - {caller: shop, method: POST, url: "https://a.example/", headers: {signature: x}, labels: {event: sent}, expect: deny, rule: default-deny}
  - {caller: billing, url: "http://10.0.0.1/", expect: deny}
`
	dir := written(t, map[string]string{
		"rules.yaml": partnerRules, "report.yaml": "mode: report\n" + partnerRules, "open.yaml": "mode: open\n" + partnerRules,
		"good.yaml": good, "broken.yaml": "rulez: []\n",
		"bad.yaml": good + `  - {name: delete, caller: billing, method: DELETE, url: "https://api.partner.example/v1/a", expect: allow}
  - {name: by another, caller: billing, url: "https://api.partner.example/v1/a", expect: allow, rule: signed}
`,
	})
	for _, config := range []string{"@rules.yaml", "@report.yaml", "@open.yaml"} {
		r := in(t, dir, "policy", "test", "@good.yaml", "--config", config)
		r.wantVerdict(t, exitOK)
		r.says(t, "4 cases, 0 failed\n")
	}
	r := in(t, dir, "policy", "test", "@bad.yaml", "--config", "@rules.yaml")
	r.wantVerdict(t, exitFailed)
	r.says(t, "bad.yaml:6:5: delete: expected allow, decided deny by rule default-deny\n  why: no rule allows DELETE https://api.partner.example\n  near: rule partner (",
		"rules.yaml:5:5) would decide otherwise if the method were GET", "bad.yaml:7:5: by another: expected allow by rule signed, decided allow by rule partner (", "6 cases, 2 failed\n")
	in(t, dir, "policy", "test", "@bad.yaml", "--config", "@report.yaml").says(t, `decided deny by rule default-deny, which the mode "report" does not carry out`)
	for args, says := range map[string]string{
		"@none.yaml --config @rules.yaml":  "next: name a file with cases",
		"@good.yaml --config @none.yaml":   "next: name a configuration that is there, or write one: bin/fetchgate init ",
		"@good.yaml --config @broken.yaml": "broken.yaml:1:1: rulez: unknown setting",
	} {
		r := in(t, dir, append([]string{"policy", "test"}, strings.Fields(args)...)...)
		r.wantCode(t, exitUsage)
		r.says(t, says)
	}
}

// TestPolicyTestPlaces: what is wrong with a case has its place.
func TestPolicyTestPlaces(t *testing.T) {
	for text, says := range map[string]string{
		"cases:\n  - {caller: shop, url: \"https://a.example\", expect: allow, metod: GET}": `cases.yaml:2:61: unknown key "metod"; did you mean "method"?`,
		"case: []":                  `cases.yaml:1:1: unknown key "case"; did you mean "cases"?`,
		"cases: []":                 `cases.yaml:1:1: it needs "cases:" with a list below it`,
		"- {a: b}":                  "cases.yaml:1:1: it needs keys with values",
		"":                          "cases.yaml is empty",
		"cases: [":                  "cases.yaml is not YAML",
		"cases: [{}]":               "cases.yaml:1:9: the case needs expect: allow or expect: deny",
		"cases: [{expect: permit}]": `cases.yaml:1:18: "permit" is nothing that rules decide`,
		"cases: [{expect: deny}]":   "the case needs a url",
		"cases: [{expect: deny, url: a.example}]":                               "cases.yaml:1:29: ",
		"cases: [{expect: deny, url: \"http://a.b/\"}]":                         "the case needs a caller, one of shop, billing",
		"cases: [{expect: deny, caller: shp, url: \"http://a.b/\"}]":            `no caller is called "shp"; did you mean "shop"?`,
		"cases: [{expect: deny, rule: partnr, url: \"http://a.b/\"}]":           `no rule is called "partnr"; did you mean "partner"?`,
		"cases: [{expect: deny, expect: deny}]":                                 `"expect" is there twice`,
		"cases: [{expect: deny, method: get, url: \"http://a.b/\"}]":            "cases.yaml:1:32: ",
		"cases: [{expect: deny, caller: shop, url: \"http://a.b/\", rule: []}]": "rule needs a text",
	} {
		dir := written(t, map[string]string{"rules.yaml": partnerRules, "cases.yaml": text})
		r := in(t, dir, "policy", "test", "@cases.yaml", "--config", "@rules.yaml")
		r.wantCode(t, exitUsage)
		r.says(t, says, "next: mend that place")
	}
}

func TestPolicyDiff(t *testing.T) {
	narrower := strings.Replace(partnerRules, "[GET, POST]", "[GET]", 1) + "  - {name: news, callers: [shop], origins: [\"https://news.example\"]}\n"
	record := ""
	for range 3 {
		record += audited("billing", "POST", "https://api.partner.example:443", "/v1/orders", nil)
	}
	record += audited("billing", "GET", "https://api.partner.example:443", "/v1/orders", nil) +
		audited("shop", "GET", "https://news.example:443", "/", map[string]any{"allowed": false, "rule": "default-deny"}) +
		audited("shop", "POST", "https://customer.example:443", "/hook", nil) +
		audited("shop", "POST", "https://news.example:443", "/hook", nil) +
		audited("", "GET", "", "", nil) + audited("shop", "GET", "https://news.example:443", "/"+strings.Repeat("a", 400)+"...", nil)
	dir := written(t, map[string]string{
		"old.yaml": partnerRules, "new.yaml": narrower, "audit.jsonl": record, "cut.jsonl": record + record[:40],
		"torn.jsonl": record[:40] + "\n" + record, "other.jsonl": "{\"schema\":2}\n", "report.yaml": "mode: report\n" + narrower,
	})
	r := in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", "@audit.jsonl")
	r.wantVerdict(t, exitFailed)
	r.says(t, "2 callers, 4 requests would flip\n  9 lines read; 2 decided alike\n  1 cannot be told: ", "  2 not replayed: ",
		"\nallow to deny: 3 requests\n", "  3         billing  partner (", "old.yaml:5:5)  default-deny  https://api.partner.example  POST\n", "\ndeny to allow: 1 request\n", "https://news.example  GET\n")
	r = in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", "@cut.jsonl", "--format", "markdown")
	r.wantVerdict(t, exitFailed)
	r.says(t, "**2 callers, 4 requests would flip**\n", " the last line is cut off and was left out\n", "\n| requests | caller | old rule | new rule | origin | method |\n| --- |", "| `3` | `billing` | `partner (")
	r = in(t, dir, "policy", "diff", "@old.yaml", "@old.yaml", "--against", "@audit.jsonl")
	r.wantVerdict(t, exitOK)
	r.says(t, "0 callers, 0 requests would flip\n", "7 decided alike")
	in(t, dir, "policy", "diff", "@new.yaml", "@report.yaml", "--against", "@audit.jsonl").says(t, "3 requests would flip", "-allow to deny")

	r = in(t, dir, "policy", "diff", "@old.yaml", "@report.yaml")
	r.wantVerdict(t, exitFailed)
	r.says(t, "3 differences\n  changed partner (", "  added news (", "  mode was enforce, is report\n")
	r = in(t, dir, "policy", "diff", "@old.yaml", "@old.yaml")
	r.wantVerdict(t, exitOK)
	for file, says := range map[string]string{"@torn.jsonl": "torn.jsonl:1: it is no line", "@other.jsonl": "other.jsonl:1: it is no line", "@none.jsonl": "no such file"} {
		r := in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", file)
		r.wantCode(t, exitUsage)
		r.says(t, says, "next: name a file that audit.sink wrote")
	}
}

// TestPolicyDiffBeyondRules: what is no rule can open as much as one.
func TestPolicyDiffBeyondRules(t *testing.T) {
	const whole = `callers:
  - {name: shop, token_sha256: [9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08], rights: [fetch]}
credentials:
  - {name: partner-key, bearer: {token: {file: key}}, origins: ["https://api.partner.example"], paths: ["/v1/*"]}
tls_profiles:
  - {name: inside, min_version: "1.3"}
limits: {max_request_body_bytes: 1000}
rules:
  - {name: partner, origins: ["https://api.partner.example"], tls_profile: inside}
`
	record := audited("shop", "GET", "https://api.partner.example:443", "/v1/a", nil)
	for name, c := range map[string]struct{ old, new, says string }{
		"binding":  {`paths: ["/v1/*"]`, `paths: ["/*"]`, "changed credential partner-key"},
		"profile":  {`min_version: "1.3"`, `min_version: "1.2"`, "changed tls_profile inside"},
		"rights":   {"rights: [fetch]", "rights: [fetch, stream]", "changed caller shop"},
		"proof":    {"token_sha256: [9f86", "token_sha256: [60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752, 9f86", "changed caller shop"},
		"limits":   {"{max_request_body_bytes: 1000}", "{max_request_body_bytes: 1001}", "also changed, which no decision shows: limits"},
		"settings": {"limits: {max_request_body_bytes: 1000}\n", "reload: {watch: false}\n", "also changed, which no decision shows: limits, reload"},
	} {
		t.Run(name, func(t *testing.T) {
			next := strings.Replace(whole, c.old, c.new, 1)
			dir := written(t, map[string]string{"old.yaml": whole, "new.yaml": next, "key": "secret\n", "audit.jsonl": record})
			r := in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml")
			r.wantVerdict(t, exitFailed)
			if want := "1 difference\n  " + c.says + "\n"; r.out != want {
				t.Errorf("it prints\n%swant\n%s", r.out, want)
			}
			r = in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", "@audit.jsonl")
			r.wantVerdict(t, exitOK)
			r.says(t, "0 callers, 0 requests would flip\n", "  not replayed, and it has changed too: "+c.says+"\n")
		})
	}
	more := strings.Replace(whole, "credentials:\n", "  - {name: other, token_sha256: [60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752]}\ncredentials:\n", 1)
	dir := written(t, map[string]string{"old.yaml": whole, "new.yaml": more, "key": "secret\n"})
	in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml").says(t, "1 difference\n  added caller other\n")
	in(t, dir, "policy", "diff", "@new.yaml", "@old.yaml").says(t, "1 difference\n  removed caller other\n")
	in(t, dir, "policy", "diff", "@old.yaml", "@old.yaml").wantVerdict(t, exitOK)
}

// TestPolicyDiffUntold: what a record does not say is not made up.
func TestPolicyDiffUntold(t *testing.T) {
	const origin = `origins: ["https://a.example"]`
	for _, c := range []struct {
		name, old, new string
		more           map[string]any
		says           string
	}{
		{"an unchanged condition", "{name: a, " + origin + `, when: "request.method == 'GET'"}`, "{name: b, " + origin + `, when: "request.method == 'GET'"}`, nil, "1 decided alike"},
		{"a changed condition", "{name: a, " + origin + `, when: "request.method == 'GET'"}`, "{name: a, " + origin + `, when: "request.port == 1"}`, nil, "1 cannot be told"},
		{"a condition less", "{name: a, " + origin + `, when: "request.port == 443"}`, "{name: a, " + origin + "}", nil, "1 cannot be told"},
		{"a field more", "{name: a, " + origin + "}", "{name: a, " + origin + ", headers: [X]}", nil, "1 cannot be told"},
		{"a query, and none was there", "{name: a, " + origin + "}", "{name: a, " + origin + ", query: {a: b}}", nil, "allow to deny: 1 request"},
		{"a query, and one was there", "{name: a, " + origin + "}", "{name: a, " + origin + ", query: {a: b}}", map[string]any{"redacted": []string{"query"}}, "1 cannot be told"},
		{"a field where another rule allows", "{name: a, " + origin + "}", "{name: b, " + origin + ", headers: [X]}, {name: a, " + origin + "}", nil, "1 decided alike"},
		{"a denial with a field", "{name: a, " + origin + "}", "{name: a, " + origin + "}, {name: no, action: deny, " + origin + ", headers: [X]}", nil, "1 cannot be told"},
		{"a denial of names that only denials may have", "{name: a, " + origin + "}", "{name: a, " + origin + `}, {name: no, action: deny, origins: ["https://*.internal"], headers: [X]}`, nil, "1 decided alike"},
		{"a condition of another origin", "{name: a, " + origin + "}", "{name: a, " + origin + `}, {name: b, origins: ["https://b.example"], when: "false"}`, nil, "1 decided alike"},
		{"an address that is known", "{name: a, " + origin + "}", "{name: a, " + origin + ", deny_addresses: [203.0.113.0/24, 8.8.8.0/24]}", map[string]any{"remote_address": "8.8.8.8:443"}, "allow to deny: 1 request"},
		{"an address that is left", "{name: a, " + origin + "}", "{name: a, " + origin + ", deny_addresses: [8.8.8.0/24]}", map[string]any{"remote_address": "9.9.9.9:443"}, "1 decided alike"},
		{"an address that is not known", "{name: a, " + origin + "}", "{name: a, " + origin + ", deny_addresses: [8.8.8.0/24]}", nil, "1 cannot be told"},
		{"report", "{name: a, " + origin + "}", "{name: a, " + origin + "}, {name: no, action: deny, mode: report, " + origin + "}", nil, "1 go ahead by both, and would be noted otherwise"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, map[string]string{
				"old.yaml": "rules: [" + c.old + "]\n", "new.yaml": "rules: [" + c.new + "]\n",
				"audit.jsonl": audited("anonymous", "GET", "https://a.example:443", "/", c.more),
			})
			in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", "@audit.jsonl").says(t, c.says)
		})
	}
}

func TestPolicyLint(t *testing.T) {
	dir := written(t, map[string]string{"good.yaml": partnerRules, "bad.yaml": twoCallers + `rules:
  - {name: wide, callers: [shop], origins: ["https://*"]}
  - {name: never, callers: [shop], origins: ["https://a.example"], methods: [GET]}
  - {name: local, callers: [shop], origins: ["http://127.0.0.1:8000"], dangerous_allow_loopback: true}
`})
	r := in(t, dir, "policy", "lint", "@good.yaml")
	r.wantVerdict(t, exitOK)
	r.says(t, "good.yaml: 2 rules, 0 findings\n")
	r = in(t, dir, "policy", "lint", "@bad.yaml")
	r.wantVerdict(t, exitFailed)
	r.says(t, `bad.yaml:5:45: rules[0].origins[0]: "https://*" allows every host`, "bad.yaml:6:5: rules[1]: the rule never decides: rule \"wide\", which allows,",
		"bad.yaml:7:72: rules[2].dangerous_allow_loopback: ", `bad.yaml:3:5: callers[1]: no rule allows anything to the caller "billing"`, "3 rules, 4 findings\n")
	accepted := []string{"--accept", "wide:origins", "--accept", "local:dangerous_allow_loopback", "--accept", "never:rule"}
	r = in(t, dir, append([]string{"policy", "lint", "@bad.yaml"}, accepted...)...)
	r.wantVerdict(t, exitFailed)
	r.says(t, "is it still needed? (accepted)\n", "to the caller \"billing\"; name it in a rule, or remove it\n", "3 rules, 1 finding, 3 accepted\n")
	r = in(t, dir, append([]string{"policy", "lint", "@bad.yaml", "--accept", "billing:caller"}, accepted...)...)
	r.wantVerdict(t, exitOK)
	r.says(t, "3 rules, 0 findings, 4 accepted\n")
	r = in(t, dir, "policy", "lint", "@good.yaml", "--accept", "partner:dangerous_allow_loopback")
	r.wantVerdict(t, exitFailed)
	r.says(t, "accept partner:dangerous_allow_loopback: nothing is found there; leave it out\n", "2 rules, 1 finding\n")
	runHere(t.Context(), "", "policy", "lint", "/does/not/exist").wantCode(t, exitUsage)
}

func TestPolicySuggest(t *testing.T) {
	denied := map[string]any{"allowed": false, "rule": "default-deny"}
	record := audited("shop", "GET", "https://b.example:443", "/api/v1/items/1", denied) +
		audited("shop", "PUT", "https://b.example:443", "/api/v1/items/2", denied) + audited("shop", "PUT", "https://b.example:443", "/api/v1/orders", denied) +
		audited("shop", "GET", "https://c.example:8443", "/feed", denied) + audited("shop", "GET", "https://news.example:443", "/", denied) +
		audited("billing", "GET", "https://api.partner.example:443", "/v1/a", nil) +
		audited("shop", "GET", "https://d.example:443", "/", map[string]any{"allowed": false, "rule": "default-deny", "final_origin": "https://e.example:443"}) +
		audited("shop", "GET", "https://d.example:443", "/", map[string]any{"allowed": false, "rule": "blocked"})
	rules := partnerRules + "  - {name: news, callers: [shop], origins: [\"https://news.example\"]}\n"
	dir := written(t, map[string]string{"rules.yaml": rules, "audit.jsonl": record, "fine.jsonl": audited("billing", "GET", "https://api.partner.example:443", "/v1/a", nil)})
	r := in(t, dir, "policy", "suggest", "--from", "@audit.jsonl", "--config", "@rules.yaml")
	r.wantVerdict(t, exitFailed)
	r.says(t, "# 8 lines read; 3 rules suggested\n", "# 1 request denied by a rule", "# 1 request denied on a redirect", "# never decided: signed (", "# never decided: news (", "-never decided: partner",
		"  - name: \"shop-b.example\" # 1 request\n    callers: [\"shop\"]\n    origins: [\"https://b.example\"]\n    methods: [\"GET\"]\n    paths: [\"/api/v1/items/1\"]\n",
		"  - name: \"shop-b.example-2\" # 2 requests\n    callers: [\"shop\"]\n    origins: [\"https://b.example\"]\n    methods: [\"PUT\"]\n    paths: [\"/api/v1/items/2\", \"/api/v1/orders\"]\n",
		"    paths: [\"/feed\"]\n", "-news.example\"]")
	taken := written(t, map[string]string{"rules.yaml": twoCallers + r.out, "audit.jsonl": record})
	in(t, taken, "check", "@rules.yaml").wantCode(t, exitOK)
	r = in(t, taken, "policy", "suggest", "--from", "@audit.jsonl", "--config", "@rules.yaml")
	r.says(t, "-shop-b.example\" #", "-name: \"shop-c.example")
	in(t, dir, "policy", "suggest", "--from", "@fine.jsonl").wantVerdict(t, exitOK)
	in(t, dir, "policy", "suggest", "--from", "@none.jsonl").wantCode(t, exitUsage)
}

// TestPolicyOnRealRecord: the record that a server wrote can be replayed.
func TestPolicyOnRealRecord(t *testing.T) {
	dir := written(t, map[string]string{"new.yaml": "rules: [{name: all, origins: [\"https://*\", \"http://*\"]}]\n"})
	record := filepath.Join(dir, "audit.jsonl")
	old := fmt.Sprintf("rules: [{name: one, origins: [\"https://one.example\"]}]\naudit: {sink: file, file: %q}\n", record)
	if err := os.WriteFile(filepath.Join(dir, "old.yaml"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	service := serve(t, "--config", filepath.Join(dir, "old.yaml"))
	runHere(t.Context(), "", "get", "--address", service.address, "https://two.example/a?b=c").wantCode(t, exitDenied)
	var r result
	for range 500 { // the line is written behind the answer
		if r = in(t, dir, "policy", "diff", "@old.yaml", "@new.yaml", "--against", "@audit.jsonl"); strings.Contains(r.out, "1 line read") {
			break
		}
	}
	r.says(t, "1 caller, 1 request would flip\n", "deny to allow: 1 request\n", "anonymous", "https://two.example")
	in(t, dir, "policy", "suggest", "--from", "@audit.jsonl").says(t, "origins: [\"https://two.example\"]", "paths: [\"/a\"]")
}

func TestInit(t *testing.T) {
	dir := t.TempDir()
	r := in(t, dir, "init", "@fetchgate.yaml")
	r.wantCode(t, exitOK)
	r.says(t, "next: change the rules in it, then bin/fetchgate check ")
	in(t, dir, "check", "@fetchgate.yaml").wantCode(t, exitOK)
	in(t, dir, "policy", "lint", "@fetchgate.yaml").wantVerdict(t, exitOK)
	before, err := os.ReadFile(filepath.Join(dir, "fetchgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fetchgate.yaml"), append(before, "# mine\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	r = in(t, dir, "init", "@fetchgate.yaml")
	r.wantCode(t, exitUsage)
	r.says(t, "is there already", "next: ")
	if after, err := os.ReadFile(filepath.Join(dir, "fetchgate.yaml")); err != nil || string(after) != string(before)+"# mine\n" {
		t.Errorf("it was changed: %v", err)
	}
	in(t, dir, "init", "/does/not/exist/a.yaml").wantCode(t, exitUsage)
	// What the file shows in comments can be taken out of them.
	var opened []string
	for line := range strings.Lines(string(before)) {
		if rest := strings.TrimLeft(line, " "); strings.HasPrefix(rest, "# - name:") || strings.HasPrefix(rest, "#   ") && !strings.Contains(rest, "fetchgate schema") ||
			strings.HasPrefix(rest, "# callers:") || strings.HasPrefix(rest, "# audit:") {
			line = strings.Replace(line, "# ", "", 1)
		}
		opened = append(opened, line)
	}
	whole := written(t, map[string]string{"whole.yaml": strings.Join(opened, "")})
	r = in(t, whole, "check", "@whole.yaml")
	r.wantCode(t, exitOK)
	r.says(t, "3 rules; 1 caller")
}
