package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPolicyPage: docs/policy.md shows what its commands print, and its
// configurations can be served.
func TestPolicyPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	var configs, cases []string
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(block[1], "cases:") {
			cases = append(cases, block[1])
		} else {
			configs = append(configs, block[1])
		}
	}
	if len(configs) < 4 || len(cases) != 1 {
		t.Fatalf("%d configurations, %d files of cases", len(configs), len(cases))
	}
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("partner", "secret\n")
	for _, config := range configs {
		write("example.yaml", strings.ReplaceAll(config, "/run/secrets/", ""))
		r := runHere(t.Context(), "", "check", "example.yaml")
		r.wantCode(t, exitOK)
	}
	shows := func(r result) {
		t.Helper()
		said := strings.ReplaceAll(r.out, "bin/fetchgate", "fetchgate")
		if said == "" || !strings.Contains(withoutIndent(page), withoutIndent(said)) {
			t.Errorf("the page does not show what is printed:\n%s%s", said, r.err)
		}
	}
	shows(runHere(t.Context(), "", "init"))
	write("fetchgate.yaml", configs[0])
	write("cases.yaml", cases[0])
	shows(runHere(t.Context(), "", "policy", "test", "cases.yaml"))
	news := "  - name: news\n    callers: [shop]\n    origins: [\"https://news.example\"]\n    methods: [GET]\n"
	write("next.yaml", strings.Replace(configs[0], "[GET, POST]", "[GET]", 1)+news)
	post := audited("billing", "POST", "https://api.partner.example:443", "/v1/orders", map[string]any{"rule": "partner-api"})
	denied := audited("shop", "GET", "https://news.example:443", "/latest", map[string]any{"allowed": false, "rule": "default-deny"})
	write("audit.jsonl", post+post+post+denied+strings.Replace(post, "POST", "GET", 1)+strings.Replace(strings.Replace(post, "POST", "GET", 1), "/v1/orders", "/v1/items", 1))
	shows(runHere(t.Context(), "", "policy", "diff", "fetchgate.yaml", "next.yaml", "--against", "audit.jsonl"))
	shows(runHere(t.Context(), "", "policy", "suggest", "--from", "audit.jsonl", "--config", "fetchgate.yaml"))
	write("fetchgate.yaml", configs[0]+"  - name: hooks-of-one\n    callers: [shop]\n    origins: [\"https://one.example\"]\n    methods: [POST]\n    headers: [Webhook-Signature]\n")
	shows(runHere(t.Context(), "", "policy", "lint", "fetchgate.yaml"))
}

func withoutIndent(text string) string {
	return regexp.MustCompile(`(?m)^ +`).ReplaceAllString(text, "")
}
