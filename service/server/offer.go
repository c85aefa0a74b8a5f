package server

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

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
	"fetchgate.v1.HttpRequest":        {"method", "url", "raw_target", "params", "headers", "cookies", "trailers", "omit_default_fields", "body"},
	"fetchgate.v1.QueryParam":         {"name", "value"},
	"fetchgate.v1.HeaderField":        {"name", "value"},
	"fetchgate.v1.Cookie":             {"name", "value", "domain", "path", "secure", "http_only", "expire_time", "host_only", "same_site"},
	"fetchgate.v1.Body":               {"form", "json", "raw"},
	"fetchgate.v1.FormBody":           {"fields"},
	"fetchgate.v1.FetchOptions":       {"timeouts", "retry", "redirect", "credentials", "tls", "connection", "protocol", "response", "report", "verbatim", "labels"},
	"fetchgate.v1.Timeouts": {"dns", "connect", "tls", "response_header", "idle_read", "write", "pool",
		"attempt", "total", "min_throughput_bytes_per_second"},
	"fetchgate.v1.RetryPolicy": {"max_attempts", "conditions", "statuses", "response_headers", "methods", "counts",
		"backoff_base", "backoff_factor", "backoff_max", "backoff_jitter", "respect_retry_after", "retry_after_max", "exhausted"},
	"fetchgate.v1.RetryCounts":       {"connect", "read", "status", "other"},
	"fetchgate.v1.RedirectPolicy":    {"max_redirects", "profile", "keep_fields", "remove_fields"},
	"fetchgate.v1.TlsOptions":        {"minimum_version"},
	"fetchgate.v1.ConnectionOptions": {"affinity", "fresh", "close_after"},
	"fetchgate.v1.ProtocolOptions":   {"version", "expect_continue", "continue_timeout"},
	"fetchgate.v1.ResponseOptions":   {"max_body_bytes", "decode", "chunk_boundaries", "interim", "max_head_bytes", "max_head_fields"},

	"fetchgate.v1.Credential":                  {"named", "basic", "bearer", "api_key", "client_certificate"},
	"fetchgate.v1.NamedCredential":             {"name"},
	"fetchgate.v1.BasicCredential":             {"username", "password"},
	"fetchgate.v1.BearerCredential":            {"token"},
	"fetchgate.v1.ApiKeyCredential":            {"header", "query_param", "key", "prefix"},
	"fetchgate.v1.ClientCertificateCredential": {"certificate_pem", "key_pem"},

	"google.protobuf.Duration":  {"seconds", "nanos"},
	"google.protobuf.Timestamp": {"seconds", "nanos"},
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

const toLeaveOut = "this server does not offer it; leave it out"

// refuseNotOffered returns a violation for each field of m that is set and that
// this server does not carry out or does not know, at most maxViolations, in the
// order of their paths.
func refuseNotOffered(m proto.Message) []violation {
	w := walk{steps: make([]step, 0, maxSteps)}
	w.message(m.ProtoReflect(), false)
	slices.SortFunc(w.found, func(a, b violation) int { return cmp.Compare(a.path, b.path) })
	return w.found
}

// maxSteps is how deep messages lie in requests that are offered.
const maxSteps = 8

// walk goes over the fields of a message that are set.
type walk struct {
	// steps lead to the message that is looked at. They are put into words only
	// for what is refused.
	steps []step
	found []violation
}

// step is a field, and which item of it if it is a list.
type step struct {
	field protoreflect.FieldDescriptor
	item  int
}

// message looks at the fields of m; refused tells that m itself is not offered.
// Of a message that is not, each field that is set is named, so that a caller
// sees what it has to do without.
func (w *walk) message(m protoreflect.Message, refused bool) {
	before := len(w.found)
	fields := m.Descriptor().Fields()
	for i := 0; i < fields.Len() && !w.full(); i++ {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		w.steps = append(w.steps, step{field: fd})
		w.value(fd, m.Get(fd), refused || !offered[fd.FullName()])
		w.steps = w.steps[:len(w.steps)-1]
	}
	for unknown := m.GetUnknown(); len(unknown) > 0 && !w.full(); {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 {
			break
		}
		unknown = unknown[n:]
		w.refuse(joinPath(w.path(), fmt.Sprintf("<field %d>", number)), "this server does not know it; leave it out or ask a newer server")
	}
	if refused && len(w.found) == before && !w.full() {
		w.refuse(w.path(), toLeaveOut)
	}
}

// value looks at the value of a field that is set.
func (w *walk) value(fd protoreflect.FieldDescriptor, v protoreflect.Value, refused bool) {
	switch {
	case fd.IsMap() || fd.Message() == nil:
		if refused {
			w.refuse(w.path(), toLeaveOut)
		}
	case fd.IsList():
		last := len(w.steps) - 1
		for i := 0; i < v.List().Len() && !w.full(); i++ {
			w.steps[last].item = i
			w.message(v.List().Get(i).Message(), refused)
		}
	default:
		w.message(v.Message(), refused)
	}
}

func (w *walk) full() bool { return len(w.found) >= maxViolations }

func (w *walk) refuse(path, description string) {
	w.found = append(w.found, violation{path, reasonNotOffered, description})
}

// path is that of what is looked at, "options.credentials[0].basic".
func (w *walk) path() string {
	path := ""
	for _, s := range w.steps {
		path = joinPath(path, string(s.field.Name()))
		if s.field.IsList() && s.field.Message() != nil {
			path += "[" + strconv.Itoa(s.item) + "]"
		}
	}
	return path
}

func joinPath(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}
