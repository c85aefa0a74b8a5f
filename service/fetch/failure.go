package fetch

import (
	"fmt"
	"time"
)

// Blame says who must act on a failure.
type Blame string

// The blames.
const (
	BlameCaller    Blame = "CALLER"
	BlamePolicy    Blame = "POLICY"
	BlameFetchgate Blame = "FETCHGATE"
	BlameNetwork   Blame = "NETWORK"
	BlameUpstream  Blame = "UPSTREAM"
)

// Stage is how far a hop came.
type Stage string

// The stages, in the order in which a hop passes them.
const (
	StageUnspecified Stage = ""
	StageWait        Stage = "WAIT"
	StageResolve     Stage = "RESOLVE"
	StageConnect     Stage = "CONNECT"
	StageProxy       Stage = "PROXY"
	StageTLS         Stage = "TLS"
	StageSend        Stage = "SEND"
	StageHead        Stage = "HEAD"
	StageBody        Stage = "BODY"
	StageDecode      Stage = "DECODE"
)

// RequestSent tells whether bytes of the request left towards the upstream.
// It decides whether sending the request again can repeat its effect.
type RequestSent string

// The answers.
const (
	SentNo      RequestSent = "NO"
	SentYes     RequestSent = "YES"
	SentUnknown RequestSent = "UNKNOWN"
)

// Failure says why there is no usable answer of the upstream. It goes to the
// caller in-band, so Message never holds a secret, a query or a body.
type Failure struct {
	Reason  Reason
	Blame   Blame
	Stage   Stage
	Sent    RequestSent
	Message string
	// RetryAfter is how long to wait before the next try; 0 means not known.
	RetryAfter time.Duration
	// Cause is for the log; the caller does not see it.
	Cause error
	// Last is the response that the failure is about, where no sink had it.
	Last *LastResponse

	// At most one of these is set.
	Short    *BodyShort
	TLS      *TLSFault
	Denial   *Denied
	LimitHit *LimitHit
}

// LastResponse is a response that came and was not taken for the answer.
type LastResponse struct {
	Head Head
	URL  string
	// Body is its beginning.
	Body []byte
}

// BodyShort tells how much of a body arrived.
type BodyShort struct{ Received, Expected int64 } // Expected is -1 when unknown

// TLSFault tells what was wrong with a handshake.
type TLSFault struct {
	// Alert is the TLS alert that the upstream sent (RFC 8446 section 6), or 0.
	Alert uint8
	// Subject, Issuer and Names are of the certificate that was refused,
	// bytes as the upstream wrote them.
	Subject, Issuer string
	Names           []string
	NotBefore       time.Time
	NotAfter        time.Time
}

// LimitHit names the limit that ended a fetch.
type LimitHit struct {
	// Limit is the name of its row in docs/limits.md.
	Limit string
	// Max is its value in bytes or as a count.
	Max int64
}

// Fail returns a failure with the blame and stage that its reason usually has.
func Fail(reason Reason, message string, cause error) *Failure {
	e := reason.Entry()
	return &Failure{Reason: reason, Blame: e.Blame, Stage: e.Stage, Message: message, Cause: cause}
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %s", f.Reason, f.Message) }

func (f *Failure) Unwrap() error { return f.Cause }

// Retryable tells that the same request can succeed a little later.
func (f *Failure) Retryable() bool { return f.Reason.Entry().Retryable }

// Denied is policy's no. On the first hop of the first attempt nothing was
// sent and the RPC fails; later it becomes a Failure. The caller learns
// Reason, Rule, Message and Hint; Audit is for the operator alone.
type Denied struct {
	// Reason is ADDRESS_DENIED, PATH_AMBIGUOUS or DESTINATION_DENIED.
	Reason  Reason
	Rule    string
	Message string
	Hint    string
	Audit   string
	// Class is the kind of address that was denied, if one was.
	Class string
	// Check is what of the request was denied where that is neither its host nor
	// what rules ask for: "port", "field" or "body"; else empty.
	Check string
}

// ReasonDestinationDenied is the reason of a Denied by name, port, method or
// path. It is a word of RPC errors only: in-band it is ReasonRedirectDenied.
const ReasonDestinationDenied Reason = "DESTINATION_DENIED"

func (d *Denied) Error() string { return "denied: " + d.Message }

// AsFailure returns the in-band form of a denial on a later hop or attempt.
func (d *Denied) AsFailure() *Failure {
	reason := d.Reason
	if reason == ReasonDestinationDenied {
		reason = ReasonRedirectDenied
	}
	f := Fail(reason, d.Message, d)
	f.Blame, f.Denial, f.Sent = BlamePolicy, d, SentNo
	return f
}
