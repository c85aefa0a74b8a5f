package service_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Heads and framing that an HTTP/1.1 upstream should not send, seen from both
// ends. The ids are those of the project's catalogue of adversarial cases,
// groups F and G.

const (
	okLine = "HTTP/1.1 200 OK\r\n"
	// afterLine is what follows a line of a head: nobody may see it if that line
	// is refused.
	afterLine = "X: " + secret + "\r\nContent-Length: 5\r\n\r\nhello"
	inChunks  = okLine + "Transfer-Encoding: chunked\r\n\r\n"
)

// wireCase is what an upstream answers, and what becomes of it in the words of
// outcomeOf. The connection stays open, unless the answer ends it.
type wireCase struct {
	name, answer, want string
	ends               bool
}

// statusLines are those that are refused.
var statusLines = []struct{ name, line string }{
	{"F03 HTTP/1.2", "HTTP/1.2 200 OK"},
	{"F03 HTTP/2.0", "HTTP/2.0 200 OK"},
	{"F03 RTSP", "RTSP/1.0 200 OK"},
	{"F03 ICE", "ICE/1.0 200 OK"},
	{"F03 a body of HTTP/0.9", "<html>" + secret + "</html>"},
	{"F04 status 0", "HTTP/1.1 0 Zero"},
	{"F04 status 99", "HTTP/1.1 99 Low"},
	{"F04 status 099", "HTTP/1.1 099 Low"},
	{"F04 status 1000", "HTTP/1.1 1000 High"},
	{"F04 a letter in the status", "HTTP/1.1 2O0 OK"},
	{"F04 a sign before the status", "HTTP/1.1 +200 OK"},
	{"F04 a space before the status", "HTTP/1.1  200 OK"},
	{"F05 NUL in the reason", "HTTP/1.1 200 O\x00K"},
	{"F05 CR in the reason", "HTTP/1.1 200 O\rK"},
	{"F05 CR before the line end", "HTTP/1.1 200 OK\r"},
	{"F12 an unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade"},
}

// headLines are those that are refused behind a status line.
var headLines = []struct{ name, line string }{
	{"F05 a bare LF", "X-A: b\nX-B: c"},
	{"F05 a bare CR", "X-A: b\rX-B: c"},
	{"F05 CR before the line end", "X-A: b\r"},
	{"F05 a space before the colon", "X-A : b"},
	{"F05 a tab before the colon", "X-A\t: b"},
	{"F05 a folded field", "X-A: b\r\n c"},
	{"F05 a folded empty line", "X-A: b\r\n "},
	{"F05 a space before the first field", " X-A: b"},
	{"F06 no colon", secret},
	{"F06 no name", ": " + secret},
	{"F06 a space in the name", "X A: b"},
	{"F06 a control character in the name", "X\x01A: b"},
	{"F06 a name that is no token", "X(A): b"},
	{"F06 a name that is not ASCII", "X\xc3\xa4: b"},
	{"F07 NUL in the value", "X-A: " + secret + "\x00b"},
	{"F07 CR in the value", "X-A: " + secret + "\rSet-Cookie: a=b"},
	{"F07 LF in the value", "X-A: " + secret + "\nSet-Cookie: a=b"},
	{"F07 an escape in the value", "X-A: " + secret + "\x1b[2J"},
	{"F07 DEL in the value", "X-A: " + secret + "\x7f"},
	{"F17 a list of equal lengths", "Content-Length: 42,42"},
	{"F17 a sign", "Content-Length: +42"},
	{"F17 hexadecimal", "Content-Length: 0x2a"},
	{"F17 a negative length", "Content-Length: -1"},
	{"F17 2^63", "Content-Length: 9223372036854775808"},
	{"F17 a space in the length", "Content-Length: 4 2"},
}

