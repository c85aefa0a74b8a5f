package service_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// tlsCallers is a fetchgate with a configuration file, whose callers prove
// themselves in the handshake.
type tlsCallers struct {
	*server
	dir       string
	authority *fetchtest.Authority // of the server and of callers
	upstream  *fetchtest.Recorder
	log       *lines
	ticks     chan time.Time
}

const billingID = "spiffe://ours/billing"

// serveTLSCallers starts one with these settings of grpc.tls; the files of the
// authority are beside the configuration, lists.pem too.
func serveTLSCallers(t *testing.T, settings string, respond func(*fetchtest.Recorded) fetchtest.Step, change func(*tlsCallers)) *tlsCallers {
	t.Helper()
	c := &tlsCallers{
		dir: t.TempDir(), authority: fetchtest.NewAuthority(t), log: &lines{}, ticks: make(chan time.Time),
		upstream: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: respond}),
	}
	written, _ := files(t, c.authority)
	for name, content := range written {
		c.write(t, name, content)
	}
	c.write(t, "lists.pem", c.authority.Revoke(time.Now().Add(time.Hour)))
	if change != nil {
		change(c)
	}
	c.write(t, "fetchgate.yaml", []byte(fmt.Sprintf(`grpc: {drain_grace: 0s, tls: {%s}}
reload: {revoke_grace: 0s}
callers:
  - {name: billing, owner: team-payments, spiffe_ids: [%q]}
  - {name: partner, owner: team-partners, spiffe_ids: ["spiffe://theirs/partner"]}
  - {name: shop, owner: team-shop, token_sha256: [%x]}
rules: [{name: test, dangerous_allow_loopback: true, origins: [%q]}]
`, settings, billingID, sha256.Sum256([]byte(billingToken)), fetchtest.OriginOf(c.upstream.Upstream))))
	loaded, err := config.Load(filepath.Join(c.dir, "fetchgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.server = run(t, service.Options{
		Config: loaded, Log: slog.New(slog.NewTextHandler(c.log, nil)), Stdout: &lines{},
		GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Ticks: c.ticks,
	})
	return c
}

// write puts a whole file in the place of another.
func (c *tlsCallers) write(t *testing.T, name string, content []byte) {
	t.Helper()
	file := filepath.Join(c.dir, name)
	if err := errors.Join(os.WriteFile(file+".next", content, 0o600), os.Rename(file+".next", file)); err != nil {
		t.Fatal(err)
	}
}

// look has the files of the configuration looked at.
func (c *tlsCallers) look() {
	for range 3 {
		c.ticks <- time.Time{}
	}
}

// connected is one connection of a caller, that is not made anew.
type connected struct {
	fetchgatev1.FetchServiceClient
	dials atomic.Int32
}

