package fetchtest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// MaxKept is the most bytes of a request's body, and of its Raw, that a
// Recorded keeps: 16 MiB each. What is beyond is read and counted.
const MaxKept = 16 << 20

// maxHead is the most bytes of a head or of trailers that are read: 1 MiB.
const maxHead = 1 << 20

// Recorded is a request as an upstream received it.
type Recorded struct {
	// Raw is the request as it was on the wire: head, body with its framing,
	// trailers. It is empty on HTTP/2.
	Raw []byte
	// Method, Target and Proto are the parts of the request line (RFC 9112
	// section 3). On HTTP/2 Proto is "HTTP/2.0".
	Method, Target, Proto string
	// Host is the value of the Host field, or :authority.
	Host string
	// Fields are the header fields in the order received, names as written,
	// values without the space around them. On HTTP/2 they are sorted by name,
	// whose case is made canonical.
	Fields []fetch.Field
	// Body is the body without its framing.
	Body []byte
	// Length is the length of the body in bytes, also of what Body leaves out.
	Length int64
	// Chunks are the sizes of the HTTP chunks in order, without the last,
	// empty one; nil when the body was not chunked.
	Chunks []int64
	// Trailers are the fields after a chunked body.
	Trailers []fetch.Field
	// Conn is the number of the connection.
	Conn int
	// TLS is the state of the connection, nil on plain TCP.
	TLS *tls.ConnectionState
	// Err tells why the request could not be read to its end: it breaks a rule
	// of RFC 9112, or the peer stopped sending.
	Err error
}

// Get returns the value of the first field called name, empty when there is none.
func (r *Recorded) Get(name string) string {
	value, _ := fetch.Get(r.Fields, name)
	return string(value)
}

// keep appends what of b fits under MaxKept.
func keep(kept []byte, b ...byte) []byte {
	return append(kept, b[:min(len(b), MaxKept-len(kept))]...)
}

// source is what a request is read from.
type source interface {
	io.Reader
	io.ByteReader
}

// parser reads one request, more strictly than RFC 9112 asks of a server: what
// it takes is what every server must take.
type parser struct {
	source  source
	request *Recorded
	budget  int // bytes of the head, or of a chunk line or trailers, still allowed
}

// head reads the request line and the fields. Its error is io.EOF when there
// was not a single byte.
func (p *parser) head() error {
	p.budget = maxHead
	line, err := p.line()
	if err != nil && len(p.request.Raw) == 0 {
		return io.EOF // however the connection ended, it was between requests
	}
	if err != nil {
		return err
	}
	r := p.request
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || !isVisible(parts[1]) || parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return fmt.Errorf("%q is not a request line", line)
	}
	r.Method, r.Target, r.Proto = parts[0], parts[1], parts[2]
	if r.Fields, err = p.fields(); err != nil {
		return err
	}
	r.Host = r.Get("Host")
	return nil
}

// body reads the body that the fields announce (RFC 9112 section 6.3).
func (p *parser) body() error {
	codings := fieldValues(p.request.Fields, "Transfer-Encoding")
	lengths := fieldValues(p.request.Fields, "Content-Length")
	switch {
	case len(codings)+len(lengths) > 1:
		return fmt.Errorf("the framing is ambiguous: Transfer-Encoding %q, Content-Length %q", codings, lengths)
	case len(lengths) == 1:
		length, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil {
			return fmt.Errorf("Content-Length %q is not a number of bytes", lengths[0])
		}
		return p.data(int64(length))
	case len(codings) == 0:
		return nil
	case codings[0] != "chunked" || p.request.Proto != "HTTP/1.1":
		return fmt.Errorf("Transfer-Encoding %q cannot be read with %s", codings[0], p.request.Proto)
	}
	return p.chunked()
}

// chunked reads a chunked body and its trailers (RFC 9112 section 7.1).
func (p *parser) chunked() error {
	for {
		p.budget = maxHead
		line, err := p.line()
		if err != nil {
			return err
		}
		digits, _, _ := strings.Cut(line, ";")
		size, err := strconv.ParseUint(digits, 16, 63)
		if err != nil {
			return fmt.Errorf("the chunk size %q is not a hexadecimal number", digits)
		}
		if size == 0 {
			p.request.Trailers, err = p.fields()
			return err
		}
		if err := p.data(int64(size)); err != nil {
			return err
		}
		if end, err := p.line(); err != nil || end != "" {
			return errors.Join(errors.New("a chunk is longer than its size"), err)
		}
		p.request.Chunks = append(p.request.Chunks, int64(size))
	}
}

// fields reads field lines up to the empty line after them (RFC 9112 section 5).
func (p *parser) fields() ([]fetch.Field, error) {
	var fields []fetch.Field
	for {
		line, err := p.line()
		if err != nil || line == "" {
			return fields, err
		}
		name, value, found := strings.Cut(line, ":")
		if !found || !isToken(name) || !isValue(value) {
			return fields, fmt.Errorf("%q is not a field line", line)
		}
		fields = append(fields, fetch.Field{Name: name, Value: []byte(strings.Trim(value, " \t"))})
	}
}

// line reads up to the next CRLF, which it leaves out.
func (p *parser) line() (string, error) {
	var line []byte
	for {
		b, err := p.source.ReadByte()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		p.request.Raw = keep(p.request.Raw, b)
		if p.budget--; p.budget < 0 {
			return "", fmt.Errorf("more than %d bytes of head or trailers", maxHead)
		}
		line = append(line, b)
		if b != '\n' {
			continue
		}
		text, found := strings.CutSuffix(string(line), "\r\n")
		if !found || strings.Contains(text, "\r") {
			return "", fmt.Errorf("%q does not end with CRLF, or has CR inside", line)
		}
		return text, nil
	}
}

// data reads n bytes of the body.
func (p *parser) data(n int64) error {
	buffer := make([]byte, min(n, 32<<10))
	for n > 0 {
		got, err := p.source.Read(buffer[:min(n, int64(len(buffer)))])
		p.request.Raw = keep(p.request.Raw, buffer[:got]...)
		p.request.Body = keep(p.request.Body, buffer[:got]...)
		p.request.Length += int64(got)
		n -= int64(got)
		if n > 0 && err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if n > 0 && err != nil {
			return err
		}
	}
	return nil
}

func fieldValues(fields []fetch.Field, name string) []string {
	var values []string
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, string(f.Value))
		}
	}
	return values
}

// isToken tells whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isVisible tells whether s is of visible ASCII alone, and not empty.
func isVisible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// isValue tells whether s may be a field value (RFC 9110 section 5.5).
func isValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
