package engine_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestRun: a fetch that goes well, from the plan to the sink and the report.
func TestRun(t *testing.T) {
	s, k := ok(), &sink{}
	s.response.Fields = []fetch.Field{{Name: "X", Value: []byte("1")}}
	s.response.Trailers = func() []fetch.Field { return []fetch.Field{{Name: "Checksum", Value: []byte("2")}} }
	s.body.pieces = []string{"one", "two"}
	s.facts.Remote = netip.MustParseAddrPort("192.0.2.1:80")
	p := plan(t, "http://example.com/path?query#fragment")
	p.Clamped, p.FullReport = []string{"options.timeouts.total"}, true
	p.Timeouts, p.MinThroughput = fetch.Timeouts{Total: time.Hour, DNS: time.Second}, fetch.Throughput{Bytes: 1, Over: time.Minute}
	before := time.Now()
	report, err := over(t, s).Run(t.Context(), p, k)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"head 200 http://example.com/path?query#fragment", "data one", "data two"}; !slices.Equal(k.events, want) {
		t.Errorf("the sink was given %q, want %q", k.events, want)
	}
	if report.RPC != "Fetch" || report.Caller.Name != "shop" || report.Method != "GET" || report.Destination != p.Destination || report.Rule != "default" ||
		report.Generation != 7 || !slices.Equal(report.Clamped, p.Clamped) || report.Timeouts != p.Timeouts || report.Response != p.Response ||
		report.Throughput != p.MinThroughput || !report.Full || report.WireBytes != 6 || report.BodyBytes != 6 || report.RequestBytes != 0 ||
		len(report.Trailers) != 1 || report.Start.Before(before) || report.Total <= 0 || report.Total > time.Since(before) {
		t.Errorf("the report is %+v", report)
	}
	if len(report.Attempts) != 1 || len(report.Attempts[0].Hops) != 1 {
		t.Fatalf("the attempts are %+v", report.Attempts)
	}
	a := report.Attempts[0]
	h := a.Hops[0]
	s.facts.Times.Total = h.Facts.Times.Total
	if a.Number != 1 || a.Start.Before(report.Start) || a.Total <= 0 || a.Total > report.Total || a.Failure != nil || a.Wait != 0 {
		t.Errorf("the attempt is %+v", a)
	}
	if h.Destination != p.Destination || h.Method != "GET" || h.Rule != "default" || h.Status != 200 || h.Facts != s.facts || h.Facts.Times.Total <= 0 || h.Facts.Times.Total > a.Total {
		t.Errorf("the hop is %+v", h)
	}
}

// TestCodingsAreReported: what package body undid is in the report.
func TestCodingsAreReported(t *testing.T) {
	s := ok()
	s.response.Fields = []fetch.Field{{Name: "Content-Encoding", Value: []byte("gzip")}}
	s.body.pieces = []string{"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x05\x00\xfa\xffhello\x86\xa6\x10\x36\x05\x00\x00\x00"}
	k := &sink{}
	report, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), k)
	if err != nil || !slices.Equal(report.Codings, []string{"gzip"}) || report.WireBytes != 28 || report.BodyBytes != 5 || k.events[1] != "data hello" {
		t.Errorf("the report is %+v, error %v, the sink was given %q", report, err, k.events)
	}
}

// TestRequest: what the transport is asked is what the plan says.
func TestRequest(t *testing.T) {
	s := ok()
	p := plan(t, "https://example.com:8443/path?query#fragment")
	p.Method, p.Fields = "PURGE", []fetch.Field{{Name: "b", Value: []byte("1")}, {Name: "A"}, {Name: "b"}}
	p.Timeouts = fetch.Timeouts{DNS: 1, Connect: 2, TLS: 3, Head: 4, Idle: 5, Write: 6, Pool: 7, Total: time.Hour}
	p.Fresh, p.CloseAfter, p.Version, p.MaxDials = true, true, fetch.HTTP2, 3
	p.TLS = fetch.TLSSettings{RootsID: "roots", MinVersion: tls.VersionTLS13}
	rules := []*configv1.Rule{{Name: "all", Origins: []string{"https://example.com:8443"}}}
	if _, err := under(t, s, rules).Run(t.Context(), p, &sink{}); err != nil {
		t.Fatal(err)
	}
	r := s.requests[0]
	if r.Method != "PURGE" || r.Scheme != "https" || r.Host != "example.com" || r.Port != 8443 || string(r.Target) != "/path?query" || r.HostField != "" ||
		len(r.Fields) != 3 || r.Fields[0].Name != "b" || r.Timeouts != p.Timeouts || !r.Fresh || !r.CloseAfter || r.Interim != nil || r.Verbatim ||
		r.Framing != fetch.FramingNone || r.Body != nil {
		t.Errorf("the request is %+v", r)
	}
	if r.Route.TLS != p.TLS || r.Route.Version != fetch.HTTP2 || r.Route.MaxDials != 3 || r.Route.FilterMixed || r.Route.AddressProfile != "public" || r.Route.Partition != "" {
		t.Errorf("the route is %+v", r.Route)
	}
	if r.Route.Allow(netip.MustParseAddrPort("93.184.216.34:8443")) != nil || r.Route.Allow(netip.MustParseAddrPort("10.0.0.1:8443")) == nil {
		t.Error("the route does not judge addresses as policy does")
	}
}

