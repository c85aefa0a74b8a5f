package main

import (
	"fmt"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// reply is what the caller of a client got.
type reply struct {
	// head is nil when none came.
	head *fetch.Head
	// chunks are the pieces of the body whose end the client told; rest is what
	// came after them, or the whole body where it tells of none.
	chunks []string
	rest   string
	// failure is how it ended; empty means well.
	failure string
}

// sight is what was seen of a probe with one client, as the lines of a cell of
// the page. Two are the same only if the bytes are.
type sight struct {
	request, reply []string
}

// column is what was seen with one client, by probe.
type column []sight

// see waits for the upstream of a probe and puts both sides of it into lines.
func see(u *upstream, r reply) sight {
	u.close()
	var s sight
	for i, request := range u.asked() {
		if i > 0 {
			s.request = append(s.request, "and again:")
		}
		for line := range strings.Lines(string(request)) {
			s.request = append(s.request, code(line))
		}
	}
	if s.request == nil {
		s.request = []string{"nothing"}
	}
	r.failure = u.portless(r.failure)
	s.reply = r.lines()
	return s
}

func (r reply) lines() []string {
	var lines []string
	if r.head != nil {
		lines = append(lines, code(fmt.Sprintf("%s %d", r.head.Protocol, r.head.Status)))
		if len(r.head.Reason) > 0 {
			lines[0] += " " + code(string(r.head.Reason))
		}
		for _, f := range r.head.Fields {
			lines = append(lines, code(f.Name+": "+string(f.Value)))
		}
	}
	for _, chunk := range r.chunks {
		lines = append(lines, "chunk "+code(chunk))
	}
	if r.rest != "" {
		lines = append(lines, "body "+code(r.rest))
	}
	if r.failure != "" {
		lines = append(lines, "fails: "+code(r.failure))
	}
	return lines
}

// code writes bytes as code in a cell of a Markdown table, so that they can be
// told from all others.
func code(text string) string {
	var b strings.Builder
	b.WriteByte('`')
	for _, c := range []byte(text) {
		switch {
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\\':
			b.WriteString(`\\`)
		case c < ' ' || c >= 0x7f || c == '`' || c == '|' || c == '<':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('`')
	return b.String()
}
