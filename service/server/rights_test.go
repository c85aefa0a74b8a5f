package server

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// askedBy is the context of an RPC of a caller with these rights.
func askedBy(t *testing.T, owner string, rights ...string) context.Context {
	t.Helper()
	a, err := caller.New(caller.Options{Callers: []*configv1.Caller{{Name: "billing", Owner: owner, DangerousAnonymous: true, Rights: rights}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := a.Authenticate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// TestRights: each RPC needs its own, before anything of the request is looked
// at.
func TestRights(t *testing.T) {
	transport := typicalTransport(10)
	s := serverOver(t, transport, fetch.DefaultLimits())
	rpcs := []struct {
		name string
		any  []string
		call func(context.Context) error
	}{
		{"Fetch", []string{"fetch"}, func(ctx context.Context) error {
			_, err := s.fetch(ctx, &fetchgatev1.FetchRequest{})
			return err
		}},
		{"StreamFetch", []string{"stream"}, func(ctx context.Context) error {
			return s.streamFetch(&fetchgatev1.StreamFetchRequest{}, &callerStream{stubStream: &stubStream{t: t}, ctx: ctx})
		}},
		{"Explain", []string{"explain"}, func(ctx context.Context) error {
			_, err := explainer{Server: s}.Explain(ctx, &fetchgatev1.ExplainRequest{})
			return err
		}},
		{"WaitForGeneration", []string{"explain", "operate"}, func(ctx context.Context) error {
			_, err := explainer{Server: s}.WaitForGeneration(ctx, &fetchgatev1.WaitForGenerationRequest{})
			return err
		}},
	}
	for _, rpc := range rpcs {
		for _, right := range fetch.RightNames {
			err := rpc.call(askedBy(t, "team-payments", right))
			has := strings.Contains(" "+strings.Join(rpc.any, " ")+" ", " "+right+" ")
			got := told{}
			if err != nil {
				got = tell(t, err)
			}
			missing := got.code == codes.PermissionDenied && got.reason == "RIGHT_MISSING"
			if missing == has {
				t.Errorf("%s with the right %s: got %v", rpc.name, right, err)
			}
			if missing && !(strings.Contains(got.message, "lacks the right "+strings.Join(rpc.any, " or ")) && strings.Contains(got.message, "its owner, team-payments,") && strings.Contains(got.message, "billing")) {
				t.Errorf("%s: the error is %q", rpc.name, got.message)
			}
		}
	}
	if _, err := s.fetch(askedBy(t, "", "explain"), &fetchgatev1.FetchRequest{}); err == nil || !strings.Contains(err.Error(), "Ask the operator of fetchgate") {
		t.Errorf("without an owner the error is %v", err)
	}
	if transport.calls > 0 {
		t.Errorf("the upstream was asked %d times", transport.calls)
	}
}
