package service

import (
	"context"
	"log/slog"
	"net"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/listener"
	"github.com/fetchgate/fetchgate/service/server"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// The bounds of the gRPC listener. docs/limits.md says what each is for.
const (
	maxHeaderListBytes   = 16 << 10
	maxReceivedBytes     = 4 << 20
	streamWindowBytes    = 256 << 10
	connectionWindow     = 4 << 20
	handshakeTimeout     = 5 * time.Second
	maxConnectionAge     = 30 * time.Minute
	maxConnectionGrace   = 24 * time.Hour // as long as the longest stream
	minKeepaliveInterval = 30 * time.Second
	// Goroutines that are kept for RPCs, whose stacks have grown already. When
	// all are busy, an RPC gets one of its own.
	streamWorkers = 64
)

// admit bounds the connections of l.
func (s *Service) admit(l net.Listener, o Options) *listener.Listener {
	total, perPeer := o.Config.MaxConnections()
	return listener.New(l, listener.Options{
		MaxConnections: total, MaxConnectionsPerPeer: perPeer,
		Frames: listener.FrameLimits{
			Streams: int(o.Config.MaxConcurrentStreams()), HeaderBlockBytes: 2 * maxHeaderListBytes,
			UnfinishedBytes: min(256<<20, s.limits.MaxHeldBytes/2),
		},
		OnRefused: func(limit string) {
			if s.recorder != nil {
				s.recorder.Rejected(limit, telemetry.ScopePeer)
			}
		},
		Log: o.Log,
	})
}

// credentials are those of the gRPC listener: TLS where the configuration has a
// certificate. Connections are watched either way.
func (s *Service) credentials(c *config.Loaded) (credentials.TransportCredentials, error) {
	if c.Config.GetGrpc().GetTls() == nil {
		return watched(insecure.NewCredentials(), s.listeners.grpc.Watch, s.limits.CallerStall), nil
	}
	var err error
	if s.tls, err = newListenerTLS(c, s.log); err != nil {
		return nil, err
	}
	secured := watched(credentials.NewTLS(s.tls.Config()), s.listeners.grpc.Watch, s.limits.CallerStall)
	failures := handshakes{log: s.log, count: func(why string) { s.recorder.HandshakeFailed(why) }}
	secured.failed = failures.failed
	return secured, nil
}

// newGRPC is the gRPC server; around is what goes around its unary RPCs.
func (s *Service) newGRPC(m *metrics, secured credentials.TransportCredentials, around grpc.UnaryServerInterceptor) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.Creds(secured),
		grpc.ForceServerCodecV2(server.NewCodec()),
		grpc.MaxConcurrentStreams(s.config.MaxConcurrentStreams()),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxRecvMsgSize(maxReceivedBytes),
		grpc.InitialWindowSize(streamWindowBytes),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			return s.listeners.grpc.Expect(ctx), nil
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionGrace}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minKeepaliveInterval, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(around),
		grpc.ChainStreamInterceptor(s.aroundStream(m)...),
	}
	if s.tracing != nil {
		options = append(options, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.tracing.Provider()), otelgrpc.WithPropagators(s.tracing.Propagator()))))
	}
	return grpc.NewServer(options...)
}

func noteFirstReceived(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, &expectedStream{ServerStream: stream})
}

// expectedStream is a stream whose first request has yet to come.
type expectedStream struct {
	grpc.ServerStream
	received bool
}

// RecvMsg is called by one goroutine at a time.
func (s *expectedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if !s.received && err == nil {
		s.received = true
		listener.Received(s.Context())
	}
	return err
}

// isWatch tells the RPCs that last as long as their caller likes and carry no
// fetch. A drain does not wait for them.
func isWatch(ctx context.Context, c interceptors.CallMeta) bool { return !needsCaller(ctx, c) }

func (s *Service) endWhenDraining(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.watching, cancel)()
	err := next(srv, &middleware.WrappedServerStream{ServerStream: stream, WrappedContext: ctx})
	if s.watching.Err() != nil && stream.Context().Err() == nil {
		return status.Error(codes.Unavailable, "fetchgate is draining; watch another replica")
	}
	return err
}

// needsCaller tells the RPCs that fetch from those that only ask how the server
// is.
func needsCaller(_ context.Context, c interceptors.CallMeta) bool {
	return c.Service == fetchgatev1.FetchService_ServiceDesc.ServiceName ||
		c.Service == fetchgatev1.PolicyService_ServiceDesc.ServiceName
}

func logTo(log *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, level logging.Level, message string, fields ...any) {
		log.Log(ctx, slog.Level(level), message, fields...)
	})
}

func registerHealth(s *grpc.Server, h *health.Server) { healthpb.RegisterHealthServer(s, h) }

func registerReflection(s *grpc.Server) { reflection.Register(s) }
