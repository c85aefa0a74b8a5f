package server

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// The answers that carry a body leave as a message without it plus the pooled
// buffer that the body was read into, which goes on the wire uncopied. The
// embedded message is what stats handlers and the interceptor of [Server.Register]
// see; to gRPC itself the Fetch that sends it is a stream, and its interceptors
// for unary RPCs do not run.

// fetchReply is a FetchResponse whose response.body is in body.
type fetchReply struct {
	*fetchgatev1.FetchResponse
	body mem.Buffer // nil where there is none
	held *held      // what body counts against
}

// failureReply is a FetchResponse with a failure. Its form on the wire counts as
// held, which has to be said before the RPC ends.
type failureReply struct {
	*fetchgatev1.FetchResponse
	wire mem.Buffer // nil where there was no memory for it
	held *held      // what wire counts against
}

// dataReply is a StreamFetchResponse whose data.data is in body.
type dataReply struct {
	*fetchgatev1.StreamFetchResponse
	body mem.Buffer
}

// Codec is grpc's codec for protobuf, but for the answers of this package that
// carry a body.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns the codec that the server is to be forced to.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(grpcproto.Name)} }

// Name is the name of grpc's codec, since the wire is the same.
func (c Codec) Name() string { return grpcproto.Name }

// Marshal encodes v. It takes over the reference to the body of an answer.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *fetchReply:
		return c.marshalFetch(v)
	case *failureReply:
		if v.wire == nil {
			return c.CodecV2.Marshal(v.FetchResponse)
		}
		return mem.BufferSlice{v.wire}, nil
	case *dataReply:
		return c.marshalData(v)
	}
	return c.CodecV2.Marshal(v)
}

// The field numbers of an answer. That of a body is the same at every level: the
// highest, so that it is encoded last.
const (
	reportNumber protowire.Number = 1
	bodyNumber   protowire.Number = 15
)

// maxPrefix is the most that appendPrefix appends.
const maxPrefix = 1 + 10

// appendPrefix appends what precedes n bytes of a field.
func appendPrefix(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n))
}

// sizeOf is how much a field of n bytes takes.
func sizeOf(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}

func (c Codec) marshalFetch(r *fetchReply) (mem.BufferSlice, error) {
	if r.body == nil {
		return c.CodecV2.Marshal(r.FetchResponse)
	}
	response, report := r.GetResponse(), r.GetReport()
	opts := proto.MarshalOptions{UseCachedSize: true}
	reportLen, responseLen := proto.Size(report), proto.Size(response)
	var err error
	head := make([]byte, 0, reportLen+responseLen+3*maxPrefix)
	if report != nil {
		head, err = opts.MarshalAppend(appendPrefix(head, reportNumber, reportLen), report)
	}
	if err == nil {
		head = appendPrefix(head, bodyNumber, responseLen+sizeOf(bodyNumber, r.body.Len()))
		head, err = opts.MarshalAppend(head, response)
	}
	if err != nil {
		r.body.Free()
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(appendPrefix(head, bodyNumber, r.body.Len())), r.body}, nil
}

func (c Codec) marshalData(r *dataReply) (mem.BufferSlice, error) {
	data := r.GetData()
	dataLen := proto.Size(data)
	head := appendPrefix(make([]byte, 0, dataLen+2*maxPrefix), bodyNumber, dataLen+sizeOf(bodyNumber, r.body.Len()))
	head, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(head, data)
	if err != nil {
		r.body.Free()
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(appendPrefix(head, bodyNumber, r.body.Len())), r.body}, nil
}
