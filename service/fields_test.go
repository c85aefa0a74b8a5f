package service_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Every field that a request can hold is either carried out or refused by its
// path. The test walks the descriptors, so that a field which is new in the
// contract fails it until somebody has decided which.

type request = fetchgatev1.FetchRequest

// carried holds, for each field that is carried out, what sets it. The fetch
// with it must differ from the fetch without it in what the upstream received,
// what the caller received, or the report.
var carried = map[protoreflect.FullName]func(*request){
	"fetchgate.v1.FetchRequest.request": func(r *request) { r.Request.Url += "?again" },
	"fetchgate.v1.FetchRequest.options": func(r *request) { r.Options.Report = full() },

	"fetchgate.v1.HttpRequest.method":              func(r *request) { r.Request.Method = "PUT" },
	"fetchgate.v1.HttpRequest.url":                 func(r *request) { r.Request.Url += "elsewhere" },
	"fetchgate.v1.HttpRequest.raw_target":          func(r *request) { r.Request.RawTarget = "/raw/%2e" },
	"fetchgate.v1.HttpRequest.params":              func(r *request) { r.Request.Params = params("n", "v") },
	"fetchgate.v1.HttpRequest.headers":             func(r *request) { r.Request.Headers = headers("X-Sample", "v") },
	"fetchgate.v1.HttpRequest.omit_default_fields": func(r *request) { r.Request.OmitDefaultFields = []string{"User-Agent"} },
	"fetchgate.v1.HttpRequest.body":                func(r *request) { r.Request.Body = raw("x") },

	"fetchgate.v1.QueryParam.name":   func(r *request) { r.Request.Params = params("n", "") },
	"fetchgate.v1.QueryParam.value":  func(r *request) { r.Request.Params = params("", "v") },
	"fetchgate.v1.HeaderField.name":  func(r *request) { r.Request.Headers = headers("X-Sample", "") },
	"fetchgate.v1.HeaderField.value": func(r *request) { r.Request.Headers = headers("Accept", "text/x-sample") },
	"fetchgate.v1.Body.form":         func(r *request) { r.Request.Body = form() },
	"fetchgate.v1.Body.json":         func(r *request) { r.Request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: []byte("{}")}} },
	"fetchgate.v1.Body.raw":          func(r *request) { r.Request.Body = raw("x") },
	"fetchgate.v1.FormBody.fields":   func(r *request) { r.Request.Body = form(params("n", "v")...) },

	"fetchgate.v1.FetchOptions.timeouts":   func(r *request) { r.Options.Timeouts = &fetchgatev1.Timeouts{Total: seconds(7)} },
	"fetchgate.v1.FetchOptions.tls":        requireTLS13,
	"fetchgate.v1.FetchOptions.connection": func(r *request) { r.Options.Connection = &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)} },
	"fetchgate.v1.FetchOptions.protocol":   requireH2,
	"fetchgate.v1.FetchOptions.response":   func(r *request) { r.Options.Response = &fetchgatev1.ResponseOptions{Decode: proto.Bool(false)} },
	"fetchgate.v1.FetchOptions.report":     func(r *request) { r.Options.Report = full() },

	"fetchgate.v1.Timeouts.dns":             timeouts(func(t *fetchgatev1.Timeouts) { t.Dns = seconds(7) }),
	"fetchgate.v1.Timeouts.connect":         timeouts(func(t *fetchgatev1.Timeouts) { t.Connect = seconds(7) }),
	"fetchgate.v1.Timeouts.tls":             timeouts(func(t *fetchgatev1.Timeouts) { t.Tls = seconds(7) }),
	"fetchgate.v1.Timeouts.response_header": timeouts(func(t *fetchgatev1.Timeouts) { t.ResponseHeader = seconds(7) }),
	"fetchgate.v1.Timeouts.idle_read":       timeouts(func(t *fetchgatev1.Timeouts) { t.IdleRead = seconds(7) }),
	"fetchgate.v1.Timeouts.write":           timeouts(func(t *fetchgatev1.Timeouts) { t.Write = seconds(7) }),
	"fetchgate.v1.Timeouts.pool":            timeouts(func(t *fetchgatev1.Timeouts) { t.Pool = seconds(7) }),
	"fetchgate.v1.Timeouts.attempt":         timeouts(func(t *fetchgatev1.Timeouts) { t.Attempt = seconds(7) }),
	"fetchgate.v1.Timeouts.total":           timeouts(func(t *fetchgatev1.Timeouts) { t.Total = seconds(7) }),
	"fetchgate.v1.Timeouts.min_throughput_bytes_per_second": timeouts(func(t *fetchgatev1.Timeouts) {
		t.MinThroughputBytesPerSecond = proto.Int64(7)
	}),
	"google.protobuf.Duration.seconds": timeouts(func(t *fetchgatev1.Timeouts) { t.Total = &durationpb.Duration{Seconds: 7} }),
	"google.protobuf.Duration.nanos":   timeouts(func(t *fetchgatev1.Timeouts) { t.Dns = &durationpb.Duration{Nanos: 7e8} }),

	"fetchgate.v1.TlsOptions.minimum_version": requireTLS13,
	"fetchgate.v1.ConnectionOptions.affinity": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{Affinity: proto.String("mine")}
	},
	"fetchgate.v1.ConnectionOptions.fresh": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)}
	},
	"fetchgate.v1.ConnectionOptions.close_after": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{CloseAfter: proto.Bool(true)}
	},
	"fetchgate.v1.ProtocolOptions.version": requireH2,
	"fetchgate.v1.ResponseOptions.max_body_bytes": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(1)}
	},
	"fetchgate.v1.ResponseOptions.decode": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{Decode: proto.Bool(false)}
	},
	"fetchgate.v1.ResponseOptions.interim": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{Interim: proto.Bool(true)}
	},
	"fetchgate.v1.ResponseOptions.max_head_bytes": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxHeadBytes: proto.Int32(1)}
	},
	"fetchgate.v1.ResponseOptions.max_head_fields": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxHeadFields: proto.Int32(1)}
	},
}

