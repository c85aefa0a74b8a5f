package service_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fetchgate/fetchgate/"

// mayImport is the import table: which of our packages each package may
// import. "gen" stands for the contract, "gen/config" for the configuration.
// Test files may import more.
var mayImport = map[string][]string{
	"service":                     {"*"},
	"service/fetch":               {},
	"service/server":              {"service/fetch", "gen", "service/caller", "service/engine", "service/policy", "service/limit", "service/credential", "service/body", "service/cookie", "service/retry"},
	"service/caller":              {"service/file", "service/fetch", "gen/config"},
	"service/engine":              {"service/fetch", "service/policy", "service/credential", "service/retry", "service/redirect", "service/cookie", "service/body"},
	"service/policy":              {"service/fetch", "service/iana", "service/retry", "gen/config"},
	"service/credential":          {"service/file", "service/fetch", "gen", "gen/config"},
	"service/retry":               {"service/fetch", "gen"},
	"service/redirect":            {"service/fetch"},
	"service/cookie":              {"service/fetch"},
	"service/body":                {"service/fetch", "gen"},
	"service/transport":           {"service/fetch", "service/dial", "gen/config", "service/transport/h1"},
	"service/transport/h1":        {"service/fetch"},
	"service/dial":                {"service/fetch", "service/iana"},
	"service/iana":                {},
	"service/file":                {},
	"service/iana/internal/renew": {"service/iana"},
	"service/listener":            {"service/file", "service/revocation"},
	"service/revocation":          {"service/file"},
	"service/limit":               {"service/fetch", "gen/config"},
	"service/config":              {"service/file", "service/revocation", "service/fetch", "service/retry", "gen/config"},
	"service/telemetry":           {"service/fetch", "gen/config"},
	"service/collector":           {},
	"service/console":             {"gen", "service/telemetry"},
	"service/fetchtest":           {"*"},
	"cmd/fetchgate":               {"*"},
	"bench":                       {"gen"},
	"bench/naive":                 {"gen"},
	"bench/fidelity":              {"gen", "service", "service/config", "service/dial", "service/fetch", "service/transport"},
	"gen/fetchgate/v1":            {},
	"gen/fetchgate/config/v1":     {},
	"proto/fetchgate/config/v1":   {},
}

// grpcAllowed are the packages where gRPC stops: none further inside may
// import it.
var grpcAllowed = []string{"service", "service/server", "service/caller", "service/collector", "service/console", "service/fetchtest", "cmd/fetchgate", "bench", "bench/naive", "bench/fidelity", "gen/fetchgate/v1"}

func short(path string) string {
	switch path {
	case "gen/fetchgate/v1":
		return "gen"
	case "gen/fetchgate/config/v1":
		return "gen/config"
	}
	return path
}

// TestImportTable reads the files itself: a test that ran the go command would
// be cached although a file changed.
func TestImportTable(t *testing.T) {
	seen := map[string]bool{}
	for file, imports := range productImports(t, "..") {
		pkg := filepath.ToSlash(filepath.Dir(file))
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s: package %s is not in the import table", file, pkg)
			continue
		}
		seen[pkg] = true
		for _, path := range imports {
			if path == "google.golang.org/grpc" || strings.HasPrefix(path, "google.golang.org/grpc/") {
				if !slices.Contains(grpcAllowed, pkg) {
					t.Errorf("%s imports %s: gRPC stops at the edge", file, path)
				}
			}
			ours, ok := strings.CutPrefix(path, module)
			if !ok || slices.Contains(allowed, "*") || slices.Contains(allowed, short(ours)) {
				continue
			}
			t.Errorf("%s imports %s, which the import table does not allow", file, ours)
		}
	}
	for _, pkg := range []string{"service", "service/fetch", "service/server"} {
		if !seen[pkg] {
			t.Errorf("no file of %s was read: the test looks in the wrong place", pkg)
		}
	}
}

// TestPackagesAreInTheREADME: its table has each package with its one sentence.
func TestPackagesAreInTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range mayImport {
		name, ours := strings.CutPrefix(pkg, "service/")
		if !ours || strings.Contains(name, "/") || name == "console" { // which holds nothing yet
			continue
		}
		if !strings.Contains(string(readme), "\n| `"+name+"` | ") {
			t.Errorf("the README's table of packages lacks %s", name)
		}
	}
}

// productImports returns the imports of every Go file below root that is not a
// test, by the file's path from root.
func productImports(t *testing.T, root string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		found[rel] = nil
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[rel] = append(found[rel], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
