package fetch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// RefusedField is a field that a request cannot set, because fetchgate writes
// it itself or because it belongs to one connection, not to the request.
type RefusedField struct {
	// Name is the field's name, or the beginning of many followed by '*'.
	Name string
	// Instead is the part of the request to set in its place; a verbatim request
	// may have the field beside it, if the two say the same. Empty means that the
	// field is never sent on a caller's word.
	Instead string
	// Why says so to whoever tried.
	Why string
}

// RefusedFields are all of them, compared without regard to case.
var RefusedFields = []RefusedField{
	{"Host", "options.protocol.host", "it comes from the URL"},
	{"Content-Length", "request.body", "it comes from the body"},
	{"Transfer-Encoding", "request.body", "it comes from the body"},
	{"Connection", "options.connection.close_after", "connections are shared and belong to fetchgate"},
	{"Expect", "options.protocol.expect_continue", "fetchgate waits for the answer to it"},
	{"TE", "request.trailers", "it goes with the trailers"},
	{"Trailer", "request.trailers", "it goes with the trailers"},
	{"Keep-Alive", "", "connections are shared and belong to fetchgate"},
	{"Upgrade", "", "a connection changes its protocol only in the RPC for that protocol"},
	{"HTTP2-Settings", "", "options.protocol says which HTTP version is spoken"},
	{"Proxy-*", "", "options.proxy says which proxy is used and how"},
	{":*", "", "pseudo-header fields come from the URL and the method"},
}

// Matches reports whether r refuses the field called name.
func (r RefusedField) Matches(name string) bool {
	prefix, isPrefix := strings.CutSuffix(r.Name, "*")
	if isPrefix && len(name) > len(prefix) {
		name = name[:len(prefix)]
	}
	return strings.EqualFold(name, prefix)
}

func (r RefusedField) refusal() error {
	if r.Instead == "" {
		return fmt.Errorf("the field %s is never sent on a caller's word: %s", r.Name, r.Why)
	}
	return fmt.Errorf("the field %s is not set as a field: %s; where the server offers it, %s says it", r.Name, r.Why, r.Instead)
}

// FieldError says which field of a list is wrong and why. Message does not
// hold the field's value.
type FieldError struct {
	// Index counts from 0. Where the list is too long or too big, it is the
	// first field that is too much.
	Index   int
	Message string
}

func (e *FieldError) Error() string { return fmt.Sprintf("field %d: %s", e.Index, e.Message) }

// FieldPlace is where in a request fields stand, which decides what they can be.
type FieldPlace int

const (
	// InHead is the head of a request that fetchgate completes.
	InHead FieldPlace = iota
	// InHeadByRule is the same where a rule may let names have '_': whether one
	// does, policy says.
	InHeadByRule
	// InVerbatimHead is the head of one that it sends as it is: names may have
	// '_', and of RefusedFields those that have another way to be said may stand
	// there too. That they say the same is for the caller of this package to see to.
	InVerbatimHead
	// InTrailers is behind the body, InVerbatimTrailers that of a verbatim
	// request.
	InTrailers
	InVerbatimTrailers
)

func (p FieldPlace) isVerbatim() bool { return p == InVerbatimHead || p == InVerbatimTrailers }
func (p FieldPlace) isTrailers() bool { return p == InTrailers || p == InVerbatimTrailers }

// CheckFieldsIn checks each field and the whole: with those of beside, which were
// checked before, at most maxFields fields of together at most maxBytes bytes, as
// FieldBytes counts them. A limit of 0 allows nothing. The error is a
// *FieldError.
func CheckFieldsIn(place FieldPlace, fields, beside []Field, maxFields, maxBytes int) error {
	if n := len(fields) + len(beside); n > maxFields {
		return &FieldError{max(maxFields-len(beside), 0), fmt.Sprintf("the request has %d fields; at most %d are sent", n, maxFields)}
	}
	size := FieldBytes(beside)
	for i, f := range fields {
		if err := CheckFieldIn(place, f); err != nil {
			return &FieldError{i, err.Error()}
		}
		if size += FieldBytes(fields[i : i+1]); size > maxBytes {
			return &FieldError{i, fmt.Sprintf("the fields up to this one are bigger than %d bytes", maxBytes)}
		}
	}
	return nil
}

// CheckField checks a field of the head of a request, as CheckFieldIn does.
func CheckField(f Field) error { return CheckFieldIn(InHead, f) }

