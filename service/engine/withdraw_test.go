package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// change is a configuration that comes into force while a fetch of generation 7
// is under way.
type change struct {
	after      time.Duration
	generation int64
	denies     bool
	grace      time.Duration
}

// in begins with the fetch, which its total timeout ends after a minute.
func (c change) in(e *engine.Engine, asked func(engine.Place)) *time.Timer {
	return time.AfterFunc(c.after, func() {
		e.Withdraw(engine.Withdrawal{Generation: c.generation, Grace: c.grace, Since: time.Now(), Judge: func(p engine.Place) *fetch.Denied {
			asked(p)
			if c.denies {
				return &fetch.Denied{Reason: fetch.ReasonDestinationDenied, Rule: "closed", Message: "it is closed", Hint: "Ask."}
			}
			return nil
		}})
	})
}

// TestWithdraw: when a fetch ends that newer configurations deny or allow.
func TestWithdraw(t *testing.T) {
	const never = time.Minute
	second := time.Second
	for name, c := range map[string]struct {
		changes []change
		ends    time.Duration
	}{
		"allowed":                   {[]change{{second, 8, false, 0}}, never},
		"denied":                    {[]change{{second, 8, true, 5 * second}}, 6 * second},
		"denied without grace":      {[]change{{second, 8, true, 0}}, second},
		"taken back":                {[]change{{second, 8, true, 5 * second}, {2 * second, 9, false, 0}}, never},
		"denied twice, later":       {[]change{{second, 8, true, 5 * second}, {2 * second, 9, true, 30 * second}}, 6 * second},
		"denied twice, earlier":     {[]change{{second, 8, true, 30 * second}, {2 * second, 9, true, 5 * second}}, 7 * second},
		"taken back and denied":     {[]change{{second, 8, true, 5 * second}, {2 * second, 9, false, 0}, {10 * second, 10, true, 5 * second}}, 15 * second},
		"its own generation":        {[]change{{second, 7, true, 0}}, never},
		"older than what is judged": {[]change{{second, 9, false, 0}, {2 * second, 8, true, 0}}, never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := ok()
				s.body.hangs = true
				e := over(t, s)
				for _, change := range c.changes {
					defer change.in(e, func(p engine.Place) {
						if p.Ask.Caller.Name != "shop" || p.Ask.Method != "GET" || p.Ask.Destination.Host != "example.com" {
							t.Errorf("asked about %+v", p)
						}
					}).Stop()
				}
				p := plan(t, "https://example.com/")
				p.Timeouts.Total = never
				began := time.Now()
				report, err := e.Run(t.Context(), p, &sink{})
				if took := time.Since(began); took != c.ends {
					t.Errorf("it ends after %v, want %v", took, c.ends)
				}
				if c.ends == never {
					failed(t, err, fetch.ReasonTotalTimeout)
					return
				}
				f := failed(t, err, fetch.ReasonWithdrawn)
				if f.Denial == nil || f.Denial.Rule != "closed" || f.Sent != fetch.SentYes || f.Stage != fetch.StageBody || report.Outcome != fetch.OutcomeFailure || report.Generation != 7 {
					t.Errorf("the failure is %+v, the report %+v", f, report)
				}
			})
		})
	}
}

// TestWithdrawBefore: a hop of a fetch of an older configuration that begins after
// the change does not go out, in the grace too.
func TestWithdrawBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ok()
		s.body.hangs = true
		e := over(t, s)
		change{0, 8, true, 5 * time.Second}.in(e, func(engine.Place) {})
		time.Sleep(3 * time.Second)
		began := time.Now()
		report, err := e.Run(t.Context(), plan(t, "https://example.com/"), &sink{})
		f := failed(t, err, fetch.ReasonWithdrawn)
		if took := time.Since(began); took != 0 || len(s.requests) > 0 || f.Sent != fetch.SentNo || f.Denial == nil || len(report.Attempts) != 1 {
			t.Errorf("it ends after %v with %d requests: %+v", took, len(s.requests), f)
		}
	})
}
