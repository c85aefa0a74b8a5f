package service_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// verbatimOf is a verbatim request to the root of an upstream.
func verbatimOf(u *fetchtest.Upstream, lines ...string) *request {
	m := get(u.URL("/"))
	m.Options.Verbatim = proto.Bool(true)
	m.Request.Headers = fieldLines(lines...)
	return m
}

// fieldLines are fields written as "Name: value".
func fieldLines(lines ...string) []*fetchgatev1.HeaderField {
	var fields []*fetchgatev1.HeaderField
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		fields = append(fields, &fetchgatev1.HeaderField{Name: name, Value: []byte(value)})
	}
	return fields
}

// answered fetches and wants a response.
func answered(t *testing.T, g *fetchtest.Fetchgate, m *request) *fetchgatev1.FetchResponse {
	t.Helper()
	r, err := g.Fetch(within(t), m)
	if err != nil {
		t.Fatal(err)
	}
	if r.GetResponse() == nil {
		t.Fatalf("there is no response: %v", r.GetFailure())
	}
	return r
}

// TestVerbatimBytes: over HTTP/1.1 the upstream gets the bytes that the request
// says, in its order and spelling.
func TestVerbatimBytes(t *testing.T) {
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
	host := upstream.Addr().String()
	for name, c := range map[string]struct {
		lines []string
		alter func(*request)
		want  string // HOST stands for that of the upstream
	}{
		"order, spelling, repeats": {
			[]string{"x-b: 1", "X-A: \xe9 2", "HOST: " + host, "x_c: ", "x-b: 3", "Accept: */*", "X-A: 4"}, nil,
			"GET / HTTP/1.1\r\nx-b: 1\r\nX-A: \xe9 2\r\nHOST: HOST\r\nx_c: \r\nx-b: 3\r\nAccept: */*\r\nX-A: 4\r\n\r\n",
		},
		"nothing but Host": {nil, nil, "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"a target and a method": {[]string{"host: " + host}, func(m *request) {
			m.Request.Method, m.Request.RawTarget = "Purge-it", "//a/../%2E?[]|"
		}, "Purge-it //a/../%2E?[]| HTTP/1.1\r\nhost: HOST\r\n\r\n"},
		"a length in its place": {[]string{"Host: " + host, "CONTENT-length: 3", "Z: 1"}, func(m *request) {
			m.Request.Method, m.Request.Body = "PUT", raw("abc")
		}, "PUT / HTTP/1.1\r\nHost: HOST\r\nCONTENT-length: 3\r\nZ: 1\r\n\r\nabc"},
		"no type of the body": {[]string{"Host: " + host, "Content-Length: 2"}, func(m *request) {
			m.Request.Method, m.Request.Body = "POST", &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: []byte("{}")}}
		}, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n{}"},
		"a length of 0, without a body": {[]string{"Host: " + host, "Content-Length: 0"}, nil,
			"GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"},
		"a body in chunks": {[]string{"Transfer-encoding: chunked", "Host: " + host}, func(m *request) {
			m.Request.Method, m.Request.Body = "POST", raw("abc")
		}, "POST / HTTP/1.1\r\nTransfer-encoding: chunked\r\nHost: HOST\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
		"an empty body in chunks": {[]string{"Host: " + host, "Transfer-Encoding: chunked"}, func(m *request) {
			m.Request.Method, m.Request.Body = "POST", raw("")
		}, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		"a connection that stays": {[]string{"Host: " + host, "Connection: keep-alive", "A: b"}, nil,
			"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: keep-alive\r\nA: b\r\n\r\n"},
		"a connection that closes": {[]string{"Connection: close", "Host: " + host}, func(m *request) {
			m.Options.Connection = &fetchgatev1.ConnectionOptions{CloseAfter: proto.Bool(true)}
		}, "GET / HTTP/1.1\r\nConnection: close\r\nHost: HOST\r\n\r\n"},
		"an expectation": {[]string{"expect: 100-continue", "Host: " + host, "Content-Length: 1"}, func(m *request) {
			m.Request.Method, m.Request.Body = "POST", raw("x")
			m.Options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}
		}, "POST / HTTP/1.1\r\nexpect: 100-continue\r\nHost: HOST\r\nContent-Length: 1\r\n\r\nx"},
		"a TE field": {[]string{"Host: " + host, "te: trailers"}, nil, "GET / HTTP/1.1\r\nHost: HOST\r\nte: trailers\r\n\r\n"},
		"trailers that nothing names": {[]string{"Host: " + host, "Transfer-Encoding: chunked"}, func(m *request) {
			m.Request.Method, m.Request.Body, m.Request.Trailers = "POST", raw("abc"), fieldLines("x-b: 1", "a_c: 2", "X-B: 3")
		}, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-b: 1\r\na_c: 2\r\nX-B: 3\r\n\r\n"},
		"trailers and their field": {[]string{"trailer: x-b", "Host: " + host, "Transfer-Encoding: chunked"}, func(m *request) {
			m.Request.Method, m.Request.Body, m.Request.Trailers = "POST", raw("abc"), fieldLines("x-b: 1")
		}, "POST / HTTP/1.1\r\ntrailer: x-b\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-b: 1\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := verbatimOf(upstream.Upstream, c.lines...)
			if c.alter != nil {
				c.alter(m)
			}
			before := len(upstream.Requests())
			answered(t, g, m)
			got := upstream.Requests()[before:]
			if want := strings.Replace(c.want, ": HOST", ": "+host, 1); len(got) != 1 || string(got[0].Raw) != want {
				t.Errorf("the upstream got\n%q\nwant\n%q", got[0].Raw, want)
			}
		})
	}
}

