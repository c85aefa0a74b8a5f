package service_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestHostileUpstreams: whatever an HTTP/2 upstream does, the fetch ends in time
// and in an answer, costs a bounded number of connections, and leaves the
// fetchgate fit for the next one.
func TestHostileUpstreams(t *testing.T) {
	const (
		// total is far more than what else ends a fetch, for a busy machine.
		total = 5 * time.Second
		// most is how many connections one fetch may open.
		most = 4
	)
	healthyH1 := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	authority := fetchtest.NewAuthority(t)
	healthyH2 := fetchtest.NewH2(t, nil, authority)
	allow := []string{fetchtest.OriginOf(healthyH1.Upstream), fetchtest.OriginOf(healthyH2.Upstream)}
	upstreams := map[string][]*fetchtest.Upstream{}
	for _, h := range fetchtest.Hostiles() {
		for _, a := range []*fetchtest.Authority{nil, authority} {
			u := fetchtest.NewHostile(t, h.Name, a)
			upstreams[h.Name] = append(upstreams[h.Name], u)
			allow = append(allow, fetchtest.OriginOf(u))
		}
	}
	// One for all of them, so that what each leaves behind adds up.
	g := fetchtest.Start(t, fetchtest.Options{Allow: allow, Trust: authority})

	for _, h := range fetchtest.Hostiles() {
		for _, rpc := range rpcs {
			t.Run(h.Name+"/"+rpc.name, func(t *testing.T) {
				for _, u := range upstreams[h.Name] {
					before, _ := u.Connections()
					began := time.Now()
					a, err := rpc.call(within(t), g, hostileRequest(u.URL("/"), total))
					took := time.Since(began)
					if err != nil {
						t.Errorf("the upstream %s, which fails the RPC: %v", h.Does, err)
						continue
					}
					t.Logf("%s after %v", outcome(a), took)
					if a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_TOTAL_TIMEOUT {
						t.Errorf("nothing but the total timeout ended it, after %v", took)
					}
					if after, _ := u.Connections(); after-before > most {
						t.Errorf("it took %d connections, want at most %d", after-before, most)
					}
				}
				for _, url := range []string{healthyH2.URL("/"), healthyH1.URL("/")} {
					a, err := rpc.call(within(t), g, &request{Request: &fetchgatev1.HttpRequest{Url: url}})
					if err != nil || a.failure != nil || string(a.body) != "ok" {
						t.Errorf("afterwards, a healthy upstream gives %v, %v", a, err)
					}
				}
			})
		}
	}
}

// TestHostileUpstreamsTriedAgain: further attempts cost as much again, and no
// more.
func TestHostileUpstreamsTriedAgain(t *testing.T) {
	const (
		total        = 10 * time.Second // as above, of three attempts
		mostAttempts = 3
		mostDials    = 4 // of an attempt
	)
	again := 0
	for _, h := range fetchtest.Hostiles() {
		u := fetchtest.NewHostile(t, h.Name, nil)
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
		// Of the methods that may be sent twice, the one that has a body.
		m := hostileRequest(u.URL("/"), total)
		m.Request.Method, m.Options.Retry, m.Options.Report = "PUT", nil, full()
		a, err := whole(within(t), g, m)
		if err != nil {
			t.Errorf("%s: the upstream %s, which fails the RPC: %v", h.Name, h.Does, err)
			continue
		}
		t.Logf("%s: %s, attempts %d", h.Name, outcome(a), len(a.report.GetAttempts()))
		if a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_TOTAL_TIMEOUT {
			t.Errorf("%s: nothing but the total timeout ended it, after %v", h.Name, a.report.GetTotal().AsDuration())
		}
		checkDials(t, h.Name, a.report, mostAttempts, mostDials)
		opened, _ := u.Connections()
		if opened > len(a.report.GetAttempts())*mostDials {
			t.Errorf("%s: %d connections in %d attempts", h.Name, opened, len(a.report.GetAttempts()))
		}
		if len(a.report.GetAttempts()) > 1 {
			again++
		}
	}
	if again < 2 {
		t.Errorf("%d upstreams were tried again, too few to show anything", again)
	}
}

func checkDials(t *testing.T, what string, r *fetchgatev1.FetchReport, mostAttempts, mostDials int) {
	t.Helper()
	if n := len(r.GetAttempts()); n < 1 || n > mostAttempts {
		t.Errorf("%s: %d attempts, want 1 to %d", what, n, mostAttempts)
	}
	for _, attempt := range r.GetAttempts() {
		dials := 0
		for _, hop := range attempt.GetHops() {
			dials += int(hop.GetConnection().GetDialCount())
		}
		if dials > mostDials {
			t.Errorf("%s: attempt %d dialed %d times, want at most %d", what, attempt.GetNumber(), dials, mostDials)
		}
	}
}

// hostileRequest has a body, since some upstreams do harm to that.
func hostileRequest(url string, total time.Duration) *request {
	m := &request{
		Request: &fetchgatev1.HttpRequest{Method: "POST", Url: url, Body: raw("hello")},
		Options: &fetchgatev1.FetchOptions{
			Timeouts: &fetchgatev1.Timeouts{
				Total: durationpb.New(total), Pool: brief(), Write: brief(), ResponseHeader: brief(), IdleRead: brief(),
			},
			Retry: oneAttempt(),
		},
	}
	requireH2(m)
	return m
}

// outcome says in a few words what became of a fetch.
func outcome(a *answer) string {
	if a.failure != nil {
		return inWords(a.failure)
	}
	return "a response"
}
