package caller_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// BenchmarkAuthenticate is what each RPC costs, by what its caller shows, among
// 1,000 callers.
func BenchmarkAuthenticate(b *testing.B) {
	leaf := fetchtest.NewAuthority(b).Issue(fetchtest.IssueOptions{Names: []string{"spiffe://prod/ns/pay/sa/billing"}}).Leaf
	keys := map[jose.SignatureAlgorithm]signer{}
	var public []any
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA} {
		keys[alg] = newSigner(b, string(alg), alg)
		public = append(public, keys[alg].public())
	}
	o := known(keyFile(b, keySet(b, public...)))
	for i := range 1000 {
		name := fmt.Sprint("c", i)
		o.Callers = append(o.Callers, &configv1.Caller{Name: name, SpiffeIds: []string{"spiffe://prod/ns/" + name + "/*"}, TokenSha256: []string{digestOf(name)}})
	}
	o.Callers = append(o.Callers, knownByAll...)
	a := build(b, o)
	for _, c := range []struct {
		name string
		rpc  rpc
	}{
		{"certificate", rpc{certificate: leaf}}, {"token", shown(billingToken)}, {"ES256", shown(keys[jose.ES256].sign(b, fine(nil), nil))},
		{"RS256", shown(keys[jose.RS256].sign(b, fine(nil), nil))}, {"EdDSA", shown(keys[jose.EdDSA].sign(b, fine(nil), nil))},
	} {
		b.Run(c.name, func(b *testing.B) { authenticate(b, a, c.rpc.context(b)) })
	}
	b.Run("anonymous", func(b *testing.B) { authenticate(b, build(b, caller.Options{}), rpc{}.context(b)) })
}

func authenticate(b *testing.B, a *caller.Authenticator, ctx context.Context) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
