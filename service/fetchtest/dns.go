package fetchtest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// DNS is a resolver that answers what it was told and keeps what it was asked.
// It stands in for [net.Resolver] and fails with a *[net.DNSError], as that
// does. Its methods are safe for concurrent use.
type DNS struct {
	t testing.TB

	mu      sync.Mutex
	answers map[string][]DNSAnswer // by lower-case name without a final dot
	queries []DNSQuery
}

// DNSQuery is one call of LookupNetIP.
type DNSQuery struct {
	Network string // "ip", "ip4" or "ip6"
	Host    string // as it was asked, with its final dot if it had one
}

// DNSAnswer is one answer of a DNS.
type DNSAnswer func(ctx context.Context) ([]netip.Addr, error)

// What an answer fails with; LookupNetIP makes a *net.DNSError of it.
var (
	errNoSuchHost  = errors.New("no such host")
	errMisbehaving = errors.New("server misbehaving")
)

// NewDNS returns a resolver that knows no name.
func NewDNS(t testing.TB) *DNS {
	return &DNS{t: t, answers: make(map[string][]DNSAnswer)}
}

// Set makes a name resolve to these addresses from now on, in this order.
func (d *DNS) Set(name string, addresses ...string) {
	d.t.Helper()
	d.Script(name, d.Addresses(addresses...))
}

// Script makes the first query for a name get the first answer, the second the
// second, and all that follow the last one. Queries before do not count. A
// final dot of the name and its case do not matter.
func (d *DNS) Script(name string, answers ...DNSAnswer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers[canonical(name)] = answers
}

// Addresses is an answer of addresses, of which a query for "ip4" or "ip6" gets
// those of its family; if there are none, the name does not exist.
func (d *DNS) Addresses(addresses ...string) DNSAnswer {
	d.t.Helper()
	parsed := make([]netip.Addr, len(addresses))
	for i, address := range addresses {
		var err error
		if parsed[i], err = netip.ParseAddr(address); err != nil {
			d.t.Fatalf("fetchtest: %v", err)
		}
	}
	return func(context.Context) ([]netip.Addr, error) { return parsed, nil }
}

// NotFound is the answer NXDOMAIN: the name does not exist (RFC 1035 section 4.1.1).
func NotFound() DNSAnswer {
	return func(context.Context) ([]netip.Addr, error) { return nil, errNoSuchHost }
}

// ServFail is the answer SERVFAIL: the server could not find out. It is temporary.
func ServFail() DNSAnswer {
	return func(context.Context) ([]netip.Addr, error) { return nil, errMisbehaving }
}

// NoAnswer does not answer: the query ends with its context.
func NoAnswer() DNSAnswer { return After(nil, nil) }

// After gives an answer once the channel is closed or gives a value, unless the
// query's context ends before.
func After(until <-chan struct{}, answer DNSAnswer) DNSAnswer {
	return func(ctx context.Context) ([]netip.Addr, error) {
		select {
		case <-until:
			return answer(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// LookupNetIP answers a query as [net.Resolver.LookupNetIP] does: network is
// "ip", "ip4" or "ip6", and a host that is an address is its own answer. A name
// that was not set does not exist.
func (d *DNS) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addresses, err := d.answer(network, host)(ctx)
	if err == nil {
		addresses = ofFamily(addresses, network)
	}
	if err == nil && len(addresses) == 0 {
		err = errNoSuchHost
	}
	if err == nil {
		return addresses, nil
	}
	return nil, &net.DNSError{
		UnwrapErr:   err,
		Err:         err.Error(),
		Name:        host,
		IsNotFound:  errors.Is(err, errNoSuchHost),
		IsTemporary: errors.Is(err, errMisbehaving),
		IsTimeout:   errors.Is(err, context.DeadlineExceeded),
	}
}

// answer records a query and returns the answer to it.
func (d *DNS) answer(network, host string) DNSAnswer {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries = append(d.queries, DNSQuery{Network: network, Host: host})
	if address, err := netip.ParseAddr(host); err == nil {
		return func(context.Context) ([]netip.Addr, error) { return []netip.Addr{address}, nil }
	}
	name := canonical(host)
	answers := d.answers[name]
	switch len(answers) {
	case 0:
		return NotFound()
	case 1:
	default:
		d.answers[name] = answers[1:]
	}
	return answers[0]
}

// Queries returns the queries so far, in the order in which they came.
func (d *DNS) Queries() []DNSQuery {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]DNSQuery(nil), d.queries...)
}

func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// ofFamily returns a new list of the addresses of a network. An IPv4-mapped
// address counts as IPv4 and stays mapped, since net.Resolver gives such too.
func ofFamily(addresses []netip.Addr, network string) []netip.Addr {
	var of []netip.Addr
	for _, a := range addresses {
		if network == "ip" || (network == "ip4") == (a.Is4() || a.Is4In6()) {
			of = append(of, a)
		}
	}
	return of
}
