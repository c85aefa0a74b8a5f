package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/config"
)

// printedSchema is what fetchgate schema prints.
func printedSchema(t *testing.T) map[string]any {
	t.Helper()
	r := runHere(t.Context(), "", "schema")
	r.wantCode(t, exitOK)
	var s map[string]any
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// instance reads YAML as an editor does.
func instance(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// judge says what of a JSON Schema (draft 2020-12), as far as ours uses it, an
// instance breaks. A keyword that it does not know is a mistake of the test.
type judge struct {
	top    map[string]any
	broken []string
}

func (j *judge) value(s map[string]any, v any, path string) {
	wrong := func(format string, args ...any) {
		j.broken = append(j.broken, path+": "+fmt.Sprintf(format, args...))
	}
	list, _ := v.([]any)
	object, isObject := v.(map[string]any)
	text, isText := v.(string)
	number, isNumber := asNumber(v)
	for keyword, want := range s {
		limit, _ := want.(float64)
		switch keyword {
		case "$schema", "$defs", "title", "description", "examples", "properties", "additionalProperties":
		case "$ref":
			j.value(j.top["$defs"].(map[string]any)[strings.TrimPrefix(want.(string), "#/$defs/")].(map[string]any), v, path)
		case "type":
			types, several := want.([]any)
			if !several {
				types = []any{want}
			}
			if !slices.ContainsFunc(types, func(one any) bool { return isType(one.(string), v) }) {
				wrong("%v is not %v", v, want)
			}
		case "enum":
			if !slices.ContainsFunc(want.([]any), func(one any) bool { return reflect.DeepEqual(one, v) }) {
				wrong("%v is none of %v", v, want)
			}
		case "pattern":
			if isText && !regexp.MustCompile(want.(string)).MatchString(text) {
				wrong("%q is not like %s", text, want)
			}
		case "minLength", "maxLength":
			if n := float64(len([]rune(text))); isText && (keyword == "minLength" && n < limit || keyword == "maxLength" && n > limit) {
				wrong("%s %v", keyword, want)
			}
		case "minimum", "maximum", "exclusiveMinimum":
			if isNumber && (keyword == "minimum" && number < limit || keyword == "maximum" && number > limit || keyword == "exclusiveMinimum" && number <= limit) {
				wrong("%v: %s %v", v, keyword, want)
			}
		case "minItems", "maxItems":
			if n := float64(len(list)); list != nil && (keyword == "minItems" && n < limit || keyword == "maxItems" && n > limit) {
				wrong("%s %v", keyword, want)
			}
		case "minProperties", "maxProperties":
			if n := float64(len(object)); isObject && (keyword == "minProperties" && n < limit || keyword == "maxProperties" && n > limit) {
				wrong("%s %v", keyword, want)
			}
		case "items":
			for i, item := range list {
				j.value(want.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))
			}
		case "required":
			for _, name := range want.([]any) {
				if _, there := object[name.(string)]; isObject && !there {
					wrong("%s is missing", name)
				}
			}
		case "oneOf":
			fits := 0
			for _, one := range want.([]any) {
				inner := judge{top: j.top}
				if inner.value(one.(map[string]any), v, path); inner.broken == nil {
					fits++
				}
			}
			if isObject && fits != 1 {
				wrong("%d of %v", fits, want)
			}
		default:
			panic("the test does not know the keyword " + keyword)
		}
	}
	j.properties(s, object, path)
}

func (j *judge) properties(s, object map[string]any, path string) {
	known, _ := s["properties"].(map[string]any)
	for name, v := range object {
		if one, ok := known[name].(map[string]any); ok {
			j.value(one, v, path+"."+name)
			continue
		}
		switch others := s["additionalProperties"].(type) {
		case bool:
			j.broken = append(j.broken, path+"."+name+": unknown")
		case map[string]any:
			j.value(others, v, path+"."+name)
		}
	}
}

func asNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func isType(name string, v any) bool {
	switch v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case int:
		return name == "integer" || name == "number"
	case float64:
		return name == "number"
	case []any:
		return name == "array"
	}
	return name == "object"
}

func (j *judge) judged(v any) []string {
	j.broken = nil
	j.value(j.top, v, "")
	return j.broken
}

