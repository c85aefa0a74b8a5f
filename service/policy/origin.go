package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// someLabel stands for any label where a name is tried out. No list has it.
const someLabel = "some-label"

// addOrigins gives r the patterns of its origins, those without a port once for
// each of its ports.
func (c *compiler) addOrigins(path string, r *rule, f *faults) {
	if len(r.origins) == 0 {
		f.add(path+".origins", `a rule needs an origin, such as "https://api.example.com"`)
	}
	seen := map[pattern]bool{}
	add := func(p pattern) {
		if seen[p] {
			return
		}
		seen[p] = true
		if c.patterns++; c.patterns <= maxPatterns {
			r.patterns = append(r.patterns, p)
		}
	}
	hasHTTP, hasHTTPS := false, false
	for at, text := range r.origins {
		p, hasPort, err := parseOrigin(text, r.deny)
		hasHTTP = hasHTTP || err != nil || p.Scheme == "http"
		hasHTTPS = hasHTTPS || err != nil || p.Scheme == "https"
		switch {
		case err != nil:
			f.add(path+".origins["+strconv.Itoa(at)+"]", "%v", err)
		case hasPort || len(r.ports) == 0:
			add(p)
		default:
			for _, p.Port = range r.ports {
				add(p)
			}
		}
	}
	if r.allowDowngrade && !hasHTTP {
		f.add(path+".dangerous_allow_downgrade", "it is the word of the rule to whose http origin a redirect may lead, and this rule has none; set it there")
	}
	if r.profile != "" && !hasHTTPS {
		f.add(path+".tls_profile", "it is about https, and this rule has no https origin; remove it")
	}
}

func compilePorts(path string, in []int32, f *faults) []uint16 {
	var ports []uint16
	for i, port := range in {
		if port < 1 || port > math.MaxUint16 {
			f.add(path+"["+strconv.Itoa(i)+"]", "%d is not a port; ports are 1 to 65535", port)
			continue
		}
		ports = append(ports, uint16(port))
	}
	return ports
}

// parseOrigin reads SCHEME://HOST or SCHEME://HOST:PORT. HOST is read as in the
// URL of a fetch, so that both have one canonical form; it may also be "*" or
// begin with "*.", which in a rule that denies may stand before any name. Without
// a port the pattern has the scheme's default.
func parseOrigin(text string, deny bool) (p pattern, hasPort bool, err error) {
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case !found:
		return pattern{}, false, fmt.Errorf(`%.100q is not an origin; write it like "https://api.example.com" or "https://api.example.com:8443"`, text)
	case strings.ContainsAny(rest, `/?#\`):
		return pattern{}, false, errors.New("an origin ends with its host or port; leave out what follows, the final '/' too")
	case strings.Contains(rest, "@"):
		return pattern{}, false, errors.New("an origin has no user name or password; leave out what precedes '@', and the '@'")
	}
	authority, isBelow := strings.CutPrefix(rest, "*.")
	isAny := rest == "*" || strings.HasPrefix(rest, "*:")
	if isAny {
		authority = someLabel + rest[len("*"):]
	}
	if strings.Contains(authority, "*") {
		return pattern{}, false, errors.New(`'*' stands for a whole host, or as "*." for all labels before the rest; nowhere else`)
	}
	d, err := fetch.ParseURL(scheme + "://" + authority)
	if err != nil {
		return pattern{}, false, withoutReason(err)
	}
	if isAny {
		d.Host = ""
	}
	if isBelow {
		err = checkWildcard(d.Origin, deny)
	}
	hasPort = strings.Contains(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	return pattern{d.Origin, isAny || isBelow}, hasPort, err
}

// withoutReason leaves out the word of a URL error that is for callers.
func withoutReason(err error) error {
	var e *fetch.URLError
	if errors.As(err, &e) {
		return errors.New(e.Message)
	}
	return err
}

// checkWildcard refuses "*.HOST" where it would match nothing, or would allow what
// anyone can register.
func checkWildcard(o fetch.Origin, deny bool) error {
	below := someLabel + "." + o.Host
	switch _, isAddress := o.Addr(); {
	case isAddress:
		return fmt.Errorf("%q: a wildcard stands for labels of a name, and addresses have none; name each address", "*."+o.Host)
	case deny:
		return nil
	case isPublicSuffix(o.Host) || isPublicSuffix(below):
		return fmt.Errorf("%q: anyone can register a name there (public suffix list); name the hosts", "*."+o.Host)
	case kindOf(below) != ordinary:
		return fmt.Errorf("%q: such names mean something else in every network and are allowed only one by one; name each host", "*."+o.Host)
	}
	return nil
}

// isPublicSuffix reports whether name is an effective top-level domain. A name
// of one label always is.
func isPublicSuffix(name string) bool {
	suffix, _ := publicsuffix.PublicSuffix(name)
	return suffix == name
}
