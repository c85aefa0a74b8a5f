package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Options are what a Server plans with.
type Options struct {
	Limits fetch.Limits
	// TLS are the settings of handshakes with upstreams.
	TLS fetch.TLSSettings
	// UserAgent is the default User-Agent.
	UserAgent string
	// Generation is the number of the configuration.
	Generation int64
	// Log takes the causes of faults that are fetchgate's own; nil discards them.
	Log *slog.Logger
}

// Server answers the RPCs of FetchService and PolicyService.
type Server struct {
	engine  *engine.Engine
	planner planner
	log     *slog.Logger
	// senders are the goroutines of sinks that did not wait for their caller.
	senders sync.WaitGroup
}

// New returns a server that carries out plans with e.
func New(e *engine.Engine, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{engine: e, log: o.Log, planner: planner{
		limits: o.Limits, tls: o.TLS, userAgent: o.UserAgent, generation: o.Generation,
	}}
}

// lastWord is how long a stream may take beyond its total timeout to tell its
// caller of it.
const lastWord = time.Second

// Wait waits for what RPCs that have ended left behind. It is called when all
// have.
func (s *Server) Wait() { s.senders.Wait() }

// unimplemented answers the RPCs that this server does not offer.
type unimplemented struct {
	fetchgatev1.UnimplementedFetchServiceServer
	fetchgatev1.UnimplementedPolicyServiceServer
}

// Register adds the services to r. Fetch and StreamFetch have handlers of our
// own, since their answers leave in a form that Codec encodes without a copy of
// the body.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	desc := fetchgatev1.FetchService_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		if desc.Methods[i].MethodName == "Fetch" {
			desc.Methods[i].Handler = s.serveFetch
		}
	}
	desc.Streams = slices.Clone(desc.Streams)
	for i := range desc.Streams {
		if desc.Streams[i].StreamName == "StreamFetch" {
			desc.Streams[i].Handler = s.serveStreamFetch
		}
	}
	r.RegisterService(&desc, unimplemented{})
	fetchgatev1.RegisterPolicyServiceServer(r, unimplemented{})
}

func (s *Server) serveFetch(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	m := new(fetchgatev1.FetchRequest)
	if err := decode(m); err != nil {
		return nil, err
	}
	if intercept == nil {
		return s.fetch(ctx, m)
	}
	method := &grpc.UnaryServerInfo{Server: s, FullMethod: fetchgatev1.FetchService_Fetch_FullMethodName}
	return intercept(ctx, m, method, func(ctx context.Context, m any) (any, error) {
		return s.fetch(ctx, m.(*fetchgatev1.FetchRequest))
	})
}

func (s *Server) serveStreamFetch(_ any, stream grpc.ServerStream) error {
	m := new(fetchgatev1.StreamFetchRequest)
	if err := stream.RecvMsg(m); err != nil {
		return err
	}
	return s.streamFetch(m, stream)
}

// fetch answers one Fetch.
func (s *Server) fetch(ctx context.Context, m *fetchgatev1.FetchRequest) (any, error) {
	if v := refuseNotOffered(m); len(v) > 0 {
		return nil, invalid(v)
	}
	plan, err := s.plan(ctx, shape{rpc: "Fetch"}, m.GetRequest(), m.GetOptions())
	if err != nil {
		return nil, err
	}
	sink := &wholeSink{pool: buffers, max: plan.Response.MaxBodyBytes}
	report, err := s.engine.Run(ctx, plan, sink)
	if err == nil {
		sink.response.Trailers = fieldMessages(report.Trailers)
		err = sink.oversize()
	}
	if failure := s.failed(ctx, err); failure != nil {
		return &fetchgatev1.FetchResponse{
			Report:  reportMessage(report, true),
			Outcome: &fetchgatev1.FetchResponse_Failure{Failure: failureMessage(failure, sink.partial(), plan.Generation)},
		}, nil
	}
	if err != nil {
		sink.discard()
		return nil, s.refused(ctx, err)
	}
	return &fetchReply{
		FetchResponse: &fetchgatev1.FetchResponse{
			Report:  reportMessage(report, report.Full),
			Outcome: &fetchgatev1.FetchResponse_Response{Response: &sink.response},
		},
		body: sink.take(),
	}, nil
}

// streamFetch answers one StreamFetch.
func (s *Server) streamFetch(m *fetchgatev1.StreamFetchRequest, stream grpc.ServerStream) error {
	if v := refuseNotOffered(m); len(v) > 0 {
		return invalid(v)
	}
	ctx := stream.Context()
	plan, err := s.plan(ctx, shape{rpc: "StreamFetch", stream: true}, m.GetRequest(), m.GetOptions())
	if err != nil {
		return err
	}
	sink := newStreamSink(stream, buffers)
	if total := plan.Timeouts.Total; total > 0 {
		defer sink.waitAtMost(total + lastWord)()
	}
	report, err := s.engine.Run(ctx, plan, sink)
	failure := s.failed(ctx, err)
	if err == nil || failure != nil {
		err = sink.push(summaryEvent(report, failure))
	}
	if sent := sink.close(); sent != nil {
		if errors.Is(sent, errNotRead) {
			s.senders.Go(func() { <-sink.done })
		}
		err = sent
	}
	if err != nil {
		return s.refused(ctx, err)
	}
	if failure != nil && failure.Reason == fetch.ReasonDraining {
		// So that a caller which looks at the status alone does not take the
		// body for whole.
		return &refusal{code: codes.Unavailable, reason: string(failure.Reason), message: failure.Message + "; the summary says how far it came"}
	}
	return nil
}

func (s *Server) plan(ctx context.Context, sh shape, request *fetchgatev1.HttpRequest, options *fetchgatev1.FetchOptions) (*fetch.Plan, error) {
	who, ok := caller.FromContext(ctx)
	if !ok {
		return nil, &refusal{code: codes.Unauthenticated, reason: "CALLER_UNKNOWN", message: "the caller is not known; present the identity that this server's operator configured"}
	}
	plan, err := s.planner.plan(sh, request, options)
	if err != nil {
		return nil, err
	}
	plan.Caller = who
	return plan, nil
}

// failed returns the failure of a fetch that was carried out; nil if err is not
// one.
func (s *Server) failed(ctx context.Context, err error) *fetch.Failure {
	var f *fetch.Failure
	if !errors.As(err, &f) {
		return nil
	}
	if f.Reason == fetch.ReasonInternalFault {
		s.log.ErrorContext(ctx, "a fetch failed by fetchgate's own fault", "message", f.Message, "cause", f.Cause)
	}
	return f
}

// refused turns the error of a fetch that was not carried out into a status.
func (s *Server) refused(ctx context.Context, err error) error {
	var d *fetch.Denied
	switch {
	case errors.As(err, &d):
		return denied(d, s.planner.generation)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller cancelled the fetch")
	}
	if known, ok := status.FromError(err); ok && known.Code() != codes.Internal {
		return err // the stream's own
	}
	s.log.ErrorContext(ctx, "a fetch ended in an error without a class", "err", err)
	return &refusal{code: codes.Internal, reason: string(fetch.ReasonInternalFault), message: "fetchgate failed in a way that it does not know; report it"}
}
