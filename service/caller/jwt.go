package caller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// algorithms are those with a private and a public key (RFC 7518 section 3.1,
// RFC 8037 section 3.1). With any other, who can verify could sign.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// defaultLeeway is how far the clocks may differ.
const defaultLeeway = 30 * time.Second

// issuer is who signs JWTs of callers.
type issuer struct {
	name, iss string
	audiences []string
	leeway    time.Duration
	keys      keySource
	subjects  map[string][]subject // by the claim sub; "" is any
}

// subject is a caller, and what its JWTs say beside the subject.
type subject struct {
	of     *fetch.Caller
	claims map[string]string
}

// newIssuers returns the issuers by their claim iss.
func newIssuers(o Options) (map[string]*issuer, error) {
	issuers := map[string]*issuer{}
	var wrong []error
	for n, c := range o.Issuers {
		keys, err := o.keysOf(c)
		if err != nil {
			wrong = append(wrong, &FileError{Path: fmt.Sprintf("jwt_issuers[%d].jwks_file", n), Message: err.Error()})
			continue
		}
		i := &issuer{
			name: c.GetName(), iss: c.GetIssuer(), audiences: c.GetAudiences(), leeway: defaultLeeway, keys: keys,
			subjects: map[string][]subject{},
		}
		if c.GetLeeway() != nil {
			i.leeway = c.GetLeeway().AsDuration()
		}
		issuers[i.iss] = i
	}
	return issuers, errors.Join(wrong...)
}

// keysOf are the keys of an issuer, in a file or at a URL.
func (o Options) keysOf(c *configv1.JwtIssuer) (keySource, error) {
	if url := c.GetJwksUrl(); url != "" {
		return o.fetchedKeys(c.GetName(), url, c.GetJwksAllowAddresses()), nil
	}
	return newKeyFile(o.File(c.GetJwksFile()), o.Now, o.Log)
}

// FileError says what is wrong with a file that the configuration names.
type FileError struct {
	// Path is the setting, such as "jwt_issuers[0].jwks_file".
	Path string
	// Message says what is wrong and what to do.
	Message string
}

func (e *FileError) Error() string { return e.Path + ": " + e.Message }

func (i *issuer) add(known *fetch.Caller, named *configv1.JwtIdentity) {
	i.subjects[named.GetSubject()] = append(i.subjects[named.GetSubject()], subject{known, maps.Clone(named.GetClaims())})
}

// claims are those of a JWT (RFC 7519 section 4), by name.
type claims map[string]any

// ofJWT returns whose token this is. Until the signature is verified, the token
// says no more than whose keys to verify it with.
func (a *Authenticator) ofJWT(ctx context.Context, token string) (verified, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return verified{}, unknown("the token is of no caller here, nor is it a JWT that is signed by RS, PS, ES or EdDSA; show a current one")
	}
	var said claims
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &said); err != nil {
		return verified{}, unknown("the claims of the JWT cannot be read; show one as its issuer made it")
	}
	iss, _ := said["iss"].(string)
	by := a.issuers[iss]
	if by == nil {
		return verified{}, unknown("the issuer of the JWT, its claim iss, is not known here; show one of an issuer that the operator configured")
	}
	good := verified{by: by}
	if good.keys, err = by.verify(ctx, signed); err != nil {
		return verified{}, err
	}
	if good.until, err = by.judge(said, a.now()); err != nil {
		return verified{}, err
	}
	good.proof, err = by.find(said)
	return good, err
}

// verify checks the signature and returns the keys of which one made it.
func (i *issuer) verify(ctx context.Context, signed *jose.JSONWebSignature) (*keySet, error) {
	header := signed.Signatures[0].Protected
	keys, of := i.keys.find(ctx, header.KeyID, jose.SignatureAlgorithm(header.Algorithm))
	for _, key := range keys {
		if _, err := signed.Verify(key); err == nil {
			return of, nil
		}
	}
	if of == nil {
		return nil, unknown("the keys of the JWT's issuer are not there yet; try again in half a minute, and ask the operator to see that they can be fetched")
	}
	if len(keys) == 0 {
		return nil, unknown("the JWT is not signed with a key of its issuer that is known here; show a current one, or ask the operator to renew the issuer's keys")
	}
	return nil, unknown("the signature of the JWT is not its issuer's; show one as its issuer made it")
}

// judge checks for whom the token is, and when; it returns until when it is good.
func (i *issuer) judge(said claims, now time.Time) (until time.Time, err error) {
	if !i.isFor(said) {
		return until, unknown("the JWT is for somebody else, by its claim aud; ask its issuer for one for fetchgate")
	}
	expires, ok := said.date("exp")
	until = expires.Add(i.leeway)
	switch {
	case !ok:
		return until, unknown("the JWT does not say when it expires, in its claim exp; ask its issuer for one that does")
	case !now.Before(until):
		return until, unknown("the JWT has expired; show a current one")
	}
	if _, has := said["nbf"]; !has {
		return until, nil
	}
	switch from, ok := said.date("nbf"); {
	case !ok:
		return until, unknown("the claim nbf of the JWT is no date; show one as its issuer made it")
	case now.Add(i.leeway).Before(from):
		return until, unknown("the JWT is not valid yet; wait, or see that the clocks are right")
	}
	return until, nil
}

// isFor tells that the token was made for fetchgate.
func (i *issuer) isFor(said claims) bool {
	return slices.ContainsFunc(said.audiences(), func(to string) bool { return slices.Contains(i.audiences, to) })
}

// find returns the caller that the claims describe.
func (i *issuer) find(said claims) (proof, error) {
	sub, _ := said["sub"].(string)
	found := proof{identity: i.iss + " " + sub}
	named := i.subjects[sub]
	if sub != "" {
		named = slices.Concat(named, i.subjects[""])
	}
	for _, s := range named {
		switch {
		case !said.have(s.claims):
		case found.of == nil:
			found.of = s.of
		case found.of != s.of:
			return proof{}, unknown("the JWT describes several callers; the operator has to tell them apart")
		}
	}
	if found.of == nil {
		return proof{}, unknown("the JWT is good, but its subject is no caller here; ask the operator to name it")
	}
	return found, nil
}

// audiences are the values of aud, which is a text or a list.
func (c claims) audiences() []string { return texts(c["aud"]) }

// date is the value of a claim that is a NumericDate, until the year 9999.
func (c claims) date(name string) (time.Time, bool) {
	seconds, ok := c[name].(float64)
	if !ok || !(seconds >= 0 && seconds <= 253402300799) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)), true
}

// have tells whether the claims are there with these values.
func (c claims) have(values map[string]string) bool {
	for name, value := range values {
		if !slices.Contains(texts(c[name]), value) {
			return false
		}
	}
	return true
}

// maxInteger is the largest number up to which JSON numbers are exact.
const maxInteger = 1 << 53

// texts are the values of a claim as the configuration writes them.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case bool:
		return []string{strconv.FormatBool(v)}
	case float64:
		if n := int64(v); v >= -maxInteger && v <= maxInteger && float64(n) == v {
			return []string{strconv.FormatInt(n, 10)}
		}
	case []any:
		var all []string
		for _, item := range v {
			if _, nested := item.([]any); !nested {
				all = append(all, texts(item)...)
			}
		}
		return all
	}
	return nil
}
