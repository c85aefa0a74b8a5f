package caller

import (
	"encoding/hex"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Still returns the caller of the name of before, an authenticated one of another
// configuration, if what that proved itself by is its proof here too; else nil. Of
// a JWT the issuer and the subject are looked at: its other claims are gone.
func (a *Authenticator) Still(before fetch.Caller) *fetch.Caller {
	for _, known := range a.provedBy(before) {
		if known != nil && known.Name == before.Name {
			return known
		}
	}
	return nil
}

// provedBy are the callers that the identity of before may prove.
func (a *Authenticator) provedBy(before fetch.Caller) []*fetch.Caller {
	identity := before.Identity
	if before.Anonymous || identity == "" {
		return []*fetch.Caller{a.anonymous}
	}
	if known := a.withDigest(identity); known != nil {
		return known
	}
	for _, i := range a.issuers {
		if subject, of := strings.CutPrefix(identity, i.iss+" "); of {
			return i.callers(subject)
		}
	}
	return []*fetch.Caller{a.certificates.findID(identity), a.certificates.names[identity]}
}

// withDigest are the callers that have a token with the beginning of a digest.
func (a *Authenticator) withDigest(identity string) (found []*fetch.Caller) {
	beginning, of := strings.CutPrefix(identity, "sha256:")
	if !of {
		return nil
	}
	for digest, known := range a.tokens {
		if hex.EncodeToString(digest[:digestShown]) == beginning {
			found = append(found, known)
		}
	}
	return found
}

// callers are those that some JWT of sub is of.
func (i *issuer) callers(sub string) (found []*fetch.Caller) {
	for _, s := range i.subjects[sub] {
		found = append(found, s.of)
	}
	for _, s := range i.subjects[""] {
		found = append(found, s.of)
	}
	return found
}
