package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// answered is the answer of Fetch as a caller gets it, and its size.
func answered(t *testing.T, s *Server, m *fetchgatev1.FetchRequest) (*fetchgatev1.FetchResponse, int) {
	t.Helper()
	answer, err := s.fetch(asked(t), m)
	if err != nil {
		t.Fatal(err)
	}
	wire := encoded(t, answer)
	got := &fetchgatev1.FetchResponse{}
	if err := proto.Unmarshal(wire, got); err != nil {
		t.Fatal(err)
	}
	return got, len(wire)
}

// callerStream is the server's end of a StreamFetch.
type callerStream struct {
	*stubStream
	ctx context.Context
	m   *fetchgatev1.StreamFetchRequest
}

func (s *callerStream) Context() context.Context     { return s.ctx }
func (s *callerStream) SetHeader(metadata.MD) error  { return nil }
func (s *callerStream) SendHeader(metadata.MD) error { return nil }
func (s *callerStream) SetTrailer(metadata.MD)       {}
func (s *callerStream) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), s.m)
	return nil
}

// streamed are the events of StreamFetch as a caller gets them.
func streamed(t *testing.T, s *Server, m *fetchgatev1.FetchRequest) ([]*fetchgatev1.StreamFetchResponse, error) {
	t.Helper()
	stream := &callerStream{stubStream: &stubStream{t: t}, ctx: asked(t), m: &fetchgatev1.StreamFetchRequest{Request: m.GetRequest(), Options: m.GetOptions()}}
	err := s.serveStreamFetch(nil, stream)
	var events []*fetchgatev1.StreamFetchResponse
	for _, e := range stream.events {
		events = append(events, e.message)
	}
	return events, err
}

func withInterim() *fetchgatev1.FetchRequest {
	m := typicalRequest()
	m.Options.Response = &fetchgatev1.ResponseOptions{Interim: proto.Bool(true)}
	return m
}

func TestFetchAnswers(t *testing.T) {
	transport := typicalTransport(100_000)
	transport.body = pattern(100_000)
	transport.interim = []fetch.Head{{Protocol: "HTTP/1.1", Status: 103}}
	transport.trailers = []fetch.Field{{Name: "Checksum", Value: []byte("1")}}
	got, _ := answered(t, serverOver(t, transport, fetch.DefaultLimits()), withInterim())
	want := &fetchgatev1.HttpResponse{
		Head:    headMessage(transport.head, "https://api.example.com/v1/things?page=2"),
		Interim: []*fetchgatev1.HttpHead{headMessage(transport.interim[0], "")}, Trailers: fieldMessages(transport.trailers), Body: transport.body,
	}
	if !proto.Equal(got.GetResponse(), want) {
		t.Errorf("the response is %.200v", got.GetResponse())
	}
	if r := got.GetReport(); r.GetBodyBytes() != 100_000 || r.GetAttemptCount() != 1 || r.GetRule() != "default" || r.GetGeneration() != 7 || r.GetAttempts() != nil {
		t.Errorf("the report is %v", r)
	}
}

func TestStreamFetchAnswers(t *testing.T) {
	transport := typicalTransport(0)
	transport.body, transport.atOnce = pattern(1<<20), 10_000
	transport.interim = []fetch.Head{{Protocol: "HTTP/1.1", Status: 103}}
	transport.trailers = []fetch.Field{{Name: "Checksum", Value: []byte("1")}}
	events, err := streamed(t, serverOver(t, transport, fetch.DefaultLimits()), withInterim())
	if err != nil || len(events) < 4 {
		t.Fatalf("%d events, error %v", len(events), err)
	}
	last := len(events) - 1
	if events[0].GetInterim().GetStatus() != 103 || events[1].GetHead().GetStatus() != 200 {
		t.Errorf("the heads are %v, %v", events[0], events[1])
	}
	var body []byte
	for _, e := range events[2:last] {
		if e.GetData().GetOffsetBytes() != int64(len(body)) {
			t.Errorf("data is at %d, after %d bytes", e.GetData().GetOffsetBytes(), len(body))
		}
		body = append(body, e.GetData().GetData()...)
	}
	if !bytes.Equal(body, transport.body) {
		t.Errorf("the body has %d bytes", len(body))
	}
	summary := events[last].GetSummary()
	if summary.GetBodyBytes() != 1<<20 || summary.Failure != nil || len(summary.GetTrailers()) != 1 ||
		summary.GetReport().GetBodyBytes() != 1<<20 || summary.GetReport().Attempts != nil {
		t.Errorf("the summary is %v", events[last])
	}
}

