package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// deadline is what bounds a fetch, and when and how it ends then.
type deadline struct {
	name                string
	rpc, total, attempt time.Duration // 0 means none
	after               time.Duration
	reason              fetch.Reason
	says                string
}

var deadlines = []deadline{
	{"total", 0, 30 * time.Second, 0, 30 * time.Second, fetch.ReasonTotalTimeout, "total timeout of 30s"},
	{"attempt", 0, 0, 2 * time.Second, 2 * time.Second, fetch.ReasonAttemptTimeout, "timeout of 2s"},
	{"attempt within total", 0, 30 * time.Second, 2 * time.Second, 2 * time.Second, fetch.ReasonAttemptTimeout, "timeout of 2s"},
	{"total within attempt", 0, 2 * time.Second, 30 * time.Second, 2 * time.Second, fetch.ReasonTotalTimeout, "total timeout of 2s"},
	{"RPC", 10 * time.Second, 0, 0, 10*time.Second - 20*time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"RPC of 200 ms", 200 * time.Millisecond, 0, 0, 180 * time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"RPC of 100 ms", 100 * time.Millisecond, 0, 0, 90 * time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"RPC of 1 ms", time.Millisecond, 0, 0, 900 * time.Microsecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"RPC that is over", -time.Second, 0, 0, 0, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"RPC within total", 10 * time.Second, 30 * time.Second, 0, 10*time.Second - 20*time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"total within RPC", 30 * time.Second, 10 * time.Second, 0, 10 * time.Second, fetch.ReasonTotalTimeout, "total timeout of 10s"},
	{"total within the headroom", 10 * time.Second, 10*time.Second - time.Millisecond, 0, 10*time.Second - 20*time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
	{"attempt within RPC", 10 * time.Second, 0, time.Second, time.Second, fetch.ReasonAttemptTimeout, "timeout of 1s"},
	{"RPC within attempt", 10 * time.Second, 0, time.Hour, 10*time.Second - 20*time.Millisecond, fetch.ReasonTotalTimeout, "deadline of the RPC"},
}

// TestDeadlines: each bound ends a fetch at its instant, before the head and
// within the body, and says which one it was.
func TestDeadlines(t *testing.T) {
	for _, d := range deadlines {
		t.Run(d.name+", before the head", func(t *testing.T) {
			s := ok()
			s.facts = fetch.Facts{Stage: fetch.StageConnect, Dials: 1}
			s.act = func(ctx context.Context, _ *fetch.Request) error { return givenUp(ctx) }
			checkDeadline(t, s, d, fetch.StageConnect, fetch.SentNo)
		})
		t.Run(d.name+", within the body", func(t *testing.T) {
			s := ok()
			s.body.hangs = true
			checkDeadline(t, s, d, fetch.StageBody, fetch.SentYes)
			if s.body.closed == 0 {
				t.Error("the body was not closed")
			}
		})
	}
}

func checkDeadline(t *testing.T, s *transport, d deadline, stage fetch.Stage, sent fetch.RequestSent) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := plan(t, "http://example.com/")
		p.Timeouts.Total, p.Timeouts.Attempt = d.total, d.attempt
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if d.rpc != 0 {
			ctx, cancel = context.WithTimeout(ctx, d.rpc)
		}
		defer cancel()
		start := time.Now()
		report, err := over(t, s).Run(ctx, p, &sink{})
		if took := time.Since(start); took != d.after || report.Total != d.after || report.Attempts[0].Total != d.after {
			t.Errorf("it took %v, by the report %v, want %v", took, report.Total, d.after)
		}
		f := failed(t, err, d.reason)
		if f.Stage != stage || f.Sent != sent || f.Blame != fetch.BlameCaller || !strings.Contains(f.Message, d.says) || !strings.Contains(f.Message, string(stage)) {
			t.Errorf("the failure is %+v", f)
		}
		if report.Attempts[0].Failure != f || report.Attempts[0].Hops[0].Facts.Stage != s.facts.Stage {
			t.Errorf("the report is %+v", report)
		}
	})
}

// TestDeadlineThatATransportSeesFirst: a connect gives up by the deadline a moment
// before the context does.
func TestDeadlineThatATransportSeesFirst(t *testing.T) {
	for range 20 { // either may come first
		synctest.Test(t, func(t *testing.T) {
			s := ok()
			s.act = func(context.Context, *fetch.Request) error {
				<-time.After(time.Second)
				return context.DeadlineExceeded
			}
			p := plan(t, "http://example.com/")
			p.Timeouts.Attempt = time.Second
			_, err := over(t, s).Run(t.Context(), p, &sink{})
			failed(t, err, fetch.ReasonAttemptTimeout)
		})
	}
}

// TestContextErrorsOfOthers: a context of somebody else that ended says nothing
// about the fetch's own time.
func TestContextErrorsOfOthers(t *testing.T) {
	for _, stray := range []error{context.DeadlineExceeded, context.Canceled} {
		s := ok()
		s.err = stray
		p := plan(t, "http://example.com/")
		p.Timeouts.Total = time.Hour
		_, err := over(t, s).Run(t.Context(), p, &sink{})
		if f := failed(t, err, fetch.ReasonInternalFault); !errors.Is(f, stray) || strings.Contains(f.Message, stray.Error()) {
			t.Errorf("the failure is %+v", f)
		}
	}
}

