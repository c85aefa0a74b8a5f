package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/iana"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestAddressesThatCannotBeOpened(t *testing.T) {
	for text, why := range map[string]string{
		"":                      "neither a range",
		"10":                    "neither a range",
		"10.0.0.0/33":           "neither a range",
		"10.0.0.0/08":           "neither a range",
		"010.0.0.0/8":           "neither a range",
		"10.0.0.0-10.0.0.9":     "neither a range",
		"example.com":           "neither a range",
		"10.0.0.1:80":           "neither a range",
		"fe80::1%eth0":          "neither a range",
		"fe80::%eth0/10":        "neither a range",
		" 10.0.0.0/8":           "neither a range",
		"0.0.0.0/0":             "every address",
		"10.0.0.0/0":            "every address",
		"::/0":                  "every address",
		"::ffff:0:0/96":         "IPv4-mapped",
		"::ffff:0.0.0.0/96":     "IPv4-mapped",
		"::ffff:10.0.0.0/104":   "IPv4-mapped",
		"::ffff:10.0.0.1":       "IPv4-mapped",
		"10.1.2.3/8":            "write 10.0.0.0/8 or 10.1.2.3/32",
		"fd00::1/8":             "write fd00::/8 or fd00::1/128",
		"64:ff9b::/96":          "IPv4 address inside",
		"64:ff9b::10.0.0.0/104": "IPv4 address inside",
		"64:ff9b::10.0.0.1":     "IPv4 address inside",
	} {
		got := faultsOf(t, &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}, AllowAddresses: []string{text}})
		if len(got) != 1 || !strings.HasPrefix(got[0], "rules[0].allow_addresses[0]: ") || !strings.Contains(got[0], why) {
			t.Errorf("%q: got %q, want one fault with %q", text, got, why)
		}
	}
}

// TestThirdPartyVerdicts judges the addresses that other guards are tested
// with, as the host and behind a name.
func TestThirdPartyVerdicts(t *testing.T) {
	text, err := os.ReadFile("../iana/testdata/addresses.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Address []struct {
			ID, IP, Must string
			Contested    bool
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Address) < 300 {
		t.Fatalf("only %d cases", len(file.Address))
	}
	p := compile(t, nil, policy.Options{})
	named := shop(t, p, "GET", "http://example.com/")
	for _, c := range file.Address {
		addr := netip.MustParseAddr(c.IP)
		to := netip.AddrPortFrom(addr, 80)
		isLiteralAllowed := shop(t, p, "GET", "http://"+to.String()+"/").Denied == nil
		isAllowed := named.Allow(to) == nil
		if isAllowed != isLiteralAllowed {
			t.Errorf("%s: allowed behind a name: %v; as the host: %v", c.IP, isAllowed, isLiteralAllowed)
		}
		// 0.0.0.0/8 and the like inside an IPv4-mapped address are judged as IPv4.
		if !c.Contested && !addr.Is4In6() && isAllowed != (c.Must == "allow") {
			t.Errorf("%s: %s: allowed is %v, must %s", c.ID, c.IP, isAllowed, c.Must)
		}
	}
}

func TestOpenedRangesOpenNothingElse(t *testing.T) {
	p := compile(t, []*configv1.Rule{{Name: "r", Origins: []string{"http://*"}, AllowAddresses: []string{"10.1.0.0/16", "fd12::/16"}}}, policy.Options{})
	d := shop(t, p, "GET", "http://example.com/")
	for to, want := range map[string]bool{
		"10.1.0.0:80": true, "10.1.255.255:80": true, "10.0.255.255:80": false, "10.2.0.0:80": false,
		"[fd12::1]:80": true, "[fd13::1]:80": false, "[fd12::1%eth0]:80": false,
		"[::ffff:10.1.0.1]:80": true, "[::ffff:10.2.0.1]:80": false,
		"[::10.1.0.1]:80": false, "[2002:a01:1::]:80": false, "[fd12::5efe:10.1.0.1]:80": false,
	} {
		if got := allow(t, d, to) == nil; got != want {
			t.Errorf("%s: allowed is %v, want %v", to, got, want)
		}
	}
}

