package dial_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Names are looked up absolute, so that the search domains of a machine never
// turn one name into another.
func TestNamesAreAbsolute(t *testing.T) {
	for host, want := range map[string]string{
		"internal":          "ip internal.",
		"example.com":       "ip example.com.",
		"example.com.":      "ip example.com.",
		"_dmarc.example":    "ip _dmarc.example.",
		"eXaMpLe.COM":       "ip eXaMpLe.COM.",
		"0x7f000001":        "ip 0x7f000001.",
		"127.1":             "ip 127.1.",
		"127.0.0.1.example": "ip 127.0.0.1.example.",
	} {
		resolver := resolves("10.0.0.1")
		_, err := dial.New(dial.Options{Resolver: resolver, Connect: newWire(nil).connect}).
			Dial(t.Context(), host, 443, routeTo(inside), timeouts, 4)
		isDenied(t, err)
		equal(t, "what was looked up", resolver.asked, []string{want})
	}
}

func TestResolveFailures(t *testing.T) {
	for name, c := range map[string]struct {
		resolver  *stub
		reason    fetch.Reason
		retryable bool
	}{
		"no such name":    {&stub{err: &net.DNSError{Err: "no such host", IsNotFound: true}}, fetch.ReasonNameNotFound, false},
		"no address":      {resolves(), fetch.ReasonNameNotFound, false},
		"server failure":  {&stub{err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}, fetch.ReasonResolverFailed, true},
		"another failure": {&stub{err: errors.New("resolv.conf is gone")}, fetch.ReasonResolverFailed, true},
		"its own timeout": {&stub{err: &net.DNSError{Err: "i/o timeout", IsTimeout: true}}, fetch.ReasonResolveTimeout, true},
		"not an address":  {&stub{answers: [][]netip.Addr{{netip.MustParseAddr("192.0.2.1"), {}}}}, fetch.ReasonResolverFailed, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(nil)
			r, err := dial.New(dial.Options{Resolver: c.resolver, Connect: w.connect}).
				Dial(t.Context(), "odd.test", 443, routeTo(nothing), timeouts, 4)
			f := isFailure(t, err, c.reason)
			if f.Retryable() != c.retryable || f.Stage != fetch.StageResolve || f.Cause == nil {
				t.Errorf("failure is %+v, want retryable %t at RESOLVE and a cause", f, c.retryable)
			}
			if !strings.Contains(f.Message, "odd.test:443") || r.Dials != 0 {
				t.Errorf("message %q after %d dials", f.Message, r.Dials)
			}
			equal(t, "what was dialed", w.dialed, nil)
		})
	}
}

// silent is a Resolver that never answers.
type silent struct{}

func (silent) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, &net.DNSError{Err: ctx.Err().Error(), IsTimeout: errors.Is(ctx.Err(), context.DeadlineExceeded)}
}

func TestSilentResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dial.New(dial.Options{Resolver: silent{}, Connect: newWire(nil).connect})
		r, err := d.Dial(t.Context(), "silent.test", 443, routeTo(nothing), timeouts, 4)
		isFailure(t, err, fetch.ReasonResolveTimeout)
		if r.DNS != 5*time.Second || r.Connect != 0 || r.Dials != 0 {
			t.Errorf("result is %+v, want a look-up of 5s and nothing else", r)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r, err = d.Dial(ctx, "silent.test", 443, routeTo(nothing), timeouts, 4)
		var f *fetch.Failure
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) || r.DNS != 3*time.Second {
			t.Errorf("error is %v after %s, want that of the context after 3s", err, r.DNS)
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(100*ms, cancel)
		r, err = d.Dial(ctx, "silent.test", 443, routeTo(nothing), timeouts, 4)
		if !errors.Is(err, context.Canceled) || errors.As(err, &f) || r.DNS != 100*ms {
			t.Errorf("error is %v after %s, want that of the context after 100ms", err, r.DNS)
		}
	})
}

// heedless is a Resolver that answers although nobody waits any more.
type heedless struct{ cancel context.CancelFunc }

func (h heedless) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	h.cancel()
	return parse(a1), nil
}

func TestNothingIsDialedAfterTheContextEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := newWire(nil)
	_, err := dial.New(dial.Options{Resolver: heedless{cancel}, Connect: w.connect}).
		Dial(ctx, "late.test", 443, routeTo(nothing), timeouts, 4)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of the context", err)
	}
	equal(t, "what was dialed", w.dialed, nil)
}

// TestLocalhostIsNotLookedUp: whatever DNS says of localhost, it is the machine
// itself (RFC 6761 section 6.3), and is judged as that.
func TestLocalhostIsNotLookedUp(t *testing.T) {
	for _, host := range []string{"localhost", "app.localhost"} {
		resolver := resolves("192.0.2.1")
		var judged []netip.Addr
		route := routeTo(func(a netip.Addr) bool { judged = append(judged, a); return true })
		_, err := dial.New(dial.Options{Resolver: resolver, Connect: newWire(nil).connect}).
			Dial(t.Context(), host, 80, route, timeouts, 4)
		isDenied(t, err)
		equal(t, "what was looked up", resolver.asked, nil)
		equal(t, "what was judged first", judged[:1], parse("127.0.0.1"))
	}
}
