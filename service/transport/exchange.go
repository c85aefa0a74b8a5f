package transport

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The values of fetch.Facts.Protocol.
const (
	protocolH1 = "HTTP/1.1"
	protocolH2 = "HTTP/2"
)

// engine speaks one protocol on one connection.
type engine interface {
	// roundTrip sends the request and returns when the head of the response is
	// there. It calls x.end when the response has ended, unless it fails. A
	// request that the upstream did not look at fails as an *unserved.
	roundTrip(ctx context.Context, x *exchange) (*fetch.Response, error)
	// shared tells that the connection carries several requests at a time, so
	// that one that failed says nothing about it.
	shared() bool
	// alive tells whether a request can go out on a connection of the pool. It
	// waits a moment at most.
	alive() bool
}

// unserved says that the request can go out again, as no part of it was
// processed.
type unserved struct {
	// full tells that nothing was sent, since the connection has no room. It
	// takes limit requests at a time, or, if it is dead, never one again.
	full, dead bool
	limit      int
	// graceful tells that the connection, which had answered before, came to
	// its end.
	graceful bool
	failure  *fetch.Failure
}

func (u *unserved) Error() string { return u.failure.Error() }
func (u *unserved) Unwrap() error { return u.failure }

// exchange is one hop on its way: the request, and what is known so far.
type exchange struct {
	req *fetch.Request
	// authority is the value of Host or :authority.
	authority string
	upload    upload

	// facts has no stage; that is in at, which timers read.
	facts fetch.Facts
	at    atomic.Value // fetch.Stage
	start time.Time
	// What the engines' own goroutines report: bytes that left, and when, in
	// nanoseconds since start, the request began to be sent, had been sent, and
	// its answer began. 0 means not yet.
	sent, begun, wrote, first atomic.Int64
	interims                  int
	// returned tells that RoundTrip did, so that nobody is to be called back.
	returned atomic.Bool

	// last is why the upstream did not serve the request on a connection that
	// it had; resent tells that the request goes out again, to a connection that
	// was opened after the one that ended, if there may be one.
	last   *fetch.Failure
	resent bool
	after  time.Time
	// until is when the patience for a connection ends.
	until time.Time
	// conn is what it is under way on, ended that it has been given back to pool.
	conn  *conn
	pool  *pool
	ended atomic.Bool
}

func newExchange(r *fetch.Request) *exchange {
	x := &exchange{req: r, start: time.Now(), authority: r.HostField}
	x.upload.open(r)
	if x.authority == "" {
		x.authority = originOf(r).Authority()
	}
	x.enter(fetch.StageWait)
	return x
}

func originOf(r *fetch.Request) fetch.Origin {
	return fetch.Origin{Scheme: r.Scheme, Host: r.Host, Port: r.Port}
}

// name is the upstream's host and port, for messages.
func (x *exchange) name() string { return originOf(x.req).HostPort() }

// enter notes the stage that x comes to.
func (x *exchange) enter(s fetch.Stage) { x.at.Store(s) }

// begin starts the exchange on a connection of a pool.
func (x *exchange) begin(p *pool, c *conn) {
	x.pool, x.conn = p, c
	x.ended.Store(false)
	x.sent.Store(0)
	x.begun.Store(x.now())
	x.wrote.Store(0)
	x.first.Store(0)
	x.enter(fetch.StageSend)
}

// end gives the connection back, once. why says for what cause it is to close;
// empty means that it may carry more. ClosedError closes no connection that other
// requests may be on.
func (x *exchange) end(why fetch.CloseCause) {
	if x.ended.CompareAndSwap(false, true) {
		x.pool.release(x.conn, x.closeCause(why))
	}
}

// closeCause is why the connection closes after x, which ended as why says.
func (x *exchange) closeCause(why fetch.CloseCause) fetch.CloseCause {
	if x.req.CloseAfter && why != fetch.ClosedError {
		return fetch.ClosedPolicy
	}
	return why
}

// heed stops the upload after an answer that has no use for the rest of it
// (RFC 9110 section 15): it is no success.
func (x *exchange) heed(status int) {
	if status >= 300 {
		x.upload.halt()
	}
}

