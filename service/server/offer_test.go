package server

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

func paths(violations []violation) []string {
	var found []string
	for _, v := range violations {
		found = append(found, v.path)
	}
	return found
}

// TestOfferedFieldsExist: a word that is misspelt in the list would refuse what
// is offered.
func TestOfferedFieldsExist(t *testing.T) {
	for name := range offered {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if _, isField := d.(protoreflect.FieldDescriptor); err != nil || !isField {
			t.Errorf("%s is not a field of the contract", name)
		}
	}
}

func TestRefuseNotOffered(t *testing.T) {
	header := []*fetchgatev1.HeaderField{{Name: "X", Value: []byte("1")}}
	for name, c := range map[string]struct {
		request *fetchgatev1.FetchRequest
		want    []string
	}{
		"nothing": {&fetchgatev1.FetchRequest{}, nil},
		"all that is offered": {&fetchgatev1.FetchRequest{
			Request: &fetchgatev1.HttpRequest{
				Method: "POST", Url: "http://example.com/", RawTarget: "/", Params: []*fetchgatev1.QueryParam{{Name: "a", Value: "b"}},
				Headers: header, OmitDefaultFields: []string{"accept"}, Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{}}, Trailers: header,
			},
			Options: &fetchgatev1.FetchOptions{
				Verbatim: proto.Bool(true),
				Timeouts: &fetchgatev1.Timeouts{Dns: durationpb.New(1)},
				Tls:      &fetchgatev1.TlsOptions{}, Connection: &fetchgatev1.ConnectionOptions{},
				Protocol: &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true), ContinueTimeout: durationpb.New(1)},
				Response: &fetchgatev1.ResponseOptions{Interim: proto.Bool(true), ChunkBoundaries: proto.Bool(true)},
			},
		}, nil},
		"a list of messages, by item and field": {&fetchgatev1.FetchRequest{Options: &fetchgatev1.FetchOptions{Proxy: &fetchgatev1.ProxyOptions{
			ConnectHeaders: []*fetchgatev1.ProxyField{{Name: "a"}, {}, {Name: "b", Value: []byte("c")}},
		}}}, []string{"options.proxy.connect_headers[0].name", "options.proxy.connect_headers[1]", "options.proxy.connect_headers[2].name", "options.proxy.connect_headers[2].value"}},
		"a message without fields, itself": {&fetchgatev1.FetchRequest{
			Options: &fetchgatev1.FetchOptions{Hedge: &fetchgatev1.HedgePolicy{}},
		}, []string{"options.hedge"}},
		"the most deeply nested": {&fetchgatev1.FetchRequest{
			Options: &fetchgatev1.FetchOptions{Hedge: &fetchgatev1.HedgePolicy{Delay: &durationpb.Duration{Seconds: 1}},
				Download: &fetchgatev1.DownloadOptions{Digests: []*fetchgatev1.Digest{{Algorithm: "sha256"}}}},
		}, []string{"options.download.digests[0].algorithm", "options.hedge.delay.seconds"}},
		"a list of scalars, as a whole": {&fetchgatev1.FetchRequest{Options: &fetchgatev1.FetchOptions{
			Tls: &fetchgatev1.TlsOptions{SpkiSha256Pins: [][]byte{{1}, {2}}},
		}}, []string{"options.tls.spki_sha256_pins"}},
		"a scalar set to its zero": {&fetchgatev1.FetchRequest{
			Options: &fetchgatev1.FetchOptions{Response: &fetchgatev1.ResponseOptions{Text: proto.Bool(false)}},
		}, []string{"options.response.text"}},
		"a kind of a body": {&fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{
			Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Multipart{Multipart: &fetchgatev1.MultipartBody{
				Parts: []*fetchgatev1.Part{{Headers: header}}}}, Coding: fetchgatev1.BodyCoding_BODY_CODING_GZIP},
		}}, []string{"request.body.coding", "request.body.multipart.parts[0].headers[0].name", "request.body.multipart.parts[0].headers[0].value"}},
		"in the order of the paths": {&fetchgatev1.FetchRequest{
			Options: &fetchgatev1.FetchOptions{Cache: &fetchgatev1.CacheOptions{}, Response: &fetchgatev1.ResponseOptions{Text: proto.Bool(true)}},
			Request: &fetchgatev1.HttpRequest{Body: &fetchgatev1.Body{Coding: fetchgatev1.BodyCoding_BODY_CODING_GZIP}},
		}, []string{"options.cache", "options.response.text", "request.body.coding"}},
	} {
		t.Run(name, func(t *testing.T) {
			found := refuseNotOffered(c.request)
			if !slices.Equal(paths(found), c.want) {
				t.Errorf("refused are %q, want %q", paths(found), c.want)
			}
			for _, v := range found {
				if v.reason != "NOT_OFFERED" || v.description != toLeaveOut {
					t.Errorf("%s is refused with %s: %s", v.path, v.reason, v.description)
				}
			}
		})
	}
}

