package h1

// What the limits of chunks are, for the tests at their edges.
const (
	MaxSizeLine = maxSizeLine
	MaxExcess   = maxExcess
	MaxDigits   = maxDigits
	SpareSize   = spareSize
)

// Holds tells whether r has a buffer.
func (r *Reader) Holds() bool { return r.spare != nil || cap(r.buf) > 0 }

// Room is how many bytes the buffer of r has room for.
func (r *Reader) Room() int { return cap(r.buf) }
