package transport

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"sync"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// errHalted ends the reading of a request body that nobody wants any more.
var errHalted = errors.New("the rest of the request body is not wanted")

// upload is the body of a request as the HTTP libraries read it. They read and
// close it on goroutines of their own, also after RoundTrip returned.
type upload struct {
	body     io.ReadCloser
	length   int64 // -1 means not known
	trailers func() []fetch.Field
	trailer  http.Header // is filled when the body has been read

	// stalls makes a read wait for finish, not fail, once the body is not
	// wanted: HTTP/1.1's library would take the failure for the end of the
	// whole connection, whose response is still being read.
	stalls bool
	// gave, if set, is called when n bytes are handed over to be sent, and asked
	// when they have been, and more is asked for.
	gave  func(n int)
	asked func()

	mu       sync.Mutex
	read     int64
	started  bool
	halted   bool
	finished bool
	over     chan struct{} // closed by finish
	err      error         // the failure that a read returned
}

// newUpload closes a body that is not to be sent at once.
func newUpload(r *fetch.Request) *upload {
	u := &upload{body: r.Body, length: -1, trailers: r.Trailers, over: make(chan struct{})}
	if r.Framing == fetch.FramingLength {
		u.length = r.Length
	}
	if r.Trailers != nil {
		u.trailer = http.Header{}
	}
	if r.Framing == fetch.FramingNone || u.length == 0 {
		u.finish()
	}
	return u
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
		return u.fillTrailer()
	}
	var f *fetch.Failure
	if errors.As(err, &f) {
		return f
	}
	return uploadFailure(fetch.ReasonUploadAborted, "the upload broke off", err)
}

func (u *upload) fillTrailer() error {
	if u.trailers == nil {
		return io.EOF
	}
	fields := u.trailers()
	if err := checkFields(fields); err != nil {
		return err
	}
	for _, f := range fields {
		key := textproto.CanonicalMIMEHeaderKey(f.Name)
		u.trailer[key] = append(u.trailer[key], string(f.Value))
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
	switch {
	case u.whole():
		return io.EOF
	case u.stalls:
		<-u.over
	}
	return errHalted
}

// whole tells that as many bytes as were announced have been read.
func (u *upload) whole() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.read == u.length
}

// Close is called by the HTTP libraries. A body that they have not begun to
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

// finish halts and lets go of whoever waits in a read.
func (u *upload) finish() {
	u.halt()
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.finished {
		u.finished = true
		close(u.over)
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
