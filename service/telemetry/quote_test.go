package telemetry

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestQuote(t *testing.T) {
	tests := []struct {
		in   string
		most int
		want string
	}{
		{"", 0, `""`},
		{"plain", 5, `"plain"`},
		{"plainer", 5, `"pl..."`},
		{`"\`, 10, `"\"\\"`},
		{"a\r\n\x1b\x7f", 99, `"a\u000d\u000a\u001b\u007f"`},
		{"ü\u2028\U0001f4a9", 99, `"\u00fc\u2028\ud83d\udca9"`},
		{"a\xffb", 99, `"a\ufffdb"`},
		{"\U0001f4a9\U0001f4a9", 15, `"\ud83d\udca9..."`},
		{"\n\n", 6, `"..."`},
	}
	for _, test := range tests {
		if got := string(appendQuoted(nil, test.in, test.most)); got != test.want {
			t.Errorf("%q, %d: %s, want %s", test.in, test.most, got, test.want)
		}
	}
}

func TestTail(t *testing.T) {
	for _, test := range []struct {
		in   string
		most int
		want string
	}{{"abc", 9, "abc"}, {"abc", 2, "bc"}, {"aüb", 7, "üb"}, {"aüb", 6, "b"}, {`a"`, 1, ""}, {"", 1, ""}} {
		if got := tail(test.in, test.most); got != test.want {
			t.Errorf("%q, %d: %q, want %q", test.in, test.most, got, test.want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("a\x00\"\\\xff\U0001f4a9", 20)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = 3 + (most&0x7fffffff)%600
		quoted := appendQuoted(nil, s, most)
		if len(quoted) > most+2 {
			t.Fatalf("%d bytes, at most %d", len(quoted), most)
		}
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil {
			t.Fatalf("%v in %s", err, quoted)
		}
		if !utf8.ValidString(s) {
			s = string([]rune(s))
		}
		if got != s && !(strings.HasSuffix(got, ellipsis) && strings.HasPrefix(s, strings.TrimSuffix(got, ellipsis))) {
			t.Fatalf("%q of %q", got, s)
		}
		for _, c := range quoted {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, quoted)
			}
		}
		if end := tail(s, most); !strings.HasSuffix(s, end) || len(appendQuoted(nil, end, most)) > most+2 {
			t.Fatalf("tail %q of %q", end, s)
		}
	})
}
