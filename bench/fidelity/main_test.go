package main

import (
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

const pagePath = "../../docs/fidelity.md"

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // net/http's remarks on the upstreams
	goleak.VerifyTestMain(m)
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestPage holds the page to what net/http and fetchgate do, and fetchgate to
// the stock library, as the page has it.
func TestPage(t *testing.T) {
	r, err := check(t.Context(), readPage(t))
	if err != nil {
		t.Error(err)
	}
	if len(r.fetchgate) != len(probes) {
		t.Fatal("fetchgate was not asked")
	}
	for i, p := range probes {
		t.Run(p.name, func(t *testing.T) {
			stock, ours := r.stock[i], r.fetchgate[i]
			if !slices.Equal(ours.request, stock.request) {
				t.Errorf("the request of fetchgate is\n%s\nthat of the stock library\n%s", lines(ours.request), lines(stock.request))
			}
			if same := slices.Equal(ours.reply, stock.reply); same && p.differs != "" {
				t.Errorf("the answers are the same, and the page says: %s", p.differs)
			} else if !same && p.differs == "" {
				t.Errorf("the caller of fetchgate gets\n%s\nthat of the stock library\n%s", lines(ours.reply), lines(stock.reply))
			}
		})
	}
}

// TestAnswersAsTheyCame: where fetchgate takes an answer, its caller gets the
// status line and the fields as they are on the wire. What the stock library
// makes of them, an adapter can too: it only moves repeats.
func TestAnswersAsTheyCame(t *testing.T) {
	page := readPage(t)
	stock, _, err := readStock(page)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := askFetchgate(t.Context(), probes)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i, p := range probes {
		came := headLines(p.answer)
		if strings.HasPrefix(seen[i].reply[0], "fails: ") {
			continue
		}
		taken++
		if got := seen[i].reply[:min(len(came), len(seen[i].reply))]; !slices.Equal(got, came) {
			t.Errorf("%s: the caller of fetchgate gets\n%s\nand it came\n%s", p.name, lines(got), lines(came))
		}
		if p.differs == "" || strings.Contains(p.differs, "repeats") {
			got := grouped(came)
			if want := stock[i].reply[:min(len(came), len(stock[i].reply))]; !slices.Equal(got, want) {
				t.Errorf("%s: with the repeats moved it is\n%s\nthe caller of the stock library gets\n%s", p.name, lines(got), lines(want))
			}
		}
	}
	if taken < 16 {
		t.Errorf("fetchgate took %d answers", taken)
	}
}

// headLines are the lines of a cell that an answer's final head would fill if
// nothing happened to it on the way.
func headLines(answer string) []string {
	head, rest, _ := strings.Cut(answer, "\r\n\r\n")
	if strings.HasPrefix(head, "HTTP/1.1 1") {
		return headLines(rest)
	}
	var came []string
	for i, line := range strings.Split(head, "\r\n") {
		if version, rest, _ := strings.Cut(line, " "); i == 0 {
			status, reason, _ := strings.Cut(rest, " ")
			line = version + " " + status
			if came = []string{code(line)}; reason != "" {
				came[0] += " " + code(reason)
			}
			continue
		}
		came = append(came, code(line))
	}
	return came
}

// grouped moves the repeats of a field to its first line, under the name that
// it has there, as urllib3 does.
func grouped(head []string) []string {
	var list []string
	last := map[string]string{} // the latest line of each name
	for i, line := range head {
		name, value, _ := strings.Cut(line, ":")
		first, again := last[strings.ToLower(name)]
		if i == 0 || !again {
			list = append(list, line)
			last[strings.ToLower(name)] = line
			continue
		}
		kept, _, _ := strings.Cut(first, ":")
		line = kept + ":" + value
		list = slices.Insert(list, slices.Index(list, first)+1, line)
		last[strings.ToLower(name)] = line
	}
	return list
}

func lines(l []string) string { return strings.Join(l, "\n") }

// TestStaleLine: a check finds one byte that is not so, in either column that it
// knows, and beside them.
func TestStaleLine(t *testing.T) {
	page := readPage(t)
	for _, c := range []struct{ what, old, stale string }{
		{"fetchgate", "fails: `CONFLICTING_LENGTH`", "fails: `MALFORMED_HEAD`"},
		{"net/http", "fails: `unexpected EOF`", "fails: `EOF`"},
		{"the call", "`requests.delete(u)`", "`requests.get(u)`"},
	} {
		before, after, found := strings.Cut(page, c.old)
		if !found {
			t.Errorf("%s: the page does not say %s", c.what, c.old)
			continue
		}
		if _, err := check(t.Context(), before+c.stale+after); err == nil {
			t.Errorf("%s: a page that is wrong passes", c.what)
		}
	}
}

func TestPageThatLacks(t *testing.T) {
	page := readPage(t)
	for _, lacks := range []string{beginMark, endMark, versionsStart, "### " + probes[2].name, "| the caller gets |"} {
		if _, err := check(t.Context(), strings.Replace(page, lacks, "", 1)); err == nil {
			t.Errorf("a page without %q passes", lacks)
		}
	}
}

// TestColumnsSurviveThePage: what is read back is what was written.
func TestColumnsSurviveThePage(t *testing.T) {
	written := make(column, len(probes))
	for i := range written {
		n := strconv.Itoa(i / 2) // so that some are "as above"
		written[i] = sight{request: []string{code("GET /" + n), code("\r\n|`<")}, reply: []string{code(n)}}
	}
	r := results{versions: "stock 1.2.3, go1.2", stock: written, netHTTP: written, fetchgate: written}
	read, versions, err := readStock(r.render())
	if err != nil || versions != r.versions {
		t.Fatalf("versions %q, error %v", versions, err)
	}
	for i := range written {
		if !slices.Equal(read[i].request, written[i].request) || !slices.Equal(read[i].reply, written[i].reply) {
			t.Errorf("probe %d: %q became %q", i, written[i], read[i])
		}
	}
}

// FuzzCode: code can be told from that of all other bytes, and fits into a cell.
func FuzzCode(f *testing.F) {
	f.Add("GET /a|b HTTP/1.1\r\n")
	f.Add("caf\xe9 `\\x`\x00<br>\t")
	f.Fuzz(func(t *testing.T, text string) {
		written := code(text)
		if strings.ContainsAny(written, "|\r\n") || strings.Count(written, "`") != 2 || strings.Contains(written, "<br>") {
			t.Errorf("%q is written %s, which ends the cell", text, written)
		}
		if read, err := decode(written); err != nil || read != text {
			t.Errorf("%q became %q, error %v", text, read, err)
		}
	})
}

// decode is the opposite of code.
func decode(written string) (string, error) {
	return strconv.Unquote(`"` + strings.ReplaceAll(strings.Trim(written, "`"), `"`, `\"`) + `"`)
}

func TestReadRequest(t *testing.T) {
	for _, whole := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n",
	} {
		if got, err := readRequest(strings.NewReader(whole)); err != nil || string(got) != whole {
			t.Errorf("%q: read %q, error %v", whole, got, err)
		}
		for cut := range len(whole) {
			if got, err := readRequest(strings.NewReader(whole[:cut])); err == nil {
				t.Errorf("%q, which goes on, passes for a whole request: %q", whole[:cut], got)
			}
		}
	}
}

// TestUpstreamWaits: the answer comes after the last byte of the request, in
// whatever pieces it arrives.
func TestUpstreamWaits(t *testing.T) {
	u, err := listen("answer")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.authority())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
	for i := range len(request) {
		if _, err := io.WriteString(conn, request[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(conn)
	u.close()
	if err != nil || string(answer) != "answer" || len(u.asked()) != 1 || string(u.asked()[0]) != request {
		t.Errorf("answer %q, error %v, asked %q", answer, err, u.asked())
	}
}
