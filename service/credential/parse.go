package credential

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// FieldError says what of a credential of a request is wrong. It shows no
// secret.
type FieldError struct {
	// Field is the path below the credential: "bearer.token".
	Field   string
	Message string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// Parse returns the credential of a request whose URL has that origin, beyond
// which it does not go. The error is a *FieldError; a kind that is not of
// [OfRequests] is none.
func Parse(m *fetchgatev1.Credential, origin fetch.Origin) (fetch.Credential, error) {
	parsed, k, err := parse(m)
	if err != nil {
		return nil, err
	}
	// Without a host the URL is wrong, and said to be.
	if origin.Host != "" && !isSecure(origin) && !parsed.place.Certificate {
		return nil, wrong(k, "it would go in the clear to %s; use https", origin)
	}
	if origin.Scheme == "http" && parsed.place.Certificate {
		return nil, wrong(k, "http has no TLS handshake to show a certificate in; use https")
	}
	return &inline{kind: k, origin: origin, made: parsed}, nil
}

// isSecure tells that nobody on the way can read what goes to an origin: it is
// https, or this machine.
func isSecure(o fetch.Origin) bool {
	if o.Scheme == "https" || o.Host == "localhost" || strings.HasSuffix(o.Host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(o.Host)
	return err == nil && addr.Unmap().IsLoopback()
}

// parse returns the proof and the name of its kind, by which the contract calls
// the field too.
func parse(m *fetchgatev1.Credential) (p *proof, field string, err error) {
	switch k := m.GetKind().(type) {
	case *fetchgatev1.Credential_Basic:
		p, err = parseBasic(k.Basic)
		return p, "basic", err
	case *fetchgatev1.Credential_Bearer:
		p, err = parseSecret("bearer.token", []byte(k.Bearer.GetToken()), bearer{})
		return p, "bearer", err
	case *fetchgatev1.Credential_ApiKey:
		p, err = parseAPIKey(k.ApiKey)
		return p, "api_key", err
	case *fetchgatev1.Credential_ClientCertificate:
		p, err = parseCertificate(k.ClientCertificate)
		return p, certificateKind, err
	case nil:
		return nil, "", wrong("kind", "it is missing; set one, such as bearer")
	}
	return nil, "", wrong("kind", "this server does not offer it")
}

// What a request can bring: 8 KiB have room for an RSA key of 8192 bits, and a
// longer one costs who reads it.
const (
	maxCertificateBytes = 64 << 10
	maxKeyBytes         = 8 << 10
)

func parseCertificate(m *fetchgatev1.ClientCertificateCredential) (*proof, error) {
	if len(m.GetCertificatePem()) > maxCertificateBytes {
		return nil, wrong("client_certificate.certificate_pem", "it is larger than %d bytes", maxCertificateBytes)
	}
	if len(m.GetKeyPem()) > maxKeyBytes {
		return nil, wrong("client_certificate.key_pem", "it is larger than %d bytes", maxKeyBytes)
	}
	p, err := certificateOf(m.GetCertificatePem(), m.GetKeyPem())
	if err != nil {
		return nil, wrong("client_certificate", "%v", err)
	}
	return p, nil
}

func parseBasic(m *fetchgatev1.BasicCredential) (*proof, error) {
	if err := checkUsername(m.GetUsername()); err != nil {
		return nil, wrong("basic.username", "it %v", err)
	}
	if err := checkControls(m.GetPassword()); err != nil {
		return nil, wrong("basic.password", "it %v", err)
	}
	if len(m.GetUsername())+len(m.GetPassword()) > maxSecretBytes {
		return nil, wrong("basic.password", "it is too long: user name and password have at most %d bytes", maxSecretBytes)
	}
	p, err := basic{m.GetUsername()}.proof(NewSecret(m.GetPassword()))
	if err != nil {
		return nil, wrong("basic.password", "it %v", err)
	}
	return p, nil
}

func parseAPIKey(m *fetchgatev1.ApiKeyCredential) (*proof, error) {
	k := apiKey{header: m.GetHeader(), param: m.GetQueryParam(), prefix: m.GetPrefix()}
	switch m.GetPlace().(type) {
	case *fetchgatev1.ApiKeyCredential_Header:
		if err := CheckField(k.header); err != nil {
			return nil, wrong("api_key.header", "%v", err)
		}
	case *fetchgatev1.ApiKeyCredential_QueryParam:
		if k.param == "" {
			return nil, wrong("api_key.query_param", "it is empty; name the parameter")
		}
		if k.prefix != "" {
			return nil, wrong("api_key.prefix", "only a key in a header field has one; leave it out")
		}
	default:
		return nil, wrong("api_key.place", "it is missing; set header or query_param")
	}
	if len(k.prefix) > maxPrefixBytes || checkControls([]byte(k.prefix)) != nil {
		return nil, wrong("api_key.prefix", "it is longer than %d bytes, or has a control character", maxPrefixBytes)
	}
	return parseSecret("api_key.key", m.GetKey(), k)
}

// maxPrefixBytes is the longest text in front of a key.
const maxPrefixBytes = 64

// parseSecret makes the proof of the secret at field.
func parseSecret(field string, b []byte, k kind) (*proof, error) {
	if err := checkSecret(b); err != nil {
		return nil, wrong(field, "it %v", err)
	}
	p, err := k.proof(NewSecret(b))
	if err != nil {
		return nil, wrong(field, "it %v", err)
	}
	return p, nil
}

// inline is a credential that a request brought along.
type inline struct {
	kind   string
	origin fetch.Origin
	made   *proof
}

var _ fetch.Credential = (*inline)(nil)

// Name implements fetch.Credential.
func (*inline) Name() string { return "" }

// Kind implements fetch.Credential.
func (i *inline) Kind() string { return i.kind }

// Place implements fetch.Credential.
func (i *inline) Place() fetch.CredentialPlace { return i.made.place }

// For implements fetch.Credential.
func (*inline) For(fetch.Caller) bool { return true }

// Fits implements fetch.Credential.
func (i *inline) Fits(_ fetch.Caller, _ string, to fetch.Destination) bool {
	return to.Origin == i.origin
}

// Proof implements fetch.Credential.
func (i *inline) Proof(fetch.Origin) fetch.Proof { return i.made }

// Other implements fetch.Credential.
func (*inline) Other(fetch.Proof) fetch.Proof { return nil }

// Taken implements fetch.Credential.
func (*inline) Taken(fetch.Proof, fetch.Origin) {}

// String names the kind.
func (i *inline) String() string { return i.kind + " " + hidden }

// GoString is String.
func (i *inline) GoString() string { return i.String() }

// Format prints String, for every verb.
func (i *inline) Format(s fmt.State, _ rune) { fmt.Fprint(s, i.String()) }

// LogValue is String.
func (i *inline) LogValue() slog.Value { return slog.StringValue(i.String()) }

// MarshalJSON is String.
func (i *inline) MarshalJSON() ([]byte, error) { return []byte(`"` + i.String() + `"`), nil }

// trimEnd leaves out the space at the end of a file, which is no part of a
// secret.
func trimEnd(b []byte) []byte { return bytes.TrimRight(b, " \t\r\n") }
