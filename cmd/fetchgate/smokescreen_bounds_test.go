package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/config"
)

// TestImportKeepsToTheBoundsOfTheSchema: what the importer cuts and splits by is
// what a configuration may have.
func TestImportKeepsToTheBoundsOfTheSchema(t *testing.T) {
	field := func(name protoreflect.Name) protoreflect.FieldDescriptor {
		return (&configv1.Rule{}).ProtoReflect().Descriptor().Fields().ByName(name)
	}
	longest := strings.Repeat("a", maxNameBytes)
	pattern := rulesOf(field("name")).GetString().GetPattern()
	if !matches(t, pattern, longest) || matches(t, pattern, longest+"a") {
		t.Errorf("maxNameBytes is %d, and the pattern of names is %s", maxNameBytes, pattern)
	}
	for name, bound := range map[string][2]uint64{
		"maxOwnerRunes":     {maxOwnerRunes, rulesOf(field("owner")).GetString().GetMaxLen()},
		"maxOriginsOfRule":  {maxOriginsOfRule, rulesOf(field("origins")).GetRepeated().GetMaxItems()},
		"maxConditionBytes": {maxConditionBytes, rulesOf(field("when")).GetString().GetMaxLen()},
	} {
		if bound[0] != bound[1] {
			t.Errorf("%s is %d, the schema has %d", name, bound[0], bound[1])
		}
	}
	for _, size := range []int{maxConfigBytes, maxConfigBytes + 1} {
		text := append([]byte("log: {}\n"), bytes.Repeat([]byte("#"), size)...)[:size]
		if _, err := config.Parse("test.yaml", text); (err != nil) != (size > maxConfigBytes) {
			t.Errorf("a configuration of %d bytes: %v; maxConfigBytes is the most that is read", size, err)
		}
	}
}

func matches(t *testing.T, pattern, text string) bool {
	t.Helper()
	m, err := regexp.MatchString(pattern, text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
