package fetchtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/dial"
)

// Options say what a fetchgate for tests is like. The zero value is the
// built-in configuration on free ports: it fetches public addresses only, so it
// reaches none of the upstreams of this package.
type Options struct {
	// Config is the configuration as YAML; empty means what Allow and Trust say.
	Config string
	// Allow are the origins that one rule allows, loopback included, as a rule
	// writes them: "http://127.0.0.1:8080", "https://*.example.test:8443". OriginOf gives
	// that of an upstream.
	Allow []string
	// Trust is an authority whose certificates are trusted beside the system's.
	Trust *Authority
	// Extra is YAML added at the end of what Allow and Trust say.
	Extra string
	// DNS resolves names; nil means the system's resolver.
	DNS *DNS
	// Connect stands in for the network; nil means the system's.
	Connect dial.Connect
	// Log takes the service's log; nil means the test's.
	Log io.Writer
	// Audit takes the audit record; nil discards it.
	Audit io.Writer
}

// Fetchgate is a real fetchgate on loopback and a connection to it.
type Fetchgate struct {
	fetchgatev1.FetchServiceClient
	// Policy asks the same server about policy.
	Policy fetchgatev1.PolicyServiceClient
	// Conn is the connection that both use.
	Conn *grpc.ClientConn
	// Service is the server itself.
	Service *service.Service

	stop   context.CancelFunc
	served chan error
}

// Start starts a fetchgate, which ends with the test and leaves nothing behind.
func Start(t testing.TB, o Options) *Fetchgate {
	t.Helper()
	loaded := config.Default()
	if text := o.yaml(t); text != "" {
		var err error
		if loaded, err = config.Parse("test.yaml", []byte(text)); err != nil {
			t.Fatalf("the configuration of the test: %v", err)
		}
	}
	log := o.Log
	if log == nil {
		log = t.Output()
	}
	so := service.Options{
		Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Version: "test",
		Log: slog.New(slog.NewTextHandler(log, nil)), Connect: o.Connect, Stdout: io.Discard,
	}
	if o.Audit != nil {
		so.Stdout = o.Audit
	}
	if o.DNS != nil {
		so.Resolver = o.DNS
	}
	s, err := service.New(so)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Fetchgate{
		FetchServiceClient: fetchgatev1.NewFetchServiceClient(conn),
		Policy:             fetchgatev1.NewPolicyServiceClient(conn),
		Conn:               conn, Service: s, stop: stop, served: make(chan error, 1),
	}
	go func() { g.served <- s.Serve(ctx) }()
	t.Cleanup(func() { g.close(t) })
	return g
}

// close ends the connection first, so that the drain has nothing to wait for.
func (g *Fetchgate) close(t testing.TB) {
	g.Conn.Close()
	g.stop()
	if err := <-g.served; err != nil {
		t.Errorf("fetchgate ended with an error: %v", err)
	}
}

func (o Options) yaml(t testing.TB) string {
	if o.Config != "" {
		return o.Config
	}
	var b strings.Builder
	if o.Trust != nil {
		fmt.Fprintf(&b, "upstream_tls:\n  ca_files: [%q]\n", o.Trust.WriteFile(t))
	}
	if len(o.Allow) > 0 {
		b.WriteString("rules:\n  - name: test\n    dangerous_allow_loopback: true\n    origins:\n")
		for _, origin := range o.Allow {
			fmt.Fprintf(&b, "      - %q\n", origin)
		}
	}
	b.WriteString(o.Extra)
	return b.String()
}

// OriginOf returns the origin of an upstream as a rule writes it.
func OriginOf(u *Upstream) string { return strings.TrimSuffix(u.URL("/"), "/") }