func TestDeclaredNAT64IsJudgedByTheAddressInside(t *testing.T) {
	table, err := iana.New(netip.MustParsePrefix("2606:4700:64::/96"))
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, nil, policy.Options{Table: table})
	d := shop(t, p, "GET", "http://example.com/")
	if denied := allow(t, d, "[2606:4700:64::8.8.8.8]:80"); denied != nil {
		t.Errorf("NAT64 of a public address: %v", denied)
	}
	for to, class := range map[string]string{
		"[2606:4700:64::10.0.0.1]:80":        "private",
		"[2606:4700:64::127.0.0.1]:80":       "loopback",
		"[2606:4700:64::169.254.169.254]:80": "metadata",
	} {
		if denied := allow(t, d, to); denied == nil || denied.Class != class {
			t.Errorf("%s: got %+v, want %s", to, denied, class)
		}
	}
}

func TestUnknownInterfacesDenyOwnPorts(t *testing.T) {
	p := compile(t, []*configv1.Rule{{Name: "r", Origins: []string{"http://*"}, Ports: []int32{80, 7802}}}, policy.Options{
		Own:   reviewed.Own,
		Local: func() ([]netip.Addr, error) { return nil, errors.New("netlink: permission denied") },
	})
	denied := allow(t, shop(t, p, "GET", "http://example.com:7802/"), "93.184.215.14:7802")
	if denied == nil || denied.Class != "own_listener" || !strings.Contains(denied.Audit, "netlink: permission denied") {
		t.Errorf("got %+v", denied)
	}
	if strings.Contains(denied.Message+denied.Hint, "netlink") {
		t.Errorf("the caller learns of the machine: %+v", denied)
	}
	if denied := allow(t, shop(t, p, "GET", "http://example.com/"), "93.184.215.14:80"); denied != nil {
		t.Errorf("another port: %v", denied)
	}
}

// TestOwnListenerOnEveryInterface listens, so that the addresses are those that
// the system gives.
func TestOwnListenerOnEveryInterface(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own := l.Addr().(*net.TCPAddr).AddrPort()
	p := compile(t, []*configv1.Rule{{
		Name: "r", Origins: []string{fmt.Sprintf("http://*:%d", own.Port()), "http://*"},
		DangerousAllowLoopback: true, AllowAddresses: []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"},
	}}, policy.Options{Own: func() []netip.AddrPort { return []netip.AddrPort{own} }})
	d := shop(t, p, "GET", fmt.Sprintf("http://example.com:%d/", own.Port()))

	nets, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nets {
		addr := netip.MustParsePrefix(n.String()).Addr()
		if err := d.Allow(netip.AddrPortFrom(addr, own.Port())); err == nil {
			t.Errorf("%s is an address of this machine, and port %d may be dialed", addr, own.Port())
		}
		if addr.IsLoopback() && d.Allow(netip.AddrPortFrom(addr, own.Port()+1)) != nil {
			t.Errorf("%s: another port may not be dialed", addr)
		}
	}
}

// TestRangesThatCarryIPv4AreRefused: a range of addresses that lead to IPv4
// addresses of their own cannot be opened.
func TestRangesThatCarryIPv4AreRefused(t *testing.T) {
	for _, text := range []string{"64:ff9b:1::/48", "64:ff9b:1:2::/96", "2002::/16", "2002:808::/32", "2001::/32", "::ffff:0:0:0/96", "fd00::5efe:0:0/96"} {
		_, err := policy.Compile([]*configv1.Rule{{Name: "r", Origins: []string{"http://*"}, AllowAddresses: []string{text}}}, policy.Options{})
		if err == nil || !strings.Contains(err.Error(), "write the IPv4 range") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
