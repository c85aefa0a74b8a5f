package server

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// ending is a recorder that looks around while a record waits.
type ending struct{ look func() }

func (*ending) Begin(string) error                   { return nil }
func (e *ending) End(context.Context, *fetch.Report) { e.look() }

// TestRequestsOfRecordsThatWait: while a record waits for room, its request counts
// against its caller, or is not there.
func TestRequestsOfRecordsThatWait(t *testing.T) {
	for name, ctx := range map[string]context.Context{"a caller": asked(t), "nobody": t.Context()} {
		s, m, looked := serverOver(t, typicalTransport(1), fetch.DefaultLimits()), typicalRequest(), false
		m.Request.Method = "POST"
		m.Request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: make([]byte, 1<<20)}}
		s.recorder = &ending{look: func() {
			looked = true
			if _, held := s.admission.Load(); held < int64(proto.Size(m)) {
				t.Errorf("%s: %d bytes are held for a request of %d", name, held, proto.Size(m))
			}
		}}
		_, _ = s.fetch(ctx, m) // what it says is not of interest
		if _, held := s.admission.Load(); held >= 1<<20 || !looked {
			t.Errorf("%s: %d bytes are held at the end, looked: %v", name, held, looked)
		}
	}
}
