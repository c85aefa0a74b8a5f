package server

import (
	"cmp"
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// call is one RPC that fetches, from its admission to its record.
type call struct {
	server  *Server
	under   *Snapshot // from its beginning to its end
	ctx     context.Context
	id, rpc string
	start   time.Time
	who     fetch.Caller
	// message is what the RPC asks for and asked its request, once it was looked at.
	message proto.Message
	asked   *fetchgatev1.HttpRequest
	// planned is the plan, also if it is of a request that cannot be carried out.
	planned *fetch.Plan
	// running tells that the engine was asked, report is its; nil until then.
	running bool
	report  *fetch.Report
	lease   *limit.Lease
	request int // bytes of the request that are held
}

// auditQueue is what the limit of the audit record's queue is counted as.
const auditQueue = "audit_queue"

// recordFull is what callers are told of a record without room. Where it goes and
// what to mend there is in the log.
const recordFull = "fetchgate did nothing: it fetches only what it can record, and its audit record is full; ask another replica, or try again later"

// recorded carries out one RPC and records it, also if that panics: the
// interceptor above turns it into INTERNAL.
func (s *Server) recorded(ctx context.Context, rpc string, carryOut func(*call) error) (err error) {
	if err := s.recorder.Begin(rpc); err != nil {
		s.onRefused(&limit.Refused{Limit: auditQueue, Scope: limit.ScopeServer})
		return &refusal{code: codes.Unavailable, reason: reasonOverloaded, message: recordFull, retryAfter: time.Second}
	}
	c := &call{server: s, under: s.pinned(ctx), ctx: ctx, id: newID(), rpc: rpc, start: time.Now()}
	err = errUnknownFault
	defer func() { c.end(err) }()
	return carryOut(c)
}

// fetchRequest is what the requests of the RPCs that fetch have in common.
type fetchRequest interface {
	proto.Message
	GetRequest() *fetchgatev1.HttpRequest
	GetOptions() *fetchgatev1.FetchOptions
}

// plan admits the RPC and makes its plan, or says why not.
func (c *call) plan(s shape, m fetchRequest) (*fetch.Plan, error) {
	c.message, c.asked = m, m.GetRequest()
	if err := c.admit(m); err != nil {
		return nil, err
	}
	if v := refuseNotOffered(m); len(v) > 0 {
		return nil, invalid(v)
	}
	s.who = c.who
	plan, err := c.under.planner.plan(s, m.GetRequest(), m.GetOptions())
	c.planned = plan
	if err != nil {
		return nil, err
	}
	plan.ID, plan.Caller, plan.Traceparent = c.id, c.who, traceparent(c.ctx)
	return plan, nil
}

// admit takes a place for the RPC, and memory for its request.
func (c *call) admit(m proto.Message) error {
	var err error
	c.who, c.lease, err = c.server.admit(c.ctx, rightTo[c.rpc])
	if err != nil {
		return err
	}
	size := proto.Size(m)
	if refused := c.lease.Take(size); refused != nil {
		if c.ctx.Err() != nil {
			return c.server.refused(c.ctx, c.ctx.Err()) // its connection has gone
		}
		return c.server.overLimit(refused)
	}
	c.request = size
	return nil
}

// rightTo is what a caller needs for an RPC that fetches.
var rightTo = map[string]fetch.Rights{"Fetch": fetch.RightFetch, "StreamFetch": fetch.RightStream}

// admit finds out who is calling, who needs one of these rights, and takes a
// place among the live fetches.
func (s *Server) admit(ctx context.Context, anyOf fetch.Rights) (who fetch.Caller, l *limit.Lease, err error) {
	if s.draining.Load() {
		return who, nil, &refusal{code: codes.Unavailable, reason: string(fetch.ReasonDraining), message: "fetchgate is draining and did nothing; ask another replica"}
	}
	if who, err = callerWith(ctx, anyOf); err != nil {
		return who, nil, err
	}
	l, refused := s.admission.Admit(who.Name, peerOf(who), connectionOf(ctx))
	if refused != nil {
		return who, nil, s.overLimit(refused)
	}
	return who, l, nil
}

// peerOf is what limits of a peer count the fetches of a caller by.
func peerOf(who fetch.Caller) limit.Peer {
	if who.User.Known {
		return limit.OfUser(who.User.ID)
	}
	return limit.AtAddress(who.Peer.Addr())
}

// connectionOf is the connection of an RPC, where its listener keeps count.
func connectionOf(ctx context.Context) *limit.Connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	if c, ok := p.AuthInfo.(interface{ Connection() *limit.Connection }); ok {
		return c.Connection()
	}
	return nil
}

// overLimit refuses an RPC for a limit of the server.
func (s *Server) overLimit(r *limit.Refused) *refusal {
	s.onRefused(r)
	reason := reasonOverloaded
	if r.Scope != "server" {
		reason = reasonCallerQuota
	}
	return &refusal{code: codes.ResourceExhausted, reason: reason, message: r.Error(), retryAfter: r.RetryAfter}
}

// whole answers a Fetch.
func (c *call) whole(m *fetchgatev1.FetchRequest) (answer any, err error) {
	plan, err := c.plan(shape{rpc: "Fetch"}, m)
	if err != nil {
		return nil, err
	}
	sink := newWholeSink(c.lease, plan.Response.MaxBodyBytes)
	defer func() {
		if answer == nil { // an RPC error, or a panic
			sink.discard()
		}
	}()
	err = c.carryOut(plan, sink)
	sink.response.Cookies = cookieMessages(c.report.Cookies)
	report := reportMessage(c.report, c.report.Full)
	if err == nil {
		sink.response.Trailers = fieldMessages(c.report.Trailers)
		err = sink.fit(report)
	}
	if failure := c.failed(err); failure != nil {
		left := report.GetHistoryCut() // those that fit left out are among them
		report = reportMessage(c.report, true)
		report.HistoryCut = left
		return sink.failed(&fetchgatev1.FetchResponse{
			Report:  report,
			Outcome: &fetchgatev1.FetchResponse_Failure{Failure: failureMessage(failure, sink.partial(failure, report), plan.Generation)},
		}), nil
	}
	if err != nil {
		return nil, c.server.refused(c.ctx, err)
	}
	return sink.whole(report), nil
}

