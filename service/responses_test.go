package service_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// What other HTTP/1.1 parsers are tested with answers real fetches. Where
// fetchgate takes more or less than a suite wants, docs/exceptions.md says why.

// stolen is a response that nobody asked for.
const stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"

// unfinished are cases that end before their message does: their suites feed a
// parser, which waits, where fetchgate sees a connection end. The upstream sends
// the rest of the message too; body is what of it belongs to the body.
var unfinished = map[string]struct{ rest, body string }{
	"llhttp/content-length/03":    {rest: strings.Repeat("x", 42), body: strings.Repeat("x", 42)},
	"llhttp/sample/05":            {rest: "\r\n\r\n\r\n", body: "\r\n\r\n\r\n"},
	"llhttp/transfer-encoding/07": {rest: "\r\n"},
	"httparse/test_response_partial_parses_headers_as_much_as_it_can": {rest: "Content-Length: 0\r\n\r\n"},
}

// lostLineEnds are cases whose suite writes down the body without the line ends
// that it sends.
var lostLineEnds = []string{"llhttp/sample/05", "llhttp/sample/06"}

// upgrades are cases that are taken where the request asked for another
// protocol, which TestRawUpgrades of service/transport shows. A fetch does not.
var upgrades = []string{"llhttp/connection/09", "llhttp/connection/10", "httparse/test_response_reason_with_space_and_tab"}

// rawResponses is an upstream that answers as a case says, and a fetchgate that
// may reach it.
type rawResponses struct {
	*fetchtest.Recorder
	*fetchtest.Fetchgate
	cases []fetchtest.ResponseCase
}

// startRawResponses starts both. The path of a request has the number of a case:
// "/N" is answered with its bytes and the end of the connection, "/N/more" with
// its bytes, then a stolen response and no end. Other paths are answered well.
func startRawResponses(t *testing.T) *rawResponses {
	t.Helper()
	r := &rawResponses{cases: fetchtest.ResponseCases(t)}
	if len(r.cases) != 249 {
		t.Fatalf("%d cases, want 249", len(r.cases))
	}
	for i := range r.cases {
		r.cases[i].Raw = append(r.cases[i].Raw, unfinished[shortID(r.cases[i])].rest...)
	}
	r.Recorder = fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(asked *fetchtest.Recorded) fetchtest.Step {
		number, more, _ := strings.Cut(strings.TrimPrefix(asked.Target, "/"), "/")
		i, err := strconv.Atoi(number)
		switch {
		case err != nil:
			return fetchtest.Answer(200, "ok")
		case more == "more":
			return fetchtest.Write(string(r.cases[i].Raw) + stolen)
		default:
			return fetchtest.Steps(fetchtest.Write(string(r.cases[i].Raw)), fetchtest.HalfClose())
		}
	}})
	r.Fetchgate = fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(r.Upstream)}})
	return r
}

// request is the one for case i. Its connection serves no other after it.
func (r *rawResponses) request(i int) *request {
	m := &request{
		Request: &fetchgatev1.HttpRequest{Method: "GET", Url: r.URL(fmt.Sprint("/", i))},
		Options: &fetchgatev1.FetchOptions{
			Connection: &fetchgatev1.ConnectionOptions{CloseAfter: new(true)},
			Retry:      oneAttempt(), Redirect: asIs(),
			Response: &fetchgatev1.ResponseOptions{Interim: new(true)},
		},
	}
	if r.cases[i].SkipBody {
		m.Request.Method = "HEAD"
	}
	return m
}

// verdictOf is what fetchgate did, in the words of the suites.
func verdictOf(a *answer) fetchtest.Verdict {
	switch {
	case a.failure == nil:
		return fetchtest.VerdictAccept
	case a.head == nil:
		return fetchtest.VerdictReject
	}
	return fetchtest.VerdictRejectBody
}

// outcomeOf is what fetchgate did, in the words of docs/exceptions.md.
func outcomeOf(a *answer) string {
	taken := fmt.Sprintf("%d, %d bytes", a.head.GetStatus(), len(a.body))
	switch verdictOf(a) {
	case fetchtest.VerdictAccept:
		return taken
	case fetchtest.VerdictReject:
		return reasonOf(a.failure)
	}
	return taken + ", then " + reasonOf(a.failure)
}

// wanted is what a suite wants, in the words of docs/exceptions.md.
func wanted(c fetchtest.ResponseCase) string {
	if c.Status == nil {
		return string(c.Verdict)
	}
	return fmt.Sprintf("%s %d", c.Verdict, *c.Status)
}

