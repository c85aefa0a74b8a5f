package credential

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// basic sends "Authorization: Basic" (RFC 7617).
type basic struct{ username []byte }

func (basic) name() string                 { return "basic" }
func (basic) place() fetch.CredentialPlace { return fetch.CredentialPlace{Field: "Authorization"} }

func (b basic) proof(password Secret) (*proof, error) {
	pair := slices.Concat(b.username, []byte(":"), password.bytes())
	return inField("Authorization", []byte("Basic "+base64.StdEncoding.EncodeToString(pair)), pair, password.bytes())
}

// checkUsername refuses what the server would read otherwise (RFC 7617 section
// 2).
func checkUsername(b []byte) error {
	if bytes.Contains(b, []byte(":")) {
		return errors.New("has a ':', with which the password would begin (RFC 7617 section 2)")
	}
	return checkControls(b)
}
