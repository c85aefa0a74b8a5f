package revocation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/fetchgate/fetchgate/service/file"
)

// Extensions of lists (RFC 5280 section 5.2) and of their entries (section 5.3).
var (
	deltaIndicator    = asn1.ObjectIdentifier{2, 5, 29, 27}
	distributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	reasonCode        = asn1.ObjectIdentifier{2, 5, 29, 21}
	certificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	crlNumber         = asn1.ObjectIdentifier{2, 5, 29, 20}
	authorityKey      = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// maxBlocks is the most PEM blocks of a file.
const maxBlocks = 1000

// Read returns what a file holds, at most MaxFileBytes. Its error does not say the
// name.
func Read(name string) ([]byte, error) {
	content, _, err := file.Read(name, MaxFileBytes)
	switch {
	case err == nil:
		return content, nil
	case errors.Is(err, file.ErrNotRegular):
		return nil, errors.New("is not a regular file; name a file of revocation lists")
	case errors.Is(err, file.ErrTooLarge):
		return nil, errors.New("is larger than 16 MiB, the most that is read; leave out lists of authorities that callers do not have")
	}
	return nil, fmt.Errorf("cannot be read: %w; check the permissions and the name, which starts at the directory of the configuration", file.Cause(err))
}

// Parse reads the lists of a file, PEM or one in DER, of these authorities. Those
// of an authority below them need its certificate beside them in the file. What is
// not signed by any of these, or says less than who is revoked, is refused: a list
// that is passed over would revoke nobody, and nobody would see it.
func Parse(content []byte, authorities []*x509.Certificate) (*Lists, error) {
	lists, below, err := split(content)
	if err != nil {
		return nil, err
	}
	known, err := withThoseBelow(authorities, below)
	if err != nil {
		return nil, err
	}
	l := &Lists{byName: map[string][]*list{}}
	for i, der := range lists {
		if err := l.add(der, known); err != nil {
			return nil, fmt.Errorf("holds a revocation list, number %d, that cannot be used: %w", i+1, err)
		}
	}
	return l, nil
}

// split takes a file apart into the DER of its lists, and the certificates beside
// them.
func split(content []byte) (lists [][]byte, beside []*x509.Certificate, err error) {
	const sequence = 0x30 // DER begins so
	if len(content) > 0 && content[0] == sequence {
		return [][]byte{content}, nil, nil
	}
	begun := bytes.Count(content, []byte("-----BEGIN "))
	if begun > maxBlocks {
		return nil, nil, fmt.Errorf("holds more than %d lists and certificates; leave out those of authorities that callers do not have", maxBlocks)
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		begun--
		switch block.Type {
		case "X509 CRL":
			lists = append(lists, block.Bytes)
		case "CERTIFICATE":
			one, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("holds a certificate, number %d, that cannot be read: %w", len(beside)+1, err)
			}
			beside = append(beside, one)
		default:
			return nil, nil, fmt.Errorf("holds a %.40q; leave only revocation lists, and certificates of authorities, in it", block.Type)
		}
	}
	switch {
	case begun != 0:
		return nil, nil, errors.New("holds a PEM block that is broken or cut off; write the file whole, under another name, and rename that")
	case len(lists) == 0:
		return nil, nil, errors.New(`holds no revocation list; it needs one that begins with "-----BEGIN X509 CRL-----", or one in DER`)
	}
	return lists, beside, nil
}

// withThoseBelow adds the authorities that known ones have signed, in any order.
func withThoseBelow(known, below []*x509.Certificate) ([]*x509.Certificate, error) {
	known = slices.Clip(known)
	for len(below) > 0 {
		left := slices.DeleteFunc(slices.Clone(below), func(one *x509.Certificate) bool {
			signed := slices.ContainsFunc(known, func(by *x509.Certificate) bool {
				return bytes.Equal(by.RawSubject, one.RawIssuer) && one.CheckSignatureFrom(by) == nil
			})
			if signed {
				known = append(known, one)
			}
			return signed
		})
		if len(left) == len(below) {
			return nil, fmt.Errorf("holds the certificate of %q, which no authority of client_ca_file has signed; leave it out", left[0].Subject)
		}
		below = left
	}
	return known, nil
}

