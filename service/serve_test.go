package service

import (
	"errors"
	"net"
	"testing"
)

// TestAListenerThatFailsEndsTheService: half a service would look alive to
// whoever asks the other half.
func TestAListenerThatFailsEndsTheService(t *testing.T) {
	for name, fails := range map[string]func(*Service) net.Listener{
		"grpc": func(s *Service) net.Listener { return s.listeners.grpc },
		"http": func(s *Service) net.Listener { return s.listeners.http },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(Options{GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			fails(s).Close()
			if err := s.Serve(t.Context()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Serve returned %v, want that its listener is closed", err)
			}
		})
	}
}
