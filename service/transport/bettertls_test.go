package transport_test

import (
	"bufio"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Netflix/bettertls/test-suites/certutil"
	"github.com/Netflix/bettertls/test-suites/nameconstraints"
	"github.com/Netflix/bettertls/test-suites/pathbuilding"
	cases "github.com/Netflix/bettertls/test-suites/test-case"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// betterTLS is the suite of https://github.com/Netflix/bettertls: certificate
// chains, and whether a client is to take them, with an authority of its own.
type betterTLS struct {
	root *x509.Certificate
	key  crypto.Signer
}

// TestBetterTLS shakes hands with every chain of the suite.
func TestBetterTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("more than 9,000 handshakes")
	}
	root, key, err := certutil.GenerateSelfSignedCert("test root")
	check(err)
	suite := betterTLS{root, key}
	for _, p := range []cases.TestCaseProvider{nameconstraints.NewTestCaseProvider(), pathbuilding.NewTestCaseProvider()} {
		t.Run(p.Name(), func(t *testing.T) { suite.run(t, p) })
	}
}

// run gives the cases to two workers, each with an upstream and a transport.
func (b betterTLS) run(t *testing.T, p cases.TestCaseProvider) {
	count, err := p.GetTestCaseCount()
	check(err)
	var (
		next, soft atomic.Int64
		workers    sync.WaitGroup
	)
	for range 2 {
		chain := new(atomic.Pointer[tls.Certificate])
		u := b.upstream(t, chain)
		tr := newTransport(t)
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				c, err := p.GetTestCase(uint(i))
				check(err)
				certificate, err := c.GetCertificates(b.root, b.key)
				check(err)
				chain.Store(certificate)
				accepted := b.accepts(t, tr, u, c.GetHostname())
				switch want := c.ExpectedResult(); {
				case want != cases.EXPECTED_RESULT_PASS && want != cases.EXPECTED_RESULT_FAIL:
					soft.Add(1)
				case accepted != (want == cases.EXPECTED_RESULT_PASS):
					t.Errorf("case %d of %s: accepted %t, want %s (%+v)", i, p.Name(), accepted, want, c)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d cases, of which %d allow either result", count, soft.Load())
}

// upstream answers over TLS with the certificate that chain holds.
func (b betterTLS) upstream(t *testing.T, chain *atomic.Pointer[tls.Certificate]) *upstream {
	config := &tls.Config{
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return chain.Load(), nil },
	}
	u := rawUpstream(t, config, func(c net.Conn) {
		if _, err := readRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			io.Copy(io.Discard, c)
		}
	})
	u.gone = make(chan struct{}, 10_000)
	return u
}

// accepts tells whether the handshake came to an answer; whatever else may
// end it is an error.
func (b betterTLS) accepts(t *testing.T, tr *transport.Transport, u *upstream, host string) bool {
	r := named(t, u, host, overTLS)
	r.Route.TLS.Roots, r.Route.TLS.RootsID = x509.NewCertPool(), "suite"
	r.Route.TLS.Roots.AddCert(b.root)
	r.Fresh = true
	resp, _, err := tr.RoundTrip(t.Context(), r)
	if err == nil {
		resp.Body.Close()
		return true
	}
	var f *fetch.Failure
	if !errors.As(err, &f) || f.Stage != fetch.StageTLS || f.Sent != fetch.SentNo {
		t.Errorf("%s: %v", host, err)
	}
	return false
}
