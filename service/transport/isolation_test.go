package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// isolationSeed makes the plans and canaries of TestIsolation.
const isolationSeed = 20

// TestIsolation sends requests over few connections to an upstream that spoils
// them. Each request has a canary of its own, of which alone all that the
// upstream answers consists. No caller may get a byte of another's, nor may the
// upstream get one in a request.
//
// Most callers share a route, and may fail when an upstream ends a connection
// under them. The others have a route each, so that all that they see is
// certain: they must get just what was planned, and find out before they use it
// that a connection was spoilt while it was idle.
func TestIsolation(t *testing.T) {
	many := 5_000
	if !testing.Short() {
		many = 1_000_000
	}
	for _, c := range []struct {
		p     protocol
		share int // of 100 exchanges
	}{{overH1, 80}, {overTLS, 20}} {
		t.Run(c.p.name, func(t *testing.T) { isolate(t, c.p, many*c.share/100) })
	}
}

func isolate(t *testing.T, p protocol, many int) {
	const shared, alone = 16, 4
	s := newSpoilt(t, p)
	limits := fetch.DefaultLimits()
	limits.MaxConnectionsPerRoute = 4
	// Nothing but a spoilt connection is to end one.
	limits.IdleTimeout, limits.ConnectionLifetime = time.Hour, time.Hour
	d := &noting{Dialer: dial.New(dial.Options{Resolver: hosts{}})}
	tr := transport.New(transport.Options{Dialer: d, Roots: ca().pool, Limits: limits})
	t.Cleanup(func() { check(tr.Close(context.Background())) })

	var all sync.WaitGroup
	for i := range shared + alone {
		c := &canaryCaller{t: t, tr: tr, s: s, d: d, p: p, solo: i >= shared, name: fmt.Sprint("all of ", p.name)}
		if c.solo {
			c.name = fmt.Sprint("caller ", i)
		}
		all.Go(func() {
			for n := s.next.Add(1); n <= int64(many) && s.wrong.Load() < 20; n = s.next.Add(1) {
				c.exchange(uint64(n))
			}
		})
	}
	all.Wait()
	whole, failed, reused, stale := s.whole.Load(), s.failed.Load(), s.reused.Load(), s.stale.Load()
	t.Logf("%d exchanges: %d whole, %d failed, %d on a connection that was used, %d connections found dead, %d dialed",
		many, whole, failed, reused, stale, s.dialed.Load())
	if whole < int64(many)*7/10 || reused < int64(many)/2 || stale == 0 || failed == 0 {
		t.Error("that is not the mixture that was planned")
	}
}

// canaryCaller sends one request after the other.
type canaryCaller struct {
	t    *testing.T
	tr   *transport.Transport
	s    *spoilt
	d    *noting
	p    protocol
	name string // of the route
	// solo tells that nobody else uses the route.
	solo bool
	// Of the exchange before: what was planned, and that its body was read to
	// the end.
	before   *plan
	toTheEnd bool
}

func (c *canaryCaller) exchange(n uint64) {
	p := newPlan(n, c.solo, c.p.secure)
	cue := make(chan struct{})
	c.s.cues.Store(n, cue)
	defer close(cue)
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	if p.caller == cancelsSoon {
		defer time.AfterFunc(p.after, cancel).Stop()
	}
	resp, facts, err := c.tr.RoundTrip(ctx, c.request(p))
	c.count(facts)
	c.expect(p, facts)
	if err != nil {
		c.s.failed.Add(1)
		if c.solo && p.caller != cancelsSoon {
			c.s.complain(c.t, "%+v: %v (cause %v)", p, err, errors.Unwrap(err))
		}
		return
	}
	c.head(p, resp.Head)
	got, err := c.body(p, resp, cancel)
	resp.Body.Close()
	c.judge(p, resp, got, err)
	if c.solo && p.late != lateNothing {
		cue <- struct{}{}
		c.d.awaitStir(c.name)
	}
}

