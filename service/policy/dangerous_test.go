package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

// TestDangerousIsWhatWasNeeded: a dangerous_ setting of the rule is named where
// the hop would have been denied without it, and only there.
func TestDangerousIsWhatWasNeeded(t *testing.T) {
	const loopback, downgrade = "dangerous_allow_loopback", "dangerous_allow_downgrade"
	p := compile(t, []*configv1.Rule{
		{Name: "tame", Origins: []string{"http://tame.example.com"}},
		{Name: "open", Origins: []string{"http://*.example.com", "http://127.0.0.1", "http://93.184.215.14", "http://localhost"},
			DangerousAllowLoopback: true, DangerousAllowDowngrade: true},
	}, reviewed)
	for _, c := range []struct {
		url        string
		asked      string // of Allow
		remote     string
		downgraded bool
		want       []string
	}{
		{"http://api.example.com/", "93.184.215.14:80", "93.184.215.14:80", false, nil},
		{"http://api.example.com/", "127.0.0.1:80", "127.0.0.1:80", false, []string{loopback}},
		{"http://api.example.com/", "127.0.0.1:80", "", false, []string{loopback}}, // the connect failed
		{"http://api.example.com/", "", "[::1]:80", false, []string{loopback}},     // the connection was open before
		{"http://api.example.com/", "", "", false, nil},
		{"http://127.0.0.1/", "", "", false, []string{loopback}},
		{"http://93.184.215.14/", "", "93.184.215.14:80", false, nil},
		{"http://localhost/", "", "", false, []string{loopback}},
		{"http://api.example.com/", "", "93.184.215.14:80", true, []string{downgrade}},
		{"http://api.example.com/", "", "127.0.0.1:80", true, []string{loopback, downgrade}},
		{"http://tame.example.com/", "93.184.215.14:80", "93.184.215.14:80", true, nil},
	} {
		d := shop(t, p, "GET", c.url)
		if c.asked != "" {
			if err := d.Allow(netip.MustParseAddrPort(c.asked)); err != nil {
				t.Fatalf("%s: %v", c.url, err)
			}
		}
		var remote netip.AddrPort
		if c.remote != "" {
			remote = netip.MustParseAddrPort(c.remote)
		}
		if got := d.Dangerous(remote, c.downgraded); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if got := (policy.Decision{}).Dangerous(netip.AddrPort{}, true); got != nil {
		t.Errorf("a denial needed %q", got)
	}
}

// TestDangerousKeysOfAddresses: each is named where it was needed, several where
// several were.
func TestDangerousKeysOfAddresses(t *testing.T) {
	const loopback, metadata, own = "dangerous_allow_loopback", "dangerous_allow_metadata", "dangerous_allow_own_listeners"
	p := compile(t, []*configv1.Rule{{
		Name: "open", Origins: []string{"http://*", "http://metadata.google.internal", "http://169.254.169.254", "http://127.0.0.1:7801"}, Ports: []int32{80, 7802},
		AllowAddresses: []string{"169.254.169.254", "10.20.30.40"}, DangerousAllowLoopback: true, DangerousAllowMetadata: true, DangerousAllowOwnListeners: true,
	}}, reviewed)
	for _, c := range []struct {
		url, asked, remote string
		want               []string
	}{
		{"http://api.example.com/", "93.184.215.14:80", "93.184.215.14:80", nil},
		{"http://api.example.com/", "10.20.30.40:80", "10.20.30.40:80", nil},
		{"http://api.example.com/", "169.254.169.254:80", "", []string{metadata}},
		{"http://api.example.com/", "", "169.254.169.254:80", []string{metadata}},
		{"http://metadata.google.internal/", "", "", []string{metadata}},
		{"http://169.254.169.254/", "", "", []string{metadata}},
		{"http://api.example.com:7802/", "10.20.30.40:7802", "", []string{own}},
		{"http://api.example.com:7802/", "", "127.0.0.1:7802", []string{loopback, own}},
		{"http://127.0.0.1:7801/", "", "", []string{loopback, own}},
	} {
		d := shop(t, p, "GET", c.url)
		if c.asked != "" {
			if err := d.Allow(netip.MustParseAddrPort(c.asked)); err != nil {
				t.Fatalf("%s: %v", c.url, err)
			}
		}
		var remote netip.AddrPort
		if c.remote != "" {
			remote = netip.MustParseAddrPort(c.remote)
		}
		if got := d.Dangerous(remote, false); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// A denied address was not reached, so no setting was needed for it.
func TestDangerousOfDeniedAddress(t *testing.T) {
	p := compile(t, []*configv1.Rule{{Name: "open", Origins: []string{"http://*.example.com"}, DangerousAllowLoopback: true}}, reviewed)
	d := shop(t, p, "GET", "http://api.example.com/")
	if err := d.Allow(netip.MustParseAddrPort("10.0.0.1:80")); err == nil {
		t.Fatal("allowed")
	}
	if got := d.Dangerous(netip.AddrPort{}, false); len(got) > 0 {
		t.Errorf("needed %q", got)
	}
}