// codings are the transfer codings that are refused.
var codings = []struct{ name, head string }{
	{"F19 chunked is not the last", okLine + "Transfer-Encoding: chunked, identity"},
	{"F19 an unknown coding", okLine + "Transfer-Encoding: xchunked"},
	{"F19 chunked twice in a field", okLine + "Transfer-Encoding: chunked, chunked"},
	{"F19 chunked twice in two", okLine + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"},
	{"F19 gzip and chunked", okLine + "Transfer-Encoding: gzip, chunked"},
	{"F20 HTTP/1.0 in chunks", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked"},
}

// headCases are the heads of group F.
func headCases() []wireCase {
	cases := []wireCase{
		{"F04 status 999", "HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello", "999, 5 bytes", false},
		{"F08 a head of more than 64 KiB", okLine + "X-A: " + strings.Repeat("a", 64<<10) + "\r\n" + afterLine, "HEAD_TOO_LARGE", false},
		{"F09 256 fields", okLine + strings.Repeat("X-A: b\r\n", 255) + "Content-Length: 5\r\n\r\nhello", "200, 5 bytes", false},
		{"F09 257 fields", okLine + strings.Repeat("X-A: b\r\n", 255) + afterLine, "HEAD_TOO_LARGE", false},
		{"F09 5,000 fields", okLine + strings.Repeat("X: y\r\n", 5000) + afterLine, "HEAD_TOO_LARGE", false},
		{"F17 equal lengths", okLine + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "200, 5 bytes", false},
		{"F17 lengths that differ", okLine + "Content-Length: 4\r\n" + afterLine, "CONFLICTING_LENGTH", false},
		{"F18 a length and chunks", okLine + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "CONFLICTING_LENGTH", false},
		{"F18 chunks and a length", okLine + "Transfer-Encoding: chunked\r\n" + afterLine, "CONFLICTING_LENGTH", false},
		{"F18 no coding and a length", okLine + "Transfer-Encoding: identity\r\n" + afterLine, "CONFLICTING_LENGTH", false},
		{"F21 an unknown reason", "HTTP/1.1 200 Fine, thanks\r\nContent-Length: 5\r\n\r\nhello", "200, 5 bytes", false},
	}
	for _, c := range statusLines {
		cases = append(cases, wireCase{c.name, c.line + "\r\n" + afterLine, "MALFORMED_HEAD", false})
	}
	for _, c := range headLines {
		after := afterLine
		if strings.HasPrefix(c.line, "Content-Length") {
			after = "X: " + secret + "\r\n\r\nhello"
		}
		cases = append(cases, wireCase{c.name, okLine + c.line + "\r\n" + after, "MALFORMED_HEAD", false})
	}
	for _, c := range codings {
		cases = append(cases, wireCase{c.name, c.head + "\r\nX: " + secret + "\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "MALFORMED_HEAD", false})
	}
	return cases
}

// framedCases are the bodies of group G whose framing is odd or broken.
func framedCases() []wireCase {
	cases := []wireCase{
		{"G01 nine bytes of ten", okLine + "Content-Length: 10\r\n\r\nhello you", "200, 9 bytes, then INCOMPLETE_BODY", true},
		{"G01 none of ten", okLine + "Content-Length: 10\r\n\r\n", "200, 0 bytes, then INCOMPLETE_BODY", true},
		{"G03 an extension", inChunks + "5;ext\r\nhello\r\n0\r\n\r\n", "200, 5 bytes", false},
		{"G03 a quoted extension", inChunks + "5;ext=\"a; b\"\r\nhello\r\n0;last\r\n\r\n", "200, 5 bytes", false},
		{"G03 an extension of 3 kB", inChunks + "5\r\nhello\r\n1;" + strings.Repeat("x", 3000) + "\r\n!\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 no CRLF behind a chunk", inChunks + "5\r\nhello0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 other bytes behind a chunk", inChunks + "5\r\nhello!\r\n0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 LF behind a chunk", inChunks + "5\r\nhello\n0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 a byte and LF behind a chunk", inChunks + "5\r\nhello!\n0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 CR and a byte behind a chunk", inChunks + "5\r\nhello\r!0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G05 the end in a chunk", inChunks + "a\r\nhello", "200, 5 bytes, then INCOMPLETE_BODY", true},
		{"G05 the end behind a chunk", inChunks + "5\r\nhello", "200, 5 bytes, then INCOMPLETE_BODY", true},
		{"G05 no last chunk", inChunks + "5\r\nhello\r\n", "200, 5 bytes, then INCOMPLETE_BODY", true},
		{"G05 the end behind the last chunk", inChunks + "5\r\nhello\r\n0\r\n", "200, 5 bytes, then INCOMPLETE_BODY", true},
		{"G05 the end in the trailers", inChunks + "5\r\nhello\r\n0\r\nX-A: b\r\n", "200, 5 bytes, then INCOMPLETE_BODY", true},
		{"G06 a trailer that is no field", inChunks + "5\r\nhello\r\n0\r\n" + secret + "\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false},
		{"G06 257 trailers", inChunks + "5\r\nhello\r\n0\r\n" + strings.Repeat("X: y\r\n", 257) + "\r\n", "200, 5 bytes, then HEAD_TOO_LARGE", false},
	}
	for name, size := range map[string]string{
		"0x": "0x5", "a space behind": "5 ", "a space before": " 5", "a sign": "-1", "another sign": "+5",
		"17 digits": "00000000000000005", "64 bits": "ffffffffffffffff", "nothing": "", "no digit": "g", "a bare LF": "5\nhello",
	} {
		cases = append(cases, wireCase{"G04 a size with " + name, inChunks + "5\r\nhello\r\n" + size + "\r\nworld\r\n0\r\n\r\n", "200, 5 bytes, then INVALID_CHUNK", false})
	}
	return cases
}

// TestHeadsAndFraming: what breaks the rules is a failure, at once, that shows
// nothing of what the upstream wrote, and its connection closes.
func TestHeadsAndFraming(t *testing.T) {
	cases := append(headCases(), framedCases()...)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		n, _ := strconv.Atoi(r.Target[1:])
		if cases[n].ends {
			return fetchtest.Steps(fetchtest.Write(cases[n].answer), fetchtest.HalfClose())
		}
		return fetchtest.Write(cases[n].answer)
	}})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for i, c := range cases {
		for _, rpc := range rpcs {
			for _, verbatim := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s, verbatim %v", c.name, rpc.name, verbatim), func(t *testing.T) {
					m := get(u.URL("/" + strconv.Itoa(i)))
					m.Options.Retry, m.Options.Report, m.Options.Verbatim = oneAttempt(), full(), proto.Bool(verbatim)
					m.Options.Timeouts = &fetchgatev1.Timeouts{Total: seconds(20)}
					a, err := rpc.call(within(t), g, m)
					if err != nil {
						t.Fatal(err)
					}
					if got := outcomeOf(a); got != c.want {
						t.Errorf("got %s, want %s", got, c.want)
					}
					if a.failure != nil {
						wantNothingShown(t, a)
						wantLastClosed(t, u, c.ends)
					}
				})
			}
		}
	}
}

