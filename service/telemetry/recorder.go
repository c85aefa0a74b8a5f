package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Options are what a Recorder is made of. Of the functions each may be nil: its
// metric is then absent. They are called at each scrape, several at once.
type Options struct {
	// Configuration is the one in force at the start. Its audit section counts
	// for as long as the Recorder lives.
	Configuration Configuration
	// Registry takes the metrics; nil means that nobody sees them.
	Registry prometheus.Registerer
	// Stdout takes the lines of the sink "stdout"; nil means os.Stdout.
	Stdout io.Writer
	// Replica is this process among others, for the audit record: a host name;
	// Version is its version, for the sink "otlp".
	Replica, Version string
	// Collect connects to the collector of the sink "otlp", at
	// audit.otlp_endpoint, without waiting for it. It must not be nil with that
	// sink.
	Collect func(endpoint string) (Collector, error)

	// Pool returns the state of the pool of connections.
	Pool func() fetch.PoolStats
	// Load returns how much of its limits the server uses, 0 to 1.
	Load func() float64
	// Draining tells that the server takes no new fetches.
	Draining func() bool
	// AwaitedSecrets returns how many files of next secrets are not there.
	AwaitedSecrets func() int
	// IssuerKeys returns what came of the fetches of keys of issuers.
	IssuerKeys func() []IssuerKeys
	// ListenerUntil returns until when the certificate of the listener is good, and
	// when the first of its revocation lists is out of date; zero: there is none.
	ListenerUntil func() (certificate, lists time.Time)
	// RetryBudget returns how much of the retry budget towards each origin is
	// left, 0 to 1, of the caller that has least.
	RetryBudget func() map[fetch.Origin]float64

	// Log takes what operators should know of the audit record; nil discards it.
	Log *slog.Logger
}

// sayFullEvery is how often the log is told, while it lasts, that fetches are
// refused for want of room.
const sayFullEvery = time.Minute

// Recorder writes the evidence of fetches. It is a fetch.Recorder; Close ends
// it.
type Recorder struct {
	metrics *metrics
	names   atomic.Pointer[names]
	replica string
	// audit is nil where no lines are wanted.
	audit      *queue
	onlyFailed bool
	lines      sync.Pool // of *line
	log        *slog.Logger
	saidFull   atomic.Pointer[time.Time] // when the log was told of refusals last
	// configuring is held while names changes.
	configuring sync.Mutex
}

var _ fetch.Recorder = (*Recorder)(nil)

// New makes a Recorder, opens its sink and registers its metrics. The error says
// what of the configuration to mend.
func New(o Options) (*Recorder, error) {
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	register := &registrar{to: o.Registry}
	r := &Recorder{metrics: newMetrics(register), replica: o.Replica, log: o.Log}
	r.lines.New = func() any { return &line{b: make([]byte, 0, maxLine)} }
	if err := r.Configure(o.Configuration); err != nil {
		return nil, err
	}
	register.observe(o)
	if o.RetryBudget != nil {
		register.register(budgetCollector{o.RetryBudget, r.names.Load})
	}
	audit := o.Configuration.Config.GetAudit()
	r.onlyFailed = audit.GetDetail() == "denied_and_failed"
	options, err := r.auditOptions(audit, o)
	if err != nil {
		return nil, err
	}
	if options.sink != nil {
		r.audit = newQueue(options)
	}
	register.gaugeFunc("audit_queue_bytes", "Bytes of lines of the audit record that wait to be written.", r.queued)
	register.gaugeFunc("audit_blocked_fetches", "Fetches that ended and wait for room for their line.", r.blocked)
	register.register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "audit_blocked_seconds_total", Help: "How long fetches that ended waited for room for their line, in all.",
	}, r.blockedSeconds))
	if register.err != nil {
		_ = r.Close(context.Background()) // nothing waits
		return nil, register.err
	}
	return r, nil
}

// auditOptions opens the sink; there is none where no lines are wanted.
func (r *Recorder) auditOptions(c *configv1.Audit, o Options) (queueOptions, error) {
	options := queueOptions{name: cmp.Or(c.GetSink(), "stdout"), max: 4 << 20, onFull: whenFull(c.GetOnFull()), log: o.Log}
	if c.GetMaxQueueBytes() > 0 {
		options.max = c.GetMaxQueueBytes()
	}
	if options.name == "none" {
		return queueOptions{}, nil
	}
	if err := options.open(c, o); err != nil {
		return queueOptions{}, err
	}
	options.written = r.metrics.auditRecord.WithLabelValues(options.name, "written")
	options.lost = []prometheus.Counter{r.metrics.auditRecord.WithLabelValues(options.name, "lost"), r.metrics.auditLost}
	return options, nil
}