func (c *canaryCaller) request(p *plan) *fetch.Request {
	r := get(c.t, c.s.url, c.p)
	path := "/shared/"
	if p.solo {
		path = "/solo/"
	}
	r.Method, r.Target, r.Route.Key = p.method, strconv.AppendUint([]byte(path), p.n, 10), c.name
	r.Fields = []fetch.Field{{Name: "X-Canary", Value: []byte(p.canary)}}
	r.KeepChunks = p.keep
	r.Interim = func(h fetch.Head) { c.head(p, h) }
	if p.upload > 0 {
		r.Framing, r.Length, r.ExpectContinue = fetch.FramingLength, int64(p.upload), p.expects
		b := &canaryBody{canary: p.canary, left: p.upload, piece: p.uploadPiece, stuck: p.stuck, closed: make(chan struct{})}
		r.Body = b
		switch {
		case p.uploadChunked:
			r.Framing, r.Length = fetch.FramingChunked, 0
		case !p.stuck && p.uploadPiece == p.upload:
			r.Body = sized{b}
		}
	}
	return r
}

func (c *canaryCaller) count(facts fetch.Facts) {
	c.s.stale.Add(int64(facts.Stale))
	c.s.dialed.Add(int64(facts.Dials))
	if facts.Reused {
		c.s.reused.Add(1)
	}
}

// expect compares what became of the connection with what the exchange before
// did to it.
func (c *canaryCaller) expect(p *plan, facts fetch.Facts) {
	before := c.before
	c.before = p
	toTheEnd := c.toTheEnd
	c.toTheEnd = false
	if !c.solo || before == nil || before.caller == cancelsSoon || p.caller == cancelsSoon {
		return
	}
	stale := 0
	if before.late != lateNothing {
		stale = 1
	}
	if facts.Reused == (before.spoils() || !toTheEnd) || facts.Stale != stale && !before.mayLookDead() {
		c.s.complain(c.t, "after %+v: reused %v, %d found dead, want %d", before, facts.Reused, facts.Stale, stale)
	}
}

// head checks a head: besides what frames the body, it has canaries alone.
func (c *canaryCaller) head(p *plan, h fetch.Head) {
	if h.Status != p.status && h.Status != 103 && h.Status != 100 || !isOf(p.canary, 0, h.Reason) {
		c.s.complain(c.t, "%+v got status %d %q", p, h.Status, h.Reason)
	}
	c.fields(p, h.Fields)
	if got := field(h.Fields, "X-Canary"); got != p.canary {
		c.s.complain(c.t, "%+v got X-Canary %q", p, got)
	}
}

func (c *canaryCaller) fields(p *plan, fields []fetch.Field) {
	for _, f := range fields {
		switch f.Name {
		case "X-Canary", "X-Fill", "X-Trailer":
			if !isOf(p.canary, 0, f.Value) || len(f.Value)%canarySize != 0 {
				c.s.complain(c.t, "%+v got %s: %q", p, f.Name, f.Value)
			}
		case "Content-Length":
			if string(f.Value) != strconv.Itoa(p.size) {
				c.s.complain(c.t, "%+v got %s: %q", p, f.Name, f.Value)
			}
		case "Transfer-Encoding", "Connection":
		default:
			c.s.complain(c.t, "%+v got a field %q", p, f.Name)
		}
	}
}

// body reads as much as is planned, and checks all of it.
func (c *canaryCaller) body(p *plan, resp *fetch.Response, cancel func()) (got int, err error) {
	switch p.caller {
	case closesAtOnce:
		return 0, nil
	case cancelsLast:
		cancel()
	}
	lent := make([]byte, p.buffer)
	for err == nil && (p.caller != closesHalfway || got < p.size/2) {
		var b []byte
		if p.keep {
			b, _, err = resp.Body.ReadChunk(func() []byte { return lent[:0] })
		} else {
			var n int
			n, err = resp.Body.Read(lent)
			b = lent[:n]
		}
		if !isOf(p.canary, got, b) {
			c.s.complain(c.t, "%+v got %.80q at byte %d", p, b, got)
		}
		got += len(b)
	}
	return got, err
}

// judge says whether an exchange that got a head went as planned.
func (c *canaryCaller) judge(p *plan, resp *fetch.Response, got int, err error) {
	switch {
	case p.caller == closesAtOnce, p.caller == closesHalfway && err == nil:
		return
	case err != io.EOF:
		c.s.failed.Add(1)
		if c.solo && !p.cut && p.caller != cancelsSoon {
			c.s.complain(c.t, "%+v: %v after %d bytes (cause %v)", p, err, got, errors.Unwrap(err))
		}
		return
	}
	c.s.whole.Add(1)
	c.toTheEnd = true
	if p.cut || got != p.bodySize() {
		c.s.complain(c.t, "%+v got %d bytes", p, got)
	}
	if resp.Trailers != nil {
		trailers := resp.Trailers()
		c.fields(p, trailers)
		if len(trailers) != p.trailers {
			c.s.complain(c.t, "%+v got %d trailers", p, len(trailers))
		}
	}
}