// wantLastClosed wants the connection of the last request to be closed by
// fetchgate, unless the upstream did so.
func wantLastClosed(t *testing.T, u *fetchtest.Recorder, ended bool) {
	t.Helper()
	r := u.Requests()
	if err := u.WaitClosed(within(t), r[len(r)-1].Conn); err != nil && !ended {
		t.Error(err)
	}
}

// wantNothingShown wants no secret anywhere in an answer.
func wantNothingShown(t *testing.T, a *answer) {
	t.Helper()
	if all := fmt.Sprint(a.failure, a.report, a.head, a.interim, a.history, a.trailers, string(a.body)); strings.Contains(all, secret) {
		t.Errorf("the answer shows what the upstream wrote: %s", all)
	}
}

// TestHeadsWithoutEnd: of a head, of interim heads or of trailers that do not
// end little is read, and less is kept.
func TestHeadsWithoutEnd(t *testing.T) {
	for _, c := range []struct {
		name, begin, forever, want string
		read                       int64 // the most, in bytes
	}{
		{"F08 a status line", "HTTP/1.1 200 ", "OK", "HEAD_TOO_LARGE", 128 << 10},
		{"F08 a line", okLine + "X-A: ", "aaaaaaaa", "HEAD_TOO_LARGE", 128 << 10},
		{"F10 tiny fields", okLine, "a:\r\n", "HEAD_TOO_LARGE", 128 << 10},
		{"F10 cookies", okLine, "Set-Cookie: a=b\r\n", "HEAD_TOO_LARGE", 128 << 10},
		{"F11 interim heads", "", "HTTP/1.1 103 Early Hints\r\n\r\n", "TOO_MANY_INTERIM", 64 << 10},
		{"F11 interim heads of 100", "", "HTTP/1.1 100 Continue\r\n\r\n", "TOO_MANY_INTERIM", 64 << 10},
		{"F11 large interim heads", "", "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 60<<10) + "\r\n\r\n", "TOO_MANY_INTERIM", 512 << 10},
		{"G06 trailers", inChunks + "5\r\nhello\r\n0\r\n", "a:\r\n", "200, 5 bytes, then HEAD_TOO_LARGE", 512 << 10},
		{"G06 a line of trailers", inChunks + "5\r\nhello\r\n0\r\nX-A: ", "aaaaaaaa", "200, 5 bytes, then HEAD_TOO_LARGE", 512 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(c.begin), endlessly(c.forever))
			network := &network{}
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Connect: network.connect})
			for i, rpc := range rpcs {
				m := get(u.URL("/"))
				m.Options.Retry = oneAttempt()
				before := network.read.Load()
				var a *answer
				made := allocatedBy(func() {
					var err error
					if a, err = rpc.call(within(t), g, m); err != nil {
						t.Fatal(err)
					}
				})
				if got := outcomeOf(a); got != c.want {
					t.Errorf("%s: got %s, want %s", rpc.name, got, c.want)
				}
				if read := network.read.Load() - before; read > c.read {
					t.Errorf("%s: %d bytes were read, want at most %d", rpc.name, read, c.read)
				}
				if made > 4<<20 { // all that both ends and the upstream allocate
					t.Errorf("%s: %d KiB were allocated", rpc.name, made>>10)
				}
				if err := u.WaitClosed(within(t), i+1); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// endlessly writes text until the connection is over, of one block.
func endlessly(text string) fetchtest.Step {
	block := []byte(strings.Repeat(text, max(1, 32<<10/len(text))))
	return func(c *fetchtest.Conn) error {
		for {
			if _, err := c.Write(block); err != nil {
				return err
			}
		}
	}
}

// leftovers are responses, and what the upstream sends behind them.
var leftovers = []struct {
	name, method, answer, body string
	behind                     string
	status                     int32
}{
	{"F15 a response behind a length", "GET", okLine + "Content-Length: 4\r\n\r\nreal", "real", stolen, 200},
	{"F15 a response behind chunks", "GET", inChunks + "4\r\nreal\r\n0\r\n\r\n", "real", stolen, 200},
	{"F15 a response behind trailers", "GET", inChunks + "4\r\nreal\r\n0\r\nX-A: b\r\n\r\n", "real", stolen, 200},
	{"F15 an interim response", "GET", okLine + "Content-Length: 4\r\n\r\nreal", "real", "HTTP/1.1 103 Early Hints\r\n\r\n", 200},
	{"F16 HEAD", "HEAD", okLine + "Content-Length: 6\r\n\r\n", "", "stolen", 200},
	{"F16 HEAD in chunks", "HEAD", okLine + "Transfer-Encoding: chunked\r\n\r\n", "", "6\r\nstolen\r\n0\r\n\r\n", 200},
	{"F16 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", "stolen", 204},
	{"F16 204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n", "", "stolen", 204},
	{"F16 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", "", "stolen", 304},
	{"F16 304 and a response", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", "", stolen, 304},
	{"G02 a byte more than the length", "GET", okLine + "Content-Length: 4\r\n\r\nreal", "real", "!", 200},
	{"G02 a body that is longer", "GET", okLine + "Content-Length: 4\r\n\r\nreal", "real", strings.Repeat("more", 50_000), 200},
	{"G02 a line end behind the body", "GET", okLine + "Content-Length: 4\r\n\r\nreal", "real", "\r\n", 200},
}

// TestLeftovers: what comes behind a response, with it or once it was taken, is
// part of no answer, and its connection closes.
func TestLeftovers(t *testing.T) {
	for _, c := range leftovers {
		for _, when := range []string{"together", "later"} {
			t.Run(c.name+"/"+when, func(t *testing.T) {
				seen, sent := make(chan struct{}, 1), make(chan struct{}, 1)
				u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
					switch {
					case r.Target == "/next":
						return fetchtest.Answer(200, "ok")
					case when == "together":
						return fetchtest.Write(c.answer + c.behind)
					}
					return fetchtest.Steps(fetchtest.Write(c.answer), fetchtest.Pause(seen), func(conn *fetchtest.Conn) error {
						_, err := conn.Write([]byte(c.behind))
						sent <- struct{}{}
						return err
					})
				}})
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
				for i, rpc := range rpcs {
					m := get(u.URL("/"))
					m.Request.Method, m.Options.Connection = c.method, fresh()
					a, err := rpc.call(within(t), g, m)
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, a, c.status, c.body)
					if when == "later" {
						seen <- struct{}{}
						<-sent
					}
					next, err := rpc.call(within(t), g, get(u.URL("/next")))
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, next, 200, "ok")
					r := u.Requests()
					used, after := r[2*i].Conn, r[2*i+1].Conn
					if used == after {
						t.Errorf("%s: both came on connection %d", rpc.name, used)
					}
					if err := u.WaitClosed(within(t), used); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestHeadsInPieces (F24): where the writes of the upstream end, and TLS's
// records, makes no difference.
func TestHeadsInPieces(t *testing.T) {
	answers := []string{
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Go on\r\n\r\n" + inChunks + "2;x=\"y\"\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
		"HTTP/1.0 299 caf\xe9\r\nzeta:  1 \r\nX-mIxEd: \xff\r\nx-MiXeD:\r\n\r\nuntil the end",
		"HTTP/1.1 404\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
		okLine + "X-A: b\nX-B: c\r\n\r\n", okLine + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nX",
		inChunks + "5\r\nhello\r\n5x\r\n", okLine + strings.Repeat("X: y\r\n", 300) + "\r\n",
	}
	authority := fetchtest.NewAuthority(t)
	for _, l := range []fetchtest.Listen{{}, {Authority: authority}} {
		u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: l, Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			n, _ := strconv.Atoi(r.Target[3:])
			write := fetchtest.Write(answers[n])
			if r.Target[1] == 'b' {
				write = fetchtest.Dribble(answers[n])
			}
			return fetchtest.Steps(write, fetchtest.HalfClose())
		}})
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Trust: authority})
		for i := range answers {
			for _, rpc := range rpcs {
				var got []string
				for _, way := range []string{"w", "b"} { // whole, and by bytes
					m := get(u.URL(fmt.Sprintf("/%s/%d", way, i)))
					m.Options.Retry, m.Options.Connection = oneAttempt(), fresh()
					a, err := rpc.call(within(t), g, m)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, strings.ReplaceAll(fmt.Sprintf("%s %q %q %q %q %v", outcomeOf(a), a.body, linesOf(a.trailers), a.head.GetReason(), linesOf(a.head.GetHeaders()), len(a.interim)), "/"+way+"/", "/"))
				}
				if got[0] != got[1] {
					t.Errorf("%q by %s, TLS %v: in one piece %s, by bytes %s", answers[i], rpc.name, l.Authority != nil, got[0], got[1])
				}
			}
		}
	}
}

