package caller

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is the reason of the ErrorInfo with which an RPC ends whose caller is
// not known.
const Reason = "CALLER_UNKNOWN"

// Unknown says why the caller of an RPC is not known, and what the caller can do
// about it. Of what the caller has shown it holds the names in a good certificate,
// which are no secret, and nothing of a token.
type Unknown struct{ message string }

func unknown(message string) *Unknown { return &Unknown{message: message} }

func (u *Unknown) Error() string { return u.message }

// GRPCStatus is UNAUTHENTICATED.
func (u *Unknown) GRPCStatus() *status.Status {
	plain := status.New(codes.Unauthenticated, u.message)
	detailed, err := plain.WithDetails(&errdetails.ErrorInfo{Domain: "fetchgate", Reason: Reason})
	if err != nil {
		return plain
	}
	return detailed
}