// CheckFieldIn refuses a field that would not arrive as it is written or that is
// not the caller's to write there. A name is a token (RFC 9110 section 5.1)
// without '_', which many servers do not tell from '-'. A value has only HTAB,
// SP, visible ASCII and 0x80 to 0xFF, and no space or tab at either end, since
// the recipient would take it away (section 5.5).
func CheckFieldIn(place FieldPlace, f Field) error {
	for _, r := range RefusedFields {
		if !place.isTrailers() && r.Matches(f.Name) && (place != InVerbatimHead || r.Instead == "") {
			return r.refusal()
		}
	}
	if err := checkFieldName(f.Name, place.isVerbatim() || place == InHeadByRule); err != nil {
		return err
	}
	if place.isTrailers() && isNoTrailer(f.Name) {
		return fmt.Errorf("the field %s cannot be a trailer: a recipient needs it before the content (RFC 9110 section 6.5.1)", quoted(f.Name))
	}
	return checkFieldValue(f)
}

// noTrailers are fields that a recipient needs before the content (RFC 9110
// section 6.5.1, RFC 7230 section 4.1.2): authentication, controls and what the
// content is. RefusedFields and the conditions, which begin with "If-", are others.
var noTrailers = []string{
	"Authorization", "Cookie", "Set-Cookie", "WWW-Authenticate", "Authentication-Info", "Realm",
	"Cache-Control", "Max-Forwards", "Pragma", "Range",
	"Content-Encoding", "Content-Type", "Content-Range",
}

func isNoTrailer(name string) bool {
	const condition = "If-"
	return len(name) >= len(condition) && strings.EqualFold(name[:len(condition)], condition) ||
		slices.ContainsFunc(noTrailers, func(n string) bool { return strings.EqualFold(n, name) }) ||
		slices.ContainsFunc(RefusedFields, func(r RefusedField) bool { return r.Matches(name) })
}

// CheckFieldName refuses what no field of a request can be named.
func CheckFieldName(name string) error { return checkFieldName(name, false) }

// checkFieldName does not show a bad name: what follows its first bad byte is
// often the value.
func checkFieldName(name string, underscores bool) error {
	if name == "" {
		return errors.New("the field has no name")
	}
	if i := tokenBytes.outside(name); i >= 0 {
		return fmt.Errorf("the field's name has the byte %#02x at %d; a name is a token (RFC 9110 section 5.1)", name[i], i)
	}
	if !underscores && strings.Contains(name, "_") {
		return fmt.Errorf("the field's name %s has '_', which many servers do not tell from '-'; write '-'", quoted(name))
	}
	return nil
}

func checkFieldValue(f Field) error {
	for i, c := range f.Value {
		if c != '\t' && (c < ' ' || c == 0x7f) {
			return fmt.Errorf("the value of the field %s has the control character %#02x at byte %d", quoted(f.Name), c, i)
		}
	}
	if n := len(f.Value); n > 0 && (isBlank(f.Value[0]) || isBlank(f.Value[n-1])) {
		return fmt.Errorf("the value of the field %s begins or ends with a space or tab, which the upstream would not see (RFC 9110 section 5.5); leave it out", quoted(f.Name))
	}
	return nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

const ellipsis = "..."

// Escape returns what an upstream wrote as printable ASCII for a log or a
// message: other bytes and the backslash become Go's escapes, so that text
// cannot break a line, hide itself or pass for an escape. The result has at
// most limit bytes and ends with "..." if something was cut; an escape is never
// cut in two.
func Escape(b []byte, limit int) string {
	limit = max(limit, 0)
	var out []byte
	fits := 0 // how much of out leaves room for the ellipsis
	for _, c := range b {
		out = appendEscaped(out, c)
		if len(out) > limit {
			return string(out[:fits]) + ellipsis[:min(len(ellipsis), limit)]
		}
		if len(out)+len(ellipsis) <= limit {
			fits = len(out)
		}
	}
	return string(out)
}

func appendEscaped(out []byte, c byte) []byte {
	switch {
	case c == '\\':
		return append(out, `\\`...)
	case c == '\n':
		return append(out, `\n`...)
	case c == '\r':
		return append(out, `\r`...)
	case c == '\t':
		return append(out, `\t`...)
	case c < ' ' || c >= 0x7f:
		return fmt.Appendf(out, `\x%02x`, c)
	}
	return append(out, c)
}
