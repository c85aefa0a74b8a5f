package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// recorder keeps the reports of fetches. full, if set, is why it has no room for
// one more.
type recorder struct {
	reports []*fetch.Report
	full    error
}

func (r *recorder) Begin(string) error                      { return r.full }
func (r *recorder) End(_ context.Context, of *fetch.Report) { r.reports = append(r.reports, of) }

// faulty is a transport with a bug: in itself, or in the bodies of its responses
// once their bytes are read.
type faulty struct {
	*instant
	inBody bool
}

func (f *faulty) RoundTrip(ctx context.Context, r *fetch.Request) (*fetch.Response, fetch.Facts, error) {
	if !f.inBody {
		panic("a bug")
	}
	resp, facts, err := f.instant.RoundTrip(ctx, r)
	if err == nil {
		resp.Body = &faultyBody{instantBody{transport: f.instant, rest: f.body}}
	}
	return resp, facts, err
}

type faultyBody struct{ instantBody }

func (b *faultyBody) ReadChunk(get func() []byte) ([]byte, bool, error) {
	if len(b.rest) == 0 {
		panic("a bug")
	}
	return b.instantBody.ReadChunk(get)
}

// both are the RPCs that fetch, whose answers nobody looks at.
var both = map[string]func(*testing.T, *Server) error{
	"Fetch": func(t *testing.T, s *Server) error {
		_, err := s.fetch(asked(t), typicalRequest())
		return err
	},
	"StreamFetch": func(t *testing.T, s *Server) error {
		_, err := streamed(t, s, typicalRequest())
		return err
	},
}

// TestPanicsLeaveNothing: a bug below ends one RPC. Nothing is held for it any
// more, its goroutine ends, and its record says whose fault it was.
func TestPanicsLeaveNothing(t *testing.T) {
	for where, inBody := range map[string]bool{"transport": false, "body": true} {
		for rpc, call := range both {
			t.Run(rpc+"/"+where, func(t *testing.T) {
				running := goleak.IgnoreCurrent()
				upstream := &faulty{typicalTransport(300_000), inBody}
				upstream.atOnce = 5000
				s, records := serverOver(t, upstream, fetch.DefaultLimits()), &recorder{}
				s.recorder = records
				for range 3 {
					panicked(t, func() { call(t, s) })
				}
				s.Wait()
				goleak.VerifyNone(t, running)
				if live, held := s.admission.Load(); live != 0 || held != 0 {
					t.Errorf("%d fetches and %d bytes are still counted", live, held)
				}
				if len(records.reports) != 3 {
					t.Fatalf("%d fetches are recorded, want 3", len(records.reports))
				}
				for _, r := range records.reports {
					if r.Outcome != fetch.OutcomeFailure || r.Failure == nil || r.Failure.Reason != fetch.ReasonInternalFault || r.Code != "INTERNAL" ||
						r.RPC != rpc || r.Destination.Host != "api.example.com" || r.Refusal != errUnknownFault.reason {
						t.Errorf("recorded is %s %s, failure %v, code %s, refusal %s", r.RPC, r.Outcome, r.Failure, r.Code, r.Refusal)
					}
				}
			})
		}
	}
}

// panicked fails the test unless call panics.
func panicked(t *testing.T, call func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("it did not panic")
		}
	}()
	call()
}

// TestSummariesThatAreNotTaken: a stream that broke before its summary has no
// response, whatever came from the upstream.
func TestSummariesThatAreNotTaken(t *testing.T) {
	for _, code := range []error{errors.New("the connection broke"), errStalled} {
		stall := make(chan error, 3) // the head, the body, the summary
		stall <- nil
		stall <- nil
		stall <- code
		stream := &callerStream{stubStream: &stubStream{t: t, stall: stall}, ctx: asked(t), m: &fetchgatev1.StreamFetchRequest{Request: typicalRequest().Request}}
		s, records := serverOver(t, typicalTransport(1), fetch.DefaultLimits()), &recorder{}
		s.recorder = records
		if err := s.serveStreamFetch(nil, stream); err == nil || len(stream.events) != 2 {
			t.Fatalf("the error is %v after %d messages", err, len(stream.events))
		}
		if r := records.reports[0]; r.Outcome != fetch.OutcomeCanceled || r.Code == "OK" {
			t.Errorf("after %v, recorded is %s, code %s", code, r.Outcome, r.Code)
		}
	}
}

// TestFullRecordRefuses: a fetch that cannot be recorded is not carried out, and
// that is counted as a limit.
func TestFullRecordRefuses(t *testing.T) {
	for rpc, call := range both {
		upstream := typicalTransport(1)
		s, records := serverOver(t, upstream, fetch.DefaultLimits()), &recorder{full: errors.New("https://collector.internal:4317 takes no lines")}
		var counted []limit.Refused
		s.recorder, s.onRefused = records, func(r *limit.Refused) { counted = append(counted, *r) }
		if got := tell(t, call(t, s)); got.code != codes.Unavailable || got.reason != reasonOverloaded || strings.Contains(got.message, "collector") {
			t.Errorf("%s: the caller is told %+v", rpc, got)
		}
		if !slices.Equal(counted, []limit.Refused{{Limit: "audit_queue", Scope: "server"}}) || upstream.calls > 0 || len(records.reports) > 0 {
			t.Errorf("%s: counted is %+v, the upstream was asked %d times", rpc, counted, upstream.calls)
		}
	}
}

