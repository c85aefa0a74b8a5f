package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// errHalted ends the reading of a request body that nobody wants any more.
var errHalted = errors.New("the rest of the request body is not wanted")

// upload is the body of a request as the engines read it, on goroutines of
// their own, also after RoundTrip returned.
type upload struct {
	body     io.ReadCloser
	length   int64 // -1 means not known
	memory   bool  // all of it can be read without waiting
	trailers func() []fetch.Field
	// trailer is set when the body has been read.
	trailer []fetch.Field

	// gave, if set, is called when n bytes are handed over to be sent, and asked
	// when they have been, and more is asked for.
	gave  func(n int)
	asked func()
	// ended, if set, takes the trailers when the body has been read, or fails the
	// upload.
	ended func(trailers []fetch.Field) error

	mu      sync.Mutex
	read    int64
	started bool
	halted  bool
	eof     bool
	err     error // the failure that a read returned
}

// open sets u up for the body of r, and closes one that is not to be sent at once.
func (u *upload) open(r *fetch.Request) {
	u.body, u.length, u.trailers = r.Body, -1, r.Trailers
	if r.Framing == fetch.FramingLength {
		u.length = r.Length
	}
	if held, ok := r.Body.(interface{ Len() int }); ok {
		u.memory = u.length >= 0 && int64(held.Len()) >= u.length
	}
	if r.Framing == fetch.FramingNone || r.Framing == fetch.FramingUpgrade || u.length == 0 {
		u.halt()
	}
}

func (u *upload) Read(p []byte) (int, error) {
	if u.begin() {
		return 0, u.stall()
	}
	if u.asked != nil {
		u.asked()
	}
	n, err := u.body.Read(p)
	if u.add(n) {
		return 0, u.stall()
	}
	// The last bytes wait until it is known that they are: an upstream that has
	// them answers.
	for err == nil && u.whole() {
		var more [1]byte
		var extra int
		extra, err = u.body.Read(more[:])
		if u.add(extra) {
			return n, io.EOF
		}
	}
	if err = u.judge(err); err != nil && err != io.EOF {
		u.mu.Lock()
		u.err = err
		u.mu.Unlock()
		return 0, err
	}
	if err == io.EOF {
		u.mu.Lock()
		u.eof = true
		u.mu.Unlock()
	}
	if n > 0 && u.gave != nil {
		u.gave(n)
	}
	return n, err
}

// judge says what a read really ended with.
func (u *upload) judge(err error) error {
	switch {
	case u.length >= 0 && u.read > u.length:
		return uploadFailure(fetch.ReasonUploadLengthMismatch,
			fmt.Sprintf("the upload is longer than the %d bytes that were announced", u.length), nil)
	case err == nil:
		return nil
	case err == io.EOF && u.read < u.length:
		return uploadFailure(fetch.ReasonUploadLengthMismatch,
			fmt.Sprintf("the upload ended after %d of the %d bytes that were announced", u.read, u.length), nil)
	case err == io.EOF:
		return u.complete()
	}
	var f *fetch.Failure
	if errors.As(err, &f) {
		return f
	}
	return uploadFailure(fetch.ReasonUploadAborted, "the upload broke off", err)
}

// complete asks for the trailers.
func (u *upload) complete() error {
	if u.trailers == nil {
		return io.EOF
	}
	u.trailer = u.trailers()
	if err := checkFields(u.trailer); err != nil {
		return err
	}
	if u.ended != nil {
		if err := u.ended(u.trailer); err != nil {
			return err
		}
	}
	return io.EOF
}

func uploadFailure(reason fetch.Reason, message string, cause error) *fetch.Failure {
	f := fetch.Fail(reason, message, cause)
	f.Sent = fetch.SentYes
	return f
}

// begin notes that the body is being read, and tells whether it is not wanted.
func (u *upload) begin() (halted bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.started = true
	return u.halted
}

// add counts n bytes, unless the body is not wanted any more.
func (u *upload) add(n int) (halted bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.halted {
		u.read += int64(n)
	}
	return u.halted
}

// stall is what a read of a body that is not wanted comes to.
func (u *upload) stall() error {
	if u.whole() {
		return io.EOF
	}
	return errHalted
}

// whole tells that as many bytes as were announced have been read.
func (u *upload) whole() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.read == u.length
}

// spent tells that all of the body has been read.
func (u *upload) spent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.eof
}

// wanted tells that there is a body, and that it is to be sent.
func (u *upload) wanted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.halted
}

// Close is called by the HTTP/2 library. A body that they have not begun to
// read stays open, since the request may go out again.
func (u *upload) Close() error {
	u.mu.Lock()
	started := u.started
	u.mu.Unlock()
	if started {
		u.halt()
	}
	return nil
}

// halt says that no more of the body is wanted.
func (u *upload) halt() {
	u.mu.Lock()
	halted := u.halted
	u.halted = true
	u.mu.Unlock()
	if !halted && u.body != nil {
		u.body.Close()
	}
}

// untouched tells that the body, if there is one, can be sent from its start.
func (u *upload) untouched() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.started
}

// failure is what went wrong with the body at its source, or nil.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