func full() *fetchgatev1.ReportDetail { return fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum() }

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func params(name, value string) []*fetchgatev1.QueryParam {
	return []*fetchgatev1.QueryParam{{Name: name, Value: value}}
}

func headers(name, value string) []*fetchgatev1.HeaderField {
	return []*fetchgatev1.HeaderField{{Name: name, Value: []byte(value)}}
}

func raw(s string) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte(s)}}
}

func form(fields ...*fetchgatev1.QueryParam) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: &fetchgatev1.FormBody{Fields: fields}}}
}

func timeouts(set func(*fetchgatev1.Timeouts)) func(*request) {
	return func(r *request) {
		r.Options.Timeouts = &fetchgatev1.Timeouts{}
		set(r.Options.Timeouts)
	}
}

func requireTLS13(r *request) {
	r.Options.Tls = &fetchgatev1.TlsOptions{MinimumVersion: fetchgatev1.TlsVersion_TLS_VERSION_1_3.Enum()}
}

func requireH2(r *request) {
	r.Options.Protocol = &fetchgatev1.ProtocolOptions{Version: fetchgatev1.HttpVersion_HTTP_VERSION_2.Enum()}
}

// fieldUpstream answers in such a way that every option can be seen: over TLS
// 1.2 and HTTP/1.1 alone, with an interim response and a coded body.
func fieldUpstream(t *testing.T, authority *fetchtest.Authority) *fetchtest.Recorder {
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	io.WriteString(z, "decoded")
	z.Close()
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Listen: fetchtest.Listen{TLS: &tls.Config{
			Certificates: []tls.Certificate{authority.Issue(fetchtest.IssueOptions{})},
			MaxVersion:   tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		}},
		Respond: func(*fetchtest.Recorded) fetchtest.Step {
			return fetchtest.Steps(
				fetchtest.Write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
				fetchtest.Answer(200, coded.String(), "Content-Encoding: gzip", "X-A: 1"),
			)
		},
	})
}

// TestEveryFieldIsCarriedOutOrRefused is the differential test of the contract.
func TestEveryFieldIsCarriedOutOrRefused(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := fieldUpstream(t, authority)
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Trust: authority})
	base := &request{
		Request: &fetchgatev1.HttpRequest{Url: u.URL("/")},
		Options: &fetchgatev1.FetchOptions{Report: full()},
	}
	seen := map[protoreflect.FullName]bool{}
	for _, f := range fieldsOf(base.ProtoReflect().Descriptor(), nil) {
		name := f[len(f)-1].FullName()
		set := carried[name]
		isCarried := !slices.ContainsFunc(f, func(fd protoreflect.FieldDescriptor) bool { return carried[fd.FullName()] == nil })
		seen[name] = true
		t.Run(pathOf(f), func(t *testing.T) {
			if isCarried {
				checkCarried(t, g, u, base, set)
				return
			}
			checkRefused(t, g, base, f)
		})
	}
	for name := range carried {
		if !seen[name] {
			t.Errorf("there is no field %s", name)
		}
	}
}

