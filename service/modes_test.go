package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRulesOverTheWire: what rules say of paths, fields, callers and modes is
// what the upstream sees and the audit record tells.
func TestRulesOverTheWire(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	origin := fetchtest.OriginOf(u.Upstream)
	w := observeUntraced(t, fetchtest.Options{Extra: fmt.Sprintf(`rules:
  - name: api
    origins: [%[1]q]
    paths: ["/v1/*"]
    dangerous_allow_loopback: true
  - name: loose
    origins: [%[1]q]
    paths: ["/old"]
    allow_underscore_fields: true
    dangerous_allow_loopback: true
  - name: others
    origins: [%[1]q]
    callers: [anonymous]
    when: labels["job"] == "nightly"
    dangerous_allow_loopback: true
  - name: soon-gone
    action: deny
    mode: report
    origins: [%[1]q]
    paths: ["/v1/old/*"]
  - name: secret
    action: deny
    origins: [%[1]q]
    paths: ["/v1/secret"]
`, origin)})
	labeled := func(m *request) { m.Options = &fetchgatev1.FetchOptions{Labels: map[string]string{"job": "nightly"}} }
	underscore := func(m *request) { m.Request.Headers = headers("x_y", "1") }
	for _, c := range []struct {
		path string
		with func(*request)
		code codes.Code
	}{
		{"/v1/x", nil, codes.OK},
		{"/v1/old/x", nil, codes.OK},
		{"/v1/secret", nil, codes.PermissionDenied},
		{"/v1/%73ecret", nil, codes.PermissionDenied},
		{"/v2", nil, codes.PermissionDenied},
		{"/v2", labeled, codes.OK},
		{"/old", underscore, codes.OK},
		{"/v1/x", underscore, codes.PermissionDenied},
	} {
		m := get(u.URL(c.path))
		if c.with != nil {
			c.with(m)
		}
		_, err := whole(within(t), w, m)
		if status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", c.path, err, c.code)
		}
	}
	if got := w.metric(t, `fetchgate_decisions_total{decision="would_deny",rule="soon-gone"}`); got != 1 {
		t.Errorf("would_deny is %v, want 1", got)
	}
	w.end(t)
	var got []string
	for line := range strings.Lines(w.audit.String()) {
		_, facts, _ := strings.Cut(line, `"query_keys":[],"final_origin":"",`)
		facts, _, _ = strings.Cut(facts, `,"rule_at"`)
		got = append(got, facts)
	}
	want := []string{
		`"allowed":true,"enforced":true,"carried_out":true,"rule":"api"`,
		`"allowed":false,"enforced":false,"carried_out":true,"rule":"soon-gone"`,
		`"allowed":false,"enforced":true,"carried_out":false,"rule":"secret"`,
		`"allowed":false,"enforced":true,"carried_out":false,"rule":"secret"`,
		`"allowed":false,"enforced":true,"carried_out":false,"rule":"others"`,
		`"allowed":true,"enforced":true,"carried_out":true,"rule":"others"`,
		`"allowed":true,"enforced":true,"carried_out":true,"rule":"loose"`,
		`"allowed":false,"enforced":true,"carried_out":false,"rule":"api"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the record is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var paths []string
	for _, r := range u.Requests() {
		paths = append(paths, r.Target)
	}
	if want := []string{"/v1/x", "/v1/old/x", "/v2", "/old"}; !slices.Equal(paths, want) {
		t.Errorf("the upstream saw %q, want %q", paths, want)
	}
}
