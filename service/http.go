package service

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"time"

	grpcprometheus "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// metrics are what /metrics shows.
type metrics struct {
	registry *prometheus.Registry
	rpcs     *grpcprometheus.ServerMetrics
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		rpcs:     grpcprometheus.NewServerMetrics(grpcprometheus.WithServerHandlingTimeHistogram()),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fetchgate_build_info", Help: "The version that runs; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.rpcs, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// initialize makes every RPC appear before it is called.
func (m *metrics) initialize(s *grpc.Server) { m.rpcs.InitializeMetrics(s) }

// newHTTP is the server of /healthz, /readyz and /metrics.
func newHTTP(s *Service, m *metrics) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// serveReady says whether new fetches are taken and, asked for verbose, under
// which configuration and what is wrong. A full audit record that has every fetch
// refused changes the answer: another replica may have room. A configuration that
// was refused does not: the last good one is in force.
func (s *Service) serveReady(w http.ResponseWriter, r *http.Request) {
	trouble := s.recorder.Trouble()
	switch {
	case !s.ready.Load():
		http.Error(w, "draining: send new fetches to another replica", http.StatusServiceUnavailable)
	case trouble == telemetry.Refusing:
		http.Error(w, "the audit record is full, and every fetch is refused: send new fetches to another replica", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ok\n")
	}
	if r.URL.Query().Has("verbose") {
		s.reloads.describe(w, s.config.Source)
		g := s.current.Load()
		describeMode(w, g.config)
		if n := len(g.credentials.Awaited()); n > 0 {
			fmt.Fprintf(w, "next_files_absent: %d\n", n) // whose, the log says
		}
		s.describeTroubles(w, trouble)
	}
}

// describeTroubles writes what /readyz?verbose says of what is wrong at the moment
// and concerns part of the fetches or callers. Addresses and names of files are in
// the log alone.
func (s *Service) describeTroubles(w io.Writer, audit telemetry.Trouble) {
	if audit != telemetry.NoTrouble {
		fmt.Fprintln(w, "audit: the sink takes no lines; the log says why")
	}
	for _, k := range s.issuerKeys() {
		if k.At.IsZero() {
			fmt.Fprintf(w, "issuer_without_keys: %s\n", k.Issuer)
		}
	}
	if s.tls == nil {
		return
	}
	certificate, lists := s.tls.Until()
	now := time.Now()
	if now.After(certificate) {
		fmt.Fprintf(w, "listener_certificate: expired at %s\n", certificate.UTC().Format(time.RFC3339))
	}
	if !lists.IsZero() && now.After(lists) {
		fmt.Fprintf(w, "revocation_list: a newer one was due at %s; callers of its authority are refused\n", lists.UTC().Format(time.RFC3339))
	}
}

// describeMode writes what /readyz?verbose says of how far rules are enforced.
func describeMode(w io.Writer, c *config.Loaded) {
	fmt.Fprintf(w, "mode: %s\n", cmp.Or(c.Config.GetMode(), "enforce"))
	for _, mode := range c.NotEnforced() {
		fmt.Fprintf(w, "not_enforced: %s\n", mode)
	}
}
