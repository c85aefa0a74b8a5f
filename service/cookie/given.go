package cookie

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fetchgate/fetchgate/service/fetch"
)

const maxQuoted = 100 // bytes of a caller's word in a message

// checkGiven checks what a cookie of a request says, but for its domain. It is
// stricter than the reading of Set-Cookie: what would reach the upstream as
// another cookie than the one that was given is refused.
func checkGiven(c fetch.Cookie) error {
	if len(c.Name) == 0 {
		return errors.New("the cookie has no name")
	}
	if i := bytes.IndexFunc(c.Name, isNotToken); i >= 0 {
		return fmt.Errorf("the cookie's name has the byte %#02x at %d; a name is a token (RFC 6265 section 4.1.1)", c.Name[i], i)
	}
	if i := indexControl(c.Value); i >= 0 {
		return fmt.Errorf("the cookie's value has the control character %#02x at byte %d; encode it", c.Value[i], i)
	}
	if i := bytes.IndexByte(c.Value, ';'); i >= 0 {
		return fmt.Errorf("the cookie's value has ';' at byte %d, where the upstream would see the next cookie; encode it", i)
	}
	if len(trim(c.Value)) != len(c.Value) {
		return errors.New("the cookie's value begins or ends with a space or tab, which the upstream would not see; leave it out")
	}
	if n := len(c.Name) + len(c.Value); n > MaxPairBytes {
		return fmt.Errorf("the cookie's name and value have %d bytes; at most %d are sent", n, MaxPairBytes)
	}
	return checkPath(c.Path)
}

func checkPath(path []byte) error {
	if len(path) > 0 && path[0] != '/' {
		return errors.New(`the cookie's path does not begin with "/"`)
	}
	if len(path) > MaxAttributeBytes {
		return fmt.Errorf("the cookie's path has %d bytes; at most %d are taken", len(path), MaxAttributeBytes)
	}
	if i := indexControl(path); i >= 0 {
		return fmt.Errorf("the cookie's path has the control character %#02x at byte %d", path[i], i)
	}
	return nil
}

func errDomain(domain, host string) error {
	name := fetch.Escape([]byte(domain), maxQuoted)
	if !domainMatch(host, domain) {
		return fmt.Errorf("the cookie's domain %s is neither the host %s of the URL nor a parent of it; write it in lower case, in A-labels and without a dot in front, or leave it out", name, host)
	}
	return fmt.Errorf("the cookie's domain %s is a public suffix, which others than the host %s share; name a longer domain, or leave it out", name, host)
}

// checkRoom refuses one cookie more of domain where a stored one would push out
// another: a request's cookies are all sent or none is.
func (j *Jar) checkRoom(c fetch.Cookie) error {
	held := j.bytes() + size(c)
	if i := j.index(c); i >= 0 {
		held -= size(j.cookies[i])
	} else if j.count(c.Domain) >= MaxPerDomain {
		return fmt.Errorf("the cookie is one too many of its domain; at most %d are taken", MaxPerDomain)
	} else if len(j.cookies) >= MaxTotal {
		return fmt.Errorf("the cookie is one too many; at most %d are taken", MaxTotal)
	}
	if held > MaxBytes {
		return fmt.Errorf("the cookies have %d bytes up to this one; at most %d are taken", held, MaxBytes)
	}
	return nil
}
