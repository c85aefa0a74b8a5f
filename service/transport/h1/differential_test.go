package h1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// The oracle is net/http. What both take, they read alike but for readings; what
// one takes and the other does not is one of disagreements. Both lists are in
// docs/fidelity.md.

// theirs is what net/http makes of a response.
type theirs struct {
	*http.Response
	body []byte
	left int // bytes behind the response
	err  error
}

func readTheirs(raw []byte, method string) *theirs {
	from := bytes.NewReader(raw)
	br := bufio.NewReader(from)
	o := &theirs{}
	if o.Response, o.err = http.ReadResponse(br, &http.Request{Method: method}); o.err == nil {
		o.body, o.err = io.ReadAll(o.Body)
	}
	o.left = br.Buffered() + from.Len()
	return o
}

// difference says where the two read otherwise what both take.
func difference(ours *outcome, t *theirs) error {
	version := fmt.Sprintf("HTTP/%d.%d", t.ProtoMajor, t.ProtoMinor)
	_, reason, _ := strings.Cut(t.Status, " ")
	switch header, trailers := shown(ours), grouped(ours.trailers); {
	case ours.head.Protocol != version, ours.head.Status != t.StatusCode, string(ours.head.Reason) != reason:
		return fmt.Errorf("the status line is %s %s", version, t.Status)
	case !sameFields(header, t.Header):
		return fmt.Errorf("the fields are %q, want %q", t.Header, header)
	case !bytes.Equal(ours.body, t.body):
		return fmt.Errorf("the body is %q", t.body)
	case !sameFields(trailers, present(t.Trailer)):
		return fmt.Errorf("the trailers are %q", t.Trailer)
	case ours.left != t.left:
		return fmt.Errorf("%d bytes are left", t.left)
	case ours.framing.Persistent == t.Close:
		return fmt.Errorf("it closes the connection: %t", t.Close)
	}
	return nil
}

func sameFields(a, b http.Header) bool { return maps.EqualFunc(a, b, slices.Equal) }

// present leaves out the trailers that were announced and did not come.
func present(trailers http.Header) http.Header {
	came := http.Header{}
	for name, values := range trailers {
		if values != nil {
			came[name] = values
		}
	}
	return came
}

// grouped lists fields as net/http does.
func grouped(list []fetch.Field) http.Header {
	header := http.Header{}
	for _, f := range list {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		header[name] = append(header[name], string(f.Value))
	}
	return header
}

// shown is our head as net/http shows it.
func shown(ours *outcome) http.Header {
	header := grouped(ours.head.Fields)
	for _, r := range readings {
		if r.change != nil {
			r.change(header, ours)
		}
	}
	return header
}

// reading is something that net/http makes of a head that both take.
type reading struct {
	name   string
	change func(header http.Header, ours *outcome) // nil where a map of fields is enough
}

var readings = []reading{
	{"names in their canonical case, listed by name", nil},
	{"one of several Content-Lengths", func(header http.Header, _ *outcome) {
		if lengths := header["Content-Length"]; len(lengths) > 1 {
			header["Content-Length"] = lengths[:1]
		}
	}},
	{"without Transfer-Encoding", func(header http.Header, _ *outcome) { header.Del("Transfer-Encoding") }},
	{"without Connection, where that says close in HTTP/1.1", func(header http.Header, ours *outcome) {
		for _, option := range fetch.Members(ours.head.Fields, "Connection") {
			if ours.head.Protocol == "HTTP/1.1" && strings.EqualFold(option, "close") {
				header.Del("Connection")
			}
		}
	}},
	{"without Trailer, where there are chunks", func(header http.Header, ours *outcome) {
		if _, chunked := fetch.Get(ours.head.Fields, "Transfer-Encoding"); chunked {
			header.Del("Trailer")
		}
	}},
	{"with Cache-Control: no-cache, where Pragma says it alone", func(header http.Header, _ *outcome) {
		if pragma := header["Pragma"]; len(pragma) > 0 && pragma[0] == "no-cache" && header["Cache-Control"] == nil {
			header["Cache-Control"] = []string{"no-cache"}
		}
	}},
}

// disagreement is a kind of response that one of the two takes, and the other
// does not.
type disagreement struct {
	// name is a row of docs/fidelity.md, and rule the RFC's word on it there.
	name, rule string
	// taker is who takes it.
	taker string
	// says is how the other refuses it: one of our rules, or a part of what
	// net/http says.
	says string
	// applies tells whether a response can be of the kind, by its bytes.
	applies func(raw []byte) bool
	example string
}

const (
	netHTTP   = "net/http"
	fetchgate = "fetchgate"
)

func matches(pattern string) func([]byte) bool { return regexp.MustCompile(`(?s)` + pattern).Match }

