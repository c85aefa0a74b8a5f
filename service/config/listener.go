package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/revocation"
)

// certificatesOptional is the word for callers that may show no certificate.
const certificatesOptional = "optional"

// ClientCertificatesOptional tells that callers may show no certificate where
// authorities are known. Default false.
func (l *Loaded) ClientCertificatesOptional() bool {
	return l.Config.GetGrpc().GetTls().GetClientCertificates() == certificatesOptional
}

// SPIFFEOnly tells that the authorities of callers are those of trust domains,
// which vouch for SPIFFE IDs and for no DNS names. Default false.
func (l *Loaded) SPIFFEOnly() bool { return l.Config.GetGrpc().GetTls().GetWorkloadApi() != "" }

// VerifiesCallers tells that the listener knows authorities of callers. Default
// false.
func (l *Loaded) VerifiesCallers() bool {
	return l.SPIFFEOnly() || l.Config.GetGrpc().GetTls().GetClientCaFile() != ""
}

// checkListenerTLS reads the files of grpc.tls as the listener does, so that a
// file that it could not start with has a place in the configuration.
func (l *Loaded) checkListenerTLS(refuse func(path, message string)) {
	files := l.Config.GetGrpc().GetTls()
	if files == nil {
		return
	}
	if files.GetClientCertificates() != "" && !l.VerifiesCallers() {
		refuse("grpc.tls.client_certificates", "says whether callers must show a certificate, and no authority is named whose certificates are good; set grpc.tls.client_ca_file or grpc.tls.workload_api")
	}
	if l.SPIFFEOnly() {
		l.checkWorkload(files, refuse)
		return
	}
	l.checkPair(files, refuse)
	l.checkAuthorities(files, refuse)
}

// checkPair reads the certificate and its key.
func (l *Loaded) checkPair(files *configv1.ListenerTls, refuse func(path, message string)) {
	read := func(field, name string) (text []byte, err error) {
		if name == "" {
			err = errors.New("is required; name a PEM file, or set workload_api in the place of both")
			refuse("grpc.tls."+field, err.Error())
		} else if text, err = readPEM(l.File(name)); err != nil {
			refuse("grpc.tls."+field, strconv.Quote(l.File(name))+" "+err.Error())
		}
		return text, err
	}
	cert, certErr := read("cert_file", files.GetCertFile())
	key, keyErr := read("key_file", files.GetKeyFile())
	if certErr != nil || keyErr != nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		refuse("grpc.tls", fmt.Sprintf("cert_file and key_file are no pair: %v; give the PEM of the certificate with its chain, and of the key that belongs to it", err))
	}
}

// checkAuthorities reads the authorities of callers and their revocation lists.
func (l *Loaded) checkAuthorities(files *configv1.ListenerTls, refuse func(path, message string)) {
	unusable := func(field, name string, err error) {
		refuse("grpc.tls."+field, strconv.Quote(l.File(name))+" "+err.Error())
	}
	name, lists := files.GetClientCaFile(), files.GetClientCrlFile()
	if name == "" {
		if lists != "" {
			refuse("grpc.tls.client_crl_file", "has the revocation lists of authorities, and none is named; set grpc.tls.client_ca_file")
		}
		return
	}
	authorities, err := readCertificates(l.File(name))
	if err != nil {
		unusable("client_ca_file", name, err)
		return
	}
	if lists == "" {
		return
	}
	if err := l.checkLists(l.File(lists), authorities); err != nil {
		unusable("client_crl_file", lists, err)
	}
}

// checkedLists is a file of revocation lists that was in order, as digests.
type checkedLists struct {
	content, authorities [sha256.Size]byte
}

// checkLists reads the revocation lists. What an earlier look has found in order
// is not taken apart again: the file may be large, and is looked at often.
func (l *Loaded) checkLists(name string, authorities []*x509.Certificate) error {
	content, err := revocation.Read(name)
	if err != nil {
		return err
	}
	var all []byte
	for _, a := range authorities {
		all = append(all, a.Raw...)
	}
	found := checkedLists{sha256.Sum256(content), sha256.Sum256(all)}
	if found != l.lists {
		if _, err := revocation.Parse(content, authorities); err != nil {
			return err
		}
	}
	l.lists = found
	return nil
}

// OutdatedLists are the revocation lists of grpc.tls.client_crl_file of which a
// newer one was due at a time. What cannot be read has none.
func (l *Loaded) OutdatedLists(now time.Time) []*revocation.Outdated {
	files := l.Config.GetGrpc().GetTls()
	if files.GetClientCrlFile() == "" {
		return nil
	}
	content, err := revocation.Read(l.File(files.GetClientCrlFile()))
	if err != nil {
		return nil
	}
	authorities, err := readCertificates(l.File(files.GetClientCaFile()))
	if err != nil {
		return nil
	}
	lists, err := revocation.Parse(content, authorities)
	if err != nil {
		return nil
	}
	return lists.Outdated(now)
}

// checkWorkload refuses what a Workload API gives beside it, and addresses at which
// others could be in its place or read along.
func (l *Loaded) checkWorkload(files *configv1.ListenerTls, refuse func(path, message string)) {
	for field, set := range map[string]string{
		"cert_file": files.GetCertFile(), "key_file": files.GetKeyFile(), "client_ca_file": files.GetClientCaFile(),
	} {
		if set != "" {
			refuse("grpc.tls."+field, "is given by grpc.tls.workload_api; leave one of the two out")
		}
	}
	if files.GetClientCrlFile() != "" {
		refuse("grpc.tls.client_crl_file", "has no authorities beside grpc.tls.workload_api, whose certificates are short-lived instead; leave it out")
	}
	if err := checkWorkloadAddress(files.GetWorkloadApi()); err != nil {
		refuse("grpc.tls.workload_api", err.Error())
	}
}

func checkWorkloadAddress(text string) error {
	if address, isTCP := strings.CutPrefix(text, "tcp://"); isTCP {
		at, err := netip.ParseAddrPort(address)
		switch {
		case err != nil || at.Port() == 0:
			return fmt.Errorf("is %s; write a socket such as unix:///run/spire/agent.sock", shownText(text))
		case !at.Addr().Unmap().IsLoopback():
			return errors.New("is beyond this machine, and what it gives, a private key, would go there in clear text; name a socket such as unix:///run/spire/agent.sock")
		}
		return nil
	}
	if u, err := url.Parse(text); err != nil || u.Scheme != "unix" || u.Host != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || len(u.Path) < 2 {
		return fmt.Errorf("is %s; write a socket such as unix:///run/spire/agent.sock", shownText(text))
	}
	return nil
}
