package fetchtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The validity of certificates for which no other is asked. It begins before
// the clock of testing/synctest, so that they are good in a bubble too.
var (
	validFrom  = time.Date(1999, time.January, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2099, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// Authority is a certificate authority in memory. No two have the same name or
// key, so a certificate of one never passes for that of another.
type Authority struct {
	t           testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes a certificate authority with a new P-256 key.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "fetchtest authority " + rand.Text()},
		NotBefore:             validFrom,
		NotAfter:              validUntil,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.certificate = sign(t, template, template, a.key.Public(), a.key)
	return a
}

// Pool returns the roots that trust this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// PEM returns the authority's certificate, PEM encoded (RFC 7468 section 5).
func (a *Authority) PEM() []byte { return pemBlock("CERTIFICATE", a.certificate.Raw) }

// WriteFile writes the authority's certificate as PEM to a file in a temporary
// directory of t and returns its path.
func (a *Authority) WriteFile(t testing.TB) string {
	t.Helper()
	return writeFile(t, "authority.pem", a.PEM())
}

// IssueOptions say what a certificate is to be like. The zero value is a
// certificate for upstreams of tests, as [Authority.Issue] describes it.
type IssueOptions struct {
	// Names are the subject alternative names (RFC 5280 section 4.2.1.6): DNS
	// names, IP addresses, or URIs such as SPIFFE IDs. nil means localhost,
	// *.test, 127.0.0.1 and ::1; an empty list that is not nil means none.
	Names []string
	// CommonName is the subject's; empty means none.
	CommonName string
	// NotBefore and NotAfter bound the validity; zero means 1999 and 2099.
	NotBefore, NotAfter time.Time
	// Usages are what the key may be used for; nil means to prove a server and
	// a client of TLS.
	Usages []x509.ExtKeyUsage
	// KeyUsage is what the key may sign (RFC 5280 section 4.2.1.3); zero means
	// handshakes.
	KeyUsage x509.KeyUsage
	// Key is the key to certify; nil means a new P-256 key.
	Key crypto.Signer
}

// Issue returns a certificate signed by the authority, with its key and its
// parsed Leaf.
func (a *Authority) Issue(o IssueOptions) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: o.CommonName},
		NotBefore:   timeOr(o.NotBefore, validFrom),
		NotAfter:    timeOr(o.NotAfter, validUntil),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: o.Usages,
	}
	if o.KeyUsage != 0 {
		template.KeyUsage = o.KeyUsage
	}
	if o.Usages == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	names := o.Names
	if names == nil {
		names = []string{"localhost", "*.test", "127.0.0.1", "::1"}
	}
	for _, name := range names {
		a.addName(template, name)
	}
	key := o.Key
	if key == nil {
		key = newKey(a.t)
	}
	leaf := sign(a.t, template, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *Authority) addName(template *x509.Certificate, name string) {
	a.t.Helper()
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = append(template.IPAddresses, ip)
		return
	}
	if !strings.Contains(name, "://") {
		template.DNSNames = append(template.DNSNames, name)
		return
	}
	uri, err := url.Parse(name)
	if err != nil {
		a.t.Fatalf("fetchtest: the certificate name %q is not a URI: %v", name, err)
	}
	template.URIs = append(template.URIs, uri)
}

// WriteCertificate writes a certificate chain and its key as PEM to files in a
// temporary directory of t and returns their paths.
func WriteCertificate(t testing.TB, c tls.Certificate) (certificateFile, keyFile string) {
	t.Helper()
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pemBlock("CERTIFICATE", der)...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatalf("fetchtest: encode the key: %v", err)
	}
	return writeFile(t, "certificate.pem", chain), writeFile(t, "key.pem", pemBlock("PRIVATE KEY", key))
}

// newKey makes a key for each certificate: P-256 takes microseconds, and keys
// that differ make pins of one certificate fail on another.
func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("fetchtest: make a key: %v", err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		t.Fatalf("fetchtest: sign a certificate: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("fetchtest: parse the certificate just signed: %v", err)
	}
	return certificate
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("fetchtest: %v", err)
	}
	return path
}

func timeOr(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise
	}
	return t
}
