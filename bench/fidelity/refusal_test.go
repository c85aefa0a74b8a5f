package main

import (
	"strings"
	"testing"
)

// long are the answers of the page's second part that are too long to be there,
// by what stands there instead.
var long = map[string]string{
	"a head of 65,537 bytes":                        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: " + strings.Repeat("a", 65537-45) + "\r\n\r\n",
	"257 fields":                                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + strings.Repeat("X-A: a\r\n", 256) + "\r\n",
	"6 interim heads":                               strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 6) + ok,
	"a size line of 1,025 bytes":                    chunked + "1;" + strings.Repeat("a", 1025-3) + "\r\na\r\n0\r\n\r\n",
	"chunks of 1 byte with extensions of 900 bytes": chunked + strings.Repeat("1;"+strings.Repeat("a", 900)+"\r\na\r\n", 30) + "0\r\n\r\n",
	"trailers of 65,537 bytes":                      chunked + "0\r\nX-A: " + strings.Repeat("a", 65537-9) + "\r\n\r\n",
	"257 trailers":                                  chunked + "0\r\n" + strings.Repeat("X-A: a\r\n", 257) + "\r\n",
}

const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

// refusal is a row of the second part of the page.
type refusal struct {
	what, answer, reason string
}

// refusals reads them. A row has several answers, and one reason for all.
func refusals(t *testing.T, page string) (list []refusal) {
	t.Helper()
	_, part, found := strings.Cut(page, "\n## What is refused\n")
	if !found {
		t.Fatal("the page does not say what is refused")
	}
	used := map[string]bool{}
	for line := range strings.Lines(part) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 || !strings.HasSuffix(cells[3], "` |") {
			continue
		}
		for answer := range strings.SplitSeq(cells[1], "<br>") {
			text, err := decode(answer)
			if !strings.HasPrefix(answer, "`") {
				text, used[answer] = long[answer], true
			}
			if err != nil || text == "" && answer != "``" {
				t.Errorf("the page has the answer %s, which cannot be made", answer)
				continue
			}
			list = append(list, refusal{strings.TrimPrefix(cells[0], "| ") + ": " + answer, text, strings.Trim(cells[3], "` |")})
		}
	}
	for what := range long {
		if !used[what] {
			t.Errorf("the page lacks %s", what)
		}
	}
	return list
}

// TestRefusals: each answer that the page says is refused is, for the reason
// that it says.
func TestRefusals(t *testing.T) {
	list := refusals(t, readPage(t))
	if len(list) < 50 {
		t.Fatalf("the page has %d answers that are refused: the test reads the wrong place", len(list))
	}
	asked := make([]probe, len(list))
	for i, r := range list {
		asked[i] = plainGet(r.what, r.answer, "")
	}
	seen, err := askFetchgate(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range list {
		if got := seen[i].reply[len(seen[i].reply)-1]; got != "fails: "+code(r.reason) {
			t.Errorf("%s\nends with %s, want %s", r.what, got, r.reason)
		}
	}
}

// TestTaken: what the page says is not refused.
func TestTaken(t *testing.T) {
	answers := []string{
		"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\n\r\nhi",
		"HTTP/1.1 418 \xe9\r\nX-A: \x80\xff\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" + ok,
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	}
	asked := make([]probe, len(answers))
	for i, answer := range answers {
		asked[i] = plainGet(answer, answer, "")
	}
	seen, err := askFetchgate(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	for i, answer := range answers {
		if got := seen[i].reply[len(seen[i].reply)-1]; got != "body "+code("hi") {
			t.Errorf("%q ends with %s", answer, got)
		}
	}
}
