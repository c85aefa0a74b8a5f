package server

import (
	"context"
	"io"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/limit"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// instant is a transport whose upstream answers at once.
type instant struct {
	head     fetch.Head
	body     []byte
	trailers []fetch.Field
	interim  []fetch.Head
	facts    fetch.Facts
	// atOnce is the most bytes of body that one read gives; 0 means all.
	atOnce int
	// err is how the hop fails, broken how the body does after its last byte.
	err, broken error
	// unknown tells that the length of the body is not known.
	unknown bool
	calls   int
}

func (t *instant) RoundTrip(_ context.Context, r *fetch.Request) (*fetch.Response, fetch.Facts, error) {
	t.calls++
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	for _, h := range t.interim {
		if r.Interim != nil {
			r.Interim(h)
		}
	}
	if t.err != nil {
		return nil, t.facts, t.err
	}
	length := int64(len(t.body))
	if t.unknown {
		length = -1
	}
	return &fetch.Response{
		Head: t.head, Length: length, Body: &instantBody{transport: t, rest: t.body},
		Trailers: func() []fetch.Field { return t.trailers },
	}, t.facts, nil
}

func (*instant) Forget(func(fetch.Route) bool) {}

func (*instant) Close(context.Context) error { return nil }

// instantBody is a body that is all there.
type instantBody struct {
	transport *instant
	rest      []byte
}

func (b *instantBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.transport.broken != nil {
			return 0, b.transport.broken
		}
		return 0, io.EOF
	}
	if most := b.transport.atOnce; most > 0 {
		p = p[:min(len(p), most)]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *instantBody) ReadChunk(get func() []byte) ([]byte, bool, error) {
	buffer := get()
	n, err := b.Read(buffer[:cap(buffer)])
	return buffer[:n], false, err
}

func (*instantBody) Close() error { return nil }
func (*instantBody) Cut()         {}

// serverOver is a server without rules over a transport of the test.
func serverOver(t testing.TB, transport fetch.Transport, limits fetch.Limits) *Server {
	t.Helper()
	rules, err := policy.Compile(nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return New(engine.New(transport, rules, limit.NewRetryBudget(0.2, 10)), Options{Policy: rules, Limits: limits, UserAgent: "fetchgate/test", Generation: 7})
}

// asked is the context of an RPC whose caller is known.
func asked(t testing.TB) context.Context {
	t.Helper()
	anyone, err := caller.New(caller.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := anyone.Authenticate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// ledger is a pool of buffers that knows which it has lent. It fails the test
// when one comes back twice, or was never lent, and spoils what comes back.
type ledger struct {
	t    testing.TB
	pool *bufferPool

	mu   sync.Mutex
	lent map[*[]byte]bool
	size int // bytes of the buffers that are lent
	most int // and the most that they were
}

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, pool: newBufferPool(buffers.sizes...), lent: map[*[]byte]bool{}}
}

func (l *ledger) Get(n int) *[]byte {
	b := l.pool.Get(n)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lent[b] = true
	l.size += cap(*b)
	l.most = max(l.most, l.size)
	return b
}

func (l *ledger) Put(b *[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lent[b] {
		l.t.Error("a buffer came back that is not lent")
		return
	}
	delete(l.lent, b)
	l.size -= cap(*b)
	clear((*b)[:cap(*b)])
	l.pool.Put(b)
}

// held is how many buffers are lent, and their bytes.
func (l *ledger) held() (count, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lent), l.size
}

// settled fails the test if a buffer has not come back.
func (l *ledger) settled() {
	l.t.Helper()
	if count, size := l.held(); count > 0 {
		l.t.Errorf("%d buffers of %d bytes did not come back", count, size)
	}
}

// pattern is n bytes that differ from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251 + 1)
	}
	return b
}

// typical are a request, a head and facts as they are in practice.
func typicalRequest() *fetchgatev1.FetchRequest {
	m := &fetchgatev1.FetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: "https://api.example.com/v1/things?page=2"},
		Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Total: durationpb.New(5e9)}},
	}
	for _, name := range []string{"Authorization", "Accept", "X-Request-Id", "If-None-Match"} {
		m.Request.Headers = append(m.Request.Headers, &fetchgatev1.HeaderField{Name: name, Value: []byte("a value of usual length")})
	}
	return m
}

func typicalTransport(bodyBytes int) *instant {
	t := &instant{
		head: fetch.Head{Protocol: "HTTP/1.1", Status: 200, Reason: []byte("OK")},
		body: make([]byte, bodyBytes),
		facts: fetch.Facts{
			Reused: true, Remote: netip.MustParseAddrPort("192.0.2.1:443"), Protocol: "HTTP/1.1",
			TLS: &fetch.TLSFacts{Version: 0x304, CipherSuite: 0x1301}, Sent: 300, Stage: fetch.StageHead,
		},
	}
	for _, name := range []string{"Date", "Content-Type", "Content-Length", "Cache-Control", "ETag", "Vary", "Server", "X-Request-Id"} {
		t.head.Fields = append(t.head.Fields, fetch.Field{Name: name, Value: []byte("a value of usual length")})
	}
	return t
}

// accounted is memory of a pool that counts against a server's limits. What was
// counted and not given back fails the test.
func accounted(t testing.TB, pool mem.BufferPool) *held {
	t.Helper()
	admission := limit.NewAdmission(fetch.DefaultLimits())
	lease, refused := admission.Admit("shop", limit.Peer{}, nil)
	if refused != nil {
		t.Fatal(refused)
	}
	t.Cleanup(func() {
		lease.Done()
		if live, bytes := admission.Load(); live != 0 || bytes != 0 {
			t.Errorf("%d fetches and %d bytes are still counted", live, bytes)
		}
	})
	return newHeld(pool, lease)
}
