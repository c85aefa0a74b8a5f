package policy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// settled is a rule with every setting.
func settled() *configv1.Rule {
	return &configv1.Rule{
		Name: "r", Owner: "team-a", Origins: []string{"https://example.com"},
		Timeouts: &configv1.Timeouts{
			Dns: durationpb.New(1), Connect: durationpb.New(2), Tls: durationpb.New(3), ResponseHeader: durationpb.New(4), IdleRead: durationpb.New(5),
			Write: durationpb.New(6), Pool: durationpb.New(7), Attempt: durationpb.New(8), Total: durationpb.New(9),
		},
		Retry:        &configv1.RuleRetry{MaxAttempts: proto.Int32(5), Conditions: []string{"5xx", "timeout"}},
		Limits:       &configv1.RuleLimits{MaxResponseBodyBytes: proto.Int64(100), MaxRequestBodyBytes: proto.Int64(10)},
		SetFields:    map[string]string{"X-B": "2", "X-A": "1"},
		RemoveFields: []string{"x-internal", "x_team"},
	}
}

// settingsOf asks a policy of one rule.
func settingsOf(t *testing.T, r *configv1.Rule) (*policy.Policy, *fetch.RuleSettings) {
	t.Helper()
	p := compile(t, []*configv1.Rule{r}, policy.Options{})
	d := p.Decide(ask(t, "https://example.com/"))
	if d.Denied != nil {
		t.Fatal(d.Denied)
	}
	return p, d.Settings
}

// ask is a question of GET.
func ask(t *testing.T, url string) policy.Ask {
	t.Helper()
	to, err := fetch.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Ask{Method: "GET", Destination: to}
}

func TestSettingsReplaceDefaultsOnly(t *testing.T) {
	if p, s := settingsOf(t, &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}); s != nil || p.HasSettings() {
		t.Errorf("a rule without settings has %+v", s)
	}
	p, s := settingsOf(t, settled())
	if !p.HasSettings() {
		t.Error("the policy does not know of settings")
	}
	defaults := fetch.Timeouts{DNS: 1e9, Connect: 1e9, TLS: 1e9, Head: 1e9, Idle: 1e9, Write: 1e9, Pool: 1e9, Continue: 1e9, Total: 1e9}
	plan := &fetch.Plan{Timeouts: defaults, Retry: fetch.RetryPlan{MaxAttempts: 3, Conditions: fetch.RetryOnReset}}
	plan.Response.MaxBodyBytes = 1000
	led := s.Lead(plan)
	if got, want := s.HopTimeouts(led), (fetch.Timeouts{DNS: 1, Connect: 2, TLS: 3, Head: 4, Idle: 5, Write: 6, Pool: 7, Continue: 1e9, Attempt: 8, Total: 9}); got != want {
		t.Errorf("the timeouts are %+v", got)
	}
	if led.Retry.MaxAttempts != 5 || led.Retry.Conditions != fetch.RetryOn5xx|fetch.RetryOnTimeout {
		t.Errorf("the retries are %+v", led.Retry)
	}
	if r, clamped := s.HopResponse(plan); r.MaxBodyBytes != 100 || r.TooLarge != fetch.ReasonBodyTooLarge || clamped {
		t.Errorf("the response is %+v", r)
	}
	if plan.Timeouts != defaults || plan.Retry.MaxAttempts != 3 {
		t.Error("the plan was changed")
	}

	all := fetch.Timeouts{DNS: 1e8, Connect: 1e8, TLS: 1e8, Head: 1e8, Idle: 1e8, Write: 1e8, Pool: 1e8, Attempt: 1e8, Total: 1e8}
	plan.Timeouts, plan.Asked = all, fetch.Asked{Timeouts: all, Attempts: true, Conditions: true, BodyBytes: true}
	led = s.Lead(plan)
	if got := s.HopTimeouts(led); got != all || led.Retry.MaxAttempts != 3 || led.Retry.Conditions != fetch.RetryOnReset {
		t.Errorf("what the request says does not stand: %+v, %+v", got, led.Retry)
	}
	if _, clamped := s.HopResponse(plan); !clamped {
		t.Error("the report does not say that the body was clamped")
	}
	plan.Response.MaxBodyBytes = 50
	if r, clamped := s.HopResponse(plan); r.MaxBodyBytes != 50 || clamped {
		t.Errorf("the smaller one does not stand: %+v", r)
	}
	stream := s.Lead(&fetch.Plan{Verbatim: true, Retry: fetch.RetryPlan{MaxAttempts: 1}})
	if stream.Timeouts.Total != 0 || stream.Timeouts.Attempt != 8*time.Nanosecond || stream.Retry.MaxAttempts != 1 || stream.Retry.Conditions != 0 {
		t.Errorf("a verbatim stream has %+v, %+v", stream.Timeouts, stream.Retry)
	}
}

func TestSettingsOfFields(t *testing.T) {
	_, s := settingsOf(t, settled())
	given := []fetch.Field{{Name: "x-a", Value: []byte("0")}, {Name: "X-INTERNAL"}, {Name: "Keep"}, {Name: "X_Team"}}
	var got []string
	for _, f := range s.Fields(given) {
		got = append(got, f.Name+"="+string(f.Value))
	}
	if strings.Join(got, " ") != "Keep= X-A=1 X-B=2" {
		t.Errorf("the fields are %q", got)
	}
	if trailers := s.Trailers(given); len(trailers) != 1 || trailers[0].Name != "Keep" {
		t.Errorf("the trailers are %v", trailers)
	}
	if len(given) != 4 || given[0].Name != "x-a" || !s.Sets("X-b") || s.Sets("Keep") {
		t.Error("the request's own were changed")
	}
}

