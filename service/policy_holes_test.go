package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// TestFileWithoutRules: a file that says nothing of rules, or that was cut off
// before them, opens nothing.
func TestFileWithoutRules(t *testing.T) {
	const closed = "no rules: everything is denied; add rules (docs/policy.md)"
	whole := "callers:\n  - {name: a, dangerous_anonymous: true}\nlimits: {max_attempts: 2}\nrules:\n  - {name: only, origins: [\"https://api.example.com\"]}\n"
	s := reloading(t, whole)
	for _, end := range []string{"rules:", "limits:"} {
		s.write(t, whole[:strings.Index(whole, end)])
		s.look()
		if got := s.Rules(); !slices.Equal(got, []string{closed}) {
			t.Errorf("a file that ends before %q is in force as %q", end, got)
		}
		e, err := s.policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: get("https://example.com/").Request})
		if err != nil || e.GetAllowed() || e.GetRule() != "default-deny" || !strings.Contains(e.GetHint(), "The configuration has no rules") {
			t.Errorf("a file that ends before %q says %v, %v", end, e, err)
		}
	}
	s.write(t, "mode: open\n")
	s.look()
	for url, allowed := range map[string]bool{"https://example.com/": true, "https://example.com:8443/": false, "http://10.0.0.1/": false} {
		e, err := s.policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: get(url).Request})
		if err != nil || e.GetGoesAhead() != allowed {
			t.Errorf("%s in mode open: %v, %v", url, e, err)
		}
	}
}

// TestExplainOfManyConditions: one question does not keep a core busy, whatever it
// and the rules are made of.
func TestExplainOfManyConditions(t *testing.T) {
	text := "audit: {sink: none}\nrules:\n"
	for i := range 200 {
		text += fmt.Sprintf("  - {name: r%d, origins: [\"https://a.example.com\"], methods: [PUT, GET], when: 'has(request.headers.x) && labels[\"n\"] == \"%d\"'}\n", i, i)
	}
	s := reloading(t, text)
	m := get("https://a.example.com/")
	m.Request.RawTarget = "/x%2f..%252f;y//z?a=1"
	for i := range 90 {
		m.Request.Headers = append(m.Request.Headers, headers(fmt.Sprintf("X-%d", i), strings.Repeat("v", 500))...)
	}
	m.Request.Headers = append(m.Request.Headers, headers("X", "1")...)
	m.Options = &fetchgatev1.FetchOptions{Labels: map[string]string{"n": "none"}}
	began := time.Now()
	e, err := s.policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: m.Request, Options: m.Options})
	if took := time.Since(began); err != nil || e.GetAllowed() || took > time.Second {
		t.Errorf("one question took %v: %v", took, err)
	}
}
