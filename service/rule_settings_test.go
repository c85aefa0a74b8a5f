package service_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// ruled starts a service over two upstreams, each with a rule of its own and
// what is said of it.
func ruled(t *testing.T, first, second *fetchtest.Recorder, ofFirst, ofSecond string) *fetchtest.Fetchgate {
	t.Helper()
	rule := func(name string, u *fetchtest.Recorder, settings string) string {
		return fmt.Sprintf("  - name: %s\n    owner: team-a\n    origins: [%q]\n    dangerous_allow_loopback: true\n%s", name, fetchtest.OriginOf(u.Upstream), settings)
	}
	return fetchtest.Start(t, fetchtest.Options{Extra: "rules:\n" + rule("first", first, ofFirst) + rule("second", second, ofSecond)})
}

// leads is an upstream that redirects to a URL, the body included.
func leads(t *testing.T, to string) *fetchtest.Recorder {
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(307, "", "Location: "+to)
	}})
}

// valuesOf are the values of a field of a request.
func valuesOf(r fetchtest.Recorded, name string) string {
	var values []string
	for _, f := range r.Fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, string(f.Value))
		}
	}
	return strings.Join(values, "|")
}

// TestRulesSetAndRemoveFields: each hop has the fields of its own rule, and a
// verbatim request is denied rather than changed.
func TestRulesSetAndRemoveFields(t *testing.T) {
	second := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	first := leads(t, second.URL("/end"))
	gate := ruled(t, first, second,
		"    set_fields: {X-Team: shop, X-Env: live}\n    remove_fields: [x-internal, authorization]\n    allow_underscore_fields: true\n", "    remove_fields: [X-Team]\n")
	for _, rpc := range rpcs {
		m := get(first.URL("/"))
		m.Request.Headers = append(headers("x-team", "mine"), append(headers("X-Internal", "1"), append(headers("X-Other", "2"), append(headers("X_Team", "forged"), headers("x_internal", "forged")...)...)...)...)
		m.Options = &fetchgatev1.FetchOptions{Redirect: &fetchgatev1.RedirectPolicy{KeepFields: []string{"X-Team", "X-Internal", "X-Other"}}}
		if a, err := rpc.call(within(t), gate, m); err != nil || a.head.GetStatus() != 200 {
			t.Fatalf("%s: %v, %v", rpc.name, a, err)
		}
	}
	for i, r := range first.Requests() {
		if valuesOf(r, "X-Team") != "shop" || valuesOf(r, "X-Env") != "live" || valuesOf(r, "X-Internal") != "" || valuesOf(r, "X-Other") != "2" {
			t.Errorf("request %d of the first rule has %v", i, r.Fields)
		}
		if bytes.Contains(r.Raw, []byte("forged")) {
			t.Errorf("request %d has fields that servers take for the rule's: %q", i, r.Raw)
		}
	}
	for i, r := range second.Requests() {
		if valuesOf(r, "X-Team") != "" || valuesOf(r, "X-Env") != "" || valuesOf(r, "X-Internal") != "1" || valuesOf(r, "X-Other") != "2" {
			t.Errorf("request %d of the second rule has %v", i, r.Fields)
		}
	}
	m := get(first.URL("/"))
	m.Options = &fetchgatev1.FetchOptions{Verbatim: proto.Bool(true)}
	m.Request.Headers = headers("Host", strings.TrimPrefix(fetchtest.OriginOf(first.Upstream), "http://"))
	_, err := whole(within(t), gate, m)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "verbatim") || len(first.Requests()) != len(rpcs) {
		t.Errorf("a verbatim request ends with %v", err)
	}
}

// TestRulesBoundBodies: what is larger than the rule of a hop allows does not
// arrive, on either way.
func TestRulesBoundBodies(t *testing.T) {
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			second := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
				return fetchtest.Answer(200, "0123456789")
			}})
			first := leads(t, second.URL("/end"))
			gate := ruled(t, first, second, "    limits: {max_request_body_bytes: 6}\n", "    limits: {max_request_body_bytes: 4, max_response_body_bytes: 8}\n")
			m := get(first.URL("/"))
			m.Request.Method, m.Request.Body = "POST", raw("1234567")
			_, err := rpc.call(within(t), gate, m)
			if status.Code(err) != codes.PermissionDenied || reasonIn(err) != "DESTINATION_DENIED" || !strings.Contains(err.Error(), `7 bytes, rule "first" allows 6`) || len(first.Requests()) > 0 {
				t.Errorf("a large request ends with %v", err)
			}
			m.Request.Body = raw("12345")
			a, err := rpc.call(within(t), gate, m)
			if err != nil || reasonOf(a.failure) != "REDIRECT_DENIED" || len(first.Requests()) != 1 || len(second.Requests()) > 0 {
				t.Errorf("one that is too large for the second hop ends with %v, %v", a, err)
			}

			m = get(second.URL("/"))
			for asked, want := range map[int64]string{9: "8 [options.response.max_body_bytes]", 7: "7 []"} {
				m.Options = &fetchgatev1.FetchOptions{Response: &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(asked)}}
				a, err = rpc.call(within(t), gate, m)
				if err != nil || reasonOf(a.failure) != "BODY_TOO_LARGE" || a.failure.GetLimitHit().GetMaximum() != a.report.GetLimits().GetMaxBodyBytes() {
					t.Fatalf("a large answer ends with %v, %v", a, err)
				}
				if got := fmt.Sprint(a.report.GetLimits().GetMaxBodyBytes(), a.report.GetClamped()); got != want {
					t.Errorf("of %d bytes that are asked for: %s, want %s", asked, got, want)
				}
			}
		})
	}
}

