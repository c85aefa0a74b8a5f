package body

import (
	"bufio"
	"slices"
	"strings"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// AcceptEncoding is the value of the Accept-Encoding field that asks for
// exactly the content codings that Copy undoes.
const AcceptEncoding = "gzip, deflate, br, zstd"

// codings are the content codings that can be undone, by their names in the
// registry of RFC 9110 section 16.6.1.
var codings = map[string]*coding{
	"br":      {open: openBrotli},
	"deflate": {open: openDeflate},
	"gzip":    {open: openGzip},
	"zstd":    {open: openZstd},
}

type coding struct {
	open func() decoder
	idle sync.Pool // of *stage
}

// decoder undoes one content coding. It reads no more than it needs for the
// next bytes, so that what an upstream flushed is not held back, and starts no
// goroutine.
type decoder interface {
	// Reset makes the decoder begin anew with in, which is not empty. It reads
	// nothing yet.
	Reset(in *bufio.Reader)
	// Read returns io.EOF where the coded data ends, which may be before in does.
	Read(p []byte) (int, error)
}

// Codings returns the content codings of a response with these fields in the
// order in which they were applied (RFC 9110 section 8.4), so the last is to be
// undone first. Names are in lower case, x-gzip is called gzip (section
// 8.4.1.3), and identity is left out.
func Codings(fields []fetch.Field) []string {
	var names []string
	for _, name := range fetch.Members(fields, "Content-Encoding") {
		switch name = strings.ToLower(name); name {
		case "identity":
		case "x-gzip":
			names = append(names, "gzip")
		default:
			names = append(names, name)
		}
	}
	return names
}

// undone returns the codings to undo, outermost first. They are none if one of
// them is not known: the caller then gets the body as it came, rather than
// half-way decoded under a Content-Encoding that does not fit.
func undone(fields []fetch.Field, plan fetch.ResponsePlan) []string {
	if !plan.Decode {
		return nil
	}
	names := Codings(fields)
	for _, name := range names {
		if codings[name] == nil {
			return nil
		}
	}
	slices.Reverse(names)
	return names
}

// decoded returns w with the codings called names undone, outermost first.
// There must be at least one. The stage is to be released after use.
func decoded(w *wire, names []string, plan fetch.ResponsePlan) *stage {
	var top *stage
	var below layer = w
	for _, name := range names {
		top = newStage(name, below, ratio{wire: w, most: plan.MaxRatio, floor: plan.RatioFloor})
		below = top
	}
	return top
}
