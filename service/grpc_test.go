package service_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Callers that speak gRPC oddly, or do not stop, to the whole service. The ids
// are those of the project's catalogue of adversarial cases, group K; most of
// that group is tried on the listener alone, in its own package.

// oddCaller writes requests that no library of gRPC would.
type oddCaller struct {
	*http2.Framer
	block   strings.Builder
	encoder *hpack.Encoder
	next    uint32
}

func newOddCaller(t *testing.T, address string) *oddCaller {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &oddCaller{Framer: http2.NewFramer(conn, bufio.NewReader(conn)), next: 1}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// call makes one RPC of a path and a message. What sets replaces or adds a field;
// an empty value takes it away.
func (c *oddCaller) call(path string, set map[string]string, message []byte) (string, error) {
	c.block.Reset()
	fields := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "fetchgate"}, {"content-type", "application/grpc"}, {"te", "trailers"}}
	for name, value := range set {
		fields = slices.DeleteFunc(fields, func(f [2]string) bool { return f[0] == name })
		if value != "" {
			fields = append(fields, [2]string{name, value})
		}
	}
	for _, f := range fields {
		if err := c.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return "", err
		}
	}
	id := c.next
	c.next += 2
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(c.block.String()), EndHeaders: true}); err != nil {
		return "", err
	}
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	for rest := append(prefix, message...); ; {
		part := rest[:min(len(rest), 16<<10)]
		rest = rest[len(part):]
		if err := c.WriteData(id, len(rest) == 0, part); err != nil {
			return "", err
		}
		if len(rest) == 0 {
			return c.outcome(id), nil
		}
	}
}

// encoded is a request as it is sent.
func encoded(t *testing.T, m *request) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// outcome is the name of the status that a stream ends with, "RST", or "closed".
func (c *oddCaller) outcome(id uint32) string {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			if f.StreamID == id && f.ErrCode != http2.ErrCodeNo {
				return "RST " + f.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			for _, h := range f.RegularFields() {
				var code codes.Code
				if f.StreamID == id && h.Name == "grpc-status" && code.UnmarshalJSON([]byte(h.Value)) == nil {
					return code.String()
				}
			}
		}
	}
}

// TestPathsOfRPCs: the path names an RPC in one way only. What comes close is
// no RPC, and nothing is fetched for it.
func TestPathsOfRPCs(t *testing.T) {
	const fetchPath = "/fetchgate.v1.FetchService/Fetch"
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	s := serve(t, allowing(u.Upstream, "60s"))
	m := encoded(t, get(u.URL("/")))
	for name, path := range map[string]string{
		"K13 no leading slash":           fetchPath[1:],
		"K13 two leading slashes":        "/" + fetchPath,
		"K13 a slash too many":           "/fetchgate.v1.FetchService//Fetch",
		"K13 a slash at the end":         fetchPath + "/",
		"K13 the service in lower case":  "/fetchgate.v1.fetchservice/Fetch",
		"K13 the RPC in lower case":      "/fetchgate.v1.FetchService/fetch",
		"K13 upper case":                 strings.ToUpper(fetchPath),
		"K13 a slash that is encoded":    "/fetchgate.v1.FetchService%2FFetch",
		"K13 a letter that is encoded":   "/%66etchgate.v1.FetchService/Fetch",
		"K13 dot segments":               "/x/.." + fetchPath,
		"K13 a query":                    fetchPath + "?x=y",
		"K13 a fragment":                 fetchPath + "#x",
		"K13 a URL":                      "http://fetchgate" + fetchPath,
		"K13 without the package":        "/FetchService/Fetch",
		"K13 no service":                 "/Fetch",
		"K13 an asterisk":                "*",
		"K22 a service that is no RPC's": "/grpc.testing.UnimplementedService/UnimplementedCall",
		"K22 an RPC that there is not":   "/fetchgate.v1.FetchService/UnimplementedCall",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newOddCaller(t, s.GRPCAddress()).call(path, nil, m)
			if err != nil || got != "Unimplemented" {
				t.Errorf("%s ends with %s, %v; want Unimplemented", path, got, err)
			}
		})
	}
	if n := len(u.Requests()); n != 0 {
		t.Errorf("%d requests were made for RPCs that there are not", n)
	}
	t.Run("K13 as it should be", func(t *testing.T) {
		got, err := newOddCaller(t, s.GRPCAddress()).call(fetchPath, nil, m)
		if err != nil || got != "OK" || len(u.Requests()) != 1 {
			t.Errorf("it ends with %s, %v, after %d requests", got, err, len(u.Requests()))
		}
	})
}

