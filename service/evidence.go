package service

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/collector"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/telemetry"
	"github.com/fetchgate/fetchgate/service/transport"
)

// leastHeldBytes is the least that max_held_bytes is without a setting.
const leastHeldBytes = 16 << 20

// limitsOf returns the limits in force. What may be held follows from the memory
// that the process may use, where that is known and the configuration says
// nothing.
func limitsOf(c *config.Loaded) fetch.Limits {
	limits := c.Limits()
	set := c.Config.GetLimits()
	isSet := set != nil && set.MaxHeldBytes != nil
	if most := debug.SetMemoryLimit(-1); most != math.MaxInt64 && !isSet {
		limits.MaxHeldBytes = max(most/4, leastHeldBytes)
	}
	return limits
}

// record starts the audit record, the metrics of fetches and, where they are
// configured, traces.
func (s *Service) record(o Options, first *generation, m *metrics, t *transport.Transport, budget *limit.RetryBudget) error {
	replica, err := os.Hostname()
	if err != nil {
		replica = "unknown"
	}
	s.recorder, err = telemetry.New(telemetry.Options{
		Configuration: first.evidence,
		Registry:      m.registry, Stdout: o.Stdout, Replica: replica, Version: o.Version, Log: o.Log,
		Collect: func(endpoint string) (telemetry.Collector, error) {
			return collector.NewLogs(endpoint, s.userAgent)
		},
		Pool: t.Stats, Load: s.load, Draining: s.draining, AwaitedSecrets: func() int { return len(s.current.Load().credentials.Awaited()) },
		IssuerKeys: s.issuerKeys, ListenerUntil: s.listenerUntil(),
		RetryBudget: func() map[fetch.Origin]float64 { return remaining(budget, s.current.Load().origins) },
	})
	if err != nil {
		return err
	}
	endpoint := o.Config.Config.GetTelemetry().GetTracing().GetOtlpEndpoint()
	if endpoint == "" {
		return nil
	}
	s.tracing, err = telemetry.NewTracing(context.Background(), endpoint, o.Version)
	return err
}

// namedOrigins are the origins that the configuration names in full.
func namedOrigins(c *configv1.Config) []fetch.Origin {
	named := slices.Clone(c.GetTelemetry().GetOrigins())
	for _, r := range c.GetRules() {
		named = append(named, r.GetOrigins()...)
	}
	var origins []fetch.Origin
	for _, origin := range named {
		if d, err := fetch.ParseURL(origin + "/"); err == nil && !strings.Contains(origin, "*") {
			origins = append(origins, d.Origin)
		}
	}
	return origins
}

// remaining is how much of the retry budget is left towards each of the origins
// that has one.
func remaining(b *limit.RetryBudget, origins []fetch.Origin) map[fetch.Origin]float64 {
	left := map[fetch.Origin]float64{}
	for _, o := range origins {
		if part, known := b.Remaining(o); known {
			left[o] = part
		}
	}
	return left
}

// load is how much of its limits on fetches at once the service uses.
func (s *Service) load() float64 {
	live, held := s.admission.Load()
	return max(float64(live)/float64(s.limits.MaxLiveFetches), float64(held)/float64(s.limits.MaxHeldBytes))
}

// inFlight is how many fetches have a place.
func (s *Service) inFlight() int {
	live, _ := s.admission.Load()
	return live
}

// draining tells that no new fetch is taken.
func (s *Service) draining() bool { return s.server.Draining() }

// endRecord writes what waits to be written.
func (s *Service) endRecord() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.recorder != nil {
		if err := s.recorder.Close(ctx); err != nil {
			s.log.Error("the audit record is not whole", "err", err)
		}
	}
	if s.tracing != nil {
		if err := s.tracing.Close(ctx); err != nil {
			s.log.Warn("spans were lost", "err", err)
		}
	}
}
