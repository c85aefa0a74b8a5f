package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// defaultAddress is where a service listens that was told nothing else.
const defaultAddress = "127.0.0.1:7801"

// connectTimeout is how long a connection to the service may take until the
// service greets.
const connectTimeout = 5 * time.Second

// ofTLS is in the text of each error of crypto/tls.
const ofTLS = "tls: "

// probeTimeout is how long it may take to find out whether a server that said
// nothing speaks TLS.
const probeTimeout = time.Second

// greetingBytes are enough of what a server says first to know whether it is a
// SETTINGS frame, with which every HTTP/2 server begins (RFC 9113 section 3.4),
// or a record of TLS.
const greetingBytes = 4

// connection is a service as its caller sees it.
type connection struct {
	fetchgatev1.FetchServiceClient
	policy  fetchgatev1.PolicyServiceClient
	conn    *grpc.ClientConn
	address string
	secured *tls.Config // how TLS is spoken; nil: it is not

	mu       sync.Mutex
	dialed   error  // of the last dial
	greeting []byte // what came first on the last connection
}

// socketPath is the unix socket that an address names as gRPC does: unix:PATH or
// unix:///PATH.
func socketPath(address string) (path string, ok bool) {
	path, ok = strings.CutPrefix(address, "unix:")
	if absolute, found := strings.CutPrefix(path, "//"); found {
		path, ok = absolute, ok && strings.HasPrefix(absolute, "/")
	}
	return path, ok && path != ""
}

// dial returns a connection to the service at address, HOST:PORT or a unix
// socket. It is made with the first RPC, with TLS unless secured is nil.
func dial(address string, secured *tls.Config, more ...grpc.DialOption) (*connection, error) {
	_, isSocket := socketPath(address)
	if _, _, err := net.SplitHostPort(address); !isSocket && (err != nil || strings.HasPrefix(address, "unix:")) {
		return nil, errors.New("it is neither HOST:PORT nor unix:///PATH")
	}
	if isSocket {
		more = append(more, grpc.WithAuthority("localhost")) // a path is none
	}
	c, spoken := &connection{address: address, secured: secured}, insecure.NewCredentials()
	if secured != nil {
		spoken = credentials.NewTLS(secured)
	}
	// Passthrough leaves names to the dialer, whose errors say more than
	// those of gRPC.
	conn, err := grpc.NewClient("passthrough:///"+address, append(more,
		grpc.WithTransportCredentials(spoken),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithContextDialer(c.dial))...)
	if err != nil {
		return nil, err
	}
	c.conn, c.FetchServiceClient = conn, fetchgatev1.NewFetchServiceClient(conn)
	c.policy = fetchgatev1.NewPolicyServiceClient(conn)
	return c, nil
}

