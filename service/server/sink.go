package server

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Callers' libraries take answers of 4 MiB unless they are told otherwise. A part
// of that is set aside for what goes with the response.
const (
	maxAnswerBytes   = 4 << 20
	maxResponseBytes = maxAnswerBytes - 128<<10
)

// wholeSink gathers a response into one message.
type wholeSink struct {
	pool     mem.BufferPool
	max      int64 // bytes of body
	response fetchgatev1.HttpResponse
	body     *[]byte // from pool; its length is what it holds
	expected int64   // bytes of body, where the head says it
}

func (s *wholeSink) Interim(h fetch.Head) error {
	s.response.Interim = append(s.response.Interim, headMessage(h, ""))
	return nil
}

func (s *wholeSink) Hop(h fetch.Head, url string) error {
	s.response.History = append(s.response.History, headMessage(h, url))
	return nil
}

func (s *wholeSink) Head(h fetch.Head, url string) error {
	s.response.Head = headMessage(h, url)
	if v, ok := fetch.Get(h.Fields, "Content-Length"); ok {
		// What is not a number was refused before; a coded body grows as it goes.
		s.expected, _ = strconv.ParseInt(string(v), 10, 64)
	}
	return nil
}

// Buffer lends what is free behind the bytes that are there already, so that
// the body lies in one piece without being copied at the end.
func (s *wholeSink) Buffer() []byte {
	if s.body == nil {
		s.body = s.pool.Get(int(max(firstBytes, min(s.expected, s.max, maxFirstBytes))))
		*s.body = (*s.body)[:0]
	}
	if len(*s.body) == cap(*s.body) {
		s.grow()
	}
	return (*s.body)[len(*s.body):]
}

// grow makes room for as much as the head says, or else for four times as much
// as there is. Nobody asks for room beyond max.
func (s *wholeSink) grow() {
	old := s.body
	want := s.expected
	if held := int64(len(*old)); want <= held {
		want = 4 * held
	}
	s.body = s.pool.Get(int(min(want, s.max)))
	*s.body = append((*s.body)[:0], *old...)
	s.pool.Put(old)
}

func (s *wholeSink) Data(b []byte, _ bool) error {
	*s.body = (*s.body)[:len(*s.body)+len(b)]
	return nil
}

func (s *wholeSink) Sending() bool { return false }

// take returns the body for the codec, which then owns it.
func (s *wholeSink) take() mem.Buffer {
	if s.body == nil {
		return nil
	}
	b := s.body
	s.body = nil
	if len(*b) == 0 {
		s.pool.Put(b)
		return nil
	}
	return mem.NewBuffer(b, s.pool)
}

// oversize is the failure of a response that is within each of its limits and
// does not fit into one message all the same, as an operator's limits on heads
// can have it; nil if it fits.
func (s *wholeSink) oversize() error {
	size := proto.Size(&s.response)
	if s.body != nil {
		size += len(*s.body)
	}
	if size <= maxResponseBytes {
		return nil
	}
	f := fetch.Fail(fetch.ReasonResponseTooLarge, "the heads and the body together do not fit into one message of 4 MiB; use StreamFetch", nil)
	f.Sent = fetch.SentYes
	return f
}

// partial returns what had arrived, for a failure; nil if nothing had. Where it
// does not fit into one message, interim heads are left out and the body is cut.
func (s *wholeSink) partial() *fetchgatev1.HttpResponse {
	defer s.discard()
	if s.response.Head == nil && len(s.response.History) == 0 && len(s.response.Interim) == 0 {
		return nil
	}
	room := maxResponseBytes - proto.Size(&s.response)
	if room < 0 {
		s.response.Interim = nil
		room = maxResponseBytes - proto.Size(&s.response)
	}
	if s.body != nil {
		s.response.Body = slices.Clone((*s.body)[:min(len(*s.body), max(room, 0))])
	}
	return &s.response
}

// discard gives the body's buffer back.
func (s *wholeSink) discard() {
	if s.body != nil {
		s.pool.Put(s.body)
		s.body = nil
	}
}

// sender is the part of a gRPC stream that a sink needs.
type sender interface{ SendMsg(m any) error }

