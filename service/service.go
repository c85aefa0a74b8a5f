// Package service builds the whole from a configuration, starts it and stops it
// in order: the only wiring, used by cmd, demo and fetchtest alike.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/listener"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/server"
	"github.com/fetchgate/fetchgate/service/telemetry"
	"github.com/fetchgate/fetchgate/service/transport"
)

// Options are what a Service is built from.
type Options struct {
	// Config is the configuration; nil means config.Default().
	Config *config.Loaded
	// GRPCAddress and HTTPAddress, HOST:PORT, replace those of the
	// configuration when they are not empty.
	GRPCAddress string
	HTTPAddress string
	// Version is what User-Agent and the metrics say; empty means "dev".
	Version string
	// Log takes what operators should know; nil discards it.
	Log *slog.Logger
	// Stdout takes the audit record where its sink is "stdout"; nil means
	// os.Stdout.
	Stdout io.Writer

	// Resolver and Connect stand in for DNS and the network in tests. No
	// configuration reaches them.
	Resolver dial.Resolver
	Connect  dial.Connect
	// Ticks stands in for the clock by which the files of the configuration are
	// watched; nil means every second.
	Ticks <-chan time.Time
}

// Service is a fetchgate that listens.
type Service struct {
	// config and limits are those of the start: what is read once is of them.
	config *config.Loaded
	limits fetch.Limits
	// userAgent is what fetchgate calls itself.
	userAgent string
	// grpcAddress is where the API was asked to listen.
	grpcAddress string
	// current is the one configuration in force.
	current atomic.Pointer[generation]
	reloads reloads
	ticks   <-chan time.Time

	log       *slog.Logger
	transport fetch.Transport
	engine    *engine.Engine
	server    *server.Server
	admission *limit.Admission
	recorder  *telemetry.Recorder
	tracing   *telemetry.Tracing // nil where none is configured
	health    *health.Server
	grpc      *grpc.Server
	http      *http.Server
	// ownAddresses are the listeners that no fetch may reach.
	ownAddresses []netip.AddrPort
	listeners    struct {
		grpc *listener.Listener
		unix *listener.Listener // nil: none
		http net.Listener
	}
	// tls is that of listeners.grpc; nil: it has none.
	tls   listenerTLS
	ready atomic.Bool
	// watching ends the RPCs that only watch the service, when it drains.
	watching   context.Context
	endWatches context.CancelFunc
}

// New builds a service and opens its listeners; it answers from Serve on. The
// error says what to mend in the configuration or on the machine.
func New(o Options) (*Service, error) {
	o = withDefaults(o)
	s := &Service{config: o.Config, log: o.Log, limits: limitsOf(o.Config), userAgent: "fetchgate/" + o.Version, grpcAddress: o.GRPCAddress, ticks: o.Ticks}
	s.watching, s.endWatches = context.WithCancel(context.Background())
	if err := s.listen(o); err != nil {
		return nil, err
	}
	if err := s.build(o); err != nil {
		s.closeListeners()
		s.closeTLS()
		s.endRecord()
		return nil, err
	}
	return s, nil
}

