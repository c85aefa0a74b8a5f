package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPolicyPage: docs/policy.md shows what its commands print, its configurations
// can be served, and the worked examples decide as the cases behind them say.
func TestPolicyPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, secret := range regexp.MustCompile("/run/secrets/([a-z.-]+)").FindAllStringSubmatch(page, -1) {
		write(secret[1], "secret\n")
	}
	shows := func(said string) {
		t.Helper()
		said = strings.ReplaceAll(said, "bin/fetchgate", "fetchgate")
		if said == "" || !strings.Contains(withoutIndent(page), withoutIndent(said)) {
			t.Errorf("the page does not show what is printed:\n%s", said)
		}
	}
	before, examples, _ := strings.Cut(page, "\n## Worked examples\n")
	first := yamlBlocks(before)
	acl := regexp.MustCompile("(?ms)^```yml\n(.*?)^```").FindStringSubmatch(before)
	if len(first) != 2 || acl == nil {
		t.Fatalf("%d blocks before the worked examples, want a configuration and cases; and the ACL %q", len(first), acl)
	}
	shows(runHere(t.Context(), "", "init").out)
	write("fetchgate.yaml", first[0])
	write("cases.yaml", first[1])
	runHere(t.Context(), "", "check", "fetchgate.yaml").wantCode(t, exitOK)
	shows(runHere(t.Context(), "", "policy", "test", "cases.yaml").out)
	news := "  - name: news\n    callers: [shop]\n    origins: [\"https://news.example\"]\n    methods: [GET]\n"
	write("next.yaml", strings.Replace(first[0], "[GET, POST]", "[GET]", 1)+news)
	post := audited("billing", "POST", "https://api.partner.example:443", "/v1/orders", map[string]any{"rule": "partner-api"})
	denied := audited("shop", "GET", "https://news.example:443", "/latest", map[string]any{"allowed": false, "rule": "default-deny"})
	write("audit.jsonl", post+post+post+denied+strings.Replace(post, "POST", "GET", 1)+strings.Replace(strings.Replace(post, "POST", "GET", 1), "/v1/orders", "/v1/items", 1))
	shows(runHere(t.Context(), "", "policy", "diff", "fetchgate.yaml", "next.yaml", "--against", "audit.jsonl").out)
	shows(runHere(t.Context(), "", "policy", "suggest", "--from", "audit.jsonl", "--config", "fetchgate.yaml").out)
	write("fetchgate.yaml", first[0]+"  - name: hooks-of-one\n    callers: [shop]\n    origins: [\"https://one.example\"]\n    methods: [POST]\n    headers: [Webhook-Signature]\n")
	shows(runHere(t.Context(), "", "policy", "lint", "fetchgate.yaml").out)

	write("acl.yaml", acl[1])
	r := runHere(t.Context(), "", "policy", "import", "smokescreen", "acl.yaml", "--spiffe-prefix", "spiffe://prod/ns/", "-o", "imported.yaml")
	shows(r.out + r.err)
	imported, err := os.ReadFile("imported.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shows(string(imported)[strings.Index(string(imported), "\nrules:\n"):])

	worked := yamlBlocks(examples)
	if len(worked) < 10 || len(worked)%2 != 0 {
		t.Fatalf("%d blocks of worked examples, want pairs of a configuration and its cases", len(worked))
	}
	for i := 0; i < len(worked); i += 2 {
		write("example.yaml", strings.ReplaceAll(worked[i], "/run/secrets/", ""))
		write("example-cases.yaml", worked[i+1])
		runHere(t.Context(), "", "check", "example.yaml").wantCode(t, exitOK)
		r := runHere(t.Context(), "", "policy", "test", "example-cases.yaml", "--config", "example.yaml")
		r.wantVerdict(t, exitOK)
		r.says(t, ", 0 failed")
		r = runHere(t.Context(), "", "policy", "lint", "example.yaml")
		r.wantVerdict(t, exitOK)
	}
}

// yamlBlocks are the blocks of YAML of a page.
func yamlBlocks(page string) []string {
	var blocks []string
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, block[1])
	}
	return blocks
}

func withoutIndent(text string) string {
	return regexp.MustCompile(`(?m)^ +`).ReplaceAllString(text, "")
}
