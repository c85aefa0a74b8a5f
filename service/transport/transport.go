// Package transport owns dialing, TLS, ALPN and the pool of connections that
// every fetch shares; a protocol engine (h1, h2, …) works on one connection.
//
// Over HTTP/1.1 a hop goes out and comes back as it is, to the byte. Over HTTP/2
// the library that speaks it writes the fields of a request sorted by name, of
// several User-Agent fields only the first, and gives those of a response and
// its trailers sorted by name, those of one name in their order.
package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Dialer opens connections to upstreams; a *dial.Dialer is one.
type Dialer interface {
	Dial(ctx context.Context, host string, port uint16, route fetch.Route, timeouts fetch.Timeouts, budget int) (dial.Result, error)
}

// Options are what a Transport is built from.
type Options struct {
	// Dialer opens every connection.
	Dialer Dialer
	// Roots verify upstreams whose route names none; nil means the system's.
	Roots *x509.CertPool
	// Limits bound heads, interim responses and the pool. All of these must be
	// set, as fetch.DefaultLimits does: MaxResponseFields,
	// MaxResponseFieldBytes, MaxInterim and from MaxConnectionsPerRoute to
	// ConnectionLifetime. A MaxConnections of 0 is that of DefaultLimits.
	Limits fetch.Limits
	// Log gets what nobody is told otherwise; nil means slog.Default.
	Log *slog.Logger
}

// Transport is the fetch.Transport of a service.
type Transport struct {
	dialer Dialer
	roots  *x509.CertPool
	limits fetch.Limits
	log    *slog.Logger
	pool   *pool
	// h1 puts an engine on a connection of HTTP/1.1.
	h1 func(*conn, fetch.Limits) engine
	h2 *h2Engine
	// calls are the calls into the HTTP/2 library, those left behind included.
	calls tally
}

var _ fetch.Transport = (*Transport)(nil)

// New returns a transport. Close ends it.
func New(o Options) *Transport {
	t := &Transport{dialer: o.Dialer, roots: o.Roots, limits: o.Limits, log: o.Log, pool: newPool(o.Limits)}
	if t.log == nil {
		t.log = slog.Default()
	}
	t.h1 = func(c *conn, limits fetch.Limits) engine { return newH1(c, limits) }
	t.h2 = newH2Engine(o.Limits, &t.calls, t.log)
	return t
}

// RoundTrip carries out one hop on a connection of the pool or a new one.
//
// It sends the request a second time in one case alone: an HTTP/2 connection
// that had answered before ends as it should (GOAWAY, RFC 9113 section 6.8)
// without this request, nothing of whose body was read. The second goes to a
// connection that was opened after the first or, where no more may be open, to any.
// Everything else that an upstream did not look at, REFUSED_STREAM among it,
// is a failure whose Sent is SentNo: whether and when to try again is for who
// calls to say. A connection that is full or ended before the request left is
// passed over; of those, at most Route.MaxDials are opened, then it fails with
// TOO_MANY_DIALS.
//
// The error is a *fetch.Failure, whose Sent is the word on whether the request
// may be sent again, or what the dialer returned (a *fetch.Denied among them),
// or wraps ctx.Err() once ctx has ended. The same holds for the errors of the
// response's Body.
//
// r.Body may be closed while a Read of it waits, which must then return.
func (t *Transport) RoundTrip(ctx context.Context, r *fetch.Request) (*fetch.Response, fetch.Facts, error) {
	x := newExchange(r)
	resp, err := t.carryOut(ctx, x)
	x.returned.Store(true)
	if err != nil {
		x.upload.halt()
	}
	return resp, x.settledFacts(), err
}

