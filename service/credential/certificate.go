package credential

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// certificateKind is what the contract calls a certificate for the TLS
// handshake.
const certificateKind = "client_certificate"

// certificateOf is the proof by a certificate and its key, both PEM. Its error
// shows nothing of the key.
func certificateOf(certificate, key []byte) (*proof, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, errors.New("the certificate and the key are no pair: give the PEM of the certificate with its chain, the leaf first, and of its key, not encrypted")
	}
	chain := sha256.New()
	for _, der := range pair.Certificate {
		fmt.Fprintf(chain, "%d:", len(der))
		chain.Write(der)
	}
	return &proof{
		place:    fetch.CredentialPlace{Certificate: true},
		identity: fetch.NewIdentity(&pair), identityID: fmt.Sprintf("%x", chain.Sum(nil)),
		value: NewSecret(key),
	}, nil
}