// stream answers a StreamFetch.
func (c *call) stream(m *fetchgatev1.StreamFetchRequest, stream grpc.ServerStream) error {
	plan, err := c.plan(shape{rpc: "StreamFetch", stream: true}, m)
	if err != nil {
		return err
	}
	sink := newStreamSink(c.ctx, stream, newHeld(buffers, c.lease), c.under.planner.limits.CallerStall)
	defer c.leave(sink)
	if total := plan.Timeouts.Total; total > 0 {
		defer sink.waitAtMost(total + lastWord)()
	}
	err = c.carryOut(plan, sink)
	failure := c.failed(err)
	if err == nil || failure != nil {
		err = sink.push(summaryEvent(c.report, failure))
	}
	if sent := sink.close(); sent != nil {
		err = sent
	}
	if err != nil {
		return c.server.refused(c.ctx, err)
	}
	if failure != nil && failure.Reason == fetch.ReasonDraining {
		// So that a caller which looks at the status alone does not take the
		// body for whole.
		return &refusal{code: codes.Unavailable, reason: string(failure.Reason), message: failure.Message + "; the summary says how far it came"}
	}
	return nil
}

// leave sees to it that the sink's goroutine ends: it may still wait for a
// caller that was given up, and nobody has closed it if the fetch panicked.
func (c *call) leave(sink *streamSink) {
	if !sink.closed {
		sink.giveUp(errUnknownFault)
		_ = sink.close() // there is nobody to tell
	}
	if sink.givenUp() {
		c.server.senders.Go(func() { <-sink.done })
	}
}

// carryOut runs the plan.
func (c *call) carryOut(plan *fetch.Plan, sink fetch.Sink) error {
	c.running = true
	report, err := c.under.engine.Run(c.ctx, plan, sink)
	c.report = report
	return err
}

// failed returns the failure of a fetch that was carried out; nil if err is not
// one.
func (c *call) failed(err error) *fetch.Failure {
	f, failed := errors.AsType[*fetch.Failure](err)
	if !failed {
		return nil
	}
	if f.Reason == fetch.ReasonInternalFault {
		c.server.log.ErrorContext(c.ctx, "a fetch failed by fetchgate's own fault", "message", f.Message, "cause", f.Cause)
	}
	c.report.Outcome, c.report.Failure = fetch.OutcomeFailure, f
	return f
}

// end records the RPC, which answers with err.
func (c *call) end(err error) {
	r := c.report
	if r == nil {
		r = c.rejected()
	}
	code := status.Code(err)
	r.Code = codeNames[code]
	if refused, ok := errors.AsType[*refusal](err); ok {
		r.Refusal, r.RefusalMessage = refused.reason, refused.message
	}
	if code == codes.Canceled || code != codes.OK && r.Outcome == fetch.OutcomeResponse {
		r.Outcome = fetch.OutcomeCanceled // its caller did not take it
	}
	// The fetch keeps its place and its memory while it waits for room for its
	// record, so that callers feel that there is none.
	if c.lease != nil {
		defer c.lease.Done()
		defer c.lease.Give(c.request)
	} else {
		c.forget()
	}
	c.tellEchoes(r)
	c.server.recorder.End(c.ctx, r)
}

// forget lets go of the request, which may be large and counts against nobody: the
// record may wait for room, and what is around the RPC holds the message as long.
func (c *call) forget() {
	c.planned, c.asked = nil, nil
	if c.message != nil {
		proto.Reset(c.message)
	}
}

// rejected is the report of a fetch that was not carried out.
func (c *call) rejected() *fetch.Report {
	r := &fetch.Report{
		ID: c.id, RPC: c.rpc, Caller: c.who, Start: c.start, Total: time.Since(c.start),
		Outcome: fetch.OutcomeRejected, Generation: c.under.planner.generation,
	}
	if c.running { // and it panicked
		r.Outcome, r.Failure = fetch.OutcomeFailure, fetch.Fail(fetch.ReasonInternalFault, errUnknownFault.message, nil)
	}
	if p := c.planned; p != nil {
		r.Method, r.Destination, r.Labels, r.Traceparent = p.Method, p.Destination, p.Labels, p.Traceparent
	} else {
		r.Method, r.Destination = goal(c.asked)
	}
	return r
}

// maxGoalBytes is how much of a URL is read that only the record is about:
// refusing must stay cheap, and the record has little more room.
const maxGoalBytes = 512

// goal is what a request without a plan asks for, as far as it can be read. A
// request target of its own is left out.
func goal(m *fetchgatev1.HttpRequest) (string, fetch.Destination) {
	url := m.GetUrl()
	d, err := fetch.ParseURL(url[:min(len(url), maxGoalBytes)])
	if err != nil || m.GetRawTarget() != "" {
		d = fetch.Destination{Origin: d.Origin}
	}
	return cmp.Or(m.GetMethod(), "GET"), d
}

// heldTooMuch is the failure of a fetch whose answer finds no memory.
func heldTooMuch(r *limit.Refused) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonResponseTooLarge, r.Error(), r)
	f.Blame, f.Sent, f.RetryAfter = fetch.BlameFetchgate, fetch.SentYes, r.RetryAfter
	f.LimitHit = &fetch.LimitHit{Limit: r.Limit, Max: r.Max}
	return f
}
