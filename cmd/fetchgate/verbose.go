package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// transcript tells what was said to upstreams and what they said, as curl does
// with -v: "> " before what was sent, "< " before what came, "* " before what
// is known besides. A nil transcript tells nothing.
type transcript struct {
	w    io.Writer
	sent *fetchgatev1.FetchRequest

	begun bool // whether the request was printed
	jar   bool // whether a response may have set a cookie
}

// whole tells all of a fetch whose answer came in one message.
func (t *transcript) whole(answer *fetchgatev1.FetchResponse) {
	if t == nil {
		return
	}
	attempts := answer.GetReport().GetAttempts()
	for i, attempt := range attempts {
		var heads []*fetchgatev1.HttpHead // those of earlier attempts are not kept
		if i == len(attempts)-1 {
			heads = lastHeads(answer, attempt)
		}
		t.attempt(attempt)
		for j, hop := range attempt.GetHops() {
			fmt.Fprintf(t.w, "* hop %d: %s %s\n", j+1, escaped(hop.GetMethod()), escaped(hop.GetUrl()))
			t.hop(hop)
			var head *fetchgatev1.HttpHead
			if heads != nil {
				head = heads[j]
			}
			if !hasLeft(hop) {
				fmt.Fprintln(t.w, "* nothing was sent")
				continue
			}
			t.request(hop, head, j == 0)
			t.response(hop, head)
		}
		t.outcome(attempt)
	}
	t.suppressed(answer.GetReport())
}

// hasLeft tells whether a request left, or began to.
func hasLeft(h *fetchgatev1.Hop) bool {
	return h.GetStatus() != 0 || h.GetTimings().GetSend() != nil || h.GetTimings().GetFirstByte() != nil
}

// lastHeads are the heads of the hops of the last attempt, nil for those that
// did not come or were cut for their size.
func lastHeads(answer *fetchgatev1.FetchResponse, last *fetchgatev1.Attempt) []*fetchgatev1.HttpHead {
	response := answer.GetResponse()
	if response == nil {
		response = answer.GetFailure().GetResponse()
	}
	left := append([]*fetchgatev1.HttpHead(nil), response.GetHistory()...)
	if response.GetHead() != nil {
		left = append(left, response.GetHead())
	}
	heads := make([]*fetchgatev1.HttpHead, len(last.GetHops()))
	for i := len(heads) - 1; i >= 0 && len(left) > 0; i-- {
		if head := left[len(left)-1]; head.GetStatus() == last.GetHops()[i].GetStatus() {
			heads[i], left = head, left[:len(left)-1]
		}
	}
	return heads
}

// came tells of a head as it comes, and before the first what was sent for it.
func (t *transcript) came(head *fetchgatev1.HttpHead) {
	if t == nil {
		return
	}
	if !t.begun {
		t.begun = true
		t.request(nil, head, true)
	}
	t.response(nil, head)
}

// facts tells, after a stream, what its heads did not.
func (t *transcript) facts(report *fetchgatev1.FetchReport) {
	if t == nil {
		return
	}
	for _, attempt := range report.GetAttempts() {
		t.attempt(attempt)
		for i, hop := range attempt.GetHops() {
			fmt.Fprintf(t.w, "* hop %d: %s\n", i+1, hopOutcome(hop))
			t.hop(hop)
		}
		t.outcome(attempt)
	}
	t.suppressed(report)
}

func (t *transcript) attempt(a *fetchgatev1.Attempt) {
	if wait := a.GetWait().AsDuration(); wait > 0 {
		fmt.Fprintf(t.w, "* waited %s\n", formatDuration(wait))
	}
	if a.GetNumber() > 1 {
		fmt.Fprintf(t.w, "* attempt %d\n", a.GetNumber())
	}
}

func (t *transcript) hop(h *fetchgatev1.Hop) {
	for _, line := range slices.Concat(policyLines(h), connectionLines(h.GetConnection())) {
		fmt.Fprintf(t.w, "* %s\n", line)
	}
	if times := stageTimes(h.GetTimings()); times != "" {
		fmt.Fprintf(t.w, "* %s\n", times)
	}
}

func (t *transcript) outcome(a *fetchgatev1.Attempt) {
	if a.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_UNSPECIFIED {
		fmt.Fprintf(t.w, "* attempt %d failed: %s: %s\n", a.GetNumber(), enumName(a.GetReason().String(), "FAILURE_REASON_"), escaped(a.GetMessage()))
	}
}

func (t *transcript) suppressed(r *fetchgatev1.FetchReport) {
	if why := suppressed(r); why != "" {
		fmt.Fprintf(t.w, "* %s\n", why)
	}
}

