package revocation_test

import (
	"crypto/x509"
	"testing"

	"github.com/fetchgate/fetchgate/service/revocation"
)

func FuzzW1(f *testing.F) {
	root := (*authority)(nil).issue(f, "root", 1, true)
	below := root.issue(f, "below", 2, true)
	leaf := root.issue(f, "leaf", 7, false)
	f.Add(root.list(f, nil, 7, 8))
	f.Add(crl(root.list(f, nil, 7, 8)))
	f.Add(append(crl(below.list(f, nil, 7)), below.pem()...))
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := revocation.Parse(b, []*x509.Certificate{root.cert})
		if err == nil {
			l.Judge(chain(leaf, root), now)
			l.Outdated(now)
		}
	})
}
