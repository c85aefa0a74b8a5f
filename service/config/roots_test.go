package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
)

// writeCertificate writes a new authority to file and returns it.
func writeCertificate(t *testing.T, file, name string) *x509.Certificate {
	t.Helper()
	certificate, pair := newCertificate(t, name)
	if err := os.WriteFile(file, pair[0], 0o600); err != nil {
		t.Fatal(err)
	}
	return certificate
}

// newCertificate returns an authority, and its PEM with that of its key.
func newCertificate(t *testing.T, name string) (*x509.Certificate, [2][]byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, [2][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

// writePair writes a certificate and its key into files of dir.
func writePair(t *testing.T, dir, certificate, key string) {
	t.Helper()
	_, pair := newCertificate(t, "listener")
	for i, name := range []string{certificate, key} {
		if err := os.WriteFile(filepath.Join(dir, name), pair[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func roots(t *testing.T, dir, files string) (*x509.CertPool, string) {
	t.Helper()
	text := "log: {}"
	if files != "" {
		text = "upstream_tls: {ca_files: [" + files + "]}"
	}
	loaded, err := config.Parse(filepath.Join(dir, "fetchgate.yaml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	pool, id, err := loaded.Roots(emptyPool)
	if err != nil {
		t.Fatal(err)
	}
	return pool, id
}

func emptyPool() (*x509.CertPool, error) { return x509.NewCertPool(), nil }

func TestRoots(t *testing.T) {
	dir := t.TempDir()
	first := writeCertificate(t, filepath.Join(dir, "first.pem"), "first")
	second := writeCertificate(t, filepath.Join(dir, "second.pem"), "second")
	both, id := roots(t, dir, "first.pem, "+filepath.Join(dir, "second.pem"))
	for _, c := range []*x509.Certificate{first, second} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: both}); err != nil {
			t.Errorf("%s is not trusted: %v", c.Subject, err)
		}
	}
	if _, turned := roots(t, dir, "second.pem, first.pem, second.pem"); turned != id {
		t.Errorf("the same authorities are %s and %s", id, turned)
	}
	one, oneID := roots(t, dir, "first.pem")
	if oneID == id || !strings.HasPrefix(oneID, "system+") {
		t.Errorf("one authority is %s, two are %s", oneID, id)
	}
	if _, err := second.Verify(x509.VerifyOptions{Roots: one}); err == nil {
		t.Error("an authority is trusted that no file holds")
	}
	if none, noneID := roots(t, dir, ""); noneID != "system" || !none.Equal(x509.NewCertPool()) {
		t.Errorf("no files are %s", noneID)
	}
}

// TestRootsAreThoseChecked changes a file after it was loaded.
func TestRootsAreThoseChecked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	checked := writeCertificate(t, file, "checked")
	loaded, err := config.Parse("test.yaml", []byte("upstream_tls: {ca_files: ["+file+"]}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	shared := x509.NewCertPool()
	pool, _, err := loaded.Roots(func() (*x509.CertPool, error) { return shared, nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checked.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
		t.Error(err)
	}
	if !shared.Equal(x509.NewCertPool()) {
		t.Error("the system's pool was changed")
	}
}

func TestRootsWithoutSystem(t *testing.T) {
	broken := errors.New("no store")
	_, _, err := config.Default().Roots(func() (*x509.CertPool, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

// writeLists writes an authority of callers, and a file with a revocation list of
// it that names one certificate.
func writeLists(t *testing.T, dir, authority, lists string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "callers"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Now()}},
	}, template, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{authority: {Type: "CERTIFICATE", Bytes: der}, lists: {Type: "X509 CRL", Bytes: list}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestListenerFiles: a configuration is refused for what its listener could not
// start with, at the place of the file.
func TestListenerFiles(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "tls.crt", "tls.key")
	writePair(t, dir, "other.crt", "other.key")
	writeLists(t, dir, "ca.pem", "lists.pem")
	for text, want := range map[string]string{
		"cert_file: tls.crt, key_file: tls.key":                                  "",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: other.crt":       "",
		"cert_file: tls.crt, key_file: other.key":                                "grpc.tls: cert_file and key_file are no pair: tls: private key does not match public key",
		"cert_file: tls.key, key_file: tls.key":                                  "grpc.tls: cert_file and key_file are no pair",
		"cert_file: gone.crt, key_file: tls.key":                                 filepath.Join(dir, "gone.crt") + `" cannot be read: no such file`,
		"cert_file: tls.crt, key_file: " + filepath.Join(dir, "gone.key"):        "grpc.tls.key_file: ",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: gone.pem":        filepath.Join(dir, "gone.pem"),
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: tls.key":         `grpc.tls.client_ca_file: "` + filepath.Join(dir, "tls.key") + `" holds a "PRIVATE KEY"`,
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: " + os.DevNull:   "is not a regular file",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: ../" + "tls.crt": "cannot be read",

		"cert_file: tls.crt": "fetchgate.yaml:1:8: grpc.tls.key_file: is required; name a PEM file, or set workload_api",
		"key_file: tls.key":  "fetchgate.yaml:1:8: grpc.tls.cert_file: is required",

		"cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.pem, client_crl_file: lists.pem":        "",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: other.crt, client_crl_file: lists.pem":     `:1:80: grpc.tls.client_crl_file: "` + filepath.Join(dir, "lists.pem") + `" holds a revocation list, number 1, that cannot be used: the one of "CN=callers" is not verified: no authority`,
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.pem, client_crl_file: gone.pem":         filepath.Join(dir, "gone.pem") + `" cannot be read`,
		"cert_file: tls.crt, key_file: tls.key, client_crl_file: lists.pem":                                ":1:53: grpc.tls.client_crl_file: has the revocation lists of authorities, and none is named; set",
		"cert_file: tls.crt, key_file: tls.key, client_certificates: optional":                             ":1:53: grpc.tls.client_certificates: says whether",
		"cert_file: tls.crt, key_file: tls.key, client_certificates: required":                             "set grpc.tls.client_ca_file or grpc.tls.workload_api",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.pem, client_certificates: optional":     "",
		"cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.pem, client_certificates: sometimes":    "required or optional",
		"workload_api: 'unix:///run/agent.sock', client_certificates: optional":                            "",
		"workload_api: 'tcp://127.0.0.1:8081'":                                                             "",
		"workload_api: 'tcp://[::1]:8081'":                                                                 "",
		"workload_api: 'tcp://10.0.0.1:8081'":                                                              ":1:14: grpc.tls.workload_api: is beyond this machine",
		"workload_api: 'tcp://127.0.0.1'":                                                                  "write a socket such as unix:///run/spire/agent.sock",
		"workload_api: /run/agent.sock":                                                                    "write a socket such as unix:///run/spire/agent.sock",
		"workload_api: 'unix:///run/agent.sock?a=b'":                                                       "write a socket such as unix:///run/spire/agent.sock",
		"cert_file: tls.crt, workload_api: 'unix:///run/agent.sock'":                                       ":1:14: grpc.tls.cert_file: is given by grpc.tls.workload_api",
		"key_file: tls.key, workload_api: 'unix:///run/agent.sock'":                                        ":1:14: grpc.tls.key_file: is given by",
		"client_ca_file: ca.pem, workload_api: 'unix:///run/agent.sock'":                                   ":1:14: grpc.tls.client_ca_file: is given by",
		"client_crl_file: lists.pem, workload_api: 'unix:///run/agent.sock'":                               ":1:14: grpc.tls.client_crl_file: has no authorities beside",
		"workload_api: 'unix:///run/agent.sock'}}\ncallers: [{name: a, dns_names: [a.example]}] #{{":       "callers[0].dns_names: proves nothing beside grpc.tls.workload_api",
		"workload_api: 'unix:///run/agent.sock'}}\ncallers: [{name: a, spiffe_ids: ['spiffe://a/b']}] #{{": "",
	} {
		_, err := config.Parse(filepath.Join(dir, "fetchgate.yaml"), []byte("grpc: {tls: {"+text+"}}"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
