package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/fetchgate/fetchgate/service/config"
)

var update = flag.Bool("update", false, "write testdata/bad/messages.txt anew")

// TestBadFiles compares what is said about each file of testdata/bad, the
// place included, with testdata/bad/messages.txt.
func TestBadFiles(t *testing.T) {
	t.Chdir("testdata/bad")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	var said []string
	for _, file := range files {
		_, err := config.Load(file)
		var refused *config.Error
		if !errors.As(err, &refused) {
			t.Errorf("%s: the error is %v, want a *config.Error", file, err)
			continue
		}
		said = append(said, refused.Error())
	}
	got := strings.Join(said, "\n\n") + "\n"
	if *update {
		if err := os.WriteFile("messages.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("messages.txt")
	if err != nil {
		t.Fatal(err)
	}
	compareLines(t, got, string(want))
}

func compareLines(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var gotLine, wantLine string
		if i < len(g) {
			gotLine = g[i]
		}
		if i < len(w) {
			wantLine = w[i]
		}
		if gotLine != wantLine {
			t.Fatalf("line %d is\n%s\nwant\n%s", i+1, gotLine, wantLine)
		}
	}
}

// mayBeEmpty are the texts of the schema that are taken when they are empty, with
// the reason why that protects no less than a value does.
var mayBeEmpty = map[string]string{
	"Audit.detail":                    "the default writes all lines",
	"Audit.on_full":                   "is an older way to write the default, and opens nothing",
	"Audit.sink":                      "the default writes lines",
	"Caller.owner":                    "is told, and decides nothing",
	"Config.mode":                     "the default is the strictest",
	"HeldApiKey.header":               "package credential then refuses the key",
	"HeldApiKey.prefix":               "is no protection",
	"HeldApiKey.query_param":          "package credential then refuses the key",
	"HeldBasic.username":              "is no protection",
	"HeldCredential.owner":            "is told, and decides nothing",
	"ListenerTls.client_certificates": "the default is the strictest",
	"Log.format":                      "is no protection",
	"Log.level":                       "is no protection",
	"Rule.mixed_answers":              "the default is the strictest",
	"Rule.owner":                      "is told, and decides nothing",
	"Secret.next_file":                "is one secret less",
	"UnixListener.mode":               "the default is fixed",
}

// TestEmptyTextsLoosenNothing leaves every text of the schema empty, as a template
// does that found no value.
func TestEmptyTextsLoosenNothing(t *testing.T) {
	file, tried := besideFiles(t), map[string]bool{}
	for path, field := range schemaPaths() {
		if field.Kind() != protoreflect.StringKind || field.IsList() || field.IsMap() {
			continue
		}
		name := strings.TrimPrefix(string(field.FullName()), "fetchgate.config.v1.")
		tried[name] = true
		_, err := config.Parse(file, []byte(flow(path, `""`)))
		switch reason := mayBeEmpty[name]; {
		case err == nil && reason == "":
			t.Errorf("%s is taken when it is empty: add %q to loosened in shape.go, or say here why that loosens nothing", path, name)
		case err != nil && reason != "":
			t.Errorf("%s is refused when it is empty, which need not be: %s: %v", path, reason, err)
		}
	}
	for name := range mayBeEmpty {
		if !tried[name] {
			t.Errorf("%s is no text of the schema", name)
		}
	}
}

// TestEveryRangeIsExplained gives every setting that has a range a value
// beyond it.
func TestEveryRangeIsExplained(t *testing.T) {
	explained := 0
	for path, field := range schemaPaths() {
		value := beyondRange(field)
		if value == "" {
			continue
		}
		explained++
		_, err := config.Parse("test.yaml", []byte(flow(path, value)))
		if err == nil {
			t.Errorf("%s takes %.20s", path, value)
			continue
		}
		name := strings.ReplaceAll(path, "[]", "[0]")
		_, remedy, ok := strings.Cut(err.Error(), "; write ")
		if !ok || remedy == "" || !strings.Contains(err.Error(), ": "+name) || strings.Contains(err.Error(), "is refused") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if explained < 65 {
		t.Errorf("only %d settings were tried", explained)
	}
}

// beyondRange returns a value that the field does not take; empty if it has no
// range.
func beyondRange(field protoreflect.FieldDescriptor) string {
	rules := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	switch {
	case rules.HasInt32(), rules.HasInt64(), rules.HasDouble():
		return "-1"
	case rules.HasDuration():
		return "-1s"
	case rules.HasString() && rules.GetString().GetMaxLen() > 0:
		return strings.Repeat("x", int(rules.GetString().GetMaxLen())+1)
	case rules.HasString() && rules.GetString().HasMinLen():
		return `""`
	case rules.HasString():
		return `" :"`
	case rules.HasRepeated():
		return "[" + strings.Repeat("x, ", int(rules.GetRepeated().GetMaxItems())) + "x]"
	}
	return ""
}
