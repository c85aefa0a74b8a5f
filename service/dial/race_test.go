package dial_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

const ms = time.Millisecond

// The addresses of the upstream of these tests, in the order of the answer.
const a1, a2, a3, a4 = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"

// after is an address that answers like then, d later.
func after(d time.Duration, then behaviour) behaviour {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(d):
			return then(ctx)
		case <-ctx.Done():
			return hangs(ctx)
		}
	}
}

// A race is exact in virtual time: who is dialed when, and when it ends.
func TestRace(t *testing.T) {
	refuses := fails(syscall.ECONNREFUSED)
	for name, c := range map[string]struct {
		acts   map[string]behaviour
		budget int
		at     []time.Duration
		ends   time.Duration
		reason fetch.Reason // empty means a connection
	}{
		"the first connects": {nil, 4, []time.Duration{0}, 0, ""},
		"the first hangs": {
			map[string]behaviour{a1: hangs}, 4, []time.Duration{0, 250 * ms}, 250 * ms, ""},
		"the first is slow and wins": {
			map[string]behaviour{a1: after(400*ms, connects), a2: hangs}, 4, []time.Duration{0, 250 * ms}, 400 * ms, ""},
		"a failure starts the next at once": {
			map[string]behaviour{a1: refuses, a2: refuses, a3: after(100*ms, refuses)}, 4,
			[]time.Duration{0, 0, 0, 100 * ms}, 100 * ms, ""},
		"the pause counts from the last start": {
			map[string]behaviour{a1: after(100*ms, refuses), a2: hangs}, 4, []time.Duration{0, 100 * ms, 350 * ms}, 350 * ms, ""},
		"two in the air": {
			map[string]behaviour{a1: hangs, a2: hangs, a3: hangs, a4: hangs}, 4,
			[]time.Duration{0, 250 * ms, 5000 * ms, 5250 * ms}, 10250 * ms, fetch.ReasonConnectTimeout},
		"a place in the air becomes free": {
			map[string]behaviour{a1: hangs, a2: after(700*ms, refuses)}, 4,
			[]time.Duration{0, 250 * ms, 950 * ms}, 950 * ms, ""},
		"all refuse": {
			map[string]behaviour{a1: refuses, a2: refuses, a3: refuses, a4: refuses}, 4,
			make([]time.Duration, 4), 0, fetch.ReasonConnectRefused},
		"the budget is spent": {
			map[string]behaviour{a1: refuses, a2: refuses}, 2, make([]time.Duration, 2), 0, fetch.ReasonConnectRefused},
		"the budget is one": {
			map[string]behaviour{a1: hangs}, 1, []time.Duration{0}, 5000 * ms, fetch.ReasonConnectTimeout},
		"the budget is above that of the route": {
			map[string]behaviour{a1: refuses, a2: refuses, a3: refuses, a4: refuses}, 40,
			make([]time.Duration, 4), 0, fetch.ReasonConnectRefused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(c.acts)
				d := dial.New(dial.Options{Resolver: resolves(a1, a2, a3, a4, "192.0.2.5"), Connect: w.connect})
				start := time.Now()
				r, err := d.Dial(t.Context(), "race.test", 443, routeTo(nothing), timeouts, c.budget)
				took := time.Since(start)
				if c.reason != "" {
					isFailure(t, err, c.reason)
				} else if err != nil {
					t.Fatal(err)
				} else {
					_ = r.Conn.Close()
				}
				equal(t, "the time of each dial", w.at, c.at)
				if took != c.ends || r.Connect != c.ends || r.Dials != len(c.at) {
					t.Errorf("took %s with %d dials in %s, want %s with %d", took, r.Dials, r.Connect, c.ends, len(c.at))
				}
			})
		})
	}
}

func connects(context.Context) (net.Conn, error) {
	conn, _ := net.Pipe()
	return conn, nil
}

