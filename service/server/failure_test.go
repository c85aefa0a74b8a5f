package server

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestFailureSaysEverything: each field and each detail of a failure.
func TestFailureSaysEverything(t *testing.T) {
	response := &fetchgatev1.HttpResponse{Body: []byte("prefix")}
	f := &fetch.Failure{
		Reason: fetch.ReasonBreakerOpen, Blame: fetch.BlameFetchgate, Stage: fetch.StageWait, Sent: fetch.SentUnknown,
		Message: "wait \xff", RetryAfter: 1500 * time.Millisecond, Cause: errors.New("hunter2"),
	}
	want := &fetchgatev1.Failure{
		Reason: fetchgatev1.FailureReason_FAILURE_REASON_BREAKER_OPEN, Blame: fetchgatev1.Blame_BLAME_FETCHGATE,
		Stage: fetchgatev1.Stage_STAGE_WAIT, RequestSent: fetchgatev1.RequestSent_REQUEST_SENT_UNKNOWN,
		Message: `wait \xff`, Retryable: true, RetryAfter: durationpb.New(1500 * time.Millisecond), Response: response,
	}
	if got := failureMessage(f, response, 7); !proto.Equal(got, want) {
		t.Errorf("the failure is %v, want %v", got, want)
	}
	fields := want.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.ContainingOneof() == nil && !want.ProtoReflect().Has(fd) {
			t.Errorf("%s is not set", fd.FullName())
		}
	}
	plain := failureMessage(&fetch.Failure{Reason: fetch.ReasonDecodeFailed}, nil, 7)
	if plain.RetryAfter != nil || plain.Response != nil || plain.Detail != nil || plain.Retryable {
		t.Errorf("the failure is %v", plain)
	}
}

// TestFailureDetails: each detail of the contract comes of a failure, but for
// those of what is not offered.
func TestFailureDetails(t *testing.T) {
	notYet := map[string]string{"proxy_answer": "no proxies"}
	details := map[string]struct {
		failure fetch.Failure
		want    *fetchgatev1.Failure
	}{
		"body_short": {fetch.Failure{Short: &fetch.BodyShort{Received: 1, Expected: 2}},
			&fetchgatev1.Failure{Detail: &fetchgatev1.Failure_BodyShort{BodyShort: &fetchgatev1.BodyShort{ReceivedBytes: 1, ExpectedBytes: proto.Int64(2)}}}},
		"tls_fault": {fetch.Failure{TLS: &fetch.TLSFault{Alert: 46, Subject: "CN=a", Issuer: "CN=b", Names: []string{"c", "\xff"},
			NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0)}},
			&fetchgatev1.Failure{Detail: &fetchgatev1.Failure_TlsFault{TlsFault: &fetchgatev1.TlsFault{Alert: 46, Subject: "CN=a", Issuer: "CN=b", Names: []string{"c", `\xff`},
				NotBeforeTime: &timestamppb.Timestamp{Seconds: 1}, NotAfterTime: &timestamppb.Timestamp{Seconds: 2}}}}},
		"denial": {fetch.Failure{Denial: &fetch.Denied{Rule: "partner", Hint: "ask", Audit: "10.0.0.1"}},
			&fetchgatev1.Failure{Detail: &fetchgatev1.Failure_Denial{Denial: &fetchgatev1.Denial{Rule: "partner", Hint: "ask", Generation: 7}}}},
		"limit_hit": {fetch.Failure{LimitHit: &fetch.LimitHit{Limit: "max_codings", Max: 3}},
			&fetchgatev1.Failure{Detail: &fetchgatev1.Failure_LimitHit{LimitHit: &fetchgatev1.LimitHit{Limit: "max_codings", Maximum: 3}}}},
	}
	oneof := (&fetchgatev1.Failure{}).ProtoReflect().Descriptor().Oneofs().ByName("detail")
	for i := range oneof.Fields().Len() {
		fd := oneof.Fields().Get(i)
		c, known := details[string(fd.Name())]
		if known == (notYet[string(fd.Name())] != "") {
			t.Errorf("the detail %s must be either tested or excused", fd.Name())
			continue
		}
		if !known {
			continue
		}
		got := failureMessage(&c.failure, nil, 7)
		if got.Detail == nil || !proto.Equal(got.ProtoReflect().Get(fd).Message().Interface(), c.want.ProtoReflect().Get(fd).Message().Interface()) {
			t.Errorf("%s: the detail is %v, want %v", fd.Name(), got.Detail, c.want.Detail)
		}
		wantAllSet(t, c.want.ProtoReflect().Get(fd).Message())
	}
	if got := failureMessage(&fetch.Failure{Short: &fetch.BodyShort{Received: 1, Expected: -1}}, nil, 7).GetBodyShort(); got.ExpectedBytes != nil {
		t.Errorf("a length that is not known is %v", got)
	}
	if got := failureMessage(&fetch.Failure{TLS: &fetch.TLSFault{}}, nil, 7).GetTlsFault(); got.NotAfterTime != nil || got.NotBeforeTime != nil {
		t.Errorf("times that are not known are %v", got)
	}
}

// TestWordsHaveValues: no reason, blame, stage or answer becomes UNSPECIFIED.
func TestWordsHaveValues(t *testing.T) {
	for _, e := range fetch.ReasonTable {
		f := fetch.Fail(e.Reason, "", nil)
		f.Sent = fetch.SentYes
		m := failureMessage(f, nil, 0)
		if m.Reason == 0 || m.Blame == 0 || (m.Stage == 0) != (e.Stage == fetch.StageUnspecified) || m.RequestSent == 0 || m.Retryable != e.Retryable {
			t.Errorf("%s becomes %v", e.Reason, m)
		}
	}
}
