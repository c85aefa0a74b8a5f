package caller_test

import (
	"math"
	"net"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestUsers: each user id is a proof by itself, from 0 to the highest; where there
// is an anonymous caller, others are that.
func TestUsers(t *testing.T) {
	callers := []*configv1.Caller{
		{Name: "root", UnixUids: []int64{0}},
		{Name: "shop", UnixUids: []int64{1000, math.MaxUint32 - 1}, TokenSha256: []string{digestOf(shopToken)}},
	}
	strict := build(t, caller.Options{Callers: callers})
	lax := build(t, caller.Options{Callers: append(callers, &configv1.Caller{Name: "guest", DangerousAnonymous: true})})
	for _, c := range []struct {
		uid               uint32
		token             string
		ofStrict, byGuest string
	}{
		{0, "", "root unix:uid=0", "root unix:uid=0"},
		{1000, "", "shop unix:uid=1000", "shop unix:uid=1000"},
		{1000, shopToken, "shop unix:uid=1000", "shop unix:uid=1000"},
		{math.MaxUint32 - 1, "", "shop unix:uid=4294967294", "shop unix:uid=4294967294"},
		{1, "", "", "guest "},
		{1, shopToken, "shop sha256:" + digestOf(shopToken)[:12], "shop sha256:" + digestOf(shopToken)[:12]},
		{0, shopToken, "", ""},
	} {
		for a, want := range map[*caller.Authenticator]string{strict: c.ofStrict, lax: c.byGuest} {
			p := &peer.Peer{Addr: &net.UnixAddr{Net: "unix"}, AuthInfo: around{around{caller.Process{UID: c.uid}}}}
			ctx := peer.NewContext(t.Context(), p)
			if c.token != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+c.token))
			}
			ctx, err := a.Authenticate(ctx)
			found, _ := caller.FromContext(ctx)
			if want == "" {
				wantUnknown(t, err, rpc{})
			} else if got := found.Name + " " + found.Identity; err != nil || got != want {
				t.Errorf("uid %d, token %q: got %q, %v; want %q", c.uid, c.token, got, err, want)
			}
			if (found.User != fetch.User{ID: c.uid, Known: true}) {
				t.Errorf("uid %d: the user is %+v", c.uid, found.User)
			}
		}
	}
}

// TestStillByUser: a fetch goes on while its caller has the user id.
func TestStillByUser(t *testing.T) {
	a := build(t, caller.Options{Callers: []*configv1.Caller{{Name: "shop", UnixUids: []int64{1000}}, {Name: "billing", UnixUids: []int64{1001}}}})
	for identity, want := range map[string]bool{
		"unix:uid=1000": true, "unix:uid=1001": false, "unix:uid=1002": false, "unix:uid=": false, "unix:uid=1000 ": false, "unix:uid=4294968296": false,
	} {
		if still := a.Still(fetch.Caller{Name: "shop", Identity: identity}); (still != nil) != want {
			t.Errorf("%q: got %v", identity, still)
		}
	}
}
