package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TLSProfiles returns the profiles of tls_profiles by name. What one does not say
// is zero: the server's. The roots are the certificates of its files as they were
// when the configuration was loaded, and those alone; they are named by content.
func (l *Loaded) TLSProfiles() map[string]fetch.TLSSettings {
	profiles := map[string]fetch.TLSSettings{}
	for i, p := range l.Config.GetTlsProfiles() {
		profile := fetch.TLSSettings{Pins: pinsOf(p)}
		if p.GetMinVersion() == "1.3" {
			profile.MinVersion = tls.VersionTLS13
		}
		if only := l.profileAuthorities[i]; len(only) > 0 {
			profile.Roots = x509.NewCertPool()
			profile.RootsID = "only+" + addTo(profile.Roots, only)
		}
		profiles[p.GetName()] = profile
	}
	return profiles
}

// pinsOf are the pins of a profile whose settings are in their ranges.
func pinsOf(p *configv1.TlsProfile) fetch.Pins {
	digests := make([][32]byte, len(p.GetSpkiSha256()))
	for i, text := range p.GetSpkiSha256() {
		_, _ = hex.Decode(digests[i][:], []byte(text)) // the schema holds it to 64 digits
	}
	return fetch.NewPins(digests)
}

// checkProfiles refuses names that are not unique and rules that name a profile
// that is not there, and reads the files of the profiles.
func (l *Loaded) checkProfiles(refuse func(path, message string)) {
	known := map[string]bool{}
	for i, p := range l.Config.GetTlsProfiles() {
		path := fmt.Sprintf("tls_profiles[%d]", i)
		if known[p.GetName()] {
			refuse(path+".name", fmt.Sprintf("another TLS profile is called %q; choose another name", p.GetName()))
		}
		known[p.GetName()] = true
		l.profileAuthorities = append(l.profileAuthorities, l.readAll(path+".ca_files", p.GetCaFiles(), refuse))
	}
	for i, rule := range l.Config.GetRules() {
		if name := rule.GetTlsProfile(); name != "" && !known[name] {
			refuse(fmt.Sprintf("rules[%d].tls_profile", i), fmt.Sprintf("no TLS profile is called %q%s", name, meant(name, known)))
		}
	}
}
