package retry_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// urllib3Case names a policy and a run of outcomes by their indexes, and how long
// urllib3 waited after each that it tried again.
type urllib3Case struct {
	Policy int
	Method string
	Run    int
	Waits  []float64
}

type urllib3Policy struct {
	Total, Connect, Read, Status, Other *int32
	Methods                             []string `json:"allowed_methods"`
	Statuses                            []int32  `json:"status_forcelist"`
	Factor                              float64  `json:"backoff_factor"`
	Max                                 *float64 `json:"backoff_max"`
	Respect                             *bool    `json:"respect_retry_after_header"`
}

type urllib3Outcome struct {
	Error      string
	Status     int
	RetryAfter *string `json:"retry_after"`
}

// TestAsUrllib3 holds the two to the same decisions. They differ in the first
// wait, which urllib3 does not make.
func TestAsUrllib3(t *testing.T) {
	b, err := os.ReadFile("testdata/urllib3.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Now      int64
		Policies []urllib3Policy
		Runs     [][]urllib3Outcome
		Cases    []urllib3Case
	}
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded.Cases) < 1000 {
		t.Fatalf("only %d cases were recorded", len(recorded.Cases))
	}
	for _, c := range recorded.Cases {
		plan, clamped, problems := retry.Parse(recorded.Policies[c.Policy].message(), defaults)
		if clamped != nil || problems != nil {
			t.Fatalf("%+v: clamped %q, wrong %v", recorded.Policies[c.Policy], clamped, problems)
		}
		c.hold(t, plan, recorded.Runs[c.Run], time.Unix(recorded.Now, 0))
	}
}

func (p urllib3Policy) message() *fetchgatev1.RetryPolicy {
	m := &fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(*p.Total + 1), Methods: p.Methods, Statuses: p.Statuses,
		Counts:      &fetchgatev1.RetryCounts{Connect: p.Connect, Read: p.Read, Status: p.Status, Other: p.Other},
		BackoffBase: durationpb.New(seconds(p.Factor)), BackoffMax: durationpb.New(120 * time.Second),
		BackoffJitter: proto.Float64(0), RespectRetryAfter: p.Respect,
		Conditions: onlyOn(fetchgatev1.RetryCondition_RETRY_CONDITION_CONNECT_FAILURE,
			fetchgatev1.RetryCondition_RETRY_CONDITION_RESET, fetchgatev1.RetryCondition_RETRY_CONDITION_TIMEOUT),
	}
	if p.Max != nil {
		m.BackoffMax = durationpb.New(seconds(*p.Max))
	}
	if len(p.Statuses) > 0 {
		m.Conditions = append(m.Conditions, onStatuses)
	}
	if p.Respect == nil {
		m.Conditions = append(m.Conditions, fetchgatev1.RetryCondition_RETRY_CONDITION_RETRY_AFTER)
	}
	return m
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// hold holds Next to c.
func (c urllib3Case) hold(t *testing.T, plan fetch.RetryPlan, run []urllib3Outcome, now time.Time) {
	var made fetch.RetryCounts
	for i, happened := range run {
		o := happened.outcome()
		o.Attempt, o.Method, o.Made, o.Now = i+1, c.Method, made, now
		v := retry.Next(plan, o, noRandom)
		if v.Again != (i < len(c.Waits)) {
			t.Errorf("policy %d, %s, run %d: after attempt %d: %+v; urllib3 tries %d times again", c.Policy, c.Method, c.Run, i+1, v, len(c.Waits))
		}
		if !v.Again || i >= len(c.Waits) {
			return
		}
		want := seconds(c.Waits[i])
		if i == 0 && want == 0 {
			want = min(plan.BackoffBase, plan.BackoffMax)
		}
		if d := v.Wait - want; d.Abs() > time.Microsecond {
			t.Errorf("policy %d, %s, run %d: after attempt %d: %+v; urllib3 waits %s", c.Policy, c.Method, c.Run, i+1, v, want)
		}
		v.Kind.Count(&made)
	}
}

func (u urllib3Outcome) outcome() retry.Outcome {
	var f *fetch.Failure
	switch u.Error {
	case "connect":
		f = failure(fetch.ReasonConnectTimeout, fetch.SentNo)
	case "resolve":
		f = failure(fetch.ReasonResolverFailed, fetch.SentNo)
	case "disconnect":
		f = failure(fetch.ReasonDisconnected, fetch.SentYes)
	case "timeout":
		f = failure(fetch.ReasonHeadTimeout, fetch.SentYes)
	case "tls":
		f = failure(fetch.ReasonTLSTimeout, fetch.SentNo)
	}
	if f != nil {
		return failed(f)
	}
	if u.RetryAfter == nil {
		return answered(u.Status, "X-Other", "")
	}
	return answered(u.Status, "Retry-After", *u.RetryAfter)
}
