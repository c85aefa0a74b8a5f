package body_test

import (
	"io"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// contents opens source twice and returns what it held both times.
func contents(t *testing.T, source fetch.Source) string {
	t.Helper()
	var all [2]string
	for i := range all {
		r, err := source.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = string(b)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if all[0] != all[1] {
		t.Fatalf("opened a second time, the body is %q, it was %q", all[1], all[0])
	}
	if source.Length() != int64(len(all[0])) {
		t.Fatalf("Length is %d, the body has %d bytes", source.Length(), len(all[0]))
	}
	return all[0]
}

func TestRaw(t *testing.T) {
	for _, want := range []string{"", "a", "\x00\xff\r\n", strings.Repeat("x", 1<<20)} {
		if got := contents(t, body.Raw([]byte(want))); got != want {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
	}
	if got := contents(t, body.Raw(nil)); got != "" {
		t.Errorf("the body of nil is %q", got)
	}
}

// TestUnsized: only the length is not said.
func TestUnsized(t *testing.T) {
	s := body.Unsized(body.Raw([]byte("abc")))
	r, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); s.Length() != -1 || string(b) != "abc" || err != nil {
		t.Errorf("got %q, %v, the length %d", b, err, s.Length())
	}
}

func TestJSONIsSentAsItIs(t *testing.T) {
	for _, want := range []string{
		` {"b" : 1.0e+2, "a":"é\u00e9" , "a" : null}` + "\r\n",
		`1`, `"x"`, `[]`, `null`, "\t{}",
		`123456789012345678901234567890`,
	} {
		got, err := body.JSON([]byte(want))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if got.ContentType != "application/json" {
			t.Errorf("Content-Type %q", got.ContentType)
		}
		if sent := contents(t, got.Source); sent != want {
			t.Errorf("sent %q, want %q", sent, want)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	for _, tt := range []struct{ in, where string }{
		{``, "byte 0 of 0"},
		{`{"secret":}`, "byte 11 of 11"},
		{`{"secret"`, "byte 9 of 9"},
		{`{} {}`, "byte 4 of 5"},
		{"\ufeff{}", "byte 1 of 5"},
		{`NaN`, "byte 1 of 3"},
		{`{'secret':1}`, "byte 2 of 12"},
		{"\"secret\xe9\"", "not UTF-8"},
	} {
		_, err := body.JSON([]byte(tt.in))
		if err == nil {
			t.Errorf("%q was taken", tt.in)
			continue
		}
		if !strings.Contains(err.Error(), tt.where) {
			t.Errorf("%q: %q does not say %q", tt.in, err, tt.where)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error quotes the body: %q", tt.in, err)
		}
	}
}

// The expected forms were written by urllib.parse.urlencode of Python 3.
func TestForm(t *testing.T) {
	for _, tt := range []struct {
		fields []fetch.Param
		want   string
	}{
		{nil, ""},
		{[]fetch.Param{{Name: "a", Value: "b c"}}, "a=b+c"},
		{[]fetch.Param{{Name: "a", Value: ""}, {Name: "", Value: "b"}, {Name: "a", Value: "2"}}, "a=&=b&a=2"},
		{[]fetch.Param{{Name: "k~-._", Value: "*!'()"}}, "k~-._=%2A%21%27%28%29"},
		{[]fetch.Param{{Name: "é&=", Value: "€ + %20 /?#\r\n"}}, "%C3%A9%26%3D=%E2%82%AC+%2B+%2520+%2F%3F%23%0D%0A"},
		{[]fetch.Param{{Name: "😀", Value: "\x00\x7f"}}, "%F0%9F%98%80=%00%7F"},
	} {
		got := body.Form(tt.fields)
		if got.ContentType != "application/x-www-form-urlencoded" {
			t.Errorf("Content-Type %q", got.ContentType)
		}
		if sent := contents(t, got.Source); sent != tt.want {
			t.Errorf("%q: sent %q, want %q", tt.fields, sent, tt.want)
		}
	}
}

// A query parameter and a form field are the same thing in two places.
func TestFormIsEncodedAsTheQuery(t *testing.T) {
	var every []fetch.Param
	for c := range 256 {
		every = append(every, fetch.Param{Name: "n" + string(rune(c)), Value: string([]byte{byte(c)})})
	}
	d, err := fetch.Destination{Target: "/"}.WithParams(every)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := contents(t, body.Form(every).Source), strings.TrimPrefix(d.Target, "/?"); got != want {
		t.Errorf("the form is\n%s\nthe query is\n%s", got, want)
	}
}