// agrees tells whether a is what c wants.
func agrees(a *answer, c fetchtest.ResponseCase) bool {
	isWhole := c.Verdict == fetchtest.VerdictAccept || c.Verdict == fetchtest.VerdictAcceptFirst
	if isWhole && c.Status != nil && slices.ContainsFunc(a.interim, func(h *fetchgatev1.HttpHead) bool { return int(h.GetStatus()) == *c.Status }) {
		return true // the suite is about this head, and takes it for the answer
	}
	switch got := verdictOf(a); {
	case !isWhole:
		return got == c.Verdict
	case got != fetchtest.VerdictAccept:
		return false
	}
	return (c.Status == nil || int(a.head.GetStatus()) == *c.Status) &&
		(c.Body == nil || agreesOnBody(string(a.body), c)) &&
		(c.BodyLen == nil || len(a.body) == *c.BodyLen)
}

func agreesOnBody(got string, c fetchtest.ResponseCase) bool {
	want := *c.Body + unfinished[shortID(c)].body
	if slices.Contains(lostLineEnds, shortID(c)) {
		lines := strings.NewReplacer("\r", "", "\n", "")
		got, want = lines.Replace(got), lines.Replace(want)
	}
	return got == want
}

// shortID is the id of a case without its title.
func shortID(c fetchtest.ResponseCase) string {
	id, _, _ := strings.Cut(c.ID, " ")
	return id
}

func TestRawResponses(t *testing.T) {
	r := startRawResponses(t)
	disagree := map[string][]string{}
	seen := map[string]bool{}
	for i, c := range r.cases {
		id := shortID(c)
		if seen[id] {
			t.Fatalf("two cases are called %s", id)
		}
		seen[id] = true
		var outcomes []string
		for _, rpc := range rpcs {
			a, err := rpc.call(within(t), r, r.request(i))
			if err != nil {
				t.Fatalf("%s: %s: %v", id, rpc.name, err)
			}
			outcomes = append(outcomes, outcomeOf(a)+": "+string(a.body))
			if !agrees(a, c) {
				disagree[id] = []string{wanted(c), outcomeOf(a)}
			}
		}
		if outcomes[0] != outcomes[1] {
			t.Errorf("%s: Fetch and StreamFetch differ: %q", id, outcomes)
		}
	}
	for _, id := range upgrades {
		if disagree[id] == nil {
			t.Errorf("%s is taken though nobody asked for another protocol", id)
		}
	}
	t.Logf("%d of %d agree, %d of them where the request asks for another protocol", len(r.cases)-len(disagree)+len(upgrades), len(r.cases), len(upgrades))
	wantExceptions(t, "HTTP/1.1 responses", disagree)
}

// TestNothingBehindAResponseIsTaken: what an upstream sends behind a response
// that says its length is no answer to the next fetch, which gets a connection
// of its own although this one is open.
func TestNothingBehindAResponseIsTaken(t *testing.T) {
	r := startRawResponses(t)
	tried := 0
	for i, c := range r.cases {
		m := r.request(i)
		alone := r.fetch(t, m)
		if alone.failure != nil || !saysItsLength(m.GetRequest().GetMethod(), alone.head) {
			continue
		}
		tried++
		m.Options.Connection, m.Request.Url = nil, m.Request.Url+"/more"
		if first := r.fetch(t, m); outcomeOf(first) != outcomeOf(alone) {
			t.Errorf("%s: %s with a response behind it, %s without", c.ID, outcomeOf(first), outcomeOf(alone))
		}
		used := r.lastConn()
		m.Request.Method, m.Request.Url = "GET", r.URL("/next")
		if next := r.fetch(t, m); string(next.body) != "ok" || r.lastConn() == used {
			t.Errorf("%s: the next fetch got %q on connection %d, after connection %d", c.ID, next.body, r.lastConn(), used)
		}
	}
	t.Logf("%d responses tried", tried)
	if tried < 50 {
		t.Error("too few responses say their length to show anything")
	}
}

func (r *rawResponses) fetch(t *testing.T, m *request) *answer {
	t.Helper()
	a, err := whole(within(t), r, m)
	if err != nil {
		t.Fatalf("%s: %v", m.GetRequest().GetUrl(), err)
	}
	return a
}

// lastConn is the number of the connection of the last request.
func (r *rawResponses) lastConn() int {
	requests := r.Requests()
	return requests[len(requests)-1].Conn
}

// saysItsLength tells whether a response ends before its connection does (RFC
// 9112 section 6.3).
func saysItsLength(method string, h *fetchgatev1.HttpHead) bool {
	status := h.GetStatus()
	return method == "HEAD" || status == 204 || status == 304 ||
		slices.ContainsFunc(h.GetHeaders(), func(f *fetchgatev1.HeaderField) bool {
			return strings.EqualFold(f.GetName(), "Content-Length") || strings.EqualFold(f.GetName(), "Transfer-Encoding")
		})
}