// TestRequestBodies: how a body is framed, and how much of it is reported.
func TestRequestBodies(t *testing.T) {
	readAll := func(_ context.Context, r *fetch.Request) error {
		_, err := io.Copy(io.Discard, r.Body)
		return err
	}
	cut := fetch.Fail(fetch.ReasonWriteFailed, "cut off", nil)
	for name, c := range map[string]struct {
		source  source
		act     func(context.Context, *fetch.Request) error
		sent    int64 // of the facts
		framing fetch.Framing
		want    int64
		fails   fetch.Reason
	}{
		"of a length":  {source{text: "hello", length: 5}, readAll, 100, fetch.FramingLength, 5, ""},
		"empty":        {source{}, readAll, 100, fetch.FramingLength, 0, ""},
		"of no length": {source{text: "hello", length: -1}, readAll, 100, fetch.FramingChunked, 5, ""},
		"not read":     {source{text: "hello", length: 5}, nil, 100, fetch.FramingLength, 0, ""},
		"read in part": {source{text: "hello", length: 5}, func(_ context.Context, r *fetch.Request) error {
			_, err := io.ReadFull(r.Body, make([]byte, 2))
			return err
		}, 100, fetch.FramingLength, 2, ""},
		"read and not sent": {source{text: "hello", length: 5}, func(ctx context.Context, r *fetch.Request) error {
			return errors.Join(readAll(ctx, r), cut)
		}, 0, fetch.FramingLength, 0, fetch.ReasonWriteFailed},
		"read and sent in part": {source{text: "hello", length: 5}, func(ctx context.Context, r *fetch.Request) error {
			return errors.Join(readAll(ctx, r), cut)
		}, 3, fetch.FramingLength, 3, fetch.ReasonWriteFailed},
		"read and sent, without an answer": {source{text: "hello", length: 5}, func(ctx context.Context, r *fetch.Request) error {
			return errors.Join(readAll(ctx, r), cut)
		}, 100, fetch.FramingLength, 5, fetch.ReasonWriteFailed},
	} {
		t.Run(name, func(t *testing.T) {
			s := ok()
			s.act, s.facts.Sent = c.act, c.sent
			p := plan(t, "http://example.com/")
			p.Source = &c.source
			report, err := over(t, s).Run(t.Context(), p, &sink{})
			if c.fails != "" {
				failed(t, err, c.fails)
			} else if err != nil {
				t.Fatal(err)
			}
			r := s.requests[0]
			if r.Framing != c.framing || r.Length != c.source.length || report.RequestBytes != c.want || s.closed.Load() != 1 || c.source.opened != 1 {
				t.Errorf("the request is %+v, and %d bytes are reported", r, report.RequestBytes)
			}
		})
	}
}

// TestRequestBodiesThatDoNotOpen: the reason is the source's, and nothing is
// sent.
func TestRequestBodiesThatDoNotOpen(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fetch.Reason
	}{
		{fetch.Fail(fetch.ReasonBodyNotRewindable, "it was read", nil), fetch.ReasonBodyNotRewindable},
		{errors.New("hunter2"), fetch.ReasonInternalFault},
	} {
		s := ok()
		p := plan(t, "http://example.com/")
		p.Source = &source{err: c.err}
		_, err := over(t, s).Run(t.Context(), p, &sink{})
		if f := failed(t, err, c.want); f.Sent != fetch.SentNo || strings.Contains(f.Message, "hunter2") || len(s.requests) > 0 {
			t.Errorf("the failure is %+v", f)
		}
	}
}

