package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Resolver looks up the addresses of a name. *net.Resolver is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host, the best first. It is asked
	// for network "ip" and for names that end in a dot, so that no search
	// domain applies. It returns when ctx ends. It says what went wrong by a
	// *net.DNSError.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// resolve returns the addresses of host as they were answered, and how long
// that took.
func (d *Dialer) resolve(ctx context.Context, host, name string, timeout time.Duration) ([]netip.Addr, time.Duration, error) {
	if literal, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{literal}, 0, nil
	}
	if isLocalhost(host) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, 0, nil
	}
	lookup, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	answer, err := d.resolver.LookupNetIP(lookup, "ip", absolute(host))
	took := time.Since(start)
	if over := expired(ctx); over != nil {
		return nil, took, ended("resolving", name, over)
	}
	if err == nil {
		err = sound(answer)
	}
	if err != nil {
		return nil, took, resolveFailure(name, err)
	}
	return answer, took, nil
}

// isLocalhost tells whether host is localhost or below it: a name that is the
// machine itself and is not looked up (RFC 6761 section 6.3).
func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// sound refuses an answer that no resolver should give.
func sound(answer []netip.Addr) error {
	if len(answer) == 0 {
		return &net.DNSError{Err: "the answer is empty", IsNotFound: true}
	}
	for _, a := range answer {
		if !a.IsValid() {
			return errors.New("the answer holds something that is no IP address")
		}
	}
	return nil
}

// absolute ends host in the dot that keeps search domains away (RFC 1034
// section 3.1).
func absolute(host string) string {
	if strings.HasSuffix(host, ".") {
		return host
	}
	return host + "."
}

// resolveFailure says why a look-up has no answer.
func resolveFailure(name string, err error) *fetch.Failure {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fail(fetch.ReasonNameNotFound, "the host of "+name+" does not exist or has no address", err)
	case timedOut(err):
		return fail(fetch.ReasonResolveTimeout, "the resolver did not answer in time for "+name, err)
	default:
		return fail(fetch.ReasonResolverFailed, "the resolver gave no usable answer for "+name, err)
	}
}

// timedOut tells whether err came of a deadline, ours or the kernel's.
func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
