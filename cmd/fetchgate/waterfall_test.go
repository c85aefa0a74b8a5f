package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

func ms(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

// longReport is of a fetch of two attempts, the second of which followed a
// redirect.
func longReport() *fetchgatev1.FetchReport {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &fetchgatev1.FetchReport{
		AttemptCount: 2, HopCount: 3, Total: ms(160), Rule: "partners", Generation: 7, FetchId: "c9vq0",
		RetrySuppressed: fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_BUDGET,
		Attempts: []*fetchgatev1.Attempt{
			{Number: 1, StartTime: timestamppb.New(start), Total: ms(40), Hops: []*fetchgatev1.Hop{
				{Method: "GET", Url: "https://example.com/a", Status: 503, Rule: "partners",
					Timings:    &fetchgatev1.Timings{Pool: ms(5), Dns: ms(5), Connect: ms(5), Tls: ms(10), Send: ms(5), FirstByte: ms(10), Total: ms(40)},
					Connection: &fetchgatev1.ConnectionInfo{RemoteAddress: "192.0.2.1:443", Protocol: "HTTP/2", DialCount: 1, Tls: &fetchgatev1.TlsInfo{Version: "TLS 1.3", CipherSuite: "TLS_AES_128_GCM_SHA256"}}}}},
			{Number: 2, StartTime: timestamppb.New(start.Add(90 * time.Millisecond)), Wait: ms(50), Total: ms(70), Hops: []*fetchgatev1.Hop{
				{Method: "GET", Url: "https://example.com/a", Status: 302, Rule: "partners", Timings: &fetchgatev1.Timings{FirstByte: ms(10), Total: ms(10)},
					Connection: &fetchgatev1.ConnectionInfo{RemoteAddress: "192.0.2.1:443", Protocol: "HTTP/2", Reused: true}},
				{Method: "GET", Url: "https://elsewhere.example/with/a/path/that/is/long", Status: 200, Rule: "public", Timings: &fetchgatev1.Timings{Connect: ms(10), FirstByte: ms(20), Total: ms(60)},
					Connection: &fetchgatev1.ConnectionInfo{RemoteAddress: "192.0.2.2:443", Protocol: "HTTP/1.1", DialCount: 1}}}},
		},
	}
}

const wantUnicode = `
  1.1 503 GET example.com/a            40ms │┈░▒▓▓╴──                         │
    wait                               50ms │        ···········              │
  2.1 302 GET example.com/a            10ms │                   ──            │
  2.2 200 GET elsewhere.example/w…     60ms │                     ▒▒────██████│
  scale 160ms: ┈ pool  ░ dns  ▒ connect  ▓ tls  ╴ send  ─ first byte  █ body  · wait
`

func drawn(c chart, r *fetchgatev1.FetchReport) string {
	var b strings.Builder
	c.print(&b, r)
	return b.String()
}

func TestChart(t *testing.T) {
	if got := drawn(chartOf(80, true), longReport()); "\n"+got != wantUnicode {
		t.Errorf("it draws\n%s\nwant\n%s", got, wantUnicode)
	}
	wantPrintable(t, "a chart without Unicode", drawn(chartOf(80, false), longReport()))
	for _, columns := range []int{0, 20, 41, 80, 81, 200, 500} {
		lines := strings.Split(drawn(chartOf(columns, true), longReport()), "\n")
		for _, line := range lines[:4] {
			if n := utf8.RuneCountInString(line); n >= columns && columns > 40 {
				t.Errorf("on %d columns a line has %d: %s", columns, n, line)
			}
		}
	}
}

// TestChartOfOverlaps: an attempt begins when it began, though the body of the
// one before it was read for longer than that.
func TestChartOfOverlaps(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	hops := []*fetchgatev1.Hop{{Status: 503, Timings: &fetchgatev1.Timings{FirstByte: ms(5), Total: ms(60)}}}
	r := &fetchgatev1.FetchReport{Total: ms(100), Attempts: []*fetchgatev1.Attempt{
		{Number: 1, StartTime: timestamppb.New(start), Total: ms(60), Hops: hops},
		{Number: 2, StartTime: timestamppb.New(start.Add(40 * time.Millisecond)), Wait: ms(35), Total: ms(60), Hops: hops},
	}}
	if got := drawn(chartOf(80, true), r); !strings.Contains(got, "\n  scale 100ms: ") {
		t.Errorf("it draws\n%s", got)
	}
}

// TestChartOfNonsense: what a service says, or leaves out, cannot break the
// drawing.
func TestChartOfNonsense(t *testing.T) {
	least, most := &durationpb.Duration{Seconds: math.MinInt64}, &durationpb.Duration{Seconds: math.MaxInt64, Nanos: math.MaxInt32}
	for name, r := range map[string]*fetchgatev1.FetchReport{
		"none": nil, "no attempts": {Total: ms(5)},
		"no hops":   {Attempts: []*fetchgatev1.Attempt{{Number: 1, Reason: 9999, Total: ms(1)}}},
		"no times":  {Attempts: []*fetchgatev1.Attempt{{Hops: []*fetchgatev1.Hop{{}, nil}}, nil}},
		"below 0":   {Total: least, Attempts: []*fetchgatev1.Attempt{{Wait: least, Total: least, Hops: []*fetchgatev1.Hop{{Timings: &fetchgatev1.Timings{Dns: least, FirstByte: least, Total: least}}}}}},
		"endless":   {Total: most, Attempts: []*fetchgatev1.Attempt{{Wait: most, Total: most, Hops: []*fetchgatev1.Hop{{Timings: &fetchgatev1.Timings{Dns: most, FirstByte: most, Total: most}}}}}},
		"backwards": {Attempts: []*fetchgatev1.Attempt{{StartTime: &timestamppb.Timestamp{Seconds: math.MaxInt64}}, {StartTime: &timestamppb.Timestamp{Seconds: math.MinInt64}}}},
	} {
		for line := range strings.Lines(drawn(chartOf(80, true), r)) {
			if n := utf8.RuneCountInString(line); n > 120 || !utf8.ValidString(line) {
				t.Errorf("%s: a line of %d: %s", name, n, line)
			}
		}
	}
}

// FuzzChart: a bar has as many cells as it is to have, whatever it shows, and
// something of it is seen.
func FuzzChart(f *testing.F) {
	f.Add(0.0, 1.0, 2.0, uint8(30))
	f.Add(0.9999, 1.0, 1.0, uint8(1))
	f.Fuzz(func(t *testing.T, start, end, whole float64, cells uint8) {
		start, end, whole = math.Abs(start), math.Abs(end), math.Abs(whole)
		if !(start < end && end <= whole) || math.IsInf(whole, 0) || cells == 0 || end-start < 1e-9 {
			return
		}
		bar := chartOf(80, false).bar([]span{{stageBody, start, end}}, whole, int(cells))
		if len(bar) != int(cells) || !strings.Contains(bar, "#") {
			t.Errorf("%v to %v of %v on %d cells: %q", start, end, whole, cells, bar)
		}
	})
}

func TestLocale(t *testing.T) {
	for _, c := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "", false}, {"", "", "en_US.UTF-8", true}, {"C", "", "en_US.UTF-8", false}, {"", "de_AT.utf8", "C", true},
		{"", "POSIX", "en_US.UTF-8", false}, {"en_US.ISO-8859-1", "", "", false},
	} {
		locale := map[string]string{"LC_ALL": c.all, "LC_CTYPE": c.ctype, "LANG": c.lang}
		if got := isUTF8(func(name string) string { return locale[name] }); got != c.want {
			t.Errorf("%v: %t", locale, got)
		}
	}
}

