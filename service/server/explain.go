package server

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Explain plans the request as Fetch does and asks the policy that Fetch asks.
// Nothing is sent to an upstream. A name is resolved only for a caller with the
// right explain:addresses, and only where Fetch would resolve it. What Fetch would
// refuse is an answer here; RPC errors are for a caller that is not known, or has
// too much under way.
func (e explainer) Explain(ctx context.Context, m *fetchgatev1.ExplainRequest) (*fetchgatev1.ExplainResponse, error) {
	who, lease, err := e.admit(ctx, fetch.RightExplain)
	if err != nil {
		return nil, err
	}
	defer lease.Done()
	size := proto.Size(m)
	if refused := lease.Take(size); refused != nil {
		return nil, e.overLimit(refused)
	}
	defer lease.Give(size)
	under := e.pinned(ctx)
	plan, violations := under.examine(who, m)
	plan.Caller = who
	answer := &fetchgatev1.ExplainResponse{Generation: plan.Generation, Clamped: plan.Clamped}
	if m.GetRequest() != nil {
		answer.Limits, _ = effective(plan, nil)
	}
	if isJudged(plan) {
		decision := under.judge(ctx, plan, answer)
		if len(violations) == 0 && who.Rights&fetch.RightExplainAddresses != 0 {
			e.judgeAddresses(ctx, under, plan, decision, answer)
		}
	}
	if len(violations) > 0 {
		answer.Allowed, answer.GoesAhead, answer.Credentials = false, false, nil
		answer.Why = invalid(violations).message
		for _, v := range violations {
			answer.Violations = append(answer.Violations, &fetchgatev1.FieldViolation{Field: v.path, Description: v.description})
		}
	}
	return answer, nil
}

// examine returns the plan of a Fetch with the fields of m, as far as there is
// one, and every field for which Fetch would refuse it; unlike there, what is
// wrong beside what is not offered too.
func (s *Snapshot) examine(who fetch.Caller, m *fetchgatev1.ExplainRequest) (*fetch.Plan, []violation) {
	asked := &fetchgatev1.FetchRequest{Request: m.GetRequest(), Options: m.GetOptions()}
	asked.ProtoReflect().SetUnknown(m.ProtoReflect().GetUnknown())
	violations := refuseNotOffered(asked)
	plan, err := s.planner.plan(shape{rpc: "Fetch", who: who}, m.GetRequest(), m.GetOptions())
	if r, ok := err.(*refusal); ok {
		for _, v := range r.violations {
			if !isInside(violations, v.path) {
				violations = append(violations, v)
			}
		}
	}
	return plan, violations
}

// isInside reports whether a violation is that of path or of a field inside it.
func isInside(violations []violation, path string) bool {
	return slices.ContainsFunc(violations, func(v violation) bool {
		return v.path == path || strings.HasPrefix(v.path, path+".") || strings.HasPrefix(v.path, path+"[")
	})
}

// isJudged reports whether a plan has what policy decides by: a request that is
// wrong may lack it.
func isJudged(plan *fetch.Plan) bool {
	return plan.Destination.Host != "" && fetch.CheckMethod(plan.Method) == nil
}

// judge adds what policy says of the plan, and returns its decision.
func (s *Snapshot) judge(ctx context.Context, plan *fetch.Plan, answer *fetchgatev1.ExplainResponse) policy.Decision {
	said := s.policy.Explain(ctx, engine.PolicyAsk(plan))
	answer.Allowed, answer.Mode, answer.GoesAhead = said.Allowed, said.Mode, said.Decision.Denied == nil
	answer.CanonicalUrl = plan.Destination.RedactedURL()
	answer.Rule, answer.RuleLocation = said.Decision.Rule, said.RuleAt
	answer.Why, answer.Hint = said.Why, said.Hint
	for _, c := range said.Checks {
		answer.Checks = append(answer.Checks, &fetchgatev1.PolicyCheck{Check: c.Name, Passed: c.Passed, Detail: c.Detail})
	}
	for _, n := range said.NearMisses {
		answer.NearMisses = append(answer.NearMisses, &fetchgatev1.NearMiss{Rule: n.Rule, RuleLocation: n.At, Difference: n.Difference})
	}
	if said.Decision.Denied == nil {
		judgeCredentials(plan, said.Decision, answer)
		answer.Limits, answer.Clamped = effective(plan, said.Decision.Settings)
	}
	return said.Decision
}

// effective are the limits that are in force on the first hop of a plan, by the
// settings of its rule, and what the request asks for beyond them.
func effective(plan *fetch.Plan, s *fetch.RuleSettings) (*fetchgatev1.EffectiveLimits, []string) {
	r := engine.FirstHop(plan, s)
	return limitsMessage(r), r.Clamped
}
