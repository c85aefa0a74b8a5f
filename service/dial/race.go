package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

const (
	// maxInAir is how many connects of one race run at a time.
	maxInAir = 2
	// stagger is the pause between two starts of a race (RFC 8305 section 5,
	// Connection Attempt Delay).
	stagger = 250 * time.Millisecond
)

// race connects to several addresses of one host and keeps the first connection.
type race struct {
	name    string // host:port, for messages
	connect Connect
	allow   func(netip.AddrPort) error
	timeout time.Duration // of one connect

	waiting  []netip.AddrPort
	inAir    int
	dials    int
	failures []*fetch.Failure
	// done takes the outcome of each connect; run, which starts them, receives
	// as many as it started.
	done chan outcome
}

// outcome is how one connect ended; one of conn, failure and refusal is set.
type outcome struct {
	to      netip.AddrPort
	conn    net.Conn
	failure *fetch.Failure
	// refusal is the guard's; it ends the race.
	refusal error
}

// run returns the first connection. When it returns, no connect is in the air.
func (r *race) run(caller context.Context) (net.Conn, netip.AddrPort, error) {
	ctx, cancel := context.WithCancel(caller)
	defer r.settle()
	defer cancel()
	next := time.NewTimer(stagger)
	defer next.Stop()

	r.start(ctx, next)
	for r.inAir > 0 {
		select {
		case <-next.C:
			r.start(ctx, next)
		case <-caller.Done():
			return nil, netip.AddrPort{}, ended("connecting to", r.name, caller.Err())
		case o := <-r.done:
			r.inAir--
			if o.conn != nil {
				return o.conn, o.to, nil
			}
			if o.refusal != nil {
				return nil, netip.AddrPort{}, o.refusal
			}
			if err := expired(caller); err != nil {
				return nil, netip.AddrPort{}, ended("connecting to", r.name, err)
			}
			r.failures = append(r.failures, o.failure)
			r.start(ctx, next)
		}
	}
	return nil, netip.AddrPort{}, furthest(r.failures)
}

// start begins the next connect, if one may and is left, and sets the clock for
// the one after it.
func (r *race) start(ctx context.Context, next *time.Timer) {
	if len(r.waiting) == 0 || r.inAir == maxInAir {
		return
	}
	to := r.waiting[0]
	r.waiting = r.waiting[1:]
	r.dials++
	r.inAir++
	next.Reset(stagger)
	go func() { r.done <- r.dial(ctx, to) }()
}

// settle waits for the connects that lost and closes what they still bring.
func (r *race) settle() {
	for ; r.inAir > 0; r.inAir-- {
		if o := <-r.done; o.conn != nil {
			_ = o.conn.Close()
		}
	}
}

// dial is one connect, under guard.
func (r *race) dial(ctx context.Context, to netip.AddrPort) outcome {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	g := guard{to: to, allow: r.allow}
	conn, err := r.connect(ctx, to, g.control)
	if err == nil && !g.asked {
		g.denial = fail(fetch.ReasonInternalFault, "a socket for "+r.name+" connected without being judged", nil)
	}
	switch {
	case g.denial != nil:
		if err == nil {
			_ = conn.Close()
		}
		return outcome{to: to, refusal: g.denial}
	case err != nil:
		return outcome{to: to, failure: connectFailure(r.name, err)}
	}
	return outcome{to: to, conn: conn}
}

// furthest returns the failure that says most, the earliest of equals, with
// the causes of all.
func furthest(failures []*fetch.Failure) *fetch.Failure {
	rank := []fetch.Reason{fetch.ReasonConnectUnreachable, fetch.ReasonConnectTimeout, fetch.ReasonConnectRefused}
	best := *failures[0]
	causes := []error{failures[0].Cause}
	for _, f := range failures[1:] {
		causes = append(causes, f.Cause)
		if slices.Index(rank, f.Reason) > slices.Index(rank, best.Reason) {
			best = *f
		}
	}
	best.Cause = errors.Join(causes...)
	return &best
}
