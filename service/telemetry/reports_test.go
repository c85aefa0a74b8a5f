package telemetry_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

var began = time.Date(2026, 11, 22, 11, 46, 1, 766283000, time.UTC)

// output is a sink that keeps what it gets.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.SplitAfter(strings.TrimSuffix(o.b.String(), "\n"), "\n")
}

func configuration() telemetry.Configuration {
	return telemetry.Configuration{
		Config: &configv1.Config{
			Callers: []*configv1.Caller{{Name: "billing", Owner: "team-payments"}, {Name: "search"}},
			Rules: []*configv1.Rule{
				{Name: "partners/stripe", Origins: []string{"https://api.example.com", "https://*.example.org"}},
				{Name: "internal", Origins: []string{"http://10.0.0.7:8080"}},
			},
			Telemetry: &configv1.Telemetry{Origins: []string{"https://named.example.net"}},
		},
		Locate:     func(path string) string { return "policy.yaml:" + path },
		Generation: 42,
		Digest:     "sha256:" + strings.Repeat("0a", 32),
		Dangerous:  []string{"rules[0].dangerous_allow_loopback", "rules[1].dangerous_allow_loopback", "callers[0].dangerous_anonymous"},
	}
}

// newRecorder makes a recorder that ends with the test.
func newRecorder(t testing.TB, o telemetry.Options) *telemetry.Recorder {
	t.Helper()
	r, err := telemetry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeRecorder(t, r) })
	return r
}

func closeRecorder(t testing.TB, r *telemetry.Recorder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
}

// written returns the lines of reports.
func written(t testing.TB, o telemetry.Options, reports ...*fetch.Report) []string {
	t.Helper()
	out := &output{}
	o.Stdout = out
	r := newRecorder(t, o)
	for _, report := range reports {
		record(t, r, report)
	}
	closeRecorder(t, r)
	return out.lines()
}

func record(t testing.TB, r *telemetry.Recorder, report *fetch.Report) {
	t.Helper()
	if err := r.Begin(report.RPC); err != nil {
		t.Fatal(err)
	}
	r.End(context.Background(), report)
}

func origin(scheme, host string, port uint16) fetch.Origin {
	return fetch.Origin{Scheme: scheme, Host: host, Port: port}
}

// hop is a hop that went well on a new connection.
func hop(o fetch.Origin, target string, status int) fetch.Hop {
	return fetch.Hop{
		Destination: fetch.Destination{Origin: o, Target: target}, Method: "GET", Rule: "partners/stripe", Status: status, Start: began,
		Facts: fetch.Facts{
			Dials: 1, Remote: netip.MustParseAddrPort("203.0.113.7:443"), Protocol: "h2", Stage: fetch.StageBody, Sent: 128,
			TLS: &fetch.TLSFacts{Version: 0x304, NotAfter: began.AddDate(0, 1, 0), Resumed: true},
			Times: fetch.Timings{Pool: time.Microsecond, DNS: 2 * time.Millisecond, Connect: 3 * time.Millisecond, TLS: 4 * time.Millisecond,
				Send: 100 * time.Microsecond, FirstByte: 20 * time.Millisecond, Total: 31 * time.Millisecond},
		},
	}
}

// typical is a fetch as most are: one attempt, one hop, a response.
func typical() *fetch.Report {
	h := hop(origin("https", "api.example.com", 443), "/v1/items?page=1&limit=20", 200)
	h.Facts.Dials, h.Facts.Reused = 0, true
	h.Facts.Times = fetch.Timings{Pool: time.Microsecond, Send: 100 * time.Microsecond, FirstByte: 20 * time.Millisecond, Total: 31 * time.Millisecond}
	return &fetch.Report{
		ID: "01JD8Y5T3QK4M", RPC: "StreamFetch", Caller: fetch.Caller{Name: "billing"},
		Labels: map[string]string{"job": "nightly"}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Method: "GET", Destination: h.Destination, Start: began, Total: 31 * time.Millisecond,
		Outcome: fetch.OutcomeResponse, Code: "OK", Rule: "partners/stripe", Generation: 42,
		WireBytes: 1234, BodyBytes: 4321,
		Attempts: []fetch.Attempt{{Number: 1, Start: began, Total: 31 * time.Millisecond, Hops: []fetch.Hop{h}}},
	}
}

