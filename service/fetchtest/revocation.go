package fetchtest

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"time"
)

// Revoke returns a revocation list of the authority (RFC 5280 section 5), PEM
// encoded, that names these certificates and is good until nextUpdate.
func (a *Authority) Revoke(nextUpdate time.Time, certificates ...tls.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: validFrom, NextUpdate: nextUpdate}
	for _, c := range certificates {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: c.Leaf.SerialNumber, RevocationTime: validFrom,
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.certificate, a.key)
	if err != nil {
		a.t.Fatalf("fetchtest: sign a revocation list: %v", err)
	}
	return pemBlock("X509 CRL", der)
}
