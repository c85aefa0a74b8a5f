package server

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// bodySizes are lengths of bodies around those where a length takes one more
// byte, and where a buffer is pooled.
var bodySizes = []int{0, 1, 2, 100, 127, 128, 1023, 1024, 1025, 16383, 16384, 3 << 20}

// responses are of every shape that a response has without its body.
func responses() map[string]*fetchgatev1.HttpResponse {
	head := headMessage(fetch.Head{
		Protocol: "HTTP/1.1", Status: 200, Reason: []byte("Fin\xe9"),
		Fields: []fetch.Field{{Name: "X-A", Value: []byte("\xff")}, {Name: "x-a"}, {Name: "X-A", Value: []byte("1")}},
	}, "https://example.com/path?query#fragment")
	large := &fetchgatev1.HttpHead{Headers: fieldMessages([]fetch.Field{{Name: "X", Value: pattern(64 << 10)}})}
	return map[string]*fetchgatev1.HttpResponse{
		"nothing":    {},
		"empty head": {Head: &fetchgatev1.HttpHead{}},
		"head":       {Head: head},
		"large head": {Head: large},
		"all": {
			Head: head, Trailers: fieldMessages([]fetch.Field{{Name: "Checksum", Value: []byte("1")}}),
			History: []*fetchgatev1.HttpHead{large, {}}, Interim: []*fetchgatev1.HttpHead{head},
			Cookies: []*fetchgatev1.Cookie{{Name: []byte("a"), ExpireTime: &timestamppb.Timestamp{Seconds: 1}}}, Charset: "utf-8",
		},
	}
}

func reports() map[string]*fetchgatev1.FetchReport {
	return map[string]*fetchgatev1.FetchReport{
		"no report":    nil,
		"empty report": {},
		"full report":  reportMessage(fullReport(), true),
	}
}

// encoded encodes v with Codec and gives the memory back.
func encoded(t testing.TB, v any) []byte {
	t.Helper()
	wire, err := NewCodec().Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Free()
	return wire.Materialize()
}

// checkWire compares wire with the encoding of the whole message. Where the body
// is empty, only the meaning is the same.
func checkWire(t *testing.T, wire []byte, whole, decoded proto.Message, bodyLen int) {
	t.Helper()
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	if bodyLen > 0 && !bytes.Equal(wire, want) {
		t.Errorf("%d bytes differ from the %d that protobuf writes", len(wire), len(want))
	}
	if err := proto.Unmarshal(wire, decoded); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(decoded, whole) {
		t.Error("the message is another one after it was sent")
	}
}

func TestCodecWritesFetchResponses(t *testing.T) {
	for response, r := range responses() {
		for report, m := range reports() {
			for _, n := range bodySizes {
				if n > 1<<20 && (response != "all" || report != "full report") {
					continue // it takes its time
				}
				pool := newLedger(t)
				b := pool.Get(n)
				copy(*b, pattern(n))
				answer := &fetchgatev1.FetchResponse{Report: m, Outcome: &fetchgatev1.FetchResponse_Response{Response: r}}
				wire := encoded(t, &fetchReply{FetchResponse: answer, body: mem.NewBuffer(b, pool)})
				pool.settled()

				whole := proto.CloneOf(answer)
				whole.GetResponse().Body = pattern(n)
				t.Run(response+", "+report, func(t *testing.T) { checkWire(t, wire, whole, &fetchgatev1.FetchResponse{}, n) })
			}
		}
	}
}

