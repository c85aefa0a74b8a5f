package server

import (
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// text is s if it is UTF-8, else escaped: a string that is not would fail the
// whole RPC when it is encoded.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return fetch.Escape([]byte(s), 4*len(s))
}

// reasonValue is the enum value of a reason.
func reasonValue(r fetch.Reason) fetchgatev1.FailureReason {
	return fetchgatev1.FailureReason(fetchgatev1.FailureReason_value["FAILURE_REASON_"+string(r)])
}

// failureMessage is a failure as the contract has it, with what had arrived of
// the response.
func failureMessage(f *fetch.Failure, response *fetchgatev1.HttpResponse, generation int64) *fetchgatev1.Failure {
	m := &fetchgatev1.Failure{
		Reason:      reasonValue(f.Reason),
		Blame:       fetchgatev1.Blame(fetchgatev1.Blame_value["BLAME_"+string(f.Blame)]),
		Stage:       fetchgatev1.Stage(fetchgatev1.Stage_value["STAGE_"+string(f.Stage)]),
		RequestSent: fetchgatev1.RequestSent(fetchgatev1.RequestSent_value["REQUEST_SENT_"+string(f.Sent)]),
		Message:     text(f.Message),
		Retryable:   f.Retryable(),
		Response:    response,
	}
	if f.RetryAfter > 0 {
		m.RetryAfter = durationpb.New(f.RetryAfter)
	}
	switch {
	case f.Short != nil:
		short := &fetchgatev1.BodyShort{ReceivedBytes: f.Short.Received}
		if f.Short.Expected >= 0 {
			short.ExpectedBytes = &f.Short.Expected
		}
		m.Detail = &fetchgatev1.Failure_BodyShort{BodyShort: short}
	case f.TLS != nil:
		m.Detail = &fetchgatev1.Failure_TlsFault{TlsFault: tlsFaultMessage(f.TLS)}
	case f.Denial != nil:
		m.Detail = &fetchgatev1.Failure_Denial{Denial: &fetchgatev1.Denial{Rule: f.Denial.Rule, Hint: f.Denial.Hint, Generation: generation}}
	case f.LimitHit != nil:
		m.Detail = &fetchgatev1.Failure_LimitHit{LimitHit: &fetchgatev1.LimitHit{Limit: f.LimitHit.Limit, Maximum: f.LimitHit.Max}}
	}
	return m
}

func tlsFaultMessage(t *fetch.TLSFault) *fetchgatev1.TlsFault {
	m := &fetchgatev1.TlsFault{Alert: int32(t.Alert), Subject: text(t.Subject), Issuer: text(t.Issuer)}
	for _, name := range t.Names {
		m.Names = append(m.Names, text(name))
	}
	if !t.NotBefore.IsZero() {
		m.NotBeforeTime = timestamppb.New(t.NotBefore)
	}
	if !t.NotAfter.IsZero() {
		m.NotAfterTime = timestamppb.New(t.NotAfter)
	}
	return m
}
