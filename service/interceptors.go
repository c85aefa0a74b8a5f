package service

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service/listener"
)

// logged are the options of a line for each RPC, which is for debugging: what has
// gone wrong inside is logged where it happens.
var logged = []logging.Option{
	logging.WithLogOnEvents(logging.FinishCall),
	logging.WithLevels(func(codes.Code) logging.Level { return logging.LevelDebug }),
}

// isVerbose tells that the log takes such lines. Its level does not change.
func (s *Service) isVerbose() bool { return s.log.Enabled(context.Background(), slog.LevelDebug) }

// panicked turns a panic into INTERNAL.
func (s *Service) panicked(ctx context.Context, p any) error {
	s.log.ErrorContext(ctx, "panic in an RPC", "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "fetchgate failed in a way that it does not know; report it")
}

// aroundUnary is what goes around unary RPCs. It is one interceptor, since gRPC
// makes a function for each of a chain, for every RPC.
func (s *Service) aroundUnary(m *metrics) grpc.UnaryServerInterceptor {
	all := []grpc.UnaryServerInterceptor{m.rpcs.UnaryServerInterceptor()}
	if s.isVerbose() {
		all = append(all, logging.UnaryServerInterceptor(logTo(s.log), logged...))
	}
	all = append(all,
		recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(s.panicked)),
		selector.UnaryServerInterceptor(auth.UnaryServerInterceptor(s.authenticate), selector.MatchFunc(needsCaller)),
	)
	return received(chained(all))
}

// received notes that gRPC has the whole request.
func received(then grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, method *grpc.UnaryServerInfo, answer grpc.UnaryHandler) (any, error) {
		listener.Received(ctx)
		return then(ctx, request, method, answer)
	}
}

// chained is one interceptor of several, the first of which is the outermost.
func chained(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	last := len(all) - 1
	one := all[last]
	for _, outer := range slices.Backward(all[:last]) {
		inner := one
		one = func(ctx context.Context, request any, method *grpc.UnaryServerInfo, answer grpc.UnaryHandler) (any, error) {
			return outer(ctx, request, method, func(ctx context.Context, request any) (any, error) {
				return inner(ctx, request, method, answer)
			})
		}
	}
	return one
}

// aroundStream are what goes around streams, the first of which is the outermost.
func (s *Service) aroundStream(m *metrics) []grpc.StreamServerInterceptor {
	all := []grpc.StreamServerInterceptor{noteFirstReceived, m.rpcs.StreamServerInterceptor()}
	if s.isVerbose() {
		all = append(all, logging.StreamServerInterceptor(logTo(s.log), logged...))
	}
	return append(all,
		recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(s.panicked)),
		selector.StreamServerInterceptor(s.endWhenDraining, selector.MatchFunc(isWatch)),
		selector.StreamServerInterceptor(auth.StreamServerInterceptor(s.authenticate), selector.MatchFunc(needsCaller)),
	)
}
