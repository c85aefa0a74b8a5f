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
