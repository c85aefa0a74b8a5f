package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// patterns says in words what each pattern of the schema asks for.
var patterns = map[string]string{
	`^[a-z0-9][a-z0-9._-]{0,63}$`:                      `1 to 64 of a-z, 0-9, ".", "_" and "-", beginning with a letter or digit`,
	`^[a-z0-9][a-z0-9._/-]{0,63}$`:                     `1 to 64 of a-z, 0-9, ".", "_", "/" and "-", beginning with a letter or digit`,
	"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$":               "a method such as GET, at most 32 characters",
	`^https?://[^/?#@]+$`:                              "http://HOST:PORT or https://HOST:PORT",
	`^(https?://[^/?#@]+)?$`:                           "http://HOST:PORT or https://HOST:PORT",
	`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\*)?$`: "a SPIFFE ID such as spiffe://prod/ns/pay/sa/billing, or spiffe://prod/ns/pay/* for all below",
	`^(unix:///.+|tcp://[0-9.:\[\]a-f]+)?$`:            "a socket such as unix:///run/spire/agent.sock",
	`^(https://[^ #@]+)?$`:                             "an https URL such as https://issuer.example/keys, without a user name and a fragment",
	`^(0?[0-7]{3})?$`:                                  `permissions in octal, in quotes, such as "0660"`,
	`^[^:]{0,256}$`:                                    `a user name without ":", at most 256 characters`,
	`^[0-9a-f]{64}$`:                                   "64 digits 0-9 and a-f, as fetchgate token prints them",
}

// words says what a setting asks for where its pattern or its length does not tell.
var words = map[protoreflect.Name]string{
	"spki_sha256": "64 digits 0-9 and a-f, the SHA-256 of the key: openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum (docs/policy.md)",
	"origins":     "an origin with http or https, such as https://api.example.com",
}

// checkRanges checks the values against the ranges that the schema states.
func checkRanges(c *configv1.Config, at places) []Problem {
	err := protovalidate.Validate(c)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return []Problem{unforeseen(err)}
	}
	var problems []Problem
	for _, v := range invalid.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		is, wanted := explain(v)
		if _, written := at[path]; !written && v.Proto.GetRuleId() != "required" {
			is = "is missing"
		}
		problems = append(problems, at.find(path).problem(path, is+"; write "+wanted))
	}
	return problems
}

// explain says what a value is, and what it should be.
func explain(v *protovalidate.Violation) (is, wanted string) {
	kind, rule, _ := strings.Cut(v.Proto.GetRuleId(), ".")
	field, choice := fieldAt(v.Proto.GetField())
	if choice != nil {
		return "has none of the settings of which it needs one", namesOf(choice)
	}
	if kind == "required" {
		return "is missing", "it"
	}
	rules := rulesOf(field, field.IsList() && kind != "repeated")
	bound := func(name protoreflect.Name) string {
		return asWritten(rules.Get(rules.Descriptor().Fields().ByName(name)))
	}
	text := asWritten(v.FieldValue)
	switch rule {
	case "gte_lte":
		return "is " + text, bound("gte") + " to " + bound("lte")
	case "gte":
		return "is " + text, bound("gte") + " or more"
	case "gt":
		return "is " + text, "more than " + bound("gt")
	case "in":
		return "is " + shownText(text), bound("in")
	case "pattern":
		return "is " + shownText(text), cmp.Or(words[field.Name()], patterns[bound("pattern")])
	case "host_and_port", "host_and_port_empty":
		return "is " + shownText(text), "HOST:PORT, such as 127.0.0.1:7801, or 0.0.0.0:7801 for every interface"
	case "contains":
		return "lacks " + bound("contains"), "a text with " + bound("contains") + " in it"
	case "max_pairs":
		return fmt.Sprintf("has %d entries", v.FieldValue.Map().Len()), "at most " + bound("max_pairs")
	case "min_len":
		return "is " + shownText(text), cmp.Or(words[field.Name()], "a text of length "+bound("min_len")+" or more")
	case "max_len":
		return fmt.Sprintf("is %d characters long", utf8.RuneCountInString(text)), "at most " + bound("max_len")
	case "min_items":
		return fmt.Sprintf("has %d items", v.FieldValue.List().Len()), "a list of length " + bound("min_items") + " or more"
	case "max_items":
		return fmt.Sprintf("has %d items", v.FieldValue.List().Len()), "at most " + bound("max_items")
	}
	return "is refused: " + v.Proto.GetMessage(), "another value"
}

// fieldAt returns the field that a path leads to, or the choice between fields.
func fieldAt(path *validate.FieldPath) (field protoreflect.FieldDescriptor, choice protoreflect.OneofDescriptor) {
	d := (*configv1.Config)(nil).ProtoReflect().Descriptor()
	for _, element := range path.GetElements() {
		if element.GetFieldNumber() == 0 {
			return nil, d.Oneofs().ByName(protoreflect.Name(element.GetFieldName()))
		}
		field = d.Fields().ByNumber(protoreflect.FieldNumber(element.GetFieldNumber()))
		d = field.Message()
	}
	return field, nil
}

// namesOf returns the settings of a choice, "a, b or c".
func namesOf(choice protoreflect.OneofDescriptor) string {
	var names []string
	for i := range choice.Fields().Len() {
		names = append(names, string(choice.Fields().Get(i).Name()))
	}
	return alternatives(names)
}

// rulesOf returns the rules of a field, those of its items if so asked, as the
// message for its type: Int32Rules, StringRules and so on.
func rulesOf(field protoreflect.FieldDescriptor, items bool) protoreflect.Message {
	rules := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	if items {
		rules = rules.GetRepeated().GetItems()
	}
	m := rules.ProtoReflect()
	return m.Get(m.WhichOneof(m.Descriptor().Oneofs().ByName("type"))).Message()
}

// asWritten returns a value as one would write it in the file; a list of words as
// the choice between them.
func asWritten(v protoreflect.Value) string {
	switch v := v.Interface().(type) {
	case protoreflect.Message:
		if d, ok := v.Interface().(*durationpb.Duration); ok {
			return seconds(d.AsDuration())
		}
	case protoreflect.List:
		var words []string
		for i := range v.Len() {
			if word := v.Get(i).String(); word != "" { // the empty word stands for the default
				words = append(words, word)
			}
		}
		return alternatives(words)
	}
	return v.String()
}

// alternatives joins words as "a, b or c".
func alternatives(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// seconds writes a duration as the documentation does, "300s" and not "5m0s".
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return d.String()
}
