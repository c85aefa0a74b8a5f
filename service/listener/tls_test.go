package listener_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service/fetchtest"
	"github.com/fetchgate/fetchgate/service/listener"
	"github.com/fetchgate/fetchgate/service/revocation"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns the PEM of a certificate for 127.0.0.1 and of its key.
func (a *authority) issue(t testing.TB, serial int64, notAfter time.Time) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// secret is a directory as Kubernetes mounts one: its files are links into
// ..data, a link that is swapped for another directory.
type secret struct{ dir string }

func newSecret(t testing.TB, generation string, files map[string][]byte) *secret {
	t.Helper()
	s := &secret{t.TempDir()}
	s.swap(t, generation, files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), s.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *secret) file(name string) string { return filepath.Join(s.dir, name) }

// swap writes a generation of the files unless it is there, and puts it in the
// place of the one before.
func (s *secret) swap(t testing.TB, generation string, files map[string][]byte) {
	t.Helper()
	if err := os.Mkdir(s.file(generation), 0o700); err == nil {
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(s.dir, generation, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink(generation, s.file("..next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.file("..next"), s.file("..data")); err != nil {
		t.Fatal(err)
	}
}

func (s *secret) files(mutual bool) listener.TLSFiles {
	f := listener.TLSFiles{Cert: s.file("tls.crt"), Key: s.file("tls.key")}
	if mutual {
		f.ClientCA = s.file("ca.crt")
	}
	return f
}

func generation(t testing.TB, a *authority, serial int64, notAfter time.Time) map[string][]byte {
	t.Helper()
	cert, key := a.issue(t, serial, notAfter)
	return map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": a.pem}
}

// serveTLS starts a server with a certificate of a.
func serveTLS(t testing.TB, a *authority, mutual bool) (*server, *secret) {
	t.Helper()
	s := newSecret(t, "first", generation(t, a, 10, time.Now().Add(time.Hour)))
	files, err := listener.NewTLS(s.files(mutual), nil)
	if err != nil {
		t.Fatal(err)
	}
	return serveWith(t, listener.Options{}, credentials.NewTLS(files.Config()),
		func(l *listener.Listener) func(accepted, secured net.Conn) net.Conn { return l.Watch }), s
}

func clientConfig(t testing.TB, trusts *authority, is *authority, notAfter time.Time) *tls.Config {
	t.Helper()
	c := &tls.Config{RootCAs: trusts.pool(), ServerName: "127.0.0.1"}
	if is != nil {
		cert, key := is.issue(t, 20, notAfter)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		// Not Certificates: those would stay in the pocket when the server asks
		// for another authority.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c
}

// TestMutual (K21): without a certificate that a named authority signed and
// that has not expired, no handler runs. The caller sees that the connection
// closes (UNAVAILABLE); an RPC that could be UNAUTHENTICATED never starts.
func TestMutual(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	s, _ := serveTLS(t, ours, true)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	for name, c := range map[string]struct {
		config *tls.Config
		want   codes.Code
	}{
		"signed":            {clientConfig(t, ours, ours, later), codes.OK},
		"none":              {clientConfig(t, ours, nil, later), codes.Unavailable},
		"expired":           {clientConfig(t, ours, ours, past), codes.Unavailable},
		"another authority": {clientConfig(t, ours, theirs, later), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.started.Load()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := say(ctx, s.client(t, grpc.WithTransportCredentials(credentials.NewTLS(c.config))), 1)
			if status.Code(err) != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
			if ran := s.started.Load() - before; ran != 0 && c.want != codes.OK {
				t.Errorf("%d handlers ran", ran)
			}
		})
	}
}

// TestHandshake: TLS 1.2 or newer, HTTP/2 and nothing else, no resumption.
func TestHandshake(t *testing.T) {
	ours := newAuthority(t)
	s, _ := serveTLS(t, ours, false)
	for name, c := range map[string]struct {
		change func(*tls.Config)
		fine   bool
	}{
		"h2":      {func(c *tls.Config) { c.NextProtos = []string{"h2"} }, true},
		"TLS 1.2": {func(c *tls.Config) { c.NextProtos, c.MaxVersion = []string{"h2"}, tls.VersionTLS12 }, true},
		"TLS 1.1": {func(c *tls.Config) {
			c.NextProtos, c.MinVersion, c.MaxVersion = []string{"h2"}, tls.VersionTLS10, tls.VersionTLS11
		}, false},
		"http/1.1": {func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			config := clientConfig(t, ours, nil, time.Time{})
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			c.change(config)
			for range 2 {
				conn, err := tls.Dial("tcp", s.address, config)
				if err == nil {
					// gRPC closes what agrees on no protocol after the handshake.
					_, err = conn.Read(make([]byte, 1))
				}
				if (err == nil) != c.fine {
					t.Fatalf("first byte: %v", err)
				}
				if err != nil {
					return
				}
				if conn.ConnectionState().DidResume {
					t.Error("the session was resumed")
				}
				conn.Close()
			}
		})
	}
}

// TestSwaps: 1,000 swaps of the files under load, and no RPC fails.
func TestSwaps(t *testing.T) {
	ours := newAuthority(t)
	s, files := serveTLS(t, ours, true)
	later := time.Now().Add(time.Hour)
	generations := []map[string][]byte{generation(t, ours, 11, later), generation(t, ours, 12, later)}

	ctx, stop := context.WithCancel(t.Context())
	var calls atomic.Int64
	var served sync.Map
	var g errgroup.Group
	for range 4 {
		config := clientConfig(t, ours, ours, later)
		config.VerifyConnection = func(c tls.ConnectionState) error {
			served.Store(c.PeerCertificates[0].SerialNumber.Int64(), true)
			return nil
		}
		g.Go(func() error {
			for ctx.Err() == nil {
				c, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
				if err != nil {
					return err
				}
				for range 10 {
					calls.Add(1)
					if err := say(t.Context(), c, 100); err != nil {
						return err
					}
				}
				c.Close()
			}
			return nil
		})
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := range 1000 {
		<-tick.C
		files.swap(t, strconv.Itoa(i%2), generations[i%2])
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Errorf("an RPC failed: %v", err)
	}
	seen := 0
	served.Range(func(any, any) bool { seen++; return true })
	t.Logf("%d RPCs, 10 on each connection; %d certificates were served", calls.Load(), seen)
	if seen < 2 {
		t.Error("no new certificate was served")
	}
}

// logged are the lines of a log.
type logged struct{ bytes.Buffer }

func (l *logged) count(s string) int { return strings.Count(l.String(), s) }

// TestReload: what is new serves a second later; what is bad does not, and is
// said once.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := newAuthority(t), newAuthority(t)
		soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		s := newSecret(t, "first", generation(t, ours, 10, soon))
		var log logged
		served, err := listener.NewTLS(s.files(true), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		config := served.Config()
		expect := func(what string, serial int64, authority *authority) {
			t.Helper()
			c, err := config.GetConfigForClient(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Certificates[0].Leaf.SerialNumber.Int64(); got != serial {
				t.Errorf("%s: certificate %d is served, want %d", what, got, serial)
			}
			if !c.ClientCAs.Equal(authority.pool()) || c.ClientAuth != tls.RequireAndVerifyClientCert {
				t.Errorf("%s: another authority", what)
			}
		}
		second := generation(t, theirs, 11, later)
		s.swap(t, "second", second)
		expect("at once", 10, ours)
		time.Sleep(time.Second) // of the bubble
		expect("a second later", 11, theirs)
		mixed := generation(t, ours, 12, later)
		mixed["tls.key"] = second["tls.key"]
		s.swap(t, "mixed", mixed)
		for range 10 {
			time.Sleep(time.Second)
			expect("with another's key", 11, theirs)
		}
		os.Remove(s.file("..data"))
		for range 10 {
			time.Sleep(time.Second)
			expect("without files", 11, theirs)
		}
		if n := log.count("cannot be used"); n != 2 {
			t.Errorf("%d lines of what is wrong, want 2:\n%s", n, log.String())
		}
		s.swap(t, "third", generation(t, ours, 13, later))
		time.Sleep(time.Second)
		expect("mended", 13, ours)
	})
}

// TestNewTLS: an error names the file and what to do.
func TestNewTLS(t *testing.T) {
	ours := newAuthority(t)
	fine := generation(t, ours, 10, time.Now().Add(time.Hour))
	with := func(name string, content []byte) map[string][]byte {
		m := maps.Clone(fine)
		m[name] = content
		return m
	}
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string // "" for none
	}{
		"fine":          {fine, ""},
		"another's key": {with("tls.key", generation(t, ours, 1, time.Now().Add(time.Hour))["tls.key"]), "tls.key are no pair"},
		"no PEM":        {with("tls.crt", []byte("hello")), "tls.crt and key_file"},
		"no authority":  {with("ca.crt", nil), "ca.crt has no certificate"},
		"too large":     {with("ca.crt", make([]byte, 1<<20+1)), "ca.crt of grpc.tls is larger than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := listener.NewTLS(newSecret(t, "first", c.files).files(true), nil)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := listener.NewTLS(listener.TLSFiles{Cert: "gone.crt", Key: "gone.key"}, nil); err == nil ||
		!strings.Contains(err.Error(), "gone.crt") || !strings.Contains(err.Error(), "gone.key") {
		t.Errorf("without files: %v", err)
	}
	var log logged
	expired := newSecret(t, "first", generation(t, ours, 10, time.Now().Add(-time.Minute)))
	if _, err := listener.NewTLS(expired.files(false), slog.New(slog.NewTextHandler(&log, nil))); err != nil || log.count("has expired") != 1 {
		t.Errorf("an expired certificate: %v; %s", err, log.String())
	}
}

// withLists are the files with revocation lists beside them.
func (s *secret) withLists(optional bool) listener.TLSFiles {
	f := s.files(true)
	f.ClientCRL, f.Optional = s.file("lists.pem"), optional
	return f
}

// TestRevocation: who is revoked is refused in the handshake and from then on;
// lists that are out of date refuse everybody; lists that cannot be used leave the
// last ones. The log says each once.
func TestRevocation(t *testing.T) {
	ours := fetchtest.NewAuthority(t)
	shown, other := ours.Issue(fetchtest.IssueOptions{}), ours.Issue(fetchtest.IssueOptions{})
	later := time.Now().Add(time.Hour)
	files := map[string][]byte{"ca.crt": ours.PEM(), "lists.pem": ours.Revoke(later)}
	certFile, keyFile := fetchtest.WriteCertificate(t, ours.Issue(fetchtest.IssueOptions{}))
	for name, from := range map[string]string{"tls.crt": certFile, "tls.key": keyFile} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = content
	}
	s := newSecret(t, "first", files)
	var log logged
	served, err := listener.NewTLS(s.withLists(false), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	chainOf := func(c tls.Certificate) [][]*x509.Certificate {
		chains, err := c.Leaf.Verify(x509.VerifyOptions{Roots: ours.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil {
			t.Fatal(err)
		}
		return chains
	}
	// A handshake and an RPC on an open connection ask the same.
	expect := func(what string, c tls.Certificate, want any) {
		t.Helper()
		now, err := served.Config().GetConfigForClient(nil)
		if err != nil {
			t.Fatal(err)
		}
		inHandshake := now.VerifyConnection(tls.ConnectionState{VerifiedChains: chainOf(c)})
		later := served.Judge(chainOf(c))
		if fmt.Sprintf("%T", inHandshake) != fmt.Sprintf("%T", want) || fmt.Sprintf("%T", later) != fmt.Sprintf("%T", want) {
			t.Errorf("%s: %v in the handshake, %v later, want %T", what, inHandshake, later, want)
		}
	}
	change := func(name string, content []byte) {
		t.Helper()
		files = maps.Clone(files)
		files["lists.pem"] = content
		s.swap(t, name, files)
		served.Refresh()
	}
	expect("at the start", shown, nil)
	change("second", ours.Revoke(later, shown))
	expect("revoked", shown, (*revocation.Revoked)(nil))
	expect("another", other, nil)
	change("third", []byte("nothing"))
	change("third again", []byte("nothing"))
	expect("revoked, and the file is of no use", shown, (*revocation.Revoked)(nil))
	if log.count("cannot be used") != 1 || log.count("lists.pem holds no revocation list") != 1 {
		t.Errorf("the log says: %s", log.String())
	}
	change("fourth", ours.Revoke(time.Now().Add(-time.Minute)))
	expect("out of date", other, (*revocation.Outdated)(nil))
	expect("out of date", shown, (*revocation.Outdated)(nil))
	if log.count("is out of date") != 1 {
		t.Errorf("the log says: %s", log.String())
	}
	change("fifth", ours.Revoke(later))
	expect("not revoked any more", shown, nil)
	// Who is revoked does not wait for a key that was written by half.
	key := files["tls.key"]
	files["tls.key"] = key[:len(key)/2]
	change("half a key", ours.Revoke(later, other))
	expect("revoked beside half a key", other, (*revocation.Revoked)(nil))
	change("half a key again", ours.Revoke(later, other))
	files["tls.key"] = key
	change("mended", ours.Revoke(later, shown))
	expect("revoked before", other, nil)
	expect("revoked now", shown, (*revocation.Revoked)(nil))
}

// TestRevocationAtTheStart: lists of others do not start, with the file's name;
// old ones start, and the log says so.
func TestRevocationAtTheStart(t *testing.T) {
	ours := fetchtest.NewAuthority(t)
	certFile, keyFile := fetchtest.WriteCertificate(t, ours.Issue(fetchtest.IssueOptions{}))
	start := func(lists []byte) (string, error) {
		file := filepath.Join(t.TempDir(), "lists.pem")
		if err := os.WriteFile(file, lists, 0o600); err != nil {
			t.Fatal(err)
		}
		var log logged
		_, err := listener.NewTLS(listener.TLSFiles{Cert: certFile, Key: keyFile, ClientCA: ours.WriteFile(t), ClientCRL: file}, slog.New(slog.NewTextHandler(&log, nil)))
		return log.String(), err
	}
	if _, err := start(fetchtest.NewAuthority(t).Revoke(time.Now().Add(time.Hour))); err == nil || !strings.Contains(err.Error(), "lists.pem holds a revocation list, number 1") {
		t.Errorf("another authority's: %v", err)
	}
	if log, err := start(ours.Revoke(time.Now().Add(-time.Hour))); err != nil || strings.Count(log, "is out of date") != 1 {
		t.Errorf("an old one: %v, %s", err, log)
	}
}
