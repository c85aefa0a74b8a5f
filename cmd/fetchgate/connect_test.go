package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keyFiles writes what an authority signs, and returns the files' names.
type keyFiles struct{ ca, cert, key, callerCert, callerKey string }

func writeKeys(t *testing.T) keyFiles {
	t.Helper()
	authority, err := newDemoAuthority()
	if err != nil {
		t.Fatal(err)
	}
	service, err := authority.issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := demoTemplate("caller")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/caller"}}
	caller, err := authority.sign(template, authority.certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	writeKey := func(name string, key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return write(name, "PRIVATE KEY", der)
	}
	return keyFiles{
		ca:   write("ca.pem", "CERTIFICATE", authority.certificate.Raw),
		cert: write("cert.pem", "CERTIFICATE", service.Leaf.Raw), key: writeKey("key.pem", service.PrivateKey),
		callerCert: write("caller.pem", "CERTIFICATE", caller.Raw), callerKey: writeKey("caller-key.pem", key),
	}
}

// TestServiceOverTLS: get and explain speak TLS where they are told to, and say
// which flags are missing, or too many, where that does not fit the service.
func TestServiceOverTLS(t *testing.T) {
	files := writeKeys(t)
	stranger := writeKeys(t)
	asCaller := []string{"--ca", files.ca, "--cert", files.callerCert, "--key", files.callerKey}
	plain, secured := serve(t), serve(t, "--config", configureTLS(t, files, ""))
	mutual := serve(t, "--config", configureTLS(t, files, files.ca))
	for screen, says := range map[string]string{secured.screen: " (TLS)\n", mutual.screen: " (mTLS)\n"} {
		if !strings.Contains(screen, says) || !strings.Contains(screen, "--ca FILE") || strings.Contains(screen, "--key FILE") != strings.Contains(says, "mTLS") {
			t.Errorf("the first screen, want %q and the flags:\n%s", says, screen)
		}
	}
	for _, c := range []struct {
		to   served
		args []string
		says string // empty: it is answered
	}{
		{plain, nil, ""},
		{plain, []string{"--tls"}, "does not speak TLS\n  next: leave --tls, --ca, --cert and --key out\n"},
		{secured, nil, "speaks TLS\n  without flags for it, get and explain do not\n  next: give the authority of its certificate with --ca FILE"},
		{secured, []string{"--ca", files.ca}, ""},
		{secured, asCaller, ""},
		{secured, []string{"--tls"}, "cannot prove who it is\n  tls: failed to verify certificate: x509: certificate signed by unknown authority\n  next: give the authority"},
		{secured, []string{"--ca", stranger.ca}, "cannot prove who it is\n"},
		{mutual, nil, "speaks TLS\n"},
		{mutual, []string{"--ca", files.ca}, "ends the TLS handshake\n  tls: certificate required\n  next: show it a certificate"},
		{mutual, []string{"--ca", files.ca, "--cert", stranger.callerCert, "--key", stranger.callerKey},
			"ends the TLS handshake\n  tls: unknown certificate authority\n  next: show it a certificate that an authority of its grpc.tls.client_ca_file signed: --cert FILE --key FILE; it may also be revoked, or the service's revocation list out of date: its log says which\n"},
		{mutual, asCaller, ""},
	} {
		explained := runHere(t.Context(), "", append([]string{"explain", "--address", c.to.address, "http://10.0.0.1/"}, c.args...)...)
		got := runHere(t.Context(), "", append([]string{"get", "--address", c.to.address, "http://10.0.0.1/"}, c.args...)...)
		if c.says == "" {
			explained.wantVerdict(t, exitDenied)
			got.wantCode(t, exitDenied)
			continue
		}
		for _, r := range []result{explained, got} {
			r.wantCode(t, exitRPC)
			if want := fmt.Sprintf("fetchgate: fetchgate at %s %s", c.to.address, c.says); !strings.HasPrefix(r.err, want) {
				t.Errorf("%q says\n%swant\n%s", c.args, r.err, want)
			}
		}
	}
	wrongName := strings.Replace(secured.address, "127.0.0.1", "localhost", 1)
	if r := runHere(t.Context(), "", "explain", "--address", wrongName, "--ca", files.ca, "http://10.0.0.1/"); !strings.Contains(r.err, "next: name it with --address as its certificate does") {
		t.Errorf("under another name: %s", r.err)
	}
}

// forExample are rules by which the first screen has something to fetch.
const forExample = "rules: [{name: example, origins: [\"https://example.com\"]}]\n"

// configureTLS writes a configuration whose callers show a certificate if
// clientCA is not empty.
func configureTLS(t *testing.T, files keyFiles, clientCA string) string {
	t.Helper()
	text := fmt.Sprintf("grpc: {tls: {cert_file: %q, key_file: %q", files.cert, files.key)
	if clientCA != "" {
		text += fmt.Sprintf(", client_ca_file: %q", clientCA)
	}
	path := filepath.Join(t.TempDir(), "fetchgate.yaml")
	if err := os.WriteFile(path, []byte(text+"}}\n"+forExample), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
