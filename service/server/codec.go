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
// embedded message keeps interceptors, stats and reflection working.

// fetchReply is a FetchResponse whose response.body is in body.
type fetchReply struct {
	*fetchgatev1.FetchResponse
	body mem.Buffer
}

// failureReply is a FetchResponse with a failure. Its form on the wire counts as
// held, which has to be said before the RPC ends.
type failureReply struct {
	*fetchgatev1.FetchResponse
	wire mem.Buffer // nil where there was no memory for it
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

// bodyNumber is the field number of a body at every level of an answer: the
// highest, so that it is encoded last.
const bodyNumber protowire.Number = 15

func (c Codec) marshalFetch(r *fetchReply) (mem.BufferSlice, error) {
	if r.body == nil {
		return c.CodecV2.Marshal(r.FetchResponse)
	}
	response := r.GetResponse()
	opts := proto.MarshalOptions{}
	head, err := opts.Marshal(&fetchgatev1.FetchResponse{Report: r.GetReport()})
	if err != nil {
		r.body.Free()
		return nil, err
	}
	bodyLen := r.body.Len()
	inner := opts.Size(response) + protowire.SizeTag(bodyNumber) + protowire.SizeBytes(bodyLen)
	head = protowire.AppendTag(head, bodyNumber, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(inner))
	if head, err = opts.MarshalAppend(head, response); err != nil {
		r.body.Free()
		return nil, err
	}
	head = protowire.AppendTag(head, bodyNumber, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(bodyLen))
	return mem.BufferSlice{mem.SliceBuffer(head), r.body}, nil
}

func (c Codec) marshalData(r *dataReply) (mem.BufferSlice, error) {
	data := r.GetData()
	opts := proto.MarshalOptions{}
	bodyLen := r.body.Len()
	inner := opts.Size(data) + protowire.SizeTag(bodyNumber) + protowire.SizeBytes(bodyLen)
	head := make([]byte, 0, 32)
	head = protowire.AppendTag(head, bodyNumber, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(inner))
	head, err := opts.MarshalAppend(head, data)
	if err != nil {
		r.body.Free()
		return nil, err
	}
	head = protowire.AppendTag(head, bodyNumber, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(bodyLen))
	return mem.BufferSlice{mem.SliceBuffer(head), r.body}, nil
}
