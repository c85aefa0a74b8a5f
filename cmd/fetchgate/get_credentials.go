package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// credentialFlags prove to the upstream who is asking. They go to the origin of
// the URL alone, unlike a field of --header.
type credentialFlags struct {
	User       *string  `name:"user" short:"u" xor:"authorization" group:"The request" placeholder:"USER:PASSWORD" help:"Basic credentials, over https or to this machine. Other users of this machine can read the command line: better a credential that the service holds."`
	Bearer     *string  `name:"oauth2-bearer" xor:"authorization" group:"The request" placeholder:"TOKEN" help:"A bearer token, likewise."`
	Credential []string `name:"credential" sep:"none" group:"The request" placeholder:"NAME" help:"A credential that the service holds; may be repeated."`
}

// credentials are those of the flags, the named ones first. Errors do not show
// them.
func (c *credentialFlags) credentials() ([]*fetchgatev1.Credential, error) {
	var list []*fetchgatev1.Credential
	for _, name := range c.Credential {
		if !utf8.ValidString(name) {
			return nil, errors.New("the name of --credential is not UTF-8")
		}
		list = append(list, &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Named{Named: &fetchgatev1.NamedCredential{Name: name}}})
	}
	if c.User != nil {
		name, password, found := strings.Cut(*c.User, ":")
		if !found {
			return nil, errors.New("-u has no ':'; write it as USER:PASSWORD (it does not ask for a password)")
		}
		list = append(list, &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Basic{
			Basic: &fetchgatev1.BasicCredential{Username: []byte(name), Password: []byte(password)},
		}})
	}
	if c.Bearer != nil {
		if !utf8.ValidString(*c.Bearer) {
			return nil, errors.New("the token of --oauth2-bearer is not UTF-8")
		}
		list = append(list, &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Bearer{Bearer: &fetchgatev1.BearerCredential{Token: *c.Bearer}}})
	}
	return list, nil
}

// typedCredentials are the flags behind the credentials, by their paths.
func (c *credentialFlags) typedCredentials() map[string]string {
	typed := map[string]string{}
	for i, name := range c.Credential {
		path := fmt.Sprintf("options.credentials[%d]", i)
		typed[path] = fmt.Sprintf("--credential %+.64q", name)
		typed[path+".named.name"] = typed[path]
	}
	path := fmt.Sprintf("options.credentials[%d]", len(c.Credential))
	for _, inside := range []string{"", ".basic", ".basic.username", ".basic.password"} {
		if c.User != nil {
			typed[path+inside] = "-u"
		}
	}
	for _, inside := range []string{"", ".bearer", ".bearer.token"} {
		if c.Bearer != nil {
			typed[path+inside] = "--oauth2-bearer"
		}
	}
	return typed
}
