package caller

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Still returns the caller of the name of before, an authenticated one of another
// configuration, if what that proved itself by is its proof here too, and the
// certificate of its connection is still good; else nil. Of a JWT all that its
// claims say is looked at but when it is good: that was checked when it came, and
// so was its signature, whose key its issuer may have retired.
func (a *Authenticator) Still(before fetch.Caller) *fetch.Caller {
	if a.certificates.refuse(before.Certificates) != nil {
		return nil
	}
	for _, known := range a.provedBy(before) {
		if known != nil && known.Name == before.Name {
			return known
		}
	}
	return nil
}

// provedBy are the callers that the identity of before may prove.
func (a *Authenticator) provedBy(before fetch.Caller) []*fetch.Caller {
	if before.Claims != "" {
		return []*fetch.Caller{a.withClaims(before.Claims)}
	}
	identity := before.Identity
	if before.Anonymous || identity == "" {
		return []*fetch.Caller{a.anonymous}
	}
	if known := a.withDigest(identity); known != nil {
		return known
	}
	if known, ok := a.users.withIdentity(identity); ok {
		return []*fetch.Caller{known}
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

// withClaims is the caller that the claims of a JWT describe here, or nil.
func (a *Authenticator) withClaims(shown fetch.Claims) *fetch.Caller {
	text, err := base64.RawURLEncoding.DecodeString(string(shown))
	var said claims
	if err != nil || json.Unmarshal(text, &said) != nil {
		return nil
	}
	iss, _ := said["iss"].(string)
	by := a.issuers[iss]
	if by == nil || !by.isFor(said) {
		return nil
	}
	found, err := by.find(said)
	if err != nil {
		return nil
	}
	return found.of
}
