package telemetry

import (
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
	if o.Pool != nil {
		r.register(poolCollector{o.Pool})
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
