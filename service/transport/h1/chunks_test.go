package h1_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// pairs are the ways of reading raw in three pieces, whole chunks or not, and
// those of everyWay.
func pairs(raw string) (ways []way) {
	ways = everyWay(way{bare: true}, len(raw)/2)
	for first := 1; first < len(raw); first++ {
		for second := first + 1; second < len(raw); second++ {
			ways = append(ways, way{bare: true, cuts: []int{first, second}})
		}
		ways = append(ways, way{bare: true, keep: true, cuts: []int{first}}, way{bare: true, size: 3, cuts: []int{first}})
	}
	return ways
}

func TestChunks(t *testing.T) {
	for raw, want := range map[string][]string{
		"0\r\n\r\n":             nil,
		"00000\r\n\r\n":         nil,
		"0;last\r\n\r\n":        nil,
		"3\r\nabc\r\n0\r\n\r\n": {"abc"},
		"2\r\nab\r\n3\r\ncde\r\n1\r\nf\r\n0\r\n\r\n":      {"ab", "cde", "f"},
		"a\r\n0123456789\r\nA\r\n9876543210\r\n0\r\n\r\n": {"0123456789", "9876543210"},
		"0000000000000002\r\n\r\n\r\n0\r\n\r\n":           {"\r\n"},
		"5\r\n0\r\n\r\n\r\n0\r\n\r\n":                     {"0\r\n\r\n"},
		"F\r\n0123456789abcde\r\n0\r\n\r\n":               {"0123456789abcde"},
		"1;ext\r\na\r\n0\r\n\r\n":                         {"a"},
		"1;a=b;c=\"d\"\r\na\r\n0\r\n\r\n":                 {"a"},
		"1; \t a = \"q;\\\" \" ;b\r\na\r\n0\r\n\r\n":      {"a"},
		"1;a;;=,\x80\xff\r\na\r\n0\r\n\r\n":               {"a"},
	} {
		o := same(t, []byte(raw), pairs(raw)...)
		got := read(t, []byte(raw), way{bare: true, keep: true}).chunks
		if !o.isWhole() || !slices.Equal(got, want) || o.left != 0 {
			t.Errorf("%q: chunks %q, want %q; %s", raw, got, want, o)
		}
	}
}

// TestChunksRefused: what came before the fault is given, in whatever pieces it
// comes.
func TestChunksRefused(t *testing.T) {
	const (
		noSize  = "the size of a chunk is not a hexadecimal number"
		tooBig  = "the size of a chunk is too large"
		noCRLF  = "a chunk's data is not followed by CRLF"
		noEnd   = "the line of a chunk's size does not end with CRLF"
		noName  = "an extension of a chunk has no name"
		control = "an extension of a chunk has a control character"
	)
	for _, c := range []struct{ raw, rule string }{
		{"0x5\r\nhello\r\n", noSize}, {"5 \r\nhello\r\n", noSize}, {"5\t\r\nhello\r\n", noSize}, {"5 ;a\r\nhello\r\n", noSize}, {" 5\r\nhello\r\n", noSize},
		{"-1\r\na", noSize}, {"+1\r\na", noSize}, {"\r\nhello", noSize}, {";a\r\n", noSize}, {"g\r\n", noSize},
		{"\x00\r\n", noSize}, {"\n", noSize}, {"5\nhello\r\n", noSize}, {"1_0\r\n", noSize}, {"5,5\r\n", noSize}, {"\xd9\xa5\r\n", noSize},
		{"00000000000000000\r\n\r\n", tooBig}, {"00000000000000001\r\na\r\n", tooBig}, {"8000000000000000\r\na", tooBig}, {"ffffffffffffffff\r\na", tooBig},
		{"10000000000000000\r\na", tooBig}, {"fffffffffffffffff\r\na", tooBig},
		{"5\rhello\r\n", noEnd}, {"5\r\rhello\r\n", noEnd}, {"1;a\rb\r\na\r\n", noEnd}, {"0\r\r\n", noEnd},
		{"5;\r\nhello\r\n", noName}, {"5; \r\nhello\r\n", noName}, {"5;=a\r\nhello\r\n", noName}, {"5;\"a\"\r\nhello\r\n", noName}, {"5;\x00\r\nhello\r\n", noName}, {"5;;a\r\nhello\r\n", noName},
		{"5;a\nhello\r\n", control}, {"5;a\x00\r\nhello\r\n", control}, {"5;a=\"\x7f\"\r\nhello\r\n", control}, {"5;a\x0b\r\nhello\r\n", control},
		{"5\r\nhello0\r\n\r\n", noCRLF}, {"5\r\nhello\n0\r\n\r\n", noCRLF}, {"5\r\nhello\r0\r\n\r\n", noCRLF}, {"5\r\nhello!\r\n0\r\n\r\n", noCRLF}, {"5\r\nhello\r\r\n", noCRLF}, {"5\r\nhello!\n0\r\n\r\n", noCRLF},
	} {
		for _, before := range []string{"", "3\r\nabc\r\n"} {
			raw := before + c.raw
			o := same(t, []byte(raw), pairs(raw)...)
			if o.rule != c.rule || o.reason() != fetch.ReasonInvalidChunk || !strings.HasPrefix(string(o.body), before[min(3, len(before)):max(0, len(before)-2)]) {
				t.Errorf("%q: body %q, %v, want %q", raw, o.body, o.err, c.rule)
			}
		}
	}
}

