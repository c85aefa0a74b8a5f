package telemetry_test

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// scrape returns every series as "name{label=value,...}" with its value, or the
// count of its observations.
func scrape(t testing.TB, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, family := range gather(t, from) {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(family.GetName(), "fetchgate_") + "{" + strings.Join(labels, ",") + "}"
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func gather(t testing.TB, from prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// everything has counted the whole corpus.
func everything(t testing.TB) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewRegistry()
	r := newRecorder(t, observed(registry))
	for _, report := range corpus() {
		record(t, r, report)
	}
	r.Rejected("max_live_fetches", telemetry.ScopeServer)
	r.Rejected("max_live_fetches_per_caller", telemetry.ScopeCaller)
	for _, why := range []string{"no_certificate", "not a word"} {
		r.HandshakeFailed(why)
	}
	r.ConfigureFailed()
	if err := r.Configure(configuration()); err != nil {
		t.Fatal(err)
	}
	closeRecorder(t, r)
	return registry
}

func TestCounts(t *testing.T) {
	tests := []struct {
		name   string
		report *fetch.Report
		want   []string // "series value"
	}{
		{"response", typical(), []string{
			"fetches_total{outcome=response,reason=none,rpc=StreamFetch} 1",
			"fetch_duration_seconds{outcome=response,rpc=StreamFetch} 1",
			"fetches_in_flight{rpc=StreamFetch} 0",
			"caller_fetches_total{caller=billing,outcome=response} 1",
			"caller_bytes_total{caller=billing,direction=down} 4321",
			"decisions_total{decision=allow,rule=partners/stripe} 1",
			"upstream_requests_total{origin=https://api.example.com,reason=none,status_class=2xx} 1",
			"upstream_request_duration_seconds{origin=https://api.example.com} 1",
			"pool_reuse_total{origin=https://api.example.com,reused=true} 1",
			"attempts_total{kind=first,result=response} 1",
			"stage_duration_seconds{stage=head} 1",
			"stage_duration_seconds{stage=body} 1",
		}},
		{"redirect", redirected(), []string{
			"redirects_total{result=followed} 1",
			"upstream_requests_total{origin=https://api.example.com,reason=none,status_class=3xx} 1",
			"upstream_requests_total{origin=http://10.0.0.7:8080,reason=none,status_class=2xx} 1",
			"pool_connections_opened_total{origin=http://10.0.0.7:8080} 1",
			"dns_lookups_total{result=miss} 2",
			"dns_lookup_duration_seconds{} 2",
			"stage_duration_seconds{stage=tls} 2",
		}},
		{"redirect denied", redirectDenied(), []string{
			"redirects_total{result=refused} 1",
			"decisions_total{decision=allow,rule=partners/stripe} 1",
			"decisions_total{decision=deny,rule=internal} 1",
			"attempts_total{kind=first,result=denied} 1",
			"fetches_total{outcome=failure,reason=REDIRECT_DENIED,rpc=StreamFetch} 1",
		}},
		{"redirect returned", redirectReturned(), []string{"redirects_total{result=returned} 1"}},
		{"limit of the request", tooLarge(), []string{"limit_rejections_total{limit=max_response_body_bytes,scope=request} 1"}},
		{"limit", limited(), []string{"limit_rejections_total{limit=max_redirects,scope=server} 1", "redirects_total{result=refused} 1"}},
		{"reported", reported(), []string{
			"decisions_total{decision=would_deny,rule=default-deny} 1",
			"fetches_total{outcome=response,reason=none,rpc=StreamFetch} 1",
		}},
		{"denied by name", deniedByName(), []string{
			"decisions_total{decision=deny,rule=default-deny} 1",
			"fetches_total{outcome=denied,reason=DESTINATION_DENIED,rpc=StreamFetch} 1",
		}},
		{"denied by address", deniedByAddress(), []string{
			"decisions_total{decision=deny,rule=partners/stripe} 1",
			"address_denials_total{class=private} 1",
		}},
		{"failure with retry", failing(fetch.ReasonNameNotFound), []string{
			"attempts_total{kind=first,result=failure} 1",
			"attempts_total{kind=retry,result=failure} 1",
			"retries_suppressed_total{why=budget} 1",
			"dns_lookups_total{result=negative} 2",
			"upstream_requests_total{origin=https://api.example.com,reason=NAME_NOT_FOUND,status_class=none} 2",
			"pool_connections_opened_total{origin=https://api.example.com} 2",
		}},
		{"rejected", rejected(), []string{
			"fetches_total{outcome=rejected,reason=FIELD_INVALID,rpc=Fetch} 1",
			"caller_fetches_total{caller=none,outcome=rejected} 1",
		}},
		{"canceled", canceled(), []string{"attempts_total{kind=first,result=canceled} 1"}},
		{"empty", &fetch.Report{}, []string{
			"fetches_total{outcome=other,reason=none,rpc=other} 1",
			"caller_fetches_total{caller=other,outcome=other} 1",
		}},
	}
	for _, test := range tests {
		registry := prometheus.NewRegistry()
		record(t, newRecorder(t, observed(registry)), test.report)
		got := scrape(t, registry)
		for _, want := range test.want {
			series, value, _ := strings.Cut(want, "} ")
			if v, seen := got[series+"}"]; !seen || fmt.Sprint(v) != value {
				t.Errorf("%s: %s} is %v (seen: %v), want %s", test.name, series, v, seen, value)
			}
		}
		for series := range got {
			if test.name == "denied by name" && strings.HasPrefix(series, "upstream_requests_total") {
				t.Errorf("a hop that was denied by name is a request: %s", series)
			}
		}
	}
}

func TestGauges(t *testing.T) {
	got := scrape(t, everything(t))
	for series, want := range map[string]float64{
		"pool_connections{protocol=h2,state=idle}":                                         3,
		"pool_connections{protocol=none,state=dialing}":                                    2,
		"pool_connections{protocol=h1,state=active}":                                       0,
		"pool_connections_closed_total{why=age}":                                           5,
		"load_ratio{}":                                                                     0.25,
		"draining{}":                                                                       1,
		"retry_budget_ratio{origin=https://api.example.com}":                               0.5,
		"retry_budget_ratio{origin=https://*.example.org}":                                 0.25,
		"dangerous_settings{setting=dangerous_allow_loopback}":                             2,
		"dangerous_settings{setting=dangerous_anonymous}":                                  1,
		"config_info{digest=sha256:" + strings.Repeat("0a", 32) + ",generation=42}":        1,
		"config_reloads_total{result=success}":                                             2,
		"config_reloads_total{result=failure}":                                             1,
		"config_last_reload_successful{}":                                                  1,
		"audit_queue_bytes{}":                                                              0,
		"audit_records_total{result=written,sink=stdout}":                                  float64(len(corpus())),
		"audit_records_lost_total{}":                                                       0,
		"limit_rejections_total{limit=max_live_fetches_per_caller,scope=caller}":           1,
		"listener_handshake_failures_total{why=no_certificate}":                            1,
		"listener_handshake_failures_total{why=other}":                                     1,
		"upstream_certificate_not_after_timestamp_seconds{origin=https://api.example.com}": float64(began.AddDate(0, 1, 0).Unix()),
	} {
		if v, seen := got[series]; !seen || v != want {
			t.Errorf("%s is %v (seen: %v), want %v", series, v, seen, want)
		}
	}
}

func TestOriginLabels(t *testing.T) {
	c := telemetry.Configuration{Config: &configv1.Config{
		Rules: []*configv1.Rule{
			{Name: "a", Origins: []string{"https://api.example.com", "https://*.example.org", "https://*.eu.example.org", "https://ports.example.com"}},
			{Name: "b", Origins: []string{"https://Ports.example.com", "http://[2001:db8::1]", "https://bücher.example"}, Ports: []int32{8443, 443}},
			{Name: "c", Origins: []string{"http://*", "http://*:8080"}},
		},
		Telemetry: &configv1.Telemetry{Origins: []string{"https://named.example.org:8443"}},
	}}
	registry := prometheus.NewRegistry()
	r := newRecorder(t, telemetry.Options{Configuration: c, Registry: registry, Stdout: &output{}})
	for _, test := range []struct {
		origin fetch.Origin
		want   string
	}{
		{origin("https", "api.example.com", 443), "https://api.example.com"},
		{origin("https", "api.example.com", 8443), "other"},
		{origin("http", "api.example.com", 443), "other"},
		{origin("https", "x.api.example.com", 443), "other"},
		{origin("https", "a.b.example.org", 443), "https://*.example.org"},
		{origin("https", "a.eu.example.org", 443), "https://*.eu.example.org"},
		{origin("https", "eu.example.org", 443), "https://*.example.org"},
		{origin("https", "example.org", 443), "other"},
		{origin("https", "named.example.org", 8443), "https://named.example.org:8443"},
		{origin("https", "ports.example.com", 8443), "https://ports.example.com:8443"},
		{origin("http", "2001:db8::1", 8443), "http://[2001:db8::1]:8443"},
		{origin("https", "xn--bcher-kva.example", 8443), "https://xn--bcher-kva.example:8443"},
		{origin("http", "whatever.test", 80), "http://*"},
		{origin("http", "10.1.2.3", 8080), "http://*:8080"},
	} {
		report := typical()
		h := hop(test.origin, "/", 204)
		report.Attempts[0].Hops[0] = h
		series := "pool_connections_opened_total{origin=" + test.want + "}"
		before := scrape(t, registry)[series]
		record(t, r, report)
		if scrape(t, registry)[series] != before+1 {
			t.Errorf("%v is not counted as %s", test.origin, test.want)
		}
	}
}

func TestOriginThatIsNone(t *testing.T) {
	c := telemetry.Configuration{Config: &configv1.Config{Telemetry: &configv1.Telemetry{Origins: []string{"https://a.example", "nonsense"}}}}
	if _, err := telemetry.New(telemetry.Options{Configuration: c}); err == nil || !strings.Contains(err.Error(), "telemetry.origins[1]") {
		t.Errorf("%v", err)
	}
}

func TestRegistryTwice(t *testing.T) {
	o := observed(prometheus.NewRegistry())
	newRecorder(t, o)
	if _, err := telemetry.New(o); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

// However many hosts, callers, paths and rules there are, the series stay
// bounded by the configuration.
func TestSeriesAreBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRecorder(t, observed(registry))
	for i := range 100_000 {
		report := typical()
		name := fmt.Sprintf("x%d", i)
		report.Caller.Name, report.Rule, report.ID, report.RPC = name, name, name, name
		h := &report.Attempts[0].Hops[0]
		h.Destination.Host, h.Destination.Target, h.Rule, h.Method, h.Facts.Protocol = name+".test", "/"+name, name, name, name
		if i%3 == 0 {
			report.Failure = &fetch.Failure{Reason: fetch.Reason(name), LimitHit: &fetch.LimitHit{Limit: name}}
			report.Attempts[0].Failure, report.Outcome, report.Suppressed = report.Failure, fetch.Outcome(name), fetch.Suppressed(name)
		}
		if i%5 == 0 {
			report.Denied = &fetch.Denied{Reason: fetch.ReasonAddressDenied, Class: name, Rule: name}
		}
		r.Rejected(name, telemetry.Scope(name))
		record(t, r, report)
	}
	if n := len(scrape(t, registry)); n > 100 {
		t.Errorf("%d series", n)
	}
	for series := range scrape(t, registry) {
		if strings.Contains(series, "x7") {
			t.Errorf("%s", series)
		}
	}
}

// A configuration larger than the bounds is counted up to them.
func TestConfigurationIsBounded(t *testing.T) {
	c := telemetry.Configuration{Config: &configv1.Config{}}
	for i := range 3000 {
		name := fmt.Sprintf("x%d", i)
		c.Config.Callers = append(c.Config.Callers, &configv1.Caller{Name: name})
		c.Config.Rules = append(c.Config.Rules, &configv1.Rule{Name: name, Origins: []string{"https://" + name + ".example"}})
	}
	registry := prometheus.NewRegistry()
	r := newRecorder(t, telemetry.Options{Configuration: c, Registry: registry, Stdout: &output{}})
	for i := range 3000 {
		report := typical()
		name := fmt.Sprintf("x%d", i)
		h := &report.Attempts[0].Hops[0]
		report.Caller.Name, h.Rule, h.Destination.Host = name, name, name+".example"
		record(t, r, report)
	}
	count := map[string]int{}
	for series := range scrape(t, registry) {
		name, _, _ := strings.Cut(series, "{")
		count[name]++
	}
	for name, want := range map[string]int{"caller_fetches_total": 201, "decisions_total": 1001, "upstream_request_duration_seconds": 101} {
		if count[name] != want {
			t.Errorf("%s has %d series, want %d", name, count[name], want)
		}
	}
}

// After a reload the names that went are gone from /metrics, those that stayed
// count on.
func TestConfigure(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRecorder(t, observed(registry))
	record(t, r, typical())
	next := configuration()
	next.Generation = 43
	next.Config.Callers = []*configv1.Caller{{Name: "search"}}
	next.Config.Rules = next.Config.Rules[1:]
	if err := r.Configure(next); err != nil {
		t.Fatal(err)
	}
	record(t, r, typical())
	got := scrape(t, registry)
	for series, want := range map[string]float64{
		"caller_fetches_total{caller=billing,outcome=response}":                                0,
		"caller_fetches_total{caller=other,outcome=response}":                                  1,
		"decisions_total{decision=allow,rule=partners/stripe}":                                 0,
		"upstream_requests_total{origin=https://api.example.com,reason=none,status_class=2xx}": 0,
		"upstream_requests_total{origin=other,reason=none,status_class=2xx}":                   1,
		"fetches_total{outcome=response,reason=none,rpc=StreamFetch}":                          2,
		"config_info{digest=" + next.Digest + ",generation=43}":                                1,
		"config_info{digest=" + next.Digest + ",generation=42}":                                0,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v", series, got[series], want)
		}
	}
	next.Config.Telemetry.Origins = []string{"nonsense"}
	if err := r.Configure(next); err == nil {
		t.Error("an origin that is none was taken")
	}
}

func TestMetricsLint(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(gather(t, everything(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Native buckets are there beside the classic ones.
func TestNativeHistogram(t *testing.T) {
	for _, family := range gather(t, everything(t)) {
		if family.GetName() != "fetchgate_upstream_request_duration_seconds" {
			continue
		}
		h := family.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) != 16 || len(h.GetPositiveSpan()) == 0 {
			t.Errorf("%d classic buckets, %d native spans", len(h.GetBucket()), len(h.GetPositiveSpan()))
		}
		return
	}
	t.Error("no histogram")
}

var row = regexp.MustCompile("(?m)^\\| `(fetchgate_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\| ([^|]+) \\|$")

// docs/metrics.md has exactly the metrics that there are, with their types and
// labels.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, cells := range row.FindAllStringSubmatch(string(page), -1) {
		documented[cells[1]] = cells[2] + " " + labelNames.ReplaceAllString(strings.ReplaceAll(cells[3], "`", ""), "")
	}
	// The root counts what version runs.
	delete(documented, "fetchgate_build_info")
	for _, family := range gather(t, everything(t)) {
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		want := strings.ToLower(family.GetType().String()) + " " + strings.Join(labels, ", ")
		got := strings.Fields(strings.ReplaceAll(documented[family.GetName()], ",", ""))
		if len(got) > 1 {
			slices.Sort(got[1:])
		}
		if strings.Join(got, " ") != strings.TrimSpace(strings.ReplaceAll(want, ",", "")) {
			t.Errorf("%s is %q, docs/metrics.md says %q", family.GetName(), want, strings.Join(got, " "))
		}
		delete(documented, family.GetName())
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has %s, which there is not", name)
	}
}

// labelNames are the values that a label cell names in parentheses.
var labelNames = regexp.MustCompile(` \([^)]*\)`)

// The words of RPC errors are those of the contract.
func TestRefusalsAreThoseOfTheContract(t *testing.T) {
	contract, err := os.ReadFile("../../proto/fetchgate/v1/fetch_service.proto")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(strings.ReplaceAll(string(contract), "\n// ", " "), "or one of ")
	list, _, found := strings.Cut(after, ".")
	if !found {
		t.Fatal("the contract does not list the words")
	}
	registry := prometheus.NewRegistry()
	r := newRecorder(t, observed(registry))
	words := strings.Fields(strings.ReplaceAll(list, ",", ""))
	for _, word := range words {
		report := rejected()
		report.Refusal = word
		record(t, r, report)
	}
	got := scrape(t, registry)
	for _, word := range words {
		if got["fetches_total{outcome=rejected,reason="+word+",rpc=Fetch}"] != 1 {
			t.Errorf("%s is not counted by its name", word)
		}
	}
}

// A connection was opened once it could carry a request: refused dials and
// failed handshakes are none, and of two that raced one is.
func TestOpenedConnections(t *testing.T) {
	raced := redirected()
	raced.Attempts[0].Hops[1].Facts.Dials = 2
	to := netip.MustParseAddrPort("203.0.113.7:443")
	for name, c := range map[string]struct {
		report *fetch.Report
		want   float64
	}{
		"refused": {unconnected(3, netip.AddrPort{}), 0}, "no handshake": {unconnected(1, to), 0}, "raced": {raced, 2}, "reused": {typical(), 0},
	} {
		registry := prometheus.NewRegistry()
		record(t, newRecorder(t, observed(registry)), c.report)
		var opened, fresh float64
		for series, value := range scrape(t, registry) {
			switch {
			case strings.HasPrefix(series, "pool_connections_opened_total"):
				opened += value
			case strings.HasPrefix(series, "pool_reuse_total") && strings.Contains(series, "reused=false"):
				fresh += value
			}
		}
		if opened != c.want || fresh != c.want {
			t.Errorf("%s: %v connections were opened for %v hops, want %v", name, opened, fresh, c.want)
		}
	}
}
