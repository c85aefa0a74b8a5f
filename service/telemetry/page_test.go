package telemetry_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/telemetry"
)

var (
	keyRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (number|text|boolean|list|object) \\| (.+) \\|$")
	// jqKey is a key of a line as the programs of jq name it.
	jqKey = regexp.MustCompile(`\.([a-z][a-z0-9_]*)`)
)

func auditPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// kinds spells the types of the schema as the page does.
var kinds = map[string]string{"": "number", "integer": "number", "string": "text", "boolean": "boolean", "array": "list", "object": "object"}

// docs/audit.md explains exactly the keys that lines have, in their order, with
// their types; those that it says are not written are empty in every line.
func TestPageExplainsEveryKey(t *testing.T) {
	s := readSchema(t)
	var keys []string
	unwritten := map[string]bool{}
	for _, cells := range keyRow.FindAllStringSubmatch(auditPage(t), -1) {
		key := cells[1]
		keys = append(keys, key)
		if p := s.Properties[key]; p == nil || kinds[p.Type] != cells[2] {
			t.Errorf("%s is a %s in the page, and %v in the schema", key, cells[2], p)
		}
		unwritten[key] = strings.Contains(cells[3], "*Not written yet.*")
	}
	if strings.Join(keys, " ") != strings.Join(s.Required, " ") {
		t.Errorf("the page has\n%q\nthe schema\n%q", keys, s.Required)
	}
	wrote := map[string]bool{}
	for _, line := range written(t, telemetry.Options{Configuration: configuration(), Replica: "r"}, append(corpus(), reported(), opened())...) {
		var values map[string]any
		if err := json.Unmarshal([]byte(line), &values); err != nil {
			t.Fatal(err)
		}
		for key, value := range values {
			wrote[key] = wrote[key] || value != "" && value != 0.0
		}
	}
	for key, not := range unwritten {
		if not && wrote[key] {
			t.Errorf("%s is written; the page says that it is not", key)
		}
	}
}

// The line of the page is one that is written, byte for byte.
func TestPageLine(t *testing.T) {
	_, after, _ := strings.Cut(auditPage(t), "```json\n")
	text, _, found := strings.Cut(after, "```")
	var line bytes.Buffer
	if err := json.Compact(&line, []byte(text)); err != nil || !found {
		t.Fatal(err)
	}
	c := configuration()
	c.Locate = func(string) string { return "fetchgate.yaml:9:5" }
	c.Digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	if got := strings.TrimSuffix(written(t, telemetry.Options{Configuration: c, Replica: "eu-1-7c9f"}, typical())[0], "\n"); got != line.String() {
		t.Errorf("the page has\n%s\na line is\n%s", line.String(), got)
	}
}

// The programs of the page ask for keys that there are.
func TestPagePrograms(t *testing.T) {
	s := readSchema(t)
	asked := 0
	for line := range strings.Lines(auditPage(t)) {
		program, is := strings.CutPrefix(line, "jq ")
		if !is {
			continue
		}
		program = program[:strings.LastIndexByte(program, '\'')]
		for _, m := range jqKey.FindAllStringSubmatch(program, -1) {
			asked++
			if s.Properties[m[1]] == nil {
				t.Errorf("%s: no line has %s", program, m[1])
			}
		}
	}
	if asked < 15 {
		t.Errorf("only %d keys were found", asked)
	}
}
