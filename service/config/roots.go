package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/fetchgate/fetchgate/service/file"
)

// Roots returns the certificate authorities that upstreams are verified with:
// those of the system, and those of upstream_tls.ca_files as they were when
// the configuration was loaded. The id names them by content: "system", or
// "system+" and a hash that depends on neither the order nor the names of the
// files. The error is that of system.
func (l *Loaded) Roots(system func() (*x509.CertPool, error)) (pool *x509.CertPool, id string, err error) {
	own, err := system()
	if err != nil {
		return nil, "", fmt.Errorf("the system's certificate authorities cannot be read: %w", err)
	}
	if len(l.authorities) == 0 {
		return own, "system", nil
	}
	pool = own.Clone()
	return pool, "system+" + addTo(pool, l.authorities), nil
}

// addTo adds authorities to a pool and returns what they are called by content.
func addTo(pool *x509.CertPool, authorities []*x509.Certificate) string {
	var all [][]byte
	for _, a := range authorities {
		pool.AddCert(a)
		all = append(all, a.Raw)
	}
	slices.SortFunc(all, bytes.Compare)
	all = slices.CompactFunc(all, bytes.Equal)
	return fmt.Sprintf("%x", sha256.Sum256(bytes.Join(all, nil))) // DER tells its own length
}

// readAuthorities reads the files of upstream_tls.ca_files. Relative ones are
// relative to the directory of the configuration.
func (l *Loaded) readAuthorities(refuse func(path, message string)) {
	l.authorities = l.readAll("upstream_tls.ca_files", l.Config.GetUpstreamTls().GetCaFiles(), refuse)
}

// readAll returns the certificates of the files that the setting at path names.
func (l *Loaded) readAll(path string, files []string, refuse func(path, message string)) (all []*x509.Certificate) {
	for i, file := range files {
		found, err := readCertificates(l.File(file))
		if err != nil {
			refuse(fmt.Sprintf("%s[%d]", path, i), strconv.Quote(l.File(file))+" "+err.Error())
			continue
		}
		all = append(all, found...)
	}
	return all
}

// readPEM returns what a file holds.
func readPEM(name string) ([]byte, error) {
	text, _, err := file.Read(name, maxFileBytes)
	switch {
	case err == nil:
		return text, nil
	case errors.Is(err, file.ErrNotRegular):
		return nil, errors.New("is not a regular file; name a PEM file")
	case errors.Is(err, file.ErrTooLarge):
		return nil, fmt.Errorf("is larger than %d bytes, the most that is read; split it", maxFileBytes)
	}
	return nil, fmt.Errorf("cannot be read: %w; check the permissions and the name, which starts at the directory of the configuration", file.Cause(err))
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	text, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s; leave only the certificates of authorities in it", shownText(block.Type))
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate, number %d, that cannot be read: %w", len(found)+1, err)
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, errors.New(`holds no certificate; it needs one that begins with "-----BEGIN CERTIFICATE-----"`)
	}
	return found, nil
}
