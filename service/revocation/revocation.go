// Package revocation tells which certificates their authorities have revoked, by
// the lists that an operator keeps in a file (RFC 5280 section 5).
package revocation

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"
)

// MaxFileBytes bounds a file of lists. A revoked certificate takes about 40 bytes.
const MaxFileBytes = 16 << 20

// Lists are the revocation lists of a file. They do not change; nil has none.
type Lists struct {
	byName map[string][]*list // by the name of the authority, as it is encoded
	all    []*list
}

// list is the list of one key of an authority.
type list struct {
	authority  string
	key        []byte // the SubjectPublicKeyInfo that it is signed with
	thisUpdate time.Time
	nextUpdate time.Time
	serials    map[string]struct{} // the bytes of the numbers
}

// Revoked is why a certificate is refused that a list names.
type Revoked struct {
	// Authority is the name of the authority, Serial the number in hexadecimal.
	Authority, Serial string
}

func (r *Revoked) Error() string {
	return fmt.Sprintf("the authority %q has revoked the certificate with the number %s", r.Authority, r.Serial)
}

// Outdated is why a certificate is refused whose authority has only a list of
// which a newer one was due.
type Outdated struct {
	Authority string
	// Since is when the newer one was due.
	Since time.Time
}

func (o *Outdated) Error() string {
	return fmt.Sprintf("the revocation list of the authority %q is out of date: a newer one was due at %s", o.Authority, o.Since.UTC().Format(time.RFC3339))
}

// Len is the number of lists.
func (l *Lists) Len() int {
	if l == nil {
		return 0
	}
	return len(l.all)
}

// NextUpdate is when the first of the lists is out of date; zero: there is none.
func (l *Lists) NextUpdate() (first time.Time) {
	if l == nil {
		return first
	}
	for _, one := range l.all {
		if first.IsZero() || one.nextUpdate.Before(first) {
			first = one.nextUpdate
		}
	}
	return first
}

// Outdated are the lists that are out of date at a time.
func (l *Lists) Outdated(now time.Time) (found []*Outdated) {
	if l == nil {
		return nil
	}
	for _, one := range l.all {
		if err := one.outdated(now); err != nil {
			found = append(found, err)
		}
	}
	return found
}

// Judge says why verified chains are not good at a time, each from a certificate
// to its authority: a [*Revoked], an [*Outdated], or nil. A certificate whose
// authority has no list is good.
func (l *Lists) Judge(chains [][]*x509.Certificate, now time.Time) error {
	if l == nil {
		return nil
	}
	for _, chain := range chains {
		for i, certificate := range chain {
			if i == len(chain)-1 && bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
				continue // a root is trusted or not; nobody can revoke it
			}
			if err := l.judge(certificate, keyOfIssuer(chain, i), now); err != nil {
				return err
			}
		}
	}
	return nil
}

// keyOfIssuer is the key that signed a certificate of a chain; nil if the chain
// ends before.
func keyOfIssuer(chain []*x509.Certificate, i int) []byte {
	if i+1 < len(chain) {
		return chain[i+1].RawSubjectPublicKeyInfo
	}
	return nil
}

func (l *Lists) judge(certificate *x509.Certificate, issuedBy []byte, now time.Time) error {
	for _, one := range l.of(certificate.RawIssuer, issuedBy) {
		if _, is := one.serials[string(certificate.SerialNumber.Bytes())]; is {
			return &Revoked{one.authority, fmt.Sprintf("%x", certificate.SerialNumber)}
		}
		if err := one.outdated(now); err != nil {
			return err
		}
	}
	return nil
}

// of are the lists for what a key of an authority has signed: the one with that
// key, else those with other keys of the same authority, which may have changed
// it (RFC 5280 section 6.3.3 step f).
func (l *Lists) of(name, key []byte) []*list {
	named := l.byName[string(name)]
	for i, one := range named {
		if bytes.Equal(one.key, key) {
			return named[i : i+1]
		}
	}
	return named
}

func (l *list) outdated(now time.Time) *Outdated {
	if now.After(l.nextUpdate) {
		return &Outdated{l.authority, l.nextUpdate}
	}
	return nil
}
