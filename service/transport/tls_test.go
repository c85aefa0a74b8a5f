package transport_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// named is a GET for another name of the upstream.
func named(t *testing.T, u *upstream, host string, p protocol) *fetch.Request {
	r := get(t, u.url, p)
	r.Host = host
	return r
}

func TestTLSFacts(t *testing.T) {
	names := make(chan string, 10)
	config := h1TLS()
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}
	leaf, err := x509.ParseCertificate(goodCertificate().Certificate[0])
	check(err)
	u := answers(t, config, "HTTP/1.1 204 No Content\r\n\r\n")
	tr := newTransport(t)
	for i, c := range []struct{ host, sni string }{{"up.test", "up.test"}, {"127.0.0.1", ""}, {"up.test", "up.test"}} {
		r := named(t, u, c.host, overTLS)
		r.Fresh = true // the upstream may not have closed the last one yet
		e := do(t, tr, r)
		f := e.facts.TLS
		if sni := <-names; sni != c.sni {
			t.Errorf("SNI %q for %s", sni, c.host)
		}
		if f.Version != tls.VersionTLS13 || f.CipherSuite == 0 || !f.NotAfter.Equal(leaf.NotAfter) || f.PeerSPKI == [32]byte{} || e.facts.Times.TLS <= 0 {
			t.Errorf("facts %+v", f)
		}
		if f.Resumed != (i == 2) {
			t.Errorf("connection %d: resumed %t", i, f.Resumed)
		}
	}
	other := named(t, u, "up.test", overTLS)
	other.Route.Key = "another"
	if f := do(t, tr, other).facts.TLS; f.Resumed {
		t.Error("a session was resumed under another key")
	}
}

func TestTLSFailures(t *testing.T) {
	long := strings.Repeat("n", 60) + "."
	for name, c := range map[string]struct {
		issuer *authorityT
		alter  func(*x509.Certificate)
		host   string
		want   fetch.Reason
	}{
		"expired":       {ca(), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, "up.test", fetch.ReasonTLSExpired},
		"not yet valid": {ca(), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, "up.test", fetch.ReasonTLSExpired},
		"wrong name":    {ca(), nil, "other.test", fetch.ReasonTLSNameMismatch},
		"wildcard too deep": {ca(), func(c *x509.Certificate) { c.DNSNames = []string{"*.test"} }, "a.up.test",
			fetch.ReasonTLSNameMismatch},
		"common name only": {ca(), func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, "up.test", fetch.ReasonTLSNameMismatch},
		"address in a name": {ca(), func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"127.0.0.1"}, nil }, "127.0.0.1",
			fetch.ReasonTLSNameMismatch},
		"unknown authority": {newAuthority("stranger"), nil, "up.test", fetch.ReasonTLSVerify},
		"for clients only": {ca(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "up.test",
			fetch.ReasonTLSVerify},
		"many long names": {ca(), func(c *x509.Certificate) {
			c.DNSNames = nil
			for i := range 500 {
				c.DNSNames = append(c.DNSNames, fmt.Sprint(strings.Repeat(long, 3), i))
			}
			c.Subject = pkix.Name{CommonName: strings.Repeat("c", 500)}
			c.SerialNumber = big.NewInt(3)
		}, "other.test", fetch.ReasonTLSNameMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			config := h2TLS()
			config.Certificates = []tls.Certificate{c.issuer.issue(c.alter)}
			u := rawUpstream(t, config, func(conn net.Conn) {
				if n, _ := conn.Read(make([]byte, 1)); n > 0 {
					t.Error("a byte of the request arrived")
				}
			})
			f, facts := fails(t, newTransport(t), named(t, u, c.host, overH2), c.want)
			if f.Stage != fetch.StageTLS || f.Sent != fetch.SentNo || facts.Sent != 0 || facts.Dials != 1 || facts.TLS != nil {
				t.Errorf("%+v, %+v", f, facts)
			}
			if f.TLS == nil || f.TLS.Subject == "" || f.TLS.Issuer == "" || f.TLS.NotAfter.IsZero() || len(f.TLS.Subject) > 256 || len(f.TLS.Names) > 10 || len(f.Message) > 256 {
				t.Errorf("fault %+v", f.TLS)
			}
			u.waitGone(t)
		})
	}
}

func TestTLSRootsOfTheRoute(t *testing.T) {
	private := newAuthority("private")
	config := h1TLS()
	config.Certificates = []tls.Certificate{private.issue(nil)}
	u := answers(t, config, "HTTP/1.1 204 No Content\r\n\r\n")
	r := named(t, u, "up.test", overTLS)
	r.Route.TLS = fetch.TLSSettings{Roots: private.pool, RootsID: "private"}
	tr := newTransport(t)
	do(t, tr, r)
	r = named(t, u, "elsewhere.test", overTLS)
	r.Route.TLS = fetch.TLSSettings{Roots: private.pool, RootsID: "private", ServerName: "up.test"}
	do(t, tr, r)
	r.Route.TLS.RootsID = ""
	fails(t, tr, r, fetch.ReasonInternalFault)
}

