package body

import (
	"io"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// wire is the body as it comes from the upstream, counted and timed.
type wire struct {
	body  fetch.Body
	meter *meter
	size  int64
	err   error // how the body ended
}

func (w *wire) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.meter.begin()
	n, err := w.body.Read(p)
	w.came(n, err)
	return n, w.err
}

func (w *wire) readChunk(get func() []byte) ([]byte, bool, error) {
	if w.err != nil {
		return nil, false, w.err
	}
	w.meter.begin()
	b, endOfChunk, err := w.body.ReadChunk(get)
	w.came(len(b), err)
	return b, endOfChunk, w.err
}

func (w *wire) came(n int, err error) {
	w.size += int64(n)
	w.meter.end(n)
	if slow := w.meter.failure(); slow != nil {
		err = slow
	}
	w.err = err
}

func (w *wire) failure() error {
	if w.err == io.EOF {
		return nil
	}
	return w.err
}
