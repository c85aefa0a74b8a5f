package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
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

// writeHead puts a head before a body, as it came; on a terminal it is escaped.
func writeHead(w io.Writer, head *fetchgatev1.HttpHead) error {
	if shown, ok := w.(*screen); ok {
		printHead(shown.terminal, head)
		_, err := fmt.Fprintln(shown.terminal)
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %d %s\r\n", head.GetProtocol(), head.GetStatus(), head.GetReason())
	for _, field := range head.GetHeaders() {
		fmt.Fprintf(&b, "%s: %s\r\n", field.GetName(), field.GetValue())
	}
	b.WriteString("\r\n")
	_, err := w.Write(b.Bytes())
	return err
}

// reportForm is how a report is printed; empty: not at all.
type reportForm string

const (
	reportText reportForm = "text"
	reportJSON reportForm = "json"
)

// Decode takes --report and --report=FORM.
func (f *reportForm) Decode(c *kong.DecodeContext) error {
	*f = reportText
	if c.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	switch form := reportForm(fmt.Sprint(c.Scan.Pop().Value)); form {
	case reportText, reportJSON:
		*f = form
		return nil
	}
	return errors.New("a report is printed as text or json")
}

// IsBool tells that the flag needs no value.
func (*reportForm) IsBool() bool { return true }

// writeJSON prints a message in the JSON form of protobuf, indented. What is
// false, 0 or empty is there too: who reads it need not know the defaults.
func writeJSON(w io.Writer, m proto.Message) {
	compact, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil { // text that is not UTF-8, which gRPC does not let through
		fmt.Fprintf(w, "{\"error\": %q}\n", "the message has no JSON form")
		return
	}
	var b bytes.Buffer
	_ = json.Indent(&b, compact, "", "  ") // it is JSON
	b.WriteByte('\n')
	_, _ = w.Write(b.Bytes())
}

// printReport prints what was done for a fetch.
func printReport(w io.Writer, r *fetchgatev1.FetchReport, c chart) {
	fmt.Fprintf(w, "report: %s, %s, %s; rule %s, generation %d", count(r.GetAttemptCount(), "attempt"),
		count(r.GetHopCount(), "hop"), duration(r.GetTotal()), cmp.Or(escaped(r.GetRule()), "none"), r.GetGeneration())
	if id := r.GetFetchId(); id != "" {
		fmt.Fprintf(w, "; fetch %s", escaped(id))
	}
	fmt.Fprintf(w, "\n  body %s, on the wire %s", formatBytes(r.GetBodyBytes()), formatBytes(r.GetWireBytes()))
	if codings := r.GetDecodedCodings(); len(codings) > 0 {
		fmt.Fprintf(w, " (%s)", escaped(strings.Join(codings, ", ")))
	}
	fmt.Fprintf(w, "; request body %s\n", formatBytes(r.GetRequestBytes()))
	if r.GetWouldDeny() {
		fmt.Fprintln(w, "  would be denied: it went ahead since the mode is report")
	}
	c.print(w, r)
	for _, attempt := range r.GetAttempts() {
		printAttempt(w, attempt)
	}
	if why := suppressed(r); why != "" {
		fmt.Fprintf(w, "  %s\n", why)
	}
	printLimits(w, "  ", r.GetLimits())
	if clamped := r.GetClamped(); len(clamped) > 0 {
		fmt.Fprintf(w, "  lowered to the service's maximum: %s\n", escaped(strings.Join(clamped, ", ")))
	}
	if r.GetUrlEncoded() {
		fmt.Fprintln(w, "  illegal bytes of the URL were percent-encoded")
	}
	if n := r.GetHistoryCut(); n > 0 {
		fmt.Fprintf(w, "  left out of the answer for its size: %s\n", count(n, "head"))
	}
}

// suppressed says why no further attempt was made; empty if none was due.
func suppressed(r *fetchgatev1.FetchReport) string {
	s := r.GetRetrySuppressed()
	if s == fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_UNSPECIFIED {
		return ""
	}
	word := enumName(s.String(), "RETRY_SUPPRESSED_")
	for _, e := range fetch.SuppressedTable {
		if e.Word == word {
			return fmt.Sprintf("no further attempt: %s: %s", word, e.Means)
		}
	}
	return "no further attempt: " + word
}

func printAttempt(w io.Writer, a *fetchgatev1.Attempt) {
	fmt.Fprintf(w, "  attempt %d: %s", a.GetNumber(), duration(a.GetTotal()))
	if wait := a.GetWait().AsDuration(); wait > 0 {
		fmt.Fprintf(w, " after %s of waiting", formatDuration(wait))
	}
	if a.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_UNSPECIFIED {
		fmt.Fprintf(w, "; %s: %s", enumName(a.GetReason().String(), "FAILURE_REASON_"), escaped(a.GetMessage()))
	}
	fmt.Fprintln(w)
	for _, hop := range a.GetHops() {
		fmt.Fprintf(w, "    %s\n", hopOutcome(hop))
		if times := stageTimes(hop.GetTimings()); times != "" {
			fmt.Fprintf(w, "      %s\n", times)
		}
		for _, line := range slices.Concat(policyLines(hop), connectionLines(hop.GetConnection())) {
			fmt.Fprintf(w, "      %s\n", line)
		}
	}
}

// policyLines say why rules would deny a hop, and what became of its credentials.
func policyLines(h *fetchgatev1.Hop) (lines []string) {
	if why := h.GetWouldDeny(); why != "" {
		lines = append(lines, "would be denied: "+escaped(withoutMore(why)))
	}
	var uses []string
	for _, u := range h.GetCredentials() {
		use := fmt.Sprintf("%s (%s)", cmp.Or(escaped(u.GetName()), "of the request"), escaped(u.GetKind()))
		if !u.GetApplied() {
			use += ", left out"
		}
		uses = append(uses, use)
	}
	if len(uses) > 0 {
		lines = append(lines, "credentials: "+strings.Join(uses, "; "))
	}
	return lines
}

// hopOutcome says what was asked where, and what came of it.
func hopOutcome(h *fetchgatev1.Hop) string {
	outcome := "no head"
	if h.GetStatus() != 0 {
		outcome = fmt.Sprint(h.GetStatus())
	}
	return fmt.Sprintf("%s %s: %s, rule %s", escaped(h.GetMethod()), escaped(h.GetUrl()), outcome, cmp.Or(escaped(h.GetRule()), "none"))
}

// connectionLines say what is known of a connection and of its TLS session.
func connectionLines(c *fetchgatev1.ConnectionInfo) []string {
	if c == nil {
		return nil
	}
	line := "new connection"
	switch {
	case c.GetReused():
		line = "pooled connection"
	case c.GetRemoteAddress() == "":
		line = "no connection"
	}
	if address := c.GetRemoteAddress(); address != "" { // without a protocol when TLS failed
		line = fmt.Sprintf("%s to %s, %s", cmp.Or(escaped(c.GetProtocol()), "TCP"), escaped(address), line)
	}
	line += ", " + count(c.GetDialCount(), "dial")
	if n := c.GetStaleCount(); n > 0 {
		line += fmt.Sprintf(", %d found dead", n)
	}
	if c.GetTls() == nil {
		return []string{line}
	}
	return []string{line, tlsLine(c.GetTls())}
}

func tlsLine(t *fetchgatev1.TlsInfo) string {
	line := escaped(t.GetVersion()) + ", " + escaped(t.GetCipherSuite())
	if t.GetResumed() {
		line += ", resumed"
	}
	if end := t.GetPeerNotAfterTime(); end != nil {
		line += ", certificate good until " + end.AsTime().Format(time.DateOnly)
	}
	if pin := t.GetPeerSpkiSha256(); len(pin) > 0 {
		line += ", pin sha256/" + base64.StdEncoding.EncodeToString(pin)
	}
	return line
}

// stageTimes are the stages that a hop passed, in their order.
func stageTimes(t *fetchgatev1.Timings) string {
	return durations([]namedDuration{
		{"pool", t.GetPool()}, {"dns", t.GetDns()}, {"connect", t.GetConnect()}, {"tls", t.GetTls()},
		{"send", t.GetSend()}, {"first byte", t.GetFirstByte()}, {"total", t.GetTotal()},
	})
}

func printLimits(w io.Writer, indent string, l *fetchgatev1.EffectiveLimits) {
	if l == nil {
		return
	}
	fmt.Fprintf(w, "%slimits: %s\n", indent, durations([]namedDuration{
		{"total", l.GetTotal()}, {"attempt", l.GetAttempt()}, {"pool", l.GetPool()}, {"dns", l.GetDns()},
		{"connect", l.GetConnect()}, {"tls", l.GetTls()}, {"response header", l.GetResponseHeader()},
		{"idle read", l.GetIdleRead()}, {"write", l.GetWrite()},
	}))
	body := "any body"
	if l.MaxBodyBytes != nil {
		body = "body " + formatBytes(l.GetMaxBodyBytes())
	}
	fmt.Fprintf(w, "%s        %s, head %s in %s, %s, %s\n", indent, body, formatBytes(l.GetMaxHeadBytes()),
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
