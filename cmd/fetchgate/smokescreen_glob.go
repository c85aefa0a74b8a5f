package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// aclHosts are the hosts that one text of an ACL stands for: a host, or with
// "*." all names below one, which is what "*." means in rules too.
type aclHosts struct {
	aclText
	host  string // canonical
	below bool
}

// hostsOf reads a text of an ACL. The error says why no rule has it.
func hostsOf(t aclText) (aclHosts, error) {
	rest, below := strings.CutPrefix(t.text, "*.")
	switch address, err := netip.ParseAddr(rest); {
	case strings.Contains(rest, "*"):
		return aclHosts{}, errors.New(`smokescreen has "*." at the beginning alone, and does not start with this`)
	case err == nil && address.Is6():
		rest = "[" + rest + "]"
	case strings.ContainsAny(rest, `/?#@:\`):
		return aclHosts{}, errors.New("it is no host")
	}
	to, err := fetch.ParseURL("https://" + rest)
	if err != nil {
		if refused, ok := errors.AsType[*fetch.URLError](err); ok {
			err = errors.New(refused.Message)
		}
		return aclHosts{}, err
	}
	return aclHosts{t, to.Host, below}, nil
}

// covers reports whether every host of b is one of a.
func (a aclHosts) covers(b aclHosts) bool {
	switch {
	case a.below:
		return strings.HasSuffix(b.host, "."+a.host) || b.below && b.host == a.host
	default:
		return !b.below && a.host == b.host
	}
}

// origins are those of rules for the hosts.
func (a aclHosts) origins(schemes ...string) []string {
	host := fetch.Origin{Scheme: "https", Host: a.host, Port: 443}.Authority()
	if a.below {
		host = "*." + host
	}
	var origins []string
	for _, scheme := range schemes {
		origins = append(origins, scheme+"://"+host)
	}
	return origins
}

// condition is true in conditions of rules for the hosts.
func condition(hosts []aclHosts) string {
	var whole, parts []string
	for _, h := range hosts {
		if h.below {
			parts = append(parts, fmt.Sprintf("request.host.endsWith(%q)", "."+h.host))
		} else {
			whole = append(whole, fmt.Sprintf("%q", h.host))
		}
	}
	if len(whole) > 0 {
		parts = append([]string{"request.host in [" + strings.Join(whole, ", ") + "]"}, parts...)
	}
	return strings.Join(parts, " || ")
}

// refused says why no rule can be made of r; empty: one can.
func refused(r *configv1.Rule) string {
	_, err := policy.Compile([]*configv1.Rule{r}, policy.Options{})
	if wrong, ok := errors.AsType[*policy.RuleError](err); ok {
		return wrong.Message
	}
	return ""
}

// stillDenied says why fetchgate denies a host though a rule allows it; empty: it
// does not, as far as that is known without resolving a name.
func stillDenied(h aclHosts) string {
	compiled, err := policy.Compile([]*configv1.Rule{{Name: "any", Origins: h.origins("https")}}, policy.Options{})
	if err != nil || h.below {
		return ""
	}
	to, err := fetch.ParseURL(h.origins("https")[0])
	if err != nil {
		return ""
	}
	if d := compiled.Decide(policy.Ask{Method: "GET", Destination: to}); d.Denied != nil {
		return d.Denied.Message
	}
	return ""
}