// linesOf are fields as "Name: value".
func linesOf(fields []*fetchgatev1.HeaderField) []string {
	var lines []string
	for _, f := range fields {
		lines = append(lines, f.GetName()+": "+string(f.GetValue()))
	}
	return lines
}

// TestBytesOfHeads (F22): all bytes that a value may have arrive, none of them
// is written in another way.
func TestBytesOfHeads(t *testing.T) {
	value := "a\t"
	for b := range 256 {
		if b >= ' ' && b != 0x7f {
			value += string([]byte{byte(b)})
		}
	}
	answer := "HTTP/1.1 200 caf\xe9 " + value + "\r\nX-Bytes: " + value + "\r\nx-bytes:\t\xc3( \r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: " + value + "\r\n\r\n"
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Write(answer))})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), g, get(u.URL("/")))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "")
		want := []string{"X-Bytes: " + value, "x-bytes: \xc3(", "Transfer-Encoding: chunked"}
		if got := linesOf(a.head.GetHeaders()); !slices.Equal(got, want) || string(a.head.GetReason()) != "caf\xe9 "+value {
			t.Errorf("%s: the head has %q, %q", rpc.name, a.head.GetReason(), got)
		}
		if got := linesOf(a.trailers); !slices.Equal(got, []string{"X-Sum: " + value}) {
			t.Errorf("%s: the trailers are %q", rpc.name, got)
		}
	}
}

