package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestExplainPrintsAddresses: docs/policy.md shows what a service says of the
// addresses of a host, under the configuration of the page.
func TestExplainPrintsAddresses(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	block := regexp.MustCompile(`(?s)\n\$ fetchgate (explain [^\n]+)\n(.*?)` + "```").FindStringSubmatch(page)
	if block == nil {
		t.Fatal("the page shows no explain")
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("token", []byte("fg_shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	shop := fmt.Sprintf("rights: [explain, \"explain:addresses\"]\n    token_sha256: [%x]", sha256.Sum256([]byte("fg_shop")))
	before, after, _ := strings.Cut(yamlBlocks(page)[0], "  - name: shop\n")
	config := before + "  - name: shop\n" + regexp.MustCompile(`token_sha256: .*`).ReplaceAllLiteralString(after, shop)
	dns := fetchtest.NewDNS(t)
	dns.Set("hooks.customer.example", "93.184.215.14", "10.0.0.7")
	g := fetchtest.Start(t, fetchtest.Options{Config: config, DNS: dns})
	args := append(strings.Fields(block[1]), "--address", g.Service.GRPCAddress())
	r := runHere(t.Context(), "", args...)
	r.wantVerdict(t, exitDenied)
	said := regexp.MustCompile(`\(test\.yaml:\d+:5\)`).ReplaceAllString(r.out, "(fetchgate.yaml:15:5)")
	for _, part := range strings.Split(block[2], "  ...\n") {
		if part != "" && !strings.Contains(said, part) {
			t.Errorf("the page shows\n%s\nit prints\n%s", part, said)
		}
	}
	if n := len(dns.Queries()); n != 1 {
		t.Errorf("the resolver was asked %d times, want once", n)
	}
}
