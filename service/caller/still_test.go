package caller_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestStillByClaims: a JWT that was good is judged by what it says, with the issuers
// and callers of here; not by its time, nor by the keys of here.
func TestStillByClaims(t *testing.T) {
	signer := newSigner(t, "one", jose.ES256)
	before := build(t, known(keyFile(t, keySet(t, signer.public()))))
	token := signer.sign(t, fine(map[string]any{"env": "prod"}), nil)
	who := func() fetch.Caller {
		ctx, err := before.Authenticate(shown(token).context(t))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := caller.FromContext(ctx)
		return got
	}
	if first, again := who(), who(); first.Claims == "" || again.Claims != first.Claims {
		t.Errorf("the claims of a JWT are %d bytes, then %d", len(first.Claims), len(again.Claims))
	}
	if shown := fmt.Sprintf("%+v %#v %v", who(), who(), who().Claims); strings.Contains(shown, string(who().Claims)) {
		t.Errorf("the claims are printed: %s", shown)
	}
	for name, c := range map[string]struct {
		change func(o *caller.Options)
		want   bool
	}{
		"nothing changed": {func(*caller.Options) {}, true},
		"a while later":   {func(o *caller.Options) { o.Now = func() time.Time { return noon.Add(time.Hour) } }, true},
		"the issuer has new keys": {func(o *caller.Options) {
			o.Issuers[0].JwksFile = keyFile(t, keySet(t, newSigner(t, "two", jose.ES256).public()))
		}, true},
		"a claim that it has":      {func(o *caller.Options) { o.Callers[1].Jwts[0].Claims = map[string]string{"env": "prod"} }, true},
		"a claim that it has not":  {func(o *caller.Options) { o.Callers[1].Jwts[0].Claims = map[string]string{"env": "test"} }, false},
		"another subject":          {func(o *caller.Options) { o.Callers[1].Jwts[0].Subject = "other" }, false},
		"another caller too":       {func(o *caller.Options) { o.Callers[0].Jwts = o.Callers[1].Jwts }, false},
		"the caller of another":    {func(o *caller.Options) { o.Callers[1].Name = "other" }, false},
		"another issuer":           {func(o *caller.Options) { o.Issuers[0].Issuer = "https://other.example" }, false},
		"the issuer is for others": {func(o *caller.Options) { o.Issuers[0].Audiences = []string{"other"} }, false},
		"no issuer":                {func(o *caller.Options) { o.Issuers = nil }, false},
	} {
		o := known(keyFile(t, keySet(t, signer.public())))
		for i, one := range o.Callers {
			o.Callers[i] = proto.CloneOf(one)
		}
		o.Callers[1].Rights = []string{"stream"}
		c.change(&o)
		got := build(t, o).Still(who())
		if got != nil != c.want || got != nil && got.Rights != fetch.RightStream {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestStill: whom another configuration knew by its proof is known by the same
// proof here, with the rights of here, or not at all.
func TestStill(t *testing.T) {
	digest := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return "sha256:" + hex.EncodeToString(sum[:6])
	}
	a := build(t, caller.Options{Callers: append(slices.Clone(knownByAll), &configv1.Caller{Name: "guest", DangerousAnonymous: true})})
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
		{"guest", "", true},
		{"anonymous", "", false},
	} {
		got := a.Still(fetch.Caller{Name: c.name, Identity: c.identity, Anonymous: c.identity == ""})
		if got != nil != c.want || got != nil && got.Name != c.name {
			t.Errorf("%s by %q: %+v", c.name, c.identity, got)
		}
	}
	if got := build(t, caller.Options{}).Still(fetch.Caller{Name: caller.Anonymous, Anonymous: true}); got == nil {
		t.Error("where nobody is named, the anonymous caller is none")
	}
}
