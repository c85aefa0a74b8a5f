package main

import (
	"fmt"
	"os"
	"path/filepath"
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
	r.says(t, "# 6 lines read; 5 rules suggested\n", "# 1 request denied on a redirect, or without a whole path",
		"-every path", "paths: [\"/a/b\"]\n", "\"shop-n.example-2\" # 1 request\n", "\"shop-n.example-3\" # 1 request\n")
	in(t, written(t, map[string]string{"rules.yaml": twoCallers + r.out}), "check", "@rules.yaml").wantCode(t, exitOK)

	drawing := "shop\u009b31m\x1b[2J\u2028\u0085\"\n- x: y"
	record = audited(drawing, "GET\u009b", "https://n.example:443", "/a\u009b", denied) + audited(drawing, "GET", "https://n.example:443", "/a\u009b", denied) +
		audited(drawing, "GET", "https://m.example:443", "/a", map[string]any{"allowed": false, "rule": "default-deny", "reason": "ADDRESS_DENIED", "why": "does not open \x1b[2J\u009b, which is of class private"})
	r = in(t, written(t, map[string]string{"audit.jsonl": record}), "policy", "suggest", "--from", "@audit.jsonl")
	if at := strings.IndexFunc(r.out, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); at >= 0 || !strings.Contains(r.out, "# 3 lines read; 1 rule suggested\n") {
		t.Errorf("it prints %q", r.out)
	}
	for line := range strings.Lines(r.out) {
		if strings.HasPrefix(line, "- x") {
			t.Errorf("a line that is not ours: %q", line)
		}
	}
}

// TestPolicySuggestNoMore: what is suggested allows what was seen and, unless a
// comment says so, nothing else.
func TestPolicySuggestNoMore(t *testing.T) {
	denied := map[string]any{"allowed": false, "rule": "default-deny"}
	seen := func(origin string, methods []string, paths ...string) (record string) {
		for _, method := range methods {
			for _, path := range paths {
				record += audited("shop", method, "https://"+origin, path, denied)
			}
		}
		return record
	}
	numbered := func(format string, n int) (paths []string) {
		for i := range n {
			paths = append(paths, fmt.Sprintf(format, i, i))
		}
		return paths
	}
	get := []string{"GET"}
	for name, c := range map[string]struct {
		record      string
		says        []string
		open, close []string // METHOD PATH that the suggestion allows, and not
	}{
		"methods keep their paths": {seen("a.example", get, "/v1/a") + seen("a.example", []string{"DELETE"}, "/v2/b"),
			[]string{"2 rules suggested", "methods: [\"DELETE\"]\n    paths: [\"/v2/b\"]\n", "-wider", "-every path"}, []string{"GET /v1/a", "DELETE /v2/b"}, []string{"DELETE /v1/a", "GET /v2/b", "GET /v1/b"}},
		"not below": {seen("a.example", get, "/v1/a") + seen("a.example", []string{"DELETE"}, "/v1/b/c"),
			[]string{"-/*"}, nil, []string{"DELETE /v1/a", "DELETE /v1/b/d"}},
		"the same paths by both": {seen("a.example", []string{"GET", "PUT"}, "/a", "/b") + seen("a.example", get, "/c"),
			[]string{"2 rules suggested", "methods: [\"GET\", \"PUT\"]\n    paths: [\"/a\", \"/b\"]\n"}, []string{"PUT /b"}, []string{"PUT /c"}},
		"ten": {seen("a.example", get, numbered("/items/%[1]d", 10)...), []string{"\"/items/9\"]", "-wider", "-{id}"}, nil, []string{"GET /items/10"}},
		"identifiers": {seen("a.example", get, append(numbered("/items/%d/parts/%d", 20), "/items/x/parts/y", "/orders/0190163d-8694-739b-aea5-966c26f8ad91")...),
			[]string{"  # wider than the 22 paths that were seen: {id} stands for what looked like one\n", "\"/items/{id}/parts/{id}\", \"/orders/0190163d-"}, []string{"GET /items/77/parts/1"}, []string{"GET /items/77", "GET /orders/1"}},
		"a common beginning": {seen("a.example", get, numbered("/v1/x%[1]d/y%[2]d", 11)...),
			[]string{"  # wider than the 11 paths that were seen: /* stands for all that follows\n", "paths: [\"/v1/*\"]"}, []string{"GET /v1/z"}, []string{"GET /v2"}},
		"two beginnings": {seen("a.example", get, append(numbered("/v1/x%[1]d/y%[2]d", 11), "/v2/z", "/alone")...),
			[]string{"paths: [\"/alone\", \"/v1/*\", \"/v2/z\"]"}, nil, []string{"GET /v3", "GET /v2/y"}},
		"nothing in common": {seen("a.example", get, numbered("/x%[1]d/y%[2]d", 11)...),
			[]string{"  # every path was not seen: 11 were, which have too little in common\n", "-paths:"}, []string{"GET /else"}, nil},
		"paths that rules cannot name": {seen("a.example", get, "/a%20b", "/a//b", "/{all}", "/x/*", "/a;b"),
			[]string{"4 paths that rules cannot tell from others, such as \"/a//b\", get no rule", "paths: [\"/a%20b\"]"}, []string{"GET /a%20b"}, []string{"GET /any", "GET /x/y"}},
		"no rule at all": {seen("a.example", get, "/a//b"), []string{"0 rules suggested", "1 path that rules cannot tell", "-rules:"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, map[string]string{"audit.jsonl": c.record})
			r := in(t, dir, "policy", "suggest", "--from", "@audit.jsonl")
			r.wantVerdict(t, exitFailed)
			r.says(t, c.says...)
			cases := "cases:\n"
			for expect, asked := range map[string][]string{"allow": c.open, "deny": c.close} {
				for _, one := range asked {
					method, path, _ := strings.Cut(one, " ")
					cases += fmt.Sprintf("  - {caller: shop, method: %s, url: %q, expect: %s}\n", method, "https://a.example"+path, expect)
				}
			}
			if cases == "cases:\n" {
				return
			}
			taken := written(t, map[string]string{"rules.yaml": twoCallers + r.out, "cases.yaml": cases})
			in(t, taken, "policy", "test", "@cases.yaml", "--config", "@rules.yaml").wantVerdict(t, exitOK)
		})
	}
}