// TestUploadsAfterTheHead: a body that goes on to be read while the response comes
// is counted, too.
func TestUploadsAfterTheHead(t *testing.T) {
	s := ok()
	var uploading sync.WaitGroup
	s.act = func(_ context.Context, r *fetch.Request) error {
		uploading.Go(func() { io.Copy(io.Discard, r.Body) })
		return nil
	}
	p := plan(t, "http://example.com/")
	p.Source = &source{text: "hello", length: 5}
	report, err := over(t, s).Run(t.Context(), p, &sink{wait: func(event string) {
		if event == "data ok" {
			uploading.Wait()
		}
	}})
	if err != nil || report.RequestBytes != 5 {
		t.Errorf("%d bytes are reported, error %v", report.RequestBytes, err)
	}
}

// TestDenials: a denial is one as long as nothing was sent; then it is a failure.
func TestDenials(t *testing.T) {
	address := func() error {
		return &fetch.Denied{Reason: fetch.ReasonAddressDenied, Rule: "default", Message: "no", Hint: "ask"}
	}
	t.Run("by name", func(t *testing.T) {
		s, k := ok(), &sink{}
		report, err := over(t, s).Run(t.Context(), plan(t, "http://localhost/"), k)
		var d *fetch.Denied
		if !errors.As(err, &d) || d.Reason != fetch.ReasonDestinationDenied || len(s.requests) > 0 || len(k.events) > 0 {
			t.Errorf("the error is %v after %d requests", err, len(s.requests))
		}
		checkDeniedReport(t, report, "default")
	})
	t.Run("by address", func(t *testing.T) {
		s := ok()
		s.err, s.facts = address(), fetch.Facts{Stage: fetch.StageResolve}
		report, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{})
		if err != s.err {
			t.Errorf("the error is %v", err)
		}
		checkDeniedReport(t, report, "default")
	})
	t.Run("by an address that no rule judged", func(t *testing.T) {
		s := ok()
		s.err, s.facts = &fetch.Denied{Reason: fetch.ReasonAddressDenied, Message: "it has a zone"}, fetch.Facts{}
		_, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{})
		var d *fetch.Denied
		if !errors.As(err, &d) || d.Rule != "default" {
			t.Errorf("the error is %+v", err)
		}
	})
	late := map[string]func(*transport){
		"after something was sent": func(s *transport) { s.err = address() },
		"within the body":          func(s *transport) { s.body.err, s.facts.Sent = address(), 0 },
	}
	for name, deny := range late {
		t.Run(name, func(t *testing.T) {
			s := ok()
			deny(s)
			report, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{})
			f := failed(t, err, fetch.ReasonAddressDenied)
			if f.Blame != fetch.BlamePolicy || f.Sent != fetch.SentYes || f.Denial == nil || f.Denial.Rule != "default" || report.Attempts[0].Failure != f {
				t.Errorf("the failure is %+v", f)
			}
		})
	}
	t.Run("as the cause of a failure", func(t *testing.T) {
		s := ok()
		s.err, s.facts.Sent = fetch.Fail(fetch.ReasonConnectRefused, "no address is left", address()), 0
		_, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{})
		failed(t, err, fetch.ReasonConnectRefused)
	})
}

// checkDeniedReport wants an attempt that does not look like a success.
func checkDeniedReport(t *testing.T, r *fetch.Report, rule string) {
	t.Helper()
	if len(r.Attempts) != 1 || len(r.Attempts[0].Hops) != 1 {
		t.Fatalf("the report is %+v", r)
	}
	if f := r.Attempts[0].Failure; f == nil || f.Blame != fetch.BlamePolicy || f.Denial == nil {
		t.Fatalf("the report is %+v", r)
	}
	if h := r.Attempts[0].Hops[0]; h.Rule == "" || h.Rule != r.Rule || h.Status != 0 {
		t.Errorf("the hop is %+v, want one of the rule %s", h, rule)
	}
}