// A connection that comes after the race is won is waited for and closed.
func TestLoserIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loser, peer := net.Pipe()
		w := newWire(map[string]behaviour{a1: func(context.Context) (net.Conn, error) {
			<-time.After(300 * ms) // too far to be called off
			return loser, nil
		}})
		r, err := dial.New(dial.Options{Resolver: resolves(a1, a2), Connect: w.connect}).
			Dial(t.Context(), "race.test", 443, routeTo(nothing), timeouts, 4)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Conn.Close()
		if got := r.Remote.Addr().String(); got != a2 || r.Connect != 300*ms {
			t.Errorf("connected to %s after %s, want %s after the loser came", got, r.Connect, a2)
		}
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the loser's peer reads %v, want EOF", err)
		}
	})
}

func TestLosingConnectIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost error
		w := newWire(map[string]behaviour{a1: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			lost = ctx.Err()
			return nil, lost
		}})
		r, err := dial.New(dial.Options{Resolver: resolves(a1, a2), Connect: w.connect}).
			Dial(t.Context(), "race.test", 443, routeTo(nothing), timeouts, 4)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Conn.Close()
		if !errors.Is(lost, context.Canceled) || r.Connect != 250*ms {
			t.Errorf("the loser ended with %v after %s, want it canceled after 250ms", lost, r.Connect)
		}
	})
}

func TestContextEndsARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(map[string]behaviour{a1: hangs, a2: hangs})
		d := dial.New(dial.Options{Resolver: resolves(a1, a2), Connect: w.connect})

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r, err := d.Dial(ctx, "race.test", 443, routeTo(nothing), timeouts, 4)
		var f *fetch.Failure
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) {
			t.Errorf("error is %v, want that of the context", err)
		}
		if r.Connect != 3*time.Second || r.Dials != 2 || r.Conn != nil {
			t.Errorf("result is %+v, want 2 dials in 3s", r)
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(100*ms, cancel)
		r, err = d.Dial(ctx, "race.test", 443, routeTo(nothing), timeouts, 4)
		if !errors.Is(err, context.Canceled) || errors.As(err, &f) {
			t.Errorf("error is %v, want that of the context", err)
		}
		if r.Connect != 100*ms || r.Dials != 1 {
			t.Errorf("result is %+v, want 1 dial in 100ms", r)
		}
	})
}

// late is a context whose timer fires after its deadline, as timers may.
type late struct {
	context.Context
	deadline time.Time
}

func (l late) Deadline() (time.Time, bool) { return l.deadline, true }

// A connect that gives up by the caller's deadline before the caller's context
// has noticed it is no CONNECT_TIMEOUT.
func TestConnectEndsBeforeTheContextNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := late{t.Context(), time.Now().Add(time.Second)}
		w := newWire(map[string]behaviour{a1: after(time.Second, fails(os.ErrDeadlineExceeded))})
		_, err := dial.New(dial.Options{Resolver: resolves(a1), Connect: w.connect}).
			Dial(ctx, "race.test", 443, routeTo(nothing), timeouts, 4)
		var f *fetch.Failure
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) {
			t.Errorf("error is %v, want that of the context", err)
		}
	})
}

func TestConnectFailures(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason fetch.Reason
		blame  fetch.Blame
	}{
		{syscall.ECONNREFUSED, fetch.ReasonConnectRefused, fetch.BlameNetwork},
		{syscall.ECONNRESET, fetch.ReasonConnectRefused, fetch.BlameNetwork},
		{syscall.ETIMEDOUT, fetch.ReasonConnectTimeout, fetch.BlameNetwork},
		{os.ErrDeadlineExceeded, fetch.ReasonConnectTimeout, fetch.BlameNetwork},
		{syscall.ENETUNREACH, fetch.ReasonConnectUnreachable, fetch.BlameNetwork},
		{syscall.EHOSTUNREACH, fetch.ReasonConnectUnreachable, fetch.BlameNetwork},
		{syscall.EAFNOSUPPORT, fetch.ReasonConnectUnreachable, fetch.BlameNetwork},
		{syscall.EADDRNOTAVAIL, fetch.ReasonConnectUnreachable, fetch.BlameNetwork},
		{syscall.EPERM, fetch.ReasonConnectUnreachable, fetch.BlameNetwork},
		{syscall.EMFILE, fetch.ReasonConnectUnreachable, fetch.BlameFetchgate},
		{syscall.ENFILE, fetch.ReasonConnectUnreachable, fetch.BlameFetchgate},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			address := "2001:db8::1" // such as an upstream without an IPv4 address has
			w := newWire(map[string]behaviour{address: fails(os.NewSyscallError("connect", c.err))})
			_, err := dial.New(dial.Options{Resolver: resolves(address), Connect: w.connect}).
				Dial(t.Context(), "down.test", 443, routeTo(nothing), timeouts, 4)
			f := isFailure(t, err, c.reason)
			if f.Blame != c.blame || f.Stage != fetch.StageConnect || !errors.Is(f, c.err) {
				t.Errorf("failure is of %s at %s because of %v, want %s at CONNECT because of %v", f.Blame, f.Stage, f.Cause, c.blame, c.err)
			}
			if !strings.Contains(f.Message, "down.test:443") {
				t.Errorf("message %q does not name the upstream", f.Message)
			}
		})
	}
}

