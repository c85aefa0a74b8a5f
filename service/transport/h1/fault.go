package h1

import (
	"fmt"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Fault says which rule a response breaks. It shows nothing of the response: an
// upstream that is no HTTP server must not be readable through it.
type Fault struct {
	// Reason is MALFORMED_HEAD, CONFLICTING_LENGTH, HEAD_TOO_LARGE or
	// INVALID_CHUNK.
	Reason fetch.Reason
	// Rule completes "it breaks the rules of HTTP: ".
	Rule string
	// Limit is the one that a part that is too large is over.
	Limit *fetch.LimitHit
}

func (f *Fault) Error() string { return f.Rule }

// Malformed is the fault of a head that breaks a rule.
func Malformed(rule string) *Fault { return &Fault{Reason: fetch.ReasonMalformedHead, Rule: rule} }

func conflicting(rule string) *Fault {
	return &Fault{Reason: fetch.ReasonConflictingLength, Rule: rule}
}

func invalidChunk(rule string) *Fault {
	return &Fault{Reason: fetch.ReasonInvalidChunk, Rule: rule}
}

// TooManyBytes is the fault of a field section with more than so many bytes.
func TooManyBytes(most int) *Fault {
	return &Fault{fetch.ReasonHeadTooLarge, fmt.Sprintf("it has more than %d bytes", most),
		&fetch.LimitHit{Limit: "max_response_field_bytes", Max: int64(most)}}
}

// TooManyFields is the fault of a section with more than so many fields.
func TooManyFields(most int) *Fault {
	return &Fault{fetch.ReasonHeadTooLarge, fmt.Sprintf("it has more than %d fields", most),
		&fetch.LimitHit{Limit: "max_response_fields", Max: int64(most)}}
}
