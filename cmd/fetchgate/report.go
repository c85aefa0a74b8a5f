package main

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// printHead prints the head of a response, if there is one. An upstream wrote
// it, so all of it is escaped.
func printHead(w io.Writer, head *fetchgatev1.HttpHead) {
	if head == nil {
		return
	}
	fmt.Fprintf(w, "%s %s\n", escaped(head.GetProtocol()), statusLine(head))
	for _, field := range head.GetHeaders() {
		fmt.Fprintf(w, "%s: %s\n", escaped(field.GetName()), fetch.Escape(field.GetValue(), maxMessage))
	}
}

// printReport prints what was done for a fetch.
func printReport(w io.Writer, r *fetchgatev1.FetchReport) {
	fmt.Fprintf(w, "report: %s, %s, %s; rule %s, generation %d\n",
		count(r.GetAttemptCount(), "attempt"), count(r.GetHopCount(), "hop"), duration(r.GetTotal()),
		cmp.Or(escaped(r.GetRule()), "none"), r.GetGeneration())
	fmt.Fprintf(w, "  body %s, on the wire %s", formatBytes(r.GetBodyBytes()), formatBytes(r.GetWireBytes()))
	if codings := r.GetDecodedCodings(); len(codings) > 0 {
		fmt.Fprintf(w, " (%s)", escaped(strings.Join(codings, ", ")))
	}
	fmt.Fprintf(w, "; request body %s\n", formatBytes(r.GetRequestBytes()))
	for _, attempt := range r.GetAttempts() {
		printAttempt(w, attempt)
	}
	printLimits(w, r.GetLimits())
	if clamped := r.GetClamped(); len(clamped) > 0 {
		fmt.Fprintf(w, "  lowered to the service's maximum: %s\n", escaped(strings.Join(clamped, ", ")))
	}
	if r.GetUrlEncoded() {
		fmt.Fprintln(w, "  illegal bytes of the URL were percent-encoded")
	}
}

func printAttempt(w io.Writer, a *fetchgatev1.Attempt) {
	fmt.Fprintf(w, "  attempt %d: %s", a.GetNumber(), duration(a.GetTotal()))
	if wait := a.GetWait().AsDuration(); wait > 0 {
		fmt.Fprintf(w, " after %s of waiting", formatDuration(wait))
	}
	if a.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_UNSPECIFIED {
		fmt.Fprintf(w, "; %s: %s", strings.TrimPrefix(a.GetReason().String(), "FAILURE_REASON_"), escaped(a.GetMessage()))
	}
	fmt.Fprintln(w)
	for _, hop := range a.GetHops() {
		printHop(w, hop)
	}
}

func printHop(w io.Writer, h *fetchgatev1.Hop) {
	outcome := "no head"
	if h.GetStatus() != 0 {
		outcome = fmt.Sprint(h.GetStatus())
	}
	fmt.Fprintf(w, "    %s %s: %s, rule %s\n", escaped(h.GetMethod()), escaped(h.GetUrl()), outcome, cmp.Or(escaped(h.GetRule()), "none"))
	if times := stageTimes(h.GetTimings()); times != "" {
		fmt.Fprintf(w, "      %s\n", times)
	}
	c := h.GetConnection()
	if c == nil {
		return
	}
	origin := "new connection"
	if c.GetReused() {
		origin = "pooled connection"
	}
	fmt.Fprintf(w, "      %s to %s, %s, %s", escaped(c.GetProtocol()), escaped(c.GetRemoteAddress()), origin, count(c.GetDialCount(), "dial"))
	if n := c.GetStaleCount(); n > 0 {
		fmt.Fprintf(w, ", %d found dead", n)
	}
	fmt.Fprintln(w)
	printTLS(w, c.GetTls())
}

func printTLS(w io.Writer, t *fetchgatev1.TlsInfo) {
	if t == nil {
		return
	}
	fmt.Fprintf(w, "      %s, %s", escaped(t.GetVersion()), escaped(t.GetCipherSuite()))
	if end := t.GetPeerNotAfterTime(); end != nil {
		fmt.Fprintf(w, ", certificate good until %s", end.AsTime().Format(time.DateOnly))
	}
	if pin := t.GetPeerSpkiSha256(); len(pin) > 0 {
		fmt.Fprintf(w, ", pin sha256/%s", base64.StdEncoding.EncodeToString(pin))
	}
	fmt.Fprintln(w)
}

// stageTimes are the stages that a hop passed, in their order.
func stageTimes(t *fetchgatev1.Timings) string {
	return durations([]namedDuration{
		{"pool", t.GetPool()}, {"dns", t.GetDns()}, {"connect", t.GetConnect()}, {"tls", t.GetTls()},
		{"send", t.GetSend()}, {"first byte", t.GetFirstByte()}, {"total", t.GetTotal()},
	})
}

func printLimits(w io.Writer, l *fetchgatev1.EffectiveLimits) {
	if l == nil {
		return
	}
	fmt.Fprintf(w, "  limits: %s\n", durations([]namedDuration{
		{"total", l.GetTotal()}, {"attempt", l.GetAttempt()}, {"pool", l.GetPool()}, {"dns", l.GetDns()},
		{"connect", l.GetConnect()}, {"tls", l.GetTls()}, {"response header", l.GetResponseHeader()},
		{"idle read", l.GetIdleRead()}, {"write", l.GetWrite()},
	}))
	body := "any body"
	if l.MaxBodyBytes != nil {
		body = "body " + formatBytes(l.GetMaxBodyBytes())
	}
	fmt.Fprintf(w, "          %s, head %s in %s, %s, %s\n", body, formatBytes(l.GetMaxHeadBytes()),
		count(l.GetMaxHeadFields(), "field"), count(l.GetMaxAttempts(), "attempt"), count(l.GetMaxRedirects(), "redirect"))
}

type namedDuration struct {
	name  string
	value *durationpb.Duration
}

// durations are those that are set, in one line.
func durations(list []namedDuration) string {
	var parts []string
	for _, d := range list {
		if d.value != nil {
			parts = append(parts, d.name+" "+duration(d.value))
		}
	}
	return strings.Join(parts, ", ")
}

func duration(d *durationpb.Duration) string { return formatDuration(d.AsDuration()) }

func count(n int32, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// escaped is text of the service, which may hold text of an upstream.
func escaped(text string) string { return fetch.Escape([]byte(text), maxMessage) }
