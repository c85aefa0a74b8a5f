package fetch

// WordEntry says what a word of the contract that is no reason of a failure
// means and what to do about it. docs/errors.md and the command line say the
// same.
type WordEntry struct {
	Word string
	// Code is the status code of an RPC error with this word, as gRPC spells
	// it, or two and when which; empty for a word of a report.
	Code  string
	Blame Blame
	// Retryable tells that the same request can succeed a little later.
	Retryable bool
	Means     string
	Next      string
}

// RefusalTable holds the words of RPC errors that are no reasons of failures,
// in the order of the contract. fetchgate then did not carry out the fetch.
var RefusalTable = []WordEntry{
	{"FIELD_INVALID", "INVALID_ARGUMENT", BlameCaller, false,
		"A field of the request is wrong.",
		"Mend the fields that the error names."},
	{"NOT_OFFERED", "INVALID_ARGUMENT", BlameCaller, false,
		"A field of the request asks for what this server does not offer.",
		"Leave out the fields that the error names, or ask a newer server."},
	{"CA_UNKNOWN", "INVALID_ARGUMENT", BlameCaller, true,
		"The server does not know the roots that options.tls.ca_sha256 names.",
		"Send the roots themselves, as options.tls.ca_pem."},
	{"CALLER_UNKNOWN", "UNAUTHENTICATED", BlameCaller, false,
		"The caller has not proved who it is, or is not configured.",
		"Ask the operator how callers prove who they are."},
	{"RIGHT_MISSING", "PERMISSION_DENIED", BlamePolicy, false,
		"The caller is known, and may not call this RPC.",
		"Ask the caller's owner, whom the error names, to have the right added to callers[].rights."},
	{string(ReasonDestinationDenied), "PERMISSION_DENIED", BlamePolicy, false,
		"Policy denies the place that the request goes to; nothing was sent.",
		"Ask the owner of the policy; the error names the rule."},
	{"CALLER_QUOTA", "RESOURCE_EXHAUSTED", BlameCaller, true,
		"The caller has as many fetches as it may have.",
		"Wait as long as RetryInfo says, or ask the operator for a higher quota."},
	{"OVERLOADED", "RESOURCE_EXHAUSTED at a limit; UNAVAILABLE where the audit record has no room (audit.on_full: refuse or block)", BlameFetchgate, true,
		"fetchgate has as much to do as it can take; it did nothing for this request.",
		"Try another replica, or wait a little."},
}

// SuppressedTable holds the words of a report that tell why a retry was not
// made, in the order of the contract.
var SuppressedTable = []WordEntry{
	{string(SuppressedBudget), "", BlameFetchgate, true,
		"The retries of this caller to this origin are used up for the moment, so that an upstream in trouble is not given more work.",
		"Wait a little; look at the upstream, which fails more often than it should."},
	{string(SuppressedDeadline), "", BlameCaller, true,
		"The next attempt would begin too late: after the total timeout, or after retry_after_max.",
		"Try again later, or raise options.timeouts.total or options.retry.retry_after_max."},
	{string(SuppressedNotIdempotent), "", BlameCaller, false,
		"Bytes of the request left, and its method may not be sent twice.",
		"If this request may be sent twice, name its method in options.retry.methods."},
	{string(SuppressedBody), "", BlameCaller, false,
		"The body cannot be sent again.",
		"Send the body whole, or say that it is replayable."},
	{string(SuppressedMax), "", BlameUpstream, true,
		"As many attempts, or retries of this kind, as allowed were made.",
		"Read the failures of the attempts in the report; then raise options.retry.max_attempts if it helps."},
}

// Who says in words who must act.
func (b Blame) Who() string {
	switch b {
	case BlameCaller:
		return "the caller"
	case BlamePolicy:
		return "the owner of the policy"
	case BlameFetchgate:
		return "the operator of fetchgate"
	case BlameNetwork:
		return "who runs the network between fetchgate and the upstream, its resolver included"
	case BlameUpstream:
		return "the owner of the upstream"
	}
	return "not known"
}

// Where says in words how far the hop came.
func (s Stage) Where() string {
	switch s {
	case StageWait:
		return "waiting for a connection, a limit or the next attempt"
	case StageResolve:
		return "resolving the host's name"
	case StageConnect:
		return "connecting"
	case StageProxy:
		return "asking a proxy for the connection"
	case StageTLS:
		return "the TLS handshake"
	case StageSend:
		return "sending the request"
	case StageHead:
		return "waiting for the response head"
	case StageBody:
		return "reading the body"
	case StageDecode:
		return "decoding the body"
	}
	return "not one stage only"
}