// noting notes the last connection of each route.
type noting struct {
	*dial.Dialer
	last sync.Map // of net.Conn, by the route's key
}

func (d *noting) Dial(ctx context.Context, host string, port uint16, route fetch.Route, timeouts fetch.Timeouts, budget int) (dial.Result, error) {
	result, err := d.Dialer.Dial(ctx, host, port, route, timeouts, budget)
	if err == nil {
		d.last.Store(route.Key, result.Conn)
	}
	return result, err
}

// awaitStir returns once something has come on the route's connection: what was
// written on the other side may be on its way a moment longer.
func (d *noting) awaitStir(key string) { d.await(key, true) }

// awaitCalm returns once all that came was read.
func (d *noting) awaitCalm(key string) { d.await(key, false) }

func (d *noting) await(key string, stirred bool) {
	c, _ := d.last.Load(key)
	raw, err := c.(syscall.Conn).SyscallConn()
	check(err)
	for is := !stirred; is != stirred; runtime.Gosched() {
		var one [1]byte
		if raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			is = err != syscall.EAGAIN && err != syscall.EINTR
		}) != nil {
			return // it is closed
		}
	}
}

// canaryBody is an upload of canaries, in pieces.
type canaryBody struct {
	canary      string
	piece, left int
	at          int
	stuck       bool // the last piece does not come before Close
	closed      chan struct{}
	once        sync.Once
}

func (b *canaryBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.piece, b.left)
	if b.stuck && n == b.left {
		<-b.closed
		return 0, errors.New("read of a closed body")
	}
	fillWith(p[:n], b.canary, b.at)
	runtime.Gosched() // a buffer that others have too is overwritten now
	b.at += n
	b.left -= n
	return n, nil
}

func (b *canaryBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// sized is one that lies in memory.
type sized struct{ *canaryBody }

func (s sized) Len() int { return s.left }

const canarySize = 16

// canaryOf is the canary of a request: no two are alike.
func canaryOf(n uint64) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
	r := rand.NewPCG(isolationSeed, n)
	var b [canarySize]byte
	for i := 0; i < len(b); {
		for x := r.Uint64(); i%8 > 0 || x != 0; x >>= 8 {
			b[i] = alphabet[x&63]
			if i++; i%8 == 0 {
				break
			}
		}
	}
	return string(b[:])
}

// isOf tells whether b stands at an offset of a run of the canary.
func isOf(canary string, offset int, b []byte) bool {
	for i := range min(len(b), canarySize) {
		if b[i] != canary[(offset+i)%canarySize] {
			return false
		}
	}
	return len(b) <= canarySize || bytes.Equal(b[canarySize:], b[:len(b)-canarySize])
}

