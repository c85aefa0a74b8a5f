package fetch_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
)

func field(name, value string) fetch.Field {
	return fetch.Field{Name: name, Value: []byte(value)}
}

func TestCheckFieldAccepts(t *testing.T) {
	for _, f := range []fetch.Field{
		field("X", ""), field("x-a", "a"), field("X-!#$%&'*+.^`|~09", "a b\tc"), field("Authorization", "Bearer x"), field("Cookie", "a=b; c=\"d\""),
		field("X", "\x80\xff\u0085"), field("X-Host", "h"), field("Prox", "x"), field("Tea", "x"), field("Trailers", "x"), field("Content-Type", "a/b"),
	} {
		if err := fetch.CheckField(f); err != nil {
			t.Errorf("%q: %q: %v", f.Name, f.Value, err)
		}
	}
}

func TestCheckFieldRefuses(t *testing.T) {
	const secret = "S3CR3T"
	for _, c := range []struct{ name, value, hint string }{
		{"", "x", "no name"},
		{"X Y", "x", "0x20 at 1"},
		{"X:", "x", "0x3a at 1"},
		{"Authorization: Bearer " + secret, "x", "0x3a at 13"},
		{"X\r\nHost", "x", "0x0d at 1"},
		{"X\x00", "x", "0x00 at 1"},
		{"Ж", "x", "0xd0 at 0"},
		{"X_Y", "x", "'_'"},
		{"Transfer_Encoding", "x", "'_'"},
		{"X", secret + "\r\nHost: evil", "0x0d at byte 6"},
		{"X", secret + "\n", "0x0a at byte 6"},
		{"X", secret + "\x00", "0x00 at byte 6"},
		{"X", secret + "\x7f", "0x7f at byte 6"},
		{"X", secret + "\x1b[2J", "0x1b at byte 6"},
		{"X", " " + secret, "begins or ends"},
		{"X", secret + "\t", "begins or ends"},
		{"X", " ", "begins or ends"},
		{strings.Repeat("x", 5000) + "_", "x", "'_'"},
	} {
		err := fetch.CheckField(field(c.name, c.value))
		if err == nil || !strings.Contains(err.Error(), c.hint) || len(err.Error()) > 300 {
			t.Errorf("%.50q: %q: %v, want something with %q", c.name, c.value, err, c.hint)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%.50q: the message shows the value: %v", c.name, err)
		}
	}
}

