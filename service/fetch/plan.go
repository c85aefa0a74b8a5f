package fetch

import (
	"crypto/x509"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Caller is the service that calls fetchgate.
type Caller struct {
	// Name is the configured name, "anonymous" when nobody was asked to prove one.
	Name string
	// Identity is what was verified: a SPIFFE ID, a DNS name, "issuer subject" of
	// a token, the beginning of a token's digest, "unix:uid=1000". Empty: nothing
	// was.
	Identity string
	// Owner answers for the caller; empty if the configuration names nobody.
	Owner string
	// Anonymous tells that no identity was proved.
	Anonymous bool
	// Rights are what it may do.
	Rights Rights
	// Peer is the address that the RPC came from; not valid where it has none, as
	// over a unix socket.
	Peer netip.AddrPort
	// User is whose process the RPC came from, known over a unix socket alone.
	User User
	// Claims are those of the JWT that proved it; empty: another proof did.
	Claims Claims
	// Certificates are what its connection was verified by; nil: it showed none.
	Certificates *Certificates
}

// Certificates are the chains of a verified certificate, each from the
// certificate to an authority.
type Certificates [][]*x509.Certificate

// Claims are what a JWT says of its caller: its second part, as it came. Without
// the third they prove nothing; they are not printed all the same.
type Claims string

// Format prints whether there are any, for every verb.
func (c Claims) Format(s fmt.State, _ rune) {
	if c == "" {
		fmt.Fprint(s, "none")
		return
	}
	fmt.Fprint(s, "[redacted]")
}

// MarshalText shows nothing.
func (c Claims) MarshalText() ([]byte, error) { return fmt.Append(nil, c), nil }

// User is a user of this machine, as the system says.
type User struct {
	ID    uint32
	Known bool
}

// Rights are a set of them, as bits.
type Rights uint16

// The rights, in the order of RightNames.
const (
	RightFetch Rights = 1 << iota
	RightStream
	RightBatch
	RightExchange
	RightExplain
	// RightExplainAddresses lets Explain resolve names, and tell the addresses.
	RightExplainAddresses
	// RightOperate is for those who run fetchgate.
	RightOperate
)

// DefaultRights are those of a caller whose configuration names none.
const DefaultRights = RightFetch | RightStream | RightBatch | RightExchange | RightExplain

// RightNames are what the configuration and denials call them.
var RightNames = []string{"fetch", "stream", "batch", "exchange", "explain", "explain:addresses", "operate"}

// Plan is a fetch with nothing left to decide but what the upstream does.
type Plan struct {
	// ID names the fetch in its report and in the audit record.
	ID string
	// RPC is the method name, for logs and metrics: "Fetch", "StreamFetch".
	RPC    string
	Caller Caller
	// Needs are the rights of which the caller needs one for the RPC.
	Needs Rights

	Method      string
	Destination Destination
	// Fields are the caller's fields in order, then the default fields that
	// were not omitted.
	Fields []Field
	// Source is the body; nil means none.
	Source Source
	// Trailers go out behind the body, which is then sent in chunks.
	Trailers []Field
	// ExpectContinue holds the body back as Request.ExpectContinue does.
	ExpectContinue bool
	// Verbatim sends what Fields say and nothing else, in the caller's own
	// partition of the pool; see Request.Verbatim.
	Verbatim bool

	Timeouts Timeouts
	Response ResponsePlan
	// Asked tells which of them, and of Retry, the request names.
	Asked Asked
	// MinThroughput ends a body that is slower; a zero Bytes means never.
	MinThroughput Throughput

	TLS        TLSSettings
	Version    HTTPVersion
	Affinity   string
	Fresh      bool
	CloseAfter bool

	Retry    RetryPlan
	Redirect RedirectPlan
	// Cookies are in the jar of the fetch before its first hop.
	Cookies []Cookie
	// MaxDials is the most connections that one attempt may open.
	MaxDials int
	// Credentials are those that the request asks for, in its order. Held are all
	// that the server holds, for rules to name; nil means none.
	Credentials []Credential
	Held        Credentials

	// Labels are the caller's, for the audit record.
	Labels map[string]string
	// Traceparent is the caller's trace (W3C Trace Context section 3.2), valid or
	// empty. It goes upstream only by rule.
	Traceparent string

	// FullReport asks for attempts and hops in the report of a success too.
	FullReport bool
	// Clamped names the fields of the request that were over a limit of the
	// server and were lowered to it, as paths ("options.timeouts.total").
	Clamped []string
	// Generation is the configuration that the whole fetch runs under.
	Generation int64
}

// ResponsePlan says what to do with a response.
type ResponsePlan struct {
	// MaxHeadBytes and MaxFields bound a head; an interim one and trailers too.
	MaxHeadBytes int
	MaxFields    int
	// MaxInterim is the most 1xx heads one response may have.
	MaxInterim int
	// MaxBodyBytes is the most bytes of body the caller gets, decoded if Decode.
	MaxBodyBytes int64
	// TooLarge is the reason when there are more.
	TooLarge Reason
	// Decode undoes the content codings that fetchgate knows.
	Decode bool
	// MaxCodings is the most stacked codings; MaxRatio the most decoded bytes
	// for each wire byte, after RatioFloor decoded bytes.
	MaxCodings int
	MaxRatio   int64
	RatioFloor int64
	// Interim passes 1xx heads on.
	Interim bool
	// KeepChunks hands a body on by HTTP chunks, and tells where each ends.
	KeepChunks bool
}

// Throughput is a rate: Bytes in every window of Over.
type Throughput struct {
	Bytes int64
	Over  time.Duration
}

// Unbounded is a size that no body reaches: that of a stream without a limit of
// its own.
const Unbounded = math.MaxInt64
