package main

import (
	"strings"
	"testing"
	"unicode"
)

// TestPolicySuggestOfHostileRecord: whatever a record has, what is printed is
// rules that can be read, says where it opens everything, and draws nothing on a
// terminal.
func TestPolicySuggestOfHostileRecord(t *testing.T) {
	denied := map[string]any{"allowed": false, "rule": "default-deny"}
	record := audited("shop", "GET", "https://n.example:443", "/a", denied) + audited("shop", "GET", "http://n.example:80", "/a", denied) +
		audited("shop", "GET", "http://n.example-2:80", "/a", denied) + // what the second of the two before would be called
		audited("shop", "GET", "https://wide.example:443", "/a/b", denied) + audited("shop", "DELETE", "https://wide.example:443", "/c/d", denied) +
		audited("shop", "GET", "https://odd.example:443", "no/path", denied)
	r := in(t, written(t, map[string]string{"audit.jsonl": record}), "policy", "suggest", "--from", "@audit.jsonl")
	r.says(t, "# 6 lines read; 4 rules suggested\n", "# 1 request denied on a redirect, or without a whole path",
		"\"shop-wide.example\" # 2 requests; every path\n", "\"shop-n.example-2\" # 1 request\n", "\"shop-n.example-3\" # 1 request\n")
	in(t, written(t, map[string]string{"rules.yaml": twoCallers + r.out}), "check", "@rules.yaml").wantCode(t, exitOK)

	drawing := "shop\u009b31m\x1b[2J\u2028\u0085\"\n- x: y"
	r = in(t, written(t, map[string]string{"audit.jsonl": audited(drawing, "GET\u009b", "https://n.example:443", "/a\u009b", denied)}), "policy", "suggest", "--from", "@audit.jsonl")
	if at := strings.IndexFunc(r.out, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); at >= 0 || strings.Count(r.out, "\n") != 7 {
		t.Errorf("it prints %q", r.out)
	}
}