// complete ends an exchange whose response has ended; why is as in end.
func (x *exchange) complete(why fetch.CloseCause) {
	x.upload.halt()
	x.end(why)
}

func (x *exchange) now() int64 { return max(1, int64(time.Since(x.start))) }

// wroteRequest notes that the last byte of the request has left.
func (x *exchange) wroteRequest() { x.wrote.CompareAndSwap(0, x.now()) }

// gotByte notes that the answer begins.
func (x *exchange) gotByte() { x.first.CompareAndSwap(0, x.now()) }

// stage is the last one entered.
func (x *exchange) stage() fetch.Stage {
	s := x.at.Load().(fetch.Stage)
	if s == fetch.StageSend && x.wrote.Load() > 0 {
		return fetch.StageHead
	}
	return s
}

// settledFacts returns the facts as of now, the head or the failure.
func (x *exchange) settledFacts() fetch.Facts {
	f := x.facts
	f.Stage = x.stage()
	f.Sent = x.sent.Load()
	begun, wrote, first := x.begun.Load(), x.wrote.Load(), x.first.Load()
	if wrote > 0 {
		f.Times.Send = time.Duration(max(1, wrote-begun))
	}
	if first > 0 {
		f.Times.FirstByte = time.Duration(max(1, first-max(begun, wrote)))
	}
	f.Times.Total = time.Since(x.start)
	return f
}

// fail returns a failure of the request, at the stage that it is in.
func (x *exchange) fail(reason fetch.Reason, message string, cause error) *fetch.Failure {
	f := fetch.Fail(reason, message, cause)
	f.Stage = x.stage()
	f.Sent = fetch.SentNo
	if x.sent.Load() > 0 {
		f.Sent = fetch.SentYes
	}
	return f
}

func (x *exchange) tooManyDials() *fetch.Failure {
	f := x.fail(fetch.ReasonTooManyDials, fmt.Sprintf("%s served the request on no connection, of which %d were opened for it; at last, %s",
		x.name(), x.facts.Dials, x.last.Message), x.last)
	f.Stage, f.Sent = fetch.StageConnect, x.last.Sent
	return f
}

// givenUp returns the error of a hop whose ctx has ended.
func (x *exchange) givenUp(ctx context.Context) error {
	return fmt.Errorf("the exchange with %s was given up: %w", x.name(), ctx.Err())
}

// interim counts one more 1xx head and passes it on.
func (x *exchange) interim(h fetch.Head, limit int) *fetch.Failure {
	if x.interims++; x.interims > limit {
		f := x.fail(fetch.ReasonTooManyInterim, fmt.Sprintf("%s sent more than %d interim responses", x.name(), limit), nil)
		f.LimitHit = &fetch.LimitHit{Limit: "max_interim", Max: int64(limit)}
		return f
	}
	if x.req.Interim != nil && !x.returned.Load() {
		x.req.Interim(h)
	}
	return nil
}

func (x *exchange) writeTimeout(cause error) *fetch.Failure {
	return x.fail(fetch.ReasonWriteTimeout,
		fmt.Sprintf("%s took nothing of the request for %s", x.name(), x.req.Timeouts.Write), cause)
}

func (x *exchange) headTimeout(cause error) *fetch.Failure {
	return x.fail(fetch.ReasonHeadTimeout,
		fmt.Sprintf("%s sent no whole response head within %s", x.name(), x.req.Timeouts.Head), cause)
}

func (x *exchange) bodyTimeout(cause error) *fetch.Failure {
	f := x.fail(fetch.ReasonBodyTimeout,
		fmt.Sprintf("%s sent nothing of the body for %s", x.name(), x.req.Timeouts.Idle), cause)
	f.Stage = fetch.StageBody
	return f
}

func (x *exchange) incompleteBody(received, expected int64, cause error) *fetch.Failure {
	f := x.fail(fetch.ReasonIncompleteBody, x.name()+" ended the response before the end of the body", cause)
	f.Stage = fetch.StageBody
	f.Short = &fetch.BodyShort{Received: received, Expected: expected}
	return f
}
