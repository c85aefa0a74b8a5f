package service_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/listener"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// TestLimitsAreDocumented: each field of fetch.Limits is one row of
// docs/limits.md, and each row of the first three tables is one of them.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = true
	}
	fixed := []string{"max_url_bytes", "max_method_bytes"} // constants of package fetch
	for _, name := range append(fixed, limitNames(reflect.TypeFor[fetch.Limits](), "")...) {
		if !rows[name] {
			t.Errorf("docs/limits.md has no row %q", name)
		}
		delete(rows, name)
	}
	for row := range rows {
		t.Errorf("docs/limits.md has a row %q for which there is no limit", row)
	}
}

// TestLimitsAreCounted: each row of docs/limits.md says its scope, its default,
// what is beyond it, and a metric that there is.
func TestLimitsAreCounted(t *testing.T) {
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|(.*)\\|$").FindAllStringSubmatch(string(page), -1) {
		cells := strings.Split(row[2], "|")
		if len(cells) != 6 {
			t.Errorf("%s has %d columns, want 6", row[1], len(cells))
			continue
		}
		for i, cell := range cells {
			if strings.TrimSpace(cell) == "" {
				t.Errorf("%s: column %d is empty", row[1], i+2)
			}
		}
		metric := regexp.MustCompile("`fetchgate_[a-z_]+`").FindString(cells[4])
		if metric == "" || !strings.Contains(string(metrics), "| "+metric+" |") {
			t.Errorf("%s is counted by %q, which docs/metrics.md does not have", row[1], cells[4])
		}
	}
}

// TestLimitsOfTheListenerAreCounted: each limit for which a connection is
// refused or closed has a row, and is counted by its own name.
func TestLimitsOfTheListenerAreCounted(t *testing.T) {
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	recorder, err := telemetry.New(telemetry.Options{
		Configuration: telemetry.Configuration{Config: &configv1.Config{Audit: &configv1.Audit{Sink: "none"}}}, Registry: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		listener.Connections, listener.ConnectionsPerPeer, listener.Idle, listener.Descriptors, listener.StalledWrite, listener.Silent,
		listener.Resets, listener.Settings, listener.Control, listener.HeaderBlock, listener.Unfinished,
	} {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/limits.md does not name %q", name)
		}
		recorder.Rejected(name, telemetry.ScopePeer)
		want := fmt.Sprintf("# HELP fetchgate_limit_rejections_total Fetches that a limit ended or kept out.\n# TYPE fetchgate_limit_rejections_total counter\nfetchgate_limit_rejections_total{limit=%q,scope=\"peer\"} 1\n", name)
		if err := testutil.GatherAndCompare(only{registry, name}, strings.NewReader(want), "fetchgate_limit_rejections_total"); err != nil {
			t.Error(err)
		}
	}
}

// only gathers the series of one limit.
type only struct {
	prometheus.Gatherer
	limit string
}

func (o only) Gather() ([]*dto.MetricFamily, error) {
	families, err := o.Gatherer.Gather()
	for _, f := range families {
		f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool {
			return !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "limit" && l.GetValue() == o.limit })
		})
	}
	return families, err
}

func limitNames(limits reflect.Type, prefix string) []string {
	var names []string
	for i := range limits.NumField() {
		f := limits.Field(i)
		switch {
		case f.Name == "MaxTimeouts", strings.HasPrefix(f.Name, "Highest"): // a column of the table
		case f.Type == reflect.TypeFor[fetch.Timeouts]():
			names = append(names, limitNames(f.Type, "timeouts.")...)
		default:
			names = append(names, prefix+snake(f.Name))
		}
	}
	return names
}

func snake(name string) string {
	name = regexp.MustCompile("([A-Z]+)([A-Z][a-z])").ReplaceAllString(name, "${1}_${2}")
	return strings.ToLower(regexp.MustCompile("([a-z])([A-Z])").ReplaceAllString(name, "${1}_${2}"))
}