// fillWith fills b with what stands at an offset of a run of the canary.
func fillWith(b []byte, canary string, offset int) {
	n := copy(b, canary[offset%canarySize:])
	if n < len(b) {
		n += copy(b[n:], canary[:offset%canarySize])
	}
	for ; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// How the body of an answer is framed.
const (
	byLength = iota
	byChunks
	byEnd
	withoutBody // 204, 304 or the answer to a HEAD
)

// What a caller is like.
const (
	patient = iota
	closesAtOnce
	closesHalfway
	cancelsSoon // at any time
	cancelsLast // when all came and is not read yet
)

// What comes behind an answer, with its last byte.
const (
	nothingBehind = iota
	fakeBehind    // another answer
	bytesBehind
	chunkBehind // more of a chunked body
)

// What comes when the answer was read, which only a solo caller can tell.
const (
	lateNothing = iota
	lateFake
	lateByte
	lateFIN
	lateRST
	lateNotify // over TLS
	lateAlert  // over TLS, and no TLS
)

// plan is all that is to happen in an exchange. Caller and upstream make the
// same one.
type plan struct {
	n      uint64
	solo   bool
	canary string

	method                 string
	upload, uploadPiece    int
	uploadChunked, stuck   bool
	expects                bool // 100 Continue, which does not come if the answer is early
	status, framing, size  int
	fill, interims, chunks int
	trailers, pieces       int
	early                  bool // before the upload was read
	cut                    bool // the body breaks off
	apart                  bool // what is behind has a TLS record of its own
	behind, late           int
	reset, closes          bool // the connection ends with the answer

	caller, buffer int
	keep           bool // KeepChunks
	after          time.Duration
}

func newPlan(n uint64, solo, secure bool) *plan {
	r := rand.New(rand.NewPCG(isolationSeed+1, n))
	one := func(in int) bool { return r.IntN(in) == 0 }
	p := &plan{n: n, solo: solo, canary: canaryOf(n), method: "GET", status: 200, pieces: 1, buffer: 1 << (4 + r.IntN(10))}
	p.framing, p.size = byLength, r.IntN(20*canarySize)
	switch {
	case one(50):
		p.size = 4096 + r.IntN(30_000)
		p.buffer = max(p.buffer, 512)
	case one(10):
		p.size = r.IntN(4)
	}
	if one(3) {
		p.framing, p.chunks, p.keep = byChunks, 1+r.IntN(5), one(2)
		if one(3) {
			p.trailers = 1 + r.IntN(3)
		}
	}
	if one(10) {
		p.framing, p.size = withoutBody, 100
		if p.status = []int{200, 204, 304}[r.IntN(3)]; p.status == 200 {
			p.method = "HEAD"
		}
	}
	if one(4) {
		p.fill = r.IntN(40)
	}
	if one(10) {
		p.interims = 1 + r.IntN(3)
	}
	if one(8) {
		p.pieces = 2 + r.IntN(6)
	}
	if p.method == "GET" && one(8) {
		p.planUpload(r)
	}
	trouble := 8
	if secure {
		trouble = 16
	}
	if one(trouble) {
		p.planTrouble(r, secure)
	}
	return p
}

func (p *plan) planUpload(r *rand.Rand) {
	p.method, p.upload, p.uploadChunked = "POST", 1+r.IntN(2000), r.IntN(2) == 0
	p.expects = r.IntN(4) == 0
	if r.IntN(20) == 0 {
		p.upload = r.IntN(100_000)
	}
	if p.uploadPiece = p.upload; r.IntN(2) == 0 {
		p.uploadPiece = max(1, p.upload/3)
	}
}

// planTrouble lets something go wrong.
func (p *plan) planTrouble(r *rand.Rand, secure bool) {
	small := p.framing == withoutBody || p.size+p.fill*canarySize < 2000
	switch kind := r.IntN(12); {
	case kind < 3:
		p.behind, p.apart = fakeBehind+r.IntN(3), r.IntN(2) == 0
		if p.behind == chunkBehind && p.framing != byChunks {
			p.behind = bytesBehind
		}
	case kind == 3 && p.framing != withoutBody:
		p.cut, p.size, p.reset = true, max(1, p.size), r.IntN(2) == 0
	case kind == 4:
		p.closes, p.reset = !p.solo, r.IntN(2) == 0
	case kind == 5 && p.framing != withoutBody:
		p.framing, p.trailers, p.keep = byEnd, 0, false
	case kind == 6 && p.upload > 0:
		p.early = !p.solo || p.expects
		p.stuck = p.early && !p.expects && r.IntN(2) == 0
		if p.framing != withoutBody {
			p.status = []int{200, 413}[r.IntN(2)]
		}
	case kind == 7 && p.framing != withoutBody && p.size > 1:
		p.caller = closesAtOnce + r.IntN(2)
	case kind == 8:
		p.caller, p.after = cancelsSoon, time.Duration(r.IntN(300))*time.Microsecond
	case kind == 9 && small && p.framing != withoutBody && p.size > 0:
		p.caller, p.pieces, p.interims = cancelsLast, 1, 0
	case kind > 9 && p.solo:
		p.late = lateFake + r.IntN(4)
		if secure {
			p.late = lateFake + r.IntN(6)
		}
	}
}

func (p *plan) bodySize() int {
	if p.framing == withoutBody {
		return 0
	}
	return p.size
}

// spoils tells that no exchange may follow on the connection.
func (p *plan) spoils() bool {
	return p.behind != nothingBehind || p.cut || p.framing == byEnd || p.late != lateNothing || p.caller == cancelsLast || p.early && p.expects
}

// mayLookDead tells that it depends on the buffers whether what is behind an
// answer is seen with it or only later.
func (p *plan) mayLookDead() bool {
	return p.behind != nothingBehind && (p.pieces > 1 || p.interims > 0 || p.fill > 0 || p.size > 1000 || p.upload > 0)
}

// wire writes the answer. The last byte of it, with what is behind, begins at
// last.
func (p *plan) wire(foreign string) (answer []byte, last int) {
	var b []byte
	for range p.interims {
		b = fmt.Appendf(b, "HTTP/1.1 103 %s\r\nX-Canary: %s\r\n\r\n", p.canary, p.canary)
	}
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\nX-Canary: %s\r\n", p.status, p.canary, p.canary)
	if p.fill > 0 {
		b = fmt.Appendf(b, "X-Fill: %s\r\n", strings.Repeat(p.canary, p.fill))
	}
	switch {
	case p.framing == byChunks:
		b = append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
		b = p.appendChunks(b)
	case p.framing == byEnd:
		b = append(b, "Connection: close\r\n\r\n"...)
		b = p.appendRun(b, 0, p.size)
	case p.status == 204:
		b = append(b, "\r\n"...)
	default:
		b = fmt.Appendf(b, "Content-Length: %d\r\n\r\n", p.size)
		b = p.appendRun(b, 0, p.bodySize())
	}
	if p.cut {
		b = b[:len(b)-1-int(p.n)%p.size]
	}
	last = len(b) - 1
	switch p.behind {
	case fakeBehind:
		b = fmt.Appendf(b, "HTTP/1.1 200 %s\r\nX-Canary: %s\r\nContent-Length: %d\r\n\r\n%s", foreign, foreign, len(foreign), foreign)
	case bytesBehind:
		b = append(b, foreign...)
	case chunkBehind:
		b = fmt.Appendf(b, "%x\r\n%s\r\n0\r\n\r\n", len(foreign), foreign)
	}
	return b, last
}

func (p *plan) appendRun(b []byte, offset, n int) []byte {
	b = slices.Grow(b, n)
	fillWith(b[len(b):len(b)+n], p.canary, offset)
	return b[:len(b)+n]
}

func (p *plan) appendChunks(b []byte) []byte {
	for at := 0; at < p.size; {
		n := min(p.size-at, p.size/p.chunks+1)
		b = append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
		b = append(p.appendRun(b, at, n), "\r\n"...)
		at += n
	}
	b = append(b, "0\r\n"...)
	for range p.trailers {
		b = fmt.Appendf(b, "X-Trailer: %s\r\n", p.canary)
	}
	return append(b, "\r\n"...)
}

// spoilt is the upstream of TestIsolation, and what came of the exchanges.
type spoilt struct {
	url  string
	cues sync.Map // of chan struct{} by the number of the exchange, for what comes late

	next, wrong                          atomic.Int64
	whole, failed, reused, stale, dialed atomic.Int64
}

func newSpoilt(t *testing.T, p protocol) *spoilt {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	s := &spoilt{url: "http://" + l.Addr().String()}
	var config *tls.Config
	if p.secure {
		s.url, config = "https://"+l.Addr().String(), h1TLS()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				s.play(t, c, config)
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
	return s
}

// complain reports what no caller and no upstream may see.
func (s *spoilt) complain(t *testing.T, format string, args ...any) {
	s.wrong.Add(1)
	t.Errorf(format, args...)
}

// corked is a connection whose writes are gathered until they go out together,
// TLS records among them.
type corked struct {
	net.Conn
	on  bool
	buf []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// play serves one connection.
func (s *spoilt) play(t *testing.T, c net.Conn, config *tls.Config) {
	cork := &corked{Conn: c}
	var stream net.Conn = cork
	if config != nil {
		secured := tls.Server(cork, config)
		if secured.Handshake() != nil {
			return
		}
		stream = secured
	}
	cork.on = true
	foreign := canaryOf(1 << 60)
	br := bufio.NewReader(stream)
	for {
		a, err := s.readAsked(t, br, config != nil)
		if err != nil {
			return
		}
		cue, _ := s.cues.LoadAndDelete(a.n)
		if a.expects && !a.early {
			fmt.Fprintf(stream, "HTTP/1.1 100 %s\r\nX-Canary: %s\r\n\r\n", a.canary, a.canary)
			cork.flush()
		}
		if a.early && !a.answer(cork, stream, foreign) || s.readUpload(t, br, a) != nil {
			return
		}
		if !a.early && !a.answer(cork, stream, foreign) {
			return
		}
		if foreign = a.canary; a.late != lateNothing {
			if _, ok := <-cue.(chan struct{}); !ok || !a.playLate(cork, stream) {
				return
			}
		}
	}
}

// asked is a request as it arrived.
type asked struct {
	*plan
	length  int64
	chunked bool
}

func (s *spoilt) readAsked(t *testing.T, br *bufio.Reader, secure bool) (*asked, error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return nil, err
	}
	method, rest, _ := strings.Cut(line, " ")
	target, _, _ := strings.Cut(rest, " ")
	number, solo := strings.CutPrefix(target, "/solo/")
	n, err := strconv.ParseUint(strings.TrimPrefix(number, "/shared/"), 10, 64)
	if err != nil {
		s.complain(t, "the upstream got the line %q", line)
		return nil, err
	}
	a := &asked{plan: newPlan(n, solo, secure)}
	canary := ""
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "":
			if canary != a.canary || method != a.method {
				s.complain(t, "the upstream got %s with canary %q, planned %+v", method, canary, a.plan)
			}
			return a, nil
		case "X-Canary":
			canary = value
		case "Content-Length":
			a.length, err = strconv.ParseInt(value, 10, 64)
		case "Transfer-Encoding":
			a.chunked = true
		case "Host", "Expect":
		default:
			err = fmt.Errorf("the field %q", name)
		}
		if err != nil {
			s.complain(t, "the upstream got %v", err)
			return nil, err
		}
	}
}