func TestTLSHandshakeFailures(t *testing.T) {
	old := h1TLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	t12 := h1TLS()
	t12.MaxVersion = tls.VersionTLS12
	for name, c := range map[string]struct {
		upstream func(t *testing.T) *upstream
		p        protocol
		alter    func(*fetch.Request)
		want     fetch.Reason
		alert    uint8
	}{
		"TLS 1.1 only": {func(t *testing.T) *upstream { return answers(t, old, "") }, overTLS, nil, fetch.ReasonTLSHandshake, 70},
		"TLS 1.3 wanted": {func(t *testing.T) *upstream { return answers(t, t12, "") }, overTLS,
			func(r *fetch.Request) { r.Route.TLS.MinVersion = tls.VersionTLS13 }, fetch.ReasonTLSHandshake, 70},
		"no TLS": {func(t *testing.T) *upstream {
			return rawUpstream(t, nil, func(c net.Conn) { c.Read(make([]byte, 1)); io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") })
		}, overTLS, nil, fetch.ReasonTLSHandshake, 0},
		"closes": {func(t *testing.T) *upstream {
			return rawUpstream(t, nil, func(c net.Conn) { io.CopyN(io.Discard, c, 5); c.(*net.TCPConn).CloseWrite(); io.Copy(io.Discard, c) })
		}, overTLS, nil, fetch.ReasonTLSHandshake, 0},
		"resets": {func(t *testing.T) *upstream {
			return rawUpstream(t, nil, func(c net.Conn) { io.CopyN(io.Discard, c, 5); c.(*net.TCPConn).SetLinger(0) })
		}, overTLS, nil, fetch.ReasonConnectionReset, 0},
		"stalls": {func(t *testing.T) *upstream {
			return rawUpstream(t, nil, func(c net.Conn) { io.Copy(io.Discard, c) })
		}, overTLS, func(r *fetch.Request) { r.Timeouts.TLS = 50 * time.Millisecond }, fetch.ReasonTLSTimeout, 0},
		"no HTTP/2": {func(t *testing.T) *upstream { return answers(t, h1TLS(), "") },
			protocol{version: fetch.HTTP2, secure: true}, nil, fetch.ReasonTLSHandshake, 120},
		"no ALPN": {func(t *testing.T) *upstream {
			config := h1TLS()
			config.NextProtos = nil
			return answers(t, config, "")
		}, protocol{version: fetch.HTTP2, secure: true}, nil, fetch.ReasonTLSHandshake, 0},
	} {
		t.Run(name, func(t *testing.T) {
			u := c.upstream(t)
			r := get(t, strings.Replace(u.url, "http:", "https:", 1), c.p)
			if c.alter != nil {
				c.alter(r)
			}
			f, facts := fails(t, newTransport(t), r, c.want)
			if f.Stage != fetch.StageTLS || f.Sent != fetch.SentNo || facts.Stage != fetch.StageTLS || c.alert != 0 && (f.TLS == nil || f.TLS.Alert != c.alert) {
				t.Errorf("%+v, %+v, %+v", f, f.TLS, facts)
			}
			u.waitGone(t)
		})
	}
}

// TestTLSClientCertificate meets upstreams that demand one, or would like one.
func TestTLSClientCertificate(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, p := range []protocol{overTLS, overH2} {
			t.Run(fmt.Sprint(tls.VersionName(version), p.name), func(t *testing.T) {
				config := h2TLS()
				if p.is == "HTTP/1.1" {
					config = h1TLS()
				}
				config.MaxVersion = version
				config.ClientAuth = tls.RequireAnyClientCert
				u := rawUpstream(t, config, func(c net.Conn) {
					c.(*tls.Conn).Handshake()
					io.Copy(io.Discard, c.(*tls.Conn).NetConn())
				})
				f, _ := fails(t, newTransport(t), get(t, u.url, p), fetch.ReasonTLSClientCertificate)
				if f.Stage != fetch.StageTLS || f.TLS == nil || f.TLS.Alert == 0 {
					t.Errorf("%+v, %+v", f, f.TLS)
				}
			})
		}
	}
	config := h1TLS()
	config.ClientAuth = tls.RequestClientCert
	u := answers(t, config, "HTTP/1.1 204 No Content\r\n\r\n")
	do(t, newTransport(t), get(t, u.url, overTLS))
}

func TestALPN(t *testing.T) {
	both := &tls.Config{Certificates: []tls.Certificate{goodCertificate()}, NextProtos: []string{"h2", "http/1.1"}}
	for _, c := range []struct {
		version fetch.HTTPVersion
		config  *tls.Config
		want    string
	}{
		{fetch.HTTPAny, both, "h2"}, {fetch.HTTP1, both, "http/1.1"}, {fetch.HTTP2, both, "h2"},
		{fetch.HTTPAny, h1TLS(), "http/1.1"},
		{fetch.HTTPAny, &tls.Config{Certificates: both.Certificates}, ""},
	} {
		got := make(chan string, 1)
		u := rawUpstream(t, c.config, func(conn net.Conn) {
			conn.(*tls.Conn).Handshake()
			got <- conn.(*tls.Conn).ConnectionState().NegotiatedProtocol
			if c.want != "h2" {
				http.ReadRequest(bufio.NewReader(conn))
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		})
		r := get(t, u.url, protocol{version: c.version})
		resp, _, err := newTransport(t).RoundTrip(t.Context(), r)
		if proto := <-got; proto != c.want {
			t.Errorf("version %d: chose %q, want %q", c.version, proto, c.want)
		}
		if c.want != "h2" && err != nil {
			t.Error(err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}