// TestRulesReplaceRetriesAndTimeouts: of requests that say nothing, and Explain
// and the report say so.
func TestRulesReplaceRetriesAndTimeouts(t *testing.T) {
	first := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Answer(500, "broken") }})
	second := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Hang() }})
	gate := ruled(t, first, second,
		"    retry: {max_attempts: 2, conditions: [5xx]}\n    timeouts: {total: 7s, connect: 2s}\n",
		"    retry: {max_attempts: 1}\n    timeouts: {response_header: 50ms}\n")
	m := get(first.URL("/"))
	m.Options = &fetchgatev1.FetchOptions{Report: full()}
	a, err := whole(within(t), gate, m)
	if err != nil || a.report.GetAttemptCount() != 2 || len(first.Requests()) != 2 {
		t.Fatalf("%v, %v after %d requests", a, err, len(first.Requests()))
	}
	wantLimits(t, "the report", a.report.GetLimits(), 7*time.Second, 2*time.Second, 2)
	said, err := gate.Policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: m.Request})
	if err != nil {
		t.Fatal(err)
	}
	wantLimits(t, "Explain", said.GetLimits(), 7*time.Second, 2*time.Second, 2)

	m.Options = &fetchgatev1.FetchOptions{
		Report:   full(),
		Retry:    &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(3), Conditions: []fetchgatev1.RetryCondition{fetchgatev1.RetryCondition_RETRY_CONDITION_RESET}},
		Timeouts: &fetchgatev1.Timeouts{Total: durationpb.New(20 * time.Second)},
	}
	a, err = whole(within(t), gate, m)
	if err != nil || a.report.GetAttemptCount() != 1 {
		t.Fatalf("%v, %v", a, err)
	}
	wantLimits(t, "what the request says", a.report.GetLimits(), 20*time.Second, 2*time.Second, 3)

	began := time.Now()
	a, err = stream(within(t), gate, get(second.URL("/")))
	if err != nil || reasonOf(a.failure) != "HEAD_TIMEOUT" || a.report.GetAttemptCount() != 1 || time.Since(began) > 5*time.Second {
		t.Errorf("%v, %v", a, err)
	}
	if got := a.report.GetLimits(); got.GetTotal() != nil || got.GetResponseHeader().AsDuration() != 50*time.Millisecond {
		t.Errorf("the limits of a stream are %v", got)
	}
}

func wantLimits(t *testing.T, who string, l *fetchgatev1.EffectiveLimits, total, connect time.Duration, attempts int32) {
	t.Helper()
	if l.GetTotal().AsDuration() != total || l.GetConnect().AsDuration() != connect || l.GetMaxAttempts() != attempts {
		t.Errorf("%s: the limits are %v", who, l)
	}
}

// TestRulesFieldsBesideCredentials: what a rule removes it removes from the
// request, not from its credentials, and it cannot set what one of them writes.
func TestRulesFieldsBesideCredentials(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	removing, setting := secureRecorder(t, authority, nil), secureRecorder(t, authority, nil)
	v := newVault(t)
	v.hold("key", fmt.Sprintf("api_key: {header: X-Key, key: {file: %q}}", v.put("key", "cnrykey")), boundTo("", removing, setting))
	w := observeUntraced(t, fetchtest.Options{Trust: authority, Extra: v.yaml.String() + fmt.Sprintf(`
rules:
  - {name: removing, dangerous_allow_loopback: true, origins: [%q], credentials: [key], remove_fields: [x-key]}
  - {name: setting, dangerous_allow_loopback: true, origins: [%q], credentials: [key], set_fields: {x-key: other}}
`, fetchtest.OriginOf(removing.Upstream), fetchtest.OriginOf(setting.Upstream))})
	m := get(removing.URL("/"))
	m.Request.Headers = headers("X-Key", "mine")
	if _, err := whole(within(t), w, m); err != nil {
		t.Fatal(err)
	}
	if got := valuesOf(*last(t, removing), "X-Key"); got != "cnrykey" {
		t.Errorf("the key is %q", got)
	}
	_, err := whole(within(t), w, get(setting.URL("/")))
	wantRPCError(t, err, codes.PermissionDenied, "DESTINATION_DENIED", "the rule sets it in set_fields too")
	if n := len(setting.Requests()); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}
