package fetch

import (
	"crypto/tls"
	"fmt"
)

// Credential proves to an upstream who is asking. However it is printed, it
// shows no secret. It is safe for concurrent use.
type Credential interface {
	// Name is that of one that the server holds; empty for one of the request.
	Name() string
	// Kind is its kind as the contract calls it: "basic".
	Kind() string
	// Place is what of a request it writes.
	Place() CredentialPlace
	// For reports whether that caller may use it at all.
	For(who Caller) bool
	// Fits reports whether it may go with a request of that caller, method and
	// destination.
	Fits(who Caller, method string, to Destination) bool
	// Proof returns what proves it now to an origin.
	Proof(to Origin) Proof
	// Other returns the proof to try once after an upstream answered p with 401;
	// nil if there is none.
	Other(p Proof) Proof
	// Taken tells that the origin took p, which Other returned.
	Taken(p Proof, by Origin)
}

// CredentialPlace is what of a request a credential writes: one of a header
// field, a query parameter and the client certificate.
type CredentialPlace struct {
	Field, Param string
	Certificate  bool
}

// String names the place, which is no secret.
func (p CredentialPlace) String() string {
	switch {
	case p.Certificate:
		return "the client certificate"
	case p.Param != "":
		return fmt.Sprintf("the query parameter %+.64q", p.Param)
	}
	return "the field " + p.Field
}

// Proof is a credential with one of its secrets. However it is printed, it does
// not show it.
type Proof interface {
	// Version numbers the secrets that a credential has had, from 1; 0 for one of
	// the request.
	Version() int64
	// Apply writes the proof into r, whose Target, Fields and Route are then its
	// own.
	Apply(r *Request) error
	// Redact returns b with "[redacted]" for what Apply writes, and for the secret
	// in other spellings, whatever the case of letters; b itself if there is nothing
	// of it.
	Redact(b []byte) []byte
	// Strip returns d without the query parameter that Apply writes: an upstream
	// that redirects often keeps the query.
	Strip(d Destination) Destination
	// IsShown tells that text has what Redact looks for, whatever the case of
	// letters.
	IsShown(text string) bool
}

// Credentials are those that the server holds, of one configuration.
type Credentials interface {
	// Named returns the credential of that name; nil if there is none.
	Named(name string) Credential
}

// CredentialUse is what became of a credential on one hop.
type CredentialUse struct {
	// Name is empty for one of the request.
	Name, Kind string
	// Version is that of the secret.
	Version int64
	// Dropped tells that the hop went without it, since it leads out of its
	// binding.
	Dropped bool
	// ByRule tells that the rule applied it.
	ByRule bool
	// Foreign tells that it is bound to other callers, so that this one is not
	// told of it.
	Foreign bool
}

// Identity is a certificate for the TLS handshake. However it is printed, it
// does not show its key.
type Identity struct{ at *unprinted }

// unprinted holds a certificate behind a function: fmt can follow a pointer.
type unprinted struct{ get func() *tls.Certificate }

// NewIdentity returns the identity of a certificate, which is not changed any
// more.
func NewIdentity(c *tls.Certificate) Identity {
	return Identity{&unprinted{func() *tls.Certificate { return c }}}
}

// Certificate returns the certificate; nil if there is none.
func (i Identity) Certificate() *tls.Certificate {
	if i.at == nil {
		return nil
	}
	return i.at.get()
}

// Format prints whether there is one, for every verb.
func (i Identity) Format(s fmt.State, _ rune) {
	if i.at == nil {
		fmt.Fprint(s, "none")
		return
	}
	fmt.Fprint(s, "[redacted]")
}
