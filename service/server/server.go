package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
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
	// Policy answers Explain; it is the engine's.
	Policy *policy.Policy
	// Pinned returns the configuration that an RPC is answered under; what is
	// above is then not used. nil means always the one above.
	Pinned func(context.Context) *Snapshot
	// InForce returns what WaitForGeneration tells, and a channel that is closed
	// when that has changed. nil means that it never does.
	InForce func() (InForce, <-chan struct{})
	// Admission bounds the fetches at once; nil means by Limits.
	Admission *limit.Admission
	// Recorder takes the evidence of each RPC that fetches; nil means nobody
	// does.
	Recorder fetch.Recorder
	// OnRefused is told of each fetch that a limit keeps out; nil means nobody
	// counts.
	OnRefused func(*limit.Refused)
	// JudgeHost resolves hosts for Explain; nil means that it tells no addresses.
	JudgeHost JudgeHost
	// Log takes the causes of faults that are fetchgate's own; nil discards them.
	Log *slog.Logger
}

// Server answers the RPCs of FetchService and PolicyService.
type Server struct {
	engine    *engine.Engine
	userAgent string
	pinned    func(context.Context) *Snapshot
	inForce   func() (InForce, <-chan struct{})
	admission *limit.Admission
	recorder  fetch.Recorder
	onRefused func(*limit.Refused)
	judgeHost JudgeHost
	log       *slog.Logger
	draining  atomic.Bool
	drained   chan struct{} // closed when draining begins
	drain     sync.Once
	// senders are the goroutines of sinks that did not wait for their caller.
	senders sync.WaitGroup
}

// New returns a server that carries out plans with e.
func New(e *engine.Engine, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Admission == nil {
		o.Admission = limit.NewAdmission(o.Limits)
	}
	if o.Recorder == nil {
		o.Recorder = unrecorded{}
	}
	if o.OnRefused == nil {
		o.OnRefused = func(*limit.Refused) {}
	}
	s := &Server{
		onRefused: o.OnRefused, engine: e, admission: o.Admission, recorder: o.Recorder, log: o.Log,
		userAgent: o.UserAgent, pinned: o.Pinned, inForce: o.InForce, judgeHost: o.JudgeHost, drained: make(chan struct{}),
	}
	if s.pinned == nil {
		always := s.Snapshot(Settings{Limits: o.Limits, TLS: o.TLS, Generation: o.Generation, Policy: o.Policy})
		s.pinned = func(context.Context) *Snapshot { return always }
	}
	if s.inForce == nil {
		s.inForce = func() (InForce, <-chan struct{}) { return InForce{Generation: o.Generation}, nil }
	}
	return s
}

// unrecorded is a recorder that writes nothing.
type unrecorded struct{}

func (unrecorded) Begin(string) error                 { return nil }
func (unrecorded) End(context.Context, *fetch.Report) {}

// Drain has new fetches refused with UNAVAILABLE.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.drain.Do(func() { close(s.drained) })
}

// Draining tells that new fetches are refused.
func (s *Server) Draining() bool { return s.draining.Load() }

// lastWord is how long a stream may take beyond its total timeout to tell its
// caller of it.
const lastWord = time.Second

// Wait waits for what RPCs that have ended left behind. It is called when all
// have.
func (s *Server) Wait() { s.senders.Wait() }

// unimplemented answers the RPCs that this server does not offer.
type unimplemented struct {
	fetchgatev1.UnimplementedFetchServiceServer
}

// explainer answers the RPCs of PolicyService.
type explainer struct {
	fetchgatev1.UnimplementedPolicyServiceServer
	*Server
}