// TestCallerThatLeaves: whatever becomes of the fetch then, its error is the
// caller's.
func TestCallerThatLeaves(t *testing.T) {
	reset := fetch.Fail(fetch.ReasonConnectionReset, "cut off", nil)
	for name, leave := range map[string]func(*transport, *sink, context.CancelFunc){
		"before": func(s *transport, _ *sink, cancel context.CancelFunc) {
			cancel()
			s.act = func(ctx context.Context, _ *fetch.Request) error { return givenUp(ctx) }
		},
		"before the head": func(s *transport, _ *sink, cancel context.CancelFunc) {
			s.act = func(ctx context.Context, _ *fetch.Request) error {
				cancel()
				return givenUp(ctx)
			}
		},
		"and the transport calls it a failure": func(s *transport, _ *sink, cancel context.CancelFunc) {
			s.act = func(context.Context, *fetch.Request) error {
				cancel()
				return reset
			}
		},
		"and policy denies an address": func(s *transport, _ *sink, cancel context.CancelFunc) {
			s.act = func(context.Context, *fetch.Request) error {
				cancel()
				return &fetch.Denied{Reason: fetch.ReasonAddressDenied}
			}
		},
		"within the body": func(s *transport, k *sink, cancel context.CancelFunc) {
			s.body.hangs = true
			k.wait = func(event string) {
				if event == "data ok" {
					cancel()
				}
			}
		},
		"and the sink says so": func(_ *transport, k *sink, cancel context.CancelFunc) {
			k.fails = "data ok"
			k.wait = func(string) { cancel() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				s, k := ok(), &sink{}
				leave(s, k, cancel)
				p := plan(t, "http://example.com/")
				p.Timeouts.Total, p.Timeouts.Attempt = time.Minute, time.Second
				start := time.Now()
				report, err := over(t, s).Run(ctx, p, k)
				if err != context.Canceled || time.Since(start) != 0 {
					t.Errorf("after %v the error is %v", time.Since(start), err)
				}
				if len(report.Attempts) != 1 || report.Attempts[0].Failure != nil {
					t.Errorf("the report is %+v", report)
				}
			})
		})
	}
}

// TestContextOfAFetch: what a transport is called with has the deadline of the
// fetch, and tells its end from that of a caller who has gone.
func TestContextOfAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, s := time.Now(), ok()
		var deadline time.Time
		var ended error
		s.act = func(ctx context.Context, _ *fetch.Request) error {
			deadline, _ = ctx.Deadline()
			err := givenUp(ctx)
			ended = ctx.Err()
			return err
		}
		p := plan(t, "http://example.com/")
		p.Timeouts.Total = time.Minute
		if _, err := over(t, s).Run(t.Context(), p, &sink{}); err == nil || deadline.Sub(began) != time.Minute || ended != context.DeadlineExceeded {
			t.Errorf("the deadline is after %v, it ended with %v, the fetch with %v", deadline.Sub(began), ended, err)
		}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		if _, err := over(t, s).Run(ctx, p, &sink{}); err == nil || ended != context.Canceled {
			t.Errorf("for a caller who has gone, it ended with %v, the fetch with %v", ended, err)
		}
	})
}

// TestHopsEndWithTheirContext: nothing that a transport started for a hop lives
// longer than Run.
func TestHopsEndWithTheirContext(t *testing.T) {
	s := ok()
	if _, err := over(t, s).Run(t.Context(), plan(t, "http://example.com/"), &sink{}); err != nil {
		t.Fatal(err)
	}
	if s.contexts[0].Err() == nil {
		t.Error("the context of the hop goes on")
	}
}

// TestSlowBodies: a body that comes too slowly is stopped after its window, and
// that is told from a timeout. A stream of events may be silent.
func TestSlowBodies(t *testing.T) {
	for contentType, want := range map[string]struct {
		reason fetch.Reason
		after  time.Duration
	}{
		"":                                 {fetch.ReasonBodyTooSlow, 30 * time.Second},
		"text/plain":                       {fetch.ReasonBodyTooSlow, 30 * time.Second},
		"text/event-stream":                {fetch.ReasonTotalTimeout, time.Hour},
		"Text/Event-Stream ;charset=utf-8": {fetch.ReasonTotalTimeout, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := ok()
			s.body.hangs = true
			if contentType != "" {
				s.response.Fields = []fetch.Field{{Name: "content-type", Value: []byte(contentType)}}
			}
			p := plan(t, "http://example.com/")
			p.MinThroughput = fetch.Throughput{Bytes: 1000, Over: 30 * time.Second}
			p.Timeouts.Total = time.Hour
			start := time.Now()
			_, err := over(t, s).Run(t.Context(), p, &sink{})
			if f := failed(t, err, want.reason); f.Stage != fetch.StageBody || time.Since(start) != want.after {
				t.Errorf("%q: after %v the failure is %+v", contentType, time.Since(start), f)
			}
		})
	}
}
