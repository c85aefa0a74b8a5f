package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func fieldsNamed(names ...string) []*fetchgatev1.HeaderField {
	fields := make([]*fetchgatev1.HeaderField, len(names))
	for i, name := range names {
		fields[i] = &fetchgatev1.HeaderField{Name: name, Value: []byte("hunter2")}
	}
	return fields
}

// expect asks for 100 Continue.
func expect(o *fetchgatev1.FetchOptions) { o.Protocol.ExpectContinue = proto.Bool(true) }

// TestFramingPlans: what of a request goes beside or behind its body, and what
// of the body is told of.
func TestFramingPlans(t *testing.T) {
	type request = fetchgatev1.HttpRequest
	type options = fetchgatev1.FetchOptions
	for name, c := range map[string]struct {
		shape shape
		alter func(*request, *options)
		want  func(*fetch.Plan) bool
	}{
		"neither": {unary, func(r *request, _ *options) { r.Body = rawBody(1) }, func(p *fetch.Plan) bool {
			return p.Trailers == nil && !p.ExpectContinue && !p.Response.KeepChunks
		}},
		"trailers": {unary, func(r *request, _ *options) { r.Body, r.Trailers = rawBody(1), fieldsNamed("b", "A", "b") }, func(p *fetch.Plan) bool {
			return len(p.Trailers) == 3 && p.Trailers[1].Name == "A" && string(p.Trailers[1].Value) == "hunter2"
		}},
		"trailers of an empty body": {unary, func(r *request, _ *options) { r.Body, r.Trailers = rawBody(0), fieldsNamed("A") }, func(p *fetch.Plan) bool {
			return len(p.Trailers) == 1 && p.Source != nil
		}},
		"as many fields as there may be": {unary, func(r *request, _ *options) {
			r.Body, r.Headers, r.Trailers = rawBody(1), headersNamed(60), headersNamed(40)
		}, func(p *fetch.Plan) bool { return len(p.Trailers) == 40 && len(p.Fields) == 63 }},
		"an expectation":       {unary, func(r *request, o *options) { r.Body = rawBody(1); expect(o) }, func(p *fetch.Plan) bool { return p.ExpectContinue }},
		"none, said so":        {unary, func(_ *request, o *options) { o.Protocol.ExpectContinue = proto.Bool(false) }, func(p *fetch.Plan) bool { return !p.ExpectContinue }},
		"chunks of a stream":   {streams, func(_ *request, o *options) { o.Response.ChunkBoundaries = proto.Bool(true) }, func(p *fetch.Plan) bool { return p.Response.KeepChunks && p.Response.Decode }},
		"no chunks, said so":   {unary, func(_ *request, o *options) { o.Response.ChunkBoundaries = proto.Bool(false) }, func(p *fetch.Plan) bool { return !p.Response.KeepChunks }},
		"an empty body is one": {unary, func(r *request, _ *options) { r.Body = formBody(""); r.Body.GetForm().Fields = nil }, func(p *fetch.Plan) bool { return p.Source != nil && p.Source.Length() == 0 }},
	} {
		plan, violations := planned(t, c.shape, c.alter)
		if violations != nil || !c.want(plan) {
			t.Errorf("%s: the plan is %+v, violations %v", name, plan, violations)
		}
	}
}

// TestFramingRefuses: what cannot go beside or behind a body is named.
func TestFramingRefuses(t *testing.T) {
	type request = fetchgatev1.HttpRequest
	type options = fetchgatev1.FetchOptions
	trailers := func(names ...string) func(*request, *options) {
		return func(r *request, _ *options) { r.Body, r.Trailers = rawBody(1), fieldsNamed(names...) }
	}
	for name, c := range map[string]struct {
		alter func(*request, *options)
		path  string
	}{
		"trailers without a body":      {func(r *request, _ *options) { r.Trailers = fieldsNamed("A") }, "request.trailers"},
		"a trailer that frames":        {trailers("A", "content-length"), "request.trailers[1]"},
		"a trailer that routes":        {trailers("Host"), "request.trailers[0]"},
		"a trailer that authenticates": {trailers("A", "B", "AUTHORIZATION"), "request.trailers[2]"},
		"a trailer with a condition":   {trailers("If-None-Match"), "request.trailers[0]"},
		"a trailer's name":             {trailers("a_b"), "request.trailers[0]"},
		"one trailer too many": {func(r *request, _ *options) {
			r.Body, r.Headers, r.Trailers = rawBody(1), headersNamed(60), headersNamed(41)
		}, "request.trailers[40]"},
		"too large with the headers": {func(r *request, _ *options) {
			r.Body, r.Trailers = rawBody(1), []*fetchgatev1.HeaderField{{Name: "B", Value: make([]byte, 40<<10)}}
			for i := range r.Trailers[0].Value {
				r.Trailers[0].Value[i] = 'b'
			}
			r.Headers = r.Trailers
		}, "request.trailers[0]"},
		"an expectation without a body":    {func(_ *request, o *options) { expect(o) }, "options.protocol.expect_continue"},
		"an expectation, an empty body":    {func(r *request, o *options) { r.Body = rawBody(0); expect(o) }, "options.protocol.expect_continue"},
		"an expectation, a wrong body":     {func(r *request, o *options) { r.Body = jsonBody("{"); expect(o) }, "request.body.json"},
		"a timeout of no expectation":      {func(r *request, o *options) { r.Body = rawBody(1); o.Protocol.ContinueTimeout = durationpb.New(1) }, "options.protocol.continue_timeout"},
		"chunks of an answer in one piece": {func(_ *request, o *options) { o.Response.ChunkBoundaries = proto.Bool(true) }, "options.response.chunk_boundaries"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, violations := planned(t, unary, c.alter)
			if plan != nil {
				t.Fatalf("the plan is %+v", plan)
			}
			wantRefused(t, violations, c.path, "FIELD_INVALID")
			wantNoSecret(t, violations)
		})
	}
}

func wantNoSecret(t *testing.T, violations []violation) {
	t.Helper()
	for _, v := range violations {
		if text := fmt.Sprint(v); strings.Contains(text, "hunter2") {
			t.Errorf("a value is shown: %s", text)
		}
	}
}

// TestStreamSinkTellsOfChunks: where an HTTP chunk ends, also if its bytes have
// gone out before.
func TestStreamSinkTellsOfChunks(t *testing.T) {
	stream, pool := &stubStream{t: t}, newLedger(t)
	sink := newStreamSink(t.Context(), stream, accounted(t, pool), time.Hour)
	pieces := []struct {
		bytes string
		ends  bool
	}{{"one", true}, {"t", false}, {"wo", true}, {"three", false}, {"", true}, {strings.Repeat("x", dataBytes), true}, {"end", false}}
	for _, piece := range pieces {
		if err := sink.Data(append(sink.Buffer(), piece.bytes...), piece.ends); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.close(); err != nil {
		t.Fatal(err)
	}
	pool.settled()
	for i, e := range stream.events {
		if d := e.message.GetData(); string(d.GetData()) != pieces[i].bytes || d.GetEndOfHttpChunk() != pieces[i].ends {
			t.Errorf("piece %d is %d bytes, end %v", i, len(d.GetData()), d.GetEndOfHttpChunk())
		}
	}
	if len(stream.events) != len(pieces) {
		t.Errorf("%d pieces came of %d", len(stream.events), len(pieces))
	}
}
