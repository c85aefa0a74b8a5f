package h1_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// splits are the ways of reading raw in one piece, in two with the cut anywhere,
// and byte by byte.
func splits(raw string, base way) []way {
	ways := []way{base}
	for cut := 1; cut < len(raw); cut++ {
		w := base
		w.cuts = []int{cut}
		ways = append(ways, w)
	}
	base.step = 1
	return append(ways, base)
}

func TestHeadIsKeptAsItWas(t *testing.T) {
	const raw = "HTTP/1.1 299 My \xe9dd Reason\r\nzeta:  1 \r\nX-mIxEd:a\r\nalpha: 2\r\nx-MiXeD:\tc\t \r\nempty:\r\nblank: \t \r\nb: \x80\xff: \"x\"  y\r\n!#$%&'*+-.^_`|~09: z\r\n\r\n"
	o := same(t, []byte(raw), splits(raw, way{method: "HEAD"})...)
	want := "HTTP/1.1 299 My \xe9dd Reason\r\nzeta: 1\r\nX-mIxEd: a\r\nalpha: 2\r\nx-MiXeD: c\r\nempty: \r\nblank: \r\nb: \x80\xff: \"x\"  y\r\n!#$%&'*+-.^_`|~09: z\r\n\r\n"
	if got := lines(o.head); got != want || o.err != io.EOF {
		t.Errorf("read %q, want %q; %v", got, want, o.err)
	}
}

// TestHeadOwnsItsBytes: nothing of a head changes when the buffer it came in is
// used again, and no field can be made to run into the next.
func TestHeadOwnsItsBytes(t *testing.T) {
	raw := []byte("HTTP/1.1 200 First\r\nA: one\r\nB: two\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OTHER\r\nX: xxx\r\nY: yyy\r\nContent-Length: 0\r\n\r\n")
	r := whole(t, string(raw))
	first, err := r.Head()
	before := lines(first)
	second, again := r.Head()
	if err != nil || again != nil || lines(first) != before || string(second.Reason) != "OTHER" {
		t.Errorf("%q became %q; %v, %v", before, lines(first), err, again)
	}
	_ = append(first.Fields[0].Value, "##########"...)
	if lines(first) != before {
		t.Errorf("%q became %q", before, lines(first))
	}
}

// whole is a reader of raw, which comes in one piece.
func whole(t *testing.T, raw string) *h1.Reader {
	p := &pieces{t: t, raw: []byte(raw)}
	p.reader = h1.NewReader(p, usual)
	return p.reader
}

func TestHeadsTaken(t *testing.T) {
	for raw, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n\r\n":                 "HTTP/1.1 200 OK",
		"HTTP/1.0 200 OK\r\n\r\n":                 "HTTP/1.0 200 OK",
		"HTTP/1.1 200\r\n\r\n":                    "HTTP/1.1 200",
		"HTTP/1.1 200 \r\n\r\n":                   "HTTP/1.1 200",
		"HTTP/1.1 200  OK \r\n\r\n":               "HTTP/1.1 200  OK ",
		"HTTP/1.1 100\r\n\r\n":                    "HTTP/1.1 100",
		"HTTP/1.1 999 Odd\r\n\r\n":                "HTTP/1.1 999 Odd",
		"HTTP/1.1 600 \t\x80\xff\r\n\r\n":         "HTTP/1.1 600 \t\x80\xff",
		"HTTP/1.1 200 " + long(8192) + "\r\n\r\n": "HTTP/1.1 200 " + long(8192),
	} {
		o := same(t, []byte(raw), way{method: "HEAD"}, way{method: "HEAD", step: 1})
		if got := strings.TrimSuffix(lines(o.head), "\r\n\r\n"); got != want || o.err != io.EOF {
			t.Errorf("%.50q: read %.50q, %v", raw, got, o.err)
		}
	}
}

func long(n int) string { return strings.Repeat("a", n) }

