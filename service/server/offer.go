package server

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// offered holds the fields of a request that this server carries out. It is a
// list of what is, not of what is not, so that a field that is new in the
// contract is refused until somebody has made it work.
var offered = fieldSet(map[protoreflect.FullName][]protoreflect.Name{
	"fetchgate.v1.FetchRequest":       {"request", "options"},
	"fetchgate.v1.StreamFetchRequest": {"request", "options"},
	"fetchgate.v1.HttpRequest":        {"method", "url", "raw_target", "params", "headers", "omit_default_fields", "body"},
	"fetchgate.v1.QueryParam":         {"name", "value"},
	"fetchgate.v1.HeaderField":        {"name", "value"},
	"fetchgate.v1.Body":               {"form", "json", "raw"},
	"fetchgate.v1.FormBody":           {"fields"},
	"fetchgate.v1.FetchOptions":       {"timeouts", "tls", "connection", "protocol", "response", "report"},
	"fetchgate.v1.Timeouts": {"dns", "connect", "tls", "response_header", "idle_read", "write", "pool",
		"attempt", "total", "min_throughput_bytes_per_second"},
	"fetchgate.v1.TlsOptions":        {"minimum_version"},
	"fetchgate.v1.ConnectionOptions": {"affinity", "fresh", "close_after"},
	"fetchgate.v1.ProtocolOptions":   {"version"},
	"fetchgate.v1.ResponseOptions":   {"max_body_bytes", "decode", "interim", "max_head_bytes", "max_head_fields"},
	"google.protobuf.Duration":       {"seconds", "nanos"},
})

func fieldSet(lists map[protoreflect.FullName][]protoreflect.Name) map[protoreflect.FullName]bool {
	set := map[protoreflect.FullName]bool{}
	for message, fields := range lists {
		for _, f := range fields {
			set[message.Append(f)] = true
		}
	}
	return set
}

// refuseNotOffered returns a violation for each field of m that is set and that
// this server does not carry out or does not know, in the order of their paths.
func refuseNotOffered(m proto.Message) []violation {
	var found []violation
	walkFields("", m.ProtoReflect(), false, &found)
	slices.SortFunc(found, func(a, b violation) int { return cmp.Compare(a.path, b.path) })
	return found
}

// walkFields looks at the fields of m; refused tells that m itself is not
// offered. Of a message that is not, each field that is set is named, so that a
// caller sees what it has to do without.
func walkFields(prefix string, m protoreflect.Message, refused bool, found *[]violation) {
	before := len(*found)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := joinPath(prefix, string(fd.Name()))
		refused := refused || !offered[fd.FullName()]
		switch {
		case fd.IsMap() || fd.Message() == nil:
			if refused {
				*found = append(*found, notOffered(path))
			}
		case fd.IsList():
			for i := range v.List().Len() {
				walkFields(fmt.Sprintf("%s[%d]", path, i), v.List().Get(i).Message(), refused, found)
			}
		default:
			walkFields(path, v.Message(), refused, found)
		}
		return true
	})
	for unknown := m.GetUnknown(); len(unknown) > 0; {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 {
			break
		}
		unknown = unknown[n:]
		*found = append(*found, violation{joinPath(prefix, fmt.Sprintf("<field %d>", number)), reasonNotOffered,
			"this server does not know it; leave it out or ask a newer server"})
	}
	if refused && len(*found) == before {
		*found = append(*found, notOffered(prefix))
	}
}

func notOffered(path string) violation {
	return violation{path, reasonNotOffered, "this server does not offer it; leave it out"}
}

func joinPath(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}
