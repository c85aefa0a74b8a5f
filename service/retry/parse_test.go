package retry_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

var defaults = retry.Defaults{MaxAttempts: 3, HighestAttempts: 10}

const (
	onStatuses = fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_STATUS_CODES
	onFields   = fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_HEADERS
)

func onlyOn(c ...fetchgatev1.RetryCondition) []fetchgatev1.RetryCondition { return c }

func TestParseDefaults(t *testing.T) {
	want := plain
	want.BackoffJitter = 1
	for name, m := range map[string]*fetchgatev1.RetryPolicy{"no policy": nil, "an empty one": {}, "empty counts": {Counts: &fetchgatev1.RetryCounts{}}} {
		plan, clamped, problems := retry.Parse(m, defaults)
		if !reflect.DeepEqual(plan, want) || clamped != nil || problems != nil {
			t.Errorf("%s: %+v, clamped %q, wrong %v", name, plan, clamped, problems)
		}
	}
}

func TestParseEverything(t *testing.T) {
	m := &fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(10), Conditions: onlyOn(onStatuses, onFields),
		Statuses: []int32{100, 999}, ResponseHeaders: []string{"X_Try"}, Methods: []string{"POST", "LOCK"},
		Counts:      &fetchgatev1.RetryCounts{Connect: proto.Int32(0), Other: proto.Int32(7)},
		BackoffBase: durationpb.New(0), BackoffFactor: proto.Float64(10), BackoffMax: durationpb.New(120 * time.Second),
		BackoffJitter: proto.Float64(0), RespectRetryAfter: proto.Bool(false), RetryAfterMax: durationpb.New(5 * time.Minute),
		Exhausted: fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE.Enum(),
	}
	want := fetch.RetryPlan{
		MaxAttempts: 10, Conditions: fetch.RetryOnStatuses | fetch.RetryOnFields,
		Statuses: []int{100, 999}, Fields: []string{"X_Try"}, Methods: []string{"POST", "LOCK"},
		Counts:        fetch.RetryCounts{Connect: 0, Read: -1, Status: -1, Other: 7},
		BackoffFactor: 10, BackoffMax: 120 * time.Second, RetryAfterMax: 5 * time.Minute, FailWhenExhausted: true,
	}
	plan, clamped, problems := retry.Parse(m, defaults)
	if !reflect.DeepEqual(plan, want) || clamped != nil || problems != nil {
		t.Errorf("%+v, clamped %q, wrong %v", plan, clamped, problems)
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if !m.ProtoReflect().Has(fields.Get(i)) {
			t.Errorf("the test does not set %s", fields.Get(i).Name())
		}
	}
}

func TestParseClamps(t *testing.T) {
	plan, clamped, problems := retry.Parse(&fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(11), BackoffBase: durationpb.New(31 * time.Second),
		BackoffMax: durationpb.New(120*time.Second + 1), RetryAfterMax: durationpb.New(time.Hour),
	}, defaults)
	if plan.MaxAttempts != 10 || plan.BackoffBase != 30*time.Second || plan.BackoffMax != 120*time.Second || plan.RetryAfterMax != 5*time.Minute {
		t.Errorf("%+v", plan)
	}
	want := []string{"options.retry.max_attempts", "options.retry.backoff_base", "options.retry.backoff_max", "options.retry.retry_after_max"}
	if !slices.Equal(clamped, want) || problems != nil {
		t.Errorf("clamped %q, want %q; wrong %v", clamped, want, problems)
	}
}

