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

// TestListenerFiles: a configuration is refused for what its listener could not
// start with, at the place of the file.
func TestListenerFiles(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "tls.crt", "tls.key")
	writePair(t, dir, "other.crt", "other.key")
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
	} {
		_, err := config.Parse(filepath.Join(dir, "fetchgate.yaml"), []byte("grpc: {tls: {"+text+"}}"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
