package transport_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// child is an authority whose certificate a signed, changed by alter.
func (a *authorityT) child(name string, alter func(*x509.Certificate)) *authorityT {
	c := newAuthority(name)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if alter != nil {
		alter(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, c.key.Public(), a.key)
	check(err)
	c.cert, err = x509.ParseCertificate(der)
	check(err)
	return c
}

// leafFor certifies a key that its holder need not have.
func (a *authorityT) leafFor(public crypto.PublicKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(4), Subject: pkix.Name{CommonName: "up.test"}, DNSNames: []string{"up.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, public, a.key)
	check(err)
	return der
}

// rsaLeaf is a leaf with an RSA key of so many bits.
func rsaLeaf(bits int) tls.Certificate {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	check(err)
	return tls.Certificate{Certificate: [][]byte{ca().leafFor(key.Public())}, PrivateKey: key}
}

// hugeKey is a leaf with a modulus that nobody has the factors of.
func hugeKey(bits uint) tls.Certificate {
	n := new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1)
	leaf := ca().leafFor(&rsa.PublicKey{N: n, E: 65537})
	return tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: ca().key}
}

// sha1Leaf is signed by an authority with SHA-1.
func sha1Leaf() tls.Certificate {
	return ca().issue(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
}

// through is a leaf that so many authorities in a row stand for.
func through(n int, alter func(*x509.Certificate)) tls.Certificate {
	a := ca()
	var chain [][]byte
	for i := range n {
		a = a.child(fmt.Sprint("intermediate ", i), alter)
		chain = append(chain, a.cert.Raw)
	}
	leaf := a.issue(nil)
	slices.Reverse(chain)
	leaf.Certificate = append(leaf.Certificate, chain...)
	return leaf
}

// reordered puts the leaf first and the rest upside down.
func reordered(c tls.Certificate) tls.Certificate {
	slices.Reverse(c.Certificate[1:])
	return c
}

// crossSigned has two authorities stand for each other, and none for a root.
func crossSigned() tls.Certificate {
	a, b := newAuthority("a"), newAuthority("b")
	ab, ba := a.child("b", nil), b.child("a", nil)
	leaf := ab.issue(nil)
	for range 20 {
		leaf.Certificate = append(leaf.Certificate, ab.cert.Raw, ba.cert.Raw)
	}
	return leaf
}

// constrained is a leaf of many names below an authority of many constraints.
func constrained(n int) tls.Certificate {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("n%d.test", i))
	}
	a := ca().child("constrained", func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains, c.ExcludedDNSDomains = true, append(names, "up.test"), names[:0]
	})
	leaf := a.issue(func(c *x509.Certificate) { c.DNSNames = append([]string{"up.test"}, names...) })
	leaf.Certificate = append(leaf.Certificate, a.cert.Raw)
	return leaf
}

func withoutRest(c tls.Certificate) tls.Certificate {
	c.Certificate = c.Certificate[:1]
	return c
}

func selfSigned() tls.Certificate {
	a := newAuthority("up.test")
	key := a.issue(nil)
	a.cert, a.key = &x509.Certificate{Subject: pkix.Name{CommonName: "up.test"}}, key.PrivateKey.(*ecdsa.PrivateKey)
	return tls.Certificate{Certificate: [][]byte{a.leafFor(a.key.Public())}, PrivateKey: a.key}
}

func valid(from, until time.Duration) tls.Certificate {
	return ca().issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(until)
	})
}

func manyNames(n int) tls.Certificate {
	return ca().issue(func(c *x509.Certificate) {
		c.DNSNames = nil
		for i := range n {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("n%d.example", i))
		}
	})
}

// TestTLSChains meets upstreams with all kinds of certificates. Each is judged
// in bounded time and words, and a refusal opens one connection alone.
func TestTLSChains(t *testing.T) {
	for name, c := range map[string]struct {
		chain tls.Certificate
		want  fetch.Reason // empty: accepted
	}{
		"expired a second ago":        {valid(-time.Hour, -time.Second), fetch.ReasonTLSExpired},
		"expires in two seconds":      {valid(-time.Hour, 2*time.Second), ""},
		"valid in two seconds":        {valid(2*time.Second, time.Hour), fetch.ReasonTLSExpired},
		"valid for a second":          {valid(-time.Second, time.Hour), ""},
		"self-signed":                 {selfSigned(), fetch.ReasonTLSVerify},
		"intermediate":                {through(2, nil), ""},
		"intermediates in no order":   {reordered(through(3, nil)), ""},
		"incomplete":                  {withoutRest(through(1, nil)), fetch.ReasonTLSVerify},
		"signed with SHA-1":           {sha1Leaf(), fetch.ReasonTLSVerify},
		"RSA 2048":                    {rsaLeaf(2048), ""},
		"RSA 1024":                    {rsaLeaf(1024), fetch.ReasonTLSVerify},
		"RSA 2049":                    {rsaLeaf(2049), fetch.ReasonTLSVerify},
		"RSA 16384":                   {hugeKey(16384), fetch.ReasonTLSHandshake},
		"10,000 other names":          {manyNames(10_000), fetch.ReasonTLSNameMismatch},
		"a chain of 100":              {through(100, nil), fetch.ReasonTLSVerify},
		"cross-signed in a circle":    {crossSigned(), fetch.ReasonTLSVerify},
		"2,000 names and constraints": {constrained(2_000), ""},
		"wildcard without a label": {ca().issue(func(c *x509.Certificate) { c.DNSNames = []string{"*.up.test"} }),
			fetch.ReasonTLSNameMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			config := h1TLS()
			config.Certificates = []tls.Certificate{c.chain}
			u := answers(t, config, "HTTP/1.1 204 No Content\r\n\r\n")
			r := named(t, u, "up.test", overTLS)
			began := time.Now()
			if c.want == "" {
				if do(t, newTransport(t), r); time.Since(began) > time.Second {
					t.Errorf("accepted after %s", time.Since(began))
				}
				return
			}
			f, facts := fails(t, newTransport(t), r, c.want)
			if took := time.Since(began); took > time.Second || facts.Dials != 1 || f.Sent != fetch.SentNo || f.Stage != fetch.StageTLS {
				t.Errorf("after %s: %+v, %+v", took, f, facts)
			}
			if len(f.Error()) > 1<<10 || f.TLS != nil && len(fmt.Sprint(*f.TLS)) > 4<<10 {
				t.Errorf("it says too much: %s, %+v", f, f.TLS)
			}
			u.waitGone(t)
		})
	}
}