// TestFieldsOfRPCs: what is odd in the fields of an RPC ends that RPC as gRPC
// specifies, or is of no account.
func TestFieldsOfRPCs(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	s := serve(t, allowing(u.Upstream, "60s"))
	for name, c := range map[string]struct {
		set  map[string]string
		want string
	}{
		"K14 a timeout of a second":      {map[string]string{"grpc-timeout": "1S"}, "OK"},
		"K14 a timeout of 0 s":           {map[string]string{"grpc-timeout": "0S"}, "DeadlineExceeded"},
		"K14 a timeout of eight digits":  {map[string]string{"grpc-timeout": "99999999H"}, "OK"},
		"K14 a timeout of nine digits":   {map[string]string{"grpc-timeout": "123456789S"}, "Internal"},
		"K14 a negative timeout":         {map[string]string{"grpc-timeout": "-1S"}, "Internal"},
		"K14 a timeout without a unit":   {map[string]string{"grpc-timeout": "10"}, "Internal"},
		"K14 a timeout of junk":          {map[string]string{"grpc-timeout": "soon"}, "Internal"},
		"K14 a page":                     {map[string]string{"content-type": "text/html"}, "InvalidArgument"},
		"K14 no content type":            {map[string]string{"content-type": ""}, "InvalidArgument"},
		"K14 a content type with a name": {map[string]string{"content-type": "application/grpc+proto"}, "OK"},
		"K14 without te":                 {map[string]string{"te": ""}, "OK"},
		"K14 another te":                 {map[string]string{"te": "gzip"}, "OK"},
		"K14 GET":                        {map[string]string{":method": "GET"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(u.Requests())
			got, err := newOddCaller(t, s.GRPCAddress()).call("/fetchgate.v1.FetchService/Fetch", c.set, encoded(t, get(u.URL("/"))))
			if err != nil || got != c.want && c.want != "" || c.want == "" && got == "OK" {
				t.Errorf("it ends with %s, %v; want %s", got, err, c.want)
			}
			if n := len(u.Requests()) - before; (n != 0) != (c.want == "OK") {
				t.Errorf("%d requests were made", n)
			}
		})
	}
}

// nested is a message in a message, and so on, of the field with that tag.
func nested(tag byte, depth int) []byte {
	var m []byte
	for range depth {
		m = append(protowire.AppendVarint([]byte{tag}, uint64(len(m))), m...)
	}
	return m
}

