package main

import (
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// TestReportTellsPolicy: --report and -v say what rules would deny, and what
// became of credentials.
func TestReportTellsPolicy(t *testing.T) {
	hop := &fetchgatev1.Hop{
		Url: "https://example.com/", Method: "GET", Status: 200, Rule: "default-deny",
		WouldDeny: "no rule allows it\x1b. Ask team-edge. More: fetchgate explain https://example.com",
		Credentials: []*fetchgatev1.CredentialUse{
			{Name: "partner", Kind: "bearer", Applied: true}, {Kind: "api_key", Applied: true}, {Name: "edge", Kind: "basic"},
		},
	}
	answer := &fetchgatev1.FetchResponse{
		Report: &fetchgatev1.FetchReport{
			AttemptCount: 1, HopCount: 1, Rule: "default-deny", WouldDeny: true,
			Attempts: []*fetchgatev1.Attempt{{Number: 1, Hops: []*fetchgatev1.Hop{hop}}},
		},
		Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{Head: &fetchgatev1.HttpHead{Protocol: "HTTP/1.1", Status: 200}}},
	}
	const denial, uses = `would be denied: no rule allows it\x1b. Ask team-edge.` + "\n", "credentials: partner (bearer); of the request (api_key); edge (basic), left out\n"
	for flag, says := range map[string][]string{
		"--report":      {"  would be denied: it went ahead since the mode is report\n", "      " + denial, "      " + uses},
		"-v":            {"* " + denial, "* " + uses},
		"--report=json": {`"wouldDeny": true`, `"name": "partner"`, `"applied": false`},
	} {
		r := get(t, answer, nil, flag)
		r.wantCode(t, exitOK)
		for _, part := range says {
			if !strings.Contains(r.err, part) {
				t.Errorf("%s: it says\n%swant %q", flag, r.err, part)
			}
		}
	}
	const note = "note: would be denied by default-deny: it went ahead since the mode is report\n"
	for flag, told := range map[string]bool{"-i": true, "-s": false, "-v": false, "--report": false, "--report=json": false} {
		if r := get(t, answer, nil, flag); r.code != exitOK || strings.Contains(r.err, note) != told || strings.Contains(r.out, "denied") {
			t.Errorf("%s: it says\n%swhere the note is wanted: %v", flag, r.err, told)
		}
	}
	hop.WouldDeny, hop.Credentials, answer.Report.WouldDeny = "", nil, false
	for _, flag := range []string{"--report", "-v", "-i"} {
		if r := get(t, answer, nil, flag); strings.Contains(r.err, "denied") || strings.Contains(r.err, "credentials") {
			t.Errorf("%s: without any it says\n%s", flag, r.err)
		}
	}
}