func withDefaults(o Options) Options {
	if o.Config == nil {
		o.Config = config.Default()
	}
	if o.GRPCAddress == "" {
		o.GRPCAddress = o.Config.GRPCAddress()
	}
	if o.HTTPAddress == "" {
		o.HTTPAddress = o.Config.HTTPAddress()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (s *Service) listen(o Options) error {
	if err := o.Config.CheckListen(o.GRPCAddress); err != nil {
		return err
	}
	callers, err := net.Listen(network(o.GRPCAddress), o.GRPCAddress)
	if err != nil {
		return fmt.Errorf("cannot listen for gRPC: %w; choose another address with --grpc-address", err)
	}
	s.listeners.grpc = s.admit(callers, o)
	if err := s.listenUnix(o.Config); err != nil {
		s.closeListeners()
		return err
	}
	if s.listeners.http, err = net.Listen(network(o.HTTPAddress), o.HTTPAddress); err != nil {
		s.closeListeners()
		return fmt.Errorf("cannot listen for HTTP: %w; choose another address with --http-address", err)
	}
	s.ownAddresses = []netip.AddrPort{addrPort(s.listeners.grpc), addrPort(s.listeners.http)}
	return nil
}

// network keeps 0.0.0.0 to IPv4: for Go it would be every address of IPv6 too.
func network(address string) string {
	if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}

func (s *Service) closeListeners() {
	if s.listeners.grpc != nil {
		s.listeners.grpc.Close()
	}
	if s.listeners.unix != nil {
		s.listeners.unix.Close()
	}
	if s.listeners.http != nil {
		s.listeners.http.Close()
	}
}

// build puts the packages together, from the inside out.
func (s *Service) build(o Options) error {
	s.admission = limit.NewAdmission(s.limits)
	first, err := s.buildGeneration(o.Config)
	if err != nil {
		return err
	}
	secured, err := s.credentials(o.Config)
	if err != nil {
		return err
	}
	dialer := dial.New(dial.Options{Resolver: o.Resolver, Connect: o.Connect})
	t := transport.New(transport.Options{
		Dialer: dialer,
		Roots:  first.tls.Roots,
		Limits: s.limits,
		Log:    o.Log,
	})
	budget := limit.NewRetryBudget(s.limits.RetryBudgetRatio, s.limits.RetryBudgetPerSecond)
	metrics := newMetrics(o.Version)
	s.transport = t
	if err := s.record(o, first, metrics, t, budget); err != nil {
		return errors.Join(err, t.Close(context.Background()))
	}
	s.engine = engine.New(t, first.policy, budget)
	s.server = server.New(s.engine, server.Options{
		UserAgent: s.userAgent,
		Pinned:    func(ctx context.Context) *server.Snapshot { return s.pinned(ctx).fetches },
		InForce:   s.reloads.told,
		Admission: s.admission,
		Recorder:  s.recorder,
		OnRefused: func(r *limit.Refused) { s.recorder.Rejected(r.Limit, telemetry.Scope(r.Scope)) },
		JudgeHost: dialer.Judge,
		Log:       o.Log,
	})
	s.enforce(first)
	s.announce(first, nil)
	s.health = health.NewServer()
	s.health.SetServingStatus(fetchgatev1.FetchService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	around := s.aroundUnary(metrics)
	s.grpc = s.newGRPC(metrics, s.withUnix(secured), around)
	s.server.Register(s.grpc, around)
	registerHealth(s.grpc, s.health)
	if isLoopback(s.listeners.grpc.Addr()) {
		registerReflection(s.grpc)
	}
	metrics.initialize(s.grpc)
	s.http = newHTTP(s, metrics)
	return nil
}

// own are the listeners that no fetch may reach.
func (s *Service) own() []netip.AddrPort { return s.ownAddresses }

func addrPort(l net.Listener) netip.AddrPort {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// CompilePolicy compiles the rules of a configuration; its errors say the file,
// the line and the column.
//
// A file without rules allows nothing: a part of a file that is cut off, or a
// key that is forgotten, opens no network.
func CompilePolicy(c *config.Loaded, own func() []netip.AddrPort) (*policy.Policy, error) {
	rules := c.Config.GetRules()
	if rules == nil && c.IsFile() {
		rules = []*configv1.Rule{}
	}
	p, err := policy.Compile(rules, policy.Options{Own: own, Locate: c.Locate, Mode: c.Config.GetMode(), TLSProfiles: c.TLSProfiles()})
	if err == nil {
		return p, nil
	}
	return nil, c.Refuse(faults(err))
}

// faults are what a compiler finds wrong with settings.
func faults(err error) []config.Problem {
	var all []config.Problem
	for _, e := range policy.Joined(err) {
		all = append(all, problemOf(e))
	}
	return all
}

func problemOf(err error) config.Problem {
	if rule, ok := errors.AsType[*policy.RuleError](err); ok {
		return config.Problem{Path: rule.Path, Message: rule.Message}
	}
	if file, ok := errors.AsType[*caller.FileError](err); ok {
		return config.Problem{Path: file.Path, Message: file.Message}
	}
	if setting, ok := errors.AsType[*credential.SettingError](err); ok {
		return config.Problem{Path: setting.Path, Message: setting.Message}
	}
	return config.Problem{Message: err.Error()}
}

// GRPCAddress is where the API listens.
func (s *Service) GRPCAddress() string { return s.listeners.grpc.Addr().String() }

// HTTPAddress is where /healthz, /readyz and /metrics are.
func (s *Service) HTTPAddress() string { return s.listeners.http.Addr().String() }

// Rules says what is allowed, one line for each rule.
func (s *Service) Rules() []string { return s.current.Load().policy.Describe() }

// Serve answers until ctx ends, then drains: no new fetch is taken, those in
// flight may go on for the configured grace.
func (s *Service) Serve(ctx context.Context) error {
	s.ready.Store(true)
	at := []any{"grpc", s.GRPCAddress()}
	if path := s.UnixAddress(); path != "" {
		at = append(at, "unix", path)
	}
	s.log.Info("listening", append(at, "http", s.HTTPAddress(),
		"config", s.config.Source, "generation", s.config.Generation, "dangerous", s.config.Dangerous(), "not_enforced", s.config.NotEnforced())...)
	// The end of ctx and the failure of a listener both end what is left.
	running, ended := errgroup.WithContext(ctx)
	running.Go(func() error {
		<-ended.Done()
		s.stop(ctx.Err() != nil)
		return nil
	})
	running.Go(func() error {
		s.watch(ended)
		return nil
	})
	running.Go(func() error {
		s.renewKeys(ended)
		return nil
	})
	running.Go(func() error { return s.serveCallers(s.listeners.grpc) })
	if s.listeners.unix != nil {
		running.Go(func() error { return s.serveCallers(s.listeners.unix) })
	}
	running.Go(func() error {
		if err := s.http.Serve(s.listeners.http); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return running.Wait()
}

func (s *Service) serveCallers(l net.Listener) error {
	// A service that is stopped before it answers has nothing to drain.
	if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// lastWord is how long fetches that a drain has cut have to tell their callers.
const lastWord = 2 * time.Second

// stop ends the service in order, told tells that it was asked to: say so, let fetches end, cut what is left,
// close upstream connections, close the HTTP listener last.
func (s *Service) stop(told bool) {
	s.ready.Store(false)
	s.health.Shutdown()
	s.endWatches()
	last := s.current.Load().config
	delay, grace := last.DrainDelay(), last.DrainGrace()
	s.log.Info("draining", "delay", delay.String(), "grace", grace.String(), "in_flight", s.inFlight())
	if delay > 0 && told {
		<-time.After(delay) // load balancers turn away meanwhile
	}
	s.server.Drain()
	cut := time.AfterFunc(grace, func() {
		s.log.Warn("the grace is over: cutting the fetches in flight", "grace", grace.String(), "in_flight", s.inFlight())
		s.engine.Drain()
		s.recorder.Unblock()
	})
	kill := time.AfterFunc(grace+lastWord, s.grpc.Stop)
	s.grpc.GracefulStop()
	cut.Stop()
	kill.Stop()
	s.server.Wait()
	s.closeTLS()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.transport.Close(ctx); err != nil {
		s.log.Warn("closing upstream connections", "err", err)
	}
	s.endRecord()
	ctx, cancel = context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	s.log.Info("stopped", "in_flight", s.inFlight())
}
