package config

import (
	"crypto/tls"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// GRPCAddress returns where the gRPC API listens, HOST:PORT. Default
// 127.0.0.1:7801.
func (l *Loaded) GRPCAddress() string {
	if a := l.Config.GetGrpc().GetAddress(); a != "" {
		return a
	}
	return "127.0.0.1:7801"
}

// HTTPAddress returns where health and metrics are served, HOST:PORT. Default
// 127.0.0.1:7802.
func (l *Loaded) HTTPAddress() string {
	if a := l.Config.GetHttp().GetAddress(); a != "" {
		return a
	}
	return "127.0.0.1:7802"
}

// DrainGrace returns how long fetches in flight may go on after the server was
// told to stop, 0 to 24 h. Default 30 s; 0 ends them at once.
func (l *Loaded) DrainGrace() time.Duration {
	grace := 30 * time.Second
	setDuration(&grace, l.Config.GetGrpc().GetDrainGrace())
	return grace
}

// MaxConcurrentStreams returns the most RPCs at once on one connection, 1 to
// 100000. Default 1000.
func (l *Loaded) MaxConcurrentStreams() uint32 {
	streams := uint32(1000)
	if c := l.Config.GetGrpc(); c != nil {
		set(&streams, c.MaxConcurrentStreams)
	}
	return streams
}

// MinTLSVersion returns the least TLS version for upstreams, as in crypto/tls.
// Default TLS 1.2.
func (l *Loaded) MinTLSVersion() uint16 {
	if l.Config.GetUpstreamTls().GetMinVersion() == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// LogLevel returns the least level that is logged. Default info.
func (l *Loaded) LogLevel() slog.Level {
	switch l.Config.GetLog().GetLevel() {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// LogJSON tells whether the log is JSON. Default false, which is text.
func (l *Loaded) LogJSON() bool { return l.Config.GetLog().GetFormat() == "json" }

// Limits returns the limits in force: [fetch.DefaultLimits], but for what the
// file sets. A default timeout that the file does not set is at most the
// maximum that it does set.
func (l *Loaded) Limits() fetch.Limits {
	limits := fetch.DefaultLimits()
	c := l.Config.GetLimits()
	if c == nil {
		return limits
	}
	set(&limits.MaxResponseFields, c.MaxResponseFields)
	set(&limits.MaxResponseFieldBytes, c.MaxResponseFieldBytes)
	set(&limits.MaxRequestBodyBytes, c.MaxRequestBodyBytes)
	set(&limits.MaxResponseBodyBytes, c.MaxResponseBodyBytes)
	set(&limits.MaxDecodedRatio, c.MaxDecodedRatio)
	set(&limits.MaxDialsPerAttempt, c.MaxDialsPerAttempt)
	setDuration(&limits.MaxStreamTotal, c.GetMaxStreamTotal())
	if c.MinThroughputBytesPerSecond != nil {
		limits.MinThroughput.Bytes = c.GetMinThroughputBytesPerSecond() * int64(limits.MinThroughput.Over/time.Second)
	}
	set(&limits.MaxConnectionsPerRoute, c.MaxConnectionsPerRoute)
	set(&limits.MaxIdlePerRoute, c.MaxIdleConnectionsPerRoute)
	set(&limits.MaxIdle, c.MaxIdleConnections)
	setDuration(&limits.IdleTimeout, c.GetIdleTimeout())
	setDuration(&limits.ConnectionLifetime, c.GetConnectionLifetime())
	set(&limits.MaxConnections, c.MaxConnections)
	set(&limits.MaxAttempts, c.MaxAttempts)
	set(&limits.MaxRedirects, c.MaxRedirects)
	if c.RetryBudgetRatio != nil {
		limits.RetryBudgetRatio = c.GetRetryBudgetRatio()
	}
	set(&limits.RetryBudgetPerSecond, c.RetryBudgetPerSecond)
	set(&limits.MaxLiveFetches, c.MaxLiveFetches)
	set(&limits.MaxLiveFetchesPerCaller, c.MaxLiveFetchesPerCaller)
	set(&limits.MaxLiveFetchesPerPeer, c.MaxLiveFetchesPerPeer)
	set(&limits.MaxHeldBytes, c.MaxHeldBytes)
	setDuration(&limits.CallerStall, c.GetCallerStall())
	setTimeouts(&limits, c)
	return limits
}

func setTimeouts(limits *fetch.Limits, c *configv1.Limits) {
	maxima := phases(c.GetMaxTimeouts(), &limits.MaxTimeouts)
	for i, p := range phases(c.GetTimeouts(), &limits.Timeouts) {
		setDuration(maxima[i].limit, maxima[i].set)
		*p.limit = min(*p.limit, *maxima[i].limit)
		setDuration(p.limit, p.set)
	}
}

// phase is one timeout: its name in the file, what the file says (nil means
// nothing), and the limit that it sets.
type phase struct {
	name  string
	set   *durationpb.Duration
	limit *time.Duration
}

func phases(c *configv1.Timeouts, limits *fetch.Timeouts) []phase {
	return []phase{
		{"dns", c.GetDns(), &limits.DNS},
		{"connect", c.GetConnect(), &limits.Connect},
		{"tls", c.GetTls(), &limits.TLS},
		{"response_header", c.GetResponseHeader(), &limits.Head},
		{"idle_read", c.GetIdleRead(), &limits.Idle},
		{"write", c.GetWrite(), &limits.Write},
		{"pool", c.GetPool(), &limits.Pool},
		{"attempt", c.GetAttempt(), &limits.Attempt},
		{"total", c.GetTotal(), &limits.Total},
	}
}

func set[L int | int64 | uint32, C int32 | int64](limit *L, c *C) {
	if c != nil {
		*limit = L(*c)
	}
}

func setDuration(limit *time.Duration, c *durationpb.Duration) {
	if c != nil {
		*limit = c.AsDuration()
	}
}

// MaxConnections returns the most gRPC connections at once, and the most from
// one address, 1 to 1000000. Default 10000 and 1000.
func (l *Loaded) MaxConnections() (total, perPeer int) {
	total, perPeer = 10_000, 1_000
	if c := l.Config.GetGrpc(); c != nil {
		set(&total, c.MaxConnections)
		set(&perPeer, c.MaxConnectionsPerPeer)
	}
	return total, perPeer
}

// DrainDelay returns how long fetches are still taken after the server was told
// to stop, 0 to 10 min. Default 0.
func (l *Loaded) DrainDelay() time.Duration {
	var delay time.Duration
	setDuration(&delay, l.Config.GetGrpc().GetDrainDelay())
	return delay
}
