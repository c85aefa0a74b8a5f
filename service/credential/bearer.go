package credential

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// bearer sends "Authorization: Bearer" (RFC 6750 section 2.1).
type bearer struct{}

func (bearer) name() string                 { return "bearer" }
func (bearer) place() fetch.CredentialPlace { return fetch.CredentialPlace{Field: "Authorization"} }

func (bearer) proof(token Secret) (*proof, error) {
	if err := checkToken(token.bytes()); err != nil {
		return nil, err
	}
	return inField("Authorization", append([]byte("Bearer "), token.bytes()...), token.bytes())
}

// checkToken refuses what is no b64token.
func checkToken(b []byte) error {
	body := bytes.TrimRight(b, "=")
	if len(body) == 0 {
		return errors.New("is no token of RFC 6750 section 2.1: it has nothing before '='")
	}
	for i, c := range body {
		isAlphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !isAlphanumeric && !bytes.Contains([]byte("-._~+/"), []byte{c}) {
			return fmt.Errorf("has a byte at %d that no token of RFC 6750 section 2.1 has; for other tokens use a header", i)
		}
	}
	return nil
}