// ok and inChunks begin an example.
const (
	ok       = "HTTP/1.1 200 OK\r\n"
	inChunks = ok + "Transfer-Encoding: chunked\r\n\r\n"
)

var disagreements = []disagreement{
	{"a line that ends with LF alone", "RFC 9112 section 2.2", netHTTP, "a line does not end with CRLF",
		matches(`(^|[^\r])\n`), "HTTP/1.1 200 OK\nX-A: a\n\n"},
	{"a minor version beyond 1", "RFC 9112 section 2.3", netHTTP, "its version is not HTTP/1.1 or HTTP/1.0",
		matches(`^HTTP/1\.[2-9] `), "HTTP/1.2 200 OK\r\n\r\n"},
	{"another major version", "RFC 9112 section 2.3", netHTTP, "it does not begin with HTTP/1.",
		matches(`^HTTP/[02-9]\.[0-9] `), "HTTP/2.0 200 OK\r\n\r\n"},
	{"spaces before the status", "RFC 9112 section 4", netHTTP, "its status is not a number from 100 to 999",
		matches(`^HTTP/1\.[01]  `), "HTTP/1.1  200 OK\r\n\r\n"},
	{"a status below 100, or with a sign", "RFC 9110 section 15", netHTTP, "its status is not a number from 100 to 999",
		matches(`^HTTP/1\.[01] (0[0-9]|\+[0-9]|-0)[0-9][ \r]`), "HTTP/1.1 099 Low\r\n\r\n"},
	{"a control character in the reason", "RFC 9112 section 4", netHTTP, "its reason phrase has a control character",
		matches(`^HTTP/1\.[01] [0-9]{3} [^\n]*[\x00-\x08\x0b-\x1f\x7f]`), "HTTP/1.1 200 O\x00K\r\n\r\n"},
	{"a field folded over two lines", "RFC 9112 section 5.2", netHTTP, "a field is folded over two lines",
		matches(`\n[ \t]`), ok + "X-A: a\r\n b\r\n\r\n"},
	{"a space in a name, or before the colon", "RFC 9112 section 5.1", netHTTP, "the name of a field is not a token",
		matches(`\n[^:\n ]+ [^:\n]*:`), ok + "X-A : a\r\n\r\n"},
	{"Content-Length and Transfer-Encoding", "RFC 9112 section 6.3", netHTTP, "it has both Content-Length and Transfer-Encoding",
		matches(`(?i)\n(content-length:.*\ntransfer-encoding:|transfer-encoding:.*\ncontent-length:)`),
		ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"Transfer-Encoding in HTTP/1.0", "RFC 9112 section 6.1", netHTTP, "its Transfer-Encoding is not chunked alone, in HTTP/1.1",
		matches(`(?i)^HTTP/1\.0 .*\ntransfer-encoding:`), "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"more than 64 KiB of fields", "RFC 9110 section 5.4", netHTTP, "it has more than 65536 bytes",
		func(raw []byte) bool { return len(raw) > 64<<10 }, ok + "X-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"},
	{"more than 256 fields", "RFC 9110 section 5.4", netHTTP, "it has more than 256 fields",
		func(raw []byte) bool { return bytes.Count(raw, []byte(":")) > 256 }, ok + strings.Repeat("X-A: a\r\n", 257) + "\r\n"},
	{"space behind a chunk-size", "RFC 9112 section 7.1", netHTTP, "the size of a chunk is not a hexadecimal number",
		matches(`\n[0-9A-Fa-f]+[ \t]+\r\n`), inChunks + "1 \r\na\r\n0\r\n\r\n"},
	{"a chunk extension without a name", "RFC 9112 section 7.1.1", netHTTP, "an extension of a chunk has no name",
		matches(`\n[0-9A-Fa-f]+;`), inChunks + "1;\r\na\r\n0\r\n\r\n"},
	{"a control character in a chunk extension", "RFC 9112 section 7.1.1", netHTTP, "an extension of a chunk has a control character",
		matches(`\n[0-9A-Fa-f]+;[^\r\n]*[\x00-\x08\x0b-\x1f\x7f]`), inChunks + "1;a\x00\r\na\r\n0\r\n\r\n"},
	{"a chunk-size line of more than 1 KiB", "RFC 9112 section 7.1.1", netHTTP, "the line of a chunk's size is too long",
		matches(`\n[0-9A-Fa-f]+;[^\r\n]{1000}`), inChunks + "1;" + strings.Repeat("a", 1<<10) + "\r\na\r\n0\r\n\r\n"},
	{"chunks with little data and much around it", "RFC 9112 section 7.1.1", netHTTP, "the chunks have too little data for what is around it",
		func(raw []byte) bool { return len(raw) > h1.MaxExcess },
		inChunks + strings.Repeat("0000000000000001\r\na\r\n", 6<<10) + "0\r\n\r\n"},
	{"a field Trailer that announces Content-Length, Transfer-Encoding or Trailer", "RFC 9110 section 6.6.2", fetchgate, "bad trailer key",
		matches(`(?i)\ntrailer:[^\n]*(content-length|transfer-encoding|trailer)`),
		ok + "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"more than 4 KiB of trailers", "RFC 9110 section 5.4", fetchgate, "suspiciously long trailer",
		matches(`\n0+(;[^\n]*)?\r\n` + strings.Repeat(`.{1000}`, 4)), inChunks + "0\r\nX-A: " + strings.Repeat("a", 4<<10) + "\r\n\r\n"},
}

