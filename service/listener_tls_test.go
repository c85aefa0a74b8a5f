package service_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// mounted is the directory of a configuration and, below it, the directory of
// its certificates, a link that is swapped for another as a whole.
type mounted struct {
	dir string
	n   int
}

// swap puts these files in the place of those before.
func (m *mounted) swap(t *testing.T, files map[string][]byte) {
	t.Helper()
	m.n++
	generation := fmt.Sprint("generation-", m.n)
	if err := os.Mkdir(filepath.Join(m.dir, generation), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(m.dir, generation, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := filepath.Join(m.dir, "next")
	if err := errors.Join(os.Symlink(generation, next), os.Rename(next, filepath.Join(m.dir, "tls"))); err != nil {
		t.Fatal(err)
	}
}

// files are those of a listener with a certificate of an authority, which also
// signs those of callers.
func files(t *testing.T, a *fetchtest.Authority) (map[string][]byte, tls.Certificate) {
	t.Helper()
	pair := a.Issue(fetchtest.IssueOptions{})
	certFile, keyFile := fetchtest.WriteCertificate(t, pair)
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	if err := errors.Join(certErr, keyErr); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": a.PEM()}, pair
}

// mutual is a fetchgate whose callers must show a certificate of its authority.
type mutual struct {
	*server
	mounted   *mounted
	authority *fetchtest.Authority
	upstream  *fetchtest.Recorder
	log       *lines
}

const mutualTLS = "grpc:\n  drain_grace: 0s\n  tls: {cert_file: tls/tls.crt, key_file: tls/tls.key, client_ca_file: tls/ca.crt}\n"

func serveMutual(t *testing.T) *mutual {
	t.Helper()
	m := &mutual{
		mounted: &mounted{dir: t.TempDir()}, authority: fetchtest.NewAuthority(t), log: &lines{},
		upstream: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{}),
	}
	first, _ := files(t, m.authority)
	m.mounted.swap(t, first)
	m.server = run(t, service.Options{
		Config: m.load(t, mutualTLS+yamlOf(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(m.upstream.Upstream)}})),
		Log:    slog.New(slog.NewTextHandler(m.log, nil)), Stdout: &lines{}, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0",
	})
	return m
}

// load reads a configuration from beside the certificates.
func (m *mutual) load(t *testing.T, yaml string) *config.Loaded {
	t.Helper()
	file := filepath.Join(m.mounted.dir, "fetchgate.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// as is the TLS of a caller that shows a certificate, whoever is asked for; nil:
// none.
func (m *mutual) as(shown *tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: m.authority.Pool(), ServerName: "127.0.0.1"}
	if shown != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	return c
}

// caller is a connection of its own.
func (m *mutual) caller(creds credentials.TransportCredentials) (fetchgatev1.FetchServiceClient, func() error, error) {
	c, err := grpc.NewClient(m.GRPCAddress(), grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, nil, err
	}
	return fetchgatev1.NewFetchServiceClient(c), c.Close, nil
}

// TestCallersProveThemselves: where the configuration names authorities, no RPC
// of a caller without a good certificate reaches a handler.
func TestCallersProveThemselves(t *testing.T) {
	m := serveMutual(t)
	issue := func(a *fetchtest.Authority, o fetchtest.IssueOptions) *tls.Certificate {
		c := a.Issue(o)
		return &c
	}
	good := issue(m.authority, fetchtest.IssueOptions{})
	for _, c := range []struct {
		name  string
		creds credentials.TransportCredentials
	}{
		{"no TLS", insecure.NewCredentials()},
		{"no certificate", credentials.NewTLS(m.as(nil))},
		{"another authority's", credentials.NewTLS(m.as(issue(fetchtest.NewAuthority(t), fetchtest.IssueOptions{})))},
		{"expired", credentials.NewTLS(m.as(issue(m.authority, fetchtest.IssueOptions{NotAfter: time.Now().Add(-time.Minute)})))},
		{"not valid yet", credentials.NewTLS(m.as(issue(m.authority, fetchtest.IssueOptions{NotBefore: time.Now().Add(time.Hour)})))},
		{"of a server alone", credentials.NewTLS(m.as(issue(m.authority, fetchtest.IssueOptions{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})))},
	} {
		client, end, err := m.caller(c.creds)
		if err != nil {
			t.Fatal(err)
		}
		for _, rpc := range rpcs {
			if _, err := rpc.call(within(t), client, get(m.upstream.URL("/"))); status.Code(err) != codes.Unavailable {
				t.Errorf("%s by %s: got %v, want Unavailable", c.name, rpc.name, err)
			}
		}
		end()
	}
	if n := m.handled(t); n != 0 || len(m.upstream.Requests()) != 0 {
		t.Errorf("%d handlers ran and %d requests were sent", n, len(m.upstream.Requests()))
	}
	client, end, err := m.caller(credentials.NewTLS(m.as(good)))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), client, get(m.upstream.URL("/")))
		if err != nil {
			t.Fatalf("with a good certificate: %v", err)
		}
		wantAnswer(t, a, 200, "ok")
	}
	if n := m.handled(t); n != len(rpcs) {
		t.Errorf("%d handlers ran, want %d", n, len(rpcs))
	}
}

