// Package service builds the whole from a configuration, starts it and stops it
// in order: the only wiring, used by cmd, demo and fetchtest alike.
package service

import (
	"context"
	"net"

	"google.golang.org/grpc"

	"github.com/fetchgate/fetchgate/service/server"
)

// Service is a fetchgate that listens.
type Service struct {
	grpc     *grpc.Server
	listener net.Listener
}

// Options are what a Service is built from.
type Options struct {
	// GRPCAddress is where the API listens, HOST:PORT.
	GRPCAddress string
}

// New builds a service and opens its listeners. It answers from Serve on.
func New(o Options) (*Service, error) {
	l, err := net.Listen("tcp", o.GRPCAddress)
	if err != nil {
		return nil, err
	}
	s := &Service{grpc: grpc.NewServer(), listener: l}
	server.New().Register(s.grpc)
	return s, nil
}

// GRPCAddress is where the API listens.
func (s *Service) GRPCAddress() string { return s.listener.Addr().String() }

// Serve answers until ctx ends, then stops.
func (s *Service) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.grpc.GracefulStop)
	defer stop()
	return s.grpc.Serve(s.listener)
}
