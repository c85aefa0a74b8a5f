package service

import (
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/fetchgate/fetchgate/service/limit"
)

// watchedCredentials has the connections of callers watched once their
// handshake is over, and what is held for each of them come back with its end.
type watchedCredentials struct {
	credentials.TransportCredentials
	watch func(accepted, secured net.Conn) net.Conn
	stall time.Duration
	// failed is told of each handshake that failed; nil: nobody counts.
	failed func(peer net.Addr, err error)
}

// watched returns inner such that each connection goes through watch after its
// handshake, with the connection as it was before and after. A connection whose
// answers are not read for stall is closed.
func watched(inner credentials.TransportCredentials, watch func(accepted, secured net.Conn) net.Conn, stall time.Duration) watchedCredentials {
	return watchedCredentials{TransportCredentials: inner, watch: watch, stall: stall}
}

// ServerHandshake returns what it learns of the caller as inner does, with the
// connection beside it.
func (w watchedCredentials) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, caller, err := w.TransportCredentials.ServerHandshake(accepted)
	if err != nil {
		if w.failed != nil {
			w.failed(accepted.RemoteAddr(), err)
		}
		return nil, nil, err
	}
	c := &callerConn{Conn: w.watch(accepted, secured)}
	c.connection = limit.NewConnection(w.stall, func() { c.Close() })
	return c, connected{AuthInfo: caller, connection: c.connection}, nil
}

// Clone keeps the connections watched.
func (w watchedCredentials) Clone() credentials.TransportCredentials {
	w.TransportCredentials = w.TransportCredentials.Clone()
	return w
}

// callerConn gives back what is held for its RPCs when it closes: gRPC drops
// what it could not send without a word.
type callerConn struct {
	net.Conn
	connection *limit.Connection
}

// Write notes what the caller takes.
func (c *callerConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.connection.Wrote(n)
	return n, err
}

// Close is what gRPC calls, however the connection ends.
func (c *callerConn) Close() error {
	err := c.Conn.Close()
	c.connection.Gone()
	return err
}

// connected is what a handshake learned of a caller, and the connection.
type connected struct {
	credentials.AuthInfo
	connection *limit.Connection
}

// Unwrap returns what the handshake learned.
func (c connected) Unwrap() credentials.AuthInfo { return c.AuthInfo }

// Connection is what RPCs of the connection are admitted with.
func (c connected) Connection() *limit.Connection { return c.connection }

// GetCommonAuthInfo lets gRPC see how secure the connection is.
func (c connected) GetCommonAuthInfo() credentials.CommonAuthInfo {
	if info, ok := c.AuthInfo.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		return info.GetCommonAuthInfo()
	}
	return credentials.CommonAuthInfo{}
}
