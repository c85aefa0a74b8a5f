package body

import (
	"bytes"
	"io"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Raw is b as it is. It has no media type, can be opened any number of times,
// also at the same time, and fails never. What Open returns has a method Len; see
// fetch.Request.Body. b must not change any more.
func Raw(b []byte) fetch.Source { return raw(b) }

type raw []byte

func (r raw) Open() (io.ReadCloser, error) {
	m := new(inMemory)
	m.rest.Reset(r)
	return m, nil
}

func (r raw) Length() int64 { return int64(len(r)) }

// inMemory is a body that is there as a whole.
type inMemory struct{ rest bytes.Reader }

func (m *inMemory) Read(p []byte) (int, error) { return m.rest.Read(p) }

// Len is how many bytes have not been read.
func (m *inMemory) Len() int { return m.rest.Len() }

func (*inMemory) Close() error { return nil }

// Unsized is s with a length that is not said, which has it sent in chunks.
func Unsized(s fetch.Source) fetch.Source { return unsized{s} }

type unsized struct{ fetch.Source }

func (unsized) Length() int64 { return -1 }
