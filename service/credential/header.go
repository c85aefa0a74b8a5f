package credential

import (
	"bytes"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// placeholder is where the secret goes in a template.
const placeholder = "{secret}"

// header sends a field whose value has the secret in it.
type header struct{ field, template string }

func (header) name() string                   { return "header" }
func (h header) place() fetch.CredentialPlace { return fetch.CredentialPlace{Field: h.field} }

func (h header) proof(s Secret) (*proof, error) {
	value := bytes.ReplaceAll([]byte(h.template), []byte(placeholder), s.bytes())
	return inField(h.field, value, value, s.bytes())
}
