// Package caller finds out which service is calling (mTLS/SPIFFE, JWT, token).
package caller

import (
	"context"
	"net"

	"google.golang.org/grpc/peer"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Anonymous is the name of a caller that nobody asked to prove who it is.
const Anonymous = "anonymous"

type contextKey struct{}

// Authenticator tells which service is calling. It has the shape of
// go-grpc-middleware's auth function: it returns a context with the caller in
// it, or a status error UNAUTHENTICATED.
type Authenticator struct {
	name string
}

// New returns an authenticator that takes everybody for the caller called name;
// empty means Anonymous.
func New(name string) *Authenticator {
	if name == "" {
		name = Anonymous
	}
	return &Authenticator{name: name}
}

// Authenticate puts the caller of an RPC into its context.
func (a *Authenticator) Authenticate(ctx context.Context) (context.Context, error) {
	c := fetch.Caller{Name: a.name, Anonymous: true}
	if p, ok := peer.FromContext(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			c.Peer = tcp.AddrPort()
		}
	}
	return context.WithValue(ctx, contextKey{}, c), nil
}

// FromContext returns the caller of the RPC that ctx belongs to, and whether
// one was found out.
func FromContext(ctx context.Context) (fetch.Caller, bool) {
	c, ok := ctx.Value(contextKey{}).(fetch.Caller)
	return c, ok
}
