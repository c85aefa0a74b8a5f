package caller_test

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestStill: whom another configuration knew by its proof is known by the same
// proof here, with the rights of here, or not at all.
func TestStill(t *testing.T) {
	digest := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return "sha256:" + hex.EncodeToString(sum[:6])
	}
	o := known(keyFile(t, keySet(t, newSigner(t, "one", jose.ES256).public())))
	o.Callers = append(slices.Clone(knownByAll), o.Callers[0], &configv1.Caller{Name: "batch", Jwts: o.Callers[1].GetJwts(), Rights: []string{"stream"}})
	a := build(t, o)
	for _, c := range []struct {
		name, identity string
		want           bool
	}{
		{"billing", digest(billingToken), true},
		{"billing", digest("another"), false},
		{"shop", digest(billingToken), false},
		{"billing", "spiffe://prod/ns/pay/sa/billing", true},
		{"pay", "spiffe://prod/ns/pay/sa/billing", false},
		{"pay", "spiffe://prod/ns/pay/sa/refunds", true},
		{"pay", "spiffe://test/ns/pay/sa/refunds", false},
		{"shop", "shop2.example", true},
		{"shop", "shop3.example", false},
		{"batch", issuerURL + " billing", true},
		{"batch", issuerURL + " other", false},
		{"batch", "https://other.example billing", false},
		{"guest", "", true},
		{"anonymous", "", false},
	} {
		got := a.Still(fetch.Caller{Name: c.name, Identity: c.identity, Anonymous: c.identity == ""})
		if got != nil != c.want || got != nil && got.Name != c.name {
			t.Errorf("%s by %q: %+v", c.name, c.identity, got)
		}
		if c.name == "batch" && c.want && (got == nil || got.Rights != fetch.RightStream) {
			t.Errorf("its rights are those of %+v", got)
		}
	}
	if got := build(t, caller.Options{}).Still(fetch.Caller{Name: caller.Anonymous, Anonymous: true}); got == nil {
		t.Error("where nobody is named, the anonymous caller is none")
	}
}
