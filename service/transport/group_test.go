package transport

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestWhatCameToNothingIsForgotten: callers choose keys, so a key for which no
// connection was ever made must not stay.
func TestWhatCameToNothingIsForgotten(t *testing.T) {
	tr := New(Options{Dialer: noDialer{}, Limits: fetch.DefaultLimits()})
	defer tr.Close(t.Context())
	for i := range 1000 {
		o := fetch.Origin{Scheme: "https", Host: fmt.Sprintf("h%d.example", i), Port: 443}
		route := fetch.Route{MaxDials: 1, Allow: func(netip.AddrPort) error { return nil }}.Sealed(o)
		_, _, err := tr.RoundTrip(t.Context(), &fetch.Request{
			Method: "GET", Scheme: o.Scheme, Host: o.Host, Port: o.Port, Target: []byte("/"), Route: route, Timeouts: fetch.DefaultLimits().Timeouts,
		})
		if err == nil {
			t.Fatal("a request went out without a connection")
		}
	}
	if n := len(tr.pool.groups); n != 0 {
		t.Errorf("the pool still knows %d keys", n)
	}
}

type noDialer struct{}

func (noDialer) Dial(context.Context, string, uint16, fetch.Route, fetch.Timeouts, int) (dial.Result, error) {
	return dial.Result{}, fetch.Fail(fetch.ReasonNameNotFound, "no such host", nil)
}