// reported went ahead although no rule allows it, by the mode "report".
func reported() *fetch.Report {
	r := typical()
	h := &r.Attempts[0].Hops[0]
	r.Rule, h.Rule = "default-deny", "default-deny"
	h.WouldDeny = &fetch.Denied{Reason: fetch.ReasonDestinationDenied, Rule: "default-deny", Message: "no rule allows GET https://api.example.com"}
	return r
}

// opened went ahead by the mode "open".
func opened() *fetch.Report {
	r := typical()
	r.Attempts[0].Hops[0].Open = true
	return r
}

func deniedByName() *fetch.Report {
	r := typical()
	r.Outcome, r.Code, r.Rule = fetch.OutcomeDenied, "PERMISSION_DENIED", "default-deny"
	r.WireBytes, r.BodyBytes = 0, 0
	r.Denied = &fetch.Denied{
		Reason: fetch.ReasonDestinationDenied, Rule: "default-deny", Message: "no rule allows GET https://api.example.com",
	}
	r.Attempts = []fetch.Attempt{{Number: 1, Start: began, Hops: []fetch.Hop{{Destination: r.Destination, Method: "GET", Rule: "default-deny"}},
		Failure: r.Denied.AsFailure()}}
	return r
}

func deniedByAddress() *fetch.Report {
	r := deniedByName()
	r.Rule = "partners/stripe"
	r.Denied = &fetch.Denied{
		Reason: fetch.ReasonAddressDenied, Rule: "partners/stripe", Class: "private", Message: "api.example.com resolves to an address that policy denies (private)",
		Audit: `rule "partners/stripe" does not open 10.9.8.7:443, which is of class private`,
	}
	h := &r.Attempts[0].Hops[0]
	h.Rule, h.Facts = "partners/stripe", fetch.Facts{Stage: fetch.StageResolve, Times: fetch.Timings{DNS: time.Millisecond, Total: time.Millisecond}}
	r.Attempts[0].Failure = r.Denied.AsFailure()
	return r
}

// failing is a fetch with a retry: each attempt failed with reason.
func failing(reason fetch.Reason) *fetch.Report {
	r := typical()
	f := fetch.Fail(reason, "what happened at api.example.com", nil)
	f.Sent = fetch.SentUnknown
	r.Outcome, r.Failure, r.Suppressed, r.WireBytes, r.BodyBytes = fetch.OutcomeFailure, f, fetch.SuppressedBudget, 0, 0
	h := hop(r.Destination.Origin, r.Destination.Target, 0)
	h.Facts.Stage = f.Stage
	r.Attempts = []fetch.Attempt{
		{Number: 1, Start: began, Hops: []fetch.Hop{h}, Failure: f},
		{Number: 2, Start: began.Add(time.Second), Wait: time.Second, Hops: []fetch.Hop{h}, Failure: f},
	}
	return r
}

func redirected() *fetch.Report {
	r := typical()
	r.Redirects = 1
	to := hop(origin("http", "10.0.0.7", 8080), "/next?token=a", 200)
	to.Rule, to.Facts.TLS, to.Facts.Protocol, to.Start = "internal", nil, "HTTP/1.1", time.Time{}
	from := hop(r.Destination.Origin, r.Destination.Target, 302)
	from.Credentials = []fetch.CredentialUse{{Name: "partner", Kind: "bearer", Version: 3}, {Kind: "client_certificate"}}
	from.Echoes = []string{"partner"}
	to.Credentials = []fetch.CredentialUse{{Name: "partner", Kind: "bearer", Dropped: true}, {Kind: "client_certificate", Dropped: true}}
	r.Rule, r.Attempts[0].Hops = "internal", []fetch.Hop{from, to}
	return r
}

// redirectDenied was denied on its second hop.
func redirectDenied() *fetch.Report {
	r := redirected()
	d := &fetch.Denied{Reason: fetch.ReasonDestinationDenied, Rule: "internal", Message: "no", Audit: "10.0.0.7 no"}
	r.Outcome, r.Failure, r.Redirects = fetch.OutcomeFailure, d.AsFailure(), 1
	last := &r.Attempts[0].Hops[1]
	last.Status, last.Facts, r.Attempts[0].Failure = 0, fetch.Facts{}, r.Failure
	return r
}

