package transport

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// headFault says which rule a response head breaks. It shows nothing of the
// head: an upstream that is no HTTP server must not be readable through it.
type headFault struct {
	reason fetch.Reason
	rule   string
	limit  *fetch.LimitHit
}

func malformed(rule string) *headFault {
	return &headFault{reason: fetch.ReasonMalformedHead, rule: rule}
}

func conflicting(rule string) *headFault {
	return &headFault{reason: fetch.ReasonConflictingLength, rule: rule}
}

func tooManyBytes(most int) *headFault {
	return &headFault{fetch.ReasonHeadTooLarge, fmt.Sprintf("it has more than %d bytes", most),
		&fetch.LimitHit{Limit: "max_response_field_bytes", Max: int64(most)}}
}

func tooManyFields(most int) *headFault {
	return &headFault{fetch.ReasonHeadTooLarge, fmt.Sprintf("it has more than %d fields", most),
		&fetch.LimitHit{Limit: "max_response_fields", Max: int64(most)}}
}

// refusedHead is the failure of a response whose head breaks a rule.
func (x *exchange) refusedHead(fault *headFault) *fetch.Failure {
	message := "the response head of " + x.name + " breaks the rules of HTTP: " + fault.rule
	if fault.reason == fetch.ReasonHeadTooLarge {
		message = "the response head of " + x.name + " is too large: " + fault.rule
	}
	f := x.fail(fault.reason, message, nil)
	f.LimitHit = fault.limit
	return f
}

// headReader collects the bytes of one HTTP/1.1 response head and judges them
// as soon as they can be judged, strictly (RFC 9112 sections 2.2, 4 and 5).
type headReader struct {
	maxBytes, maxFields int

	buf   []byte
	line  int // where the line that is being read begins
	lines int // that are whole
}

// feed takes what it needs of b and tells how much that was and whether the
// head is whole.
func (h *headReader) feed(b []byte) (used int, whole bool, fault *headFault) {
	for used < len(b) {
		piece := b[used:]
		end := bytes.IndexByte(piece, '\n') + 1
		if end > 0 {
			piece = piece[:end]
		}
		if len(h.buf)+len(piece) > h.maxBytes {
			return used, false, tooManyBytes(h.maxBytes)
		}
		h.buf = append(h.buf, piece...)
		used += len(piece)
		if end == 0 {
			return used, false, h.judgeStart()
		}
		if whole, fault = h.endLine(); whole || fault != nil {
			return used, whole, fault
		}
	}
	return used, false, nil
}

// judgeStart judges the beginning of a status line, so that a server of another
// protocol that greets and waits is found out at once.
func (h *headReader) judgeStart() *headFault {
	const start = "HTTP/1."
	n := min(len(h.buf), len(start))
	if h.lines == 0 && string(h.buf[:n]) != start[:n] {
		return malformed("it does not begin with HTTP/1.")
	}
	return nil
}

func (h *headReader) endLine() (whole bool, fault *headFault) {
	line, ok := bytes.CutSuffix(h.buf[h.line:], []byte("\r\n"))
	switch {
	case !ok:
		fault = malformed("a line does not end with CRLF")
	case h.lines == 0:
		_, fault = parseStatusLine(line)
	case len(line) == 0:
		return true, nil
	case h.lines > h.maxFields:
		fault = tooManyFields(h.maxFields)
	}
	h.lines++
	h.line = len(h.buf)
	return false, fault
}

// head returns the head that was collected, whose values share its bytes, and
// readies h for the next.
func (h *headReader) head() (fetch.Head, *headFault) {
	raw := h.buf
	fields := h.lines - 1
	h.buf, h.line, h.lines = nil, 0, 0
	line, raw := cutLine(raw)
	head, fault := parseStatusLine(line)
	if fault != nil {
		return head, fault
	}
	head.Fields = make([]fetch.Field, 0, fields)
	for line, raw = cutLine(raw); len(line) > 0; line, raw = cutLine(raw) {
		f, fault := parseField(line)
		if fault != nil {
			return head, fault
		}
		head.Fields = append(head.Fields, f)
	}
	return head, nil
}