// request tells of a request. Its fields are known of the first hop alone.
func (t *transcript) request(hop *fetchgatev1.Hop, head *fetchgatev1.HttpHead, first bool) {
	url, method := hop.GetUrl(), hop.GetMethod()
	if first {
		url, method = t.sent.GetRequest().GetUrl(), t.sent.GetRequest().GetMethod()
	} else if head.GetUrl() != "" {
		url = head.GetUrl()
	}
	protocol := requestProtocol(cmp.Or(hop.GetConnection().GetProtocol(), head.GetProtocol()))
	to, err := fetch.ParseURL(url)
	if err == nil && first {
		to, err = withRawTarget(to, t.sent.GetRequest())
	}
	if err != nil { // a service that lets it pass reads it otherwise
		fmt.Fprintf(t.w, "> %s %s %s\n", escaped(cmp.Or(method, "GET")), escaped(url), escaped(protocol))
		return
	}
	fmt.Fprintf(t.w, "> %s %s %s\n", escaped(cmp.Or(method, "GET")), escaped(to.Target), escaped(protocol))
	if first {
		t.fields("> ", wireFields(t.sent, to.Origin))
		if hasServiceAgent(t.sent) {
			fmt.Fprintln(t.w, "* and the service's User-Agent")
		}
	} else {
		fmt.Fprintf(t.w, "> Host: %s\n", escaped(to.Origin.Authority()))
		fmt.Fprintln(t.w, "* and those fields of the first request that the redirect left")
	}
	if t.jar {
		fmt.Fprintln(t.w, "* cookies of the jar are not shown")
	}
	fmt.Fprintln(t.w, ">")
}

// response tells of a response; of one whose head is not known, its status.
func (t *transcript) response(hop *fetchgatev1.Hop, head *fetchgatev1.HttpHead) {
	switch {
	case head != nil:
		t.jar = t.jar || hasField(head.GetHeaders(), "Set-Cookie")
		fmt.Fprintf(t.w, "< %s %s\n", escaped(head.GetProtocol()), statusLine(head))
		t.fields("< ", head.GetHeaders())
	case hop.GetStatus() != 0:
		t.jar = true // the head is not known
		fmt.Fprintf(t.w, "< %s %d\n", escaped(hop.GetConnection().GetProtocol()), hop.GetStatus())
	default:
		fmt.Fprintln(t.w, "* no response")
		return
	}
	fmt.Fprintln(t.w, "<")
}

func (t *transcript) fields(prefix string, fields []*fetchgatev1.HeaderField) {
	for _, f := range fields {
		fmt.Fprintf(t.w, "%s%s: %s\n", prefix, escaped(f.GetName()), shownValue(f))
	}
}

// shownValue is the value of a field, unless it holds credentials or cookies.
func shownValue(f *fetchgatev1.HeaderField) string {
	switch strings.ToLower(f.GetName()) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
		return "[redacted]"
	}
	return fetch.Escape(f.GetValue(), maxMessage)
}

// hasServiceAgent tells that the service names itself and its version, which are
// not known here, in a User-Agent field.
func hasServiceAgent(r *fetchgatev1.FetchRequest) bool {
	request := r.GetRequest()
	return !r.GetOptions().GetVerbatim() && len(request.GetOmitDefaultFields()) == 0 && !hasField(request.GetHeaders(), "User-Agent")
}

// requestProtocol is what a request says that a response of that protocol
// answers: an upstream may answer HTTP/1.1 with less.
func requestProtocol(answered string) string {
	if strings.HasPrefix(answered, "HTTP/1") {
		return "HTTP/1.1"
	}
	return answered
}

// wireFields are the fields of the first hop as far as they can be known here:
// those of the caller, then what goes with the body, then the defaults, which a
// verbatim request has not; of these hasServiceAgent tells.
func wireFields(r *fetchgatev1.FetchRequest, to fetch.Origin) []*fetchgatev1.HeaderField {
	given := r.GetRequest().GetHeaders()
	var fields []*fetchgatev1.HeaderField
	add := func(name, value string) {
		if !hasField(given, name) {
			fields = append(fields, &fetchgatev1.HeaderField{Name: name, Value: []byte(value)})
		}
	}
	add("Host", to.Authority())
	fields = append(fields, given...)
	isVerbatim := r.GetOptions().GetVerbatim()
	encoded, err := body.Encode(r.GetRequest().GetBody())
	if err == nil && encoded.ContentType != "" && !isVerbatim {
		add("Content-Type", encoded.ContentType)
	}
	if err == nil && !hasField(given, "Transfer-Encoding") {
		add("Content-Length", strconv.FormatInt(encoded.Source.Length(), 10))
	}
	if r.GetOptions().GetProtocol().GetExpectContinue() {
		add("Expect", "100-continue")
	}
	if isVerbatim {
		return fields
	}
	if len(r.GetRequest().GetCookies()) > 0 {
		add("Cookie", "")
	}
	add("Accept", "*/*")
	decode := r.GetOptions().GetResponse()
	if (decode == nil || decode.Decode == nil || decode.GetDecode()) && !hasField(given, "Range") {
		add("Accept-Encoding", body.AcceptEncoding)
	}
	return fields
}
