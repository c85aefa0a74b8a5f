package service

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/listener"
)

// listenUnix opens the unix socket of a configuration, if it has one. Its
// connections count beside those of TCP.
func (s *Service) listenUnix(c *config.Loaded) error {
	path, mode := c.UnixSocket()
	if path == "" {
		return nil
	}
	l, err := listener.ListenUnix(path, mode)
	if err != nil {
		return fmt.Errorf("cannot listen on the unix socket %s: %w; see that its directory is there, that fetchgate may write in it and that nobody else listens at this path, or set grpc.unix.path to another", path, err)
	}
	s.listeners.unix = s.listeners.grpc.Beside(l)
	return nil
}

// UnixAddress is the path of the unix socket where the API listens too; empty:
// there is none.
func (s *Service) UnixAddress() string {
	if s.listeners.unix == nil {
		return ""
	}
	return s.listeners.unix.Addr().String()
}

// byNetwork shakes hands with callers as their network asks for: over a unix
// socket without TLS.
type byNetwork struct {
	credentials.TransportCredentials // of TCP
	unix                             credentials.TransportCredentials
}

// withUnix returns tcp such that connections of the unix socket, if there is
// one, are told by their processes.
func (s *Service) withUnix(tcp credentials.TransportCredentials) credentials.TransportCredentials {
	if s.listeners.unix == nil {
		return tcp
	}
	return byNetwork{tcp, watched(processes{}, s.listeners.unix.Watch, s.limits.CallerStall)}
}

// ServerHandshake begins with what Accept returned.
func (b byNetwork) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, isUnix := listener.ProcessOf(accepted); isUnix {
		return b.unix.ServerHandshake(accepted)
	}
	return b.TransportCredentials.ServerHandshake(accepted)
}

// Clone keeps both.
func (b byNetwork) Clone() credentials.TransportCredentials {
	return byNetwork{b.TransportCredentials.Clone(), b.unix.Clone()}
}

// processes are the credentials of a unix socket: the system says whose process
// is at the other end, and nothing is sent for it.
type processes struct{}

var errOnlyServes = errors.New("these credentials are for serving alone")

// ClientHandshake is not for this side of a connection.
func (processes) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errOnlyServes
}

// ServerHandshake returns a [caller.Process].
func (processes) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	found, ok := listener.ProcessOf(accepted)
	if !ok {
		return nil, nil, errors.New("the connection is not of a unix socket")
	}
	return accepted, caller.Process(found), nil
}

// Info tells gRPC what is spoken.
func (processes) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone returns the same: there is nothing to change.
func (p processes) Clone() credentials.TransportCredentials { return p }

// OverrideServerName is of clients.
func (processes) OverrideServerName(string) error { return errOnlyServes }