// open opens the sink.
func (q *queueOptions) open(c *configv1.Audit, o Options) error {
	switch q.name {
	case "file":
		size, keep := int64(100<<20), 5
		if c.MaxFileBytes != nil {
			size = c.GetMaxFileBytes()
		}
		if c.KeepFiles != nil {
			keep = int(c.GetKeepFiles())
		}
		file, err := openRotated(c.GetFile(), size, keep)
		if err != nil {
			return err
		}
		q.sink, q.place, q.mend = file, "the file "+c.GetFile(), "see that its disk has room and that fetchgate may write there"
	case "otlp":
		to, err := o.Collect(c.GetOtlpEndpoint())
		if err != nil {
			return fmt.Errorf("audit.otlp_endpoint: %w", err)
		}
		sink := newExported(to, o.Version, o.Replica)
		q.sink, q.place, q.batch, q.interrupt = sink, "the collector "+c.GetOtlpEndpoint(), maxExport, sink.interrupt
		q.mend = "see that the collector runs, that fetchgate reaches it and that it takes records"
	default:
		q.sink, q.place, q.mend = onlyWriter{os.Stdout}, "standard output", "see to what reads it, or to the room where it goes"
		if o.Stdout != nil {
			q.sink = onlyWriter{o.Stdout}
		}
	}
	return nil
}

// onlyWriter keeps the queue from closing what is not its own.
type onlyWriter struct{ io.Writer }

func (r *Recorder) queued() float64 {
	if r.audit == nil {
		return 0
	}
	return r.audit.held()
}

// blocked is how many fetches wait for room.
func (r *Recorder) blocked() float64 {
	if r.audit == nil {
		return 0
	}
	return r.audit.waits()
}

// blockedSeconds is how long fetches have waited for room, all together.
func (r *Recorder) blockedSeconds() float64 {
	if r.audit == nil {
		return 0
	}
	return r.audit.blockedSeconds()
}

// Trouble is what is wrong with the audit record at the moment.
type Trouble int

const (
	NoTrouble Trouble = iota
	// Failing: its sink takes nothing, and lines wait for it.
	Failing
	// Refusing: there is no room for more, so that every fetch is refused.
	Refusing
)

// Trouble tells what is wrong with the audit record.
func (r *Recorder) Trouble() Trouble {
	if r.audit == nil {
		return NoTrouble
	}
	return r.audit.trouble()
}

// Configure makes c the configuration that evidence is written by, and counts it
// as read. Series of callers, rules and origins that c does not name are
// dropped. If it fails, what was in force stays.
func (r *Recorder) Configure(c Configuration) error {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	next, err := newNames(c, &r.metrics.vectors)
	if err != nil {
		return err
	}
	if last := r.names.Swap(next); last != nil {
		last.forget(next, &r.metrics.vectors)
	}
	r.metrics.describe(c)
	r.metrics.reloads.at(reloaded).Inc()
	r.metrics.reloadGood.Set(1)
	r.metrics.reloadTime.Set(float64(time.Now().Unix()))
	return nil
}

// ConfigureFailed counts a configuration that was read and cannot be used.
func (r *Recorder) ConfigureFailed() {
	r.metrics.reloads.at(notReloaded).Inc()
	r.metrics.reloadGood.Set(0)
}

// Rejected counts a fetch that a limit kept out. limit is the name of its row in
// docs/limits.md.
func (r *Recorder) Rejected(limit string, scope Scope) {
	r.metrics.rejections.at(limitNames.place(limit), limitScopes.place(string(scope))).Inc()
}

// HandshakeFailed counts a handshake of a caller that failed. why is one of the
// words that docs/metrics.md has for it; any other counts as "other".
func (r *Recorder) HandshakeFailed(why string) {
	r.metrics.handshakes.at(handshakes.place(why)).Inc()
}

// Begin implements fetch.Recorder. Its error is a *Full.
func (r *Recorder) Begin(rpc string) error {
	if r.audit != nil {
		if err := r.audit.reserve(); err != nil {
			r.sayFull(err)
			return err
		}
	}
	r.metrics.inFlight.at(rpcs.place(rpc)).Inc()
	return nil
}

// sayFull tells the log, which is not flooded by it, why fetches are refused.
func (r *Recorder) sayFull(err error) {
	now := time.Now()
	last := r.saidFull.Load()
	if last != nil && now.Sub(*last) < sayFullEvery || !r.saidFull.CompareAndSwap(last, &now) {
		return
	}
	r.log.Error("fetches are refused, because there is no room for their audit records", "err", err)
}

// End implements fetch.Recorder. It waits for nothing, but for room in the audit
// queue where audit.on_full is "block": until there is some, or Unblock or Close
// is called. report.RPC is what Begin was told.
func (r *Recorder) End(ctx context.Context, report *fetch.Report) {
	n := r.names.Load()
	if r.audit != nil {
		r.record(ctx, n, report)
	}
	r.metrics.count(n, report)
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		recordSpans(ctx, span, report)
	}
}

// record queues the line of a fetch.
func (r *Recorder) record(ctx context.Context, n *names, report *fetch.Report) {
	if r.onlyFailed && report.Outcome == fetch.OutcomeResponse {
		r.audit.put(nil)
		return
	}
	l := r.lines.Get().(*line)
	l.write(ctx, n, report, r.replica)
	r.audit.put(l.b)
	r.lines.Put(l)
}

// Unblock has no End wait from now on. The lines of those that waited are kept
// beyond audit.max_queue_bytes, up to twice as many; what is beyond that is lost
// and counted.
func (r *Recorder) Unblock() {
	if r.audit != nil {
		r.audit.unblock()
	}
}

// Close writes what waits to be written. When ctx ends before, the rest is lost
// and counted, and the error says so. End may be called afterwards, or wait
// still; its line is lost and counted.
func (r *Recorder) Close(ctx context.Context) error {
	if r.audit == nil {
		return nil
	}
	return r.audit.close(ctx)
}