// TestMessagesThatAreNone: a request that no library would write costs little,
// and its sender is told so.
func TestMessagesThatAreNone(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	s := serve(t, allowing(u.Upstream, "60s"))
	const request, unknown = 1<<3 | 2, 15 << 3 // a field of FetchRequest, and none
	for name, c := range map[string]struct {
		message []byte
		want    codes.Code
	}{
		"K09 10,000 messages in one another": {nested(unknown|2, 10_000), codes.InvalidArgument},
		"K09 10,000 groups in one another":   {bytes.Repeat([]byte{unknown | 3}, 10_000), codes.Internal},
		"K09 groups that end":                {append(bytes.Repeat([]byte{unknown | 3}, 9000), bytes.Repeat([]byte{unknown | 4}, 9000)...), codes.InvalidArgument},
		"K09 2 million unknown fields":       {bytes.Repeat([]byte{unknown, 1}, 2_000_000), codes.InvalidArgument},
		"K09 a length of 2 GiB":              {[]byte{request, 0x80, 0x80, 0x80, 0x80, 0x08}, codes.Internal},
		"K09 a length of 2^63":               {[]byte{request, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, codes.Internal},
		"K09 a URL that is no UTF-8":         {append([]byte{request, 6, 2<<3 | 2, 4}, 'h', 't', 0xff, 0xfe), codes.Internal},
		"K09 the same field a million times": {bytes.Repeat([]byte{request, 0}, 1_000_000), codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			// Both ends are in this process, and much of it is the sender's.
			most, memory := reach, uint64(2<<20+10*len(c.message))
			if len(c.message) > 1<<20 {
				most = time.Second
			}
			best, least := patience, uint64(math.MaxUint64)
			for try := 1; try <= tries && (best > most || least > memory); try++ {
				began := time.Now()
				made := allocatedBy(func() {
					err := s.conn.Invoke(within(t), fetchgatev1.FetchService_Fetch_FullMethodName, c.message, new([]byte), grpc.ForceCodec(asBytes{}))
					if status.Code(err) != c.want {
						t.Fatalf("it ends with %v, want %v", err, c.want)
					}
				})
				best, least = min(best, time.Since(began)), min(least, made)
			}
			if best > most || least > memory {
				t.Errorf("%d bytes took %v and %d bytes of memory", len(c.message), best, least)
			}
		})
	}
	if n := len(u.Requests()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// asBytes is a codec of messages that are encoded already.
type asBytes struct{}

func (asBytes) Name() string                  { return "proto" }
func (asBytes) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (asBytes) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = b
	return nil
}

// TestACallerThatStopsReading: what its stream holds is let go of, at both ends.
func TestACallerThatStopsReading(t *testing.T) {
	t.Run("K16 a caller that stops reading", func(t *testing.T) {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(),
			fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", 1<<10)))
		s := serve(t, allowing(u, "60s")+"limits: {caller_stall: 1s}\n")
		stream, err := s.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // it reads for a while
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := u.WaitClosed(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 900*time.Millisecond || took > 10*time.Second {
			t.Errorf("the upstream was let go of after %v, want a second", took)
		}
		for err == nil {
			var event *fetchgatev1.StreamFetchResponse
			if event, err = stream.Recv(); event.GetSummary() != nil {
				t.Errorf("there is a summary: %v", event)
			}
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("who reads in the end gets %v, want DeadlineExceeded", err)
		}
	})
}

// TestNothingElseIsServed: beyond loopback nobody is told what there is to call,
// and nowhere is there a page for debugging.
func TestNothingElseIsServed(t *testing.T) {
	t.Run("K18 no reflection beyond loopback", func(t *testing.T) {
		conn := beyondLoopback(t)
		questions, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := questions.Recv(); status.Code(err) != codes.Unimplemented {
			t.Errorf("reflection gives %v, want Unimplemented", err)
		}
		if _, err := fetchgatev1.NewFetchServiceClient(conn).Fetch(within(t), &request{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a fetch gives %v, want InvalidArgument", err)
		}
	})
	t.Run("K18 no channelz and no administration", func(t *testing.T) {
		s := serve(t, "log: {level: info}\n")
		for _, path := range []string{"/grpc.channelz.v1.Channelz/GetServers", "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"} {
			if err := s.conn.Invoke(within(t), path, &request{}, &fetchgatev1.FetchResponse{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("%s gives %v, want Unimplemented", path, err)
			}
		}
	})
	t.Run("K18 no pprof", func(t *testing.T) {
		s := serve(t, "log: {level: info}\n")
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/debug/requests", "/"} {
			if code, _, err := s.get(path); err != nil || code != http.StatusNotFound {
				t.Errorf("%s gives %d, %v; want 404", path, code, err)
			}
		}
	})
}

// beyondLoopback is a connection to a fetchgate that listens on every interface.
func beyondLoopback(t *testing.T) *grpc.ClientConn {
	t.Helper()
	loaded, err := config.Parse("test.yaml", []byte("callers: [{name: everyone, dangerous_anonymous: true}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := service.New(service.Options{
		Config: loaded, GRPCAddress: "0.0.0.0:0", HTTPAddress: "127.0.0.1:0",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Stdout: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.GRPCAddress())
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }() // ends with ctx, which the cleanup waits for
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// mostMetadata is how much of the metadata of an RPC may come from elsewhere
// than its caller and fetchgate.
const mostMetadata = 8 << 10

// TestUpstreamsDoNotWriteMetadata: what an upstream sends in the fields of gRPC
// is a field of its answer, and no RPC's status, message or metadata.
func TestUpstreamsDoNotWriteMetadata(t *testing.T) {
	large := strings.Repeat("m", 12<<10)
	lines := []string{"Grpc-Status: 7", "Grpc-Message: " + large, "Grpc-Status-Details-Bin: " + large, "X-Bin: " + large}
	for name, c := range map[string]struct {
		step   fetchtest.Step
		reason string
	}{
		"K19 in an answer":             {fetchtest.Answer(200, "ok", lines...), ""},
		"K19 in an answer that breaks": {fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\nok"), "INCOMPLETE_BODY"},
		"K19 in trailers": {fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" +
			strings.ReplaceAll(strings.Join(lines, "\r\n"), large, large[:1<<10]) + "\r\n\r\n"), ""},
		"K19 in what is no head": {fetchtest.Write("HTTP/1.1 200 OK\r\n" + large + "\r\n\r\n"), "MALFORMED_HEAD"},
	} {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), c.step)
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				var header, trailer metadata.MD
				a, err := rpc.call(within(t), g, get(u.URL("/")), grpc.Header(&header), grpc.Trailer(&trailer))
				if err != nil {
					t.Fatal(err)
				}
				if reasonOf(a.failure) != c.reason || len(a.failure.GetMessage()) > mostMetadata {
					t.Errorf("the failure is %v, want %q", a.failure, c.reason)
				}
				if text := fmt.Sprint(header, trailer); strings.Contains(text, "mmmm") {
					t.Errorf("the RPC's metadata are %.200s", text)
				}
			})
		}
	}
}

