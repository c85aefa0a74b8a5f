package server

import (
	"crypto/tls"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// reportMessage is the report as the contract has it; full adds the limits, the
// attempts and their hops.
func reportMessage(r *fetch.Report, full bool) *fetchgatev1.FetchReport {
	m := &fetchgatev1.FetchReport{
		AttemptCount: int32(len(r.Attempts)), HopCount: int32(r.Hops()),
		WireBytes: r.WireBytes, BodyBytes: r.BodyBytes, RequestBytes: r.RequestBytes,
		Total: durationpb.New(r.Total), Generation: r.Generation, Rule: r.Rule, Clamped: r.Clamped,
		DecodedCodings: r.Codings, UrlEncoded: r.Destination.Encoded, HistoryCut: int32(r.HistoryCut),
		RetrySuppressed: suppressedValue(r.Suppressed), FetchId: r.ID, WouldDeny: wouldDeny(r),
	}
	if !full {
		return m
	}
	m.Limits = limitsMessage(r)
	for i := range r.Attempts {
		m.Attempts = append(m.Attempts, attemptMessage(&r.Attempts[i]))
	}
	return m
}

// wouldDeny tells that rules deny a hop that went ahead all the same.
func wouldDeny(r *fetch.Report) bool {
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			if r.Attempts[i].Hops[j].WouldDeny != nil {
				return true
			}
		}
	}
	return false
}

// summaryEvent ends a stream.
func summaryEvent(r *fetch.Report, failure *fetch.Failure) *fetchgatev1.StreamFetchResponse {
	summary := &fetchgatev1.StreamSummary{
		Report:    reportMessage(r, r.Full || failure != nil),
		Trailers:  fieldMessages(r.Trailers),
		Cookies:   cookieMessages(r.Cookies),
		BodyBytes: r.BodyBytes,
	}
	if failure != nil {
		summary.Failure = failureMessage(failure, lastMessage(failure.Last), r.Generation)
	}
	return &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Summary{Summary: summary}}
}

// lastMessage is the response that a failure is about; nil if none is.
func lastMessage(last *fetch.LastResponse) *fetchgatev1.HttpResponse {
	if last == nil {
		return nil
	}
	return &fetchgatev1.HttpResponse{Head: headMessage(last.Head, last.URL), Body: last.Body}
}

// suppressedValue is the enum value of why a retry was not made.
func suppressedValue(s fetch.Suppressed) fetchgatev1.RetrySuppressed {
	if s == "" {
		return fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_UNSPECIFIED
	}
	return fetchgatev1.RetrySuppressed(fetchgatev1.RetrySuppressed_value["RETRY_SUPPRESSED_"+string(s)])
}

func limitsMessage(r *fetch.Report) *fetchgatev1.EffectiveLimits {
	t := r.Timeouts
	m := &fetchgatev1.EffectiveLimits{
		Total: elapsed(t.Total), Attempt: elapsed(t.Attempt), Pool: elapsed(t.Pool), Dns: elapsed(t.DNS),
		Connect: elapsed(t.Connect), Tls: elapsed(t.TLS), ResponseHeader: elapsed(t.Head),
		IdleRead: elapsed(t.Idle), Write: elapsed(t.Write),
		MinThroughputBytes: r.Throughput.Bytes, MinThroughputWindow: elapsed(r.Throughput.Over),
		MaxHeadBytes: int64(r.Response.MaxHeadBytes), MaxHeadFields: int32(r.Response.MaxFields),
		MaxAttempts: int32(r.MaxAttempts), MaxRedirects: int32(r.MaxRedirects),
	}
	if r.Response.MaxBodyBytes != fetch.Unbounded {
		m.MaxBodyBytes = &r.Response.MaxBodyBytes
	}
	return m
}

