package retry_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// plain is the default plan without chance.
var plain = fetch.RetryPlan{
	MaxAttempts: 3, Conditions: retry.DefaultConditions,
	Counts:      fetch.RetryCounts{Connect: -1, Read: -1, Status: -1, Other: -1},
	BackoffBase: 25 * time.Millisecond, BackoffFactor: 2, BackoffMax: 2 * time.Second,
	RespectRetryAfter: true, RetryAfterMax: 30 * time.Second,
}

var now = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)

func noRandom() float64 { panic("a plan without jitter asks for a random number") }

func failed(f *fetch.Failure) retry.Outcome {
	return retry.Outcome{Attempt: 1, Method: "GET", Failure: f, Sent: f.Sent, Rewindable: true, Now: now}
}

func answered(status int, field, value string) retry.Outcome {
	return retry.Outcome{
		Attempt: 1, Method: "GET", Sent: fetch.SentYes, Rewindable: true, Now: now,
		Head: fetch.Head{Status: status, Fields: []fetch.Field{{Name: field, Value: []byte(value)}}},
	}
}

func failure(reason fetch.Reason, sent fetch.RequestSent) *fetch.Failure {
	f := fetch.Fail(reason, "it failed", nil)
	f.Sent = sent
	return f
}

// TestBackoff: base × factor^(n-1), at most max, of which jitter is random.
func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		change func(*fetch.RetryPlan)
		random float64
		waits  []time.Duration
	}{
		"as it comes":           {func(*fetch.RetryPlan) {}, 0, []time.Duration{25 * ms, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}},
		"none":                  {func(p *fetch.RetryPlan) { p.BackoffBase = 0 }, 0, []time.Duration{0, 0, 0}},
		"even":                  {func(p *fetch.RetryPlan) { p.BackoffFactor = 1 }, 0, []time.Duration{25 * ms, 25 * ms, 25 * ms}},
		"steep":                 {func(p *fetch.RetryPlan) { p.BackoffFactor = 10 }, 0, []time.Duration{25 * ms, 250 * ms, 2000 * ms}},
		"full jitter, least":    {func(p *fetch.RetryPlan) { p.BackoffJitter = 1 }, 0, []time.Duration{0, 0}},
		"full jitter, middle":   {func(p *fetch.RetryPlan) { p.BackoffJitter = 1 }, 0.5, []time.Duration{12500 * time.Microsecond, 25 * ms}},
		"full jitter, most":     {func(p *fetch.RetryPlan) { p.BackoffJitter = 1 }, 1, []time.Duration{25 * ms, 50 * ms}},
		"some jitter, least":    {func(p *fetch.RetryPlan) { p.BackoffJitter = 0.25 }, 0, []time.Duration{18750 * time.Microsecond}},
		"jitter after the most": {func(p *fetch.RetryPlan) { p.BackoffJitter, p.BackoffMax = 0.5, 10*ms }, 0, []time.Duration{5 * ms}},
	} {
		plan := plain
		plan.MaxAttempts = 10
		c.change(&plan)
		for i, want := range c.waits {
			o := failed(failure(fetch.ReasonDisconnected, fetch.SentYes))
			o.Attempt = i + 1
			v := retry.Next(plan, o, func() float64 { return c.random })
			if !v.Again || v.Wait != want {
				t.Errorf("%s: before attempt %d: %+v, want %s", name, i+2, v, want)
			}
		}
	}
}