// TestFailuresKeepWhatIsKnown: a failure of the transport comes as it is, with
// what only the engine knows, beside the facts.
func TestFailuresKeepWhatIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		failure fetch.Failure
		facts   fetch.Facts
		stage   fetch.Stage
		sent    fetch.RequestSent
	}{
		"whole":              {fetch.Failure{Stage: fetch.StageTLS, Sent: fetch.SentUnknown}, fetch.Facts{Stage: fetch.StageHead, Sent: 1}, fetch.StageTLS, fetch.SentUnknown},
		"sent, by the facts": {fetch.Failure{Stage: fetch.StageHead}, fetch.Facts{Sent: 1}, fetch.StageHead, fetch.SentYes},
		"not sent":           {fetch.Failure{Stage: fetch.StageConnect}, fetch.Facts{}, fetch.StageConnect, fetch.SentNo},
		"stage by the facts": {fetch.Failure{}, fetch.Facts{Stage: fetch.StageProxy}, fetch.StageProxy, fetch.SentNo},
	} {
		s := ok()
		c.failure.Reason, c.failure.Message, c.failure.Blame = fetch.ReasonProtocolError, "it broke", fetch.BlameUpstream
		s.err, s.facts = &c.failure, c.facts
		report, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{})
		if f := failed(t, err, fetch.ReasonProtocolError); f.Stage != c.stage || f.Sent != c.sent || f.Message != "it broke" || report.Attempts[0].Failure != f {
			t.Errorf("%s: the failure is %+v", name, f)
		}
		h := report.Attempts[0].Hops[0]
		c.facts.Times.Total = h.Facts.Times.Total
		if h.Facts != c.facts || h.Status != 0 || h.Rule != "default" || h.Facts.Times.Total <= 0 || report.Total <= 0 {
			t.Errorf("%s: the hop is %+v", name, h)
		}
	}
}

// TestBodiesThatFail: what came before is reported, and the head's facts stay.
func TestBodiesThatFail(t *testing.T) {
	s, k := ok(), &sink{}
	s.body.err = fetch.Fail(fetch.ReasonIncompleteBody, "it broke off", nil)
	s.response.Trailers = func() []fetch.Field { return []fetch.Field{{Name: "Never"}} }
	report, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), k)
	f := failed(t, err, fetch.ReasonIncompleteBody)
	if f.Stage != fetch.StageBody || f.Sent != fetch.SentYes || report.WireBytes != 2 || report.BodyBytes != 2 || report.Trailers != nil ||
		report.Attempts[0].Hops[0].Status != 200 || k.events[len(k.events)-1] != "data ok" {
		t.Errorf("the failure is %+v, the report %+v", f, report)
	}
}

// TestInterimHeads: they come before the head if they were asked for, also when
// no head comes.
func TestInterimHeads(t *testing.T) {
	interim := []fetch.Head{{Status: 102}, {Status: 103}}
	reset := fetch.Fail(fetch.ReasonConnectionReset, "cut off", nil)
	for name, c := range map[string]struct {
		asked bool
		err   error
		want  []string
	}{
		"asked for":     {true, nil, []string{"interim 102", "interim 103", "head 200 http://example.com/", "data ok"}},
		"not asked for": {false, nil, []string{"head 200 http://example.com/", "data ok"}},
		"and no head":   {true, reset, []string{"interim 102", "interim 103"}},
	} {
		s, k := ok(), &sink{}
		s.interim, s.err = interim, c.err
		p := plan(t, "http://example.com/")
		p.Response.Interim = c.asked
		if _, err := over(t, s).Run(t.Context(), p, k); !errors.Is(err, c.err) || !slices.Equal(k.events, c.want) {
			t.Errorf("%s: the sink was given %q, error %v", name, k.events, err)
		}
	}
}

// TestInterimHeadsFromElsewhere: a transport calls from its own goroutine, and
// may still do so when RoundTrip has returned.
func TestInterimHeadsFromElsewhere(t *testing.T) {
	s := ok()
	var calling sync.WaitGroup
	s.act = func(_ context.Context, r *fetch.Request) error {
		calling.Go(func() {
			for range 100 {
				r.Interim(fetch.Head{Status: 103})
			}
		})
		return nil
	}
	p := plan(t, "http://example.com/")
	p.Response.Interim = true
	k := &sink{}
	_, err := over(t, s).Run(t.Context(), p, k)
	calling.Wait()
	if err != nil || k.events[len(k.events)-1] != "data ok" {
		t.Errorf("the sink was given %q, error %v", k.events, err)
	}
}

