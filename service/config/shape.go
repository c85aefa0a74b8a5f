package config

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// shape walks the tree of a file beside the schema. It refuses what the
// decoder would take in silence (a key set twice, a key in another spelling, an
// empty list, which would mean the same as none) and notes where all is.
type shape struct {
	places   places
	problems []Problem
}

func readShape(root *yaml.Node) (places, []Problem) {
	s := &shape{places: places{"": {root.Line, root.Column}}}
	s.section(root, (*configv1.Config)(nil).ProtoReflect().Descriptor(), "")
	return s.places, s.problems
}

// full tells that the walk has found more than will be told.
func (s *shape) full() bool { return len(s.problems) > maxProblems }

// refuse notes a problem of a setting whose place is known.
func (s *shape) refuse(path, format string, args ...any) {
	s.problems = append(s.problems, s.places.find(path).problem(path, fmt.Sprintf(format, args...)))
}

func (s *shape) refuseKey(key *yaml.Node, path, message string) {
	s.problems = append(s.problems, place{key.Line, key.Column}.problem(path, message))
}

// section checks a mapping whose keys are the fields of a message.
func (s *shape) section(n *yaml.Node, d protoreflect.MessageDescriptor, path string) {
	if n.Kind != yaml.MappingNode {
		advice := "write them below it, indented"
		if d == (*configv1.Secret)(nil).ProtoReflect().Descriptor() {
			advice = "write {file: NAME} or {env: NAME}: no secret stands in the configuration"
		}
		s.refuse(path, "needs settings, not %s; %s", kindOf(n), advice)
		return
	}
	prefix := path
	if path != "" {
		prefix += "."
	}
	for key, value := range s.keys(n, func(key string) string { return prefix + shown(key) }) {
		field := d.Fields().ByName(protoreflect.Name(key.Value))
		if field == nil {
			s.refuseKey(key, prefix+shown(key.Value), "unknown setting; "+advise(key.Value, d))
			continue
		}
		path := prefix + key.Value
		s.places[path] = place{key.Line, key.Column}
		s.value(value, field, path)
	}
}

// keys yields the keys of a mapping with their values, each key once. pathOf
// is the path of a key, for problems.
func (s *shape) keys(n *yaml.Node, pathOf func(key string) string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content) && !s.full(); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode {
				s.refuseKey(key, "", "is "+kindOf(key)+" where a key should be; write a word")
				continue
			}
			if line, twice := first[key.Value]; twice {
				s.refuseKey(key, pathOf(key.Value), fmt.Sprintf("is set twice, first in line %d; keep one", line))
				continue
			}
			first[key.Value] = key.Line
			if !yield(key, value) {
				return
			}
		}
	}
}

// value checks what is written for one field.
func (s *shape) value(n *yaml.Node, field protoreflect.FieldDescriptor, path string) {
	switch {
	case isNull(n):
		if !isSection(field) {
			s.refuse(path, "has no value; write one, or remove the key")
		}
	case field.IsMap():
		s.entries(n, path)
	case field.IsList():
		s.items(n, field, path)
	default:
		s.single(n, field, path)
	}
}

func (s *shape) items(n *yaml.Node, field protoreflect.FieldDescriptor, path string) {
	if n.Kind != yaml.SequenceNode {
		s.refuse(path, `needs a list, not %s; write each item on a line that begins with "- "`, kindOf(n))
		return
	}
	if len(n.Content) == 0 {
		s.refuse(path, "is an empty list, which could be taken for none at all; write an item, or remove the key")
	}
	for i, item := range n.Content {
		if s.full() {
			return
		}
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		s.places[itemPath] = place{item.Line, item.Column}
		if isNull(item) {
			s.refuse(itemPath, `has no value; write one, or remove the "-"`)
			continue
		}
		s.single(item, field, itemPath)
	}
}

// entries checks a mapping whose keys the operator chooses; the schema has
// only those with text for values.
func (s *shape) entries(n *yaml.Node, path string) {
	if n.Kind != yaml.MappingNode {
		s.refuse(path, `needs "key: value" lines, not %s`, kindOf(n))
		return
	}
	if len(n.Content) == 0 {
		s.refuse(path, "is empty, which could be taken for none at all; write an entry, or remove the key")
	}
	pathOf := func(key string) string { return path + "[" + strconv.Quote(key) + "]" }
	for key, value := range s.keys(n, pathOf) {
		entry := pathOf(key.Value)
		s.places[entry] = place{key.Line, key.Column}
		if isNull(value) || value.Kind != yaml.ScalarNode {
			s.refuse(entry, "needs a text, not %s", kindOf(value))
		}
	}
}

// single checks one value: of a field that has only one, or of an item.
func (s *shape) single(n *yaml.Node, field protoreflect.FieldDescriptor, path string) {
	if field.Message() != nil && !isDuration(field) {
		s.section(n, field.Message(), path)
		return
	}
	if n.Kind != yaml.ScalarNode {
		s.refuse(path, "needs %s, not %s", scalarName(field), kindOf(n))
		return
	}
	if n.Value == "" && loosened[strings.TrimPrefix(string(field.FullName()), schemaPackage)] {
		s.refuse(path, "is empty, which could be taken for none at all; write one, or remove the key")
		return
	}
	if message := checkScalar(n, field); message != "" {
		s.refuse(path, "%s", message)
	}
}

// schemaPackage begins the full names of the schema.
const schemaPackage = "fetchgate.config.v1."

// loosened are the texts without which something is wider, or protected less,
// than with them. A template that found no value for one leaves "".
var loosened = map[string]bool{
	"Rule.action":                 true,
	"Rule.isolate":                true,
	"Rule.mode":                   true, // that of the whole may be weaker
	"Rule.proxy_profile":          true,
	"Rule.source_address":         true,
	"Rule.tls_profile":            true, // its pins and its own roots
	"Rule.when":                   true,
	"TlsProfile.min_version":      true,
	"UpstreamTls.min_version":     true,
	"ListenerTls.client_ca_file":  true, // callers would show no certificate
	"ListenerTls.client_crl_file": true, // none would be revoked
	"JwtIdentity.subject":         true, // any subject
}

// isSection tells whether the field holds settings of its own, once.
func isSection(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && !field.IsMap() && !field.IsList() && !isDuration(field)
}

func kindOf(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}