// TestWhatStandsInTheWay: each reason not to try again, and which one is named
// where there are several.
func TestWhatStandsInTheWay(t *testing.T) {
	reset := failure(fetch.ReasonDisconnected, fetch.SentYes)
	refused := failure(fetch.ReasonConnectRefused, fetch.SentNo)
	for name, c := range map[string]struct {
		outcome retry.Outcome
		change  func(*fetch.RetryPlan, *retry.Outcome)
		again   bool
		want    fetch.Suppressed
	}{
		"a reset GET":            {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) {}, true, ""},
		"a reset PUT":            {failed(reset), method("PUT"), true, ""},
		"a reset OPTIONS":        {failed(reset), method("OPTIONS"), true, ""},
		"a reset HEAD":           {failed(reset), method("HEAD"), true, ""},
		"a reset DELETE":         {failed(reset), method("DELETE"), true, ""},
		"a reset POST":           {failed(reset), method("POST"), false, "NOT_IDEMPOTENT"},
		"a reset PATCH":          {failed(reset), method("PATCH"), false, "NOT_IDEMPOTENT"},
		"a reset get":            {failed(reset), method("get"), false, "NOT_IDEMPOTENT"},
		"a refused POST":         {failed(refused), method("POST"), true, ""},
		"a POST and 503":         {answered(503, "x", ""), method("POST"), false, "NOT_IDEMPOTENT"},
		"a POST and 500":         {answered(500, "x", ""), method("POST"), false, ""},
		"a POST, unknown":        {failed(failure(fetch.ReasonConnectionReset, fetch.SentUnknown)), method("POST"), false, "NOT_IDEMPOTENT"},
		"a POST, nobody said":    {failed(failure(fetch.ReasonConnectionReset, "")), method("POST"), false, "NOT_IDEMPOTENT"},
		"a refused stream, POST": {failed(failure(fetch.ReasonStreamReset, fetch.SentNo)), method("POST"), true, ""},
		"a POST that is allowed": {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { o.Method, p.Methods = "POST", []string{"POST"} }, true, ""},
		"a GET that is not":      {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { p.Methods = []string{"POST"} }, false, "NOT_IDEMPOTENT"},
		"no method at all":       {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { p.Methods = []string{} }, false, "NOT_IDEMPOTENT"},
		"refused at a later hop": {failed(refused), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Method, o.Sent = "POST", fetch.SentYes }, false, "NOT_IDEMPOTENT"},

		"the head has passed":         {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.HeadPassed = true }, false, ""},
		"no condition":                {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { p.Conditions = 0 }, false, ""},
		"a body that is gone":         {failed(refused), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Rewindable = false }, false, "BODY"},
		"a body that is gone, POST":   {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Rewindable, o.Method = false, "POST" }, false, "NOT_IDEMPOTENT"},
		"the last but one":            {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Attempt = 2 }, true, ""},
		"the last":                    {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Attempt = 3 }, false, "MAX"},
		"the last, without a body":    {failed(reset), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Attempt, o.Rewindable = 3, false }, false, "BODY"},
		"the last, of what never was": {answered(500, "x", ""), func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Attempt = 3 }, false, ""},
		"only one":                    {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { p.MaxAttempts = 1 }, false, "MAX"},

		"time enough":          {failed(reset), left(35 * time.Millisecond), true, ""},
		"too little time":      {failed(reset), left(35*time.Millisecond - 1), false, "DEADLINE"},
		"no time":              {failed(reset), left(-time.Second), false, "DEADLINE"},
		"less than the wait":   {failed(reset), left(20 * time.Millisecond), false, "DEADLINE"},
		"no time, the last":    {failed(reset), func(p *fetch.RetryPlan, o *retry.Outcome) { left(0)(p, o); o.Attempt = 3 }, false, "MAX"},
		"Retry-After in time":  {answered(503, "Retry-After", "5"), left(5010 * time.Millisecond), true, ""},
		"Retry-After too late": {answered(503, "Retry-After", "5"), left(5 * time.Second), false, "DEADLINE"},
	} {
		plan, o := plain, c.outcome
		c.change(&plan, &o)
		if v := retry.Next(plan, o, noRandom); v.Again != c.again || v.Suppressed != c.want {
			t.Errorf("%s: %+v, want %v %q", name, v, c.again, c.want)
		}
	}
}

func method(m string) func(*fetch.RetryPlan, *retry.Outcome) {
	return func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Method = m }
}

func left(d time.Duration) func(*fetch.RetryPlan, *retry.Outcome) {
	return func(_ *fetch.RetryPlan, o *retry.Outcome) { o.Left, o.Bounded = d, true }
}