// TestLimitsOnFields: heads, interim heads and trailers are within the limits of
// the request, or the fetch fails.
func TestLimitsOnFields(t *testing.T) {
	fields := []fetch.Field{{Name: "A", Value: []byte("12345")}, {Name: "B", Value: []byte("12345")}} // 20 bytes
	for place, put := range map[string]func(*transport){
		"response head":    func(s *transport) { s.response.Fields = fields },
		"trailer section":  func(s *transport) { s.response.Trailers = func() []fetch.Field { return fields } },
		"interim response": func(s *transport) { s.interim = []fetch.Head{{Status: 103, Fields: fields}} },
	} {
		for _, c := range []struct {
			maxFields, maxBytes int
			limit               string
			most                int64
		}{
			{2, 20, "", 0},
			{1, 20, "max_response_fields", 1},
			{2, 19, "max_response_field_bytes", 19},
		} {
			s, k := ok(), &sink{}
			put(s)
			p := plan(t, "http://example.com/")
			p.Response.Interim, p.Response.MaxFields, p.Response.MaxHeadBytes = true, c.maxFields, c.maxBytes
			report, err := over(t, s).Run(t.Context(), p, k)
			if c.limit == "" {
				if err != nil {
					t.Errorf("%s: %v", place, err)
				}
				continue
			}
			f := failed(t, err, fetch.ReasonHeadTooLarge)
			if f.LimitHit == nil || *f.LimitHit != (fetch.LimitHit{Limit: c.limit, Max: c.most}) || f.Sent != fetch.SentYes || !strings.Contains(f.Message, place) {
				t.Errorf("%s: the failure is %+v", place, f)
			}
			stage, given := fetch.StageHead, 0
			if place == "trailer section" {
				stage, given = fetch.StageBody, 2
			}
			if f.Stage != stage || len(k.events) != given || report.Trailers != nil || report.Attempts[0].Hops[0].Status != 200 || s.body.closed == 0 {
				t.Errorf("%s: the stage is %s, and the sink was given %q", place, f.Stage, k.events)
			}
		}
	}
}

// TestSinksThatFail: the error is the sink's, wherever it comes from, and the
// body is closed.
func TestSinksThatFail(t *testing.T) {
	for _, event := range []string{"interim 103", "head 200 http://example.com/", "data ok"} {
		s, k := ok(), &sink{fails: event}
		s.interim = []fetch.Head{{Status: 103}}
		p := plan(t, "http://example.com/")
		p.Response.Interim = true
		report, err := over(t, s).Run(t.Context(), p, k)
		if err != errSink || s.body.closed == 0 || k.events[len(k.events)-1] != event || report.Attempts[0].Failure != nil {
			t.Errorf("%s: the error is %v after %q; the body was closed %d times", event, err, k.events, s.body.closed)
		}
	}
}

// TestResponsesAreClosed: also when all goes well.
func TestResponsesAreClosed(t *testing.T) {
	s := ok()
	if _, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{}); err != nil || s.body.closed == 0 {
		t.Errorf("the body was closed %d times, error %v", s.body.closed, err)
	}
}

