package transport

import (
	"context"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// stream keeps the time of one request over HTTP/2, where a deadline of the
// connection would be one for all. Time that runs out ends its context.
type stream struct {
	x      *exchange
	ctx    context.Context // ends with the caller's, too
	cancel context.CancelCauseFunc

	mu          sync.Mutex
	write, head *time.Timer // nil where no time runs
	headDone    bool
	handed      int // bytes of the body that are being sent
}

func newStream(ctx context.Context, x *exchange) *stream {
	s := &stream{x: x}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	x.upload.asked, x.upload.gave = s.asked, s.gave
	s.write = s.after(x.req.Timeouts.Write, x.writeTimeout)
	return s
}

// after ends the stream with a failure, unless it is stopped before.
func (s *stream) after(d time.Duration, failure func(error) *fetch.Failure) *time.Timer {
	return time.AfterFunc(d, func() { s.cancel(failure(nil)) })
}

// writesHeader counts the head as one byte, for how many they are is the
// library's secret. It is called before they leave.
func (s *stream) writesHeader(string, []string) { s.x.sent.CompareAndSwap(0, 1) }

func (s *stream) wroteHeaders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	stopTimer(&s.write)
}

// gave starts the time for n bytes of the body.
func (s *stream) gave(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handed = n
	stopTimer(&s.write)
	s.write = s.after(s.x.req.Timeouts.Write, s.x.writeTimeout)
}

// asked notes that the bytes of the body were sent.
func (s *stream) asked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.x.sent.Add(int64(s.handed))
	s.handed = 0
	stopTimer(&s.write)
}

func (s *stream) wroteRequest(i httptrace.WroteRequestInfo) {
	if i.Err != nil {
		return
	}
	s.asked()
	s.x.wroteRequest()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.headDone {
		s.head = s.after(s.x.req.Timeouts.Head, s.x.headTimeout)
	}
}

func (s *stream) gotHead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headDone = true
	stopTimer(&s.head)
}

// end frees what the stream holds, and resets it if it has not ended.
func (s *stream) end() {
	s.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headDone = true
	stopTimer(&s.write)
	stopTimer(&s.head)
}

// failure says why the context of the stream ended; ctx is the caller's.
func (s *stream) failure(ctx context.Context) error {
	if cause := context.Cause(s.ctx); ctx.Err() == nil {
		if f, ok := cause.(*fetch.Failure); ok {
			return f
		}
		if cause == errCut {
			return errCut
		}
	}
	return s.x.givenUp(ctx)
}

func stopTimer(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}
