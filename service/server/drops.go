package server

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// dropped gives back what an answer holds that was sent in the RPC of ctx, if
// that was over by then.
func dropped(ctx context.Context, answer any) {
	switch a := answer.(type) {
	case *fetchReply:
		a.held.forfeit(ctx)
	case *failureReply:
		a.held.forfeit(ctx)
	}
}

// forfeit gives back all that is held for the RPC of ctx, and lets nothing more
// be, if the RPC is over: gRPC forgets a message that is sent then without freeing
// it, and it would count as held until the connection ends.
func (h *held) forfeit(ctx context.Context) {
	if isOver(ctx) {
		h.lease.Forfeit()
	}
}

// isOver tells whether the RPC of ctx is over for gRPC. Its deadline alone does
// not end it: a handler that returns at that moment stops the timer that would,
// and what was sent stays queued until the caller reads it.
func isOver(ctx context.Context) bool {
	if err := ctx.Err(); err == nil || errors.Is(err, context.Canceled) {
		return err != nil
	}
	// Only a stream that is over refuses a trailer. This one has no value, and
	// does not go out.
	return grpc.SetTrailer(ctx, metadata.MD{"fetchgate-over": nil}) != nil
}