// TestPolicySuggestConditions: what a rule keeps out by a condition is not opened
// by another.
func TestPolicySuggestConditions(t *testing.T) {
	denied := map[string]any{"allowed": false, "rule": "default-deny"}
	record := audited("shop", "POST", "https://customer.example:443", "/hook", denied) + audited("shop", "POST", "https://customer.example:443", "/hook", denied) +
		audited("billing", "GET", "https://api.partner.example:443", "/v2", denied)
	dir := written(t, map[string]string{"rules.yaml": partnerRules, "audit.jsonl": record})
	r := in(t, dir, "policy", "suggest", "--from", "@audit.jsonl", "--config", "@rules.yaml")
	r.wantVerdict(t, exitFailed)
	r.says(t, "; 1 rule suggested\n", "# rule signed (", ") would allow 2 requests but for its condition (headers, query or when): not suggested\n", "-https://customer.example")
	r = in(t, dir, "policy", "suggest", "--from", "@audit.jsonl")
	r.says(t, "; 2 rules suggested\n", "is among these: with --config it is not\n")
}

// TestPolicySuggestAddresses: a rule that is not enough says so.
func TestPolicySuggestAddresses(t *testing.T) {
	closed := func(why string) map[string]any {
		return map[string]any{"allowed": false, "rule": "default-deny", "reason": "ADDRESS_DENIED", "why": why}
	}
	const of = `intranet.example resolves to an address that policy denies; rule "default-deny" does not open `
	record := audited("shop", "GET", "https://intranet.example:443", "/", closed(of+"10.1.2.3:443, which is of class private")) +
		audited("shop", "GET", "https://beside.example:443", "/", closed(of+"[::1]:443, which is of class loopback")) +
		audited("shop", "GET", "https://old.example:443", "/", closed("")) +
		audited("shop", "GET", "https://10.0.0.7:443", "/", map[string]any{"allowed": false, "rule": "default-deny"}) +
		audited("shop", "GET", "http://localhost:80", "/", map[string]any{"allowed": false, "rule": "default-deny"}) +
		audited("shop", "GET", "https://a.example:443", "/", map[string]any{"allowed": false, "rule": "partner", "reason": "ADDRESS_DENIED"})
	r := in(t, written(t, map[string]string{"audit.jsonl": record}), "policy", "suggest", "--from", "@audit.jsonl")
	r.wantVerdict(t, exitFailed)
	r.says(t, "  # also denied for its address 10.1.2.3: add allow_addresses\n", "  # also denied for its address ::1: add dangerous_allow_loopback\n",
		"  # also denied for an address that the record does not name: add allow_addresses\n", "  # also denied for its address 10.0.0.7: add allow_addresses\n",
		"  # it stays denied: localhost is a name of the machine itself, which policy denies. ", "dangerous_allow_loopback in rule \"suggested\"",
		"# 1 request denied for an address that the rule does not open: see its allow_addresses\n")
}

// TestPolicySuggestOnRealAddress: the record of a server says for which address it
// denied what the mode report let go ahead otherwise.
func TestPolicySuggestOnRealAddress(t *testing.T) {
	dir := t.TempDir()
	record, file := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "fetchgate.yaml")
	text := fmt.Sprintf("mode: report\nrules: [{name: one, origins: [\"https://one.example\"]}]\naudit: {sink: file, file: %q}\n", record)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	service := serve(t, "--config", file)
	runHere(t.Context(), "", "get", "--address", service.address, "http://10.1.2.3/a").wantCode(t, exitDenied)
	var r result
	for range 500 { // the line is written behind the answer
		if r = in(t, dir, "policy", "suggest", "--from", "@audit.jsonl", "--config", "@fetchgate.yaml"); strings.Contains(r.out, "# 1 line read") {
			break
		}
	}
	r.says(t, "; 1 rule suggested\n", "  # also denied for its address 10.1.2.3: add allow_addresses\n", "origins: [\"http://10.1.2.3\"]", "paths: [\"/a\"]", "-its address 10.1.2.3: add allow_addresses\n  #")
}