func (t *Transport) carryOut(ctx context.Context, x *exchange) (*fetch.Response, error) {
	if err := checkRequest(x); err != nil {
		return nil, err
	}
	for {
		c, err := t.connection(ctx, x)
		if err != nil {
			return nil, err
		}
		x.begin(t.pool, c)
		resp, err := c.engine.roundTrip(ctx, x)
		if err == nil {
			return resp, nil
		}
		var u *unserved
		if !errors.As(err, &u) {
			x.end(fetch.ClosedError)
			return nil, err
		}
		x.last = u.failure
		if u.full {
			if u.dead {
				x.facts.Stale++
			}
			t.pool.refused(c, u)
			continue
		}
		x.end(fetch.ClosedPeer)
		if !u.graceful || x.resent || !x.upload.untouched() {
			return nil, u.failure
		}
		x.resent, x.after, x.until = true, c.born, time.Time{}
	}
}

// connection takes a connection from the pool or opens one, as the goroutine
// of the request itself.
func (t *Transport) connection(ctx context.Context, x *exchange) (*conn, error) {
	g, c, err := t.pool.take(ctx, x)
	if err != nil {
		return nil, err
	}
	reused := c != nil
	if !reused {
		if c, err = t.open(ctx, x, g); err != nil {
			t.pool.dialFailed(g)
			return nil, err
		}
		if err = t.pool.add(x, c); err != nil {
			c.cut()
			return nil, err
		}
	}
	x.facts.Reused = reused
	x.facts.Remote, x.facts.Protocol, x.facts.TLS = c.remote, c.protocol, c.tls
	return c, nil
}

// open dials, shakes hands and puts an engine on the connection.
func (t *Transport) open(ctx context.Context, x *exchange, g *group) (*conn, error) {
	r := x.req
	if x.facts.Dials >= r.Route.MaxDials {
		return nil, x.tooManyDials()
	}
	x.enter(fetch.StageResolve)
	result, err := t.dialer.Dial(ctx, r.Host, r.Port, r.Route, r.Timeouts, r.Route.MaxDials-x.facts.Dials)
	x.facts.Dials += result.Dials
	x.facts.Times.DNS += result.DNS
	x.facts.Times.Connect += result.Connect
	if err != nil {
		var f *fetch.Failure
		switch {
		case errors.As(err, &f):
			x.enter(f.Stage)
		case result.Dials > 0:
			x.enter(fetch.StageConnect)
		}
		return nil, err
	}
	x.facts.Remote = result.Remote
	c := &conn{
		sock:     newSocket(result.Conn),
		remote:   result.Remote,
		group:    g,
		dies:     time.Now().Add(jittered(t.limits.ConnectionLifetime)),
		protocol: protocolH1,
	}
	c.net = c.sock
	if r.Scheme == "https" {
		if err := t.secure(ctx, x, c); err != nil {
			c.cut()
			return nil, err
		}
	} else if r.Route.Version == fetch.HTTP2 {
		c.protocol = protocolH2
	}
	if err := t.start(ctx, x, c); err != nil {
		c.cut()
		return nil, err
	}
	return c, nil
}

// start puts the engine of c's protocol on it.
func (t *Transport) start(ctx context.Context, x *exchange, c *conn) (err error) {
	x.enter(fetch.StageSend)
	if c.protocol == protocolH2 {
		c.engine, err = t.h2.on(ctx, x, c)
		return err
	}
	c.engine = t.h1(c, t.limits)
	return nil
}

// Forget closes the idle connections whose route keep refuses, and retires
// those in use: they close when their work is done.
func (t *Transport) Forget(keep func(fetch.Route) bool) { t.pool.forget(keep) }

// Close refuses new hops with DRAINING, closes the idle connections, waits for
// those in use until ctx ends and then closes them too, and waits for what is
// left of the transport's own work. It returns ctx's error if it had to cut a
// connection off. After Close the transport holds no socket and no goroutine,
// but for a call that the HTTP/2 library never returns from; that is logged.
func (t *Transport) Close(ctx context.Context) error {
	err := t.pool.close(ctx)
	bounded, stop := context.WithTimeout(context.Background(), abandonAfter)
	defer stop()
	if t.calls.wait(bounded) != nil {
		t.log.Error("a call into the HTTP/2 library did not end with its connection")
	}
	return err
}
