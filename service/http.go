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
// which configuration. A configuration that was refused does not change the
// answer: the last good one is in force.
func (s *Service) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.ready.Load() {
		io.WriteString(w, "ok\n")
	} else {
		http.Error(w, "draining: send new fetches to another replica", http.StatusServiceUnavailable)
	}
	if r.URL.Query().Has("verbose") {
		s.reloads.describe(w, s.config.Source)
		g := s.current.Load()
		describeMode(w, g.config)
		if n := len(g.credentials.Awaited()); n > 0 {
			fmt.Fprintf(w, "next_files_absent: %d\n", n) // whose, the log says
		}
	}
}

// describeMode writes what /readyz?verbose says of how far rules are enforced.
func describeMode(w io.Writer, c *config.Loaded) {
	fmt.Fprintf(w, "mode: %s\n", cmp.Or(c.Config.GetMode(), "enforce"))
	for _, mode := range c.NotEnforced() {
		fmt.Fprintf(w, "not_enforced: %s\n", mode)
	}
}