// Register adds the services to r. Fetch and StreamFetch have handlers of our
// own, since their answers leave in a form that Codec encodes without a copy of
// the body.
//
// Fetch is registered as gRPC itself carries out a unary RPC, as a stream of one
// message each way: only so can what is left of an answer be looked at after it
// was sent. gRPC's interceptors do not see such a stream; around is called in
// their place, nil means that none is.
func (s *Server) Register(r grpc.ServiceRegistrar, around grpc.UnaryServerInterceptor) {
	desc := fetchgatev1.FetchService_ServiceDesc
	desc.Methods = slices.DeleteFunc(slices.Clone(desc.Methods), func(m grpc.MethodDesc) bool { return m.MethodName == "Fetch" })
	desc.Streams = append(slices.Clone(desc.Streams), grpc.StreamDesc{StreamName: "Fetch", Handler: s.fetchHandler(around)})
	for i := range desc.Streams {
		if desc.Streams[i].StreamName == "StreamFetch" {
			desc.Streams[i].Handler = s.serveStreamFetch
		}
	}
	r.RegisterService(&desc, unimplemented{})
	fetchgatev1.RegisterPolicyServiceServer(r, explainer{Server: s})
}

// fetchHandler answers the Fetch of a stream of one message each way.
func (s *Server) fetchHandler(around grpc.UnaryServerInterceptor) grpc.StreamHandler {
	if around == nil {
		around = func(ctx context.Context, m any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(ctx, m)
		}
	}
	method := &grpc.UnaryServerInfo{Server: s, FullMethod: fetchgatev1.FetchService_Fetch_FullMethodName}
	fetch := func(ctx context.Context, m any) (any, error) { return s.fetch(ctx, m.(*fetchgatev1.FetchRequest)) }
	return func(_ any, stream grpc.ServerStream) error {
		sendPlain(stream.Context())
		m := new(fetchgatev1.FetchRequest)
		if err := stream.RecvMsg(m); err != nil {
			return err
		}
		answer, err := around(stream.Context(), m, method, fetch)
		if err != nil {
			return err
		}
		if err = stream.SendMsg(answer); err == nil {
			dropped(stream.Context(), answer)
		}
		return err
	}
}

// sendPlain has answers go out as they are, though the request was compressed:
// gRPC frees what it compresses at once, so that nobody would count the
// compressed form, which may be as large and waits until its caller reads it.
func sendPlain(ctx context.Context) {
	request, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ RecvCompress() string })
	if ok && (request.RecvCompress() == "" || request.RecvCompress() == encoding.Identity) {
		return // to say so too would cost each answer a field
	}
	_ = grpc.SetSendCompressor(ctx, encoding.Identity) // fails where ctx is of no RPC
}

func (s *Server) serveStreamFetch(_ any, stream grpc.ServerStream) error {
	sendPlain(stream.Context())
	m := new(fetchgatev1.StreamFetchRequest)
	if err := stream.RecvMsg(m); err != nil {
		return err
	}
	return s.streamFetch(m, stream)
}

// fetch answers one Fetch.
func (s *Server) fetch(ctx context.Context, m *fetchgatev1.FetchRequest) (answer any, err error) {
	err = s.recorded(ctx, "Fetch", func(c *call) error {
		answer, err = c.whole(m)
		return err
	})
	return answer, err
}

// streamFetch answers one StreamFetch.
func (s *Server) streamFetch(m *fetchgatev1.StreamFetchRequest, stream grpc.ServerStream) error {
	return s.recorded(stream.Context(), "StreamFetch", func(c *call) error { return c.stream(m, stream) })
}

// refused turns the error of a fetch that was not carried out into a status.
func (s *Server) refused(ctx context.Context, err error) error {
	var d *fetch.Denied
	switch {
	case errors.As(err, &d):
		return denied(d, s.pinned(ctx).planner.generation)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller cancelled the fetch")
	}
	if known, ok := status.FromError(err); ok && known.Code() != codes.Internal {
		return err // the stream's own
	}
	s.log.ErrorContext(ctx, "a fetch ended in an error without a class", "err", err)
	return errUnknownFault
}

var errUnknownFault = &refusal{
	code: codes.Internal, reason: string(fetch.ReasonInternalFault), message: "fetchgate failed in a way that it does not know; report it",
}
