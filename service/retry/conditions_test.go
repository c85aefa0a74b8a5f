package retry_test

import (
	"slices"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// TestEveryConditionIsKnown: one row for each name of the contract, each bit of
// fetch and each word, all different.
func TestEveryConditionIsKnown(t *testing.T) {
	var all fetch.RetryConditions
	for number, name := range fetchgatev1.RetryCondition_name {
		if number == 0 {
			continue
		}
		m := &fetchgatev1.RetryPolicy{Conditions: []fetchgatev1.RetryCondition{fetchgatev1.RetryCondition(number)}}
		plan, _, _ := retry.Parse(m, defaults)
		if n := bits(plan.Conditions); n != 1 || all&plan.Conditions != 0 {
			t.Errorf("%s is the conditions %b; others are %b", name, plan.Conditions, all)
		}
		all |= plan.Conditions
	}
	if want := fetch.RetryOnRetryAfter<<1 - 1; all != want {
		t.Errorf("the contract names the conditions %b, want %b", all, want)
	}

	var spelled fetch.RetryConditions
	for _, word := range retry.Words() {
		c, ok := retry.Condition(word)
		if !ok || bits(c) != 1 || spelled&c != 0 {
			t.Errorf("%s spells the conditions %b; others are %b", word, c, spelled)
		}
		spelled |= c
	}
	if spelled != all {
		t.Errorf("the words spell the conditions %b, want %b", spelled, all)
	}
	for _, word := range []string{"", "RESET", "gateway_error", "5XX"} {
		if c, ok := retry.Condition(word); ok || c != 0 {
			t.Errorf("the word %q spells the conditions %b", word, c)
		}
	}
}

func bits(c fetch.RetryConditions) (n int) {
	for ; c != 0; c &= c - 1 {
		n++
	}
	return n
}

// metBy has, for each condition, the reasons that meet it by whether bytes of
// the request left. A reason that is not named meets none.
var metBy = map[string]struct{ unsent, sent []fetch.Reason }{
	"connect-failure": {unsent: []fetch.Reason{
		"RESOLVER_FAILED", "RESOLVE_TIMEOUT", "CONNECT_REFUSED", "CONNECT_UNREACHABLE", "CONNECT_TIMEOUT",
		"TOO_MANY_DIALS", "PROXY_CONNECT", "TLS_TIMEOUT", "DISCONNECTED", "CONNECTION_RESET",
	}},
	"refused-stream": {unsent: []fetch.Reason{"STREAM_RESET", "PROTOCOL_ERROR"}},
	"reset":          {unsent: resets, sent: resets},
	"5xx":            {unsent: resets, sent: resets},
	"timeout":        {unsent: timeouts, sent: timeouts},
}

var (
	resets   = []fetch.Reason{"DISCONNECTED", "CONNECTION_RESET", "STREAM_RESET", "WRITE_FAILED"}
	timeouts = []fetch.Reason{"ATTEMPT_TIMEOUT", "HEAD_TIMEOUT"}
)

// TestEveryReason goes through every reason with every condition.
func TestEveryReason(t *testing.T) {
	for _, word := range retry.Words() {
		condition, _ := retry.Condition(word)
		for _, entry := range fetch.ReasonTable {
			for _, sent := range []fetch.RequestSent{fetch.SentNo, fetch.SentYes, fetch.SentUnknown} {
				f := fetch.Fail(entry.Reason, "it failed", nil)
				f.Sent, f.Stage = sent, fetch.StageHead
				want := metBy[word].sent
				if sent == fetch.SentNo {
					want = metBy[word].unsent
				}
				plan := plain
				plan.Conditions = condition
				v := retry.Next(plan, failed(f), noRandom)
				if v.Again != slices.Contains(want, entry.Reason) || v.Suppressed != "" {
					t.Errorf("%s, sent %s: %s answers %+v", entry.Reason, sent, word, v)
				}
			}
		}
	}
}

// TestWhoseFaultIsNotTriedAgain: with every condition, what the caller or a
// policy must change is left alone, but for a timeout of the attempt.
func TestWhoseFaultIsNotTriedAgain(t *testing.T) {
	plan := plain
	plan.Conditions = fetch.RetryOnRetryAfter<<1 - 1
	for _, entry := range fetch.ReasonTable {
		never := entry.Blame == fetch.BlamePolicy || entry.Blame == fetch.BlameCaller && entry.Reason != fetch.ReasonAttemptTimeout
		never = never || slices.Contains([]fetch.Reason{"TOTAL_TIMEOUT", "DRAINING", "INTERNAL_FAULT"}, entry.Reason)
		f := fetch.Fail(entry.Reason, "it failed", nil)
		f.Sent = fetch.SentNo
		if v := retry.Next(plan, failed(f), noRandom); never && (v.Again || v.Suppressed != "") {
			t.Errorf("%s: %+v", entry.Reason, v)
		}
	}
}

// TestResetOfABodyIsNone: the head was there.
func TestResetOfABodyIsNone(t *testing.T) {
	for stage, again := range map[fetch.Stage]bool{
		fetch.StageTLS: true, fetch.StageSend: true, fetch.StageHead: true, fetch.StageBody: false, fetch.StageDecode: false,
	} {
		f := fetch.Fail(fetch.ReasonStreamReset, "it was reset", nil)
		f.Sent, f.Stage = fetch.SentYes, stage
		plan := plain
		plan.Conditions = fetch.RetryOnReset
		if v := retry.Next(plan, failed(f), noRandom); v.Again != again {
			t.Errorf("at the stage %s: %+v", stage, v)
		}
	}
}

// TestEveryResponse goes through every status with every condition.
func TestEveryResponse(t *testing.T) {
	plan := plain
	plan.Statuses, plan.Fields = []int{218, 404}, []string{"X-Try-Again"}
	wants := map[string]func(status int, field string) bool{
		"5xx":                    func(s int, _ string) bool { return s/100 == 5 },
		"gateway-error":          func(s int, _ string) bool { return s == 502 || s == 503 || s == 504 },
		"retriable-4xx":          func(s int, _ string) bool { return s == 409 },
		"retriable-status-codes": func(s int, _ string) bool { return s == 218 || s == 404 },
		"retriable-headers":      func(_ int, f string) bool { return f == "x-try-again" },
		"retry-after":            func(s int, f string) bool { return f == "retry-after" && (s == 413 || s == 429 || s == 503) },
	}
	for _, word := range retry.Words() {
		plan.Conditions, _ = retry.Condition(word)
		for status := 200; status <= 999; status++ {
			for _, field := range []string{"x-other", "x-try-again", "retry-after"} {
				v := retry.Next(plan, answered(status, field, "1"), noRandom)
				want := wants[word] != nil && wants[word](status, field)
				if v.Again != want || want && v.Kind != retry.KindStatus {
					t.Fatalf("%s: the status %d with %s answers %+v", word, status, field, v)
				}
			}
		}
	}
}
