package server

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/fetchgate/fetchgate/service/limit"
)

// Drops gives back what gRPC drops: a message that is sent as its stream ends is
// forgotten without its memory being freed, and would count as held until the
// connection ends.
type Drops struct{}

var _ stats.Handler = Drops{}

// placeKey is where the context of an RPC keeps its place.
type placeKey struct{}

// place is that of an RPC, once it has one.
type place struct{ lease atomic.Pointer[limit.Lease] }

// TagRPC gives the RPC somewhere to keep its place.
func (Drops) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, placeKey{}, new(place))
}

// HandleRPC looks at each message after it was sent.
func (Drops) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, sent := s.(*stats.OutPayload); !sent || ctx.Err() == nil || !isOver(ctx) {
		return
	}
	if p, ok := ctx.Value(placeKey{}).(*place); ok {
		if l := p.lease.Load(); l != nil {
			l.Forfeit()
		}
	}
}

// isOver tells whether the stream of ctx, which has ended, is over for gRPC too:
// a deadline of the RPC alone leaves what was queued in the queue.
func isOver(ctx context.Context) bool {
	return errors.Is(ctx.Err(), context.Canceled) || grpc.SetTrailer(ctx, metadata.Pairs("fetchgate-over", "1")) != nil
}

// TagConn does nothing.
func (Drops) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (Drops) HandleConn(context.Context, stats.ConnStats) {}

// keepPlace has Drops find the lease of an RPC.
func keepPlace(ctx context.Context, l *limit.Lease) {
	if p, ok := ctx.Value(placeKey{}).(*place); ok {
		p.lease.Store(l)
	}
}
