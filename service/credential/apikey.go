package credential

import (
	"github.com/fetchgate/fetchgate/service/fetch"
)

// apiKey sends a key in a header field, or in a query parameter.
type apiKey struct{ header, param, prefix string }

func (apiKey) name() string { return "api_key" }

func (k apiKey) place() fetch.CredentialPlace {
	return fetch.CredentialPlace{Field: k.header, Param: k.param}
}

func (k apiKey) proof(key Secret) (*proof, error) {
	if k.param != "" {
		return &proof{place: k.place(), value: key, echoes: spellings(key.bytes())}, nil
	}
	return inField(k.header, append([]byte(k.prefix), key.bytes()...), key.bytes())
}
