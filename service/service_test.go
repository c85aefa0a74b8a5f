package service_test

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRefusedByName: what a server does not offer it refuses by the field's
// path, so that a caller never believes that an option was carried out.
func TestRefusedByName(t *testing.T) {
	g := fetchtest.Start(t, fetchtest.Options{})
	_, err := g.Fetch(context.Background(), &fetchgatev1.FetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: "http://example.com/"},
		Options: &fetchgatev1.FetchOptions{Hedge: &fetchgatev1.HedgePolicy{}},
	})
	s := status.Convert(err)
	if s.Code() != codes.InvalidArgument {
		t.Fatalf("code %v, want InvalidArgument: %v", s.Code(), err)
	}
	var field, reason string
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			field = d.GetFieldViolations()[0].GetField()
		case *errdetails.ErrorInfo:
			reason = d.GetDomain() + "/" + d.GetReason()
		}
	}
	if field != "options.hedge" || reason != "fetchgate/NOT_OFFERED" {
		t.Errorf("field %q, reason %q", field, reason)
	}
}

// TestOtherRPCsAreUnimplemented: an RPC that the server does not offer is
// refused as a whole. The test walks the services, so that none is forgotten.
func TestOtherRPCsAreUnimplemented(t *testing.T) {
	g := fetchtest.Start(t, fetchtest.Options{})
	offered := []protoreflect.Name{"Fetch", "StreamFetch", "Explain", "WaitForGeneration"}
	for _, f := range contractFiles(t) {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if slices.Contains(offered, m.Name()) {
					continue
				}
				stream, err := g.Conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
					"/"+string(s.FullName())+"/"+string(m.Name()))
				if err != nil {
					t.Fatal(err)
				}
				stream.SendMsg(&fetchgatev1.FetchRequest{})
				stream.CloseSend()
				if err := stream.RecvMsg(&fetchgatev1.FetchResponse{}); status.Code(err) != codes.Unimplemented {
					t.Errorf("%s: %v, want UNIMPLEMENTED", m.FullName(), err)
				}
			}
		}
	}
}