func TestParseRefuses(t *testing.T) {
	many := slices.Repeat([]int32{503}, 51)
	for _, c := range []struct {
		path string
		m    *fetchgatev1.RetryPolicy
	}{
		{"max_attempts", &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(0)}},
		{"max_attempts", &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(math.MinInt32)}},
		{"conditions[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(0)}},
		{"conditions[1]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(1, 11)}},
		{"conditions[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(-1)}},
		{"conditions", &fetchgatev1.RetryPolicy{Conditions: slices.Repeat(onlyOn(1), 51)}},
		{"statuses[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onStatuses), Statuses: []int32{99}}},
		{"statuses[1]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onStatuses), Statuses: []int32{100, 1000}}},
		{"statuses", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onStatuses), Statuses: many}},
		{"statuses", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onStatuses)}},
		{"statuses", &fetchgatev1.RetryPolicy{Statuses: []int32{503}}},
		{"response_headers[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: []string{""}}},
		{"response_headers[1]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: []string{"a", "b c"}}},
		{"response_headers[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: []string{":status"}}},
		{"response_headers[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: []string{"é"}}},
		{"response_headers[0]", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: []string{strings.Repeat("a", 257)}}},
		{"response_headers", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields), ResponseHeaders: slices.Repeat([]string{"a"}, 51)}},
		{"response_headers", &fetchgatev1.RetryPolicy{Conditions: onlyOn(onFields)}},
		{"response_headers", &fetchgatev1.RetryPolicy{ResponseHeaders: []string{"a"}}},
		{"methods[0]", &fetchgatev1.RetryPolicy{Methods: []string{""}}},
		{"methods[1]", &fetchgatev1.RetryPolicy{Methods: []string{"GET", "get"}}},
		{"methods[0]", &fetchgatev1.RetryPolicy{Methods: []string{"TRACE"}}},
		{"methods", &fetchgatev1.RetryPolicy{Methods: slices.Repeat([]string{"GET"}, 51)}},
		{"counts.connect", &fetchgatev1.RetryPolicy{Counts: &fetchgatev1.RetryCounts{Connect: proto.Int32(-1)}}},
		{"counts.read", &fetchgatev1.RetryPolicy{Counts: &fetchgatev1.RetryCounts{Read: proto.Int32(-1)}}},
		{"counts.status", &fetchgatev1.RetryPolicy{Counts: &fetchgatev1.RetryCounts{Status: proto.Int32(-1)}}},
		{"counts.other", &fetchgatev1.RetryPolicy{Counts: &fetchgatev1.RetryCounts{Other: proto.Int32(-1)}}},
		{"backoff_base", &fetchgatev1.RetryPolicy{BackoffBase: durationpb.New(-1)}},
		{"backoff_base", &fetchgatev1.RetryPolicy{BackoffBase: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
		{"backoff_factor", &fetchgatev1.RetryPolicy{BackoffFactor: proto.Float64(0.999)}},
		{"backoff_factor", &fetchgatev1.RetryPolicy{BackoffFactor: proto.Float64(10.001)}},
		{"backoff_factor", &fetchgatev1.RetryPolicy{BackoffFactor: proto.Float64(math.NaN())}},
		{"backoff_factor", &fetchgatev1.RetryPolicy{BackoffFactor: proto.Float64(math.Inf(1))}},
		{"backoff_max", &fetchgatev1.RetryPolicy{BackoffMax: durationpb.New(0)}},
		{"backoff_max", &fetchgatev1.RetryPolicy{BackoffMax: &durationpb.Duration{Seconds: math.MaxInt64}}},
		{"backoff_jitter", &fetchgatev1.RetryPolicy{BackoffJitter: proto.Float64(-0.001)}},
		{"backoff_jitter", &fetchgatev1.RetryPolicy{BackoffJitter: proto.Float64(1.001)}},
		{"backoff_jitter", &fetchgatev1.RetryPolicy{BackoffJitter: proto.Float64(math.NaN())}},
		{"retry_after_max", &fetchgatev1.RetryPolicy{RetryAfterMax: durationpb.New(0)}},
		{"retry_after_max", &fetchgatev1.RetryPolicy{RetryAfterMax: durationpb.New(-time.Second)}},
		{"exhausted", &fetchgatev1.RetryPolicy{Exhausted: fetchgatev1.RetriesExhausted(3).Enum()}},
	} {
		_, _, problems := retry.Parse(c.m, defaults)
		if len(problems) != 1 || problems[0].Path != "options.retry."+c.path || problems[0].Message == "" {
			t.Errorf("%v: %v, want one problem of %s", c.m, problems, c.path)
		}
	}
}

func TestParseNamesEveryProblem(t *testing.T) {
	_, _, problems := retry.Parse(&fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(0), Conditions: onlyOn(0, 99), Methods: []string{"CONNECT"}, BackoffJitter: proto.Float64(2),
	}, defaults)
	if len(problems) != 5 {
		t.Errorf("%v, want 5 problems", problems)
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []*fetchgatev1.RetryPolicy{
		{}, {MaxAttempts: proto.Int32(4), Conditions: onlyOn(1, 9)}, {Conditions: onlyOn(onStatuses), Statuses: []int32{503}},
		{BackoffBase: durationpb.New(time.Second), BackoffFactor: proto.Float64(3), BackoffJitter: proto.Float64(0.5)},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 1, 503)
	}
	f.Fuzz(func(t *testing.T, b []byte, attempt, status int) {
		var m fetchgatev1.RetryPolicy
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		plan, _, problems := retry.Parse(&m, defaults)
		if len(problems) > 0 {
			return
		}
		if plan.MaxAttempts < 1 || plan.MaxAttempts > 10 || plan.BackoffMax <= 0 || plan.BackoffMax > 2*time.Minute || plan.RetryAfterMax > 5*time.Minute {
			t.Errorf("%v: %+v", &m, plan)
		}
		o := answered(status, "Retry-After", "8")
		o.Attempt = attempt
		v := retry.Next(plan, o, func() float64 { return 0.5 })
		if v.Wait < 0 || v.Wait > max(plan.BackoffMax, plan.RetryAfterMax) || v.Again && v.Suppressed != "" {
			t.Errorf("%v: %+v", &m, v)
		}
	})
}
