package service_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// caseGroups are the cases that docs/cases.md has to have, by group: their
// numbers from the first to the last.
var caseGroups = map[string][][2]int{
	"A": {{1, 30}}, "B": {{1, 30}}, "C": {{1, 15}}, "D": {{1, 22}}, "E": {{1, 32}}, "F": {{1, 25}}, "G": {{1, 20}}, "H": {{1, 24}}, "I": {{1, 15}},
	"J": {{1, 18}}, "K": {{1, 23}}, "L": {{1, 16}}, "M": {{1, 12}}, "N": {{1, 7}},
}

// checklistRows is the number of rows that the egress checklist has.
const checklistRows = 52

// neverLeftOut are the cases that may wait, but may not be left out.
var neverLeftOut = strings.Fields(`A05 A06 A07 A08 A09 A10 A11 A12 A13 A14 A15 A16 A17 A18 A19 A24 A29
	B01 B02 B03 B04 B11 B14 B20 B21 B22 B23 B24 B25 B30 C01 C02 C03 C13
	D01 D02 D06 D07 D18 D19 E03 E04 E05 E15 E17 E23 E25 F07 F11 F15 F17 F18
	G01 G05 G07 G13 H05 I06 I10 I15
	J01 J06 J11 J16 K03 K04 L01 L02 L03 L04 L05 L06 L12 L14 M02 M03 M10 N01 N03`)

// mostLeftOut is the share of a group that may be left out, in percent.
const mostLeftOut = 20

// catalogued is a row of docs/cases.md: a case, whose id begins with the letter of
// its group, or a row of the egress checklist, whose id is its number.
type catalogued struct {
	id, what, note string
	tests          []string
}

func (c catalogued) isCase() bool    { return c.id[0] >= 'A' }
func (c catalogued) waits() bool     { return strings.HasPrefix(c.note, "waits: ") }
func (c catalogued) isLeftOut() bool { return strings.HasPrefix(c.note, "left out: ") }

// readCatalogue gives the rows of docs/cases.md.
func readCatalogue(page string) ([]catalogued, error) {
	var rows []catalogued
	for line := range strings.Lines(page) {
		if !regexp.MustCompile(`^\| [A-Z]?[0-9]`).MatchString(line) {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |\n"), " | ")
		if len(cells) != 4 {
			return nil, fmt.Errorf("a row has not four cells: %s", line)
		}
		row := catalogued{id: cells[0], what: cells[1], note: cells[3]}
		for _, name := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cells[2], -1) {
			row.tests = append(row.tests, name[1])
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// testSources are the tests of the repository: by directory, the functions and
// all strings, of which the names of subtests are made.
type testSources struct {
	functions map[string]map[string]bool
	texts     map[string][]string
}

// readTests parses the tests below a directory. The names of hostile upstreams,
// which tests walk over, are those of package fetchtest itself.
func readTests(root string) (*testSources, error) {
	s := &testSources{functions: map[string]map[string]bool{}, texts: map[string][]string{}}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		directory := filepath.ToSlash(filepath.Dir(strings.TrimPrefix(path, root+string(filepath.Separator))))
		if !strings.HasSuffix(path, "_test.go") && directory != "service/fetchtest" {
			return nil
		}
		return s.read(path, directory)
	})
	return s, err
}

func (s *testSources) read(path, directory string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return err
	}
	if s.functions[directory] == nil {
		s.functions[directory] = map[string]bool{}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			s.functions[directory][n.Name.Name] = n.Recv == nil
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
				s.texts[directory] = append(s.texts[directory], text)
			}
		}
		return true
	})
	return nil
}

// check tells what is wrong with a test that is named "package: Test/subtest".
func (s *testSources) check(name string) error {
	directory, test, found := strings.Cut(name, ": ")
	if !found {
		return fmt.Errorf("%q is not written as `package: Test`", name)
	}
	function, subtest, _ := strings.Cut(test, "/")
	if !regexp.MustCompile("^(Test|Fuzz)").MatchString(function) || !s.functions[directory][function] {
		return fmt.Errorf("%s has no test %s", directory, function)
	}
	begins := func(text string) bool { return strings.HasPrefix(text, subtest) }
	if subtest != "" && !slices.ContainsFunc(s.texts[directory], begins) && !slices.ContainsFunc(s.texts["service/fetchtest"], begins) {
		return fmt.Errorf("no test of %s has a name that begins with %q", directory, subtest)
	}
	return nil
}

// TestCasesHaveTests: docs/cases.md has every case and every row of the checklist
// once, the tests that it names are there, and little is left out.
func TestCasesHaveTests(t *testing.T) {
	page, err := os.ReadFile("../docs/cases.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := readCatalogue(string(page))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := readTests("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row.what == "" || len(row.tests) == 0 && !row.waits() && !row.isLeftOut() {
			t.Errorf("%s has no words or no test", row.id)
		}
		for _, name := range row.tests {
			if err := tests.check(name); err != nil {
				t.Errorf("%s: %v", row.id, err)
			}
		}
		if row.isLeftOut() && slices.Contains(neverLeftOut, row.id) {
			t.Errorf("%s must not be left out", row.id)
		}
	}
	wantEveryCase(t, rows)
	wantLittleLeftOut(t, rows)
}

// wantEveryCase wants each case of the groups and each row of the checklist once,
// and no other.
func wantEveryCase(t *testing.T, rows []catalogued) {
	t.Helper()
	times := map[string]int{}
	for _, row := range rows {
		times[row.id]++
	}
	want := func(id string) {
		if times[id] != 1 {
			t.Errorf("docs/cases.md has %s %d times, want once", id, times[id])
		}
		delete(times, id)
	}
	for n := range checklistRows {
		want(strconv.Itoa(n + 1))
	}
	for group, ranges := range caseGroups {
		for _, numbers := range ranges {
			for n := numbers[0]; n <= numbers[1]; n++ {
				want(fmt.Sprintf("%s%02d", group, n))
			}
		}
	}
	for id := range times {
		t.Errorf("docs/cases.md has %s, which neither the catalogue nor the checklist has", id)
	}
}

// wantLittleLeftOut bounds what of a group is left out.
func wantLittleLeftOut(t *testing.T, rows []catalogued) {
	t.Helper()
	all, out := map[string]int{}, map[string]int{}
	for _, row := range rows {
		group := row.id[:1]
		if !row.isCase() {
			group = "the checklist"
		}
		all[group]++
		if row.isLeftOut() {
			out[group]++
		}
	}
	for group, n := range out {
		if n*100 > all[group]*mostLeftOut {
			t.Errorf("of %s %d of %d are left out, which is more than %d %%", group, n, all[group], mostLeftOut)
		}
	}
}

// TestTimesKeepTheirMonotonicReading (I11): where fetches wait, no time is made
// of a calendar's or loses the reading of the monotonic clock, so that a jump of
// the other clock reaches no timeout. The second after 1970 is a deadline that is
// over, whatever the clock says.
func TestTimesKeepTheirMonotonicReading(t *testing.T) {
	of := regexp.MustCompile(`\.(UTC|Local|AddDate|UnmarshalText|UnmarshalBinary)\(|\.(Round|Truncate)\(0\)|time\.(Unix(Milli|Micro)?\([^1]|Date\(|Parse\(|ParseInLocation\()`)
	for _, directory := range []string{"body", "dial", "engine", "limit", "listener", "server", "transport"} {
		files, err := filepath.Glob(filepath.Join(directory, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("there are no files in %s: %v", directory, err)
		}
		for _, path := range files {
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if found := of.Find(source); found != nil && !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s has %s", path, found)
			}
		}
	}
}
