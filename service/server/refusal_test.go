package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// told is what a caller reads out of a status.
type told struct {
	code       codes.Code
	message    string
	domain     string
	reason     string
	metadata   map[string]string
	violations []string // path, reason and description of each
	retryAfter time.Duration
}

func tell(t testing.TB, err error) told {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok {
		t.Fatalf("%T is no status: %v", err, err)
	}
	was := told{code: s.Code(), message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			was.domain, was.reason, was.metadata = d.GetDomain(), d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				was.violations = append(was.violations, v.GetField()+" "+v.GetReason()+" "+v.GetDescription())
			}
		case *errdetails.RetryInfo:
			was.retryAfter = d.GetRetryDelay().AsDuration()
		default:
			t.Errorf("the status has a detail %T", d)
		}
	}
	return was
}

// checkRefusal wants all that every refusal has, in a size that every caller's
// library takes.
func checkRefusal(t testing.TB, r *refusal) {
	t.Helper()
	got := tell(t, r)
	if got.domain != "fetchgate" || got.reason != r.reason || got.reason == "" || got.message == "" || got.code != r.code {
		t.Errorf("the caller is told %+v of %+v", got, r)
	}
	if (len(got.violations) > 0) != (len(r.violations) > 0) {
		t.Errorf("%d of %d violations are told", len(got.violations), len(r.violations))
	}
	if n := proto.Size(status.Convert(r).Proto()); n > 6<<10-256 {
		t.Errorf("the status has %d bytes; in base64 it is over 8 KiB", n)
	}
}

func TestInvalidNamesEachField(t *testing.T) {
	r := invalid([]violation{
		{"request.url", "INVALID_URL", "the URL has no host"},
		{"options.hedge", "NOT_OFFERED", "leave it out"},
	})
	checkRefusal(t, r)
	got := tell(t, r)
	want := []string{"request.url INVALID_URL the URL has no host", "options.hedge NOT_OFFERED leave it out"}
	if got.code != codes.InvalidArgument || got.reason != "INVALID_URL" || !slices.Equal(got.violations, want) ||
		got.message != "request.url: the URL has no host (and 1 more)" || len(got.metadata) > 0 {
		t.Errorf("the caller is told %+v", got)
	}
	if got := tell(t, invalid(r.violations[:1])).message; got != "request.url: the URL has no host" {
		t.Errorf("of one field the caller is told %q", got)
	}
}

// TestInvalidFitsIntoTrailers: however much is wrong and however long it takes
// to say, the status is small, and the first fields are in it.
func TestInvalidFitsIntoTrailers(t *testing.T) {
	for _, length := range []int{0, 100, 1000} {
		for _, n := range []int{2, 25, maxViolations} {
			var violations []violation
			for i := range n {
				violations = append(violations, violation{fmt.Sprintf("options.field[%d]", i), "NOT_OFFERED", strings.Repeat("é", length/2)})
			}
			r := invalid(violations)
			checkRefusal(t, r)
			got := tell(t, r)
			if !strings.HasPrefix(got.violations[0], "options.field[0] ") {
				t.Errorf("the first violation is %q", got.violations[0])
			}
			count := fmt.Sprintf(" (and %d more)", n-1)
			if n == maxViolations {
				count = " (and at least 99 more)"
			}
			if !strings.HasSuffix(got.message, count) {
				t.Errorf("the message %.40q… does not end with %q", got.message, count)
			}
			if n*(length+60) < maxViolationBytes && len(got.violations) != n {
				t.Errorf("%d of %d violations of %d bytes are told", len(got.violations), n, length)
			}
		}
	}
}

func TestDeniedTellsTheRule(t *testing.T) {
	r := denied(&fetch.Denied{
		Reason: fetch.ReasonAddressDenied, Rule: "partner", Message: "example.com resolves to an address that policy denies (private)",
		Hint: "Ask the owner.", Audit: "10.0.0.1 is of class private", Class: "private",
	}, 7)
	checkRefusal(t, r)
	got := tell(t, r)
	if got.code != codes.PermissionDenied || got.reason != "ADDRESS_DENIED" || got.metadata["rule"] != "partner" || got.metadata["generation"] != "7" ||
		got.message != "denied: example.com resolves to an address that policy denies (private). Ask the owner." {
		t.Errorf("the caller is told %+v", got)
	}
	if strings.Contains(fmt.Sprint(got), "10.0.0.1") {
		t.Error("the caller is told what is for the operator")
	}
	if got := tell(t, denied(&fetch.Denied{Reason: fetch.ReasonDestinationDenied, Message: "no"}, 0)); got.message != "denied: no" || len(got.metadata) > 0 {
		t.Errorf("without a hint, a rule and a generation the caller is told %+v", got)
	}
}

func TestRefusalOfEachCode(t *testing.T) {
	for _, r := range []*refusal{
		{code: codes.Unauthenticated, reason: "CALLER_UNKNOWN", message: "who?"},
		{code: codes.ResourceExhausted, reason: "CALLER_QUOTA", message: "wait", retryAfter: 1500 * time.Millisecond},
		{code: codes.Unavailable, reason: "OVERLOADED", message: "elsewhere", retryAfter: time.Nanosecond},
		{code: codes.Internal, reason: "INTERNAL_FAULT", message: "a bug"},
	} {
		checkRefusal(t, r)
		if got := tell(t, r); got.retryAfter != r.retryAfter || len(got.violations) > 0 || len(got.metadata) > 0 || r.Error() != r.message {
			t.Errorf("the caller is told %+v of %+v", got, r)
		}
		// A refusal that was wrapped on its way is still what it is.
		if got := tell(t, fmt.Errorf("wrapped: %w", r)); got.code != r.code || got.reason != r.reason {
			t.Errorf("wrapped, the caller is told %+v", got)
		}
	}
}
