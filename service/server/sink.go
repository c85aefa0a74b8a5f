package server

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// Callers' libraries take answers of 4 MiB unless they are told otherwise. A part
// of that is set aside for what goes with the response and its report.
const (
	maxAnswerBytes = 4 << 20
	answerSlack    = 32 << 10
)

// roomBeside is how much of an answer is left for the response.
func roomBeside(report *fetchgatev1.FetchReport) int {
	return maxAnswerBytes - answerSlack - proto.Size(report)
}

// wholeSink gathers a response into one message.
type wholeSink struct {
	held     *held
	max      int64 // bytes of body
	response fetchgatev1.HttpResponse
	body     *[]byte // from held; its length is what it holds
	expected int64   // bytes of body, where the head says it
	refused  *limit.Refused
	spare    [1]byte // lent when there is no memory, so that Data can say so

	// The parts of the answer, which are allocated with the sink.
	head    fetchgatev1.HttpHead
	outcome fetchgatev1.FetchResponse_Response
	answer  fetchgatev1.FetchResponse
	reply   fetchReply
}

// newWholeSink returns a sink for at most that many bytes of body, whose memory
// counts against the lease.
func newWholeSink(l *limit.Lease, most int64) *wholeSink {
	s := &struct {
		wholeSink
		memory held
	}{}
	s.memory.pool, s.memory.lease = buffers, l
	s.held, s.max = &s.memory, most
	return &s.wholeSink
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
	s.response.Head = setHead(&s.head, h, url)
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
		if s.body, s.refused = s.held.take(int(max(firstBytes, min(s.expected, s.max, maxFirstBytes)))); s.refused != nil {
			return s.spare[:0]
		}
		*s.body = (*s.body)[:0]
	}
	if len(*s.body) == cap(*s.body) {
		if s.refused = s.grow(); s.refused != nil {
			return s.spare[:0]
		}
	}
	return (*s.body)[len(*s.body):]
}

// grow makes room for as much as the head says, or else for four times as much
// as there is. Nobody asks for room beyond max.
func (s *wholeSink) grow() *limit.Refused {
	old := s.body
	want := s.expected
	if held := int64(len(*old)); want <= held {
		want = 4 * held
	}
	larger, refused := s.held.take(int(min(want, s.max)))
	if refused != nil {
		return refused
	}
	s.body = larger
	*s.body = append((*s.body)[:0], *old...)
	s.held.Put(old)
	return nil
}

func (s *wholeSink) Data(b []byte, _ bool) error {
	if s.refused != nil {
		return heldTooMuch(s.refused)
	}
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
		s.held.Put(b)
		return nil
	}
	return mem.NewBuffer(b, s.held)
}

// whole is the answer with the response. The codec owns the body then.
func (s *wholeSink) whole(report *fetchgatev1.FetchReport) *fetchReply {
	s.outcome.Response = &s.response
	s.answer.Report, s.answer.Outcome = report, &s.outcome
	s.reply = fetchReply{FetchResponse: &s.answer, body: s.take(), held: s.held}
	return &s.reply
}

// fit makes the response fit into one message, though each of its parts is
// within its own limit: the heads before the final one are left out first. The
// error is the failure of one that does not fit even so.
func (s *wholeSink) fit(report *fetchgatev1.FetchReport) error {
	room := roomBeside(report)
	if s.body != nil {
		room -= len(*s.body)
	}
	if s.cut(room, report) >= 0 {
		return nil
	}
	f := fetch.Fail(fetch.ReasonResponseTooLarge, "the heads and the body together do not fit into one message of 4 MiB; use StreamFetch", nil)
	f.Sent = fetch.SentYes
	return f
}

// cut leaves out heads before the final one, the first one first, until the
// rest without the body fits into room, and returns what is left of it.
func (s *wholeSink) cut(room int, report *fetchgatev1.FetchReport) int {
	room -= proto.Size(&s.response)
	for room < 0 && len(s.response.Interim) > 0 {
		room += proto.Size(s.response.Interim[0])
		s.response.Interim = s.response.Interim[1:]
		report.HistoryCut++
	}
	for room < 0 && len(s.response.History) > 0 {
		room += proto.Size(s.response.History[0])
		s.response.History = s.response.History[1:]
		report.HistoryCut++
	}
	return room
}

