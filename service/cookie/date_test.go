package cookie_test

import (
	"strings"
	"testing"
	"time"
)

// expires returns when a cookie with this Expires ends; zero if the attribute
// is ignored. It is stored at a time before which no date is taken.
func expires(t testing.TB, text string) time.Time {
	t.Helper()
	all := storedLongAgo(t, "a=b; Expires="+text).Cookies(longAgo)
	if len(all) != 1 {
		t.Fatalf("%q: %d cookies", text, len(all))
	}
	return all[0].Expires
}

func TestDates(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06 08:49:37"},
		{"Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06 08:49:37"},
		{"Sun Nov  6 08:49:37 1994", "1994-11-06 08:49:37"},
		{"08:49:37 1994 NOVEMBER 6th", "1994-11-06 08:49:37"},
		{"6.Nov.1994/8:9:7", "1994-11-06 08:09:07"},
		{"\"6\"(Nov)<94>[8:9:7]{+0500}", "1994-11-06 08:09:07"},
		{"Tue, 32nd... 6x Novx 1994x 8:49:37.5", ""},
		{"6x Novx 1994x 8:49:37x5", "1994-11-06 08:49:37"},
		{"1 2 Nov 8:00:00 1994", "1994-11-01 08:00:00"},
		{"1 20 Nov 8:00:00 1994", "2020-11-01 08:00:00"},
		{"29 Feb 2024 00:00:00", "2024-02-29 00:00:00"},
		{"29 Feb 2023 00:00:00", ""},
		{"31 Apr 2024 00:00:00", ""},
		{"1 Jan 00 23:59:59", "2000-01-01 23:59:59"},
		{"1 Jan 69 00:00:00", "2069-01-01 00:00:00"},
		{"1 Jan 70 00:00:00", "1970-01-01 00:00:00"},
		{"1 Jan 99 00:00:00", "1999-01-01 00:00:00"},
		{"1 Jan 0099 00:00:00", "1999-01-01 00:00:00"},
		{"1 Jan 1601 00:00:00", "1601-01-01 00:00:00"},
		{"1 Jan 1600 00:00:00", ""},
		{"1 Jan 100 00:00:00", ""},
		{"31 Dec 9999 23:59:59", "9999-12-31 23:59:59"},
		{"1 Jan 10000 00:00:00", ""},
		{"1 Jan 2024 24:00:00", ""}, {"1 Jan 2024 00:60:00", ""}, {"1 Jan 2024 00:00:60", ""},
		{"1 Jan 2024 00:00", ""}, {"1 Jan 2024 000:00:00", ""}, {"1 Jan 2024 00:00:000", ""}, {"1 Jan 2024 -00:00:00", "2024-01-01 00:00:00"},
		{"0 Jan 2024 00:00:00", ""}, {"32 Jan 2024 00:00:00", ""}, {"001 Jan 2024 00:00:00", ""},
		{"1 Ja 2024 00:00:00", ""}, {"1 xJan 2024 00:00:00", ""}, {"1 \u017fep 2024 00:00:00", ""},
		{"1 2024 00:00:00", ""}, {"Jan 2024 00:00:00", ""}, {"1 Jan 00:00:00", ""}, {"1 Jan 2024", ""}, {"", ""}, {"0", ""},
		{"1\xffx\x80 Jan\xff 2024\xff 00:00:00\xff", "2024-01-01 00:00:00"},
	} {
		got := ""
		if date := expires(t, test.text); !date.IsZero() {
			got = date.Format(time.DateTime)
		}
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
}

func TestMonths(t *testing.T) {
	for m := time.January; m <= time.December; m++ {
		for _, name := range []string{m.String(), strings.ToUpper(m.String())[:3]} {
			if got := expires(t, "1 "+name+" 2024 00:00:00"); got.Month() != m {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}