// connect is a caller that trusts authorities and shows a certificate; nil: none.
func (c *tlsCallers) connect(t *testing.T, shown *tls.Certificate, trusts ...*fetchtest.Authority) *connected {
	t.Helper()
	roots := c.authority.Pool()
	for _, a := range trusts {
		roots.AppendCertsFromPEM(a.PEM())
	}
	config := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	if shown != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	one := &connected{}
	conn, err := grpc.NewClient("passthrough:///"+c.GRPCAddress(), grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			one.dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	one.FetchServiceClient = fetchgatev1.NewFetchServiceClient(conn)
	return one
}

// want asks for RPCs of a caller to end so, by both RPCs.
func (c *tlsCallers) want(t *testing.T, what string, by *connected, token string, code codes.Code) {
	t.Helper()
	for _, rpc := range rpcs {
		ctx := within(t)
		if token != "" {
			ctx = showing(ctx, token)
		}
		_, err := rpc.call(ctx, by, get(c.upstream.URL("/")))
		if status.Code(err) != code || code == codes.Unauthenticated && reasonIn(err) != "CALLER_UNKNOWN" {
			t.Errorf("%s by %s: %v, want %v", what, rpc.name, err, code)
		}
	}
}

func (c *tlsCallers) issue(by *fetchtest.Authority, id string) *tls.Certificate {
	one := by.Issue(fetchtest.IssueOptions{Names: []string{id}})
	return &one
}

const (
	withLists = "cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.crt, client_crl_file: lists.pem"
	optional  = withLists + ", client_certificates: optional"
)

// TestRevokedCertificates: who is revoked is refused on the connection that is open,
// within moments, by name and with a token too; so is a new one. What it had begun
// ends. Others go on.
func TestRevokedCertificates(t *testing.T) {
	asked, release := make(chan struct{}, 1), make(chan struct{})
	defer close(release)
	c := serveTLSCallers(t, withLists, func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target != "/slow" {
			return fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		asked <- struct{}{}
		return fetchtest.Steps(fetchtest.Pause(release), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	}, nil)
	bad, good := c.issue(c.authority, billingID), c.issue(c.authority, billingID)
	revoked, other := c.connect(t, bad), c.connect(t, good)
	c.want(t, "before", revoked, "", codes.OK)
	c.want(t, "before", other, "", codes.OK)
	slow := make(chan error, 1)
	var a *answer
	go func() {
		var err error
		a, err = whole(within(t), revoked, get(c.upstream.URL("/slow")))
		slow <- err
	}()
	<-asked
	c.write(t, "lists.pem", c.authority.Revoke(time.Now().Add(time.Hour), *bad))
	eventually(t, func() error {
		_, err := whole(within(t), revoked, get(c.upstream.URL("/")))
		if status.Code(err) != codes.Unauthenticated {
			return fmt.Errorf("a revoked certificate: %w", errors.Join(err, errors.New("it is still good")))
		}
		return nil
	})
	c.want(t, "revoked", revoked, "", codes.Unauthenticated)
	c.want(t, "revoked, with a token", revoked, billingToken, codes.Unauthenticated)
	c.want(t, "revoked, on a new connection", c.connect(t, bad), "", codes.Unavailable)
	c.want(t, "another", other, "", codes.OK)
	c.look()
	if err := <-slow; err != nil || a.failure.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN {
		t.Errorf("what was under way: %v, %v", gotten(a, err), err)
	}
	c.wantCount(t, `fetchgate_listener_handshake_failures_total{why="revoked"} 2`)
	if revoked.dials.Load() != 1 || other.dials.Load() != 1 {
		t.Errorf("%d and %d connections were made, want one each", revoked.dials.Load(), other.dials.Load())
	}
	c.write(t, "lists.pem", c.authority.Revoke(time.Now().Add(time.Hour)))
	eventually(t, func() error {
		_, err := whole(within(t), revoked, get(c.upstream.URL("/")))
		return err
	})
}

// TestOutdatedLists: nobody is let in with a certificate of their authority, but
// who needs none; the log says why, once.
func TestOutdatedLists(t *testing.T) {
	c := serveTLSCallers(t, optional, nil, nil)
	billing := c.issue(c.authority, billingID)
	open := c.connect(t, billing)
	c.want(t, "in time", open, "", codes.OK)
	c.write(t, "lists.pem", c.authority.Revoke(time.Now().Add(-time.Second)))
	eventually(t, func() error {
		_, err := whole(within(t), open, get(c.upstream.URL("/")))
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "out of date") {
			return fmt.Errorf("with an old list: %w", errors.Join(err, errors.New("it is let in")))
		}
		return nil
	})
	c.want(t, "on a new connection", c.connect(t, billing), "", codes.Unavailable)
	c.want(t, "without a certificate", c.connect(t, nil), billingToken, codes.OK)
	c.wantCount(t, `fetchgate_listener_handshake_failures_total{why="outdated_list"} 2`)
	if text := c.log.String(); strings.Count(text, "a revocation list is out of date") != 1 {
		t.Errorf("the log: %s", text)
	}
}

// TestOptionalCertificates: callers with certificates and with tokens share a
// listener; a bad certificate is no missing one.
func TestOptionalCertificates(t *testing.T) {
	c := serveTLSCallers(t, optional, nil, nil)
	billing := c.issue(c.authority, billingID)
	c.want(t, "a certificate", c.connect(t, billing), "", codes.OK)
	c.want(t, "a token", c.connect(t, nil), billingToken, codes.OK)
	c.want(t, "nothing", c.connect(t, nil), "", codes.Unauthenticated)
	c.want(t, "a token of nobody", c.connect(t, nil), nobodysToken, codes.Unauthenticated)
	c.want(t, "both, of two", c.connect(t, billing), billingToken, codes.Unauthenticated)
	c.want(t, "another's certificate, and a token", c.connect(t, c.issue(fetchtest.NewAuthority(t), billingID)), billingToken, codes.Unavailable)
	expired := c.authority.Issue(fetchtest.IssueOptions{Names: []string{billingID}, NotAfter: time.Now().Add(-time.Minute)})
	c.want(t, "an expired one, and a token", c.connect(t, &expired), billingToken, codes.Unavailable)
}

// TestWorkloadAPICallers: certificate, key and authorities are what a Workload API
// gives at the moment; no trust domain vouches for the IDs of another.
func TestWorkloadAPICallers(t *testing.T) {
	api, theirs := fetchtest.NewWorkloadAPI(t), fetchtest.NewAuthority(t)
	federated := map[string][]*fetchtest.Authority{"theirs": {theirs}}
	give := func(by *fetchtest.Authority, own []*fetchtest.Authority, federated map[string][]*fetchtest.Authority) tls.Certificate {
		served := by.Issue(fetchtest.IssueOptions{Names: []string{"spiffe://ours/fetchgate", "127.0.0.1"}})
		api.Give("spiffe://ours/fetchgate", served, own, federated)
		return served
	}
	c := serveTLSCallers(t, fmt.Sprintf("workload_api: %q, client_certificates: optional", api.Address()), nil, func(c *tlsCallers) {
		give(c.authority, []*fetchtest.Authority{c.authority}, federated)
	})
	ours := c.authority
	next := fetchtest.NewAuthority(t)
	billing, partner := c.connect(t, c.issue(ours, billingID), next), c.connect(t, c.issue(theirs, "spiffe://theirs/partner"), next)
	c.want(t, "ours", billing, "", codes.OK)
	c.want(t, "theirs", partner, "", codes.OK)
	c.want(t, "a token", c.connect(t, nil), billingToken, codes.OK)
	c.want(t, "nothing", c.connect(t, nil), "", codes.Unauthenticated)
	c.want(t, "ours by theirs", c.connect(t, c.issue(theirs, billingID)), "", codes.Unavailable)
	c.want(t, "theirs by ours", c.connect(t, c.issue(ours, "spiffe://theirs/partner")), "", codes.Unavailable)
	c.want(t, "by nobody", c.connect(t, c.issue(fetchtest.NewAuthority(t), billingID)), billingToken, codes.Unavailable)
	c.wantCount(t, `fetchgate_listener_handshake_failures_total{why="bad_certificate"} 6`)

	served := give(next, []*fetchtest.Authority{next, ours}, federated)
	eventually(t, func() error { return c.shows(served.Leaf, next) })
	c.want(t, "ours, on the open connection", billing, "", codes.OK)
	c.want(t, "ours by the next authority", c.connect(t, c.issue(next, billingID), next), "", codes.OK)
	served = give(next, []*fetchtest.Authority{next}, nil)
	eventually(t, func() error { return c.shows(served.Leaf, next) })
	c.want(t, "ours by the one before", billing, "", codes.Unauthenticated)
	c.want(t, "theirs, not federated any more", partner, "", codes.Unauthenticated)
	c.want(t, "ours by the one before, anew", c.connect(t, c.issue(ours, billingID), next), "", codes.Unavailable)
	api.Stop()
	c.want(t, "without the API", c.connect(t, c.issue(next, billingID), next), "", codes.OK)
	if billing.dials.Load() != 1 || partner.dials.Load() != 1 {
		t.Errorf("%d and %d connections were made, want one each", billing.dials.Load(), partner.dials.Load())
	}
}

// shows wants a new handshake to show this certificate.
func (c *tlsCallers) shows(want *x509.Certificate, by *fetchtest.Authority) error {
	conn, err := tls.Dial("tcp", c.GRPCAddress(), &tls.Config{RootCAs: by.Pool(), ServerName: "127.0.0.1", NextProtos: []string{"h2"}})
	if err != nil {
		return err
	}
	defer conn.Close()
	if !conn.ConnectionState().PeerCertificates[0].Equal(want) {
		return errors.New("another certificate is served")
	}
	return nil
}
