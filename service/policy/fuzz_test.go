package policy_test

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/iana"
	"github.com/fetchgate/fetchgate/service/policy"
)

// FuzzOrigin compiles any text as an origin and asks about any URL: whatever
// compiles matches only what its labels say.
func FuzzOrigin(f *testing.F) {
	for _, origin := range []string{"https://example.com", "https://*.example.com:8443", "http://*", "https://[::1]", "https://*.co.uk", "http://1.2.3.4", "https://*.", "http://localhost"} {
		f.Add(origin, int32(0), "https://a.example.com:8443/")
		f.Add(origin, int32(8443), "http://example.com.evil.com/")
	}
	f.Fuzz(func(t *testing.T, origin string, port int32, url string) {
		r := &configv1.Rule{Name: "r", Origins: []string{origin}}
		if port != 0 {
			r.Ports = []int32{port}
		}
		p, err := policy.Compile([]*configv1.Rule{r}, policy.Options{})
		if err != nil {
			return
		}
		dest, err := fetch.ParseURL(url)
		if err != nil {
			return
		}
		d := p.Decide(policy.Ask{Caller: fetch.Caller{}, Method: "GET", Destination: dest})
		if d.Denied == nil && !saysSo(origin, dest.Host) {
			t.Errorf("%q allows %s", origin, url)
		}
	})
}

// saysSo reads an origin that compiled in another way than the package does.
func saysSo(origin, host string) bool {
	_, rest, _ := strings.Cut(origin, "://")
	if rest == "*" || strings.HasPrefix(rest, "*:") {
		return true
	}
	labels := strings.Split(strings.TrimPrefix(rest, "*."), ".")
	d, err := fetch.ParseURL("http://" + strings.Join(labels, "."))
	if err != nil {
		return false
	}
	want, got := strings.Split(d.Host, "."), strings.Split(host, ".")
	if !strings.HasPrefix(rest, "*.") {
		return slices.Equal(want, got)
	}
	return len(got) > len(want) && slices.Equal(want, got[len(got)-len(want):])
}

// FuzzAllowAddresses compiles any text as a range and judges any address: a
// range opens only what it contains, and never loopback or metadata addresses.
func FuzzAllowAddresses(f *testing.F) {
	for _, text := range []string{"10.0.0.0/8", "fd00::/8", "::ffff:0:0/96", "0.0.0.0/0", "2002::/16", "127.0.0.0/8", "169.254.0.0/16", "64:ff9b::/96"} {
		f.Add(text, "10.0.0.1:80")
		f.Add(text, "[64:ff9b::a9fe:a9fe]:7802")
	}
	f.Fuzz(func(t *testing.T, text, address string) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return
		}
		p, err := policy.Compile([]*configv1.Rule{{Name: "r", Origins: []string{"https://*"}, AllowAddresses: []string{text}}}, reviewed)
		if err != nil {
			return
		}
		opened, err := netip.ParsePrefix(text)
		if err != nil {
			single := netip.MustParseAddr(text)
			opened = netip.PrefixFrom(single, single.BitLen())
		}
		d := p.Decide(policy.Ask{Caller: fetch.Caller{}, Method: "GET", Destination: parseURL(t, "https://example.com/")})
		if d.Allow(to) != nil {
			return
		}
		switch iana.Classify(to.Addr()) {
		case iana.Public:
		case iana.Loopback, iana.Metadata:
			t.Errorf("%s opens %s", text, to)
		default:
			if inside := to.Addr().Unmap(); !opened.Contains(inside) && !netip.MustParsePrefix("64:ff9b::/96").Contains(inside) {
				t.Errorf("%s opens %s", text, to)
			}
		}
	})
}

// FuzzDecide asks anything of a policy that opens no address: an address that
// is allowed is public, and Explain agrees.
func FuzzDecide(f *testing.F) {
	p, err := policy.Compile([]*configv1.Rule{
		{Name: "exact", Origins: []string{"http://localhost", "http://metadata", "https://api.example.com"}, Methods: []string{"GET"}},
		{Name: "wildcard", Origins: []string{"http://*.example.com", "https://*.example.com:8443"}},
		{Name: "any", Origins: []string{"http://*", "https://*"}},
	}, reviewed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "https", "api.example.com", uint16(443), []byte{127, 0, 0, 1})
	f.Add("PUT", "http", "..localhost", uint16(80), []byte{10, 0, 0, 1})
	f.Add("", "", "::1", uint16(7802), netip.MustParseAddr("64:ff9b::7f00:1").AsSlice())
	f.Add("GET", "http", ".", uint16(80), []byte{})
	f.Fuzz(func(t *testing.T, method, scheme, host string, port uint16, address []byte) {
		dest := fetch.Destination{Origin: fetch.Origin{Scheme: scheme, Host: host, Port: port}}
		d := p.Decide(policy.Ask{Caller: fetch.Caller{Name: host}, Method: method, Destination: dest})
		if (d.Denied == nil) != (d.Allow != nil) || d.Rule == "" {
			t.Fatalf("half a decision: %+v", d)
		}
		e := p.Explain(context.Background(), policy.Ask{Caller: fetch.Caller{Name: host}, Method: method, Destination: dest})
		if e.Decision.Rule != d.Rule || !reflect.DeepEqual(e.Decision.Denied, d.Denied) || e.Checks[len(e.Checks)-1].Passed != (d.Denied == nil) {
			t.Errorf("Explain says %+v of %+v", e, d)
		}
		if d.Denied != nil {
			return
		}
		if literal, isLiteral := dest.Addr(); isLiteral && iana.Classify(literal) != iana.Public {
			t.Errorf("the host %s is allowed", host)
		}
		addr, _ := netip.AddrFromSlice(address)
		if d.Allow(netip.AddrPortFrom(addr, port)) == nil && iana.Classify(addr) != iana.Public {
			t.Errorf("%s is allowed and %v", addr, iana.Classify(addr))
		}
	})
}