// TestVerbatimAnswers: a redirect, an error and a coded body are the answer as
// they come, and a cookie is only a field.
func TestVerbatimAnswers(t *testing.T) {
	coded := gzipped([]byte("decoded"))
	for name, answer := range map[string]fetchtest.Step{
		"a redirect":   fetchtest.Answer(302, "x", "Location: /next", "Set-Cookie: a=1"),
		"an error":     fetchtest.Answer(503, "x", "Retry-After: 0"),
		"a coded body": fetchtest.Answer(200, coded, "Content-Encoding: gzip"),
	} {
		t.Run(name, func(t *testing.T) {
			upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(answer)})
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
			r := answered(t, g, verbatimOf(upstream.Upstream))
			report, response := r.GetReport(), r.GetResponse()
			if n := len(upstream.Requests()); n != 1 || report.GetAttemptCount() != 1 || report.GetHopCount() != 1 ||
				report.GetRetrySuppressed() != fetchgatev1.RetrySuppressed_RETRY_SUPPRESSED_UNSPECIFIED {
				t.Errorf("the upstream was asked %d times: %v", n, report)
			}
			if body := string(response.GetBody()); body != "x" && body != coded || len(response.GetCookies()) > 0 || len(report.GetDecodedCodings()) > 0 {
				t.Errorf("the response is %v", response)
			}
		})
	}
}

// TestVerbatimConnections: those of verbatim fetches carry no others.
func TestVerbatimConnections(t *testing.T) {
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
	for _, m := range []*request{
		verbatimOf(upstream.Upstream), get(upstream.URL("/")), verbatimOf(upstream.Upstream), get(upstream.URL("/")),
	} {
		answered(t, g, m)
	}
	var conns []int
	for _, r := range upstream.Requests() {
		conns = append(conns, r.Conn)
	}
	if !slices.Equal(conns, []int{1, 2, 1, 2}) {
		t.Errorf("the connections are %v", conns)
	}
}

