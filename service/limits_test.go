package service_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestLimitsAreDocumented: each field of fetch.Limits is one row of
// docs/limits.md, and each row of the first three tables is one of them.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = true
	}
	fixed := []string{"max_url_bytes", "max_method_bytes"} // constants of package fetch
	for _, name := range append(fixed, limitNames(reflect.TypeFor[fetch.Limits](), "")...) {
		if !rows[name] {
			t.Errorf("docs/limits.md has no row %q", name)
		}
		delete(rows, name)
	}
	for row := range rows {
		t.Errorf("docs/limits.md has a row %q for which there is no limit", row)
	}
}

func limitNames(limits reflect.Type, prefix string) []string {
	var names []string
	for i := range limits.NumField() {
		f := limits.Field(i)
		switch {
		case f.Name == "MaxTimeouts", strings.HasPrefix(f.Name, "Highest"): // a column of the table
		case f.Type == reflect.TypeFor[fetch.Timeouts]():
			names = append(names, limitNames(f.Type, "timeouts.")...)
		default:
			names = append(names, prefix+snake(f.Name))
		}
	}
	return names
}

func snake(name string) string {
	name = regexp.MustCompile("([A-Z]+)([A-Z][a-z])").ReplaceAllString(name, "${1}_${2}")
	return strings.ToLower(regexp.MustCompile("([a-z])([A-Z])").ReplaceAllString(name, "${1}_${2}"))
}
