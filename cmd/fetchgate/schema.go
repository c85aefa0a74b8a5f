package main

import (
	"encoding/json"
	"regexp"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	configproto "github.com/fetchgate/fetchgate/proto/fetchgate/config/v1"
)

type schemaCommand struct{}

// Help is the end of the command's help.
func (schemaCommand) Help() string {
	return "Editors that know YAML complete and check with it: fetchgate schema > fetchgate.schema.json, and in the configuration a line\n\n" +
		"# yaml-language-server: $schema=fetchgate.schema.json\n\n" +
		"What one schema cannot say, such as the range of a duration, fetchgate check does."
}

// Run prints the schema.
func (schemaCommand) Run(s streams) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(configurationSchema())
}

// schema is a JSON Schema (draft 2020-12).
type schema = map[string]any

// The forms of texts that the configuration's parser takes.
const (
	durationForm = `^\+?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$`
	hostPortForm = `^.*:[0-9]{1,5}$`
)

// schemaWriter makes the schema of the configuration from its descriptors.
type schemaWriter struct {
	definitions schema
	comments    map[string]string
}

// configurationSchema is the schema of a whole file.
func configurationSchema() schema {
	w := schemaWriter{schema{}, commentsOf(configproto.Source)}
	top := w.section((*configv1.Config)(nil).ProtoReflect().Descriptor())
	top["type"], top["minProperties"] = "object", 1
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "The configuration of fetchgate"
	top["$defs"] = w.definitions
	return top
}

// section is the schema of a message.
func (w *schemaWriter) section(d protoreflect.MessageDescriptor) schema {
	properties, required := schema{}, []string{}
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		one := w.field(field)
		if text := w.comments[string(d.Name())+"."+string(field.Name())]; text != "" {
			one["description"] = text
		}
		properties[string(field.Name())] = one
		if isRequired(field) {
			required = append(required, string(field.Name()))
		}
	}
	s := schema{"type": []string{"object", "null"}, "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	for i := range d.Oneofs().Len() {
		if choice := d.Oneofs().Get(i); !choice.IsSynthetic() {
			s["oneOf"] = choices(choice)
		}
	}
	if text := w.comments[string(d.Name())]; text != "" {
		s["description"] = text
	}
	return s
}

// choices are the settings of which one must be there.
func choices(d protoreflect.OneofDescriptor) []schema {
	var all []schema
	for i := range d.Fields().Len() {
		all = append(all, schema{"required": []string{string(d.Fields().Get(i).Name())}})
	}
	return all
}

func rulesOf(field protoreflect.FieldDescriptor) *validate.FieldRules {
	options, _ := field.Options().(*descriptorpb.FieldOptions)
	rules, _ := proto.GetExtension(options, validate.E_Field).(*validate.FieldRules)
	return rules
}

// isRequired tells that the parser refuses a section without the field: its zero
// value is out of range.
func isRequired(field protoreflect.FieldDescriptor) bool {
	rules := rulesOf(field)
	if field.IsList() {
		return rules.GetRepeated().GetMinItems() > 0
	}
	if field.HasPresence() {
		return rules.GetRequired()
	}
	text := rules.GetString()
	return rules.GetRequired() || text.GetMinLen() > 0 || text.GetContains() != "" ||
		text.GetPattern() != "" && !regexp.MustCompile(text.GetPattern()).MatchString("")
}

func (w *schemaWriter) field(field protoreflect.FieldDescriptor) schema {
	rules := rulesOf(field)
	switch {
	case field.IsMap():
		s := schema{"type": "object", "minProperties": 1, "additionalProperties": schema{"type": []string{"string", "number", "boolean"}}}
		if most := rules.GetMap().GetMaxPairs(); most > 0 {
			s["maxProperties"] = most
		}
		return s
	case field.IsList():
		s := schema{"type": "array", "minItems": max(1, rules.GetRepeated().GetMinItems()), "items": w.single(field, rules.GetRepeated().GetItems())}
		if most := rules.GetRepeated().GetMaxItems(); most > 0 {
			s["maxItems"] = most
		}
		return s
	}
	return w.single(field, rules)
}

// single is the schema of one value.
func (w *schemaWriter) single(field protoreflect.FieldDescriptor, rules *validate.FieldRules) schema {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return schema{"type": "boolean"}
	case protoreflect.StringKind:
		return ofText(rules.GetString())
	case protoreflect.MessageKind:
		d := field.Message()
		if d.FullName() == "google.protobuf.Duration" {
			return schema{"type": "string", "pattern": durationForm, "examples": []string{"250ms", "30s", "5m"}}
		}
		name := string(d.Name())
		if w.definitions[name] == nil {
			w.definitions[name] = schema{} // it may hold itself
			w.definitions[name] = w.section(d)
		}
		return schema{"$ref": "#/$defs/" + name}
	}
	return ofNumber(field, rules)
}

// ofText is the schema of a text. One that looks like a number is one in YAML.
func ofText(rules *validate.StringRules) schema {
	s := schema{"type": "string"}
	if words := rules.GetIn(); len(words) > 0 {
		var values []any
		for _, word := range words {
			if word == "" { // it stands for the default, as no key does
				continue
			}
			values = append(values, word)
			if number := json.Number(word); isNumber(number) {
				values = append(values, number)
			}
		}
		return schema{"enum": values}
	}
	if rules.GetPattern() != "" {
		s["pattern"] = rules.GetPattern()
	}
	if rules.GetHostAndPort() {
		s["pattern"] = hostPortForm
	}
	if rules.GetContains() != "" {
		s["pattern"] = regexp.QuoteMeta(rules.GetContains())
	}
	if rules.GetMinLen() > 0 {
		s["minLength"] = rules.GetMinLen()
	}
	if rules.GetMaxLen() > 0 {
		s["maxLength"] = rules.GetMaxLen()
	}
	return s
}

func isNumber(n json.Number) bool {
	_, err := n.Float64()
	return err == nil
}

// ofNumber is the schema of a number with its range.
func ofNumber(field protoreflect.FieldDescriptor, rules *validate.FieldRules) schema {
	s := schema{"type": "integer"}
	if field.Kind() == protoreflect.DoubleKind {
		s["type"] = "number"
	}
	if rules == nil {
		return s
	}
	m := rules.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("type"))
	if kind == nil {
		return s
	}
	bounds := m.Get(kind).Message()
	for word, keyword := range map[protoreflect.Name]string{"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"} {
		if bound := bounds.Descriptor().Fields().ByName(word); bounds.Has(bound) {
			s[keyword] = bounds.Get(bound).Interface()
		}
	}
	return s
}

var (
	messageLine = regexp.MustCompile(`^message (\w+) \{`)
	fieldLine   = regexp.MustCompile(`^\s+(?:optional |repeated )?(?:map<[^>]*>|[\w.]+) (\w+) = \d+`)
)

// commentsOf are the comments of a .proto file, by "Message" and "Message.field".
func commentsOf(source string) map[string]string {
	comments, message := map[string]string{}, ""
	var above []string
	for line := range strings.SplitSeq(source, "\n") {
		if text, isComment := strings.CutPrefix(strings.TrimSpace(line), "//"); isComment {
			above = append(above, strings.TrimSpace(text))
			continue
		}
		name := ""
		if m := messageLine.FindStringSubmatch(line); m != nil {
			message, name = m[1], m[1]
		} else if m := fieldLine.FindStringSubmatch(line); m != nil {
			name = message + "." + m[1]
		}
		if name != "" {
			comments[name] = strings.Join(above, " ")
		}
		above = nil
	}
	return comments
}
