package body

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// JSON is b, which must be one JSON text in UTF-8 without a byte order mark
// (RFC 8259 sections 2 and 8.1), sent byte for byte as it is. The error says
// where b stops being one, without quoting it.
func JSON(b []byte) (Encoded, error) {
	if !json.Valid(b) {
		return Encoded{}, invalidJSON(b)
	}
	if !utf8.Valid(b) {
		return Encoded{}, errors.New("the body is not JSON: it is not UTF-8; send other charsets as a raw body")
	}
	return Encoded{Source: Raw(b), ContentType: "application/json"}, nil
}

func invalidJSON(b []byte) error {
	var text json.RawMessage
	var wrong *json.SyntaxError
	if err := json.Unmarshal(b, &text); errors.As(err, &wrong) {
		return fmt.Errorf("the body is not JSON: it breaks off or goes wrong at byte %d of %d", wrong.Offset, len(b))
	}
	return errors.New("the body is not JSON")
}