// TestVerbatimOverH2: what HTTP/2 has no place for is dropped.
func TestVerbatimOverH2(t *testing.T) {
	upstream := fetchtest.NewH2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }), nil)
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
	m := verbatimOf(upstream.Upstream, "Host: "+upstream.Addr().String(), "X_A: 1", "Connection: keep-alive", "Transfer-Encoding: chunked")
	m.Request.Method, m.Request.Body = "POST", raw("abc")
	requireH2(m)
	answered(t, g, m)
	r := upstream.Requests()[0]
	if len(r.Fields) != 1 || r.Get("X_A") != "1" || r.Host != upstream.Addr().String() || string(r.Body) != "abc" {
		t.Errorf("the upstream got %+v", r)
	}
}

// TestEmptyBodiesSayTheirLength: a body without a byte is one, for any method.
func TestEmptyBodiesSayTheirLength(t *testing.T) {
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS", "QUERY"} {
		m := get(upstream.URL("/"))
		m.Request.Method, m.Request.Body = method, raw("")
		answered(t, g, m)
		if r := upstream.Requests(); r[len(r)-1].Get("Content-Length") != "0" {
			t.Errorf("%s: the upstream got %q", method, r[len(r)-1].Raw)
		}
	}
}

// TestRequestTrailers: they come behind the body, and are named before it.
func TestRequestTrailers(t *testing.T) {
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	h2 := fetchtest.NewH2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }), nil)
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream), fetchtest.OriginOf(h2.Upstream)}})
	for name, c := range map[string]struct {
		url   string
		alter func(*request)
		got   func() []fetchtest.Recorded
		named string // Go's server takes the field out over HTTP/2
	}{
		"HTTP/1.1": {upstream.URL("/"), func(*request) {}, upstream.Requests, "X-Check, X-Sum"},
		"HTTP/2":   {h2.URL("/"), requireH2, h2.Requests, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := get(c.url)
			c.alter(m)
			m.Request.Method, m.Request.Body, m.Request.Trailers = "POST", raw("abc"), fieldLines("X-Check: 1", "X-Sum: 2")
			answered(t, g, m)
			r := c.got()[0]
			if string(r.Body) != "abc" || len(r.Trailers) != 2 || r.Trailers[0].Name != "X-Check" || string(r.Trailers[1].Value) != "2" ||
				r.Get("Content-Length") != "" || r.Get("Trailer") != c.named {
				t.Errorf("the upstream got %+v", r)
			}
		})
	}
}

// TestExpectContinue: the body goes when the upstream says so, or says nothing.
func TestExpectContinue(t *testing.T) {
	for name, early := range map[string]func(*fetchtest.Recorded) (fetchtest.Step, bool){
		"100 Continue": nil,
		"silence":      func(*fetchtest.Recorded) (fetchtest.Step, bool) { return nil, false },
	} {
		upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Early: early})
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
		m := get(upstream.URL("/"))
		m.Request.Method, m.Request.Body = "POST", raw("abc")
		m.Options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}
		if early != nil {
			m.Options.Protocol.ContinueTimeout = millis(20)
		} else {
			m.Options.Protocol.ContinueTimeout = seconds(30)
		}
		answered(t, g, m)
		if r := upstream.Requests()[0]; r.Get("Expect") != "100-continue" || string(r.Body) != "abc" {
			t.Errorf("%s: the upstream got %q", name, r.Raw)
		}
	}
}