// partial returns what had arrived, for a failure; nil if nothing had. What
// does not fit into one message is left out, of the body its end; all of the
// body, if it found no memory. The body stays in the sink's memory.
func (s *wholeSink) partial(f *fetch.Failure, report *fetchgatev1.FetchReport) *fetchgatev1.HttpResponse {
	if s.refused != nil {
		s.discard()
	}
	if s.response.Head == nil && len(s.response.History) == 0 && len(s.response.Interim) == 0 && f.Last == nil {
		return nil
	}
	if last := f.Last; last != nil {
		s.response.Head = headMessage(last.Head, last.URL)
		s.response.Body = last.Body
	}
	room := s.cut(roomBeside(report), report)
	if s.body != nil {
		s.response.Body = (*s.body)[:min(len(*s.body), max(room, 0))]
	}
	return &s.response
}

// failed is the answer with a failure: encoded already, or without a body where
// there is no memory to encode it into. The sink holds nothing afterwards.
func (s *wholeSink) failed(m *fetchgatev1.FetchResponse) *failureReply {
	defer s.discard()
	if response := m.GetFailure().GetResponse(); response != nil {
		defer func() { response.Body = nil }() // it lies in the sink
	}
	b, refused := s.held.take(proto.Size(m))
	if refused != nil {
		return &failureReply{FetchResponse: m, held: s.held}
	}
	wire, err := proto.MarshalOptions{}.MarshalAppend((*b)[:0], m)
	if err != nil { // gRPC will say so
		s.held.Put(b)
		return &failureReply{FetchResponse: m, held: s.held}
	}
	*b = wire
	return &failureReply{FetchResponse: m, wire: mem.NewBuffer(b, s.held), held: s.held}
}

// discard gives the body's buffer back.
func (s *wholeSink) discard() {
	if s.body != nil {
		s.held.Put(s.body)
		s.body = nil
	}
}

// sender is the part of a gRPC stream that a sink needs.
type sender interface{ SendMsg(m any) error }

// streamSink sends a response as messages of a stream. It owns one goroutine,
// which sends while the next message is filled; close waits for it.
type streamSink struct {
	ctx    context.Context
	stream sender
	held   *held
	stall  time.Duration
	// queue holds nothing: a body waits in the buffer that is being filled.
	queue   chan any
	done    chan struct{}
	late    chan struct{} // closed when the caller is not waited for any more
	tooLate atomic.Pointer[refusal]
	failed  atomic.Pointer[error]
	sending atomic.Int32
	closed  bool    // nothing more is pushed
	most    int64   // bytes of memory for data that may be out
	lent    *[]byte // what Buffer lent and Data has not taken
	offset  int64
	// refuse is why Data takes nothing more.
	refuse error
	spare  [1]byte // lent then, so that Data can say so
}

// newStreamSink returns a sink that waits at most stall for a caller that does
// not read, and not beyond ctx, which is that of the stream.
func newStreamSink(ctx context.Context, stream sender, h *held, stall time.Duration) *streamSink {
	h.returned = make(chan struct{}, 1)
	s := &streamSink{
		ctx: ctx, stream: stream, held: h, stall: stall, most: maxStreamBytes,
		queue: make(chan any), done: make(chan struct{}), late: make(chan struct{}),
	}
	go s.send()
	return s
}

// Why a stream whose caller does not read it ends.
var (
	errNotRead = &refusal{
		code: codes.DeadlineExceeded, reason: string(fetch.ReasonTotalTimeout),
		message: "the caller did not read the stream to its end within the total timeout; what it has is not whole",
	}
	errStalled = &refusal{
		code: codes.DeadlineExceeded, reason: reasonOverloaded,
		message: "the caller read nothing of the stream for as long as limits.caller_stall allows; what it has is not whole",
	}
)

// waitAtMost bounds how long the sink waits for a caller that does not read.
// Beyond it push and close fail, and the message that is being sent is left to
// the stream, which ends with its handler. The result stops the clock.
func (s *streamSink) waitAtMost(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, func() { s.giveUp(errNotRead) }).Stop
}

// giveUp ends all waiting for the caller.
func (s *streamSink) giveUp(why *refusal) {
	if s.tooLate.CompareAndSwap(nil, why) {
		close(s.late)
	}
}

// givenUp tells that the sink did not wait for its caller.
func (s *streamSink) givenUp() bool { return s.tooLate.Load() != nil }

// patience gives up on a caller that reads nothing for stall. The result stops
// the clock.
func (s *streamSink) patience() (stop func() bool) {
	return time.AfterFunc(s.stall, func() { s.giveUp(errStalled) }).Stop
}