// TestExplainIsAdmitted: it has a place among the live fetches, and memory for
// its request, or is refused, as in a drain.
func TestExplainIsAdmitted(t *testing.T) {
	m := explainURL("GET", "http://example.com/"+strings.Repeat("a", 1000))
	size := int64(proto.Size(m))
	for name, c := range map[string]struct {
		change func(*fetch.Limits)
		drain  bool
		code   codes.Code
		reason string
	}{
		"room for it":    {func(l *fetch.Limits) { l.MaxHeldBytes = 2 * size }, false, codes.OK, ""},
		"no memory":      {func(l *fetch.Limits) { l.MaxHeldBytes = size - 1 }, false, codes.ResourceExhausted, reasonOverloaded},
		"no place":       {func(l *fetch.Limits) { l.MaxLiveFetches = 0 }, false, codes.ResourceExhausted, reasonOverloaded},
		"none of caller": {func(l *fetch.Limits) { l.MaxLiveFetchesPerCaller = 0 }, false, codes.ResourceExhausted, reasonCallerQuota},
		"a drain":        {func(*fetch.Limits) {}, true, codes.Unavailable, string(fetch.ReasonDraining)},
	} {
		t.Run(name, func(t *testing.T) {
			limits := fetch.DefaultLimits()
			c.change(&limits)
			s := serverOver(t, typicalTransport(1), limits)
			var counted atomic.Int64
			s.onRefused = func(*limit.Refused) { counted.Add(1) }
			if c.drain {
				s.Drain()
			}
			answer, err := explainer{Server: s}.Explain(asked(t), m)
			if c.code == codes.OK {
				if err != nil || !answer.GetAllowed() {
					t.Errorf("got %v, %v", answer, err)
				}
			} else if got := tell(t, err); got.code != c.code || got.reason != c.reason || (counted.Load() == 1) == c.drain {
				t.Errorf("the caller is told %+v, counted %d times", got, counted.Load())
			}
			if live, held := s.admission.Load(); live != 0 || held != 0 {
				t.Errorf("%d fetches and %d bytes are still counted", live, held)
			}
		})
	}
}

// TestRefusalsAreRecordedWhole: the record of a fetch that was refused has what
// was asked for and why not, also if it was refused before its plan was made.
func TestRefusalsAreRecordedWhole(t *testing.T) {
	const secret = "5f1ec0de"
	full := fetch.DefaultLimits()
	full.MaxLiveFetches = 0
	long := strings.Repeat("x", 8<<10)
	for name, c := range map[string]struct {
		limits fetch.Limits
		m      *fetchgatev1.HttpRequest
		want   string // method, URL without the query's values, word
		why    string
	}{
		"overloaded":       {full, &fetchgatev1.HttpRequest{Url: "https://api.example.com/v1?key=" + secret}, "GET https://api.example.com/v1?[redacted] OVERLOADED", "max_live_fetches"},
		"overloaded, POST": {full, &fetchgatev1.HttpRequest{Method: "POST", Url: "http://a.test:81"}, "POST http://a.test:81/ OVERLOADED", "max_live_fetches"},
		"overloaded, target": {full, &fetchgatev1.HttpRequest{Url: "http://a.test/no", RawTarget: "/yes?" + secret},
			"GET http://a.test OVERLOADED", "max_live_fetches"},
		"overloaded, no URL": {full, &fetchgatev1.HttpRequest{Url: "http://" + secret + ":" + secret + "@a.test/"}, "GET ://:0 OVERLOADED", "max_live_fetches"},
		"overloaded, long":   {full, &fetchgatev1.HttpRequest{Url: "http://a.test/" + long}, "GET http://a.test/" + long[:maxGoalBytes-len("http://a.test/")] + " OVERLOADED", "max_live_fetches"},
		"userinfo":           {fetch.DefaultLimits(), &fetchgatev1.HttpRequest{Url: "http://u:" + secret + "@a.test/"}, "GET ://:0 INVALID_URL", "request.url: "},
		"field": {fetch.DefaultLimits(), &fetchgatev1.HttpRequest{Url: "http://a.test/?" + secret, Headers: []*fetchgatev1.HeaderField{{Name: "X-A", Value: []byte(secret + "\n")}}},
			"GET http://a.test/?[redacted] FIELD_INVALID", "request.headers[0]"},
	} {
		s, records := serverOver(t, typicalTransport(1), c.limits), &recorder{}
		s.recorder = records
		if _, err := s.fetch(asked(t), &fetchgatev1.FetchRequest{Request: c.m}); err == nil || len(records.reports) != 1 {
			t.Fatalf("%s: the error is %v, %d are recorded", name, err, len(records.reports))
		}
		r := records.reports[0]
		if got := r.Method + " " + r.Destination.RedactedURL() + " " + r.Refusal; got != c.want {
			t.Errorf("%s: recorded is %s, want %s", name, got, c.want)
		}
		if !strings.Contains(r.RefusalMessage, c.why) || strings.Contains(r.RefusalMessage, secret) {
			t.Errorf("%s: the message is %q, want %q and no secret", name, r.RefusalMessage, c.why)
		}
	}
}