// TestCodecWritesWhatHasNoBody: an answer without a body, or with a failure, is
// written as it is.
func TestCodecWritesWhatHasNoBody(t *testing.T) {
	for name, answer := range map[string]*fetchgatev1.FetchResponse{
		"empty":    {},
		"response": {Outcome: &fetchgatev1.FetchResponse_Response{Response: responses()["all"]}},
		"failure": {Report: &fetchgatev1.FetchReport{AttemptCount: 1}, Outcome: &fetchgatev1.FetchResponse_Failure{
			Failure: &fetchgatev1.Failure{Message: "x", Response: &fetchgatev1.HttpResponse{Body: []byte("prefix")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			checkWire(t, encoded(t, &fetchReply{FetchResponse: answer}), answer, &fetchgatev1.FetchResponse{}, 1)
			checkWire(t, encoded(t, answer), answer, &fetchgatev1.FetchResponse{}, 1)
		})
	}
}

func TestCodecWritesData(t *testing.T) {
	for name, data := range map[string]*fetchgatev1.Data{
		"first": {},
		"later": {OffsetBytes: 1 << 40, EndOfHttpChunk: true, EndOfLine: true},
	} {
		for _, n := range bodySizes {
			t.Run(name, func(t *testing.T) {
				pool := newLedger(t)
				b := pool.Get(n)
				copy(*b, pattern(n))
				event := &fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{Data: data}}
				wire := encoded(t, &dataReply{StreamFetchResponse: event, body: mem.NewBuffer(b, pool)})
				pool.settled()

				whole := proto.CloneOf(event)
				whole.GetData().Data = pattern(n)
				checkWire(t, wire, whole, &fetchgatev1.StreamFetchResponse{}, n)
			})
		}
	}
}

// TestCodecDoesNotCopyBodies: the body goes out in the buffer that it came in.
func TestCodecDoesNotCopyBodies(t *testing.T) {
	pool := newLedger(t)
	for _, reply := range []func(mem.Buffer) any{
		func(b mem.Buffer) any {
			return &fetchReply{body: b, FetchResponse: &fetchgatev1.FetchResponse{
				Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{}}}}
		},
		func(b mem.Buffer) any {
			return &dataReply{body: b, StreamFetchResponse: &fetchgatev1.StreamFetchResponse{
				Event: &fetchgatev1.StreamFetchResponse_Data{Data: &fetchgatev1.Data{}}}}
		},
	} {
		b := pool.Get(dataBytes)
		wire, err := NewCodec().Marshal(reply(mem.NewBuffer(b, pool)))
		if err != nil {
			t.Fatal(err)
		}
		if last := wire[len(wire)-1].ReadOnlyData(); &last[0] != &(*b)[0] {
			t.Error("the body was copied")
		}
		if count, _ := pool.held(); count != 1 {
			t.Error("the buffer came back before it was sent")
		}
		wire.Free()
		pool.settled()
	}
}

// TestCodecFreesBodiesThatItCannotSend: what is in front of a body can fail to
// be encoded, if only by a fault of ours.
func TestCodecFreesBodiesThatItCannotSend(t *testing.T) {
	const notUTF8 = "\xff"
	head := &fetchgatev1.HttpHead{Url: notUTF8}
	pool := newLedger(t)
	body := func() mem.Buffer { return mem.NewBuffer(pool.Get(dataBytes), pool) }
	for _, reply := range []any{
		&fetchReply{body: body(), FetchResponse: &fetchgatev1.FetchResponse{
			Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{Head: head}}}},
		&fetchReply{body: body(), FetchResponse: &fetchgatev1.FetchResponse{
			Report:  &fetchgatev1.FetchReport{Rule: notUTF8},
			Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{}}}},
	} {
		if wire, err := NewCodec().Marshal(reply); err == nil {
			t.Errorf("%d bytes were written of a string that is not UTF-8", wire.Len())
		}
	}
	pool.settled()
}

// FuzzMarshalUpstreamBytes: no byte that an upstream writes, wherever it gets
// to, fails the encoding of an answer.
func FuzzMarshalUpstreamBytes(f *testing.F) {
	f.Add([]byte("OK"), "Content-Type", []byte("text/plain"), "it broke", []byte("body"))
	f.Add([]byte("Fin\xe9"), "X-\xff", []byte("\xff\xfe"), "the certificate of \xc3", []byte{})
	f.Add([]byte{}, "\xed\xa0\x80", []byte{0, '\\', '\n'}, "\xf4\x90\x80\x80", []byte("\xff"))
	f.Fuzz(func(t *testing.T, reason []byte, name string, value []byte, message string, b []byte) {
		fields := []fetch.Field{{Name: name, Value: value}, {Name: string(value), Value: []byte(name)}}
		head := headMessage(fetch.Head{Protocol: "HTTP/1.1", Status: 200, Reason: reason, Fields: fields}, "https://example.com/")
		response := &fetchgatev1.HttpResponse{
			Head: head, Trailers: fieldMessages(fields),
			History: []*fetchgatev1.HttpHead{head}, Interim: []*fetchgatev1.HttpHead{head},
		}
		failure := fetch.Fail(fetch.ReasonTLSVerify, message, nil)
		failure.TLS = &fetch.TLSFault{Subject: message, Issuer: name, Names: []string{name, message, string(value)}}
		report := fullReport()
		report.Attempts[0].Failure = failure
		report.Trailers = fields

		for _, answer := range []proto.Message{
			&fetchgatev1.FetchResponse{
				Report:  reportMessage(report, true),
				Outcome: &fetchgatev1.FetchResponse_Failure{Failure: failureMessage(failure, response, 1)},
			},
			&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Summary{
				Summary: &fetchgatev1.StreamSummary{Report: reportMessage(report, true), Trailers: fieldMessages(fields)}}},
			&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Head{Head: head}},
		} {
			decoded := answer.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(encoded(t, answer), decoded); err != nil || !proto.Equal(answer, decoded) {
				t.Errorf("%T is another one after it was sent: %v", answer, err)
			}
		}
		pool := newLedger(t)
		var whole fetchgatev1.FetchResponse
		wire := encoded(t, &fetchReply{body: mem.Copy(b, pool), FetchResponse: &fetchgatev1.FetchResponse{
			Report: reportMessage(report, true), Outcome: &fetchgatev1.FetchResponse_Response{Response: response}}})
		if err := proto.Unmarshal(wire, &whole); err != nil || !bytes.Equal(whole.GetResponse().GetBody(), b) {
			t.Errorf("the body is another one after it was sent: %v", err)
		}
		if got := whole.GetResponse().GetHead(); !bytes.Equal(got.GetReason(), reason) || !bytes.Equal(got.GetHeaders()[0].GetValue(), value) {
			t.Errorf("the bytes of the head have changed: %v", got)
		}
		pool.settled()
	})
}