// TestHeadsRefused has what is refused in each line of a head, in whatever
// pieces it comes.
func TestHeadsRefused(t *testing.T) {
	for _, c := range []struct{ raw, rule string }{
		{"HTTP/1.2 200 OK\r\n\r\n", "its version is not HTTP/1.1 or HTTP/1.0"},
		{"HTTP/1.01 200 OK\r\n\r\n", "its version is not HTTP/1.1 or HTTP/1.0"},
		{"HTTP/1.1\t200 OK\r\n\r\n", "its version is not HTTP/1.1 or HTTP/1.0"},
		{"HTTP/1.\r\n\r\n", "its version is not HTTP/1.1 or HTTP/1.0"},
		{"HTTP/2.0 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"HTTP/0.9 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"http/1.1 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"RTSP/1.0 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"ICE/1.0 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"<html>an HTTP/0.9 body</html>", "it does not begin with HTTP/1."},
		{"SSH-2.0-OpenSSH_9.6", "it does not begin with HTTP/1."},
		{"\r\nHTTP/1.1 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"\r", "it does not begin with HTTP/1."},
		{" HTTP/1.1 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"\xef\xbb\xbfHTTP/1.1 200 OK\r\n\r\n", "it does not begin with HTTP/1."},
		{"HTTP/1.1\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 \r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 0 Zero\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 99 Low\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 099 Low\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 1000 High\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 2O0 Oh\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 +200 Sign\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 +20 Sign\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1  200 Space\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 200\tOK\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 20\xd9\xa0 Digit\r\n\r\n", "its status is not a number from 100 to 999"},
		{"HTTP/1.1 200 O\x00K\r\n", "its reason phrase has a control character"},
		{"HTTP/1.1 200 O\rK\r\n", "its reason phrase has a control character"},
		{"HTTP/1.1 200 OK\r\r\n", "its reason phrase has a control character"},
		{"HTTP/1.1 200 \x7f\r\n", "its reason phrase has a control character"},
		{"HTTP/1.1 200 OK\n\n", "a line does not end with CRLF"},
		{"HTTP/1.1 200 OK\n", "a line does not end with CRLF"},
		{ok + "\n", "a line does not end with CRLF"},
		{ok + "A: b\n", "a line does not end with CRLF"},
		{ok + "A: b\r\n\n", "a line does not end with CRLF"},
		{ok + "A: b\nC: d\r\n\r\n", "a line does not end with CRLF"},
		{ok + "\r\r\n\r\n", "a field has no colon"},
		{ok + "no colon\r\n\r\n", "a field has no colon"},
		{ok + ": no name\r\n\r\n", "the name of a field is not a token"},
		{ok + "A : b\r\n\r\n", "the name of a field is not a token"},
		{ok + "A\t: b\r\n\r\n", "the name of a field is not a token"},
		{ok + "A B: c\r\n\r\n", "the name of a field is not a token"},
		{ok + "A\x00: b\r\n\r\n", "the name of a field is not a token"},
		{ok + "A\r: b\r\n\r\n", "the name of a field is not a token"},
		{ok + "\xc3\x84: b\r\n\r\n", "the name of a field is not a token"},
		{ok + "A(b): c\r\n\r\n", "the name of a field is not a token"},
		{ok + "A: b\r\n folded\r\n\r\n", "a field is folded over two lines"},
		{ok + "A: b\r\n\tc: d\r\n\r\n", "a field is folded over two lines"},
		{ok + "A: b\r\n \r\n\r\n", "a field is folded over two lines"},
		{ok + " A: b\r\n\r\n", "a field is folded over two lines"},
		{ok + "A: b\x00c\r\n\r\n", "the value of a field has a control character"},
		{ok + "A: b\rc\r\n\r\n", "the value of a field has a control character"},
		{ok + "A: b\r\r\n\r\n", "the value of a field has a control character"},
		{ok + "A:\x1b[2J\r\n\r\n", "the value of a field has a control character"},
		{ok + "A: \x7f\r\n\r\n", "the value of a field has a control character"},
		{ok + "A: b\x0b\r\n\r\n", "the value of a field has a control character"},
	} {
		o := same(t, []byte(c.raw), splits(c.raw, way{})...)
		if o.rule != c.rule || o.reason() != fetch.ReasonMalformedHead || !o.inHead {
			t.Errorf("%q: %v, want %q", c.raw, o.err, c.rule)
		}
	}
}

// TestFoundOutAtOnce: what cannot become HTTP is refused at the first byte that
// says so, without waiting for more.
func TestFoundOutAtOnce(t *testing.T) {
	for _, raw := range []string{"S", "220 mail", "HTTP/2", "HTTP/1.1 200 OK\n", ok + "A: b\n", "HTTP/1.3 200 OK\r\n"} {
		p := &pieces{t: t, raw: []byte(raw), end: fmt.Errorf("it waits for more than %q", raw)}
		p.reader = h1.NewReader(p, usual)
		if _, err := p.reader.Head(); err == p.end || err == nil {
			t.Error(err)
		}
	}
}

// TestHeadLimits: each limit is exact, wherever the pieces end.
func TestHeadLimits(t *testing.T) {
	fill := func(total int) string {
		raw := ok + "A: \r\nContent-Length: 0\r\n\r\n"
		return strings.Replace(raw, "A: ", "A: "+long(total-len(raw)), 1)
	}
	for _, c := range []struct {
		name, raw, limit string
		max              int64
	}{
		{"64 KiB", fill(64 << 10), "", 0},
		{"64 KiB and 1", fill(64<<10 + 1), "max_response_field_bytes", 64 << 10},
		{"a line without an end", ok + "A: " + long(1<<20), "max_response_field_bytes", 64 << 10},
		{"a reason without an end", "HTTP/1.1 200 " + long(1<<20), "max_response_field_bytes", 64 << 10},
		{"256 fields", ok + strings.Repeat("a:\r\n", 255) + "Content-Length: 0\r\n\r\n", "", 0},
		{"257 fields", ok + strings.Repeat("a:\r\n", 256) + "Content-Length: 0\r\n\r\n", "max_response_fields", 256},
		{"a million fields", ok + strings.Repeat("Set-Cookie: a\r\n", 1<<20), "max_response_fields", 256},
	} {
		o := same(t, []byte(c.raw), way{}, way{step: 100}, way{step: 4096}, way{cuts: []int{64 << 10}}, way{cuts: []int{64<<10 + 1}})
		if isTaken := o.isWhole(); isTaken != (c.limit == "") {
			t.Errorf("%s: %v", c.name, o.err)
			continue
		} else if isTaken {
			continue
		}
		fault := o.err.(*h1.Fault)
		if o.reason() != fetch.ReasonHeadTooLarge || *fault.Limit != (fetch.LimitHit{Limit: c.limit, Max: c.max}) {
			t.Errorf("%s: %+v", c.name, fault)
		}
		if o.taken > 128<<10 {
			t.Errorf("%s: %d bytes were read", c.name, o.taken)
		}
	}
}

// TestNoFields: limits hold at their least, too.
func TestNoFields(t *testing.T) {
	const raw = "HTTP/1.1 204\r\n\r\n"
	for limits, isTaken := range map[h1.Limits]bool{
		{Bytes: len(raw), Fields: 0}: true, {Bytes: len(raw) - 1, Fields: 0}: false, {Bytes: 1}: false,
	} {
		if o := same(t, []byte(raw), way{limits: limits, joined: true}, way{limits: limits, step: 1}); o.isWhole() != isTaken {
			t.Errorf("%+v: %v", limits, o.err)
		}
	}
	if o := read(t, []byte("HTTP/1.1 204\r\nA: b\r\n\r\n"), way{limits: h1.Limits{Bytes: 100}}); o.rule != "it has more than 0 fields" {
		t.Errorf("a field where none may be: %v", o.err)
	}
}

func TestIsToken(t *testing.T) {
	const tokens = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for c := range 256 {
		want := strings.IndexByte(tokens, byte(c)) >= 0
		if got := fetch.IsToken([]byte{'a', byte(c)}); got != want {
			t.Errorf("byte %#x: token %t", c, got)
		}
		want = c == '\t' || c >= ' ' && c != 0x7f
		if got := h1.IsFieldText([]byte{byte(c)}); got != want {
			t.Errorf("byte %#x: text of a field %t", c, got)
		}
	}
	if fetch.IsToken("") || !h1.IsFieldText(nil) {
		t.Error("of nothing")
	}
}
