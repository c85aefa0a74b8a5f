package server

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// notReported are the fields that no report of this version sets, and why.
var notReported = map[protoreflect.FullName]string{}

// wantAllSet walks over a message and what is in it and wants every field set,
// so that one that is new in the contract cannot be forgotten.
func wantAllSet(t *testing.T, m protoreflect.Message) {
	t.Helper()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		wellKnown := strings.HasPrefix(string(fd.FullName()), "google.protobuf.")
		switch {
		case wellKnown || fd.ContainingOneof() != nil && !fd.HasOptionalKeyword():
		case notReported[fd.FullName()] != "":
			if m.Has(fd) {
				t.Errorf("%s is set, although %s", fd.FullName(), notReported[fd.FullName()])
			}
		case !m.Has(fd):
			t.Errorf("%s is not set", fd.FullName())
		case fd.IsList() && fd.Message() != nil:
			wantAllSet(t, m.Get(fd).List().Get(0).Message())
		case fd.Message() != nil:
			wantAllSet(t, m.Get(fd).Message())
		}
	}
}

// TestReportSaysEverything holds a full report to one written by hand, so that no
// two fields are taken for each other, and that to the contract.
func TestReportSaysEverything(t *testing.T) {
	ms := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	spki := make([]byte, 32)
	spki[0] = 1
	want := &fetchgatev1.FetchReport{
		AttemptCount: 1, HopCount: 1, WireBytes: 2, BodyBytes: 3, RequestBytes: 4, Total: ms(1),
		Generation: 5, Rule: "partner", Clamped: []string{"options.timeouts.total"}, DecodedCodings: []string{"gzip", "br"}, UrlEncoded: true, HistoryCut: 6,
		RetrySuppressed: fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_BUDGET, FetchId: "0fetch", WouldDeny: true,
		Limits: &fetchgatev1.EffectiveLimits{
			Pool: ms(10), Dns: ms(11), Connect: ms(12), Tls: ms(13), ResponseHeader: ms(14), IdleRead: ms(15), Write: ms(16), Attempt: ms(17), Total: ms(18),
			MaxHeadBytes: 20, MaxHeadFields: 21, MaxBodyBytes: proto.Int64(22),
			MinThroughputBytes: 23, MinThroughputWindow: ms(24), MaxAttempts: 3, MaxRedirects: 10,
		},
		Attempts: []*fetchgatev1.Attempt{{
			Number: 30, StartTime: &timestamppb.Timestamp{Seconds: 31}, Total: ms(32), Wait: ms(33),
			Reason: fetchgatev1.FailureReason_FAILURE_REASON_HEAD_TIMEOUT, Message: "no head came",
			Hops: []*fetchgatev1.Hop{{
				Url: "https://example.com/path?[redacted]", Method: "PUT", Status: 40, Rule: "hop's",
				WouldDeny:   "no rule allows PUT https://example.com. Ask team-a.",
				Credentials: []*fetchgatev1.CredentialUse{{Name: "partner", Kind: "bearer", Applied: true}, {Kind: "api_key"}},
				Timings:     &fetchgatev1.Timings{Pool: ms(60), Dns: ms(61), Connect: ms(62), Tls: ms(63), Send: ms(64), FirstByte: ms(65), Total: ms(66)},
				Connection: &fetchgatev1.ConnectionInfo{
					RemoteAddress: "192.0.2.1:443", Protocol: "HTTP/2", Reused: true, DialCount: 50, StaleCount: 51,
					Tls: &fetchgatev1.TlsInfo{
						Version: "TLS 1.2", CipherSuite: "TLS_AES_256_GCM_SHA384", PeerSpkiSha256: spki,
						PeerNotAfterTime: &timestamppb.Timestamp{Seconds: 52}, Resumed: true,
					},
				},
			}},
		}},
	}
	got := reportMessage(fullReport(), true)
	if !proto.Equal(got, want) {
		t.Errorf("the report is\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
	wantAllSet(t, want.ProtoReflect())
}

// TestReportInShort: without being asked for, attempts and limits stay out.
func TestReportInShort(t *testing.T) {
	full, short := reportMessage(fullReport(), true), reportMessage(fullReport(), false)
	full.Attempts, full.Limits = nil, nil
	if !proto.Equal(short, full) {
		t.Errorf("the report in short is %v, want %v", short, full)
	}
}

// TestReportOfWhatDidNotHappen: what did not happen is unset, not zero.
func TestReportOfWhatDidNotHappen(t *testing.T) {
	r := &fetch.Report{
		Response: fetch.ResponsePlan{MaxBodyBytes: fetch.Unbounded},
		Attempts: []fetch.Attempt{{Number: 1, Hops: []fetch.Hop{{}}}},
	}
	got := reportMessage(r, true)
	limits, attempt := got.GetLimits(), got.GetAttempts()[0]
	hop := attempt.GetHops()[0]
	if limits.MaxBodyBytes != nil || limits.Total != nil || limits.Attempt != nil || limits.MinThroughputWindow != nil {
		t.Errorf("the limits are %v", limits)
	}
	if attempt.Wait != nil || attempt.Reason != 0 || hop.Connection != nil || !proto.Equal(hop.Timings, &fetchgatev1.Timings{}) {
		t.Errorf("the attempt is %v", attempt)
	}
	if got.Total == nil {
		t.Error("the report has no total")
	}
}

// TestReportOfAConnection: a connection is told of if there was one, opened or
// not, and its address and TLS if they are known.
func TestReportOfAConnection(t *testing.T) {
	full := fullFacts()
	for name, c := range map[string]struct {
		facts fetch.Facts
		want  *fetchgatev1.ConnectionInfo
	}{
		"none":   {fetch.Facts{Protocol: "HTTP/1.1"}, nil},
		"failed": {fetch.Facts{Dials: 2}, &fetchgatev1.ConnectionInfo{DialCount: 2}},
		"reused": {fetch.Facts{Reused: true, Protocol: "HTTP/1.1", Remote: full.Remote},
			&fetchgatev1.ConnectionInfo{Reused: true, Protocol: "HTTP/1.1", RemoteAddress: "192.0.2.1:443"}},
	} {
		if got := hopMessage(&fetch.Hop{Facts: c.facts}).GetConnection(); !proto.Equal(got, c.want) {
			t.Errorf("%s: the connection is %v, want %v", name, got, c.want)
		}
	}
}

// TestReportShowsNoQuery: a report is for logs, too, nor what is for the operator
// or for other callers.
func TestReportShowsNoQuery(t *testing.T) {
	if text := prototext.Format(reportMessage(fullReport(), true)); strings.Contains(text, "hunter2") || strings.Contains(text, "hush") {
		t.Errorf("the report shows a query, or what others may know: %s", text)
	}
}

// TestReportIsBounded: as many hops as there can be, each with as much to say as
// there can be, leave half of an answer to the response.
func TestReportIsBounded(t *testing.T) {
	long := strings.Repeat("é", 2000)
	hop := fullReport().Attempts[0].Hops[0]
	hop.Destination.Target, hop.WouldDeny = "/"+strings.Repeat("a", 16<<10), &fetch.Denied{Message: "x" + long, Hint: long}
	hop.Credentials = nil
	for range 100 {
		hop.Credentials = append(hop.Credentials, fetch.CredentialUse{Name: strings.Repeat("n", 64), Kind: "client_certificate"})
	}
	r := fullReport()
	r.Attempts[0].Hops = slices.Repeat([]fetch.Hop{hop}, 33) // 30 redirects, one 417 and one 401
	r.Attempts = slices.Repeat(r.Attempts, 10)
	got := reportMessage(r, true)
	first := got.GetAttempts()[0].GetHops()[0]
	if n := len(first.GetCredentials()); n != 16 {
		t.Errorf("a hop has %d credentials", n)
	}
	if why := first.GetWouldDeny(); len(why) > 512 || len(why) < 510 || !utf8.ValidString(why) {
		t.Errorf("a hop's denial has %d bytes: %q", len(why), why)
	}
	size := proto.Size(got)
	if t.Logf("%d bytes", size); size > maxAnswerBytes/2 {
		t.Errorf("a report has %d bytes", size)
	}
}

// TestFieldMessages: names that are not UTF-8 are escaped, values never.
func TestFieldMessages(t *testing.T) {
	got := fieldMessages([]fetch.Field{{Name: "É\xff", Value: []byte("\xff")}, {Name: "é"}, {Name: "X", Value: []byte("1")}})
	want := []*fetchgatev1.HeaderField{{Name: `\xc3\x89\xff`, Value: []byte("\xff")}, {Name: "é"}, {Name: "X", Value: []byte("1")}}
	if len(got) != len(want) {
		t.Fatalf("there are %d fields", len(got))
	}
	for i := range want {
		if !proto.Equal(got[i], want[i]) {
			t.Errorf("field %d is %v, want %v", i, got[i], want[i])
		}
	}
	if fieldMessages(nil) != nil || fieldMessages([]fetch.Field{}) != nil {
		t.Error("no fields are an empty list")
	}
}