// A caller learns the failure that says most about the upstream, whatever the
// order, and no address; the operator learns all of them.
func TestFailureThatCameFurthestIsTold(t *testing.T) {
	refused, timeout, unreachable := fails(syscall.ECONNREFUSED), fails(syscall.ETIMEDOUT), fails(syscall.ENETUNREACH)
	for i, c := range []struct {
		acts   []behaviour
		reason fetch.Reason
	}{
		{[]behaviour{refused, timeout, unreachable}, fetch.ReasonConnectRefused},
		{[]behaviour{unreachable, timeout, refused}, fetch.ReasonConnectRefused},
		{[]behaviour{unreachable, timeout, unreachable}, fetch.ReasonConnectTimeout},
		{[]behaviour{unreachable, unreachable, unreachable}, fetch.ReasonConnectUnreachable},
	} {
		w := newWire(map[string]behaviour{a1: c.acts[0], a2: c.acts[1], a3: c.acts[2]})
		_, err := dial.New(dial.Options{Resolver: resolves(a1, a2, a3), Connect: w.connect}).
			Dial(t.Context(), "down.test", 443, routeTo(nothing), timeouts, 4)
		f := isFailure(t, err, c.reason)
		if got := strings.Count(fmt.Sprint(f.Cause), "dial tcp"); got != 3 {
			t.Errorf("case %d: cause tells of %d dials, want 3: %v", i, got, f.Cause)
		}
		if strings.Contains(f.Message, "192.0.2.") {
			t.Errorf("message %q tells an address", f.Message)
		}
	}
}

// A Connect that strays from the address it was given, or asks nobody, brings
// no connection.
func TestStrayingConnect(t *testing.T) {
	elsewhere := []string{"192.0.2.9:443", a1 + ":80", a1, "", "[::ffff:192.0.2.1]:443", "localhost:443"}
	for _, address := range elsewhere {
		t.Run(address, func(t *testing.T) {
			conn, peer := net.Pipe()
			connect := func(_ context.Context, _ netip.AddrPort, control dial.Control) (net.Conn, error) {
				_ = control("tcp4", address, nil)
				return conn, nil
			}
			strays(t, connect, peer)
		})
	}
	t.Run("another network", func(t *testing.T) {
		conn, peer := net.Pipe()
		strays(t, func(_ context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
			_ = control("udp4", to.String(), nil)
			return conn, nil
		}, peer)
	})
	t.Run("nobody asked", func(t *testing.T) {
		conn, peer := net.Pipe()
		strays(t, func(context.Context, netip.AddrPort, dial.Control) (net.Conn, error) { return conn, nil }, peer)
	})
}

func strays(t *testing.T, connect dial.Connect, peer net.Conn) {
	t.Helper()
	r, err := dial.New(dial.Options{Resolver: resolves(a1), Connect: connect}).
		Dial(t.Context(), "stray.test", 443, routeTo(nothing), timeouts, 4)
	isFailure(t, err, fetch.ReasonInternalFault)
	if r.Conn != nil {
		t.Error("there is a connection")
	}
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer reads %v, want EOF", err)
	}
}
