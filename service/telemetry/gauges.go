package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// observe registers what is read when /metrics is.
func (r *registrar) observe(o Options) {
	if o.Load != nil {
		r.gaugeFunc("load_ratio", "How much of its limits the server uses: the largest share.", o.Load)
	}
	if o.Draining != nil {
		r.gaugeFunc("draining", "Whether the server takes no new fetches.", func() float64 {
			if o.Draining() {
				return 1
			}
			return 0
		})
	}
	if o.AwaitedSecrets != nil {
		r.gaugeFunc("credential_next_files_absent", "Credentials whose next_file is not there.", func() float64 { return float64(o.AwaitedSecrets()) })
	}
	if o.Pool != nil {
		r.register(poolCollector{o.Pool})
	}
	if o.IssuerKeys != nil {
		r.register(keysCollector{o.IssuerKeys})
	}
	if o.ListenerUntil != nil {
		r.register(untilCollector{o.ListenerUntil})
	}
}

var (
	certificateUntil = prometheus.NewDesc("fetchgate_listener_certificate_not_after_timestamp_seconds",
		"When the certificate of the gRPC listener expires.", nil, nil)
	listsUntil = prometheus.NewDesc("fetchgate_listener_crl_next_update_timestamp_seconds",
		"When the first of the revocation lists of callers is out of date.", nil, nil)
)

// untilCollector shows what of the listener's TLS expires.
type untilCollector struct {
	until func() (certificate, lists time.Time)
}

// Describe implements prometheus.Collector.
func (c untilCollector) Describe(to chan<- *prometheus.Desc) {
	to <- certificateUntil
	to <- listsUntil
}

// Collect implements prometheus.Collector.
func (c untilCollector) Collect(to chan<- prometheus.Metric) {
	certificate, lists := c.until()
	for of, at := range map[*prometheus.Desc]time.Time{certificateUntil: certificate, listsUntil: lists} {
		if !at.IsZero() {
			to <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, float64(at.Unix()))
		}
	}
}

var (
	poolOpen = prometheus.NewDesc("fetchgate_pool_connections",
		"Connections of the pool, and dials under way.", []string{"state", "protocol"}, nil)
	poolClosed = prometheus.NewDesc("fetchgate_pool_connections_closed_total",
		"Connections that ended.", []string{"why"}, nil)
)

// The pool's states, protocols and causes, closed lists.
var (
	poolStates    = []string{"idle", "active"}
	poolProtocols = []string{"h1", "h2"}
	poolCauses    = []fetch.CloseCause{fetch.ClosedIdle, fetch.ClosedAge, fetch.ClosedError, fetch.ClosedPolicy, fetch.ClosedPeer}
)

// poolCollector shows the state of the pool.
type poolCollector struct{ stats func() fetch.PoolStats }

// Describe implements prometheus.Collector.
func (c poolCollector) Describe(to chan<- *prometheus.Desc) {
	to <- poolOpen
	to <- poolClosed
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	stats := c.stats()
	for _, state := range poolStates {
		for _, protocol := range poolProtocols {
			open := stats.Open[fetch.PoolState{State: state, Protocol: protocol}]
			to <- prometheus.MustNewConstMetric(poolOpen, prometheus.GaugeValue, float64(open), state, protocol)
		}
	}
	// Which protocol it will be is not known before the handshake.
	to <- prometheus.MustNewConstMetric(poolOpen, prometheus.GaugeValue, float64(stats.Dialing), "dialing", none)
	for _, why := range poolCauses {
		to <- prometheus.MustNewConstMetric(poolClosed, prometheus.CounterValue, float64(stats.Closed[why]), string(why))
	}
}

var (
	keysFetches = prometheus.NewDesc("fetchgate_issuer_keys_fetches_total",
		"Fetches of the keys of an issuer of JWTs.", []string{"issuer", "result"}, nil)
	keysAt = prometheus.NewDesc("fetchgate_issuer_keys_last_success_timestamp_seconds",
		"When the keys of an issuer of JWTs were fetched last; 0 means that they have not been.", []string{"issuer"}, nil)
)

// IssuerKeys is what came of the fetches of the keys of one issuer.
type IssuerKeys struct {
	// Issuer is its name in the configuration, which has 100 at most.
	Issuer string
	// Fetched and Failed count the fetches that gave usable keys, and the others.
	Fetched, Failed int64
	// At is when the last one gave usable keys; zero: none has yet.
	At time.Time
}

// keysCollector shows the fetches of keys of issuers.
type keysCollector struct{ keys func() []IssuerKeys }

// Describe implements prometheus.Collector.
func (c keysCollector) Describe(to chan<- *prometheus.Desc) {
	to <- keysFetches
	to <- keysAt
}

// Collect implements prometheus.Collector.
func (c keysCollector) Collect(to chan<- prometheus.Metric) {
	for _, k := range c.keys() {
		to <- prometheus.MustNewConstMetric(keysFetches, prometheus.CounterValue, float64(k.Fetched), k.Issuer, "success")
		to <- prometheus.MustNewConstMetric(keysFetches, prometheus.CounterValue, float64(k.Failed), k.Issuer, "failure")
		at := 0.0
		if !k.At.IsZero() {
			at = float64(k.At.UnixMilli()) / 1000
		}
		to <- prometheus.MustNewConstMetric(keysAt, prometheus.GaugeValue, at, k.Issuer)
	}
}

var budgetLeft = prometheus.NewDesc("fetchgate_retry_budget_ratio",
	"How much of the retry budget is left, of the caller that has least.", []string{"origin"}, nil)

// budgetCollector shows the retry budgets towards the origins that have labels.
type budgetCollector struct {
	left  func() map[fetch.Origin]float64
	names func() *names
}

// Describe implements prometheus.Collector.
func (c budgetCollector) Describe(to chan<- *prometheus.Desc) { to <- budgetLeft }

// Collect implements prometheus.Collector.
func (c budgetCollector) Collect(to chan<- prometheus.Metric) {
	origins := c.names().origins
	least := map[string]float64{}
	for origin, left := range c.left() {
		label := origins.values[origins.of(origin)]
		if known, seen := least[label]; !seen || left < known {
			least[label] = left
		}
	}
	for label, left := range least {
		to <- prometheus.MustNewConstMetric(budgetLeft, prometheus.GaugeValue, left, label)
	}
}
