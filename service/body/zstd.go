package body

import (
	"bufio"

	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the largest window of HTTP's zstd (RFC 9659 section 3).
const maxZstdWindow = 8 << 20

// zstdDecoder undoes zstd (RFC 8878), which may have several frames.
type zstdDecoder struct{ r *zstd.Decoder }

func openZstd() decoder {
	r, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1), // in the reading goroutine, no read-ahead
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return zstdDecoder{r: r}
}

func (d zstdDecoder) Reset(in *bufio.Reader) {
	_ = d.r.Reset(in) // fails only after Close
}

func (d zstdDecoder) Read(p []byte) (int, error) { return d.r.Read(p) }
