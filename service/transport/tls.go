package transport

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// What a TLSFault keeps of a certificate.
const (
	maxCertText  = 256 // bytes of a name
	maxCertNames = 10
)

// secure shakes hands over c's socket and chooses the protocol (RFC 7301).
func (t *Transport) secure(ctx context.Context, x *exchange, c *conn) error {
	x.enter(fetch.StageTLS)
	began := time.Now()
	defer func() { x.facts.Times.TLS += time.Since(began) }()
	limited, cancel := context.WithTimeout(ctx, x.req.Timeouts.TLS)
	defer cancel()
	secured := tls.Client(c.sock, t.tlsConfig(x.req, c))
	err := secured.HandshakeContext(limited)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return x.givenUp(ctx)
	case limited.Err() != nil:
		return x.fail(fetch.ReasonTLSTimeout,
			fmt.Sprintf("the TLS handshake with %s did not end within %s", x.name(), x.req.Timeouts.TLS), err)
	default:
		return handshakeFailure(x, c, err)
	}
	state := secured.ConnectionState()
	if state.NegotiatedProtocol == "h2" {
		c.protocol = protocolH2
	} else if x.req.Route.Version == fetch.HTTP2 {
		return x.fail(fetch.ReasonTLSHandshake, x.name()+" does not offer HTTP/2; do not ask for that version alone", nil)
	}
	c.net, c.tls = secured, tlsFacts(state)
	return nil
}

// tlsConfig is verified TLS 1.2 or newer; nothing loosens it.
func (t *Transport) tlsConfig(r *fetch.Request, c *conn) *tls.Config {
	s := r.Route.TLS
	config := &tls.Config{
		RootCAs:            t.roots,
		ServerName:         r.Host,
		MinVersion:         max(s.MinVersion, tls.VersionTLS12),
		NextProtos:         []string{"h2", "http/1.1"},
		ClientSessionCache: c.group.sessions,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c.asked = true
			if own := s.Identity.Certificate(); own != nil {
				return own, nil
			}
			return &tls.Certificate{}, nil // none: the upstream may do without
		},
		VerifyConnection: verifier(s.Pins),
	}
	if s.Roots != nil {
		config.RootCAs = s.Roots
	}
	if s.ServerName != "" {
		config.ServerName = s.ServerName
	}
	switch r.Route.Version {
	case fetch.HTTP1:
		config.NextProtos = []string{"http/1.1"}
	case fetch.HTTP2:
		config.NextProtos = []string{"h2"}
	}
	return config
}

// weakKeyError tells of an RSA key that is too short, or whose length is none
// that an authority may certify.
type weakKeyError struct{ cert *x509.Certificate }

func (weakKeyError) Error() string {
	return "the RSA key of a certificate has fewer than 2048 bits or part of a byte"
}

// unpinnedError tells of a chain that has none of the keys that are pinned.
type unpinnedError struct{ leaf *x509.Certificate }

func (unpinnedError) Error() string { return "no key of the certificate chain is pinned" }

// verifier wants a verified chain without a weak key that has a pinned one, if
// there are any. crypto/tls asks it of resumed sessions too, with the chains that
// were verified when they began.
func verifier(pins fetch.Pins) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		var weak, unpinned *x509.Certificate
		for _, chain := range s.VerifiedChains {
			if at := weakIn(chain); at != nil {
				weak = at
				continue
			}
			if pins == "" || slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return pins.Has(sha256.Sum256(c.RawSubjectPublicKeyInfo)) }) {
				return nil
			}
			unpinned = chain[0]
		}
		if unpinned != nil {
			return unpinnedError{unpinned}
		}
		return weakKeyError{weak}
	}
}

// weakIn returns a certificate of a chain whose key is weak, or nil. The root is
// not looked at: that is trusted by name (Baseline Requirements for TLS
// certificates, section 6.1.5). crypto/tls lets 1024 bits pass.
func weakIn(chain []*x509.Certificate) *x509.Certificate {
	if i := slices.IndexFunc(chain[:max(1, len(chain)-1)], hasWeakKey); i >= 0 {
		return chain[i]
	}
	return nil
}

func hasWeakKey(c *x509.Certificate) bool {
	key, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && (key.N.BitLen() < 2048 || key.N.BitLen()%8 != 0)
}

func tlsFacts(s tls.ConnectionState) *fetch.TLSFacts {
	leaf := s.PeerCertificates[0]
	return &fetch.TLSFacts{
		Version:     s.Version,
		CipherSuite: s.CipherSuite,
		PeerSPKI:    sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
		NotAfter:    leaf.NotAfter,
		Resumed:     s.DidResume,
	}
}

