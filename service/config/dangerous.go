package config

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// dangerousPrefix begins the name of every setting that takes protection away.
const dangerousPrefix = "dangerous_"

// Dangerous returns the paths of the dangerous_ settings in force, such as
// "rules[1].dangerous_allow_loopback", in the order of the schema.
func (l *Loaded) Dangerous() []string {
	return dangerous(l.Config.ProtoReflect(), "")
}

func dangerous(m protoreflect.Message, prefix string) []string {
	var paths []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		path := prefix + string(field.Name())
		switch {
		case !m.Has(field):
		case strings.HasPrefix(string(field.Name()), dangerousPrefix):
			paths = append(paths, path)
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for j := range m.Get(field).List().Len() {
				paths = append(paths, dangerous(m.Get(field).List().Get(j).Message(), fmt.Sprintf("%s[%d].", path, j))...)
			}
		default:
			paths = append(paths, dangerous(m.Get(field).Message(), path+".")...)
		}
	}
	return paths
}

// NotEnforced returns the modes that let go ahead what rules deny, as "mode: open"
// or "rules[3].mode: report": that of the whole first, then those of the rules that
// say one of their own.
func (l *Loaded) NotEnforced() []string {
	var modes []string
	add := func(path, mode string) {
		if mode == "report" || mode == "open" {
			modes = append(modes, path+": "+mode)
		}
	}
	add("mode", l.Config.GetMode())
	for i, rule := range l.Config.GetRules() {
		add(fmt.Sprintf("rules[%d].mode", i), rule.GetMode())
	}
	return modes
}
