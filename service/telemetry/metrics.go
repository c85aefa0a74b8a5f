package telemetry

import (
	"errors"
	"reflect"
	"strings"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The closed values of labels.
var (
	rpcs          = newVocabulary("Fetch", "StreamFetch", "BatchFetch", "Exchange", "WebSocket")
	outcomes      = newVocabulary(string(fetch.OutcomeResponse), string(fetch.OutcomeFailure), string(fetch.OutcomeDenied), string(fetch.OutcomeRejected), string(fetch.OutcomeCanceled))
	reasons       = newVocabulary(reasonWords()...)
	directions    = newVocabulary("up", "down")
	decisions     = newVocabulary("allow", "deny", "would_deny")
	statusClasses = newVocabulary(none, "1xx", "2xx", "3xx", "4xx", "5xx")
	truths        = newVocabulary("false", "true")
	stages        = newVocabulary("wait", "resolve", "connect", "tls", "send", "head", "body")
	attemptKinds  = newVocabulary("first", "retry")
	suppressions  = newVocabulary("budget", "deadline", "not_idempotent", "body", "max")
	redirections  = newVocabulary("followed", "refused", "returned")
	lookupResults = newVocabulary("miss", "negative", "error")
	addressKinds  = newVocabulary("special", "private", "loopback", "link_local", "multicast", "shared", "metadata", "tunnel", "outside", "own_listener", "denied_range")
	limitNames    = newVocabulary(limitWords()...)
	limitScopes   = newVocabulary(string(ScopeCaller), string(ScopePeer), string(ScopeOrigin), string(ScopeServer), string(ScopeRequest))
	reloadResults = newVocabulary("success", "failure")
	kinds         = newVocabulary("basic", "bearer", "api_key", "header", "client_certificate")
	usages        = newVocabulary("applied", "dropped")
	handshakes    = newVocabulary("no_certificate", "bad_certificate", "revoked", "outdated_list", "not_tls", "distrusted", "protocol", "timeout", "closed")
)

// refusalWords are the reasons of RPC errors that are no reasons of failures.
var refusalWords = []string{
	string(fetch.ReasonDestinationDenied), "FIELD_INVALID", "NOT_OFFERED", "CA_UNKNOWN", "CALLER_UNKNOWN", "RIGHT_MISSING", "CALLER_QUOTA", "OVERLOADED",
}

func reasonWords() []string {
	words := append([]string{none}, refusalWords...)
	for i := range fetch.ReasonTable {
		words = append(words, string(fetch.ReasonTable[i].Reason))
	}
	return words
}

// limitWords are the names of the rows of docs/limits.md: the fields of
// fetch.Limits and two more.
func limitWords() []string {
	words := []string{"max_url_bytes", "max_method_bytes", "audit_queue"}
	// Those of the connections of callers, as package listener calls them.
	words = append(words, "connections", "connections_per_peer", "idle", "descriptors", "stalled_write", "silent_request",
		"resets", "settings", "control_frames", "header_block", "unfinished_messages")
	for _, field := range reflect.VisibleFields(reflect.TypeFor[fetch.Limits]()) {
		words = append(words, snake(field.Name))
	}
	return words
}

// snake spells MaxIdle max_idle.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// seconds are the bounds of histograms, those that OpenTelemetry advises for
// http.client.request.duration; longSeconds go on for slow upstreams.
var (
	seconds     = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	longSeconds = append(seconds[:len(seconds):len(seconds)], 30, 60)
)

// vectors are the metrics with labels that a configuration names.
type vectors struct {
	callerFetches, callerBytes, decisions, requests, opened, reuse *prometheus.CounterVec
	requestTime                                                    *prometheus.HistogramVec
	notAfter                                                       *prometheus.GaugeVec
	credentialUses, credentialEchoes                               *prometheus.CounterVec
}

// metrics are all that is counted.
type metrics struct {
	vectors vectors

	inFlight    *grid[prometheus.Gauge]
	fetches     *grid[prometheus.Counter]
	fetchTime   *grid[prometheus.Observer]
	stageTime   *grid[prometheus.Observer]
	attempts    *grid[prometheus.Counter]
	suppressed  *grid[prometheus.Counter]
	redirects   *grid[prometheus.Counter]
	lookups     *grid[prometheus.Counter]
	lookupTime  prometheus.Observer
	denials     *grid[prometheus.Counter]
	rejections  *grid[prometheus.Counter]
	handshakes  *grid[prometheus.Counter]
	reloads     *grid[prometheus.Counter]
	reloadGood  prometheus.Gauge
	reloadTime  prometheus.Gauge
	config      *prometheus.GaugeVec
	dangerous   *prometheus.GaugeVec
	auditRecord *prometheus.CounterVec
	auditLost   prometheus.Counter
}

func newMetrics(r *registrar) *metrics {
	m := &metrics{vectors: newVectors(r)}
	m.inFlight = newGrid(r.gauge("fetches_in_flight", "Fetches under way.", "rpc").WithLabelValues, rpcs)
	m.fetches = newGrid(r.counter("fetches_total", "Fetches that ended.", "rpc", "outcome", "reason").WithLabelValues, rpcs, outcomes, reasons)
	m.fetchTime = newGrid(r.histogram("fetch_duration_seconds", "How long fetches took.", seconds, "rpc", "outcome").WithLabelValues, rpcs, outcomes)
	m.stageTime = newGrid(r.histogram("stage_duration_seconds", "How long the stages of hops took.", seconds, "stage").WithLabelValues, stages)
	m.attempts = newGrid(r.counter("attempts_total", "Attempts that ended.", "kind", "result").WithLabelValues, attemptKinds, outcomes)
	m.suppressed = newGrid(r.counter("retries_suppressed_total", "Fetches whose retry was due and not made.", "why").WithLabelValues, suppressions)
	m.redirects = newGrid(r.counter("redirects_total", "Redirects of upstreams.", "result").WithLabelValues, redirections)
	m.lookups = newGrid(r.counter("dns_lookups_total", "Names that were resolved for a hop.", "result").WithLabelValues, lookupResults)
	m.lookupTime = r.histogram("dns_lookup_duration_seconds", "How long resolving the name of a hop took.", seconds).WithLabelValues()
	m.denials = newGrid(r.counter("address_denials_total", "Fetches that ended because policy denied an address.", "class").WithLabelValues, addressKinds)
	m.rejections = newGrid(r.counter("limit_rejections_total", "Fetches that a limit ended or kept out.", "limit", "scope").WithLabelValues, limitNames, limitScopes)
	m.handshakes = newGrid(r.counter("listener_handshake_failures_total", "TLS handshakes of callers that failed.", "why").WithLabelValues, handshakes)
	m.reloads = newGrid(r.counter("config_reloads_total", "Configurations that were read.", "result").WithLabelValues, reloadResults)
	m.reloadGood = r.gauge("config_last_reload_successful", "Whether the last configuration that was read is in force.").WithLabelValues()
	m.reloadTime = r.gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was taken.").WithLabelValues()
	m.config = r.gauge("config_info", "The configuration in force; always 1.", "generation", "digest")
	m.dangerous = r.gauge("dangerous_settings", "How often a dangerous_ setting is in force.", "setting")
	m.auditRecord = r.counter("audit_records_total", "Lines of the audit record.", "sink", "result")
	m.auditLost = r.counter("audit_records_lost_total", "Lines of the audit record that were lost.").WithLabelValues()
	return m
}

func newVectors(r *registrar) vectors {
	return vectors{
		callerFetches: r.counter("caller_fetches_total", "Fetches that ended.", "caller", "outcome"),
		callerBytes:   r.counter("caller_bytes_total", "Bytes of bodies, to upstreams (up) and to callers (down).", "caller", "direction"),
		decisions:     r.counter("decisions_total", "Decisions about hops by the rule that made them.", "rule", "decision"),
		requests:      r.counter("upstream_requests_total", "Hops by the status of the response.", "origin", "status_class", "reason"),
		requestTime:   r.histogram("upstream_request_duration_seconds", "How long hops took, with the body of the response.", longSeconds, "origin"),
		opened:        r.counter("pool_connections_opened_total", "Connections that were opened.", "origin"),
		reuse:         r.counter("pool_reuse_total", "Hops by whether their connection was open before.", "origin", "reused"),
		notAfter:      r.gauge("upstream_certificate_not_after_timestamp_seconds", "When the certificate that was seen last expires.", "origin"),

		credentialUses:   r.counter("credential_uses_total", "Hops that credentials were applied to, or dropped from.", "credential", "kind", "result"),
		credentialEchoes: r.counter("credential_echoes_total", "Hops whose upstream showed the secret of a credential.", "credential"),
	}
}

// registrar makes metrics and registers them; the errors come together.
type registrar struct {
	to  prometheus.Registerer
	err error
}

const namespace = "fetchgate"

func (r *registrar) register(c prometheus.Collector) { r.err = errors.Join(r.err, r.to.Register(c)) }

func (r *registrar) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.register(v)
	return v
}

func (r *registrar) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.register(v)
	return v
}

func (r *registrar) gaugeFunc(name, help string, value func() float64) {
	r.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value))
}

// histogram has classic buckets; with the long bounds it is native as well,
// for scrapers that ask.
func (r *registrar) histogram(name, help string, bounds []float64, labels ...string) *prometheus.HistogramVec {
	o := prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: bounds}
	if len(bounds) == len(longSeconds) {
		o.NativeHistogramBucketFactor, o.NativeHistogramMaxBucketNumber = 1.1, 100
	}
	v := prometheus.NewHistogramVec(o, labels)
	r.register(v)
	return v
}
