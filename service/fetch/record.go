package fetch

import "context"

// Outcome is how a fetch ended.
type Outcome string

// The outcomes.
const (
	// OutcomeResponse: the upstream answered, whatever its status.
	OutcomeResponse Outcome = "response"
	// OutcomeFailure: it was carried out and gave no usable response.
	OutcomeFailure Outcome = "failure"
	// OutcomeDenied: policy denied it before anything was sent.
	OutcomeDenied Outcome = "denied"
	// OutcomeRejected: it was not carried out for another reason: a field that
	// is wrong, a limit, a drain.
	OutcomeRejected Outcome = "rejected"
	// OutcomeCanceled: its caller went away.
	OutcomeCanceled Outcome = "canceled"
)

// Recorder writes the evidence of fetches. It is safe for concurrent use.
type Recorder interface {
	// Begin notes that an RPC that fetches began, and sees to it that there
	// will be room for its record. Its error refuses the RPC: there is no room,
	// and the operator wants no fetch without a record.
	Begin(rpc string) error
	// End writes the record of what Begin began. Each Begin without an error is
	// followed by one End. ctx is that of the RPC; r is not kept. It may wait for
	// room: the place of the fetch is free only afterwards.
	End(ctx context.Context, r *Report)
}