// elapsed is nil for what did not happen.
func elapsed(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func attemptMessage(a *fetch.Attempt) *fetchgatev1.Attempt {
	m := &fetchgatev1.Attempt{
		Number: int32(a.Number), StartTime: timestamppb.New(a.Start), Total: durationpb.New(a.Total), Wait: elapsed(a.Wait),
	}
	if f := a.Failure; f != nil {
		m.Reason, m.Message = reasonValue(f.Reason), text(f.Message)
	}
	for i := range a.Hops {
		m.Hops = append(m.Hops, hopMessage(&a.Hops[i]))
	}
	return m
}

// What a report says of one hop is bounded: upstreams choose how many there are,
// and it can be hundreds.
const (
	// maxHopURLBytes is the most of its URL, which upstreams choose too.
	maxHopURLBytes = 1 << 10
	// maxHopDenialBytes is the most of why rules would deny it.
	maxHopDenialBytes = 512
	// maxHopCredentials are twice as many as a request can name.
	maxHopCredentials = 2 * maxCredentials
)

// shortened cuts the URL of a hop, which is ASCII.
func shortened(url string) string { return url[:min(len(url), maxHopURLBytes)] }

// denialMessage is why rules would deny a hop, as the caller of one that they do
// deny is told; empty for nil. What is for the operator alone stays out.
func denialMessage(d *fetch.Denied) string {
	if d == nil {
		return ""
	}
	whole := d.Message
	if d.Hint != "" {
		whole += ". " + d.Hint
	}
	return strings.ToValidUTF8(whole[:min(len(whole), maxHopDenialBytes)], "")
}

// credentialUses are what became of the credentials of a hop: those that went
// along in their order, then those that did not. The caller is not told of what is
// bound to others.
func credentialUses(uses []fetch.CredentialUse) (list []*fetchgatev1.CredentialUse) {
	for _, dropped := range []bool{false, true} {
		for _, u := range uses {
			if u.Dropped == dropped && !u.Foreign && len(list) < maxHopCredentials {
				list = append(list, &fetchgatev1.CredentialUse{Name: u.Name, Kind: u.Kind, Applied: !u.Dropped})
			}
		}
	}
	return list
}

func hopMessage(h *fetch.Hop) *fetchgatev1.Hop {
	t := h.Facts.Times
	m := &fetchgatev1.Hop{
		Url: shortened(h.Destination.RedactedURL()), Method: h.Method, Status: int32(h.Status), Rule: h.Rule,
		WouldDeny: denialMessage(h.WouldDeny), Credentials: credentialUses(h.Credentials),
		Timings: &fetchgatev1.Timings{
			Pool: elapsed(t.Pool), Dns: elapsed(t.DNS), Connect: elapsed(t.Connect), Tls: elapsed(t.TLS),
			Send: elapsed(t.Send), FirstByte: elapsed(t.FirstByte), Total: elapsed(t.Total),
		},
	}
	if h.Facts.Dials > 0 || h.Facts.Reused {
		m.Connection = connectionMessage(h.Facts)
	}
	return m
}

func connectionMessage(f fetch.Facts) *fetchgatev1.ConnectionInfo {
	m := &fetchgatev1.ConnectionInfo{
		Protocol: f.Protocol, Reused: f.Reused, DialCount: int32(f.Dials), StaleCount: int32(f.Stale),
	}
	if f.Remote.IsValid() {
		m.RemoteAddress = f.Remote.String()
	}
	if t := f.TLS; t != nil {
		m.Tls = &fetchgatev1.TlsInfo{
			Version: tls.VersionName(t.Version), CipherSuite: tls.CipherSuiteName(t.CipherSuite),
			PeerSpkiSha256: t.PeerSPKI[:], PeerNotAfterTime: timestamppb.New(t.NotAfter), Resumed: t.Resumed,
		}
	}
	return m
}

// headMessage is a head as the contract has it.
func headMessage(h fetch.Head, url string) *fetchgatev1.HttpHead {
	return setHead(new(fetchgatev1.HttpHead), h, url)
}

// setHead makes m, which is new, that message.
func setHead(m *fetchgatev1.HttpHead, h fetch.Head, url string) *fetchgatev1.HttpHead {
	m.Protocol, m.Status, m.Reason, m.Headers, m.Url = h.Protocol, int32(h.Status), h.Reason, fieldMessages(h.Fields), url
	return m
}

// fieldMessages allocates the messages of a whole list at once.
func fieldMessages(fields []fetch.Field) []*fetchgatev1.HeaderField {
	if len(fields) == 0 {
		return nil
	}
	all := make([]fetchgatev1.HeaderField, len(fields))
	list := make([]*fetchgatev1.HeaderField, len(fields))
	for i, f := range fields {
		all[i].Name, all[i].Value = text(f.Name), f.Value
		list[i] = &all[i]
	}
	return list
}