// TestFailuresAreAnswers: a failure of the upstream is no error of the RPC, and
// comes with the whole report and what had arrived.
func TestFailuresAreAnswers(t *testing.T) {
	before, within := typicalTransport(0), typicalTransport(0)
	before.err = fetch.Fail(fetch.ReasonHeadTimeout, "no head", nil)
	before.interim = []fetch.Head{{Status: 103}}
	within.body, within.broken = []byte("prefix"), fetch.Fail(fetch.ReasonIncompleteBody, "it broke off", nil)
	for _, c := range []struct {
		transport *instant
		want      string // of the response
		body      string
	}{
		{before, "interim", ""},
		{within, "head", "prefix"},
	} {
		s := serverOver(t, c.transport, fetch.DefaultLimits())
		got, _ := answered(t, s, withInterim())
		f := got.GetFailure()
		if f.GetReason() == 0 || f.GetRequestSent() != fetchgatev1.RequestSent_REQUEST_SENT_YES || string(f.GetResponse().GetBody()) != c.body {
			t.Errorf("the failure is %v", f)
		}
		if (f.GetResponse().GetHead() != nil) != (c.want == "head") || (len(f.GetResponse().GetInterim()) == 1) != (c.want == "interim") {
			t.Errorf("what had arrived is %v", f.GetResponse())
		}
		checkFailedReport(t, got.GetReport(), f)

		events, err := streamed(t, s, withInterim())
		if err != nil {
			t.Fatal(err)
		}
		summary := events[len(events)-1].GetSummary()
		checkFailedReport(t, summary.GetReport(), summary.GetFailure())
		if summary.GetFailure().GetResponse() != nil || summary.GetBodyBytes() != int64(len(c.body)) {
			t.Errorf("the summary is %v", summary)
		}
	}
}

func checkFailedReport(t *testing.T, r *fetchgatev1.FetchReport, f *fetchgatev1.Failure) {
	t.Helper()
	if len(r.GetAttempts()) != 1 || r.GetAttempts()[0].GetReason() != f.GetReason() || f.GetReason() == 0 || r.GetLimits() == nil {
		t.Errorf("the report of the failure %v is %v", f, r)
	}
}

// TestRefusals: what is no answer is a status, and the upstream is not asked.
func TestRefusals(t *testing.T) {
	refused := func(alter func(*fetchgatev1.FetchRequest)) *fetchgatev1.FetchRequest {
		m := typicalRequest()
		alter(m)
		return m
	}
	for name, c := range map[string]struct {
		m      *fetchgatev1.FetchRequest
		code   codes.Code
		reason string
	}{
		"nothing":     {&fetchgatev1.FetchRequest{}, codes.InvalidArgument, "FIELD_INVALID"},
		"not offered": {refused(func(m *fetchgatev1.FetchRequest) { m.Options.Hedge = &fetchgatev1.HedgePolicy{} }), codes.InvalidArgument, "NOT_OFFERED"},
		"invalid":     {refused(func(m *fetchgatev1.FetchRequest) { m.Request.Url = "x" }), codes.InvalidArgument, "INVALID_URL"},
		"denied":      {refused(func(m *fetchgatev1.FetchRequest) { m.Request.Url = "http://localhost/" }), codes.PermissionDenied, "DESTINATION_DENIED"},
	} {
		t.Run(name, func(t *testing.T) {
			transport := typicalTransport(1)
			s := serverOver(t, transport, fetch.DefaultLimits())
			_, unary := s.fetch(asked(t), c.m)
			events, stream := streamed(t, s, c.m)
			for _, err := range []error{unary, stream} {
				if got := tell(t, err); got.code != c.code || got.reason != c.reason || got.domain != "fetchgate" {
					t.Errorf("the caller is told %+v", got)
				}
			}
			if got := tell(t, unary); c.code == codes.PermissionDenied && (got.metadata["rule"] == "" || got.metadata["generation"] != "7") {
				t.Errorf("of the denial the caller is told %+v", got)
			}
			if transport.calls > 0 || len(events) > 0 {
				t.Errorf("the upstream was asked %d times, and %d events were sent", transport.calls, len(events))
			}
		})
	}
}

