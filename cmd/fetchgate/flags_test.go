package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestFlagsOfCurl: what curl calls otherwise, or what cannot be had, is told.
func TestFlagsOfCurl(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"-k"}, "get has no flag -k\n  next: verification cannot be switched off by a caller; ask the operator for a TLS profile (upstream_tls.ca_files)\n"},
		{[]string{"--insecure"}, "get has no flag --insecure\n  next: verification"},
		{[]string{"-vk"}, "get has no flag -k\n"},
		{[]string{"--insecur"}, "unknown flag --insecur, and get has no --insecure either\n  next: verification"},
		{[]string{"-x", "http://proxy:3128"}, "next: proxies are not offered yet"},
		{[]string{"--max-time=10"}, "next: write --timeout"},
		{[]string{"--follow"}, `unknown flag --follow`},
		{[]string{"--spedlimits"}, `did you mean "--speed-limit"?`},
		{[]string{"--quite-another-thing"}, "unknown flag --quite-another-thing\n  next: bin/fetchgate get --help\n"},
		{[]string{"-9"}, "unknown flag -9\n  next: bin/fetchgate get --help\n"},
	} {
		r := runHere(t.Context(), "", slices.Concat([]string{"get"}, c.args, []string{"http://example.com/"})...)
		r.wantCode(t, exitUsage)
		if !strings.Contains(r.err, c.says) {
			t.Errorf("%q says\n%swant %q", c.args, r.err, c.says)
		}
	}
	r := runHere(t.Context(), "", "check", "-k", "file")
	r.wantCode(t, exitUsage)
	if strings.Contains(r.err, "verification") {
		t.Errorf("check takes -k for curl's: %s", r.err)
	}
}

// TestAnswersNameFlags: each flag of curl is answered once, only where get has
// none of that name, and what an answer tells to write exists.
func TestAnswersNameFlags(t *testing.T) {
	parser, err := kong.New(&getCommand{}, kong.NamedMapper("given", kong.MapperFunc(asGiven)), kong.Vars{"defaultAddress": defaultAddress})
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, flag := range parser.Model.Flags {
		ours["--"+flag.Name] = true
		if flag.Short != 0 {
			ours["-"+string(flag.Short)] = true
		}
	}
	answered := map[string]bool{}
	for _, a := range curlAnswers {
		for flag := range strings.FieldsSeq(a.flags) {
			if ours[flag] || answered[flag] {
				t.Errorf("%s is a flag of get, or answered twice", flag)
			}
			answered[flag] = true
		}
		for _, flag := range regexp.MustCompile(`(?:^|[ (])(--?[a-zA-Z][a-z-]*)`).FindAllStringSubmatch(a.answer, -1) {
			if !ours[flag[1]] {
				t.Errorf("%q names %s, which get has not", a.answer, flag[1])
			}
		}
	}
	for path, flag := range optionOfFlag {
		if !ours[flag] {
			t.Errorf("%s is said to be set by %s, which get has not", path, flag)
		}
	}
}

// TestHintsInFlags: what get tells to do can be done with get.
func TestHintsInFlags(t *testing.T) {
	for _, e := range fetch.ReasonTable {
		if hint := inFlags(e.Next); strings.Contains(hint, "options.") || strings.Contains(hint, "StreamFetch") {
			t.Errorf("%s: next: %s", e.Reason, hint)
		}
	}
}

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got, back := distance(c.a, c.b), distance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("%q and %q: distance %d and %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
	words := []string{"zeta", "beta", "gamma"}
	for typed, want := range map[string]string{"betta": "beta", "eta": "beta", "omicron": "", "": ""} {
		if got := nearest(typed, words); got != want {
			t.Errorf("nearest to %q is %q, want %q", typed, got, want)
		}
	}
}
