package fetchtest

import (
	"bytes"
	_ "embed" // the cases are part of the package, so that any test can use them
	"encoding/json"
	"testing"
)

//go:embed testdata/http1-responses.json
var responsesJSON []byte

// Verdict is what a strict HTTP/1.1 client does with a response.
type Verdict string

// The verdicts.
const (
	// VerdictAccept takes the response.
	VerdictAccept Verdict = "accept"
	// VerdictAcceptFirst takes the response; the bytes after it are an error of
	// the connection, not an answer to the next request.
	VerdictAcceptFirst Verdict = "accept_first"
	// VerdictReject finds the head broken.
	VerdictReject Verdict = "reject"
	// VerdictRejectBody takes the head and finds the body's framing broken.
	VerdictRejectBody Verdict = "reject_body"
)

// ResponseCase is what an upstream writes on an HTTP/1.1 connection before it
// closes it, and the verdict of the suite that it was extracted from: the tests
// of nodejs/llhttp, web-platform-tests or seanmonstar/httparse.
type ResponseCase struct {
	// ID is unique among the cases.
	ID string `json:"id"`
	// Source is the suite.
	Source string `json:"source"`
	// Raw is what the upstream writes.
	Raw     []byte  `json:"raw_b64"`
	Verdict Verdict `json:"verdict"`
	// Status is the status code; nil where the suite does not say.
	Status *int `json:"status"`
	// Body is the body, and BodyLen its length in bytes; nil where the suite
	// does not say. After VerdictReject they say nothing.
	Body    *string `json:"body"`
	BodyLen *int    `json:"body_len"`
	// Reason is the suite's reason for not accepting all; it may be empty.
	Reason string `json:"reason"`
	// Note is what else is to be known of the case; it may be empty.
	Note string `json:"note"`
	// SkipBody tells that the request was one whose response has no body
	// (HEAD), whatever the fields say.
	SkipBody bool `json:"skipbody"`
}

// ResponseCases returns the raw HTTP/1.1 responses that come with the package.
// Verdicts of web-platform-tests are those of browsers, which are laxer than
// RFC 9112: they take bare LF and status 0. Note tells of some.
func ResponseCases(t testing.TB) []ResponseCase {
	t.Helper()
	var file struct {
		Source string         `json:"source"`
		Cases  []ResponseCase `json:"cases"`
	}
	decoder := json.NewDecoder(bytes.NewReader(responsesJSON))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		t.Fatalf("fetchtest: testdata/http1-responses.json: %v", err)
	}
	return file.Cases
}
