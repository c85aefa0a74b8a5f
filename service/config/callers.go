package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// identities remembers whose each identity is, so that none is of two callers.
type identities struct {
	refuse func(path, message string)
	owners map[string]string // the caller's name, by kind and identity
}

// claim gives an identity to a caller.
func (i *identities) claim(path, kind, identity, caller string) {
	key := kind + " " + identity
	if other, taken := i.owners[key]; taken {
		i.refuse(path, fmt.Sprintf("is an identity of the caller %q already; give each identity to one caller, once", other))
		return
	}
	i.owners[key] = caller
}

// checkCallers refuses callers that nobody can prove to be, and identities that
// do not tell one caller from another.
func (l *Loaded) checkCallers(refuse func(path, message string)) {
	names, anonymous := map[string]bool{}, ""
	known := &identities{refuse: refuse, owners: map[string]string{}}
	for i, caller := range l.Config.GetCallers() {
		path := fmt.Sprintf("callers[%d]", i)
		if names[caller.GetName()] {
			refuse(path+".name", fmt.Sprintf("another caller is called %q; choose another name", caller.GetName()))
		}
		names[caller.GetName()] = true
		switch {
		case caller.GetDangerousAnonymous() && anonymous != "":
			refuse(path+".dangerous_anonymous", fmt.Sprintf("every RPC without an identity is already %q; keep one anonymous caller", anonymous))
		case caller.GetDangerousAnonymous():
			anonymous = caller.GetName()
		case !hasProof(caller):
			refuse(path, fmt.Sprintf("nothing proves that %q is calling; give it spiffe_ids, dns_names, token_sha256, jwts or unix_uids, or set dangerous_anonymous: true", caller.GetName()))
		}
		l.checkCertificateNames(path, caller, known)
		l.checkTokens(path, caller, known)
		l.checkUsers(path, caller, known)
	}
	l.checkIssuers(refuse)
}

func hasProof(c *configv1.Caller) bool {
	return len(c.GetSpiffeIds())+len(c.GetDnsNames())+len(c.GetTokenSha256())+len(c.GetJwts())+len(c.GetUnixUids()) > 0
}

// dnsName is a whole name; that of a certificate may not stand for several.
var dnsName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

func (l *Loaded) checkCertificateNames(path string, caller *configv1.Caller, known *identities) {
	verified := l.VerifiesCallers()
	names := func(field string, list []string) {
		switch {
		case len(list) > 0 && !verified:
			known.refuse(path+"."+field, "needs grpc.tls.client_ca_file, which is not set: a certificate that no authority vouches for proves nothing")
		case len(list) > 0 && field == "dns_names" && l.SPIFFEOnly():
			known.refuse(path+"."+field, "proves nothing beside grpc.tls.workload_api: authorities of trust domains vouch for SPIFFE IDs alone; give the caller spiffe_ids")
		}
		for i, name := range list {
			at := fmt.Sprintf("%s.%s[%d]", path, field, i)
			name = strings.ToLower(name)
			if field == "dns_names" && !dnsName.MatchString(name) {
				known.refuse(at, fmt.Sprintf("is %s; write a DNS name such as billing.pay.example, whole and without a final dot", shownText(list[i])))
				continue
			}
			if field == "spiffe_ids" {
				name = list[i] // where case matters
			}
			known.claim(at, field, name, caller.GetName())
		}
	}
	names("spiffe_ids", caller.GetSpiffeIds())
	names("dns_names", caller.GetDnsNames())
}

func (l *Loaded) checkTokens(path string, caller *configv1.Caller, known *identities) {
	nothing := sha256.Sum256(nil)
	ofNothing := hex.EncodeToString(nothing[:])
	for i, digest := range caller.GetTokenSha256() {
		at := fmt.Sprintf("%s.token_sha256[%d]", path, i)
		if digest == ofNothing {
			known.refuse(at, `is the digest of an empty token; "fetchgate token" prints a token and its digest`)
			continue
		}
		known.claim(at, "token", digest, caller.GetName())
	}
	for i, jwt := range caller.GetJwts() {
		at := fmt.Sprintf("%s.jwts[%d]", path, i)
		named := func(c *configv1.JwtIssuer) bool { return c.GetName() == jwt.GetIssuer() }
		switch {
		case !slices.ContainsFunc(l.Config.GetJwtIssuers(), named):
			known.refuse(at+".issuer", fmt.Sprintf("no entry of jwt_issuers is called %s; %s", shownText(jwt.GetIssuer()), l.issuerNames()))
		case jwt.GetSubject() == "" && len(jwt.GetClaims()) == 0:
			known.refuse(at, "is every token of the issuer; name the subject, or claims that it has")
		default:
			known.claim(at, "jwt", identityOf(jwt), caller.GetName())
		}
	}
}

// issuerNames says what can be written instead.
func (l *Loaded) issuerNames() string {
	var names []string
	for _, c := range l.Config.GetJwtIssuers() {
		names = append(names, c.GetName())
	}
	if len(names) == 0 {
		return "add it there"
	}
	return "write " + alternatives(names[:min(len(names), 10)])
}

// identityOf is the same for two that are.
func identityOf(jwt *configv1.JwtIdentity) string {
	parts := []string{jwt.GetIssuer(), jwt.GetSubject()}
	var claims []string
	for name, value := range jwt.GetClaims() {
		claims = append(claims, fmt.Sprintf("%q=%q", name, value))
	}
	slices.Sort(claims)
	return fmt.Sprintf("%q", append(parts, claims...))
}

// checkIssuers refuses issuers that a token does not tell apart.
func (l *Loaded) checkIssuers(refuse func(path, message string)) {
	var names, issuers []string
	for i, c := range l.Config.GetJwtIssuers() {
		path := fmt.Sprintf("jwt_issuers[%d]", i)
		if slices.Contains(names, c.GetName()) {
			refuse(path+".name", fmt.Sprintf("another issuer is called %q; choose another name", c.GetName()))
		}
		if slices.Contains(issuers, c.GetIssuer()) {
			refuse(path+".issuer", "another entry has this claim iss already; keep one, whose file has the keys of both")
		}
		checkKeys(path, c, refuse)
		names, issuers = append(names, c.GetName()), append(issuers, c.GetIssuer())
	}
}

// checkKeys wants the keys of an issuer to be at one place.
func checkKeys(path string, c *configv1.JwtIssuer, refuse func(path, message string)) {
	switch file, url := c.GetJwksFile(), c.GetJwksUrl(); {
	case file == "" && url == "":
		refuse(path, "says nothing of the issuer's keys; set jwks_file, or jwks_url, from which fetchgate fetches them")
	case file != "" && url != "":
		refuse(path+".jwks_url", "stands beside jwks_file; keep the one where the issuer's keys are")
	case url == "" && len(c.GetJwksAllowAddresses()) > 0:
		refuse(path+".jwks_allow_addresses", "is about jwks_url, which is not set; leave it out")
	}
}

// takesTokens tells that some caller proves itself with what it sends.
func (l *Loaded) takesTokens() bool {
	return slices.ContainsFunc(l.Config.GetCallers(), func(c *configv1.Caller) bool {
		return len(c.GetTokenSha256())+len(c.GetJwts()) > 0
	})
}

// checkClear refuses tokens on a network where others could read them.
func (l *Loaded) checkClear(address string) error {
	if l.Config.GetGrpc().GetTls() != nil || !l.takesTokens() {
		return nil
	}
	return errors.New("listening on " + address + " without TLS lets others on the way read the tokens of callers; set grpc.tls, or listen on 127.0.0.1")
}
