package transport_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the HTTP libraries' remarks on hostile upstreams
	goleak.VerifyTestMain(m)
}

// hosts is a resolver for which every name is this machine.
type hosts struct{}

func (hosts) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// authorityT issues certificates; ca is the one that transports trust.
type authorityT struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var ca = sync.OnceValue(func() *authorityT { return newAuthority("test CA") })

func newAuthority(name string) *authorityT {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	a := &authorityT{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// issue makes a server certificate for up.test and 127.0.0.1, changed by alter.
func (a *authorityT) issue(alter func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "up.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"up.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if alter != nil {
		alter(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

var goodCertificate = sync.OnceValue(func() tls.Certificate { return ca().issue(nil) })

// upstream is a server and what was seen of its connections.
type upstream struct {
	url   string
	conns atomic.Int64 // accepted
	open  atomic.Int64
	gone  chan struct{} // gets one for each that was closed
}

// protocol is a way to speak HTTP with an upstream.
type protocol struct {
	name    string
	version fetch.HTTPVersion
	is      string // of facts and heads
	secure  bool
	engine  engine
}

// engine is what speaks a protocol.
type engine int

const (
	// exact is the transport's own HTTP/1.1, with which every byte goes out, and
	// comes back, as it is.
	exact engine = iota
	// reference is net/http's HTTP/1.1.
	reference
	// library is that of HTTP/2.
	library
)

var (
	overH1    = protocol{"h1", fetch.HTTPAny, "HTTP/1.1", false, exact}
	overTLS   = protocol{"https1", fetch.HTTP1, "HTTP/1.1", true, exact}
	overNet   = protocol{"nethttp", fetch.HTTPAny, "HTTP/1.1", false, reference}
	overNets  = protocol{"nethttps", fetch.HTTP1, "HTTP/1.1", true, reference}
	overH2    = protocol{"h2", fetch.HTTPAny, "HTTP/2", true, library}
	overH2C   = protocol{"h2c", fetch.HTTP2, "HTTP/2", false, library}
	protocols = []protocol{overH1, overTLS, overNet, overNets, overH2, overH2C}
)

// overAll runs a test over each protocol.
func overAll(t *testing.T, test func(t *testing.T, p protocol)) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// overWire runs a test over each engine of HTTP/1.1: one whose upstream is the
// test's own, to the byte.
func overWire(t *testing.T, test func(t *testing.T, p protocol)) {
	overAll(t, func(t *testing.T, p protocol) {
		if p.engine == library {
			t.Skip("HTTP/2 has another wire")
		}
		test(t, p)
	})
}

// overExact runs a test over the exact engine. loses completes "the reference",
// and says why that cannot pass.
func overExact(t *testing.T, loses string, test func(t *testing.T, p protocol)) {
	overWire(t, func(t *testing.T, p protocol) {
		if p.engine == reference {
			t.Skip("the reference " + loses)
		}
		test(t, p)
	})
}

// serve starts net/http's server for a protocol.
func serve(t testing.TB, p protocol, handler http.HandlerFunc) *upstream {
	return serveH2(t, p, 250, handler)
}

// serveH2 starts one that serves so many streams of a connection at a time.
func serveH2(t testing.TB, p protocol, streams int, handler http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{gone: make(chan struct{}, 1000)}
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			u.conns.Add(1)
			u.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			u.open.Add(-1)
			u.gone <- struct{}{}
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(p.is == "HTTP/1.1")
	protocols.SetHTTP2(p.is == "HTTP/2" && p.secure)
	protocols.SetUnencryptedHTTP2(p.is == "HTTP/2" && !p.secure)
	s.Config.Protocols = protocols
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	if p.secure {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{goodCertificate()}, NextProtos: []string{"h2"}}
		if p.is == "HTTP/1.1" {
			s.TLS.NextProtos = []string{"http/1.1"}
		}
		s.EnableHTTP2 = p.is == "HTTP/2"
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	u.url = s.URL
	return u
}

// rawUpstream lets script play one connection after the other; secure ones
// choose proto by ALPN. A script's connection closes when it returns.
func rawUpstream(t testing.TB, config *tls.Config, script func(c net.Conn)) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{url: "http://" + l.Addr().String(), gone: make(chan struct{}, 1000)}
	if config != nil {
		u.url = "https://" + l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.conns.Add(1)
			u.open.Add(1)
			running.Go(func() {
				defer func() { u.open.Add(-1); u.gone <- struct{}{} }()
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				if config == nil {
					script(c)
				} else {
					script(tls.Server(c, config))
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
	return u
}

// wireUpstream is a rawUpstream for p.
func wireUpstream(t testing.TB, p protocol, script func(c net.Conn)) *upstream {
	t.Helper()
	if !p.secure {
		return rawUpstream(t, nil, script)
	}
	return rawUpstream(t, h1TLS(), script)
}

func (u *upstream) waitGone(t *testing.T) {
	t.Helper()
	select {
	case <-u.gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the connection to the upstream is still open after 5 s")
	}
}

// h2TLS and h1TLS are the TLS of raw upstreams.
func h2TLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{goodCertificate()}, NextProtos: []string{"h2"}}
}

func h1TLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{goodCertificate()}, NextProtos: []string{"http/1.1"}}
}

// newTransport is a transport that trusts ca and ends with the test.
func newTransport(t testing.TB, alter ...func(*fetch.Limits)) *transport.Transport {
	t.Helper()
	limits := fetch.DefaultLimits()
	for _, f := range alter {
		f(&limits)
	}
	return newTransportOf(t, dial.Options{}, limits)
}

// newTransport is one that speaks p.
func (p protocol) newTransport(t testing.TB, alter ...func(*fetch.Limits)) *transport.Transport {
	t.Helper()
	if p.engine != reference {
		return newTransport(t, alter...)
	}
	limits := fetch.DefaultLimits()
	for _, f := range alter {
		f(&limits)
	}
	return closing(t, transport.NewReference(transport.Options{Dialer: dial.New(dial.Options{Resolver: hosts{}}), Roots: ca().pool, Limits: limits}))
}

// newTransportOn is one whose connects all fail so.
func newTransportOn(t *testing.T, connect func(context.Context) error) *transport.Transport {
	t.Helper()
	return newTransportOf(t, dial.Options{Connect: func(ctx context.Context, _ netip.AddrPort, control dial.Control) (net.Conn, error) {
		return nil, connect(ctx)
	}}, fetch.DefaultLimits())
}

func newTransportOf(t testing.TB, o dial.Options, limits fetch.Limits) *transport.Transport {
	t.Helper()
	o.Resolver = hosts{}
	return closing(t, transport.New(transport.Options{Dialer: dial.New(o), Roots: ca().pool, Limits: limits}))
}

// closing ends tr with the test.
func closing(t testing.TB, tr *transport.Transport) *transport.Transport {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := tr.Close(ctx); err != nil {
			t.Errorf("Close: %v; a connection is still in use", err)
		}
	})
	return tr
}

// get is a GET request for raw.
func get(t testing.TB, raw string, p protocol) *fetch.Request {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return &fetch.Request{
		Method: "GET", Scheme: u.Scheme, Host: u.Hostname(), Port: uint16(port), Target: []byte(u.RequestURI()),
		Timeouts: fetch.DefaultLimits().Timeouts,
		Route: fetch.Route{
			Key: "test", Version: p.version, MaxDials: 4,
			Allow: func(netip.AddrPort) error { return nil },
		},
	}
}

// post is a POST request with a body, chunked if length is -1.
func post(t *testing.T, raw string, p protocol, body io.ReadCloser, length int64) *fetch.Request {
	r := get(t, raw, p)
	r.Method, r.Body, r.Framing, r.Length = "POST", body, fetch.FramingLength, length
	if length < 0 {
		r.Framing = fetch.FramingChunked
	}
	return r
}

// exchange is a whole round trip.
type exchangeT struct {
	*fetch.Response
	facts fetch.Facts
	body  []byte
	err   error // of the body
}

func do(t *testing.T, tr *transport.Transport, r *fetch.Request) exchangeT {
	t.Helper()
	resp, facts, err := tr.RoundTrip(t.Context(), r)
	if err != nil {
		t.Fatalf("RoundTrip: %v (cause %v)", err, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return exchangeT{resp, facts, body, err}
}

// fails expects a failure of RoundTrip.
func fails(t *testing.T, tr *transport.Transport, r *fetch.Request, want fetch.Reason) (*fetch.Failure, fetch.Facts) {
	t.Helper()
	resp, facts, err := tr.RoundTrip(t.Context(), r)
	if err == nil {
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		t.Fatalf("got status %d, body %.100q, %v; want failure %s", resp.Status, body, err, want)
	}
	return isFailure(t, err, want), facts
}

func isFailure(t *testing.T, err error, want fetch.Reason) *fetch.Failure {
	t.Helper()
	var f *fetch.Failure
	if !errors.As(err, &f) {
		t.Fatalf("error is %T %v; want a *fetch.Failure %s", err, err, want)
	}
	if f.Reason != want {
		t.Fatalf("failure is %s: %s (cause %v); want %s", f.Reason, f.Message, f.Cause, want)
	}
	return f
}

func field(fields []fetch.Field, name string) string {
	v, _ := fetch.Get(fields, name)
	return string(v)
}

// body is a request body that counts and can be watched.
type bodyT struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func newBody(r io.Reader) *bodyT { return &bodyT{Reader: r, closed: make(chan struct{})} }

func (b *bodyT) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// waits is a reader that gives its bytes and then waits until it is closed.
type waits struct {
	*bytes.Reader
	*bodyT
}

func newWaits(s string) *waits {
	w := &waits{Reader: bytes.NewReader([]byte(s))}
	w.bodyT = newBody(nil)
	return w
}

func (w *waits) Read(p []byte) (int, error) {
	if w.Reader.Len() > 0 {
		return w.Reader.Read(p)
	}
	<-w.closed
	return 0, errors.New("read of a closed body")
}

// endless never ends and never waits.
type endless struct{ *bodyT }

func (e endless) Read(p []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, errors.New("read of a closed body")
	default:
		return len(p), nil
	}
}

func isClosed(t *testing.T, b *bodyT) {
	t.Helper()
	select {
	case <-b.closed:
	case <-time.After(5 * time.Second):
		t.Error("the request body was not closed")
	}
}