// checkCarried fetches with and without a field and compares all that can be
// seen of the two, by either RPC.
func checkCarried(t *testing.T, g *fetchtest.Fetchgate, u *fetchtest.Recorder, base *request, set func(*request)) {
	without := proto.Clone(base).(*request)
	with := proto.Clone(base).(*request)
	set(with)
	if proto.Equal(with, without) {
		// The field is in the base: what is without it is the default.
		without.Options.Report = nil
	}
	for rpc, observe := range map[string]func(*testing.T, *fetchtest.Fetchgate, *request) string{"Fetch": observeFetch, "StreamFetch": observeStream} {
		observe(t, g, base) // so that there is a connection to use again
		before := len(u.Requests())
		a := observe(t, g, without)
		b := observe(t, g, with)
		for i, r := range u.Requests()[before:] {
			if i == 0 {
				a += string(r.Raw)
			} else {
				b += string(r.Raw)
			}
		}
		if a == b {
			t.Errorf("%s: nothing differs with the field\n%s", rpc, a)
		}
	}
}

// checkRefused sets a field by its descriptor and wants its path in the answer.
func checkRefused(t *testing.T, g *fetchtest.Fetchgate, base *request, f []protoreflect.FieldDescriptor) {
	m := proto.Clone(base).(*request)
	setField(m.ProtoReflect(), f)
	_, err := g.Fetch(context.Background(), m)
	wantRefused(t, "Fetch", err, pathOf(f))
	stream, err := g.StreamFetch(context.Background(), &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err == nil {
		_, err = stream.Recv()
	}
	wantRefused(t, "StreamFetch", err, pathOf(f))
}

func wantRefused(t *testing.T, rpc string, err error, path string) {
	t.Helper()
	var got []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				got = append(got, v.GetField())
			}
		}
	}
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(got, []string{path}) {
		t.Errorf("%s: got %v %q, want InvalidArgument that names %q: the field is neither carried out nor refused", rpc, status.Code(err), got, path)
	}
}

func observeFetch(t *testing.T, g *fetchtest.Fetchgate, m *request) string {
	t.Helper()
	r, err := g.Fetch(context.Background(), m)
	if err != nil {
		return err.Error()
	}
	return steady(r)
}

func observeStream(t *testing.T, g *fetchtest.Fetchgate, m *request) string {
	t.Helper()
	stream, err := g.StreamFetch(context.Background(), &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		if err != nil {
			return all.String() + err.Error()
		}
		all.WriteString(steady(event))
	}
}

// steady renders m without what differs between any two fetches.
func steady(m proto.Message) string {
	m = proto.Clone(m)
	dropTimes(m.ProtoReflect())
	text, err := prototext.MarshalOptions{}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	// prototext puts in random spaces so that nobody relies on its output.
	return strings.Join(strings.Fields(string(text)), " ") + "\n"
}

func dropTimes(m protoreflect.Message) {
	limits := m.Descriptor().Name() == "EffectiveLimits"
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.Message().Name() == "Timestamp", fd.Message().Name() == "Duration" && !limits, fd.Message().Name() == "Timings":
			m.Clear(fd)
		case fd.IsList():
			for i := range v.List().Len() {
				dropTimes(v.List().Get(i).Message())
			}
		default:
			dropTimes(v.Message())
		}
		return true
	})
}

// fieldsOf returns the path of every field below d. A message that is a field of
// itself is entered once.
func fieldsOf(d protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor) [][]protoreflect.FieldDescriptor {
	var found [][]protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		path := append(slices.Clone(above), fd)
		found = append(found, path)
		if fd.Message() != nil && !fd.IsMap() && !slices.ContainsFunc(above, func(a protoreflect.FieldDescriptor) bool { return a.Message() == fd.Message() }) {
			found = append(found, fieldsOf(fd.Message(), path)...)
		}
	}
	return found
}

// pathOf is the path as a refusal names it.
func pathOf(f []protoreflect.FieldDescriptor) string {
	parts := make([]string, len(f))
	for i, fd := range f {
		parts[i] = string(fd.Name())
		if fd.IsList() && fd.Message() != nil {
			parts[i] += "[0]"
		}
	}
	return strings.Join(parts, ".")
}

// setField gives the last field of the path a value, and makes what is above.
func setField(m protoreflect.Message, f []protoreflect.FieldDescriptor) {
	fd, last := f[0], len(f) == 1
	switch {
	case fd.IsMap():
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
	case fd.IsList() && fd.Message() != nil:
		list := m.Mutable(fd).List()
		if list.Len() == 0 {
			list.Append(list.NewElement())
		}
		if !last {
			setField(list.Get(0).Message(), f[1:])
		}
	case fd.IsList():
		m.Mutable(fd).List().Append(sampleOf(fd))
	case fd.Message() != nil:
		child := m.Mutable(fd).Message()
		if !last {
			setField(child, f[1:])
		}
	default:
		m.Set(fd, sampleOf(fd))
	}
}

func sampleOf(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("sample")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("sample"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	}
	panic(fmt.Sprintf("%s has a kind that the test does not know: %v", fd.FullName(), fd.Kind()))
}