// readUpload reads the body of a request and checks whose it is.
func (s *spoilt) readUpload(t *testing.T, br *bufio.Reader, a *asked) error {
	if a.length == 0 && !a.chunked {
		return nil
	}
	body := io.LimitReader(br, a.length)
	if a.chunked {
		body = httputil.NewChunkedReader(br)
	}
	buf := make([]byte, 4096)
	at := 0
	for {
		n, err := body.Read(buf)
		if !isOf(a.canary, at, buf[:n]) {
			s.complain(t, "the upstream got %.80q at byte %d of the upload of %+v", buf[:n], at, a.plan)
		}
		at += n
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF {
			break
		}
	}
	if at != a.upload {
		return io.ErrUnexpectedEOF // it was given up
	}
	if a.chunked {
		_, err := br.Discard(2)
		return err
	}
	return nil
}

// answer tells whether the connection goes on.
func (a *asked) answer(cork *corked, stream net.Conn, foreign string) bool {
	b, last := a.wire(foreign)
	stream.Write(b[:last])
	mark := len(cork.buf)
	if a.apart {
		stream.Write(b[last : last+1])
		last++
	}
	stream.Write(b[last:])
	if a.flush(cork, mark) != nil {
		return false
	}
	switch {
	case (a.cut || a.closes) && a.reset:
		cork.Conn.(*net.TCPConn).SetLinger(0)
		return false
	case a.framing == byEnd:
		cork.notify(stream)
		return false
	}
	return !a.cut && !a.closes
}