// named is the disagreement that a response of which the two think otherwise is
// an example of; nil means that there is none.
func named(raw []byte, ours *outcome, t *theirs) *disagreement {
	taker, said := netHTTP, strings.TrimPrefix(ours.rule, "in the trailer section, ")
	if ours.isWhole() {
		taker, said = fetchgate, t.err.Error()
	}
	for i, d := range disagreements {
		says := d.says == said || taker == fetchgate && strings.Contains(said, d.says)
		if d.taker == taker && says && d.applies(raw) {
			return &disagreements[i]
		}
	}
	return nil
}

// compare reads a response twice and returns what the two disagree about, if
// they do.
func compare(t *testing.T, raw []byte, method string) *disagreement {
	t.Helper()
	ours, theirs := read(t, raw, way{method: method}), readTheirs(raw, method)
	if ours.isWhole() && theirs.err == nil {
		if err := difference(ours, theirs); err != nil {
			t.Errorf("%s %.500q\nis read %s\nand by net/http otherwise: %v", method, raw, ours, err)
		}
	}
	if ours.isWhole() == (theirs.err == nil) {
		return nil
	}
	d := named(raw, ours, theirs)
	if d == nil {
		t.Errorf("%s %.500q\nis read %s\nand by net/http: %v", method, raw, ours, theirs.err)
	}
	return d
}

var methods = []string{"GET", "HEAD"}

// FuzzDifferential reads any bytes with net/http too.
func FuzzDifferential(f *testing.F) {
	for _, raw := range responses(f) {
		f.Add(raw)
	}
	for _, d := range disagreements {
		if len(d.example) < 1<<10 {
			f.Add([]byte(d.example))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, method := range methods {
			compare(t, raw, method)
		}
	})
}

// TestDisagreements: each has an example of its own, which is one for it alone.
func TestDisagreements(t *testing.T) {
	for _, d := range disagreements {
		if got := compare(t, []byte(d.example), "GET"); got == nil || got.name != d.name {
			t.Errorf("%.100q is no example of %s, but of %v", d.example, d.name, got)
		}
	}
}

// TestReadings: without any one of them, the two read otherwise.
func TestReadings(t *testing.T) {
	examples := []string{
		ok + "pragma: no-cache\r\nContent-Length: 1\r\nContent-Length: 1\r\nconnection: x, Close\r\n\r\na",
		ok + "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\nX-A: 1\r\n\r\n",
	}
	for _, raw := range examples {
		if err := difference(read(t, []byte(raw), way{}), readTheirs([]byte(raw), "GET")); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	all := readings
	defer func() { readings = all }()
	for i := range all {
		if all[i].change == nil {
			continue
		}
		readings = slices.Delete(slices.Clone(all), i, i+1)
		differs := false
		for _, raw := range examples {
			differs = differs || difference(read(t, []byte(raw), way{}), readTheirs([]byte(raw), "GET")) != nil
		}
		if !differs {
			t.Errorf("%s: no difference without it", all[i].name)
		}
	}
}

// TestDisagreementsAreDocumented: the page has each, and no others.
func TestDisagreementsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/fidelity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(page), "\n## Where net/http and fetchgate differ\n")
	if !found {
		t.Fatal("the page does not say where net/http and fetchgate differ")
	}
	var want, got []string
	for _, r := range readings {
		want = append(want, "- "+r.name)
	}
	for _, d := range disagreements {
		want = append(want, fmt.Sprintf("| %s | %s | %s |", d.name, d.taker, d.rule))
	}
	for line := range strings.Lines(part) {
		line = strings.TrimSpace(line)
		if isRow := strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| the upstream"); isRow || strings.HasPrefix(line, "- ") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestErrors: what a response that breaks off comes to is one of three.
func TestErrors(t *testing.T) {
	for _, shape := range shapes {
		for end := range len(shape) {
			o := read(t, []byte(shape[:end]), way{})
			var fault *h1.Fault
			if !errors.As(o.err, &fault) && o.err != io.EOF && o.err != io.ErrUnexpectedEOF {
				t.Errorf("%q ends with %v", shape[:end], o.err)
			}
		}
	}
}
