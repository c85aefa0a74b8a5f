package fetch

import "time"

// Limits are the most that the server does, and what it does when a request
// does not say. Every field is one row of docs/limits.md; MaxURLBytes and
// MaxMethodBytes are two more.
type Limits struct {
	// Request.
	MaxRequestFields      int
	MaxRequestFieldBytes  int
	MaxRequestBodyBytes   int64 // unary
	MaxResponseFields     int
	MaxResponseFieldBytes int
	MaxResponseBodyBytes  int64 // unary
	MaxInterim            int
	MaxCodings            int
	MaxDecodedRatio       int64
	DecodedRatioFloor     int64
	MaxDialsPerAttempt    int

	// Timeouts are the defaults, Total that of unary RPCs; MaxTimeouts the
	// maxima. MaxStreamTotal is the maximum of streams, which have no default.
	Timeouts       Timeouts
	MaxTimeouts    Timeouts
	MaxStreamTotal time.Duration
	MinThroughput  Throughput

	// MaxConnectionsPerRoute bounds the open connections that share one pool
	// key; MaxIdlePerRoute those that wait for work, MaxIdle those of all keys.
	MaxConnectionsPerRoute int
	MaxIdlePerRoute        int
	MaxIdle                int
	IdleTimeout            time.Duration
	// ConnectionLifetime retires a connection after this long, ± 20 %.
	ConnectionLifetime time.Duration
	// MaxConnections bounds the open connections of all keys.
	MaxConnections int

	// MaxAttempts and MaxRedirects are the defaults of requests that do not say;
	// HighestAttempts and HighestRedirects the most that one may say.
	MaxAttempts      int
	MaxRedirects     int
	HighestAttempts  int
	HighestRedirects int
	// RetryBudgetRatio and RetryBudgetPerSecond bound the retries of one caller
	// to one origin: so many for each first attempt, and so many besides.
	RetryBudgetRatio     float64
	RetryBudgetPerSecond int

	// The most fetches at once: in all, of one caller, from one address.
	MaxLiveFetches          int
	MaxLiveFetchesPerCaller int
	MaxLiveFetchesPerPeer   int
	// MaxHeldBytes bounds the bytes of requests and answers held at once.
	MaxHeldBytes int64
	// CallerStall is how long a stream waits for a caller that does not read.
	CallerStall time.Duration
}

// DefaultLimits returns the limits of a server whose configuration names none.
func DefaultLimits() Limits {
	return Limits{
		MaxRequestFields:      100,
		MaxRequestFieldBytes:  64 << 10,
		MaxRequestBodyBytes:   3 << 20,
		MaxResponseFields:     256,
		MaxResponseFieldBytes: 64 << 10,
		MaxResponseBodyBytes:  3 << 20,
		MaxInterim:            5,
		MaxCodings:            3,
		MaxDecodedRatio:       100,
		DecodedRatioFloor:     1 << 20,
		MaxDialsPerAttempt:    4,
		Timeouts: Timeouts{
			Pool: 5 * time.Second, DNS: 5 * time.Second, Connect: 5 * time.Second, TLS: 5 * time.Second,
			Head: 15 * time.Second, Idle: 60 * time.Second, Write: 60 * time.Second, Continue: time.Second, Total: 30 * time.Second,
		},
		MaxTimeouts: Timeouts{
			Pool: 60 * time.Second, DNS: 30 * time.Second, Connect: 60 * time.Second, TLS: 60 * time.Second,
			Head: 5 * time.Minute, Idle: 15 * time.Minute, Write: 15 * time.Minute, Continue: 30 * time.Second, Attempt: 5 * time.Minute, Total: 5 * time.Minute,
		},
		MaxStreamTotal:         24 * time.Hour,
		MinThroughput:          Throughput{Bytes: 30 << 10, Over: 30 * time.Second},
		MaxConnectionsPerRoute: 1024,
		MaxIdlePerRoute:        128,
		MaxIdle:                1024,
		IdleTimeout:            90 * time.Second,
		ConnectionLifetime:     5 * time.Minute,
		MaxConnections:         10_000,

		MaxAttempts:          3,
		MaxRedirects:         10,
		HighestAttempts:      10,
		HighestRedirects:     30,
		RetryBudgetRatio:     0.2,
		RetryBudgetPerSecond: 10,

		MaxLiveFetches:          10_000,
		MaxLiveFetchesPerCaller: 5_000,
		MaxLiveFetchesPerPeer:   5_000,
		MaxHeldBytes:            1 << 30,
		CallerStall:             5 * time.Minute,
	}
}
