package credential

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// kind makes proofs of secrets. It holds no secret itself.
type kind interface {
	// name is what the contract calls the kind.
	name() string
	place() fetch.CredentialPlace
	// proof is the kind with that secret. Its error does not show it, and reads
	// behind the name of a setting or a field.
	proof(Secret) (*proof, error)
}

// inField is a proof that sends value in a header field.
func inField(name string, value []byte, secrets ...[]byte) (*proof, error) {
	f := fetch.Field{Name: name, Value: value}
	if err := fetch.CheckField(f); err != nil {
		return nil, fmt.Errorf("makes a field that cannot be sent: %w", err)
	}
	return &proof{place: fetch.CredentialPlace{Field: name}, value: NewSecret(value), echoes: spellings(secrets...)}, nil
}

// ownFields are fields that no credential writes, beside those that no request
// can: fetchgate's own, and what says what the request is.
var ownFields = []string{"Cookie", "User-Agent", "Accept", "Accept-Encoding", "Range", "Traceparent", "Tracestate"}

// CheckField refuses the name of a field that no credential can be sent in.
func CheckField(name string) error {
	isOwn := slices.ContainsFunc(ownFields, func(own string) bool { return strings.EqualFold(own, name) })
	if isOwn || len(name) > len("Content-") && strings.EqualFold(name[:len("Content-")], "Content-") {
		return fmt.Errorf("the field %s says something else than who asks; name another", name)
	}
	return fetch.CheckField(fetch.Field{Name: name})
}