// TestKinds: each kind is bounded by its own count, and only by that.
func TestKinds(t *testing.T) {
	at := func(reason fetch.Reason, stage fetch.Stage, sent fetch.RequestSent) retry.Outcome {
		f := failure(reason, sent)
		f.Stage = stage
		return failed(f)
	}
	for _, c := range []struct {
		outcome retry.Outcome
		want    retry.Kind
	}{
		{at("RESOLVER_FAILED", fetch.StageResolve, fetch.SentNo), retry.KindConnect},
		{at("CONNECT_REFUSED", fetch.StageConnect, fetch.SentNo), retry.KindConnect},
		{at("PROXY_CONNECT", fetch.StageProxy, fetch.SentNo), retry.KindConnect},
		{at("TLS_TIMEOUT", fetch.StageTLS, fetch.SentNo), retry.KindOther},
		{at("STREAM_RESET", fetch.StageHead, fetch.SentNo), retry.KindOther},
		{at("ATTEMPT_TIMEOUT", fetch.StageWait, fetch.SentNo), retry.KindOther},
		{at("ATTEMPT_TIMEOUT", fetch.StageConnect, fetch.SentNo), retry.KindConnect},
		{at("ATTEMPT_TIMEOUT", fetch.StageBody, fetch.SentYes), retry.KindRead},
		{at("WRITE_FAILED", fetch.StageSend, fetch.SentYes), retry.KindRead},
		{at("STREAM_RESET", fetch.StageHead, fetch.SentYes), retry.KindRead},
		{at("DISCONNECTED", fetch.StageHead, fetch.SentYes), retry.KindRead},
		{answered(503, "x", ""), retry.KindStatus},
	} {
		plan := plain
		plan.Conditions |= fetch.RetryOnTimeout
		v := retry.Next(plan, c.outcome, noRandom)
		if v.Kind != c.want || !v.Again {
			t.Errorf("%v: %+v, want %s", c.outcome.Failure, v, c.want)
		}
		for _, k := range []retry.Kind{retry.KindConnect, retry.KindRead, retry.KindStatus, retry.KindOther} {
			o := c.outcome
			plan.Counts, o.Made = plain.Counts, fetch.RetryCounts{}
			k.Count(&plan.Counts) // from none of its own to 0
			k.Count(&plan.Counts)
			if v := retry.Next(plan, o, noRandom); !v.Again {
				t.Errorf("%v: with one %s retry: %+v", o.Failure, k, v)
			}
			k.Count(&o.Made)
			if v := retry.Next(plan, o, noRandom); v.Again == (k == c.want) || !v.Again && v.Suppressed != "MAX" {
				t.Errorf("%v: after the only %s retry: %+v", o.Failure, k, v)
			}
		}
	}
	var made fetch.RetryCounts
	if retry.Kind("").Count(&made); made != (fetch.RetryCounts{}) {
		t.Errorf("a retry of no kind counts as %+v", made)
	}
}