// TestChunksThatBreakOff: a chunked body without its end is never whole.
func TestChunksThatBreakOff(t *testing.T) {
	const raw = "5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-A: b\r\n\r\n"
	for end := range len(raw) {
		o := same(t, []byte(raw[:end]), pairs(raw[:end])...)
		if o.err != io.ErrUnexpectedEOF || !strings.HasPrefix("hello!", string(o.body)) {
			t.Errorf("%q: body %q, %v", raw[:end], o.body, o.err)
		}
	}
}

// chunk is one with n bytes of data and a size line of so many, without CRLF.
func chunk(line, n int) string {
	size := fmt.Sprintf("%x", n)
	if line > len(size) {
		size += ";" + long(line-len(size)-1)
	}
	return size + "\r\n" + long(n) + "\r\n"
}

func TestChunkLimits(t *testing.T) {
	const (
		tooLong   = "the line of a chunk's size is too long"
		tooLittle = "the chunks have too little data for what is around it"
	)
	// A chunk with one byte and a line of 1013 is 1000 beyond what is allowed for.
	thousands := strings.Repeat(chunk(1013, 1), 16)
	bigger := chunk(1, 9) + strings.Repeat(chunk(1013, 16<<10), 100)
	for _, c := range []struct{ name, raw, rule string }{
		{"a line of 1,024 bytes, with CR", chunk(h1.MaxSizeLine-1, 1), ""},
		{"a line of 1,025 bytes, with CR", chunk(h1.MaxSizeLine, 1), tooLong},
		{"a line without an end", "1;" + long(1<<20), tooLong},
		{"extensions of 3,000 bytes", strings.Repeat(chunk(3000, 1), 9), tooLong},
		{"excess of 16 KiB", thousands + chunk(h1.MaxExcess-16000+13, 1), ""},
		{"excess of 16 KiB and 1", thousands + chunk(h1.MaxExcess-16000+14, 1), tooLittle},
		{"excess in the last chunk", thousands + "0;" + long(500) + "\r\n\r\n", tooLittle},
		{"excess that data makes up for", thousands + chunk(1, 8<<10) + thousands, ""},
		{"much data beforehand, which makes up for nothing", chunk(1, 1<<20) + thousands + chunk(1000, 1), tooLittle},
		{"extensions and much data", bigger, ""},
		{"100,000 chunks of a byte", strings.Repeat(chunk(1, 1), 100_000), ""},
		{"leading zeros", strings.Repeat("0000000000000001\r\na\r\n", 10_000), tooLittle},
	} {
		raw := []byte(c.raw)
		if c.rule == "" {
			raw = append(raw, "0\r\n\r\n"...)
		}
		base := way{bare: true}
		o := same(t, raw, base, way{bare: true, step: 1}, way{bare: true, step: 1000}, way{bare: true, keep: true}, way{bare: true, size: 100}, way{bare: true, size: 1 << 20})
		if o.rule != c.rule || (c.rule == "") != o.isWhole() {
			t.Errorf("%s: %v, want %q", c.name, o.err, c.rule)
		}
	}
}

// TestChunkSizes: a size is counted in 63 bits.
func TestChunkSizes(t *testing.T) {
	for _, size := range []string{"7fffffffffffffff", "4000000000000000", "6000000000000000", "0fffffffffffffff", "100000000"} {
		o := same(t, []byte(size+"\r\nabc"), everyWay(way{bare: true}, 18)...)
		if string(o.body) != "abc" || o.err != io.ErrUnexpectedEOF {
			t.Errorf("%s: body %q, %v", size, o.body, o.err)
		}
	}
}
