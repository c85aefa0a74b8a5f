package service

import (
	"net"

	"google.golang.org/grpc/credentials"
)

// watchedCredentials has the connections of callers watched once their
// handshake is over.
type watchedCredentials struct {
	credentials.TransportCredentials
	watch func(accepted, secured net.Conn) net.Conn
}

// watched returns inner such that each connection goes through watch after its
// handshake, with the connection as it was before and after.
func watched(inner credentials.TransportCredentials, watch func(accepted, secured net.Conn) net.Conn) credentials.TransportCredentials {
	return watchedCredentials{TransportCredentials: inner, watch: watch}
}

// ServerHandshake returns what it learns of the caller as inner does.
func (w watchedCredentials) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, caller, err := w.TransportCredentials.ServerHandshake(accepted)
	if err != nil {
		return nil, nil, err
	}
	return w.watch(accepted, secured), caller, nil
}

// Clone keeps the connections watched.
func (w watchedCredentials) Clone() credentials.TransportCredentials {
	return watchedCredentials{TransportCredentials: w.TransportCredentials.Clone(), watch: w.watch}
}