// TestSchemaHasAllKeys: the schema has each key of the descriptors with a
// description, and no other.
func TestSchemaHasAllKeys(t *testing.T) {
	top := printedSchema(t)
	seen := map[string]bool{}
	var walk func(s map[string]any, d protoreflect.MessageDescriptor)
	walk = func(s map[string]any, d protoreflect.MessageDescriptor) {
		if seen[string(d.Name())] {
			return
		}
		seen[string(d.Name())] = true
		properties := s["properties"].(map[string]any)
		if s["additionalProperties"] != false || len(properties) != d.Fields().Len() {
			t.Errorf("%s: %d keys, want %d and no others", d.Name(), len(properties), d.Fields().Len())
		}
		for i := range d.Fields().Len() {
			field := d.Fields().Get(i)
			one, there := properties[string(field.Name())].(map[string]any)
			if !there || one["description"] == nil {
				t.Errorf("%s.%s is not there, or has no description", d.Name(), field.Name())
			}
			if inner := field.Message(); inner != nil && !field.IsMap() && inner.FullName() != "google.protobuf.Duration" {
				walk(top["$defs"].(map[string]any)[string(inner.Name())].(map[string]any), inner)
			}
		}
	}
	walk(top, (*configv1.Config)(nil).ProtoReflect().Descriptor())
	if all := len(top["$defs"].(map[string]any)); all != len(seen)-1 {
		t.Errorf("%d definitions, of which %d are used", all, len(seen)-1)
	}
}

// TestSchemaTakesExamples: what the parser takes, the schema takes.
func TestSchemaTakesExamples(t *testing.T) {
	j := judge{top: printedSchema(t)}
	texts := map[string]string{"fetchgate init": string(firstConfiguration)}
	for _, page := range []string{"../../docs/configuration.md", "../../docs/policy.md", "../../README.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
			if !regexp.MustCompile(`(?m)^cases:`).MatchString(block[1]) {
				texts[fmt.Sprintf("%s, example %d", page, i+1)] = block[1]
			}
		}
	}
	for _, path := range []string{"../../service/config/default.yaml", "../../service/config/testdata/ten-rules.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	if len(texts) < 6 {
		t.Errorf("only %d examples were found", len(texts))
	}
	for name, text := range texts {
		if broken := j.judged(instance(t, text)); broken != nil {
			t.Errorf("%s: %q", name, broken)
		}
	}
	for _, text := range []string{
		"limits: {timeouts: {total: 1m30s, dns: 250ms, connect: 1.5s, tls: .5m}}", "upstream_tls: {min_version: 1.2}", "upstream_tls: {min_version: \"1.3\"}",
		"log:", "grpc: {address: \"[::1]:7801\"}", "rules: [{name: a, origins: [\"https://a.example\"], query: {page: 1}}]",
		"limits: {retry_budget_ratio: 0.5}",
	} {
		if broken := j.judged(instance(t, text)); broken != nil {
			t.Errorf("%s: %q", text, broken)
		}
		if _, err := config.Parse("test.yaml", []byte(text)); err != nil {
			t.Errorf("the parser does not take it: %v", err)
		}
	}
}

// TestSchemaRefuses: what breaks the shape or a range, the schema tells too.
func TestSchemaRefuses(t *testing.T) {
	j := judge{top: printedSchema(t)}
	for _, name := range []string{
		"range-decimal", "range-method", "range-mode", "range-name-missing", "range-name", "range-number", "range-origins-missing", "range-port",
		"range-word", "shape-empty-list", "shape-list-for-section", "shape-section-for-duration", "shape-unknown-camel", "shape-unknown-near", "shape-unknown-rule",
		"shape-value-for-list", "shape-value-for-section",
	} {
		text, err := os.ReadFile(filepath.Join("../../service/config/testdata/bad", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if j.judged(instance(t, string(text))) == nil {
			t.Errorf("it takes %s.yaml:\n%s", name, text)
		}
	}
	for _, text := range []string{
		"grpc: {drain_grace: 30}", "grpc: {drain_grace: soon}", "{}", "credentials: [{name: a, origins: [\"https://a.example\"]}]",
		"credentials: [{name: a, origins: [\"https://a.example\"], bearer: {token: {file: a, env: B}}}]", "grpc: {unix: {mode: \"0660\"}}", "limits: {retry_budget_ratio: 2}",
	} {
		if j.judged(instance(t, text)) == nil {
			t.Errorf("it takes %s", text)
		}
	}
}
