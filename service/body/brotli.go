package body

import (
	"bufio"

	"github.com/andybalholm/brotli"
)

// brotliDecoder undoes br (RFC 7932). Its window is at most 16 MiB, the largest
// that the format has, and grows only as far as the data says it needs.
type brotliDecoder struct{ r *brotli.Reader }

func openBrotli() decoder { return brotliDecoder{r: new(brotli.Reader)} }

func (d brotliDecoder) Reset(in *bufio.Reader) {
	_ = d.r.Reset(in) // documented to be always nil
}

func (d brotliDecoder) Read(p []byte) (int, error) { return d.r.Read(p) }