// dial is bounded by ctx: gRPC gives it what it gives the whole connection.
func (c *connection) dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if path, ok := socketPath(address); ok {
		network, address = "unix", path
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
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

// heard returns what came first on the last connection, and why there is none.
func (c *connection) heard() (greeting []byte, dialed error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.greeting, c.dialed
}

// greeted reports whether the service has said anything.
func (c *connection) greeted() bool {
	greeting, _ := c.heard()
	return len(greeting) > 0
}

// isHTTP2 reports whether a greeting is the beginning of a SETTINGS frame: the
// type of a frame is its fourth byte (RFC 9113 section 4.1).
func isHTTP2(greeting []byte) bool {
	return len(greeting) == greetingBytes && greeting[3] == 4 && !isTLS(greeting)
}

// isTLS reports whether a greeting is the beginning of an alert or a handshake
// record (RFC 8446 section 5.1).
func isTLS(greeting []byte) bool {
	return len(greeting) > 1 && (greeting[0] == 21 || greeting[0] == 22) && greeting[1] == 3
}

// probe makes a TLS connection on which it says nothing, and returns what comes
// first on it and what ends it: an alert is often lost to who writes on.
func (c *connection) probe(ctx context.Context, config *tls.Config) (greeting []byte, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	heard := &connection{address: c.address}
	conn, err := heard.dial(ctx, c.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	config.ServerName, _, _ = net.SplitHostPort(c.address)
	config.NextProtos = []string{"h2"}
	spoken := tls.Client(conn, config)
	if err = spoken.HandshakeContext(ctx); err == nil {
		_ = conn.SetDeadline(time.Now().Add(probeTimeout))
		_, err = spoken.Read(make([]byte, 1))
	}
	greeting, _ = heard.heard()
	return greeting, err
}

// answersTLS asks what says nothing to HTTP/2 whether it speaks TLS: such a
// server may hang up without an alert. Who it is does not matter here.
func (c *connection) answersTLS(ctx context.Context) bool {
	greeting, _ := c.probe(ctx, &tls.Config{MinVersion: tls.VersionTLS12})
	return isTLS(greeting)
}

// unreachable tells a service that is not there from one that went away, from
// one that is to be spoken to otherwise, and from what is no gRPC service.
// message is what gRPC says; ctx is that of the RPC.
func (c *connection) unreachable(ctx context.Context, message string, name program) *problem {
	greeting, dialed := c.heard()
	at := "fetchgate at " + c.address
	switch {
	case dialed != nil:
		var number syscall.Errno
		if errors.As(dialed, &number) {
			dialed = number
		}
		if _, isSocket := socketPath(c.address); isSocket && number == syscall.EACCES {
			return &problem{exitRPC, "cannot reach " + at, dialed.Error(), "be of a user or group that the permissions of the socket let in (grpc.unix.mode), and of its directory"}
		}
		return c.absent(dialed.Error(), name)
	case c.secured != nil && isTLS(greeting):
		if strings.Contains(message, ofTLS) {
			return c.unverified(message)
		}
		if _, err := c.probe(ctx, c.secured.Clone()); err != nil && strings.Contains(err.Error(), ofTLS) {
			return c.unverified(err.Error())
		}
		return c.broke(message)
	case c.secured != nil && isHTTP2(greeting):
		return &problem{exitRPC, at + " does not speak TLS", "", "leave --tls, --ca, --cert and --key out"}
	case c.secured == nil && (isTLS(greeting) || len(greeting) == 0 && c.answersTLS(ctx)):
		return &problem{exitRPC, at + " speaks TLS", "without flags for it, get and explain do not",
			"give the authority of its certificate with --ca FILE, or --tls if this machine knows it, and --cert FILE --key FILE if it asks for a certificate"}
	case isHTTP2(greeting):
		return c.broke(message)
	case len(greeting) > 0:
		return &problem{exitRPC, "what answers at " + c.address + " does not speak gRPC", "",
			"give fetchgate's gRPC port with --address; it is 7801 by default"}
	}
	return c.absent("what listens there takes connections and says nothing", name)
}

func (c *connection) broke(why string) *problem {
	return &problem{exitRPC, "the connection to fetchgate at " + c.address + " broke", why,
		"see whether the service still runs, and send the request again if it may be sent twice"}
}

func (c *connection) absent(why string, name program) *problem {
	return &problem{exitRPC, "cannot reach fetchgate at " + c.address, why,
		fmt.Sprintf("start it with: make run (or %s serve), or name another with --address", name)}
}

// unverified is the problem of a handshake in which one of the two did not take
// the other for who it is to be.
func (c *connection) unverified(message string) *problem {
	_, why, remote := strings.Cut(message, "remote error: ")
	if remote {
		next := "show it a certificate that an authority of its grpc.tls.client_ca_file signed: --cert FILE --key FILE"
		if c.secured.GetClientCertificate != nil {
			next += "; it may also be revoked, or the service's revocation list out of date: its log says which"
		}
		return &problem{exitRPC, "fetchgate at " + c.address + " ends the TLS handshake", strings.TrimRight(why, `\"`), next}
	}
	if _, after, found := strings.Cut(message, "handshake failed: "); found {
		message = after
	}
	next := "give the authority that signed its certificate with --ca FILE"
	if !strings.Contains(message, "unknown authority") {
		next = "name it with --address as its certificate does, or give the authority that signed it with --ca FILE"
	}
	return &problem{exitRPC, "fetchgate at " + c.address + " cannot prove who it is", strings.TrimRight(message, `\"`), next}
}