// TestRefusalsAreShort: a request that is wrong in all it has does not come back
// as an error that no library takes.
func TestRefusalsAreShort(t *testing.T) {
	g := fetchtest.Start(t, fetchtest.Options{})
	for name, m := range map[string]*request{
		"K19 a wrong URL of a megabyte": get("http://a b/" + strings.Repeat("x", 1<<20)),
		"K19 a thousand wrong fields":   {Request: &fetchgatev1.HttpRequest{Url: "http://a.test/", Headers: slices.Repeat(headers(strings.Repeat("(", 1<<10), "x"), 1000)}},
		"K19 a wrong method":            {Request: &fetchgatev1.HttpRequest{Url: "http://a.test/", Method: strings.Repeat("\u2028", 1<<17)}},
	} {
		for _, rpc := range rpcs {
			t.Run(name+"/"+rpc.name, func(t *testing.T) {
				_, err := rpc.call(within(t), g, m)
				s := status.Convert(err)
				if s.Code() != codes.InvalidArgument || proto.Size(s.Proto()) > mostMetadata {
					t.Errorf("the status is %v, of %d bytes", s.Code(), proto.Size(s.Proto()))
				}
			})
		}
	}
}

// TestFlood: of ten times as many fetches as it takes, a server carries out
// nearly as many as it can, and refuses the others at once.
func TestFlood(t *testing.T) {
	const (
		capacity = 5
		takes    = 200 * time.Millisecond
		lasts    = 2 * time.Second
	)
	t.Run("K23 ten times what it takes", func(t *testing.T) {
		u := fetchtest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(takes):
			case <-r.Context().Done():
			}
		}), nil)
		s := serve(t, allowing(u, "60s")+fmt.Sprintf("limits: {max_live_fetches: %d}\naudit: {sink: none}\n", capacity))
		alone, _ := flood(t, s, u.URL("/"), capacity, 0, lasts)
		best, refused := int64(0), int64(0)
		for try := 1; try <= tries && best < alone*9/10; try++ {
			// Who is refused comes again after as long as a fetch takes.
			done, more := flood(t, s, u.URL("/"), 10*capacity, takes, lasts)
			t.Logf("%d fetches alone; in the flood %d, and %d were refused", alone, done, more)
			best, refused = max(best, done), refused+more
		}
		if best < alone*9/10 || refused < alone {
			t.Errorf("%d fetches alone, %d in a flood of which %d were refused", alone, best, refused)
		}
		// The time of the server alone: that of this process is all of them's.
		eventually(t, func() error {
			quick, all := s.metric(t, `fetchgate_fetch_duration_seconds_bucket{outcome="rejected",rpc="Fetch",le="0.005"}`), s.metric(t, `fetchgate_fetch_duration_seconds_count{outcome="rejected",rpc="Fetch"}`)
			if all != float64(refused) || quick < all*0.99 {
				return fmt.Errorf("of %d that were refused, %.0f are counted, %.0f in less than 5 ms", refused, all, quick)
			}
			return nil
		})
	})
}

