package dial_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// timeouts are those of a plan that names none.
var timeouts = fetch.DefaultLimits().Timeouts

// stub is a Resolver that plays its answers in turn and then repeats the last.
type stub struct {
	answers [][]netip.Addr
	err     error

	mu    sync.Mutex
	asked []string
}

func (s *stub) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, network+" "+host)
	if s.err != nil {
		return nil, s.err
	}
	return s.answers[min(len(s.asked), len(s.answers))-1], nil
}

// resolves is a stub with one answer.
func resolves(addrs ...string) *stub { return &stub{answers: [][]netip.Addr{parse(addrs...)}} }

func parse(addrs ...string) []netip.Addr {
	parsed := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		parsed[i] = netip.MustParseAddr(a)
	}
	return parsed
}

// behaviour is what becomes of one connect.
type behaviour func(ctx context.Context) (net.Conn, error)

// wire is a Connect behind which there is no network. It asks control as
// net.Dialer does and records what it was told to dial, and when.
type wire struct {
	// acts are by address; an address without one is connected at once.
	acts map[string]behaviour

	mu     sync.Mutex
	dialed []string
	at     []time.Duration
	start  time.Time
}

func newWire(acts map[string]behaviour) *wire { return &wire{acts: acts, start: time.Now()} }

func (w *wire) connect(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, to.Addr().String())
	w.at = append(w.at, time.Since(w.start))
	w.mu.Unlock()
	network := "tcp6"
	if to.Addr().Is4() {
		network = "tcp4"
	}
	if err := control(network, to.String(), nil); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if act, ok := w.acts[to.Addr().String()]; ok {
		return act(ctx)
	}
	conn, _ := net.Pipe()
	return conn, nil
}

// hangs is an address from which nothing comes back.
func hangs(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
}

// fails is an address that answers with err.
func fails(err error) behaviour {
	return func(context.Context) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err} }
}

// routeTo allows every address that deny does not match.
func routeTo(deny func(netip.Addr) bool) fetch.Route {
	return fetch.Route{MaxDials: 4, Allow: func(to netip.AddrPort) error {
		if deny(to.Addr()) {
			return &fetch.Denied{Reason: fetch.ReasonAddressDenied, Message: "denied by the test", Audit: to.String()}
		}
		return nil
	}}
}

func nothing(netip.Addr) bool { return false }

// inside matches the addresses that a service must not reach.
func inside(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
}

// isDenied fails the test unless err is a *fetch.Denied itself, not wrapped.
func isDenied(t *testing.T, err error) *fetch.Denied {
	t.Helper()
	d, ok := err.(*fetch.Denied) // no errors.As: it is to come as it is
	if !ok {
		t.Fatalf("error is %T %v, want a *fetch.Denied", err, err)
	}
	return d
}

// isFailure fails the test unless err is a *fetch.Failure of reason that tells
// that nothing was sent.
func isFailure(t *testing.T, err error, reason fetch.Reason) *fetch.Failure {
	t.Helper()
	var f *fetch.Failure
	if !errors.As(err, &f) {
		t.Fatalf("error is %T %v, want a *fetch.Failure", err, err)
	}
	if f.Reason != reason {
		t.Fatalf("reason is %s (%s; %v), want %s", f.Reason, f.Message, f.Cause, reason)
	}
	if f.Sent != fetch.SentNo {
		t.Errorf("request sent is %q, want NO", f.Sent)
	}
	return f
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
