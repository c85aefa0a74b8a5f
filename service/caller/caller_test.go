package caller_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"google.golang.org/grpc/peer"

	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestAuthenticate(t *testing.T) {
	from := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 1234}})
	for name, c := range map[string]struct {
		configured string
		ctx        context.Context
		want       fetch.Caller
	}{
		"anonymous":         {"", from, fetch.Caller{Name: "anonymous", Anonymous: true, Peer: netip.MustParseAddrPort("192.0.2.1:1234")}},
		"named":             {"shop", from, fetch.Caller{Name: "shop", Anonymous: true, Peer: netip.MustParseAddrPort("192.0.2.1:1234")}},
		"without a peer":    {"shop", t.Context(), fetch.Caller{Name: "shop", Anonymous: true}},
		"without its place": {"shop", peer.NewContext(t.Context(), &peer.Peer{}), fetch.Caller{Name: "shop", Anonymous: true}},
	} {
		ctx, err := caller.New(c.configured).Authenticate(c.ctx)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, ok := caller.FromContext(ctx); !ok || got != c.want {
			t.Errorf("%s: the caller is %+v, want %+v", name, got, c.want)
		}
	}
}

// TestFromContext: nobody is known before Authenticate, and another's value in
// the context is no caller.
func TestFromContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, fetch.Caller{Name: "shop"})
	if got, ok := caller.FromContext(ctx); ok || got != (fetch.Caller{}) {
		t.Errorf("the caller is %+v", got)
	}
}

// TestAuthenticateAnew: who was found out last is the caller.
func TestAuthenticateAnew(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"first", "second"} {
		var err error
		if ctx, err = caller.New(name).Authenticate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := caller.FromContext(ctx); got.Name != "second" {
		t.Errorf("the caller is %+v", got)
	}
}