// TestExpectationFailed (F13): after a 417 the request goes out once more,
// without the expectation.
func TestExpectationFailed(t *testing.T) {
	for name, c := range map[string]struct {
		verbatim bool
		always   bool // whatever is sent, the answer is 417
		status   int32
		expects  []string
	}{
		"once":     {false, false, 200, []string{"100-continue", ""}},
		"always":   {false, true, 417, []string{"100-continue", ""}},
		"verbatim": {true, false, 417, []string{"100-continue"}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 10)
			upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
				Early: func(r *fetchtest.Recorded) (fetchtest.Step, bool) {
					asked <- r.Get("Expect")
					if r.Get("Expect") == "" {
						return nil, false
					}
					return fetchtest.Steps(fetchtest.Answer(417, "no", "Connection: close"), fetchtest.HalfClose()), true
				},
				Respond: fetchtest.Sequence(fetchtest.Answer(map[bool]int{false: 200, true: 417}[c.always], "answer")),
			})
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}})
			m := get(upstream.URL("/"))
			m.Request.Method, m.Request.Body = "POST", raw("abc")
			m.Options.Verbatim, m.Options.Report = proto.Bool(c.verbatim), full()
			m.Options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true), ContinueTimeout: seconds(30)}
			r := answered(t, g, m)
			close(asked)
			var expects []string
			for e := range asked {
				expects = append(expects, e)
			}
			if !slices.Equal(expects, c.expects) || r.GetResponse().GetHead().GetStatus() != c.status {
				t.Errorf("the upstream was asked with %q, the response is %v", expects, r.GetResponse())
			}
			report := r.GetReport()
			if report.GetAttemptCount() != 1 || int(report.GetHopCount()) != len(c.expects) || len(r.GetResponse().GetHistory()) > 0 {
				t.Errorf("the report is %v", report)
			}
			for _, got := range upstream.Requests() {
				if got.Get("Expect") == "" && string(got.Body) != "abc" {
					t.Errorf("the upstream got %q", got.Raw)
				}
			}
		})
	}
}

// chunksOf streams a response and returns its body, cut where HTTP chunks end.
func chunksOf(t *testing.T, g *fetchtest.Fetchgate, m *request) []string {
	t.Helper()
	stream, err := g.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err != nil {
		t.Fatal(err)
	}
	chunks := []string{""}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks
		}
		if err != nil || event.GetSummary().GetFailure() != nil {
			t.Fatalf("got %v, %v", err, event)
		}
		chunks[len(chunks)-1] += string(event.GetData().GetData())
		if event.GetData().GetEndOfHttpChunk() {
			chunks = append(chunks, "")
		}
	}
}

// TestChunkBoundaries: where HTTP chunks end is told if it was asked for, of a
// body that is not decoded.
func TestChunkBoundaries(t *testing.T) {
	coded := gzipped([]byte("decoded"))
	chunks := []string{"one", "t", strings.Repeat("wo", 200<<10), coded}
	answer := "\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, chunk := range chunks {
		answer += fmt.Sprintf("%s\r\n%s\r\n", strconv.FormatInt(int64(len(chunk)), 16), chunk)
	}
	answer += "0\r\n\r\n"
	gzip := fmt.Sprintf("\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", coded[:5], len(coded)-5, coded[5:])
	for name, c := range map[string]struct {
		answer string
		alter  func(*fetchgatev1.ResponseOptions)
		want   []string
	}{
		"asked for":      {answer, func(*fetchgatev1.ResponseOptions) {}, append(slices.Clone(chunks), "")},
		"not asked for":  {answer, func(o *fetchgatev1.ResponseOptions) { o.ChunkBoundaries = nil }, []string{strings.Join(chunks, "")}},
		"of coded bytes": {gzip, func(o *fetchgatev1.ResponseOptions) { o.Decode = proto.Bool(false) }, []string{coded[:5], coded[5:], ""}},
		"decoded":        {gzip, func(*fetchgatev1.ResponseOptions) {}, []string{"decoded"}},
		"without chunks": {"\r\nContent-Length: 3\r\n\r\none", func(*fetchgatev1.ResponseOptions) {}, []string{"one"}},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK"+c.answer))
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream)}})
			m := get(upstream.URL("/"))
			m.Options.Response = &fetchgatev1.ResponseOptions{ChunkBoundaries: proto.Bool(true)}
			m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(patience)}
			c.alter(m.Options.Response)
			if got := chunksOf(t, g, m); !slices.Equal(got, c.want) {
				var sizes []int
				for _, chunk := range got {
					sizes = append(sizes, len(chunk))
				}
				t.Errorf("there are chunks of %d bytes", sizes)
			}
		})
	}
}