// handshakeFailure says what was wrong with a handshake.
func handshakeFailure(x *exchange, c *conn, err error) *fetch.Failure {
	var (
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		unknown  x509.UnknownAuthorityError
		weak     weakKeyError
		unpinned unpinnedError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	alert, alerted := remoteAlert(err)
	switch {
	case errors.As(err, &hostname):
		return certFailure(x, fetch.ReasonTLSNameMismatch, "the certificate of "+x.name()+" is for other names", hostname.Certificate, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return certFailure(x, fetch.ReasonTLSExpired, "a certificate of "+x.name()+" has expired or is not valid yet", invalid.Cert, err)
	case errors.As(err, &invalid):
		return certFailure(x, fetch.ReasonTLSVerify, "a certificate of "+x.name()+" may not be used like this", invalid.Cert, err)
	case errors.As(err, &unknown):
		return certFailure(x, fetch.ReasonTLSVerify, "the certificate of "+x.name()+" does not lead to a trusted root", unknown.Cert, err)
	case errors.As(err, &weak):
		return certFailure(x, fetch.ReasonTLSVerify, "a certificate of "+x.name()+" has a weak key: "+err.Error(), weak.cert, err)
	case errors.As(err, &unpinned):
		return certFailure(x, fetch.ReasonTLSPinMismatch, fmt.Sprintf("no key of the certificate chain of %s is pinned; its own is %x",
			x.name(), sha256.Sum256(unpinned.leaf.RawSubjectPublicKeyInfo)), unpinned.leaf, err)
	case errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0:
		return certFailure(x, fetch.ReasonTLSVerify, "the certificate of "+x.name()+" cannot be verified", verify.UnverifiedCertificates[0], err)
	case alerted && isCertificateAlert(alert, c.asked):
		return certificateDemanded(x, alert, err)
	case alerted:
		f := x.fail(fetch.ReasonTLSHandshake, fmt.Sprintf("%s refused the TLS handshake with alert %d", x.name(), alert), err)
		f.TLS = &fetch.TLSFault{Alert: alert}
		return f
	case errors.As(err, &record):
		return x.fail(fetch.ReasonTLSHandshake, x.name()+" does not speak TLS; check the scheme and the port", err)
	case isReset(err):
		return x.fail(fetch.ReasonConnectionReset, x.name()+" reset the connection during the TLS handshake", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return x.fail(fetch.ReasonTLSHandshake, x.name()+" closed the connection during the TLS handshake", err)
	}
	return x.fail(fetch.ReasonTLSHandshake, "the TLS handshake with "+x.name()+" failed; check that it speaks TLS 1.2 or newer", err)
}

func certFailure(x *exchange, reason fetch.Reason, message string, cert *x509.Certificate, cause error) *fetch.Failure {
	f := x.fail(reason, message, cause)
	f.TLS = &fetch.TLSFault{}
	if cert == nil {
		return f
	}
	f.TLS.Subject = short(cert.Subject.String())
	f.TLS.Issuer = short(cert.Issuer.String())
	f.TLS.NotBefore, f.TLS.NotAfter = cert.NotBefore, cert.NotAfter
	for _, name := range cert.DNSNames[:min(len(cert.DNSNames), maxCertNames)] {
		f.TLS.Names = append(f.TLS.Names, short(name))
	}
	for _, ip := range cert.IPAddresses[:min(len(cert.IPAddresses), maxCertNames-len(f.TLS.Names))] {
		f.TLS.Names = append(f.TLS.Names, ip.String())
	}
	return f
}

func short(s string) string { return s[:min(len(s), maxCertText)] }

// certificateDemanded is the failure of a connection that the upstream ended
// for want of a client certificate. In TLS 1.3 its alert comes only after the
// handshake (RFC 8446 section 4.4.2.4).
func certificateDemanded(x *exchange, alert uint8, cause error) *fetch.Failure {
	message := x.name() + " asks for a client certificate"
	if x.req.Route.TLS.IdentityID != "" {
		message = x.name() + " does not take the client certificate"
	}
	f := x.fail(fetch.ReasonTLSClientCertificate, message, cause)
	f.Stage = fetch.StageTLS
	f.TLS = &fetch.TLSFault{Alert: alert}
	return f
}

// remoteAlert finds the alert in err that the upstream sent. crypto/tls keeps
// its type to itself.
func remoteAlert(err error) (uint8, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return 0, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return 0, false
	}
	return uint8(v.Uint()), true
}

// isCertificateAlert tells whether an alert (RFC 8446 section 6.2) is for want
// of a client certificate that the upstream takes, given whether one was asked
// for.
func isCertificateAlert(alert uint8, asked bool) bool {
	const (
		handshakeFailure    = 40
		badCertificate      = 42
		certificateUnknown  = 46
		unknownCA           = 48
		accessDenied        = 49
		certificateRequired = 116
	)
	switch alert {
	case certificateRequired:
		return true
	case handshakeFailure, badCertificate, certificateUnknown, unknownCA, accessDenied:
		return asked
	}
	return false
}
