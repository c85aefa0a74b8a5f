// Package dial resolves a host and connects only to addresses it is allowed to.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Dialer opens connections to upstreams. It keeps nothing between two calls,
// so one serves every fetch, concurrently.
type Dialer struct {
	resolver Resolver
	connect  Connect
}

// Options are the parts of a Dialer that touch the network. The zero value is
// what a service runs with.
type Options struct {
	// Resolver looks names up; nil means Go's own resolver with the system's
	// configuration, never that of the C library, which takes 0x7f000001 and
	// its like for addresses.
	Resolver Resolver
	// Connect opens connections; nil means TCP by net.Dialer, with keepalive
	// probes every 15 s (RFC 9293 section 3.8.4).
	Connect Connect
}

// New returns a dialer.
func New(o Options) *Dialer {
	d := &Dialer{resolver: o.Resolver, connect: o.Connect}
	if d.resolver == nil {
		d.resolver = systemResolver()
	}
	if d.connect == nil {
		d.connect = connectTCP
	}
	return d
}

// Result is a connection and what it took to get it.
type Result struct {
	// Conn is nil if Dial failed; the caller of Dial closes it.
	Conn net.Conn
	// Remote is the address that Conn is connected to, not valid if Dial failed.
	Remote netip.AddrPort
	// Dials counts the connections that were begun, those lost included.
	Dials int
	// DNS is how long the look-up took, 0 for an IP literal. Connect is how
	// long it took from then to a connection or to the end of all hope.
	DNS, Connect time.Duration
}

// Dial resolves host once and connects to one of its addresses. Host is a
// canonical name or an IP literal without brackets.
//
// Each address of the answer is judged by route.Allow before the first
// connect; one denial denies the name, unless route.FilterMixed drops denied
// addresses and others remain. The addresses are then raced (RFC 8305): at most
// two connects at a time, 250 ms apart or as soon as one fails, and at most the
// lower of budget and route.MaxDials in all. Each is judged once more when its
// socket exists and has not connected yet. Allow is asked from two goroutines
// at a time. No connect outlives the call.
//
// Of timeouts it keeps DNS and, for each connect, Connect. The Result counts
// also on failure. The error is
//   - what route.Allow returned, as it is, if an address was denied;
//   - the error of ctx, wrapped, if ctx ended;
//   - else a *fetch.Failure whose Cause has the addresses and whose Message
//     has none. If several connects failed it has the reason of the one that
//     came furthest: refused, then timed out, then unreachable.
//
// A budget of 0 or less is TOO_MANY_DIALS, and nothing is looked up.
func (d *Dialer) Dial(ctx context.Context, host string, port uint16, route fetch.Route, timeouts fetch.Timeouts, budget int) (Result, error) {
	name := net.JoinHostPort(host, strconv.Itoa(int(port)))
	budget = min(budget, route.MaxDials)
	switch {
	case ctx.Err() != nil:
		return Result{}, ended("dialing", name, ctx.Err())
	case route.Allow == nil:
		return Result{}, fail(fetch.ReasonInternalFault, "nothing judges the addresses of "+name, nil)
	case budget <= 0:
		return Result{}, fail(fetch.ReasonTooManyDials, "no dial is left for a connection to "+name, nil)
	}

	var result Result
	answer, took, err := d.resolve(ctx, host, name, timeouts.DNS)
	result.DNS = took
	if err != nil {
		return result, err
	}
	candidates, err := judge(answer, port, name, route)
	if err != nil {
		return result, err
	}
	order := interleave(candidates)
	r := race{
		name:    name,
		connect: d.connect,
		allow:   route.Allow,
		timeout: timeouts.Connect,
		waiting: order[:min(budget, len(order))],
		done:    make(chan outcome),
	}
	start := time.Now()
	result.Conn, result.Remote, err = r.run(ctx)
	result.Dials, result.Connect = r.dials, time.Since(start)
	return result, err
}

// fail returns a failure from before the first byte of a request.
func fail(reason fetch.Reason, message string, cause error) *fetch.Failure {
	f := fetch.Fail(reason, message, cause)
	f.Sent = fetch.SentNo
	return f
}

// ended says that the caller's context ended. It is no Failure: why the
// context ended only its owner knows.
func ended(doing, name string, err error) error {
	return fmt.Errorf("%s %s: %w", doing, name, err)
}

// expired returns why ctx is over, or nil. A connect can give up by the
// deadline of ctx a moment before the timer of ctx itself has fired.
func expired(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}