func cutLine(raw []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(raw, []byte("\r\n"))
	return line, rest
}

// parseStatusLine is RFC 9112 section 4, but for the space before an empty
// reason, which many leave out.
func parseStatusLine(line []byte) (fetch.Head, *headFault) {
	protocol, rest, _ := bytes.Cut(line, []byte(" "))
	if p := string(protocol); p != "HTTP/1.1" && p != "HTTP/1.0" {
		return fetch.Head{}, malformed("its version is not HTTP/1.1 or HTTP/1.0")
	}
	code, reason, _ := bytes.Cut(rest, []byte(" "))
	if len(code) != 3 || !areDigits(code) || code[0] == '0' {
		return fetch.Head{}, malformed("its status is not a number from 100 to 999")
	}
	if !isFieldText(reason) {
		return fetch.Head{}, malformed("its reason phrase has a control character")
	}
	status, _ := strconv.Atoi(string(code))
	return fetch.Head{Protocol: string(protocol), Status: status, Reason: reason}, nil
}

// parseField is RFC 9112 section 5, without line folding.
func parseField(line []byte) (fetch.Field, *headFault) {
	name, value, colon := bytes.Cut(line, []byte(":"))
	value = bytes.Trim(value, " \t")
	switch {
	case line[0] == ' ' || line[0] == '\t':
		return fetch.Field{}, malformed("a field is folded over two lines")
	case !colon:
		return fetch.Field{}, malformed("a field has no colon")
	case !httpguts.ValidHeaderFieldName(string(name)):
		return fetch.Field{}, malformed("the name of a field is not a token")
	case !isFieldText(value):
		return fetch.Field{}, malformed("the value of a field has a control character")
	}
	return fetch.Field{Name: string(name), Value: value}, nil
}

// isFieldText tells whether b has only HTAB, SP, visible ASCII and 0x80 to 0xFF.
func isFieldText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func areDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// framing says how the body after a head is delimited (RFC 9112 section 6.3).
type framing struct {
	// length is the body's length in bytes; -1 is what chunks or the end of the
	// connection tell.
	length  int64
	chunked bool
	// persistent tells that another response may follow.
	persistent bool
}

func framingOf(method string, h fetch.Head) (framing, *headFault) {
	codings, lengths := values(h.Fields, "Transfer-Encoding"), values(h.Fields, "Content-Length")
	f := framing{length: -1, chunked: len(codings) > 0, persistent: isPersistent(h)}
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return f, conflicting("it has both Content-Length and Transfer-Encoding")
	case len(codings) > 0:
		if h.Protocol != "HTTP/1.1" || len(codings) != 1 || !strings.EqualFold(codings[0], "chunked") {
			return f, malformed("its Transfer-Encoding is not chunked alone, in HTTP/1.1")
		}
	case len(lengths) > 0:
		n, fault := contentLength(lengths)
		if fault != nil {
			return f, fault
		}
		f.length = n
	}
	switch {
	case isBodiless(method, h.Status):
		f.length, f.chunked = 0, false
	case len(codings)+len(lengths) == 0:
		f.persistent = false
	}
	return f, nil
}

// isBodiless tells whether a response has no body whatever its fields say
// (RFC 9110 section 6.4.1).
func isBodiless(method string, status int) bool {
	return method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
}

func contentLength(lengths []string) (int64, *headFault) {
	n, err := strconv.ParseInt(lengths[0], 10, 64)
	for _, l := range lengths {
		if !areDigits([]byte(l)) || err != nil {
			return 0, malformed("its Content-Length is not a number that fits")
		}
		if l != lengths[0] {
			return 0, conflicting("its Content-Lengths differ")
		}
	}
	return n, nil
}

func isPersistent(h fetch.Head) bool {
	keep := h.Protocol == "HTTP/1.1"
	for _, option := range fetch.Members(h.Fields, "Connection") {
		switch strings.ToLower(option) {
		case "close":
			return false
		case "keep-alive":
			keep = true
		}
	}
	return keep
}

func values(fields []fetch.Field, name string) (vs []string) {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			vs = append(vs, string(f.Value))
		}
	}
	return vs
}