// streamSink sends a response as messages of a stream. It owns one goroutine,
// which sends while the next message is filled; close waits for it.
type streamSink struct {
	stream sender
	pool   mem.BufferPool
	// queue holds nothing: a body waits in the buffer that is being filled. So a
	// stream whose caller stalls keeps that, the message that is being sent, and
	// what gRPC took before: messages of 64 KiB together, and one more.
	queue   chan any
	done    chan struct{}
	late    chan struct{} // closed when the caller is not waited for any more
	failed  atomic.Pointer[error]
	sending atomic.Int32
	lent    *[]byte // what Buffer lent and Data has not taken
	offset  int64
}

func newStreamSink(stream sender, pool mem.BufferPool) *streamSink {
	s := &streamSink{stream: stream, pool: pool, queue: make(chan any), done: make(chan struct{}), late: make(chan struct{})}
	go s.send()
	return s
}

// errNotRead ends a stream whose caller does not read it.
var errNotRead = &refusal{
	code: codes.DeadlineExceeded, reason: string(fetch.ReasonTotalTimeout),
	message: "the caller did not read the stream to its end within the total timeout; what it has is not whole",
}

// waitAtMost bounds how long the sink waits for a caller that does not read.
// Beyond it push and close fail, and the message that is being sent is left to
// the stream, which ends with its handler. The result stops the clock.
func (s *streamSink) waitAtMost(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, func() { close(s.late) }).Stop
}

// send is the goroutine of a streamSink.
func (s *streamSink) send() {
	defer close(s.done)
	for m := range s.queue {
		if s.failed.Load() != nil {
			free(m)
		} else if err := s.stream.SendMsg(m); err != nil {
			s.failed.Store(&err)
		}
		s.sending.Add(-1)
	}
}

// free gives back the body of a message that is not sent.
func free(m any) {
	if d, ok := m.(*dataReply); ok {
		d.body.Free()
	}
}

// push hands m to the goroutine, once the message before it has been sent.
func (s *streamSink) push(m any) error {
	if err := s.failed.Load(); err != nil {
		free(m)
		return *err
	}
	s.sending.Add(1)
	select {
	case s.queue <- m:
		return nil
	case <-s.late:
		s.sending.Add(-1)
		free(m)
		return errNotRead
	}
}

// close waits until all is sent and ends the goroutine, at once or, if it fails
// with errNotRead, with the stream.
func (s *streamSink) close() error {
	close(s.queue)
	select {
	case <-s.done:
	case <-s.late:
	}
	if s.lent != nil {
		s.pool.Put(s.lent)
		s.lent = nil
	}
	if err := s.failed.Load(); err != nil {
		return *err
	}
	select {
	case <-s.done:
		return nil
	default:
		return errNotRead
	}
}

func (s *streamSink) Interim(h fetch.Head) error {
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Interim{Interim: headMessage(h, "")}})
}

func (s *streamSink) Hop(h fetch.Head, url string) error {
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Hop{Hop: headMessage(h, url)}})
}

func (s *streamSink) Head(h fetch.Head, url string) error {
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Head{Head: headMessage(h, url)}})
}

func (s *streamSink) Buffer() []byte {
	if s.lent == nil {
		s.lent = s.pool.Get(dataBytes)
	}
	return (*s.lent)[:0]
}

func (s *streamSink) Data(b []byte, _ bool) error {
	data := &fetchgatev1.Data{OffsetBytes: s.offset}
	s.offset += int64(len(b))
	return s.push(&dataReply{
		StreamFetchResponse: &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{Data: data}},
		body:                s.taken(b),
	})
}

// taken returns b as the body of a message. gRPC bounds what it queues for a
// stalled caller by bytes, not by messages, so a small message must not keep a
// large buffer: a caller that does not read could have thousands of them.
func (s *streamSink) taken(b []byte) mem.Buffer {
	if len(b) <= dataBytes/4 {
		return mem.Copy(b, s.pool)
	}
	buffer := s.lent
	s.lent = nil
	*buffer = b
	return mem.NewBuffer(buffer, s.pool)
}

func (s *streamSink) Sending() bool { return s.sending.Load() > 0 }
