package server

import (
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "fetchgate"

// Reasons of RPC errors beyond those of failures.
const (
	reasonFieldInvalid = "FIELD_INVALID"
	reasonNotOffered   = "NOT_OFFERED"
	reasonRightMissing = "RIGHT_MISSING"
	reasonCallerQuota  = "CALLER_QUOTA"
	reasonOverloaded   = "OVERLOADED"
)

// refusal is fetchgate's answer to a fetch that it does not carry out.
type refusal struct {
	code       codes.Code
	reason     string
	message    string
	violations []violation
	retryAfter time.Duration
	rule       string
	generation int64
}

// violation names a field that is wrong.
type violation struct {
	path        string
	reason      string
	description string
}

func (r *refusal) Error() string { return r.message }

// GRPCStatus is how grpc-go learns the code and the details.
func (r *refusal) GRPCStatus() *status.Status {
	why := &errdetails.ErrorInfo{Domain: errorDomain, Reason: r.reason, Metadata: map[string]string{}}
	if r.rule != "" {
		why.Metadata["rule"] = r.rule
	}
	if r.generation != 0 {
		why.Metadata["generation"] = strconv.FormatInt(r.generation, 10)
	}
	details := []protoadapt.MessageV1{why}
	if len(r.violations) > 0 {
		details = append(details, badRequest(r.violations))
	}
	if r.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.retryAfter)})
	}
	plain := status.New(r.code, r.message)
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return detailed
}

// maxViolations is how many fields of a request are found wrong before the rest
// is not looked at. Of these, as many are described as fit into
// maxViolationBytes: details travel in the trailers of the RPC, of which some
// callers' libraries take no more than 8 KiB, in base64.
const (
	maxViolations     = 100
	maxViolationBytes = 4 << 10
)

func badRequest(violations []violation) *errdetails.BadRequest {
	bad := &errdetails.BadRequest{}
	for _, v := range violations {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.path, Description: v.description, Reason: v.reason,
		})
		if n := len(bad.FieldViolations); n > 1 && proto.Size(bad) > maxViolationBytes {
			bad.FieldViolations = bad.FieldViolations[:n-1]
			break
		}
	}
	return bad
}

// invalid refuses a request for its fields. The first one gives the message
// and the reason.
func invalid(violations []violation) *refusal {
	first := violations[0]
	message := first.path + ": " + first.description
	switch n := len(violations) - 1; {
	case n >= maxViolations-1:
		message += fmt.Sprintf(" (and at least %d more)", n)
	case n > 0:
		message += fmt.Sprintf(" (and %d more)", n)
	}
	return &refusal{code: codes.InvalidArgument, reason: first.reason, message: message, violations: violations}
}

// denied refuses a fetch whose first hop policy denied.
func denied(d *fetch.Denied, generation int64) *refusal {
	message := d.Error()
	if d.Hint != "" {
		message += ". " + d.Hint
	}
	return &refusal{
		code: codes.PermissionDenied, reason: string(d.Reason), message: message,
		rule: d.Rule, generation: generation,
	}
}
