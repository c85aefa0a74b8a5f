package service

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/server"
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

func (s *Service) newGRPC(m *metrics) *grpc.Server {
	log := s.log
	who := caller.New(anonymousName(s.config))
	authenticated := selector.MatchFunc(needsCaller)
	// A line for each RPC is for debugging: what has gone wrong inside is logged
	// where it happens.
	verbose := selector.MatchFunc(func(ctx context.Context, _ interceptors.CallMeta) bool {
		return log.Enabled(ctx, slog.LevelDebug)
	})
	panicked := recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		log.ErrorContext(ctx, "panic in an RPC", "panic", p, "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "fetchgate failed in a way that it does not know; report it")
	})
	logged := []logging.Option{logging.WithLogOnEvents(logging.FinishCall), logging.WithLevels(func(codes.Code) logging.Level { return logging.LevelDebug })}
	return grpc.NewServer(
		grpc.ForceServerCodecV2(server.NewCodec()),
		grpc.MaxConcurrentStreams(s.config.MaxConcurrentStreams()),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxRecvMsgSize(maxReceivedBytes),
		grpc.InitialWindowSize(streamWindowBytes),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionGrace}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minKeepaliveInterval, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(
			m.rpcs.UnaryServerInterceptor(),
			selector.UnaryServerInterceptor(logging.UnaryServerInterceptor(logTo(log), logged...), verbose),
			recovery.UnaryServerInterceptor(panicked),
			selector.UnaryServerInterceptor(auth.UnaryServerInterceptor(who.Authenticate), authenticated),
		),
		grpc.ChainStreamInterceptor(
			m.rpcs.StreamServerInterceptor(),
			selector.StreamServerInterceptor(logging.StreamServerInterceptor(logTo(log), logged...), verbose),
			recovery.StreamServerInterceptor(panicked),
			selector.StreamServerInterceptor(s.endWhenDraining, selector.MatchFunc(isWatch)),
			selector.StreamServerInterceptor(auth.StreamServerInterceptor(who.Authenticate), authenticated),
		),
	)
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

// anonymousName is the configured name of those who prove no identity; empty
// when the configuration has none.
func anonymousName(c *config.Loaded) string {
	for _, known := range c.Config.GetCallers() {
		if known.GetDangerousAnonymous() {
			return known.GetName()
		}
	}
	return ""
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
