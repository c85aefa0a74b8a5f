package fetchtest_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestAuthorityIsTrustedAlone(t *testing.T) {
	ours, theirs := fetchtest.NewAuthority(t), fetchtest.NewAuthority(t)
	past := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name  string
		roots *x509.CertPool
		host  string
		issue fetchtest.IssueOptions
		good  bool
	}{
		{name: "default names", roots: ours.Pool(), host: "localhost", good: true},
		{name: "default wildcard", roots: ours.Pool(), host: "api.test", good: true},
		{name: "default address", roots: ours.Pool(), host: "127.0.0.1", good: true},
		{name: "own name", roots: ours.Pool(), host: "a.example", issue: fetchtest.IssueOptions{Names: []string{"a.example"}}, good: true},
		{name: "own address", roots: ours.Pool(), host: "[::2]", issue: fetchtest.IssueOptions{Names: []string{"::2"}}, good: true},
		{name: "other name", roots: ours.Pool(), host: "b.example", issue: fetchtest.IssueOptions{Names: []string{"a.example"}}},
		{name: "no name", roots: ours.Pool(), host: "localhost", issue: fetchtest.IssueOptions{Names: []string{}}},
		{name: "other authority", roots: theirs.Pool(), host: "localhost"},
		{name: "expired", roots: ours.Pool(), host: "localhost", issue: fetchtest.IssueOptions{NotAfter: past}},
		{name: "not yet valid", roots: ours.Pool(), host: "localhost", issue: fetchtest.IssueOptions{NotBefore: time.Now().Add(time.Hour)}},
		{name: "other usage", roots: ours.Pool(), host: "localhost", issue: fetchtest.IssueOptions{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ours.Issue(c.issue).Leaf.Verify(x509.VerifyOptions{Roots: c.roots, DNSName: c.host})
			if (err == nil) != c.good {
				t.Errorf("verification says %v", err)
			}
		})
	}
}

func TestCertificatesHoldInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := fetchtest.NewAuthority(t)
		if _, err := a.Issue(fetchtest.IssueOptions{}).Leaf.Verify(x509.VerifyOptions{Roots: a.Pool()}); err != nil {
			t.Error(err)
		}
	})
}

func TestCertificatesDiffer(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	first, second := a.Issue(fetchtest.IssueOptions{}), a.Issue(fetchtest.IssueOptions{})
	if first.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(second.Leaf.PublicKey) {
		t.Error("two certificates have one key")
	}
	again := a.Issue(fetchtest.IssueOptions{Key: first.PrivateKey.(*ecdsa.PrivateKey)})
	if !first.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(again.Leaf.PublicKey) {
		t.Error("the certificate is not for the key that was given")
	}
}

func TestCertificateOfService(t *testing.T) {
	const id = "spiffe://fleet.test/ns/shop/sa/cart"
	c := fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{Names: []string{id}, CommonName: "cart"})
	if len(c.Leaf.URIs) != 1 || c.Leaf.URIs[0].String() != id || c.Leaf.Subject.CommonName != "cart" {
		t.Errorf("URIs %v, subject %v", c.Leaf.URIs, c.Leaf.Subject)
	}
}

func TestFilesOfAuthority(t *testing.T) {
	a := fetchtest.NewAuthority(t)
	content, err := os.ReadFile(a.WriteFile(t))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(content) || !roots.Equal(a.Pool()) {
		t.Error("the file does not hold the authority's certificate")
	}
	issued := a.Issue(fetchtest.IssueOptions{})
	certificateFile, keyFile := fetchtest.WriteCertificate(t, issued)
	loaded, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Leaf.Equal(issued.Leaf) {
		t.Error("the file holds another certificate")
	}
}
