package service_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

var update = flag.Bool("update", false, "write docs/errors.md anew")

// TestErrorsPage: docs/errors.md is what the tables of package fetch render to.
func TestErrorsPage(t *testing.T) {
	const path = "../docs/errors.md"
	want := errorsPage()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != want {
		t.Errorf("docs/errors.md is not what the tables say; go test ./service -run TestErrorsPage -update writes it. Wanted:\n%s", want)
	}
}

// TestWordsOfErrors: the words of RPC errors are those that the contract lists,
// those of reports its enum; each is explained once.
func TestWordsOfErrors(t *testing.T) {
	source, err := os.ReadFile("../proto/fetchgate/v1/fetch_service.proto")
	if err != nil {
		t.Fatal(err)
	}
	folded := strings.Join(strings.Fields(strings.ReplaceAll(string(source), "//", " ")), " ")
	seen := map[string]bool{}
	var refusals, suppressed []string
	for _, e := range fetch.ReasonTable {
		seen[string(e.Reason)] = true
	}
	for _, e := range slices.Concat(fetch.RefusalTable, fetch.SuppressedTable) {
		if seen[e.Word] || e.Means == "" || e.Next == "" || e.Blame == "" {
			t.Errorf("%s is there twice, or says too little", e.Word)
		}
		seen[e.Word] = true
	}
	for _, e := range fetch.RefusalTable {
		refusals = append(refusals, e.Word)
	}
	for _, e := range fetch.SuppressedTable {
		suppressed = append(suppressed, e.Word)
	}
	if list := "or one of " + strings.Join(refusals, ", ") + "."; !strings.Contains(folded, list) {
		t.Errorf("the contract does not say %q", list)
	}
	sameWords(t, fetchgatev1.RetrySuppressed(0).Descriptor(), "RETRY_SUPPRESSED_", suppressed)
}

// errorsPage renders the tables.
func errorsPage() string {
	var b strings.Builder
	b.WriteString(`# What went wrong, and what to do

An RPC error means that fetchgate did not carry out the fetch; its
` + "`ErrorInfo`" + ` has one of these words as its reason. What the upstream did, or the
network on the way, is in the answer as a ` + "`failure`" + ` with a reason. A report can
say besides why no further attempt was made. Each word has a section here;
` + "`fetchgate help WORD`" + ` prints the same.

This page is written from the tables in ` + "`service/fetch`" + `; a test compares them.

- [Failures](#failures)
- [Words of RPC errors](#words-of-rpc-errors)
- [Why a retry was not made](#why-a-retry-was-not-made)

## Failures

Whether a request may be sent twice is another question than whether trying
again can help: ` + "`request_sent`" + ` and the method tell.
`)
	for _, e := range fetch.ReasonTable {
		section(&b, string(e.Reason), e.Means, []row{
			{"must act", e.Blame.Who()}, {"happens", e.Stage.Where()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}})
	}
	b.WriteString("\n## Words of RPC errors\n")
	for _, e := range fetch.RefusalTable {
		section(&b, e.Word, e.Means, []row{
			{"status code", e.Code}, {"must act", e.Blame.Who()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}})
	}
	b.WriteString("\n## Why a retry was not made\n")
	for _, e := range fetch.SuppressedTable {
		section(&b, e.Word, e.Means, []row{
			{"must act", e.Blame.Who()}, {"trying again", again(e.Retryable)}, {"to do", e.Next}})
	}
	return b.String()
}

type row struct{ name, text string }

// section has the word as its heading, so that its anchor is the word in lower
// case.
func section(b *strings.Builder, word, means string, rows []row) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n", word, means)
	for _, r := range rows {
		fmt.Fprintf(b, "- %s: %s\n", r.name, r.text)
	}
}

func again(retryable bool) string {
	if retryable {
		return "can help a little later"
	}
	return "does not help by itself"
}
