package server

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"math/rand/v2"
	"regexp"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// idText is how IDs are spelled: 0-9 and a-v, so that they sort by time.
var idText = base32.HexEncoding.WithPadding(base32.NoPadding)

// newID returns the name of a fetch: milliseconds and 48 random bits. It is no
// secret.
func newID() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], uint64(time.Now().UnixMilli())<<16)
	binary.BigEndian.PutUint64(id[6:], rand.Uint64())
	text := idText.AppendEncode(make([]byte, 0, 20), id[:12])
	for i, c := range text {
		if 'A' <= c {
			text[i] = c + 'a' - 'A'
		}
	}
	return string(text)
}

// wellFormed is a traceparent of version 00 (W3C Trace Context section 3.2.2),
// namesNothing one that is invalid all the same, since an ID of it is zero.
var (
	wellFormed   = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	namesNothing = regexp.MustCompile(`-0+-`)
)

// traceparent is the trace that the RPC belongs to: that of its span where it
// has one, else what the caller said. Empty means none.
func traceparent(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String()
	}
	given := metadata.ValueFromIncomingContext(ctx, "traceparent")
	if len(given) != 1 || !wellFormed.MatchString(given[0]) || namesNothing.MatchString(given[0]) {
		return ""
	}
	return given[0]
}

// codeNames are the status codes as gRPC's specification spells them.
var codeNames = map[codes.Code]string{
	codes.OK: "OK", codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS",
	codes.PermissionDenied: "PERMISSION_DENIED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED", codes.OutOfRange: "OUT_OF_RANGE",
	codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE",
	codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
}