// TestCallersMustBeKnown: without an interceptor that found out who is calling,
// nobody fetches.
func TestCallersMustBeKnown(t *testing.T) {
	transport := typicalTransport(1)
	_, err := serverOver(t, transport, fetch.DefaultLimits()).fetch(t.Context(), typicalRequest())
	if got := tell(t, err); got.code != codes.Unauthenticated || got.reason != "CALLER_UNKNOWN" || transport.calls > 0 {
		t.Errorf("the caller is told %+v, and the upstream was asked %d times", got, transport.calls)
	}
}

// TestCallersThatLeave get the status of their own doing.
func TestCallersThatLeave(t *testing.T) {
	ctx, cancel := context.WithCancel(asked(t))
	cancel()
	transport := typicalTransport(0)
	transport.err = fetch.Fail(fetch.ReasonConnectionReset, "cut off", nil)
	_, err := serverOver(t, transport, fetch.DefaultLimits()).fetch(ctx, typicalRequest())
	if status.Code(err) != codes.Canceled {
		t.Errorf("the error is %v", err)
	}
}

// TestStreamsThatBreak end with the stream's own status, but for a fault of ours.
func TestStreamsThatBreak(t *testing.T) {
	for _, c := range []struct {
		broken error
		want   codes.Code
	}{
		{status.Error(codes.Unavailable, "transport is closing"), codes.Unavailable},
		{status.Error(codes.DeadlineExceeded, "too late"), codes.DeadlineExceeded},
		{status.Error(codes.Internal, "hunter2"), codes.Internal},
		{errors.New("hunter2"), codes.Internal},
	} {
		for sent := range 2 { // the head breaks, or what is last before the summary
			stall := make(chan error, 2)
			for range sent {
				stall <- nil
			}
			stall <- c.broken
			close(stall) // nothing else breaks
			stream := &callerStream{stubStream: &stubStream{t: t, stall: stall}, ctx: asked(t), m: &fetchgatev1.StreamFetchRequest{Request: typicalRequest().Request}}
			err := serverOver(t, typicalTransport(1), fetch.DefaultLimits()).serveStreamFetch(nil, stream)
			if status.Code(err) != c.want || strings.Contains(err.Error(), "hunter2") || len(stream.events) != sent {
				t.Errorf("after %v the error is %v, and %d messages were sent", c.broken, err, len(stream.events))
			}
		}
	}
}

// TestFaultsOfOursAreLogged: the caller gets no cause, the operator does.
func TestFaultsOfOursAreLogged(t *testing.T) {
	var log bytes.Buffer
	transport := typicalTransport(1)
	s := serverOver(t, transport, fetch.DefaultLimits())
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	for _, ordinary := range []error{fetch.Fail(fetch.ReasonConnectRefused, "nobody listens", errors.New("10.0.0.1")), nil} {
		transport.err = ordinary
		answered(t, s, typicalRequest())
	}
	if log.Len() > 0 {
		t.Errorf("what is ordinary was logged: %s", &log)
	}
	transport.err = fetch.Fail(fetch.ReasonInternalFault, "a bug", errors.New("for the operator"))
	got, _ := answered(t, s, typicalRequest())
	if !strings.Contains(log.String(), "for the operator") || strings.Contains(got.String(), "for the operator") {
		t.Errorf("the log is %q, the answer %v", &log, got)
	}
}

