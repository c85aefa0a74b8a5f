package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
)

// give writes b to a sink as package body does, at most atOnce bytes at a time,
// and no more than the sink takes.
func give(t testing.TB, sink fetch.Sink, b []byte, atOnce int) error {
	t.Helper()
	for len(b) > 0 {
		room := sink.Buffer()
		if len(room) != 0 || cap(room) == 0 {
			t.Fatalf("the sink lends a buffer of length %d and capacity %d", len(room), cap(room))
		}
		n := min(len(b), cap(room), atOnce)
		if err := sink.Data(append(room, b[:n]...), false); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func headOf(length int) fetch.Head {
	h := fetch.Head{Protocol: "HTTP/1.1", Status: 200}
	if length >= 0 {
		h.Fields = []fetch.Field{{Name: "content-length", Value: []byte(strconv.Itoa(length))}}
	}
	return h
}

// TestWholeSinkKeepsEveryByte: for sizes around the borders of all tiers,
// however the bytes come and whatever the head says of their length.
func TestWholeSinkKeepsEveryByte(t *testing.T) {
	all := pattern(3 << 20)
	for _, border := range append([]int{1, 3 << 20}, buffers.sizes...) {
		for size := border - 1; size <= border+1; size++ {
			if size > 3<<20 {
				continue
			}
			for _, said := range []int{-1, size, size / 3, 2*size + 1, 1 << 40} {
				for _, atOnce := range []int{3 << 20, 10_007} {
					pool := newLedger(t)
					sink := &wholeSink{held: accounted(t, pool), max: 3 << 20}
					if err := sink.Head(headOf(said), ""); err != nil {
						t.Fatal(err)
					}
					if err := give(t, sink, all[:size], atOnce); err != nil {
						t.Fatal(err)
					}
					checkWholeBody(t, sink, all[:size], said)
					pool.settled()
				}
			}
		}
	}
}

// TestWholeSinkWithoutABody: a buffer that nothing was written to comes back.
func TestWholeSinkWithoutABody(t *testing.T) {
	pool := newLedger(t)
	sink := &wholeSink{held: accounted(t, pool), max: 3 << 20}
	if sink.take() != nil {
		t.Error("no body has a buffer")
	}
	_ = sink.Buffer()
	if sink.take() != nil {
		t.Error("an empty body has a buffer")
	}
	pool.settled()
}

func checkWholeBody(t *testing.T, sink *wholeSink, want []byte, said int) {
	t.Helper()
	pool := sink.held.pool.(*ledger)
	if count, size := pool.held(); count > 1 || size > max(firstBytes, 16*len(want), min(said, maxFirstBytes)) {
		t.Errorf("%d buffers of %d bytes hold %d", count, size, len(want))
	}
	b := sink.take()
	if len(want) == 0 {
		if b != nil {
			t.Error("an empty body has a buffer")
		}
		return
	}
	if !bytes.Equal(b.ReadOnlyData(), want) {
		t.Errorf("the %d bytes are others than the %d given", b.Len(), len(want))
	}
	b.Free()
}

// TestWholeSinkTakesTheHeadAtItsWord, but not for more than maxFirstBytes before
// that much has come.
func TestWholeSinkTakesTheHeadAtItsWord(t *testing.T) {
	for _, c := range []struct {
		said, given int
		want        int // bytes of the buffer
	}{
		{-1, 1, 4 << 10},
		{0, 1, 4 << 10},
		{4 << 10, 1, 4 << 10},
		{4<<10 + 1, 1, 32 << 10},
		{100 << 10, 1, 128 << 10},
		{3 << 20, 1, 512 << 10},
		{1 << 40, 1, 512 << 10},
		{600 << 10, 512 << 10, 512 << 10},
		{600 << 10, 512<<10 + 1, 1 << 20},
		{3 << 20, 512<<10 + 1, 4 << 20},
		{1 << 40, 512<<10 + 1, 4 << 20},
	} {
		pool := newLedger(t)
		sink := &wholeSink{held: accounted(t, pool), max: 3 << 20}
		if err := sink.Head(headOf(c.said), ""); err != nil {
			t.Fatal(err)
		}
		if err := give(t, sink, pattern(c.given), 3<<20); err != nil {
			t.Fatal(err)
		}
		if _, size := pool.held(); size != c.want {
			t.Errorf("with a length of %d, %d bytes are held in %d, want %d", c.said, c.given, size, c.want)
		}
		sink.discard()
		sink.discard()
		pool.settled()
	}
}

// TestWholeSinkOfASmallMaximum: what a request allows bounds the memory, too.
func TestWholeSinkOfASmallMaximum(t *testing.T) {
	for _, most := range []int{1, 4 << 10, 4<<10 + 1, 32<<10 + 1, 128<<10 + 1, 512<<10 + 1} {
		pool := newLedger(t)
		sink := &wholeSink{held: accounted(t, pool), max: int64(most)}
		if err := sink.Head(headOf(1<<40), ""); err != nil {
			t.Fatal(err)
		}
		if err := give(t, sink, pattern(most), most); err != nil {
			t.Fatal(err)
		}
		if _, size := pool.held(); size >= 8*max(most, firstBytes) {
			t.Errorf("%d bytes are held in %d", most, size)
		}
		checkWholeBody(t, sink, pattern(most), most)
		pool.settled()
	}
}

func TestWholeSinkGathersTheHeads(t *testing.T) {
	sink := &wholeSink{held: accounted(t, newLedger(t)), max: 1}
	h := fetch.Head{Protocol: "HTTP/1.1", Status: 103, Reason: []byte("\xff"), Fields: []fetch.Field{{Name: "Link", Value: []byte("a")}}}
	for _, err := range []error{sink.Interim(h), sink.Interim(h), sink.Hop(h, "http://a/"), sink.Head(h, "http://b/#c")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := &fetchgatev1.HttpResponse{
		Interim: []*fetchgatev1.HttpHead{headMessage(h, ""), headMessage(h, "")},
		History: []*fetchgatev1.HttpHead{headMessage(h, "http://a/")}, Head: headMessage(h, "http://b/#c"),
	}
	if !proto.Equal(&sink.response, want) || sink.Sending() {
		t.Errorf("the response is %v", &sink.response)
	}
}

// TestPartial: a failure has what arrived, in memory that comes back once it is
// encoded.
func TestPartial(t *testing.T) {
	pool := newLedger(t)
	sink := &wholeSink{held: accounted(t, pool), max: 3 << 20}
	if sink.partial(&fetch.Failure{}, &fetchgatev1.FetchReport{}) != nil {
		t.Error("nothing arrived, and there is a response")
	}
	if err := sink.Head(headOf(-1), ""); err != nil {
		t.Fatal(err)
	}
	if err := give(t, sink, []byte("pre"), 1); err != nil {
		t.Fatal(err)
	}
	got := sink.partial(&fetch.Failure{}, &fetchgatev1.FetchReport{})
	if string(got.GetBody()) != "pre" || got.GetHead().GetStatus() != 200 {
		t.Errorf("what arrived is %v", got)
	}
	wire, err := NewCodec().Marshal(sink.failed(&fetchgatev1.FetchResponse{
		Outcome: &fetchgatev1.FetchResponse_Failure{Failure: &fetchgatev1.Failure{Response: got}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	read := &fetchgatev1.FetchResponse{}
	if err := proto.Unmarshal(wire.Materialize(), read); err != nil || string(read.GetFailure().GetResponse().GetBody()) != "pre" {
		t.Errorf("on the wire are %v, %v", read, err)
	}
	wire.Free()
	pool.settled()

	early := &wholeSink{held: accounted(t, pool), max: 3 << 20}
	if err := early.Interim(fetch.Head{Status: 103}); err != nil {
		t.Fatal(err)
	}
	if got := early.partial(&fetch.Failure{}, &fetchgatev1.FetchReport{}); len(got.GetInterim()) != 1 || got.GetHead() != nil {
		t.Errorf("before the head arrived %v", got)
	}
}

// event is a message as a stub stream got it.
type event struct {
	message *fetchgatev1.StreamFetchResponse
	wire    mem.BufferSlice // while it is kept
}

// stubStream is a caller of a stream. It encodes as gRPC does.
type stubStream struct {
	t *testing.T
	// stall, if set, lets a message wait until it gives a value; keep keeps the
	// memory of messages, as gRPC does until the caller reads.
	stall   chan error
	keep    bool
	mu      sync.Mutex // of events
	events  []event
	sending atomic.Int32
}

func (s *stubStream) SendMsg(m any) error {
	if s.sending.Add(1) != 1 {
		s.t.Error("two messages are sent at a time")
	}
	defer s.sending.Add(-1)
	wire, err := NewCodec().Marshal(m)
	if err != nil {
		return err
	}
	e := event{message: &fetchgatev1.StreamFetchResponse{}}
	if err := proto.Unmarshal(wire.Materialize(), e.message); err != nil {
		return err
	}
	if s.keep {
		e.wire = wire
	} else {
		defer wire.Free()
	}
	if s.stall != nil {
		if err := <-s.stall; err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return nil
}

// read lets go of the messages that were kept.
func (s *stubStream) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.events {
		s.events[i].wire.Free()
		s.events[i].wire = nil
	}
}

// TestStreamsThatGRPCDrops: a message that is sent as its stream ends is held no
// more, though gRPC never frees it.
func TestStreamsThatGRPCDrops(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	stream := &stubStream{t: t, keep: true, stall: make(chan error)}
	admission := limit.NewAdmission(fetch.DefaultLimits())
	lease, _ := admission.Admit("shop", limit.Peer{}, nil)
	sink := newStreamSink(ctx, stream, newHeld(buffers, lease), time.Minute)
	b := sink.Buffer()
	if err := sink.Data(append(b, "hello"...), false); err != nil {
		t.Fatal(err)
	}
	end()
	stream.stall <- nil
	if err := sink.close(); err != nil {
		t.Fatal(err)
	}
	if _, held := admission.Load(); held != 0 {
		t.Errorf("%d bytes are still counted", held)
	}
}

// trailing is a stream of gRPC that takes trailers until it is over.
type trailing struct {
	grpc.ServerTransportStream
	over error
}

func (s trailing) SetTrailer(metadata.MD) error { return s.over }

// TestDeadlinesForfeitNothingQueued: what is sent at the deadline counts for as
// long as gRPC has the stream, and so may have it queued.
func TestDeadlinesForfeitNothingQueued(t *testing.T) {
	expired, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		over error
		want int64
	}{
		"goes on":             {t.Context(), nil, 4 << 10},
		"expired, and queued": {expired, nil, 4 << 10},
		"expired, and over":   {expired, errors.New("over"), 0},
		"cancelled":           {cancelled, nil, 0},
	} {
		admission := limit.NewAdmission(fetch.DefaultLimits())
		lease, _ := admission.Admit("shop", limit.Peer{}, nil)
		memory := newHeld(buffers, lease)
		if _, refused := memory.take(4 << 10); refused != nil {
			t.Fatal(refused)
		}
		ctx := grpc.NewContextWithServerTransportStream(c.ctx, trailing{over: c.over})
		dropped(ctx, &fetchReply{held: memory})
		if _, bytes := admission.Load(); bytes != c.want {
			t.Errorf("%s: %d bytes count, want %d", name, bytes, c.want)
		}
	}
}

func TestStreamSinkKeepsTheOrder(t *testing.T) {
	stream, pool := &stubStream{t: t}, newLedger(t)
	sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
	h := func(status int) fetch.Head { return fetch.Head{Status: status} }
	body := pattern(1 << 20)
	for _, err := range []error{
		sink.Interim(h(102)), sink.Interim(h(103)), sink.Hop(h(302), "http://a/"), sink.Head(h(200), "http://b/"),
		give(t, sink, body[:5], 1), give(t, sink, body[5:], 100_000), sink.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pool.settled()
	heads, data := stream.events[:4], stream.events[4:]
	if heads[0].message.GetInterim().GetStatus() != 102 || heads[1].message.GetInterim().GetStatus() != 103 ||
		heads[2].message.GetHop().GetUrl() != "http://a/" || heads[3].message.GetHead().GetUrl() != "http://b/" {
		t.Errorf("the heads are %v", heads)
	}
	var got []byte
	for _, e := range data {
		d := e.message.GetData()
		if d.GetOffsetBytes() != int64(len(got)) || len(d.GetData()) == 0 || len(d.GetData()) > dataBytes {
			t.Errorf("%d bytes are at %d, after %d", len(d.GetData()), d.GetOffsetBytes(), len(got))
		}
		got = append(got, d.GetData()...)
	}
	if !bytes.Equal(got, body) {
		t.Error("the body is another one after it was sent")
	}
}

// TestStreamSinkSendsOneWhileTheNextIsFilled: the second message waits for the
// first, and close for both.
func TestStreamSinkSendsOneWhileTheNextIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, pool := &stubStream{t: t, stall: make(chan error)}, newLedger(t)
		sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
		if sink.Sending() {
			t.Error("nothing was given, and it is being sent")
		}
		var stage atomic.Value
		ended := make(chan error)
		go func() {
			stage.Store("first")
			err := give(t, sink, pattern(dataBytes), dataBytes)
			stage.Store("second")
			err = errors.Join(err, give(t, sink, pattern(dataBytes), dataBytes))
			stage.Store("close")
			ended <- errors.Join(err, sink.close())
		}()
		for _, want := range []string{"second", "close"} {
			synctest.Wait()
			if stage.Load() != want || !sink.Sending() {
				t.Errorf("while a message is sent, the sink is at %q, want %q", stage.Load(), want)
			}
			if count, _ := pool.held(); count > 2 {
				t.Errorf("%d buffers are held", count)
			}
			stream.stall <- nil
		}
		if err := <-ended; err != nil || sink.Sending() || len(stream.events) != 2 {
			t.Errorf("%d messages were sent, sending %v, error %v", len(stream.events), sink.Sending(), err)
		}
		pool.settled()
	})
}

// TestStreamSinkEndsWithItsStream: when the stream breaks, whoever waits is let
// go with the stream's error, what is not sent is given back, and nothing more
// is sent.
func TestStreamSinkEndsWithItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, pool := &stubStream{t: t, stall: make(chan error)}, newLedger(t)
		sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
		broken := errors.New("the caller has gone")
		ended := make(chan error)
		go func() {
			for {
				if err := give(t, sink, pattern(dataBytes), dataBytes); err != nil {
					ended <- err
					return
				}
			}
		}()
		stream.stall <- nil
		synctest.Wait()
		if count, _ := pool.held(); count != 2 {
			t.Errorf("a stalled stream holds %d buffers, want 2", count)
		}
		stream.stall <- broken
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("the sink's error is %v", err)
		}
		if err := sink.Head(fetch.Head{}, ""); !errors.Is(err, broken) {
			t.Errorf("afterwards the sink's error is %v", err)
		}
		_ = sink.Buffer()
		if err := sink.close(); !errors.Is(err, broken) || len(stream.events) != 1 {
			t.Errorf("%d messages were sent, error %v", len(stream.events), err)
		}
		pool.settled()
	})
}

