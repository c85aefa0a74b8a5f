package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// JudgeHost resolves a host and judges its addresses as a dial to it would, and
// connects to none. The look-up takes no longer than within. The error is that of
// the dial before its first connect: a *fetch.Denied, with the addresses, or a
// *fetch.Failure, without.
type JudgeHost func(ctx context.Context, host string, port uint16, route fetch.Route, within time.Duration) ([]fetch.JudgedAddress, error)

// maxAddressesTold is the most allowed addresses that Explain tells, and the most
// denied ones: whoever answers for a name chooses how many there are.
const maxAddressesTold = 64

// judgeAddresses adds the addresses of a host and what policy says of them, for a
// caller with the right to it. Where a fetch would not get as far as to resolve the
// name, it is not resolved here either: nobody learns of hosts that policy denies.
func (e explainer) judgeAddresses(ctx context.Context, s *Snapshot, plan *fetch.Plan, d policy.Decision, answer *fetchgatev1.ExplainResponse) {
	to := plan.Destination.Origin
	literal, isLiteral := to.Addr()
	if isLiteral && d.Denied != nil && d.Denied.Reason == fetch.ReasonAddressDenied {
		answer.Addresses = s.addressMessages([]fetch.JudgedAddress{{Address: literal, Denial: d.Denied}})
	}
	if !answer.GoesAhead || e.judgeHost == nil {
		return
	}
	within := lookupTime(ctx, engine.FirstHop(plan, d.Settings).Timeouts)
	judged, err := e.judgeHost(ctx, to.Host, to.Port, fetch.Route{Allow: d.Allow, FilterMixed: d.FilterMixed}, within)
	answer.Addresses = s.addressMessages(judged)
	check := &fetchgatev1.PolicyCheck{Check: "address", Passed: err == nil, Detail: addressesDetail(judged)}
	denied, isDenied := errors.AsType[*fetch.Denied](err)
	switch {
	case isDenied:
		check.Detail = denied.Message
		s.deny(denied, answer)
	case err != nil:
		check.Detail = notResolved(err)
		answer.Why += "; now they are not known: " + check.Detail
	}
	if !isLiteral || isDenied { // policy has judged the literal
		answer.Checks = append(answer.Checks, check)
	}
}

// lookupTime is how long a look-up may take: as long as that of a fetch with these
// timeouts, and so that the answer arrives by the deadline of the RPC.
func lookupTime(ctx context.Context, t fetch.Timeouts) time.Duration {
	within := t.DNS
	for _, whole := range []time.Duration{t.Attempt, t.Total} {
		if whole > 0 {
			within = min(within, whole)
		}
	}
	if left, ok := engine.TimeLeft(ctx); ok {
		within = min(within, left)
	}
	return within
}

// addressMessages are the addresses in the order of the answer.
func (s *Snapshot) addressMessages(judged []fetch.JudgedAddress) (list []*fetchgatev1.AddressDecision) {
	told := map[bool]int{}
	for _, j := range judged {
		isAllowed := j.Denial == nil
		if told[isAllowed]++; told[isAllowed] <= maxAddressesTold {
			list = append(list, &fetchgatev1.AddressDecision{Address: j.Address.String(), Allowed: isAllowed, AddressClass: s.classOf(j.Address, j.Denial)})
		}
	}
	return list
}

// classOf is the class of an address: the one for which it was denied, if it was.
func (s *Snapshot) classOf(a netip.Addr, denial error) string {
	if d, ok := errors.AsType[*fetch.Denied](denial); ok && d.Class != "" {
		return d.Class
	}
	return s.policy.AddressClass(a)
}

// addressesDetail says how many addresses there are where a fetch goes ahead.
func addressesDetail(judged []fetch.JudgedAddress) string {
	denied := 0
	for _, j := range judged {
		if j.Denial != nil {
			denied++
		}
	}
	switch {
	case denied > 0:
		return fmt.Sprintf("%d addresses, %d of them denied and left out by the rule (mixed_answers: filter)", len(judged), denied)
	case len(judged) == 1:
		return "1 address, allowed"
	}
	return fmt.Sprintf("%d addresses, all allowed", len(judged))
}

// notResolved says why there are no addresses, as a failed fetch would. What the
// resolver said is for the operator alone.
func notResolved(err error) string {
	if f, ok := errors.AsType[*fetch.Failure](err); ok {
		return string(f.Reason) + ": " + f.Message
	}
	return "the look-up was cut off"
}

// deny makes answer that of a fetch that was denied where it dialed.
func (s *Snapshot) deny(d *fetch.Denied, answer *fetchgatev1.ExplainResponse) {
	answer.Allowed, answer.GoesAhead, answer.Credentials = false, false, nil
	answer.Why, answer.Hint = d.Message, d.Hint
	for _, check := range answer.Checks {
		if check.Check == "mode" {
			check.Detail += ", but addresses are judged in every mode"
		}
	}
	answer.Mode = "enforce" // no other lets it go ahead
	if d.Rule != "" {
		answer.Rule, answer.RuleLocation = d.Rule, s.policy.RuleAt(d.Rule)
	}
}
