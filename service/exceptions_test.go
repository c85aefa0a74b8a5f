package service_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// exceptions reads the rows of the table under a heading of docs/exceptions.md,
// by their first cell.
func exceptions(t *testing.T, heading string) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../docs/exceptions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/exceptions.md has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string][]string{}
	for line := range strings.Lines(section) {
		// The lines above the rows have no code in their first cell.
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		id := strings.Trim(cells[0], "`")
		if rows[id] != nil {
			t.Errorf("docs/exceptions.md lists %s twice", id)
		}
		rows[id] = cells[1:]
	}
	return rows
}

// wantExceptions holds the table under a heading to what a suite saw: the cells
// after the id of each case that disagrees. The last cell of a row, which says
// why, is not compared, but must be there.
func wantExceptions(t *testing.T, heading string, seen map[string][]string) {
	t.Helper()
	listed := exceptions(t, heading)
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		row := listed[id]
		switch {
		case row == nil:
			t.Errorf("docs/exceptions.md, %q: list this case, with the reason, or mend what it shows:\n| `%s` | %s |", heading, id, strings.Join(seen[id], " | "))
		case len(row) != len(seen[id])+1 || row[len(row)-1] == "":
			t.Errorf("docs/exceptions.md, %q: the row of %s has not %d cells", heading, id, len(seen[id])+2)
		case !slices.Equal(row[:len(row)-1], seen[id]):
			t.Errorf("docs/exceptions.md, %q: %s is listed as %q, but is %q", heading, id, row[:len(row)-1], seen[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		if seen[id] == nil {
			t.Errorf("docs/exceptions.md, %q: %s agrees or is not tried any more; take it off", heading, id)
		}
	}
}