// metric is the value of a series.
func (s *server) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, page, err := s.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut("\n"+page, "\n"+series+" ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		t.Fatalf("/metrics has no %s", series)
	}
	return n
}

// flood has callers fetch one after the other, and tells how many fetches were
// carried out and how many refused. Who is refused waits before it comes again.
func flood(t *testing.T, s *server, url string, callers int, wait, lasts time.Duration) (int64, int64) {
	t.Helper()
	var done, refused atomic.Int64
	var all sync.WaitGroup
	over := time.Now().Add(lasts)
	for i := range callers {
		all.Go(func() {
			<-time.After(wait * time.Duration(i) / time.Duration(callers))
			for time.Now().Before(over) {
				a, err := whole(t.Context(), s, get(url))
				switch {
				case err == nil && a.failure == nil:
					done.Add(1)
				case refusedWith(err) == "OVERLOADED":
					refused.Add(1)
					<-time.After(wait)
				default:
					t.Errorf("got %v, %v", a, err)
					return
				}
			}
		})
	}
	all.Wait()
	return done.Load(), refused.Load()
}

// refusedWith is the reason of a RESOURCE_EXHAUSTED that says when to come again.
func refusedWith(err error) string {
	s := status.Convert(err)
	reason, again := "", false
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			again = d.GetRetryDelay().AsDuration() > 0
		}
	}
	if s.Code() != codes.ResourceExhausted || !again {
		return ""
	}
	return reason
}

// faulty panics when it is read for the second time.
type faulty struct {
	net.Conn
	reads atomic.Int64
}

func (c *faulty) Read(p []byte) (int, error) {
	if c.reads.Add(1) > 1 {
		panic("a fault of the test")
	}
	return c.Conn.Read(p)
}

// TestAPanicEndsOneRPC: a fault of fetchgate's own is INTERNAL for the fetch that
// meets it, and nothing is left of that.
func TestAPanicEndsOneRPC(t *testing.T) {
	t.Run("J15 a panic in a body", func(t *testing.T) {
		faults := new(atomic.Bool)
		u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			if r.Target == "/" {
				return fetchtest.Answer(200, "ok")
			}
			return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), fetchtest.Hang())
		}})
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Connect: func(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
			d := net.Dialer{Control: control}
			c, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil || !faults.Load() {
				return c, err
			}
			return &faulty{Conn: c}, nil
		}})
		for i := range 6 {
			faults.Store(true)
			m := get(u.URL("/faulty"))
			m.Options.Connection = fresh()
			if a, err := rpcs[i%len(rpcs)].call(within(t), g, m); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "of the test") {
				t.Errorf("got %v, %v; want Internal", a, err)
			}
			faults.Store(false)
			a, err := whole(within(t), g, get(u.URL("/")))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, a, 200, "ok")
		}
	})
}
