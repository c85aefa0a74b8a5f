package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestHelpWords: every word is explained, with the sentences of docs/errors.md.
func TestHelpWords(t *testing.T) {
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	words := map[string][]string{}
	for _, e := range fetch.ReasonTable {
		words[string(e.Reason)] = []string{e.Means, e.Next, e.Blame.Who(), e.Stage.Where()}
	}
	for _, e := range slices.Concat(fetch.RefusalTable, fetch.SuppressedTable) {
		words[e.Word] = []string{e.Means, e.Next, e.Blame.Who(), e.Code}
	}
	for word, sentences := range words {
		r := runHere(t.Context(), "", "help", strings.ToLower(word))
		r.wantCode(t, exitOK)
		for _, sentence := range sentences {
			if !strings.Contains(r.out, sentence) {
				t.Errorf("%s: %q is missing in\n%s", word, sentence, r.out)
			}
		}
		_, section, found := strings.Cut(string(page), "\n### "+word+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		for line := range strings.SplitSeq(r.out, "\n") {
			if _, text, ok := strings.Cut(line, ":"); ok && !strings.Contains(line, "page:") && !strings.Contains(section, strings.TrimSpace(text)) {
				t.Errorf("%s: docs/errors.md (found: %t) does not say %q", word, found, strings.TrimSpace(text))
			}
		}
	}
}

func TestHelpSpellings(t *testing.T) {
	for spelled, want := range map[string]string{
		"CONNECT_TIMEOUT": "CONNECT_TIMEOUT", "connect-timeout": "CONNECT_TIMEOUT", "FAILURE_REASON_CONNECT_TIMEOUT": "CONNECT_TIMEOUT",
		"failure_reason_tls_verify": "TLS_VERIFY", "Retry_Suppressed_Budget": "BUDGET", "not_offered": "NOT_OFFERED",
	} {
		r := runHere(t.Context(), "", "help", spelled)
		r.wantCode(t, exitOK)
		if !strings.HasPrefix(r.out, want+"\n") {
			t.Errorf("help %s prints\n%s", spelled, r.out)
		}
	}
	for spelled, want := range map[string]string{"CONECT_TIMEOUT": "CONNECT_TIMEOUT", "destination_denyed": "DESTINATION_DENIED", "nothing like it": ""} {
		r := runHere(t.Context(), "", "help", spelled)
		r.wantCode(t, exitUsage)
		if strings.Contains(r.err, "did you mean "+want+"?") != (want != "") {
			t.Errorf("help %s says\n%s", spelled, r.err)
		}
	}
}

// TestHelpKnowsCommands: help COMMAND is COMMAND --help.
func TestHelpKnowsCommands(t *testing.T) {
	parser, err := kong.New(&commands{}, kong.NamedMapper("given", kong.MapperFunc(asGiven)),
		kong.Vars{"defaultAddress": defaultAddress, "steps": stepNames})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, command := range parser.Model.Children {
		names = append(names, command.Name)
		if a, b := runHere(t.Context(), "", "help", command.Name), runHere(t.Context(), "", command.Name, "--help"); a != b {
			t.Errorf("help %s prints\n%swant\n%s", command.Name, a.out, b.out)
		}
	}
	if strings.Join(names, ",") != commandNames {
		t.Errorf("the commands are %q, commandNames %q", names, commandNames)
	}
}