// headOfBytes is a head whose fields count as many bytes, in n fields.
func headOfBytes(n, bytes int) fetch.Head {
	h := fetch.Head{Protocol: "HTTP/1.1", Status: 200}
	for i := range n {
		name := fmt.Sprintf("X-%04d", i)
		h.Fields = append(h.Fields, fetch.Field{Name: name, Value: pattern(bytes/n - len(name) - len(": \r\n"))})
	}
	return h
}

// TestAnswersFitIntoOneMessage: with everything as large as the limits allow, an
// answer is less than the 4 MiB that callers' libraries take.
func TestAnswersFitIntoOneMessage(t *testing.T) {
	limits := fetch.DefaultLimits()
	for _, fields := range []int{1, 256} {
		transport := typicalTransport(int(limits.MaxResponseBodyBytes))
		transport.head = headOfBytes(fields, limits.MaxResponseFieldBytes)
		transport.trailers = transport.head.Fields
		for range limits.MaxInterim {
			transport.interim = append(transport.interim, transport.head)
		}
		m := withInterim()
		m.Options.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum()
		m.Request.Url = "http://example.com/" + strings.Repeat("a", 16<<10-19)
		s := serverOver(t, transport, limits)
		got, size := answered(t, s, m)
		if got.GetResponse() == nil || size >= 4<<20 {
			t.Errorf("with heads of %d fields the answer has %d bytes, failure %v", fields, size, got.GetFailure().GetMessage())
		}
		transport.unknown = true
		transport.body = append(transport.body, 0)
		got, size = answered(t, s, m)
		if f := got.GetFailure(); f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_RESPONSE_TOO_LARGE || size >= 4<<20 ||
			len(f.GetResponse().GetInterim()) == 0 || len(f.GetResponse().GetInterim())+int(got.GetReport().GetHistoryCut()) != 5 {
			t.Errorf("with heads of %d fields the failed answer has %d bytes, failure %v", fields, size, f.GetMessage())
		}
	}
}

// TestAnswersFitWhateverTheOperatorAllows: limits on heads can be raised so far
// that the parts no longer fit together.
func TestAnswersFitWhateverTheOperatorAllows(t *testing.T) {
	limits := fetch.DefaultLimits()
	limits.MaxResponseFieldBytes, limits.MaxResponseFields = 1<<20, 4096
	transport := typicalTransport(3 << 20)
	transport.head = headOfBytes(4096, 1<<20)
	s := serverOver(t, transport, limits)
	got, size := answered(t, s, withInterim())
	f := got.GetFailure()
	if f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_RESPONSE_TOO_LARGE || f.GetRequestSent() != fetchgatev1.RequestSent_REQUEST_SENT_YES || size >= 4<<20 {
		t.Errorf("the answer has %d bytes, failure %v", size, f.GetMessage())
	}
	if n := len(f.GetResponse().GetBody()); n < 2<<20 || f.GetResponse().GetHead().GetStatus() != 200 {
		t.Errorf("of what had arrived, %d bytes of body are left", n)
	}
	for range limits.MaxInterim {
		transport.interim = append(transport.interim, transport.head)
	}
	got, size = answered(t, s, withInterim())
	if f := got.GetFailure(); size >= 4<<20 || f.GetResponse().GetHead() == nil || f.GetResponse().GetInterim() != nil || len(f.GetResponse().GetBody()) < 2<<20 {
		t.Errorf("with interim heads the answer has %d bytes, failure %v", size, f.GetMessage())
	}
}

// unary is the server's end of a Fetch.
type unaryStream struct {
	*callerStream
	request  proto.Message
	receives error
	// sends is what becomes of an answer.
	sends func(mem.BufferSlice) error
}

func (u *unaryStream) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), u.request)
	return u.receives
}

func (u *unaryStream) SendMsg(m any) error {
	wire, err := NewCodec().Marshal(m)
	if err != nil {
		return err
	}
	return u.sends(wire)
}

