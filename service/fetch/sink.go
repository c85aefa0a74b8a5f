package fetch

import "io"

// Sink is where a response is written. The engine calls Interim and Hop any
// number of times, then Head once, then Data until the body ends. An error of
// a Sink ends the fetch: its caller has gone.
type Sink interface {
	// Interim takes a 1xx head, if the plan asked for them.
	Interim(Head) error
	// Hop takes the head of a response that was followed to another one.
	Hop(head Head, url string) error
	// Head takes the head of the final response and the URL it came from.
	Head(head Head, url string) error
	// Buffer lends an empty buffer for Data; its capacity is the most that one
	// Data can take.
	Buffer() []byte
	// Data takes b, which lies in the buffer that was lent last, and ownership
	// of it, as the next bytes of the body. It may return before b is delivered. endOfChunk tells that an HTTP chunk of the
	// upstream ends with b.
	Data(b []byte, endOfChunk bool) error
	// Sending tells that Data would have to wait, so that a reader does better
	// to fill its buffer first.
	Sending() bool
}

// Source is where a request body comes from.
type Source interface {
	// Open returns the body from its first byte. It fails with a *Failure of
	// reason BodyNotRewindable when the body was read and cannot be again.
	Open() (io.ReadCloser, error)
	// Length is the body's length in bytes, or -1 when it is not known.
	Length() int64
}