// TestLongReasons (F21): a reason phrase of 8 kB arrives, and is in no record.
func TestLongReasons(t *testing.T) {
	long := strings.Repeat("Long! ", 8000/6)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Write("HTTP/1.1 200 " + long + "\r\nContent-Length: 2\r\n\r\nok"))})
	audit := make(record, 1<<10)
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Audit: audit})
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), g, get(u.URL("/")))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "ok")
		if string(a.head.GetReason()) != long {
			t.Errorf("%s: the reason is %q", rpc.name, a.head.GetReason())
		}
		if line := audit.next(t); strings.Contains(line, "Long!") || !strings.Contains(line, "200") {
			t.Errorf("%s: the record is %s", rpc.name, line)
		}
	}
}

// TestBanners (F25): what is no HTTP server and speaks first is found out at
// once, and what it says is not told.
func TestBanners(t *testing.T) {
	for name, banner := range map[string]string{
		"F25 SSH": "SSH-2.0-" + secret + "\r\n", "F25 SMTP": "220 " + secret + " ESMTP\r\n", "F25 FTP, without a line end": "220-" + secret,
		"F25 MySQL": "\x4a\x00\x00\x00\x0a" + secret + "\x00", "F25 a single byte": "*", "F25 TLS": "\x15\x03\x01\x00\x02\x02\x46",
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Write(banner), fetchtest.Hang())
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
			for _, rpc := range rpcs {
				// The best of some, since the machine may be busy with other things.
				best := patience
				for range 10 {
					m := get(u.URL("/"))
					m.Options.Report = full()
					began := time.Now()
					a, err := rpc.call(within(t), g, m)
					best = min(best, time.Since(began))
					if err != nil {
						t.Fatal(err)
					}
					wantFailure(t, a, "MALFORMED_HEAD")
					wantNothingShown(t, a)
					if t.Failed() {
						return
					}
				}
				if best > 100*time.Millisecond {
					t.Errorf("%s: it took %v", rpc.name, best)
				}
			}
		})
	}
}

