package caller_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func certificate(t *testing.T, names ...string) *x509.Certificate {
	t.Helper()
	return fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{Names: names}).Leaf
}

// TestCertificatesAreJudged: what is not good any more proves nothing, takes the
// word from a token and from nobody, and ends what was begun. What was never
// verified is not asked about.
func TestCertificatesAreJudged(t *testing.T) {
	callers := []*configv1.Caller{
		{Name: "billing", SpiffeIds: []string{"spiffe://prod/billing"}},
		{Name: "shop", TokenSha256: []string{digestOf(shopToken)}},
		{Name: "guest", DangerousAnonymous: true},
	}
	var bad *x509.Certificate
	a := build(t, caller.Options{Callers: callers, JudgeCertificates: func(chains [][]*x509.Certificate) error {
		if len(chains) != 1 || chains[0][0] == nil {
			t.Errorf("asked about %v", chains)
		}
		if chains[0][0] == bad {
			return errors.New("its authority has revoked it")
		}
		return nil
	}})
	known, stranger := certificate(t, "spiffe://prod/billing"), certificate(t, "spiffe://prod/nobody")
	token := []string{"authorization", "Bearer " + shopToken}
	for _, c := range []struct {
		name string
		of   rpc
		want string
		once string // when the certificate is bad
	}{
		{"a certificate", rpc{certificate: known}, "billing spiffe://prod/billing", "?"},
		{"a certificate of nobody", rpc{certificate: stranger}, "guest", "?"},
		{"with a token", rpc{certificate: stranger, metadata: token}, "shop", "?"},
		{"not verified", rpc{certificate: known, unverified: true}, "guest", "guest"},
		{"none", rpc{metadata: token}, "shop", "shop"},
	} {
		bad = nil
		ctx, err := a.Authenticate(c.of.context(t))
		if err != nil {
			t.Fatal(err)
		}
		before, _ := caller.FromContext(ctx)
		if got, _ := who(t, a, c.of); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if a.Still(before) == nil {
			t.Errorf("%s: not still", c.name)
		}
		bad = c.of.certificate
		got, err := who(t, a, c.of)
		if !strings.HasPrefix(got, c.once) || c.once == "?" && !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s, bad: %s, %v, want %s", c.name, got, err, c.once)
		}
		if still := a.Still(before); (still == nil) != (c.once == "?") {
			t.Errorf("%s, bad: still %v", c.name, still)
		}
	}
}

// TestSPIFFEOnly: where trust domains vouch, a DNS name proves nothing.
func TestSPIFFEOnly(t *testing.T) {
	callers := []*configv1.Caller{{Name: "billing", DnsNames: []string{"billing.example"}}, {Name: "shop", SpiffeIds: []string{"spiffe://theirs/shop"}}}
	shown := rpc{certificate: certificate(t, "spiffe://theirs/evil", "billing.example")}
	if got, err := who(t, build(t, caller.Options{Callers: callers}), shown); got != "billing billing.example" {
		t.Errorf("where authorities vouch for names: %s, %v", got, err)
	}
	if got, _ := who(t, build(t, caller.Options{Callers: callers, SPIFFEOnly: true}), shown); got != "?" {
		t.Errorf("a name that no authority vouches for is %s", got)
	}
}