func redirectReturned() *fetch.Report {
	r := typical()
	r.Attempts[0].Hops[0].Status = 303
	return r
}

func limited() *fetch.Report {
	r := typical()
	r.Failure = fetch.Fail(fetch.ReasonTooManyRedirects, "too many", nil)
	r.Failure.LimitHit = &fetch.LimitHit{Limit: "max_redirects", Max: 10}
	r.Outcome, r.Attempts[0].Failure, r.Attempts[0].Hops[0].Status = fetch.OutcomeFailure, r.Failure, 302
	return r
}

// tooLarge was ended by the max_body_bytes of its request.
func tooLarge() *fetch.Report {
	r := typical()
	r.Failure = fetch.Fail(fetch.ReasonBodyTooLarge, "too large", nil)
	r.Failure.LimitHit = &fetch.LimitHit{Limit: "max_response_body_bytes", Max: 10}
	r.Outcome, r.Attempts[0].Failure = fetch.OutcomeFailure, r.Failure
	return r
}

// unconnected is a fetch of which n dials came to nothing.
func unconnected(n int, remote netip.AddrPort) *fetch.Report {
	r := failing(fetch.ReasonConnectRefused)
	for i := range r.Attempts {
		r.Attempts[i].Hops[0].Facts = fetch.Facts{Dials: n, Stage: fetch.StageConnect, Remote: remote}
	}
	return r
}

func rejected() *fetch.Report {
	return &fetch.Report{
		ID: "01JD8Y5T3QK4N", RPC: "Fetch", Caller: fetch.Caller{Name: "anonymous", Anonymous: true}, Start: began,
		Outcome: fetch.OutcomeRejected, Code: "INVALID_ARGUMENT", Refusal: "FIELD_INVALID", Generation: 41,
		RefusalMessage: "request.url: the URL is not absolute",
	}
}

func canceled() *fetch.Report {
	r := typical()
	r.Outcome, r.Code = fetch.OutcomeCanceled, "CANCELLED"
	h := &r.Attempts[0].Hops[0]
	h.Status, h.Facts.Sent = 0, 0
	return r
}

// corpus has a report of every kind.
func corpus() []*fetch.Report {
	reports := []*fetch.Report{
		typical(), deniedByName(), deniedByAddress(), redirected(), redirectDenied(), redirectReturned(), limited(), rejected(), canceled(),
		failing(fetch.ReasonNameNotFound), failing(fetch.ReasonResolverFailed), {},
	}
	for i := range fetch.ReasonTable {
		reports = append(reports, failing(fetch.ReasonTable[i].Reason))
	}
	return reports
}

// observed has every option that only adds a metric.
func observed(to prometheus.Registerer) telemetry.Options {
	return telemetry.Options{
		Registry: to, Configuration: configuration(), Replica: "eu-1-7c9f", Stdout: &output{},
		Pool: func() fetch.PoolStats {
			return fetch.PoolStats{
				Open: map[fetch.PoolState]int{{State: "idle", Protocol: "h2"}: 3}, Dialing: 2,
				Closed: map[fetch.CloseCause]int64{fetch.ClosedAge: 5},
			}
		},
		Load:           func() float64 { return 0.25 },
		Draining:       func() bool { return true },
		AwaitedSecrets: func() int { return 1 },
		ListenerUntil:  func() (certificate, lists time.Time) { return time.Unix(2, 0), time.Unix(1, 0) },
		IssuerKeys: func() []telemetry.IssuerKeys {
			return []telemetry.IssuerKeys{{Issuer: "corp", Fetched: 2, Failed: 1, At: time.Unix(1, 0)}}
		},
		RetryBudget: func() map[fetch.Origin]float64 {
			return map[fetch.Origin]float64{
				origin("https", "api.example.com", 443): 0.5,
				origin("https", "a.example.org", 443):   0.75,
				origin("https", "b.example.org", 443):   0.25,
			}
		},
	}
}