// TestStalledStreamsKeepLittle: a stream whose caller does not read keeps 256 KiB
// at most, and over HTTP/2 132 KiB, beside which there is the window of its
// stream. That holds however its messages are cut, and it goes on when the
// caller reads.
func TestStalledStreamsKeepLittle(t *testing.T) {
	for protocol, most := range map[string]int{"HTTP/1.1": 256 << 10, "HTTP/2": 132 << 10} {
		for _, size := range []int{1, 20, 1 << 10, 1<<10 + 1, 4 << 10, 4<<10 + 1, 32 << 10, 32<<10 + 1, dataBytes} {
			t.Run(fmt.Sprint(protocol, " ", size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { stallOften(t, protocol, size, most) })
			})
		}
	}
}

// stallOften sends messages of a size to a caller that reads only when nothing
// else goes on.
func stallOften(t *testing.T, protocol string, size, most int) {
	stream, pool := &stubStream{t: t, keep: true}, newLedger(t)
	sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
	const messages = 300
	ended := make(chan error)
	go func() {
		err := sink.Head(fetch.Head{Protocol: protocol, Status: 200}, "http://a/")
		for range messages {
			if err == nil {
				err = give(t, sink, pattern(size), size)
			}
		}
		ended <- err
	}()
	var err error
	for waiting := true; waiting; {
		synctest.Wait()
		select {
		case err = <-ended:
			waiting = false
		default:
			stream.read()
		}
	}
	if closed := sink.close(); err != nil || closed != nil {
		t.Fatal(err, closed)
	}
	stream.read()
	if pool.most > most {
		t.Errorf("messages of %d bytes keep %d bytes of buffers, want at most %d", size, pool.most, most)
	}
	if got := stream.events[1:]; len(got) != messages || !bytes.Equal(got[messages-1].message.GetData().GetData(), pattern(size)) {
		t.Errorf("%d messages came, want %d, the last one whole", len(got), messages)
	}
	pool.settled()
}