// TestTLSNothingIsFetchedForAChain has a certificate name where its issuer's is
// to be had: an address of the upstream's choice.
func TestTLSNothingIsFetchedForAChain(t *testing.T) {
	aia := rawUpstream(t, nil, func(net.Conn) {})
	missing := ca().child("missing", nil)
	config := h1TLS()
	config.Certificates = []tls.Certificate{missing.issue(func(c *x509.Certificate) {
		c.IssuingCertificateURL, c.OCSPServer, c.CRLDistributionPoints = []string{aia.url}, []string{aia.url}, []string{aia.url}
	})}
	fails(t, newTransport(t), named(t, answers(t, config, ""), "up.test", overTLS), fetch.ReasonTLSVerify)
	if n := aia.conns.Load(); n != 0 {
		t.Errorf("%d connections to where the certificate said", n)
	}
}

// TestTLSOldSuites meets servers that offer only what is broken.
func TestTLSOldSuites(t *testing.T) {
	for _, suite := range []uint16{
		tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA,
		tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			config := h1TLS()
			config.Certificates = []tls.Certificate{rsaLeaf(2048)}
			config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{suite}
			f, _ := fails(t, newTransport(t), named(t, answers(t, config, ""), "up.test", overTLS), fetch.ReasonTLSHandshake)
			if f.TLS == nil || f.TLS.Alert != 40 {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestTLSSessionsFollowTheRoots withdraws the root under which a session began.
func TestTLSSessionsFollowTheRoots(t *testing.T) {
	u := answers(t, h1TLS(), "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	tr := newTransport(t)
	request := func(id string, pool *x509.CertPool, least uint16) *fetch.Request {
		r := named(t, u, "up.test", overTLS)
		r.Route.TLS = fetch.TLSSettings{Roots: pool, RootsID: id, MinVersion: least}
		r.Route = r.Route.Sealed(fetch.Origin{Scheme: r.Scheme, Host: r.Host, Port: r.Port})
		return r
	}
	do(t, tr, request("good", ca().pool, 0))
	if f := do(t, tr, request("good", ca().pool, 0)).facts.TLS; !f.Resumed {
		t.Error("no session was resumed under the same roots")
	}
	if f := do(t, tr, request("good", ca().pool, tls.VersionTLS13)).facts.TLS; f.Resumed {
		t.Error("a session was resumed under another least version")
	}
	fails(t, tr, request("other", newAuthority("other").pool, 0), fetch.ReasonTLSVerify)
	tr.Forget(func(r fetch.Route) bool { return r.TLS.RootsID != "good" })
	if f := do(t, tr, request("good", ca().pool, 0)).facts.TLS; f.Resumed {
		t.Error("a session was resumed that was withdrawn")
	}
}

// TestTLSNameIsNotTheHostField: SNI and the name verified are the host's.
func TestTLSNameIsNotTheHostField(t *testing.T) {
	names := make(chan string, 1)
	config := h1TLS()
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}
	r := named(t, answers(t, config, "HTTP/1.1 204 No Content\r\n\r\n"), "up.test", overTLS)
	r.HostField = "other.test"
	do(t, newTransport(t), r)
	if sni := <-names; sni != "up.test" {
		t.Errorf("SNI is %q", sni)
	}
}

// TestALPNIsNotKept has an upstream choose HTTP/1.1 and speak HTTP/2.
func TestALPNIsNotKept(t *testing.T) {
	u := rawUpstream(t, h1TLS(), func(c net.Conn) {
		c.Read(make([]byte, 1<<10))
		io.WriteString(c, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		io.Copy(io.Discard, c)
	})
	f, _ := fails(t, newTransport(t), get(t, u.url, protocol{}), fetch.ReasonMalformedHead)
	if strings.Contains(f.Message, "\x00") {
		t.Errorf("%q", f.Message)
	}
}