func TestSettingsThatDeny(t *testing.T) {
	p, _ := settingsOf(t, settled())
	for name, c := range map[string]struct {
		alter   func(*policy.Ask)
		message string
		check   string
	}{
		"as large as may be": {func(a *policy.Ask) { a.BodyBytes = 10 }, "", "name"},
		"too large":          {func(a *policy.Ask) { a.BodyBytes = 11 }, `the request body has 11 bytes, rule "r" allows 10`, "body"},
		"of no known size":   {func(a *policy.Ask) { a.BodyBytes = -1 }, `the request body does not say its size, rule "r" allows 10 bytes`, "body"},
		"verbatim":           {func(a *policy.Ask) { a.Verbatim = true }, `the header fields of a verbatim request go out as they are, and rule "r" sets or removes some`, "field"},
	} {
		a := ask(t, "https://example.com/")
		c.alter(&a)
		d, e := p.Decide(a), p.Explain(context.Background(), a)
		if last := e.Checks[len(e.Checks)-1]; last.Name != c.check || last.Passed != (c.message == "") {
			t.Errorf("%s: the last check is %+v", name, last)
		}
		switch {
		case c.message == "":
			if d.Denied != nil {
				t.Errorf("%s: %v", name, d.Denied)
			}
		case d.Denied == nil || d.Denied.Message != c.message || d.Denied.Rule != "r" || !strings.Contains(d.Denied.Hint, "team-a"):
			t.Errorf("%s: got %+v", name, d.Denied)
		}
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	for want, alter := range map[string]func(*configv1.Rule){
		`rules[0].set_fields: Authorization proves who asks: name it in credentials`:                                 func(r *configv1.Rule) { r.SetFields = map[string]string{"Authorization": "x"} },
		`rules[0].set_fields: cookie proves who asks`:                                                                func(r *configv1.Rule) { r.SetFields = map[string]string{"cookie": "x"} },
		`rules[0].set_fields: Proxy-Authorization proves who asks`:                                                   func(r *configv1.Rule) { r.SetFields = map[string]string{"Proxy-Authorization": "x"} },
		`rules[0].set_fields: the field Proxy-* is never sent`:                                                       func(r *configv1.Rule) { r.SetFields = map[string]string{"Proxy-Connection": "x"} },
		`rules[0].set_fields: the field Content-Length is not set as a field`:                                        func(r *configv1.Rule) { r.SetFields = map[string]string{"content-length": "1"} },
		`rules[0].set_fields: the field's name "X_A" has '_'`:                                                        func(r *configv1.Rule) { r.SetFields = map[string]string{"X_A": "1"} },
		`rules[0].set_fields: the value of the field "X-A" has the control`:                                          func(r *configv1.Rule) { r.SetFields = map[string]string{"X-A": "a\r\nb"} },
		`rules[0].set_fields: the field x-a stands here twice`:                                                       func(r *configv1.Rule) { r.SetFields = map[string]string{"X-A": "1", "x-a": "2"} },
		`rules[0].remove_fields[0]: the field Host is not set as a field`:                                            func(r *configv1.Rule) { r.RemoveFields = []string{"host"} },
		`rules[0].remove_fields[0]: set_fields sets x-a`:                                                             func(r *configv1.Rule) { r.RemoveFields = []string{"x-a"} },
		`rules[0].timeouts.dns: a timeout of 0s ends before it begins`:                                               func(r *configv1.Rule) { r.Timeouts.Dns = durationpb.New(0) },
		`rules[0].retry.max_attempts: 11 is not between 1`:                                                           func(r *configv1.Rule) { r.Retry.MaxAttempts = proto.Int32(11) },
		`rules[0].retry.conditions[1]: "4xx" is no condition; write one of connect-`:                                 func(r *configv1.Rule) { r.Retry.Conditions[1] = "4xx" },
		`rules[0].retry.conditions[0]: "retriable-headers" goes by a list that only`:                                 func(r *configv1.Rule) { r.Retry.Conditions[0] = "retriable-headers" },
		`rules[0].limits.max_request_body_bytes: -1 is below 0`:                                                      func(r *configv1.Rule) { r.Limits.MaxRequestBodyBytes = proto.Int64(-1) },
		`rules[0].limits.max_concurrent_fetches: this server does not carry out "limits.max_concurrent_fetches" yet`: func(r *configv1.Rule) { r.Limits.MaxConcurrentFetches = proto.Int32(1) },
		`rules[0].limits.max_fetches_per_second: this server does not carry out "limits.max_fetches_per_second" yet`: func(r *configv1.Rule) { r.Limits.MaxFetchesPerSecond = proto.Float64(1) },
		`rules[0].retry: a rule that denies carries nothing out`: func(r *configv1.Rule) {
			r.Reset()
			r.Name, r.Action, r.Origins, r.Retry = "r", "deny", []string{"https://example.com"}, &configv1.RuleRetry{}
		},
	} {
		r := settled()
		alter(r)
		if got := faultsOf(t, r); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}