// add takes a list that one of the known authorities has signed.
func (l *Lists) add(der []byte, known []*x509.Certificate) error {
	parsed, err := x509.ParseRevocationList(der)
	switch {
	case err != nil:
		return fmt.Errorf("%w; give lists of version 2 (RFC 5280 section 5)", err)
	case len(parsed.Raw) != len(der):
		return errors.New("bytes follow it; give PEM for several lists")
	case parsed.NextUpdate.IsZero():
		return fmt.Errorf("the one of %q does not say when the next is due; have its authority say so (nextUpdate)", parsed.Issuer)
	}
	if err := checkExtensions(parsed); err != nil {
		return fmt.Errorf("the one of %q %w", parsed.Issuer, err)
	}
	by, err := signedBy(parsed, known)
	if err != nil {
		return err
	}
	l.put(string(parsed.RawIssuer), &list{
		authority: parsed.Issuer.String(), key: by.RawSubjectPublicKeyInfo,
		thisUpdate: parsed.ThisUpdate, nextUpdate: parsed.NextUpdate, serials: serialsOf(parsed),
	})
	return nil
}

// put keeps the newest list of a key.
func (l *Lists) put(name string, next *list) {
	for i, one := range l.byName[name] {
		if !bytes.Equal(one.key, next.key) {
			continue
		}
		if next.thisUpdate.After(one.thisUpdate) {
			l.byName[name][i] = next
			l.all[slices.Index(l.all, one)] = next
		}
		return
	}
	l.byName[name] = append(l.byName[name], next)
	l.all = append(l.all, next)
}

func serialsOf(parsed *x509.RevocationList) map[string]struct{} {
	serials := make(map[string]struct{}, len(parsed.RevokedCertificateEntries))
	for _, entry := range parsed.RevokedCertificateEntries {
		serials[string(entry.SerialNumber.Bytes())] = struct{}{}
	}
	return serials
}

// signedBy is the authority that has signed a list. The name alone proves nothing.
func signedBy(parsed *x509.RevocationList, known []*x509.Certificate) (*x509.Certificate, error) {
	why := "no authority of client_ca_file is called so; add its certificate there, or, of one below those, to the file of the list"
	for _, by := range known {
		if !bytes.Equal(by.RawSubject, parsed.RawIssuer) {
			continue
		}
		err := parsed.CheckSignatureFrom(by)
		if err == nil {
			return by, nil
		}
		why = "the authority of that name has not signed it; get the list from the authority again"
		if by.KeyUsage != 0 && by.KeyUsage&x509.KeyUsageCRLSign == 0 {
			why = "the certificate of the authority does not let it sign lists; have it issued with the key usage cRLSign"
		}
	}
	return nil, fmt.Errorf("the one of %q is not verified: %s", parsed.Issuer, why)
}

// checkExtensions refuses lists that are not about all certificates of their
// issuer, and what may not be passed over (RFC 5280 section 5.2: critical).
func checkExtensions(parsed *x509.RevocationList) error {
	for _, e := range parsed.Extensions {
		switch {
		case e.Id.Equal(deltaIndicator):
			return errors.New("tells only what is new (a delta list); give the complete list")
		case e.Id.Equal(distributionPoint):
			return errors.New("is about a part of the certificates (an issuing distribution point); give a list of all of them")
		case isUnknown(e, crlNumber, authorityKey):
			return fmt.Errorf("has the critical extension %s, which is not known here; give one without it", e.Id)
		}
	}
	for _, entry := range parsed.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Id.Equal(certificateIssuer) {
				return errors.New("names certificates of other authorities (an indirect list); give a list of each authority")
			}
			if isUnknown(e, reasonCode) {
				return fmt.Errorf("has an entry with the critical extension %s, which is not known here; give one without it", e.Id)
			}
		}
	}
	return nil
}

func isUnknown(e pkix.Extension, known ...asn1.ObjectIdentifier) bool {
	return e.Critical && !slices.ContainsFunc(known, e.Id.Equal)
}