// TestContinueThatNeverComes (F13): after a second the body is sent all the same.
func TestContinueThatNeverComes(t *testing.T) {
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Early: func(*fetchtest.Recorded) (fetchtest.Step, bool) { return nil, false }})
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			m := get(u.URL("/"))
			m.Request.Method, m.Request.Body = "POST", raw("abc")
			m.Options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}
			began := time.Now()
			a, err := rpc.call(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < time.Second || took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			wantAnswer(t, a, 200, "ok")
			if r := u.Requests(); len(r) != 1 || r[0].Get("Expect") != "100-continue" || string(r[0].Body) != "abc" {
				t.Errorf("the upstream got %+v", r)
			}
		})
	}
}

// TestAnswersBeforeTheUpload (F14): who refuses a request by its head gets no
// more of its body than is on its way, and no other request behind it. Nobody
// waits for the rest to go out.
func TestAnswersBeforeTheUpload(t *testing.T) {
	for _, status := range []int{413, 401, 503} {
		for _, rpc := range rpcs {
			t.Run(fmt.Sprintf("F14 %d/%s", status, rpc.name), func(t *testing.T) {
				// The best of some, since the machine may be busy with other things.
				best := patience
				for range 3 {
					answered, received := make(chan struct{}), make(chan int64, 1)
					u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.PerConnection(
						refusing(status, answered, received), fetchtest.Steps(fetchtest.Request(), fetchtest.Answer(200, "ok"))))
					g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Connect: smallBuffers})
					m := get(u.URL("/"))
					m.Request.Method, m.Request.Body = "POST", raw(strings.Repeat("x", 3<<20))
					m.Options.Retry = oneAttempt()
					began := time.Now()
					a, err := rpc.call(within(t), g, m)
					best = min(best, time.Since(began))
					close(answered)
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, a, int32(status), "no")
					if n := <-received; n >= 3<<20 {
						t.Errorf("the upstream got all %d bytes", n)
					}
					next, err := rpc.call(within(t), g, get(u.URL("/")))
					if err != nil {
						t.Fatal(err)
					}
					wantAnswer(t, next, 200, "ok")
				}
				if best > 900*time.Millisecond {
					t.Errorf("it took %v", best)
				}
			})
		}
	}
}