// TestRefusedFields holds that each row refuses, in any case of letters, and
// that the fields that have another way to be said name it.
func TestRefusedFields(t *testing.T) {
	instead := map[string]string{}
	for _, r := range fetch.RefusedFields {
		instead[r.Name] = r.Instead
		if r.Why == "" {
			t.Errorf("%s: no reason", r.Name)
		}
		name := strings.Replace(r.Name, "*", "Any", 1)
		for _, n := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			err := fetch.CheckField(field(n, "x"))
			if err == nil || !strings.Contains(err.Error(), r.Name) || !strings.Contains(err.Error(), r.Instead) {
				t.Errorf("%s: %v", n, err)
			}
		}
	}
	for name, want := range map[string]string{
		"Host": "options.protocol.host", "Content-Length": "request.body", "Transfer-Encoding": "request.body", "TE": "request.trailers",
		"Connection": "options.connection.close_after", "Expect": "options.protocol.expect_continue",
		"Proxy-*": "", "Upgrade": "", "HTTP2-Settings": "", "Keep-Alive": "", "Trailer": "request.trailers", ":*": "",
	} {
		if got, ok := instead[name]; !ok || got != want {
			t.Errorf("%s: instead %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"proxy-connection", "Proxy-Authorization", ":path", ":authority", "proxy-", ":"} {
		if err := fetch.CheckField(field(name, "x")); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestCheckFields(t *testing.T) {
	two := []fetch.Field{field("A", "bc"), field("D", "")} // 7 and 5 bytes
	for _, c := range []struct {
		fields              []fetch.Field
		maxFields, maxBytes int
		index               int // -1 means accepted
		hint                string
	}{
		{nil, 0, 0, -1, ""},
		{two, 2, 12, -1, ""},
		{two, 1, 12, 1, "at most 1"},
		{two, 0, 12, 0, "at most 0"},
		{two, 2, 11, 1, "bigger than 11"},
		{two, 2, 6, 0, "bigger than 6"},
		{append(two[:2:2], field("te", "trailers")), 3, 100, 2, "request.trailers"},
		{append(two[:2:2], field("host", "x")), 2, 100, 2, "at most 2"},
	} {
		err := fetch.CheckFieldsIn(fetch.InHead, c.fields, nil, c.maxFields, c.maxBytes)
		e := (*fetch.FieldError)(nil)
		if c.index < 0 {
			if err != nil {
				t.Errorf("%v: %v", c.fields, err)
			}
		} else if !errors.As(err, &e) || e.Index != c.index || !strings.Contains(e.Error(), c.hint) {
			t.Errorf("%v: %v, want field %d and %q", c.fields, err, c.index, c.hint)
		}
	}
}

// TestCheckFieldIn: what may stand where.
func TestCheckFieldIn(t *testing.T) {
	places := []fetch.FieldPlace{fetch.InHead, fetch.InVerbatimHead, fetch.InTrailers, fetch.InVerbatimTrailers}
	for name, want := range map[string]string{ // a letter for each place where it may stand
		"X": "hvtw", "Content-Digest": "hvtw", "Iff": "hvtw", "a_b": "vw",
		"host": "v", "Content-LENGTH": "v", "Transfer-Encoding": "v", "Connection": "v", "Expect": "v", "TE": "v", "Trailer": "v",
		"Keep-Alive": "", "Upgrade": "", "HTTP2-Settings": "", "Proxy-Authorization": "", ":path": "", "a b": "", "": "",
		"authorization": "hv", "COOKIE": "hv", "Content-Type": "hv", "content-encoding": "hv", "Content-Range": "hv", "Range": "hv",
		"If-Match": "hv", "if-": "hv", "Cache-Control": "hv", "Max-Forwards": "hv", "Pragma": "hv",
	} {
		got := ""
		for i, place := range places {
			err := fetch.CheckFieldIn(place, field(name, "x"))
			if err == nil {
				got += "hvtw"[i : i+1]
			} else if len(err.Error()) > 300 || place == fetch.InTrailers && strings.Contains(err.Error(), "options.") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got != want {
			t.Errorf("%s may stand in %q, want %q", name, got, want)
		}
	}
	const secret = "S3CR3T"
	for _, name := range []string{"If-Match: " + secret, "Proxy-Authorization: " + secret, ":path " + secret} {
		if err := fetch.CheckFieldIn(fetch.InTrailers, field(name, secret)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestCheckFieldsBeside: what was checked before counts.
func TestCheckFieldsBeside(t *testing.T) {
	two := []fetch.Field{field("A", "bc"), field("D", "")} // 7 and 5 bytes
	for _, c := range []struct{ maxFields, maxBytes, index int }{
		{4, 24, -1}, {3, 24, 1}, {2, 24, 0}, {1, 24, 0}, {4, 23, 1}, {4, 18, 0},
	} {
		err := fetch.CheckFieldsIn(fetch.InTrailers, two, two, c.maxFields, c.maxBytes)
		e, wrong := errors.AsType[*fetch.FieldError](err)
		if wrong != (c.index >= 0) || wrong && e.Index != c.index {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestFieldNames(t *testing.T) {
	got := fetch.FieldNames([]fetch.Field{field("b", ""), field("A", ""), field("B", ""), field("a", "")})
	if !slices.Equal(got, []string{"b", "A"}) {
		t.Errorf("got %q", got)
	}
}

func FuzzCheckFields(f *testing.F) {
	f.Add("Accept", []byte("*/*"), "X-A", []byte("b\xe9"))
	f.Add("transfer-encoding", []byte("chunked"), "Host", []byte("x"))
	f.Add("X", []byte("a\r\nHost: evil"), "Y", []byte(" a"))
	f.Add("PROXY-x", []byte{}, ":path", []byte{0})
	f.Fuzz(func(t *testing.T, name1 string, value1 []byte, name2 string, value2 []byte) {
		fields := []fetch.Field{{Name: name1, Value: value1}, {Name: name2, Value: value2}}
		const maxBytes = 64
		if err := fetch.CheckFieldsIn(fetch.InHead, fields, nil, 2, maxBytes); err != nil {
			if e := (*fetch.FieldError)(nil); !errors.As(err, &e) || e.Index < 0 || e.Index > 1 {
				t.Fatalf("%q: the error %v", fields, err)
			}
			return
		}
		var wire []byte
		for _, f := range fields {
			wire = append(append(append(append(wire, f.Name...), ": "...), f.Value...), "\r\n"...)
			if bytes.ContainsAny(f.Value, "\r\n\x00") || !bytes.Equal(f.Value, bytes.Trim(f.Value, " \t")) {
				t.Fatalf("the value %q is accepted", f.Value)
			}
			if f.Name == "" || strings.ContainsAny(f.Name, "_: \t\r\n\x00") {
				t.Fatalf("the name %q is accepted", f.Name)
			}
			switch lower := strings.ToLower(f.Name); lower {
			case "host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade", "keep-alive", "http2-settings":
				t.Fatalf("the field %q is accepted", f.Name)
			default:
				if strings.HasPrefix(lower, "proxy-") {
					t.Fatalf("the field %q is accepted", f.Name)
				}
			}
		}
		if len(wire) > maxBytes || bytes.Count(wire, []byte("\n")) != 2 {
			t.Fatalf("accepted %d bytes: %q", len(wire), wire)
		}
	})
}

func TestEscape(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"plain \"text\"", 20, "plain \"text\""},
		{"a\r\n\tb\\n\x00\x1b\x7f\xff\u202e", 100, `a\r\n\tb\\n\x00\x1b\x7f\xff\xe2\x80\xae`},
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc..."},
		{"ab\xff\xff", 8, `ab...`}, // an escape is not cut in two
		{"ab\xff", 6, `ab\xff`},
		{"abcd", 3, "..."},
		{"abcd", 2, ".."},
		{"abcd", 0, ""},
		{"", 0, ""},
		{"abcd", -1, ""},
	} {
		if got := fetch.Escape([]byte(c.in), c.limit); got != c.want {
			t.Errorf("%q to %d: %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 \xd6K\r\n"), 10)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		s := fetch.Escape(b, limit)
		if len(s) > max(limit, 0) {
			t.Fatalf("%q to %d: %d bytes", b, limit, len(s))
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			t.Fatalf("%q: %q", b, s)
		}
	})
}