// TestRouteKeys: two fetches may share a connection only if nothing that a
// dial-time decision depends on differs.
func TestRouteKeys(t *testing.T) {
	rule := func(addresses ...string) []*configv1.Rule {
		return []*configv1.Rule{{Name: "all", Origins: []string{"https://*.example.com"}, AllowAddresses: addresses}}
	}
	key := func(rules []*configv1.Rule, alter func(*fetch.Plan)) string {
		s, p := ok(), plan(t, "https://a.example.com/")
		alter(p)
		if _, err := under(t, s, rules).Run(t.Context(), p, &sink{}); err != nil {
			t.Fatal(err)
		}
		if s.requests[0].Route.Key == "" {
			t.Error("a route has no key")
		}
		return s.requests[0].Route.Key
	}
	base := key(rule(), func(*fetch.Plan) {})
	same := map[string]string{
		"path":                      key(rule(), func(p *fetch.Plan) { p.Destination.Target = "/other" }),
		"caller":                    key(rule(), func(p *fetch.Plan) { p.Caller.Name = "other" }),
		"method, fields, timeouts":  key(rule(), func(p *fetch.Plan) { p.Method, p.Fields, p.Timeouts.Idle = "PUT", []fetch.Field{{Name: "A"}}, 1 }),
		"another rule that says so": key([]*configv1.Rule{{Name: "other", Origins: []string{"https://a.example.com"}}}, func(*fetch.Plan) {}),
	}
	for name, k := range same {
		if k != base {
			t.Errorf("the key differs by %s", name)
		}
	}
	keys := map[string]string{"base": base}
	for name, k := range map[string]string{
		"host":               key(rule(), func(p *fetch.Plan) { p.Destination.Host = "b.example.com" }),
		"affinity":           key(rule(), func(p *fetch.Plan) { p.Affinity = "x" }),
		"another affinity":   key(rule(), func(p *fetch.Plan) { p.Affinity = "y" }),
		"another's affinity": key(rule(), func(p *fetch.Plan) { p.Affinity, p.Caller.Name = "x", "other" }),
		"addresses":          key(rule("10.0.0.0/8"), func(*fetch.Plan) {}),
		"other addresses":    key(rule("10.0.0.0/9"), func(*fetch.Plan) {}),
		"roots":              key(rule(), func(p *fetch.Plan) { p.TLS.RootsID = "r" }),
		"TLS version":        key(rule(), func(p *fetch.Plan) { p.TLS.MinVersion = tls.VersionTLS13 }),
		"server name":        key(rule(), func(p *fetch.Plan) { p.TLS.ServerName = "s" }),
		"HTTP/1.1":           key(rule(), func(p *fetch.Plan) { p.Version = fetch.HTTP1 }),
		"HTTP/2":             key(rule(), func(p *fetch.Plan) { p.Version = fetch.HTTP2 }),
	} {
		for other, of := range keys {
			if k == of {
				t.Errorf("%s and %s have one key", name, other)
			}
		}
		keys[name] = k
	}
}

// TestDrain: what is under way when a drain ends says so, and what comes later.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ok()
		s.act = func(ctx context.Context, _ *fetch.Request) error {
			<-ctx.Done()
			return ctx.Err()
		}
		e := over(t, s)
		time.AfterFunc(time.Second, e.Drain)
		start := time.Now()
		for _, after := range []time.Duration{time.Second, time.Second} {
			_, err := e.Run(t.Context(), plan(t, "http://example.com/"), &sink{})
			var f *fetch.Failure
			if !errors.As(err, &f) || f.Reason != fetch.ReasonDraining {
				t.Errorf("the error is %v, want DRAINING", err)
			}
			if took := time.Since(start); took != after {
				t.Errorf("the fetch ended after %v, want %v", took, after)
			}
		}
	})
}

// TestDowngradesAreToldOfWhatGoesOutAgain: a hop that a redirect from https led to
// is one also when it goes out again after a 417; the hop after the next redirect
// is not.
func TestDowngradesAreToldOfWhatGoesOutAgain(t *testing.T) {
	s := scripted(step{status: 307, fields: location("http://example.com/")}, step{status: 417}, step{status: 307, fields: location("/b")}, step{status: 200})
	rules := []*configv1.Rule{
		{Name: "secure", Origins: []string{"https://example.com"}},
		{Name: "plain", Origins: []string{"http://example.com"}, DangerousAllowDowngrade: true},
	}
	p := plan(t, "https://example.com/")
	p.Method, p.Source, p.ExpectContinue, p.Timeouts.Continue, p.Redirect.Max = "POST", &source{text: "body", length: 4}, true, time.Second, 2
	report, err := under(t, s, rules).Run(t.Context(), p, &sink{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range report.Attempts[0].Hops {
		got = append(got, fmt.Sprint(h.Status, h.Dangerous))
	}
	want := []string{"307 []", "417 [dangerous_allow_downgrade]", "307 [dangerous_allow_downgrade]", "200 []"}
	if !slices.Equal(got, want) {
		t.Errorf("the hops are %q, want %q", got, want)
	}
}

// TestRetriesAreNoDowngrades: an attempt over http is none, wherever the one before
// has ended.
func TestRetriesAreNoDowngrades(t *testing.T) {
	s := scripted(step{status: 302, fields: location("https://example.com/")}, step{status: 302, fields: location("https://example.com/b")}, step{status: 503}, step{status: 200})
	p := retried(t, "http://example.com/")
	p.Redirect.Max = 2
	report, err := over(t, s).Run(t.Context(), p, &sink{})
	if err != nil || len(report.Attempts) != 2 {
		t.Errorf("it ends with %v after %d attempts", err, len(report.Attempts))
	}
}
