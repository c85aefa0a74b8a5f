package h1

import (
	"bytes"
	"slices"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Limits bound a section of fields: a head, or the trailers.
type Limits struct {
	// Bytes counts all of the section, its line ends included.
	Bytes int
	// Fields counts its fields.
	Fields int
}

// section finds the end of a section of lines, and judges each as soon as it
// can be judged (RFC 9112 sections 2.2 and 5).
type section struct {
	// head tells that the first line is a status line.
	head  bool
	seen  int // bytes that were looked at
	line  int // where the line that is being looked at begins
	lines int // that are whole
}

// find looks at what of b it has not seen and returns where the section ends,
// its empty line included; 0 means that it goes on.
func (s *section) find(b []byte, limits Limits) (end int, fault *Fault) {
	if fault := s.judgeStart(b); fault != nil {
		return 0, fault
	}
	for s.seen < len(b) {
		n := bytes.IndexByte(b[s.seen:], '\n') + 1
		if n == 0 {
			s.seen = len(b)
			break
		}
		if s.seen += n; s.seen > limits.Bytes {
			break
		}
		line, ok := bytes.CutSuffix(b[s.line:s.seen], []byte("\r\n"))
		if !ok {
			return 0, Malformed("a line does not end with CRLF")
		}
		if first := s.head && s.lines == 0; len(line) == 0 && !first {
			return s.seen, nil
		} else if fault := s.judge(line, first, limits); fault != nil {
			return 0, fault
		}
		s.lines++
		s.line = s.seen
	}
	if s.seen > limits.Bytes {
		return 0, TooManyBytes(limits.Bytes)
	}
	return 0, nil
}

func (s *section) judge(line []byte, first bool, limits Limits) *Fault {
	if first {
		_, _, _, fault := parseStatusLine(line)
		return fault
	}
	if s.fields() >= limits.Fields {
		return TooManyFields(limits.Fields)
	}
	return nil
}

// fields is how many fields there are so far.
func (s *section) fields() int {
	if s.head {
		return s.lines - 1
	}
	return s.lines
}

// judgeStart judges the beginning of a status line, so that a server of another
// protocol that greets and waits is found out at once.
func (s *section) judgeStart(b []byte) *Fault {
	const start = "HTTP/1."
	n := min(len(b), len(start))
	if s.head && s.lines == 0 && string(b[:n]) != start[:n] {
		return Malformed("it does not begin with HTTP/1.")
	}
	return nil
}

// parseHead reads a whole head with so many fields. It keeps nothing of raw.
func parseHead(raw []byte, fields int) (fetch.Head, *Fault) {
	line, rest, _ := bytes.Cut(bytes.Clone(raw), []byte("\r\n"))
	protocol, status, reason, fault := parseStatusLine(line)
	if fault != nil {
		return fetch.Head{}, fault
	}
	h := fetch.Head{Protocol: protocol, Status: status, Reason: slices.Clip(reason)}
	h.Fields, fault = parseFields(rest, fields)
	return h, fault
}

// parseStatusLine is RFC 9112 section 4, but for the space before an empty
// reason, which many leave out.
func parseStatusLine(line []byte) (protocol string, status int, reason []byte, fault *Fault) {
	version, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(version) {
	case "HTTP/1.1":
		protocol = "HTTP/1.1"
	case "HTTP/1.0":
		protocol = "HTTP/1.0"
	default:
		return "", 0, nil, Malformed("its version is not HTTP/1.1 or HTTP/1.0")
	}
	code, reason, _ := bytes.Cut(rest, []byte(" "))
	if len(code) != 3 || !areDigits(code) || code[0] == '0' {
		return "", 0, nil, Malformed("its status is not a number from 100 to 999")
	}
	if !IsFieldText(reason) {
		return "", 0, nil, Malformed("its reason phrase has a control character")
	}
	return protocol, int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0'), reason, nil
}

// parseFields reads n field lines and the empty line behind them, and keeps
// values. A copy of all of them for the names is cheaper than one for each.
func parseFields(values []byte, n int) ([]fetch.Field, *Fault) {
	names := string(values)
	fields := make([]fetch.Field, 0, n)
	for at := 0; len(fields) < n; {
		end := at + bytes.IndexByte(values[at:], '\n') - 1
		name, value, fault := parseField(values[at:end])
		if fault != nil {
			return nil, fault
		}
		from := end - len(bytes.TrimLeft(values[at+name+1:end], " \t"))
		fields = append(fields, fetch.Field{Name: names[at : at+name], Value: values[from : from+len(value) : from+len(value)]})
		at = end + 2
	}
	return fields, nil
}

// parseField is RFC 9112 section 5, without line folding. It returns the length
// of the name, and the value without the space around it.
func parseField(line []byte) (name int, value []byte, fault *Fault) {
	name = bytes.IndexByte(line, ':')
	switch {
	case line[0] == ' ' || line[0] == '\t':
		return 0, nil, Malformed("a field is folded over two lines")
	case name < 0:
		return 0, nil, Malformed("a field has no colon")
	case !fetch.IsToken(line[:name]):
		return 0, nil, Malformed("the name of a field is not a token")
	case !IsFieldText(line[name+1:]):
		return 0, nil, Malformed("the value of a field has a control character")
	}
	return name, bytes.Trim(line[name+1:], " \t"), nil
}

// IsFieldText tells whether b has only HTAB, SP, visible ASCII and 0x80 to 0xFF.
func IsFieldText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func areDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