// TestStallEndsAStream: a caller that reads nothing is waited for as long as the
// stall allows, wherever the sink waits, and what is kept comes back with the
// stream.
func TestStallEndsAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, pool := &stubStream{t: t, keep: true}, newLedger(t)
		sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Minute)
		start := time.Now()
		var err error
		for err == nil {
			err = give(t, sink, pattern(dataBytes), dataBytes)
		}
		if err != errStalled || time.Since(start) != time.Minute || !sink.givenUp() {
			t.Errorf("it ended with %v after %v", err, time.Since(start))
		}
		if err := sink.close(); err != errStalled {
			t.Errorf("close gives %v", err)
		}
		stream.read()
		pool.settled()
	})
}

// TestStreamSinkWithoutAResponse: a sink that nothing was written to ends.
func TestStreamSinkWithoutAResponse(t *testing.T) {
	stream, pool := &stubStream{t: t}, newLedger(t)
	if err := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour).close(); err != nil || len(stream.events) > 0 {
		t.Errorf("%d messages were sent, error %v", len(stream.events), err)
	}
}

// TestStreamSinkGivesUpOnItsCaller: a caller that does not read holds up its
// fetch for as long as the fetch may last, and not longer.
func TestStreamSinkGivesUpOnItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, pool := &stubStream{t: t, stall: make(chan error)}, newLedger(t)
		sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
		sink.waitAtMost(time.Minute)
		start := time.Now()
		if err := give(t, sink, pattern(dataBytes), dataBytes); err != nil {
			t.Fatal(err)
		}
		if err := give(t, sink, pattern(dataBytes), dataBytes); err != errNotRead || time.Since(start) != time.Minute {
			t.Errorf("after %v the second message has the error %v", time.Since(start), err)
		}
		if err := sink.close(); err != errNotRead || time.Since(start) != time.Minute {
			t.Errorf("after %v close has the error %v", time.Since(start), err)
		}
		stream.stall <- errors.New("the stream ended with its handler")
		<-sink.done
		pool.settled()
	})
}