// handled is how many RPCs that fetch have begun.
func (m *mutual) handled(t *testing.T) int {
	t.Helper()
	code, page, err := m.get("/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	sum := 0
	for line := range strings.Lines(page) {
		var n int
		if _, rest, is := strings.Cut(line, `grpc_service="fetchgate.v1.FetchService",grpc_type=`); is && strings.HasPrefix(line, "grpc_server_started_total") {
			fmt.Sscanf(rest[strings.IndexByte(rest, ' '):], "%d", &n)
		}
		sum += n
	}
	return sum
}

// TestCertificatesAreSwapped: new certificates serve without a restart, bad ones
// do not, and no RPC fails of it.
func TestCertificatesAreSwapped(t *testing.T) {
	m := serveMutual(t)
	shown := m.authority.Issue(fetchtest.IssueOptions{})
	var calls atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var load errgroup.Group
	for range 2 {
		load.Go(func() error {
			for ctx.Err() == nil {
				client, end, err := m.caller(credentials.NewTLS(m.as(&shown)))
				for range 10 {
					if err == nil {
						_, err = whole(t.Context(), client, get(m.upstream.URL("/")))
					}
				}
				if err != nil {
					return err
				}
				calls.Add(10)
				end()
			}
			return nil
		})
	}
	for round := range 2 {
		next, pair := files(t, m.authority)
		m.mounted.swap(t, next)
		eventually(t, func() error { return m.serves(&shown, pair) })
		next["tls.key"] = []byte("nothing")
		m.mounted.swap(t, next)
		eventually(t, func() error {
			if err := m.serves(&shown, pair); err != nil {
				t.Fatal(err)
			}
			if said := strings.Count(m.log.String(), "cannot be used"); said != round+1 {
				return fmt.Errorf("the log says %d times that the files cannot be used: %s", said, m.log.String())
			}
			return nil
		})
	}
	stop()
	if err := load.Wait(); err != nil {
		t.Errorf("after %d RPCs, one failed: %v", calls.Load(), err)
	}
	t.Logf("%d RPCs, 10 on each connection", calls.Load())
	if text := m.log.String(); strings.Contains(text, "nothing") || strings.Contains(text, "PRIVATE KEY-----") {
		t.Errorf("the log holds what is in a file of a key: %s", text)
	}
}

// serves wants a new handshake to show this certificate.
func (m *mutual) serves(shown *tls.Certificate, want tls.Certificate) error {
	config := m.as(shown)
	config.NextProtos = []string{"h2"}
	c, err := tls.Dial("tcp", m.GRPCAddress(), config)
	if err != nil {
		return err
	}
	defer c.Close()
	if got := c.ConnectionState().PeerCertificates[0]; !got.Equal(want.Leaf) {
		return errors.New("another certificate is served")
	}
	return nil
}

// TestListenerDoesNotStart: without its files, or beyond loopback without
// callers, TLS or not.
func TestListenerDoesNotStart(t *testing.T) {
	m := &mutual{mounted: &mounted{dir: t.TempDir()}, authority: fetchtest.NewAuthority(t)}
	fine, _ := files(t, m.authority)
	for name, c := range map[string]struct {
		change  func()
		address string
		want    string
	}{
		"a file that is gone since": {func() { os.Remove(filepath.Join(m.mounted.dir, "tls", "tls.key")) }, "127.0.0.1:0", "tls.key: no such file or directory; see that it is there"},
		"an authority that is gone": {func() { os.Remove(filepath.Join(m.mounted.dir, "tls", "ca.crt")) }, "127.0.0.1:0", "ca.crt: no such file or directory; see that it is there"},
		"a key that is another": {func() {
			other, _ := files(t, m.authority)
			other["tls.crt"] = fine["tls.crt"]
			m.mounted.swap(t, other)
		}, "127.0.0.1:0", "are no pair"},
		"beyond loopback": {func() {}, "0.0.0.0:0", "no callers are named"},
	} {
		t.Run(name, func(t *testing.T) {
			m.mounted.swap(t, fine)
			loaded := m.load(t, mutualTLS)
			c.change()
			_, err := service.New(service.Options{Config: loaded, GRPCAddress: c.address, HTTPAddress: "127.0.0.1:0", Stdout: &lines{}})
			if err == nil {
				t.Fatal("it starts")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "grpc.tls") > 1 {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
		})
	}
}
