package h1

import (
	"strconv"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// AppendHead appends the head of r to b, with authority as the value of Host.
//
// Host comes first, then the fields as they are given, then what says how the
// body is delimited and what belongs to the connection. With r.Verbatim, each of
// these that is among the fields stands where they have it; Agrees has said
// that it is what would be written.
func AppendHead(b []byte, r *fetch.Request, authority string) []byte {
	own := ownFields(r, authority)
	if r.Verbatim {
		own[trailer] = ""
		for _, f := range r.Fields {
			if i := ownIndex(f.Name); i >= 0 {
				own[i] = "" // it is in its place already
			}
		}
	}
	b = append(append(b, r.Method...), ' ')
	b = append(append(b, r.Target...), " HTTP/1.1\r\n"...)
	b = appendOwn(b, host, own[host])
	b = appendFields(b, r.Fields)
	for i := host + 1; i < owned; i++ {
		b = appendOwn(b, i, own[i])
	}
	return append(b, "\r\n"...)
}

func appendOwn(b []byte, i int, value string) []byte {
	if value == "" {
		return b
	}
	return append(append(append(append(b, ownNames[i]...), ": "...), value...), "\r\n"...)
}

func appendFields(b []byte, fields []fetch.Field) []byte {
	for _, f := range fields {
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	return b
}

// The fields that are not the caller's to choose, in the order in which they go
// out.
const (
	host = iota
	contentLength
	transferEncoding
	trailer
	expect
	te
	connection
	owned
)

var ownNames = [owned]string{"Host", "Content-Length", "Transfer-Encoding", "Trailer", "Expect", "TE", "Connection"}

// IsOwn tells whether the field called name is not the caller's to choose.
func IsOwn(name string) bool { return ownIndex(name) >= 0 }

// ownIndex is which of them is called name; -1 means none.
func ownIndex(name string) int {
	for i, own := range ownNames {
		if len(own) == len(name) && strings.EqualFold(own, name) {
			return i
		}
	}
	return -1
}

// ownFields are the values that r goes out with; an empty one means that it goes
// out without.
func ownFields(r *fetch.Request, authority string) (own [owned]string) {
	own[host] = authority
	switch {
	case r.Framing == fetch.FramingLength:
		own[contentLength] = strconv.FormatInt(r.Length, 10)
	case r.Framing == fetch.FramingChunked:
		own[transferEncoding] = "chunked"
		own[trailer] = strings.Join(r.TrailerNames, ", ")
	case r.Framing == fetch.FramingNone && !r.Verbatim && expectsBody(r.Method):
		own[contentLength] = "0"
	}
	if r.ExpectContinue && (r.Framing == fetch.FramingChunked || r.Framing == fetch.FramingLength && r.Length > 0) {
		own[expect] = "100-continue"
	}
	switch {
	case r.Framing == fetch.FramingUpgrade:
		own[connection] = "Upgrade"
	case r.CloseAfter:
		own[connection] = "close"
	}
	return own
}

// expectsBody tells whether a request without a body says so, as its method
// leads servers to expect one (RFC 9110 section 8.6).
func expectsBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// Agrees tells whether f, if it is one of the fields that are not the caller's
// to choose, says what r goes out with: a value that differs from that in the
// case of ASCII letters alone, "keep-alive" on a connection that stays open, or
// that trailers are welcome, which they are.
func Agrees(f fetch.Field, r *fetch.Request, authority string) bool {
	i := ownIndex(f.Name)
	if i < 0 {
		return true
	}
	value := ownFields(r, authority)[i]
	switch {
	case i == connection && value == "":
		value = "keep-alive"
	case i == te:
		value = "trailers"
	}
	return value != "" && fetch.EqualFold(f.Value, value)
}

// ChunkHead is the most that AppendChunkHead appends.
const ChunkHead = 16 + 2

// AppendChunkHead appends the line of the size of a chunk with n bytes of data
// (RFC 9112 section 7.1); CRLF goes behind the data.
func AppendChunkHead(b []byte, n int) []byte {
	return append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
}

// AppendEnd appends the last chunk and the trailer section.
func AppendEnd(b []byte, trailers []fetch.Field) []byte {
	return append(appendFields(append(b, "0\r\n"...), trailers), "\r\n"...)
}
