package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// defaultAddress is where a service listens that was told nothing else.
const defaultAddress = "127.0.0.1:7801"

// connectTimeout is how long a connection to the service may take until the
// service greets.
const connectTimeout = 5 * time.Second

// greetingBytes are enough of what a server says first to know whether it is a
// SETTINGS frame, with which every HTTP/2 server begins (RFC 9113 section 3.4).
const greetingBytes = 4

// connection is a service as its caller sees it.
type connection struct {
	fetchgatev1.FetchServiceClient
	policy  fetchgatev1.PolicyServiceClient
	conn    *grpc.ClientConn
	address string

	mu       sync.Mutex
	dialed   error  // of the last dial
	greeting []byte // what came first on the last connection
}

// dial returns a connection to the service at address, HOST:PORT. It is made
// with the first RPC.
func dial(address string) (*connection, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, errors.New("it is not HOST:PORT")
	}
	c := &connection{address: address}
	// Passthrough leaves names to the dialer, whose errors say more than
	// those of gRPC.
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithContextDialer(c.dial))
	if err != nil {
		return nil, err
	}
	c.conn, c.FetchServiceClient = conn, fetchgatev1.NewFetchServiceClient(conn)
	c.policy = fetchgatev1.NewPolicyServiceClient(conn)
	return c, nil
}

// dial is bounded by ctx: gRPC gives it what it gives the whole connection.
func (c *connection) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialed, c.greeting = err, nil
	if err != nil {
		return nil, err
	}
	return &overheard{conn, c}, nil
}

func (c *connection) Close() error { return c.conn.Close() }

// overheard is a connection whose first bytes are kept.
type overheard struct {
	net.Conn
	by *connection
}

// Read keeps what comes first.
func (o *overheard) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	o.by.mu.Lock()
	defer o.by.mu.Unlock()
	if missing := greetingBytes - len(o.by.greeting); missing > 0 {
		o.by.greeting = append(o.by.greeting, b[:min(n, missing)]...)
	}
	return n, err
}

// greeted reports whether the service has said anything.
func (c *connection) greeted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.greeting) > 0
}

// unreachable tells a service that is not there from one that went away and
// from what is no gRPC service. message is what gRPC says.
func (c *connection) unreachable(message string, name program) *problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	const settings = 4 // the type of a frame is its fourth byte (RFC 9113 section 4.1)
	why := "what listens there takes connections and says nothing"
	var number syscall.Errno
	switch {
	case errors.As(c.dialed, &number):
		why = number.Error()
	case c.dialed != nil:
		why = c.dialed.Error()
	case len(c.greeting) == greetingBytes && c.greeting[3] == settings:
		return &problem{exitRPC, "the connection to fetchgate at " + c.address + " broke", message,
			"see whether the service still runs, and send the request again if it may be sent twice"}
	case len(c.greeting) > 0:
		return &problem{exitRPC, "what answers at " + c.address + " does not speak gRPC", "",
			"give fetchgate's gRPC port with --address; it is 7801 by default"}
	}
	return &problem{exitRPC, "cannot reach fetchgate at " + c.address, why,
		fmt.Sprintf("start it with: make run (or %s serve), or name another with --address", name)}
}
