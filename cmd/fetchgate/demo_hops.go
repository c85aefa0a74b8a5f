package main

import (
	"context"
	"net/http"
	"slices"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// demoPrefix is how much of a body of demoWhole bytes the upstream sends before
// it hangs up.
const (
	demoWhole  = 100_000
	demoPrefix = 60_000
)

func (d *demo) stepRetry(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	answer, err := d.ask(ctx, d.upstream.plain+"/unsteady")
	if err != nil {
		c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
		return
	}
	c.that(answer.GetResponse().GetHead().GetStatus() == http.StatusOK, "the answer is %s", outcome(answer))
	seen := d.upstream.requests()[before:]
	c.that(len(seen) == 2, "the upstream recorded %s", lines(seen))
	attempts := answer.GetReport().GetAttempts()
	statuses := statusesOf(attempts)
	c.that(answer.GetReport().GetAttemptCount() == 2 && slices.Equal(statuses, []int32{503, 200}),
		"the report says %s, with the statuses %v", count(answer.GetReport().GetAttemptCount(), "attempt"), statuses)
	if len(attempts) > 1 {
		c.that(attempts[1].GetWait() != nil, "between them it waited %s", duration(attempts[1].GetWait()))
	}
}

func (d *demo) stepRedirect(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	answer, err := d.ask(ctx, d.upstream.plain+"/moved")
	if err != nil {
		c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
		return
	}
	response := answer.GetResponse()
	c.that(response.GetHead().GetStatus() == http.StatusOK && string(response.GetBody()) == demoGreeting,
		"the answer is %s, from %s", outcome(answer), escaped(response.GetHead().GetUrl()))
	seen := d.upstream.requests()[before:]
	c.that(len(seen) == 2, "the upstream recorded %s", lines(seen))
	statuses := statusesOf(answer.GetReport().GetAttempts())
	c.that(answer.GetReport().GetAttemptCount() == 1 && slices.Equal(statuses, []int32{302, 200}),
		"the report says %s, with the statuses %v", count(answer.GetReport().GetHopCount(), "hop"), statuses)
	history := response.GetHistory()
	c.that(len(history) == 1 && history[0].GetStatus() == http.StatusFound, "the answer has the heads of %s before its own", count(int32(len(history)), "response"))
}

func (d *demo) stepTrap(ctx context.Context, c *checks) {
	denials := []fetchgatev1.FailureReason{
		fetchgatev1.FailureReason_FAILURE_REASON_REDIRECT_DENIED, fetchgatev1.FailureReason_FAILURE_REASON_ADDRESS_DENIED}
	for _, trap := range []string{"metadata", "private"} {
		before := len(d.upstream.requests())
		answer, err := d.ask(ctx, d.upstream.plain+"/trap/"+trap)
		if err != nil {
			c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
			continue
		}
		failure := answer.GetFailure()
		c.that(slices.Contains(denials, failure.GetReason()) && failure.GetBlame() == fetchgatev1.Blame_BLAME_POLICY,
			"a redirect to %s: %s", demoTraps[trap], outcome(answer))
		seen := d.upstream.requests()[before:]
		statuses := statusesOf(answer.GetReport().GetAttempts())
		c.that(len(seen) == 1 && len(statuses) > 0 && statuses[0] == http.StatusFound, "the upstream recorded %s, and answered %v", lines(seen), statuses)
	}
}

func (d *demo) stepCut(ctx context.Context, c *checks) {
	answer, err := d.ask(ctx, d.upstream.plain+"/cut")
	if err != nil {
		c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
		return
	}
	failure := answer.GetFailure()
	c.that(failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_INCOMPLETE_BODY && failure.GetBlame() == fetchgatev1.Blame_BLAME_UPSTREAM,
		"the answer is %s", outcome(answer))
	short := failure.GetBodyShort()
	c.that(short.GetReceivedBytes() == demoPrefix && short.GetExpectedBytes() == demoWhole,
		"of %d bytes %d arrived", short.GetExpectedBytes(), short.GetReceivedBytes())
	c.that(len(failure.GetResponse().GetBody()) == demoPrefix, "the failure holds these %d bytes, as a prefix", len(failure.GetResponse().GetBody()))
}

// statusesOf are those of all hops, in their order.
func statusesOf(attempts []*fetchgatev1.Attempt) []int32 {
	var statuses []int32
	for _, attempt := range attempts {
		for _, hop := range attempt.GetHops() {
			statuses = append(statuses, hop.GetStatus())
		}
	}
	return statuses
}