// TestRegister: the two RPCs that are offered have handlers of ours, by which what
// goes around Fetch sees the method and the message; all others say that they are
// not.
func TestRegister(t *testing.T) {
	s := serverOver(t, typicalTransport(1), fetch.DefaultLimits())
	registered, seen := &registrar{}, ""
	s.Register(registered, func(ctx context.Context, m any, of *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		seen = of.FullMethod
		return next(ctx, m)
	})
	if len(registered.descs) != 2 || len(registered.descs[0].Methods) != 0 {
		t.Fatalf("%d services are registered, the first with %d methods of gRPC's own", len(registered.descs), len(registered.descs[0].Methods))
	}
	for _, of := range registered.descs[0].Streams {
		want, isFetch := codes.OK, of.StreamName == "Fetch"
		var stream grpc.ServerStream = &callerStream{stubStream: &stubStream{t: t}, ctx: asked(t), m: &fetchgatev1.StreamFetchRequest{Request: typicalRequest().Request}}
		switch {
		case isFetch && (of.ClientStreams || of.ServerStreams):
			t.Error("Fetch is not unary")
		case isFetch:
			stream = &unaryStream{callerStream: &callerStream{ctx: asked(t)}, request: typicalRequest(), sends: freed}
		case of.StreamName != "StreamFetch":
			want = codes.Unimplemented
		}
		seen = ""
		if err := of.Handler(registered.services[0], stream); status.Code(err) != want {
			t.Errorf("%s ends with %v, want %v", of.StreamName, err, want)
		}
		if isFetch != (seen == "/fetchgate.v1.FetchService/Fetch") {
			t.Errorf("around %s, %q was seen", of.StreamName, seen)
		}
	}
}

func freed(wire mem.BufferSlice) error {
	wire.Free()
	return nil
}

// TestFetchEndsAsItsStreamDoes: what goes wrong with a Fetch around its answer is
// its error, and nothing stays held.
func TestFetchEndsAsItsStreamDoes(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		around          grpc.UnaryServerInterceptor
		receives, sends error
		want            error
	}{
		"it does not":                   {},
		"a request that cannot be read": {receives: broken, want: broken},
		"an answer that cannot be sent": {sends: broken, want: broken},
		"it is refused before": {want: broken, around: func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, broken
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serverOver(t, typicalTransport(1), fetch.DefaultLimits())
			stream := &unaryStream{callerStream: &callerStream{ctx: asked(t)}, request: typicalRequest(), receives: c.receives,
				sends: func(wire mem.BufferSlice) error {
					wire.Free()
					return c.sends
				}}
			if err := s.fetchHandler(c.around)(nil, stream); !errors.Is(err, c.want) {
				t.Errorf("it ends with %v, want %v", err, c.want)
			}
			if live, held := s.admission.Load(); live != 0 || held != 0 {
				t.Errorf("%d fetches and %d bytes are still counted", live, held)
			}
		})
	}
}

// TestAnswersThatGRPCDrops: an answer that is sent as its RPC ends is held no
// more, though gRPC never frees it.
func TestAnswersThatGRPCDrops(t *testing.T) {
	for name, err := range map[string]error{"a response": nil, "a failure": fetch.Fail(fetch.ReasonConnectRefused, "nobody is there", nil)} {
		t.Run(name, func(t *testing.T) {
			upstream := typicalTransport(1)
			upstream.err = err
			s := serverOver(t, upstream, fetch.DefaultLimits())
			ctx, end := context.WithCancel(asked(t))
			defer end()
			stream := &unaryStream{callerStream: &callerStream{ctx: ctx}, request: typicalRequest(), sends: func(mem.BufferSlice) error {
				if _, held := s.admission.Load(); held == 0 {
					t.Error("nothing is held for the answer")
				}
				end()
				return nil
			}}
			if err := s.fetchHandler(nil)(nil, stream); err != nil {
				t.Error(err)
			}
			if live, held := s.admission.Load(); live != 0 || held != 0 {
				t.Errorf("%d fetches and %d bytes are still counted", live, held)
			}
		})
	}
}

type registrar struct {
	descs    []*grpc.ServiceDesc
	services []any
}

func (r *registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.descs, r.services = append(r.descs, desc), append(r.services, impl)
}