// flush writes what is gathered, in pieces up to the mark. The rest goes at
// once: what comes after the next request is its answer for all that anybody
// can tell.
func (a *asked) flush(cork *corked, mark int) error {
	rest := cork.buf
	for i := 1; i < a.pieces && mark > 0; i++ {
		n := max(1, mark/a.pieces)
		if _, err := cork.Conn.Write(rest[:n]); err != nil {
			return err
		}
		rest, mark = rest[n:], mark-n
		runtime.Gosched()
	}
	_, err := cork.Conn.Write(rest)
	cork.buf = cork.buf[:0]
	return err
}

// notify sends TLS's close_notify, if there is TLS.
func (c *corked) notify(stream net.Conn) {
	if secured, ok := stream.(*tls.Conn); ok {
		secured.CloseWrite()
		c.SetWriteDeadline(time.Time{}) // which CloseWrite let pass
		c.flush()
	}
}

// flush writes what is gathered at once.
func (c *corked) flush() error {
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// playLate spoils a connection that is idle, and tells whether it goes on.
func (a *asked) playLate(cork *corked, stream net.Conn) bool {
	switch a.late {
	case lateFake:
		fmt.Fprintf(stream, "HTTP/1.1 200 %s\r\nX-Canary: %s\r\nContent-Length: 0\r\n\r\n", a.canary, a.canary)
		return cork.flush() == nil
	case lateByte:
		stream.Write([]byte(a.canary[:1]))
		return cork.flush() == nil
	case lateRST:
		cork.Conn.(*net.TCPConn).SetLinger(0)
	case lateNotify:
		cork.notify(stream)
	case lateAlert:
		cork.buf = append(cork.buf, 21, 3, 3, 0, 2, 1, 0)
		return cork.flush() == nil
	}
	return false
}
