package h1

import (
	"bytes"
	"math"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Framing says how the body after a head is delimited (RFC 9112 section 6.3).
type Framing struct {
	// Length is the body's length in bytes; -1 is what chunks or the end of the
	// connection tell.
	Length  int64
	Chunked bool
	// Persistent tells that another response may follow.
	Persistent bool
}

// FramingOf judges the framing fields of the head of an answer to method.
func FramingOf(method string, h fetch.Head) (Framing, *Fault) {
	f := Framing{Length: -1, Persistent: isPersistent(h)}
	var coding, length []byte
	codings := 0
	for _, field := range h.Fields {
		switch {
		case strings.EqualFold(field.Name, "Transfer-Encoding"):
			coding = field.Value
			codings++
		case !strings.EqualFold(field.Name, "Content-Length"):
		case length != nil && !bytes.Equal(field.Value, length):
			return f, conflicting("its Content-Lengths differ")
		default:
			length = field.Value
			var fault *Fault
			if f.Length, fault = parseLength(length); fault != nil {
				return f, fault
			}
		}
	}
	switch {
	case codings > 0 && length != nil:
		return f, conflicting("it has both Content-Length and Transfer-Encoding")
	case codings > 1, codings == 1 && (h.Protocol != "HTTP/1.1" || !fetch.EqualFold(coding, "chunked")):
		return f, Malformed("its Transfer-Encoding is not chunked alone, in HTTP/1.1")
	case IsBodiless(method, h.Status):
		f.Length = 0
	case codings == 1:
		f.Chunked = true
	case length == nil:
		f.Persistent = false
	}
	return f, nil
}

// IsBodiless tells whether a response has no body whatever its fields say
// (RFC 9110 section 6.4.1).
func IsBodiless(method string, status int) bool {
	return method == "HEAD" || status < 200 || status == 204 || status == 304
}

// parseLength is RFC 9110 section 8.6, without lists of equal numbers.
func parseLength(b []byte) (n int64, fault *Fault) {
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, Malformed("its Content-Length is not a number that fits")
		}
		n = n*10 + int64(c-'0')
	}
	if len(b) == 0 {
		return 0, Malformed("its Content-Length is empty")
	}
	return n, nil
}

// isPersistent is RFC 9112 section 9.3.
func isPersistent(h fetch.Head) bool {
	keep := h.Protocol == "HTTP/1.1"
	for _, field := range h.Fields {
		if !strings.EqualFold(field.Name, "Connection") {
			continue
		}
		for option := range bytes.SplitSeq(field.Value, []byte(",")) {
			option = bytes.Trim(option, " \t")
			if fetch.EqualFold(option, "close") {
				return false
			}
			keep = keep || fetch.EqualFold(option, "keep-alive")
		}
	}
	return keep
}