// TestRetryAfter: seconds or any HTTP-date; nothing else says anything.
func TestRetryAfter(t *testing.T) {
	const usual = 25 * time.Millisecond
	for value, c := range map[string]struct{ asked, wait time.Duration }{
		"1":                                 {time.Second, time.Second},
		"007":                               {7 * time.Second, 7 * time.Second},
		" 2\t":                              {2 * time.Second, 2 * time.Second},
		"30":                                {30 * time.Second, 30 * time.Second},
		"31":                                {31 * time.Second, -1},
		"1000000000":                        {1000000000 * time.Second, -1},
		"9223372036":                        {9223372036 * time.Second, -1},
		"9223372037":                        {math.MaxInt64, -1},
		"99999999999999999999999":           {math.MaxInt64, -1},
		strings.Repeat("9", 60_000):         {math.MaxInt64, -1},
		"Wed, 04 Mar 2026 05:06:17 GMT":     {10 * time.Second, 10 * time.Second},
		"Wednesday, 04-Mar-26 05:06:17 GMT": {10 * time.Second, 10 * time.Second},
		"Wed Mar  4 05:06:17 2026":          {10 * time.Second, 10 * time.Second},
		"Wed, 04 Mar 2026 05:07:17 GMT":     {70 * time.Second, -1},
		"Fri, 31 Dec 9999 23:59:59 GMT":     {math.MaxInt64, -1},
		"Monday, 04-Mar-75 05:06:07 GMT":    {time.Date(2075, 3, 4, 5, 6, 7, 0, time.UTC).Sub(now), -1},
		"Wednesday, 04-Mar-76 05:06:07 GMT": {time.Date(2076, 3, 4, 5, 6, 7, 0, time.UTC).Sub(now), -1},

		// It says that there is nothing to wait for.
		"0":                                {0, usual},
		"Wed, 04 Mar 2026 05:06:07 GMT":    {0, usual},
		"Wed, 04 Mar 2026 05:06:00 GMT":    {0, usual},
		"Thursday, 04-Mar-76 05:06:08 GMT": {0, usual}, // 1976: 2076 is more than 50 years ahead
		// It says nothing.
		"": {0, usual}, "-1": {0, usual}, "+1": {0, usual}, "1.5": {0, usual}, "1s": {0, usual}, "1, 2": {0, usual}, "soon": {0, usual}, "١": {0, usual},
		"Wed, 04 Mar 2026 05:06:17 CET": {0, usual}, "2026-03-04T05:06:17Z": {0, usual}, "Wed, 32 Mar 2026 05:06:17 GMT": {0, usual},
	} {
		v := retry.Next(plain, answered(503, "retry-AFTER", value), noRandom)
		want := retry.Verdict{Again: c.wait >= 0, Wait: max(0, c.wait), Kind: retry.KindStatus, RetryAfter: c.asked}
		if !want.Again {
			want.Suppressed = fetch.SuppressedDeadline
		}
		if v != want {
			t.Errorf("Retry-After: %.50q: %+v, want %+v", value, v, want)
		}
	}
}

// TestRetryAfterOfOthers: it is reported of what is not tried again, and waited
// for only where the plan says so.
func TestRetryAfterOfOthers(t *testing.T) {
	if v := retry.Next(plain, answered(200, "Retry-After", "9"), noRandom); v != (retry.Verdict{RetryAfter: 9 * time.Second}) {
		t.Errorf("a 200: %+v", v)
	}
	f := failure(fetch.ReasonBreakerOpen, fetch.SentNo)
	f.RetryAfter = time.Second
	if v := retry.Next(plain, failed(f), noRandom); v != (retry.Verdict{RetryAfter: time.Second}) {
		t.Errorf("an open breaker: %+v", v)
	}
	f = failure(fetch.ReasonProxyConnect, fetch.SentNo)
	f.RetryAfter = time.Second
	if v := retry.Next(plain, failed(f), noRandom); !v.Again || v.Wait != time.Second {
		t.Errorf("a failure that says when: %+v", v)
	}
	plan := plain
	plan.RespectRetryAfter = false
	for _, value := range []string{"9", "1000000000"} {
		if v := retry.Next(plan, answered(503, "Retry-After", value), noRandom); !v.Again || v.Wait != 25*time.Millisecond || v.RetryAfter == 0 {
			t.Errorf("Retry-After: %s that does not count: %+v", value, v)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"1", "-1", "1e9", "99999999999", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Tuesday, 29-Feb-00 23:59:59 GMT"} {
		f.Add(seed, int64(784111777))
	}
	f.Fuzz(func(t *testing.T, value string, unix int64) {
		o := answered(503, "Retry-After", value)
		o.Now = time.Unix(unix%(1<<37), 0)
		v := retry.Next(plain, o, noRandom)
		switch {
		case v.RetryAfter < 0 || v.Wait < 0:
			t.Errorf("%q: a negative wait: %+v", value, v)
		case v.Again && v.Wait != plain.BackoffBase && v.Wait != v.RetryAfter:
			t.Errorf("%q: the wait is nobody's: %+v", value, v)
		case v.Again != (v.RetryAfter <= plain.RetryAfterMax):
			t.Errorf("%q: %+v", value, v)
		}
	})
}