// fullReport is a report with nothing left out, in which no two numbers are the
// same.
func fullReport() *fetch.Report {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	return &fetch.Report{
		ID: "0fetch", Suppressed: fetch.SuppressedBudget, HistoryCut: 6,
		RPC: "Fetch", Caller: fetch.Caller{Name: "shop"}, Method: "GET",
		Destination: fetch.Destination{Origin: fetch.Origin{Scheme: "https", Host: "example.com", Port: 443}, Target: "/%20", Encoded: true},
		Start:       time.Unix(1, 0), Total: ms(1),
		WireBytes: 2, BodyBytes: 3, RequestBytes: 4,
		Codings: []string{"gzip", "br"}, Rule: "partner", Generation: 5, Clamped: []string{"options.timeouts.total"},
		Timeouts: fetch.Timeouts{
			Pool: ms(10), DNS: ms(11), Connect: ms(12), TLS: ms(13), Head: ms(14), Idle: ms(15), Write: ms(16), Attempt: ms(17), Total: ms(18),
		},
		Response:   fetch.ResponsePlan{MaxHeadBytes: 20, MaxFields: 21, MaxBodyBytes: 22},
		Throughput: fetch.Throughput{Bytes: 23, Over: ms(24)}, MaxAttempts: 3, MaxRedirects: 10,
		Attempts: []fetch.Attempt{{
			Number: 30, Start: time.Unix(31, 0), Total: ms(32), Wait: ms(33),
			Failure: fetch.Fail(fetch.ReasonHeadTimeout, "no head came", nil),
			Hops: []fetch.Hop{{
				Destination: fetch.Destination{Origin: fetch.Origin{Scheme: "https", Host: "example.com", Port: 443}, Target: "/path?key=hunter2"},
				Method:      "PUT", Rule: "hop's", Status: 40, Facts: fullFacts(),
				WouldDeny: &fetch.Denied{
					Reason: fetch.ReasonDestinationDenied, Rule: "hop's", Message: "no rule allows PUT https://example.com", Hint: "Ask team-a.", Audit: "hush 10.9.8.7",
				},
				Credentials: []fetch.CredentialUse{
					{Kind: "api_key", Dropped: true}, {Name: "hush", Kind: "basic", Dropped: true, ByRule: true, Foreign: true}, {Name: "partner", Kind: "bearer", Version: 2},
				},
			}},
		}},
	}
}

func fullFacts() fetch.Facts {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	return fetch.Facts{
		Dials: 50, Reused: true, Protocol: "HTTP/2", Stale: 51, Remote: typicalTransport(0).facts.Remote,
		TLS: &fetch.TLSFacts{Version: 0x303, CipherSuite: 0x1302, PeerSPKI: [32]byte{1}, NotAfter: time.Unix(52, 0), Resumed: true},
		Times: fetch.Timings{
			Pool: ms(60), DNS: ms(61), Connect: ms(62), TLS: ms(63), Send: ms(64), FirstByte: ms(65), Total: ms(66),
		},
	}
}