// send is the goroutine of a streamSink.
func (s *streamSink) send() {
	defer close(s.done)
	for m := range s.queue {
		if s.failed.Load() != nil {
			free(m)
		} else if err := s.stream.SendMsg(m); err != nil {
			s.failed.Store(&err)
		} else {
			s.held.forfeit(s.ctx)
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
	default:
	}
	defer s.patience()()
	select {
	case s.queue <- m:
		return nil
	case <-s.late:
		s.sending.Add(-1)
		free(m)
		return s.tooLate.Load()
	}
}

// close waits until all is sent and ends the goroutine, at once or, if it was
// given up, with the stream.
func (s *streamSink) close() error {
	s.closed = true
	close(s.queue)
	defer s.patience()()
	late := s.tooLate.Load()
	select {
	case <-s.done:
	case <-s.late:
	}
	if s.lent != nil {
		s.held.Put(s.lent)
		s.lent = nil
	}
	if err := s.failed.Load(); err != nil {
		return *err
	}
	if late != nil {
		return late // what it was given up for did not get into the queue
	}
	select {
	case <-s.done:
		return nil
	default:
		return s.tooLate.Load()
	}
}

func (s *streamSink) Interim(h fetch.Head) error {
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Interim{Interim: headMessage(h, "")}})
}

func (s *streamSink) Hop(h fetch.Head, url string) error {
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Hop{Hop: headMessage(h, url)}})
}

func (s *streamSink) Head(h fetch.Head, url string) error {
	if h.Protocol == "HTTP/2" {
		s.most = maxStreamBytesH2
	}
	return s.push(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Head{Head: headMessage(h, url)}})
}

// The most memory that one stream has out. Over HTTP/1.1 it is a message that
// gRPC has not sent and the next one. Over HTTP/2 the next one waits in the
// window of its stream instead, which counts against the same 256 KiB: here one
// message is out, with room for a copy of one that is small.
const (
	maxStreamBytes   = 2 * dataBytes
	maxStreamBytesH2 = dataBytes + firstBytes
)

func (s *streamSink) Buffer() []byte {
	if s.lent == nil && s.refuse == nil {
		s.lent = s.take(dataBytes)
	}
	if s.refuse != nil {
		return s.spare[:0]
	}
	return (*s.lent)[:0]
}

// take lends a buffer of length n once the stream has no more than most bytes
// out with it. It returns nil, and notes why, if there is no memory or the
// caller is not waited for any more.
func (s *streamSink) take(n int) *[]byte {
	if !s.hasRoom(n) && !s.awaitRoom(n) {
		return nil
	}
	b, refused := s.held.take(n)
	if refused != nil {
		s.refuse = heldTooMuch(refused)
		return nil
	}
	return b
}

func (s *streamSink) hasRoom(n int) bool {
	return s.held.bytes.Load()+int64(buffers.size(n)) <= s.most
}

// awaitRoom waits until gRPC has sent enough of what is out.
func (s *streamSink) awaitRoom(n int) bool {
	defer s.patience()()
	for !s.hasRoom(n) {
		select {
		case <-s.held.returned:
		case <-s.ctx.Done():
			s.refuse = s.ctx.Err()
			return false
		case <-s.late:
			s.refuse = s.tooLate.Load()
			return false
		}
	}
	return true
}

func (s *streamSink) Data(b []byte, endOfChunk bool) error {
	body := s.taken(b)
	if s.refuse != nil {
		return s.refuse
	}
	data := &fetchgatev1.Data{OffsetBytes: s.offset, EndOfHttpChunk: endOfChunk}
	s.offset += int64(len(b))
	return s.push(&dataReply{
		StreamFetchResponse: &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{Data: data}},
		body:                body,
	})
}

// taken returns b as the body of a message, unless there is no memory for it.
// A small message gets a buffer of its size: gRPC bounds what it queues for a
// stalled caller by bytes, and would keep large buffers with little in them.
// Where there is no room for a second buffer the lent one goes out: to wait for
// room while it is lent could last for ever.
func (s *streamSink) taken(b []byte) mem.Buffer {
	if s.refuse != nil {
		return nil
	}
	if len(b) > dataBytes/4 || !s.hasRoom(len(b)) {
		buffer := s.lent
		s.lent = nil
		*buffer = b
		return mem.NewBuffer(buffer, s.held)
	}
	small := s.take(len(b))
	if small == nil {
		return nil
	}
	copy(*small, b)
	// Until more comes the stream keeps nothing.
	s.held.Put(s.lent)
	s.lent = nil
	return mem.NewBuffer(small, s.held)
}

func (s *streamSink) Sending() bool { return s.sending.Load() > 0 }
