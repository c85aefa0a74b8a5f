package service_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRedirectDenialNamesTheNearestRule: the denial of a redirect says which rule is
// near, as that of a first hop does, on every way to fetch.
func TestRedirectDenialNamesTheNearestRule(t *testing.T) {
	second := newUpstreamOf(t, nil, fetchtest.Listen{})
	first := newUpstreamOf(t, pages{"a.test/": {302, second.URLOf("b.test", "/hook"), nil, ""}}, fetchtest.Listen{})
	origin := second.URLOf("b.test", "")
	first.start(t, fetchtest.Options{
		Allow: []string{first.URLOf("a.test", "")},
		Extra: fmt.Sprintf("  - {name: items, owner: team-shop, origins: [%q], methods: [PUT], paths: [/items/*], dangerous_allow_loopback: true}\n"+
			"  - {name: hook, owner: team-hooks, origins: [%q], paths: [/hook], headers: [Webhook-Signature], dangerous_allow_loopback: true}\n", origin, origin),
	})
	first.each(t, get(first.URLOf("a.test", "/")), func(t *testing.T, a *answer, _ []fetchtest.Recorded) {
		wantFailure(t, a, "REDIRECT_DENIED")
		const want = `Rule "hook" allows this origin, but not a request without the header fields that it names; ask team-hooks.`
		if denial := a.failure.GetDenial(); denial.GetRule() != "default-deny" || !strings.HasPrefix(denial.GetHint(), want) {
			t.Errorf("the denial is %v, want the hint %s", denial, want)
		}
	})
}
