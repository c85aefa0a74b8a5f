package server

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
)

// resolving is a JudgeHost that remembers what it was asked.
type resolving struct {
	judged []fetch.JudgedAddress
	err    error

	hosts  []string
	within time.Duration
	route  fetch.Route
}

func (r *resolving) judge(_ context.Context, host string, _ uint16, route fetch.Route, within time.Duration) ([]fetch.JudgedAddress, error) {
	r.hosts, r.route, r.within = append(r.hosts, host), route, within
	return r.judged, r.err
}

// seeing is a server that resolves with r.
func seeing(t *testing.T, r *resolving) explainer {
	t.Helper()
	rules, err := policy.Compile([]*configv1.Rule{
		{Name: "api", Owner: "team-api", Origins: []string{"https://api.example.com"}, MixedAnswers: "filter", Timeouts: &configv1.Timeouts{Dns: durationpb.New(4 * time.Second)}},
		{Name: "keyed", Origins: []string{"https://keyed.example.com"}, SetFields: map[string]string{"X-Key": "y"}},
	}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(typicalTransport(10), rules, limit.NewRetryBudget(0.2, 10))
	return explainer{Server: New(e, Options{Policy: rules, Limits: fetch.DefaultLimits(), JudgeHost: r.judge})}
}

// TestExplainResolvesForTheRight: nobody else has a name resolved, nor has a
// request that Fetch would refuse or deny before it dials.
func TestExplainResolvesForTheRight(t *testing.T) {
	const url = "https://api.example.com/"
	wrong := explainURL("GET", url)
	wrong.Request.Headers = []*fetchgatev1.HeaderField{{Name: "Bad Name", Value: []byte("x")}}
	twice := explainURL("GET", "https://keyed.example.com/")
	twice.Options = &fetchgatev1.FetchOptions{Credentials: []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_ApiKey{
		ApiKey: &fetchgatev1.ApiKeyCredential{Key: []byte("ppppppp"), Place: &fetchgatev1.ApiKeyCredential_Header{Header: "X-Key"}},
	}}}}
	unknown := explainURL("GET", url)
	unknown.Options = &fetchgatev1.FetchOptions{Report: fetchgatev1.ReportDetail(77).Enum()}
	for name, c := range map[string]struct {
		rights []string
		m      *fetchgatev1.ExplainRequest
		asked  int
	}{
		"the right":           {[]string{"explain", "explain:addresses"}, explainURL("GET", url), 1},
		"explain alone":       {[]string{"explain"}, explainURL("GET", url), 0},
		"operate":             {[]string{"explain", "operate"}, explainURL("GET", url), 0},
		"default rights":      {nil, explainURL("GET", url), 0},
		"another host":        {[]string{"explain", "explain:addresses"}, explainURL("GET", "https://other.example.com/"), 0},
		"a refused field":     {[]string{"explain", "explain:addresses"}, wrong, 0},
		"a refused option":    {[]string{"explain", "explain:addresses"}, unknown, 0},
		"a denied credential": {[]string{"explain", "explain:addresses"}, twice, 0},
		"no URL":              {[]string{"explain", "explain:addresses"}, explainURL("GET", "nonsense"), 0},
	} {
		r := &resolving{judged: []fetch.JudgedAddress{{Address: netip.MustParseAddr("93.184.215.14")}}}
		said, err := seeing(t, r).Explain(askedBy(t, "", c.rights...), c.m)
		if err != nil || len(r.hosts) != c.asked || len(said.GetAddresses()) != c.asked {
			t.Errorf("%s: it asks for %q and says %v, %v", name, r.hosts, said, err)
		}
		if name == "a denied credential" && said.GetChecks()[len(said.GetChecks())-1].GetCheck() != "credential" {
			t.Errorf("%s is explained as %v", name, said)
		}
		if c.asked > 0 && (!r.route.FilterMixed || r.route.Allow(netip.MustParseAddrPort("10.0.0.1:443")) == nil) {
			t.Errorf("%s: the addresses are judged by %+v, not by the rule", name, r.route)
		}
	}
}

// TestTimeOfALookUp: that of a fetch, and no longer than the caller waits.
func TestTimeOfALookUp(t *testing.T) {
	for name, c := range map[string]struct {
		asked    *fetchgatev1.Timeouts
		deadline time.Duration
		want     time.Duration
	}{
		"the rule's":              {nil, 0, 4 * time.Second},
		"the request's":           {&fetchgatev1.Timeouts{Dns: durationpb.New(9 * time.Second)}, 0, 9 * time.Second},
		"a short attempt":         {&fetchgatev1.Timeouts{Attempt: durationpb.New(2 * time.Second)}, 0, 2 * time.Second},
		"a short fetch":           {&fetchgatev1.Timeouts{Total: durationpb.New(time.Second)}, 0, time.Second},
		"the deadline":            {nil, time.Second, time.Second - 20*time.Millisecond},
		"a deadline that is near": {nil, 100 * time.Millisecond, 90 * time.Millisecond},
		"a deadline that is far":  {nil, time.Hour, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := new(resolving)
			m := explainURL("GET", "https://api.example.com/")
			m.Options = &fetchgatev1.FetchOptions{Timeouts: c.asked}
			ctx := askedBy(t, "", "explain", "explain:addresses")
			if c.deadline > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.deadline)
				defer cancel()
			}
			if _, err := seeing(t, r).Explain(ctx, m); err != nil || r.within != c.want {
				t.Errorf("%s: a look-up may take %v (%v), want %v", name, r.within, err, c.want)
			}
		})
	}
}

// TestFailedLookUpIsAnAnswer: and tells nothing of what the resolver said.
func TestFailedLookUpIsAnAnswer(t *testing.T) {
	cause := errors.New("lookup on 10.9.8.7:53: hush")
	for want, err := range map[string]error{
		"RESOLVER_FAILED: no usable answer": fetch.Fail(fetch.ReasonResolverFailed, "no usable answer", cause),
		"the look-up was cut off":           cause,
	} {
		said, rpc := seeing(t, &resolving{err: err}).Explain(askedBy(t, "", "explain", "explain:addresses"), explainURL("GET", "https://api.example.com/"))
		if rpc != nil {
			t.Fatal(rpc)
		}
		last := said.GetChecks()[len(said.GetChecks())-1]
		if !said.GetAllowed() || !said.GetGoesAhead() || last.GetCheck() != "address" || last.GetPassed() || last.GetDetail() != want || !strings.HasSuffix(said.GetWhy(), want) {
			t.Errorf("%v is explained as %v", err, said)
		}
		if strings.Contains(said.String(), "hush") {
			t.Errorf("it tells what the resolver said: %v", said)
		}
	}
}
