package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// call is one RPC that fetches, from its admission to its record.
type call struct {
	server *Server
	ctx    context.Context
	// report is that of the engine once the fetch was carried out.
	report  *fetch.Report
	lease   *limit.Lease
	request int // bytes of the request that are held
}

// recorded carries out one RPC and records it, also if that panics: the
// interceptor above turns it into INTERNAL.
func (s *Server) recorded(ctx context.Context, rpc string, carryOut func(*call) error) (err error) {
	if err := s.recorder.Begin(rpc); err != nil {
		return &refusal{code: codes.Unavailable, reason: reasonOverloaded, message: err.Error(), retryAfter: time.Second}
	}
	c := &call{server: s, ctx: ctx, report: &fetch.Report{
		ID: newID(), RPC: rpc, Start: time.Now(), Outcome: fetch.OutcomeRejected, Generation: s.planner.generation,
	}}
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
	who, err := c.admit(m)
	if err != nil {
		return nil, err
	}
	if v := refuseNotOffered(m); len(v) > 0 {
		return nil, invalid(v)
	}
	plan, err := c.server.planner.plan(s, m.GetRequest(), m.GetOptions())
	c.report.Method, c.report.Destination, c.report.Labels = plan.Method, plan.Destination, plan.Labels
	if err != nil {
		return nil, err
	}
	plan.ID, plan.Caller, plan.Traceparent = c.report.ID, who, traceparent(c.ctx)
	c.report.Traceparent = plan.Traceparent
	return plan, nil
}

// admit finds out who is calling and takes a place among the live fetches.
func (c *call) admit(m proto.Message) (fetch.Caller, error) {
	if c.server.draining.Load() {
		return fetch.Caller{}, &refusal{code: codes.Unavailable, reason: string(fetch.ReasonDraining), message: "fetchgate is draining and did nothing; ask another replica"}
	}
	who, ok := caller.FromContext(c.ctx)
	if !ok {
		return who, unknownCaller()
	}
	c.report.Caller = who
	var refused *limit.Refused
	if c.lease, refused = c.server.admission.Admit(who.Name, who.Peer.Addr()); refused != nil {
		return who, c.server.overLimit(refused)
	}
	size := proto.Size(m)
	if refused = c.lease.Take(size); refused != nil {
		return who, c.server.overLimit(refused)
	}
	c.request = size
	return who, nil
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

// held is the memory that the RPC's answer is read into.
func (c *call) held() *held { return newHeld(buffers, c.lease) }

// whole answers a Fetch.
func (c *call) whole(m *fetchgatev1.FetchRequest) (any, error) {
	plan, err := c.plan(shape{rpc: "Fetch"}, m)
	if err != nil {
		return nil, err
	}
	sink := &wholeSink{held: c.held(), max: plan.Response.MaxBodyBytes}
	err = c.carryOut(plan, sink)
	sink.response.Cookies = cookieMessages(c.report.Cookies)
	if err == nil {
		sink.response.Trailers = fieldMessages(c.report.Trailers)
		err = sink.fit(c.report)
	}
	if failure := c.failed(err); failure != nil {
		response := sink.partial(failure, c.report)
		return &failureReply{
			FetchResponse: &fetchgatev1.FetchResponse{
				Report:  reportMessage(c.report, true),
				Outcome: &fetchgatev1.FetchResponse_Failure{Failure: failureMessage(failure, response, plan.Generation)},
			},
			sink: sink,
		}, nil
	}
	if err != nil {
		sink.discard()
		return nil, c.server.refused(c.ctx, err)
	}
	return &fetchReply{
		FetchResponse: &fetchgatev1.FetchResponse{
			Report:  reportMessage(c.report, c.report.Full),
			Outcome: &fetchgatev1.FetchResponse_Response{Response: &sink.response},
		},
		body: sink.take(),
	}, nil
}

// stream answers a StreamFetch.
func (c *call) stream(m *fetchgatev1.StreamFetchRequest, stream grpc.ServerStream) error {
	plan, err := c.plan(shape{rpc: "StreamFetch", stream: true}, m)
	if err != nil {
		return err
	}
	sink := newStreamSink(c.ctx, stream, c.held(), c.server.planner.limits.CallerStall)
	if total := plan.Timeouts.Total; total > 0 {
		defer sink.waitAtMost(total + lastWord)()
	}
	err = c.carryOut(plan, sink)
	failure := c.failed(err)
	if err == nil || failure != nil {
		err = sink.push(summaryEvent(c.report, failure))
	}
	if sent := sink.close(); sent != nil {
		if sink.givenUp() {
			c.server.senders.Go(func() { <-sink.done })
		}
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

// carryOut runs the plan.
func (c *call) carryOut(plan *fetch.Plan, sink fetch.Sink) error {
	report, err := c.server.engine.Run(c.ctx, plan, sink)
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
	if r.Total == 0 {
		r.Total = time.Since(r.Start)
	}
	code := status.Code(err)
	r.Code = codeNames[code]
	if refused, ok := errors.AsType[*refusal](err); ok {
		r.Refusal = refused.reason
	}
	if code == codes.Canceled {
		r.Outcome = fetch.OutcomeCanceled
	}
	if c.lease != nil {
		c.lease.Give(c.request)
		c.lease.Done()
	}
	c.server.recorder.End(c.ctx, r)
}

// heldTooMuch is the failure of a fetch whose answer finds no memory.
func heldTooMuch(r *limit.Refused) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonResponseTooLarge,
		fmt.Sprintf("fetchgate holds as many bytes for its callers as it may, %d; try again in a moment, or read your answers faster", r.Max), r)
	f.Blame, f.Sent, f.RetryAfter = fetch.BlameFetchgate, fetch.SentYes, r.RetryAfter
	f.LimitHit = &fetch.LimitHit{Limit: r.Limit, Max: r.Max}
	return f
}