// TestUnknownFieldsAreRefusedAtEveryDepth puts a field that no version of the
// contract has into each message of a request.
func TestUnknownFieldsAreRefusedAtEveryDepth(t *testing.T) {
	const number = 12345
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), 1)
	full := func() *fetchgatev1.FetchRequest {
		return &fetchgatev1.FetchRequest{
			Request: &fetchgatev1.HttpRequest{
				Url: "http://example.com/", Params: []*fetchgatev1.QueryParam{{}, {}}, Headers: []*fetchgatev1.HeaderField{{}},
				Body: &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: &fetchgatev1.FormBody{Fields: []*fetchgatev1.QueryParam{{}}}}},
			},
			Options: &fetchgatev1.FetchOptions{
				Timeouts: &fetchgatev1.Timeouts{Total: &durationpb.Duration{}}, Tls: &fetchgatev1.TlsOptions{},
				Connection: &fetchgatev1.ConnectionOptions{}, Protocol: &fetchgatev1.ProtocolOptions{}, Response: &fetchgatev1.ResponseOptions{},
			},
		}
	}
	for path, in := range map[string]func(*fetchgatev1.FetchRequest) proto.Message{
		"":                             func(m *fetchgatev1.FetchRequest) proto.Message { return m },
		"request.":                     func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request },
		"request.params[1].":           func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request.Params[1] },
		"request.headers[0].":          func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request.Headers[0] },
		"request.body.":                func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request.Body },
		"request.body.form.":           func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request.Body.GetForm() },
		"request.body.form.fields[0].": func(m *fetchgatev1.FetchRequest) proto.Message { return m.Request.Body.GetForm().Fields[0] },
		"options.":                     func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options },
		"options.timeouts.":            func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Timeouts },
		"options.timeouts.total.":      func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Timeouts.Total },
		"options.tls.":                 func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Tls },
		"options.connection.":          func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Connection },
		"options.protocol.":            func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Protocol },
		"options.response.":            func(m *fetchgatev1.FetchRequest) proto.Message { return m.Options.Response },
	} {
		m := full()
		in(m).ProtoReflect().SetUnknown(unknown)
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		received := &fetchgatev1.FetchRequest{}
		if err := proto.Unmarshal(wire, received); err != nil {
			t.Fatal(err)
		}
		found := refuseNotOffered(received)
		if want := []string{path + "<field 12345>"}; !slices.Equal(paths(found), want) {
			t.Errorf("refused are %q, want %q", paths(found), want)
		} else if found[0].reason != "NOT_OFFERED" || !strings.Contains(found[0].description, "newer") {
			t.Errorf("%s is refused with %s: %s", path, found[0].reason, found[0].description)
		}
	}
	if found := refuseNotOffered(full()); len(found) > 0 {
		t.Errorf("without it are refused %q", paths(found))
	}
}

// TestEveryKindOfUnknownFieldIsRefused: groups and several numbers at a time
// are found, too.
func TestEveryKindOfUnknownFieldIsRefused(t *testing.T) {
	var unknown []byte
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 100, protowire.VarintType), 1)
	unknown = protowire.AppendFixed32(protowire.AppendTag(unknown, 101, protowire.Fixed32Type), 1)
	unknown = protowire.AppendFixed64(protowire.AppendTag(unknown, 102, protowire.Fixed64Type), 1)
	unknown = protowire.AppendBytes(protowire.AppendTag(unknown, 103, protowire.BytesType), []byte("x"))
	unknown = protowire.AppendTag(unknown, 104, protowire.StartGroupType)
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 999, protowire.VarintType), 1)
	unknown = protowire.AppendTag(unknown, 104, protowire.EndGroupType)
	m := &fetchgatev1.FetchRequest{}
	if err := proto.Unmarshal(unknown, m); err != nil {
		t.Fatal(err)
	}
	want := []string{"<field 100>", "<field 101>", "<field 102>", "<field 103>", "<field 104>"}
	if got := paths(refuseNotOffered(m)); !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}

// TestRefusalsAreBounded: a request of 4 MiB can hold millions of fields that
// are not offered.
func TestRefusalsAreBounded(t *testing.T) {
	unknown := bytes.Repeat(protowire.AppendVarint(protowire.AppendTag(nil, 100, protowire.VarintType), 1), 1<<16)
	many := &fetchgatev1.ProxyOptions{}
	for range 1 << 12 {
		many.ConnectHeaders = append(many.ConnectHeaders, &fetchgatev1.ProxyField{Name: "a", Value: []byte("b")}, &fetchgatev1.ProxyField{})
	}
	nested := &fetchgatev1.HttpRequest{}
	nested.ProtoReflect().SetUnknown(unknown)
	for name, m := range map[string]*fetchgatev1.FetchRequest{
		"unknown fields": {Request: nested},
		"items":          {Options: &fetchgatev1.FetchOptions{Proxy: many}},
		"both":           {Request: nested, Options: &fetchgatev1.FetchOptions{Proxy: many, Hedge: &fetchgatev1.HedgePolicy{}}},
	} {
		if n := len(refuseNotOffered(m)); n != maxViolations {
			t.Errorf("%s: %d fields are refused, want %d", name, n, maxViolations)
		}
	}
}
