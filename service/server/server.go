package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// Server answers the RPCs of FetchService.
type Server struct {
	fetchgatev1.UnimplementedFetchServiceServer
}

// New returns a server.
func New() *Server { return &Server{} }

// Register adds the services to r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	fetchgatev1.RegisterFetchServiceServer(r, s)
}

// Fetch performs one request and returns the whole response.
func (s *Server) Fetch(_ context.Context, m *fetchgatev1.FetchRequest) (*fetchgatev1.FetchResponse, error) {
	if v := refuseNotOffered(m); len(v) > 0 {
		return nil, invalid(v)
	}
	return nil, status.Error(codes.Unimplemented, "this server does not fetch yet")
}
