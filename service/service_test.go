package service_test

import (
	"context"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
)

func start(t *testing.T) fetchgatev1.FetchServiceClient {
	t.Helper()
	s, err := service.New(service.Options{GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return fetchgatev1.NewFetchServiceClient(conn)
}

// TestRefusedByName: what a server does not offer it refuses by the field's
// path, so that a caller never believes that an option was carried out.
func TestRefusedByName(t *testing.T) {
	client := start(t)
	_, err := client.Fetch(context.Background(), &fetchgatev1.FetchRequest{
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