// TestGetReports: --report draws and tells all of a report, --report=json gives
// it to programs.
func TestGetReports(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	answer := responded(200, "body")
	answer.Report = longReport()
	answer.Report.Clamped = []string{"options.retry.max_attempts"}
	r := get(t, answer, nil, "--report")
	r.wantCode(t, exitOK)
	for _, part := range []string{
		"report: 2 attempts, 3 hops, 160ms; rule partners, generation 7; fetch c9vq0\n", wantUnicode,
		"  attempt 2: 70ms after 50ms of waiting\n    GET https://example.com/a: 302, rule partners\n", "      TLS 1.3, TLS_AES_128_GCM_SHA256\n",
		"  no further attempt: BUDGET: The retries of this caller", "  lowered to the service's maximum: options.retry.max_attempts\n",
	} {
		if !strings.Contains(r.err, part) {
			t.Errorf("the report lacks %q:\n%s", part, r.err)
		}
	}
	r = get(t, answer, nil, "--report=json")
	r.wantCode(t, exitOK)
	if !strings.HasPrefix(r.err, "{\n  \"attemptCount\": 2,\n") || r.out != "body" || strings.Count(r.err, "\n}\n") != 1 {
		t.Errorf("stdout %q, stderr\n%s", r.out, r.err)
	}
	t.Setenv("LC_ALL", "C")
	if r := get(t, answer, nil, "--report=text"); !strings.Contains(r.err, fmt.Sprintf("%c", asciiMarks[stageBody])) {
		t.Error(r.err)
	} else {
		wantPrintable(t, "a report where nothing is UTF-8", r.err)
	}
}