// refusing answers a request after its head, reads nothing until the answer
// was taken, and counts what it is sent behind the head.
func refusing(status int, answered <-chan struct{}, received chan<- int64) fetchtest.Step {
	return fetchtest.Steps(
		headOnly,
		fetchtest.Write(fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: 2\r\n\r\nno", status, http.StatusText(status))),
		func(c *fetchtest.Conn) error {
			<-answered
			n, err := io.Copy(io.Discard, c)
			received <- n
			return err
		},
	)
}

// headOnly reads the head of a request.
func headOnly(c *fetchtest.Conn) error {
	var read []byte
	for !strings.HasSuffix(string(read), "\r\n\r\n") {
		b, err := c.ReadByte()
		if err != nil {
			return err
		}
		read = append(read, b)
	}
	return nil
}

// TestEmptyReplies (F23): an upstream that closes without an answer is asked
// again for what may be asked twice.
func TestEmptyReplies(t *testing.T) {
	empty, ok := fetchtest.Request(), fetchtest.Steps(fetchtest.Request(), fetchtest.Answer(200, "ok"))
	for _, c := range []struct {
		name, method string
		upstream     fetchtest.Step
		want         string
		asked        int
	}{
		{"F23 once", "GET", fetchtest.PerConnection(empty, ok), "200, 2 bytes", 2},
		{"F23 twice", "GET", fetchtest.PerConnection(empty, empty, ok), "200, 2 bytes", 3},
		{"F23 always", "GET", empty, "DISCONNECTED", 3},
		{"F23 POST", "POST", fetchtest.PerConnection(empty, ok), "DISCONNECTED", 1},
	} {
		for _, rpc := range rpcs {
			t.Run(c.name+"/"+rpc.name, func(t *testing.T) {
				u := fetchtest.NewScript(t, fetchtest.Listen{}, c.upstream)
				g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
				m := get(u.URL("/"))
				m.Request.Method = c.method
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				if got := outcomeOf(a); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if opened, _ := u.Connections(); opened != c.asked {
					t.Errorf("the upstream was asked %d times, want %d", opened, c.asked)
				}
			})
		}
	}
}

// TestTrailersThatFrame (G06): what may not be a trailer is none.
func TestTrailersThatFrame(t *testing.T) {
	const section = "x-b: 1\r\nContent-Length: 7\r\nHost: inside\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nTrailer: a\r\nX-A: 2\r\nX-B: 3\r\n"
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Write(inChunks + "5\r\nhello\r\n0\r\n" + section + "\r\n"))})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), g, get(u.URL("/")))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, a, 200, "hello")
		if got := linesOf(a.trailers); !slices.Equal(got, []string{"x-b: 1", "X-A: 2", "X-B: 3"}) {
			t.Errorf("%s: the trailers are %q", rpc.name, got)
		}
	}
	if opened, _ := u.Connections(); opened != 1 {
		t.Errorf("%d connections", opened)
	}
}

// TestAnswersToRanges (G16): whatever answers the Range of a caller is the
// response, as it came; nothing is put together.
func TestAnswersToRanges(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		lines  []string
	}{
		"G16 206 without a Content-Range": {206, "llo", nil},
		"G16 another range":               {206, "he", []string{"Content-Range: bytes 0-1/5"}},
		"G16 a range that is none":        {206, "llo", []string{"Content-Range: bytes 9-2/*"}},
		"G16 the whole":                   {200, "hello", nil},
		"G16 416":                         {416, "no", []string{"Content-Range: bytes */5"}},
		"G16 several ranges":              {206, "--x\r\n\r\nl\r\n--x--", []string{"Content-Type: multipart/byteranges; boundary=x"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Answer(c.status, c.body, c.lines...))})
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			for i, rpc := range rpcs {
				m := get(u.URL("/"))
				m.Request.Headers = headers("Range", "bytes=2-4")
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, a, int32(c.status), c.body)
				if got := linesOf(a.head.GetHeaders()); !slices.Equal(got, append(slices.Clone(c.lines), fmt.Sprint("Content-Length: ", len(c.body)))) {
					t.Errorf("%s: the fields are %q", rpc.name, got)
				}
				if r := u.Requests(); len(r) != i+1 || r[i].Get("Range") != "bytes=2-4" {
					t.Errorf("%s: the upstream got %d requests: %+v", rpc.name, len(r), r)
				}
			}
		})
	}
}
