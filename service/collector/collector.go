// Package collector sends log records to an OTLP collector, over gRPC.
package collector

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
)

// defaultPort is that of OTLP over gRPC.
const defaultPort = "4317"

const (
	// maxBackoff is the longest that gRPC waits before it connects anew, so that
	// a collector that has come back is found.
	maxBackoff = 5 * time.Second
	// deadPeer is how long sent bytes may stay without an answer of the peer's
	// kernel before the connection counts as broken.
	deadPeer = 20 * time.Second
)

// Logs sends log records to one collector.
type Logs struct {
	conn   *grpc.ClientConn
	client collectorpb.LogsServiceClient
}

// NewLogs returns a client of the collector at endpoint, "http://HOST:PORT", or
// "https://…" for TLS by the system's roots; the port is 4317 where it is left
// out. It does not wait for the collector, which may come and go. No variable of
// the environment changes where records go.
func NewLogs(endpoint, userAgent string) (*Logs, error) {
	to, err := url.Parse(endpoint)
	if err != nil || to.Hostname() == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("%q is not an endpoint; write it as http://HOST:PORT or https://HOST:PORT", endpoint)
	}
	address := to.Host
	if to.Port() == "" {
		address = net.JoinHostPort(to.Hostname(), defaultPort)
	}
	security := insecure.NewCredentials()
	if to.Scheme == "https" {
		security = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	conn, err := grpc.NewClient("dns:///"+address,
		grpc.WithTransportCredentials(security),
		grpc.WithUserAgent(userAgent),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: .2, MaxDelay: maxBackoff},
			MinConnectTimeout: maxBackoff,
		}),
		// Exports end long before a ping is due: this is for the timeout, which
		// is the kernel's for bytes that nobody acknowledges.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Hour, Timeout: deadPeer}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	return &Logs{conn, collectorpb.NewLogsServiceClient(conn)}, nil
}

// Export sends records and waits until the collector has answered. Those that it
// took and threw away are rejected, and why is what it said of them: sending
// them again would not help. After an error it may have them or not.
func (l *Logs) Export(ctx context.Context, of *logspb.ResourceLogs) (rejected int64, why string, err error) {
	answer, err := l.client.Export(ctx, &collectorpb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{of}})
	if err != nil {
		return 0, "", err
	}
	partial := answer.GetPartialSuccess()
	return partial.GetRejectedLogRecords(), partial.GetErrorMessage(), nil
}

// Close closes the connection; an Export under way ends with an error.
func (l *Logs) Close() error { return l.conn.Close() }
