package main

import (
	"errors"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	for _, c := range []struct {
		pieces []string
		text   bool
	}{
		{[]string{"text\r\n\tand more\f", "", "and more"}, true},
		{[]string{"caf\xc3", "\xa9 \xf0\x9f", "\x98", "\x80"}, true},
		{[]string{"caf\xc3", "e"}, false},
		{[]string{"\x00"}, false},
		{[]string{"\x1b[2J"}, false},
		{[]string{"\x7f"}, false},
		{[]string{"\xff"}, false},
		{[]string{"\xc2\x9b31m"}, false}, // a control character of one byte in other encodings
		{[]string{"text", "\x1b[2J"}, false},
	} {
		var shown strings.Builder
		s := &screen{terminal: &shown}
		var err error
		for _, piece := range c.pieces {
			if _, err = s.Write([]byte(piece)); err != nil {
				break
			}
		}
		if (err == nil) != c.text || c.text && shown.String() != strings.Join(c.pieces, "") {
			t.Errorf("%q: %v, shown %q", c.pieces, err, shown.String())
		}
		if strings.ContainsAny(shown.String(), "\x00\x1b\x7f") {
			t.Errorf("%q: shown %q", c.pieces, shown.String())
		}
		var p *problem
		if err != nil && (!errors.As(err, &p) || p.code != exitOutput || p.why == "" || p.next == "") {
			t.Errorf("%q: %v", c.pieces, err)
		}
	}
}

// FuzzScreen: where a body is cut into pieces makes no difference to what is
// text, and what is not never arrives.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("caf\xc3\xa9"), 4)
	f.Add([]byte("\x1b[2J"), 1)
	f.Fuzz(func(t *testing.T, body []byte, at int) {
		if at < 0 || at > len(body) {
			return
		}
		var whole, pieces strings.Builder
		_, wantErr := (&screen{terminal: &whole}).Write(body)
		s := &screen{terminal: &pieces}
		_, err := s.Write(body[:at])
		if err == nil {
			_, err = s.Write(body[at:])
		}
		if (err == nil) != (wantErr == nil) || err == nil && pieces.String() != string(body) {
			t.Errorf("%q in one piece: %v; cut at %d: %v", body, wantErr, at, err)
		}
		if strings.ContainsAny(pieces.String()+whole.String(), "\x00\x1b") {
			t.Errorf("%q arrives as %q and %q", body, whole.String(), pieces.String())
		}
	})
}
