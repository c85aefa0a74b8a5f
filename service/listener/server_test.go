package listener_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fetchgate/fetchgate/service/listener"
)

const maxStreams = 1000

// server is a gRPC server with the settings that fetchgate serves with, behind
// a listener under test.
type server struct {
	*handlers
	address string
	refused *counts
	grpc    *grpc.Server
}

// counts is what OnRefused was told.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(limit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[limit]++
}

func (c *counts) of(limit string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[limit]
}

func (c *counts) all() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for _, n := range c.n {
		sum += n
	}
	return sum
}

// handlers answer /test.Echo/Say, Hold and Pour, and /test.Echo/Take.
type handlers struct {
	started, running, most atomic.Int64
	begun                  chan struct{} // one for each, while there is room
}

func (h *handlers) enter() {
	h.started.Add(1)
	select {
	case h.begun <- struct{}{}:
	default:
	}
	now := h.running.Add(1)
	for most := h.most.Load(); now > most && !h.most.CompareAndSwap(most, now); most = h.most.Load() {
	}
}

func (h *handlers) leave() { h.running.Add(-1) }

func (h *handlers) say(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	h.enter()
	defer h.leave()
	var in wrapperspb.BytesValue
	err := decode(&in)
	return &in, err
}

// hold answers when its caller is gone.
func (h *handlers) hold(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	h.enter()
	defer h.leave()
	if err := decode(new(wrapperspb.BytesValue)); err != nil {
		return nil, err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

const (
	pouredMessages = 128
	pouredBytes    = 128 << 10
)

// pour sends 16 MiB.
func (h *handlers) pour(_ any, s grpc.ServerStream) error {
	h.enter()
	defer h.leave()
	message := wrapperspb.Bytes(make([]byte, pouredBytes))
	for range pouredMessages {
		if err := s.SendMsg(message); err != nil {
			return err
		}
	}
	return nil
}

// take reads to the end and answers with the number of messages.
func (h *handlers) take(_ any, s grpc.ServerStream) error {
	h.enter()
	defer h.leave()
	for n := int64(0); ; n++ {
		if err := s.RecvMsg(new(wrapperspb.BytesValue)); errors.Is(err, io.EOF) {
			return s.SendMsg(wrapperspb.Int64(n))
		} else if err != nil {
			return err
		}
	}
}

func (h *handlers) register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo",
		Methods:     []grpc.MethodDesc{{MethodName: "Say", Handler: h.say}, {MethodName: "Hold", Handler: h.hold}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Pour", Handler: h.pour, ServerStreams: true, ClientStreams: true},
			{StreamName: "Take", Handler: h.take, ServerStreams: true, ClientStreams: true},
		},
	}, nil)
}

// watching hands connections to watch as the service does.
type watching struct {
	credentials.TransportCredentials
	watch func(accepted, secured net.Conn) net.Conn
}

func (w watching) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, caller, err := w.TransportCredentials.ServerHandshake(c)
	if err != nil {
		return nil, nil, err
	}
	return w.watch(c, secured), caller, nil
}

// unwatched is what gRPC does alone.
func unwatched(_ *listener.Listener) func(accepted, secured net.Conn) net.Conn {
	return func(_, secured net.Conn) net.Conn { return secured }
}

func serve(t testing.TB, o listener.Options) *server {
	t.Helper()
	return serveWith(t, o, insecure.NewCredentials(), func(l *listener.Listener) func(a, s net.Conn) net.Conn { return l.Watch })
}

// serveWith starts a server and stops it with the test.
func serveWith(t testing.TB, o listener.Options, creds credentials.TransportCredentials,
	watch func(*listener.Listener) func(accepted, secured net.Conn) net.Conn) *server {
	t.Helper()
	s := &server{refused: &counts{}, handlers: &handlers{begun: make(chan struct{}, maxStreams)}}
	o.OnRefused = s.refused.add
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listener.New(inner, o)
	s.address = inner.Addr().String()
	s.grpc = grpc.NewServer(
		grpc.Creds(watching{creds, watch(l)}),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxRecvMsgSize(4<<20),
		grpc.InitialWindowSize(256<<10),
		grpc.InitialConnWindowSize(4<<20),
		grpc.ConnectionTimeout(5*time.Second),
		grpc.NumStreamWorkers(64),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: 24 * time.Hour}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	s.register(s.grpc)
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	t.Cleanup(func() {
		s.grpc.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// client is a real client with one connection.
func (s *server) client(t testing.TB, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(options) == 0 {
		options = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	c, err := grpc.NewClient(s.address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// say is one unary RPC.
func say(ctx context.Context, c *grpc.ClientConn, n int) error {
	return c.Invoke(ctx, "/test.Echo/Say", wrapperspb.Bytes(make([]byte, n)), new(wrapperspb.BytesValue))
}
