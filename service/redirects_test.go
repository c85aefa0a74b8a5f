package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Redirects, seen from both ends: what each origin gets to read, where no
// connection goes, and what the caller learns. The ids are those of the
// project's catalogue of adversarial cases, group D. D19, a redirect in the
// middle of a streamed upload, waits for the RPC that streams uploads.

// page is what an upstream answers for a URL. Its Location, if there is one,
// names hosts without the upstream's port.
type page struct {
	status   int
	location string
	lines    []string // further field lines
	body     string
}

// pages are found by host and target: "a.test/path?query". What is not among
// them is answered with 200 and "ok".
type pages map[string]page

// names are the hosts of a web. All of them lead to one upstream.
var names = []string{"a.test", "b.test", "sub.a.test", "a.test.evil.test", "shop.co.uk"}

// web is an upstream that answers by several names, and a fetchgate that may
// fetch from all of them over http.
type web struct {
	*fetchtest.Recorder
	gate    *fetchtest.Fetchgate
	dns     *fetchtest.DNS
	network *network
}

func newWeb(t *testing.T, all pages) *web {
	t.Helper()
	w := newUpstreamOf(t, all, fetchtest.Listen{})
	var origins []string
	for _, name := range append(slices.Clone(names), "private.test") {
		origins = append(origins, w.URLOf(name, ""))
	}
	w.start(t, fetchtest.Options{Allow: origins})
	return w
}

// newUpstreamOf is a web without its fetchgate.
func newUpstreamOf(t *testing.T, all pages, l fetchtest.Listen) *web {
	w := &web{network: &network{}, dns: fetchtest.NewDNS(t)}
	for _, name := range names {
		w.dns.Set(name, "127.0.0.1")
	}
	w.dns.Set("private.test", "10.1.2.3")
	w.Recorder = fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: l, Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		host, port, _ := net.SplitHostPort(r.Host)
		p, found := all[host+r.Target]
		if !found {
			return fetchtest.Answer(200, "ok")
		}
		lines := slices.Clone(p.lines)
		if p.location != "" {
			lines = append(lines, "Location: "+withPort(p.location, port))
		}
		return fetchtest.Answer(p.status, p.body, lines...)
	}})
	return w
}

func (w *web) start(t *testing.T, o fetchtest.Options) {
	o.DNS, o.Connect = w.dns, w.network.connect
	w.gate = fetchtest.Start(t, o)
}

// at is a URL of the web with the upstream's port.
func (w *web) at(url string) string { return withPort(url, fmt.Sprint(w.Addr().Port())) }

// withPort gives a port to each host of a text that is followed by a slash.
func withPort(text, port string) string {
	for _, suffix := range []string{".test/", ".uk/"} {
		text = strings.ReplaceAll(text, suffix, strings.TrimSuffix(suffix, "/")+":"+port+"/")
	}
	return text
}

// each fetches by each RPC, and has check look at the answer and at what the
// upstream got for it, which has to be HTTP without a fault.
func (w *web) each(t *testing.T, m *request, check func(t *testing.T, a *answer, got []fetchtest.Recorded)) {
	t.Helper()
	m = proto.CloneOf(m)
	m.Request.Url = w.at(m.Request.Url)
	for _, rpc := range rpcs {
		t.Run(rpc.name, func(t *testing.T) {
			before := len(w.Requests())
			a, err := rpc.call(within(t), w.gate, m)
			if err != nil {
				t.Fatal(err)
			}
			got := w.Requests()[before:]
			for _, r := range got {
				if r.Err != nil {
					t.Errorf("the upstream could not read %q: %v", r.Raw, r.Err)
				}
			}
			check(t, a, got)
		})
	}
}

// get is a GET of a URL whose hosts have no ports.
func get(url string) *request {
	return &request{Request: &fetchgatev1.HttpRequest{Url: url}, Options: &fetchgatev1.FetchOptions{}}
}

// fetched are the requests in short: "GET a.test/path".
func fetched(got []fetchtest.Recorded) []string {
	var short []string
	for _, r := range got {
		host, _, _ := strings.Cut(r.Host, ":")
		short = append(short, r.Method+" "+host+r.Target)
	}
	return short
}

// wantFetched holds requests to their short form.
func wantFetched(t *testing.T, got []fetchtest.Recorded, want ...string) {
	t.Helper()
	if !slices.Equal(fetched(got), want) {
		t.Errorf("the upstream got %q, want %q", fetched(got), want)
	}
}

// wantAnswer holds an answer to the status and the body of a response.
func wantAnswer(t *testing.T, a *answer, status int32, body string) {
	t.Helper()
	if a.failure != nil || a.head.GetStatus() != status || string(a.body) != body {
		t.Errorf("the answer is %d %q, failure %v; want %d %q", a.head.GetStatus(), a.body, a.failure, status, body)
	}
}

// wantFailure holds an answer to the reason of a failure that shows no secret.
func wantFailure(t *testing.T, a *answer, reason string) {
	t.Helper()
	if reasonOf(a.failure) != reason {
		t.Errorf("the failure is %v after %d %q, want %s", a.failure, a.head.GetStatus(), a.body, reason)
	}
	if strings.Contains(a.failure.GetMessage(), secret) {
		t.Errorf("the message shows a secret: %s", a.failure.GetMessage())
	}
}

// network connects as a service does, and keeps the addresses and the number of
// bytes that came.
type network struct {
	mu   sync.Mutex
	to   []netip.AddrPort
	read atomic.Int64
}

func (n *network) connect(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
	n.mu.Lock()
	n.to = append(n.to, to)
	n.mu.Unlock()
	d := net.Dialer{Control: control}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return &countedConn{c.(*net.TCPConn), &n.read}, nil
}

// dialed are the addresses since the last call.
func (n *network) dialed() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.to
	n.to = nil
	return to
}

type countedConn struct {
	*net.TCPConn
	n *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func fresh() *fetchgatev1.ConnectionOptions {
	return &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)}
}

func redirects(most int32) *fetchgatev1.RedirectPolicy {
	return &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(most)}
}

// TestRedirectsThatAreRefused: the redirect is the last thing that is sent for,
// and is not taken for the answer.
func TestRedirectsThatAreRefused(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	for _, c := range []struct{ name, location, reason string }{
		{"D01 a private address", "http://10.1.2.3/", "REDIRECT_DENIED"},
		{"D01 a name of a private address", "http://private.test/", "ADDRESS_DENIED"},
		{"D01 loopback", "http://127.0.0.1:22/", "REDIRECT_DENIED"},
		{"D01 the metadata address", "http://169.254.169.254/latest/meta-data/", "REDIRECT_DENIED"},
		{"D01 a mapped address", "http://[::ffff:169.254.169.254]/", "REDIRECT_DENIED"},
		{"D01 file", "file:///etc/passwd", "UNSUPPORTED_SCHEME"},
		{"D01 gopher", "gopher://a.test/_x", "UNSUPPORTED_SCHEME"},
		{"D01 javascript", "javascript:alert(1)", "UNSUPPORTED_SCHEME"},
		{"D09 userinfo", "http://user:" + secret + "@b.test/", "INVALID_REDIRECT_URL"},
		{"D09 a user", "//" + secret + "@b.test/", "INVALID_REDIRECT_URL"},
		{"D12 a tab", "/x\ty", "INVALID_REDIRECT_URL"},
		{"D13 backslashes", `\\x\hello`, "INVALID_REDIRECT_URL"},
		{"D13 a backslash", `/\b.test/`, "INVALID_REDIRECT_URL"},
		{"D13 a scheme and backslashes", `http:\\foo`, "INVALID_REDIRECT_URL"},
		{"D13 three slashes", "///test", "INVALID_REDIRECT_URL"},
		{"D13 no slashes", "http:foo.com", "INVALID_REDIRECT_URL"},
		{"D13 one slash", "http:/foo.com", "INVALID_REDIRECT_URL"},
		{"D14 longer than a URL", "/" + long, "HEAD_TOO_LARGE"},
		{"D18 another port", "http://b.test:81/", "REDIRECT_DENIED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWeb(t, pages{"a.test/": {302, c.location, nil, "moved"}})
			w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantFailure(t, a, c.reason)
				wantFetched(t, got, "GET a.test/")
				if a.failure.GetRequestSent() != fetchgatev1.RequestSent_REQUEST_SENT_YES {
					t.Errorf("request_sent is %v, though a hop came before", a.failure.GetRequestSent())
				}
				for _, to := range w.network.dialed() {
					if to != w.Addr() {
						t.Errorf("%v was dialed", to)
					}
				}
			})
		})
	}
}

// TestResponsesThatAreNotFollowed are given back as they are.
func TestResponsesThatAreNotFollowed(t *testing.T) {
	for name, p := range map[string]page{
		"D11 no Location":           {status: 302, body: "moved"},
		"D11 an empty Location":     {status: 302, lines: []string{"Location:"}, body: "moved"},
		"D11 a blank Location":      {status: 302, lines: []string{"Location: \t "}, body: "moved"},
		"D16 300":                   {300, "/next", nil, "moved"},
		"D16 304":                   {304, "/next", nil, ""},
		"D16 305":                   {305, "/next", nil, "moved"},
		"D16 306":                   {306, "/next", nil, "moved"},
		"D16 399":                   {399, "/next", nil, "moved"},
		"D17 Refresh":               {status: 200, lines: []string{"Refresh: 0; url=/next"}, body: "moved"},
		"D17 a Refresh of a 302":    {status: 302, lines: []string{"Refresh: 0; url=/next"}, body: "moved"},
		"D17 meta refresh":          {status: 200, lines: []string{"Content-Type: text/html"}, body: `<meta http-equiv="refresh" content="0;url=/next">`},
		"D21 201 with Location":     {201, "/next", nil, "made"},
		"D21 200 with Location":     {200, "/next", nil, "here"},
		"D21 Content-Location":      {status: 200, lines: []string{"Content-Location: /next"}, body: "here"},
		"D21 a 302 that has that":   {status: 302, lines: []string{"Content-Location: /next"}, body: "moved"},
		"D16 a 500 with a Location": {status: 500, location: "/next", body: "down"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newWeb(t, pages{"a.test/": p}).each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, int32(p.status), p.body)
				wantFetched(t, got, "GET a.test/")
				if len(a.history) != 0 {
					t.Errorf("the history is %v", a.history)
				}
			})
		})
	}
}

// TestTwoLocations: two that differ lead to two places at once.
func TestTwoLocations(t *testing.T) {
	t.Run("D10 that differ", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {status: 302, lines: []string{"Location: /x", "Location: /y"}}})
		w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantFailure(t, a, "INVALID_REDIRECT_URL")
			wantFetched(t, got, "GET a.test/")
		})
	})
	t.Run("D10 that are the same", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {status: 302, lines: []string{"Location: /x", "location: /x"}}})
		w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 200, "ok")
			wantFetched(t, got, "GET a.test/", "GET a.test/x")
		})
	})
}

// TestLocationsOnTheWire: whatever a Location holds, what is sent for it is a
// request line of three visible words, or nothing.
func TestLocationsOnTheWire(t *testing.T) {
	for _, c := range []struct{ name, location, target string }{
		{"D12 spaces", "/x?name=d a niel&b=c d", "/x?name=d%20a%20niel&b=c%20d"},
		{"D12 UTF-8", "/ä?ö", "/%C3%A4?%C3%B6"},
		{"D12 Latin-1", "/\xe4\xf6", "/%E4%F6"},
		{"D12 what a URL cannot have", "/x\"<>^{|}`", "/x%22%3C%3E%5E%7B%7C%7D%60"},
		{"D12 what is encoded already", "/%2F%20?%41", "/%2F%20?%41"},
		{"D12 a percent sign", "/100%", "/100%25"},
		{"D22 a fragment", "/x#f", "/x"},
		{"D22 a fragment that has been there", "", "/next"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			location := c.location
			if location == "" {
				location = "/next"
			}
			w := newWeb(t, pages{"a.test/": {302, location, nil, ""}})
			w.each(t, get("http://a.test/#old"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, 200, "ok")
				wantFetched(t, got, "GET a.test/", "GET a.test"+c.target)
				fragment := "#old"
				if _, after, found := strings.Cut(location, "#"); found {
					fragment = "#" + after
				}
				if want := w.URLOf("a.test", c.target) + fragment; a.head.GetUrl() != want {
					t.Errorf("the final URL is %q, want %q", a.head.GetUrl(), want)
				}
			})
		})
	}
	t.Run("D12 a control character", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {302, "/x\x01y", nil, ""}})
		w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantFailure(t, a, "MALFORMED_HEAD")
			wantFetched(t, got, "GET a.test/")
		})
	})
	t.Run("D14 a mebibyte", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {302, "/" + strings.Repeat("x", 1<<20), nil, ""}})
		w.each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantFailure(t, a, "HEAD_TOO_LARGE")
			wantFetched(t, got, "GET a.test/")
		})
	})
}

// TestLocationsOfWebPlatformTests answers with each Location that two parsers
// could read in two ways. Whatever comes of it, nothing is sent to another host
// than the URL Standard's.
func TestLocationsOfWebPlatformTests(t *testing.T) {
	data, err := os.ReadFile("redirect/testdata/locations.json") // its "source" says where it is from
	if err != nil {
		t.Fatal(err)
	}
	var cases struct {
		Location []struct {
			ID, Location, Must string
			WHATWG             struct{ Hostname string }
		}
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	dns := fetchtest.NewDNS(t)
	dns.Set("example.org", "127.0.0.1")
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		for _, c := range cases.Location {
			if r.Target == "/foo/"+c.ID {
				return fetchtest.Write("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + c.Location + "\r\n\r\n")
			}
		}
		return fetchtest.Answer(200, "ok")
	}})
	g := fetchtest.Start(t, fetchtest.Options{DNS: dns, Allow: []string{u.URLOf("example.org", "")}})
	stopped := 0
	for _, c := range cases.Location {
		t.Run("D13 "+c.ID, func(t *testing.T) {
			asked, received := len(dns.Queries()), len(u.Requests())
			m := get(u.URLOf("example.org", "/foo/"+c.ID))
			m.Options.Connection = fresh()
			a, err := whole(within(t), g, m)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range dns.Queries()[asked:] {
				host := strings.TrimSuffix(q.Host, ".")
				if host != "example.org" && (c.Must == "stop" || host != c.WHATWG.Hostname) {
					t.Errorf("%q: %q was looked up; %s, by the Standard %q", c.Location, q.Host, c.Must, c.WHATWG.Hostname)
				}
			}
			for _, r := range u.Requests()[received:] {
				if r.Err != nil {
					t.Errorf("%q: the upstream could not read %q: %v", c.Location, r.Raw, r.Err)
				}
			}
			if a.failure != nil {
				stopped++
			}
		})
	}
	if len(cases.Location) != 202 || stopped < 100 || stopped == len(cases.Location) {
		t.Errorf("%d of %d Locations were not followed", stopped, len(cases.Location))
	}
}

// chain is a page for each step from "/0" to "/n", each of which redirects to
// the next.
func chain(n int) pages {
	all := pages{}
	for i := range n {
		all[fmt.Sprintf("a.test/%d", i)] = page{302, fmt.Sprintf("http://a.test/%d", i+1), []string{fmt.Sprintf("X-Step: %d", i)}, fmt.Sprint("step ", i)}
	}
	return all
}

// wantHistory holds the history to the first n steps of a chain.
func wantHistory(t *testing.T, w *web, a *answer, n int) {
	t.Helper()
	if len(a.history) != n || a.report.GetHistoryCut() != 0 {
		t.Fatalf("the history has %d heads, want %d", len(a.history), n)
	}
	for i, h := range a.history {
		step := ""
		for _, f := range h.GetHeaders() {
			if f.GetName() == "X-Step" {
				step = string(f.GetValue())
			}
		}
		if want := w.at(fmt.Sprintf("http://a.test/%d", i)); h.GetStatus() != 302 || h.GetUrl() != want || step != fmt.Sprint(i) {
			t.Errorf("number %d of the history is %v, want the 302 of %s", i, h, want)
		}
	}
}

func TestHowManyRedirects(t *testing.T) {
	w := newWeb(t, chain(40))
	for _, c := range []struct {
		name     string
		policy   *fetchgatev1.RedirectPolicy
		followed int
		clamped  bool
	}{
		{"D03 the eleventh is one too many", nil, 10, false},
		{"D03 three", redirects(3), 3, false},
		{"D03 the most", redirects(30), 30, false},
		{"D03 more than the most", redirects(31), 30, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := get("http://a.test/0")
			m.Options.Redirect = c.policy
			w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantFailure(t, a, "TOO_MANY_REDIRECTS")
				if len(got) != c.followed+1 || int(a.report.GetHopCount()) != c.followed+1 {
					t.Errorf("%d requests came, the report has %d hops; want %d", len(got), a.report.GetHopCount(), c.followed+1)
				}
				wantHistory(t, w, a, c.followed)
				last := a.failure.GetResponse()
				if want := fmt.Sprint("step ", c.followed); last.GetHead().GetStatus() != 302 || string(last.GetBody()) != want {
					t.Errorf("the last response is %v, want a 302 with the body %q", last, want)
				}
				if hit := a.failure.GetLimitHit(); hit.GetLimit() != "max_redirects" || int(hit.GetMaximum()) != c.followed {
					t.Errorf("the limit hit is %v", hit)
				}
				if clamped := slices.Contains(a.report.GetClamped(), "options.redirect.max_redirects"); clamped != c.clamped {
					t.Errorf("clamped is %q", a.report.GetClamped())
				}
			})
		})
	}
	t.Run("D03 none returns the redirect itself", func(t *testing.T) {
		m := get("http://a.test/0")
		m.Options.Redirect = redirects(0)
		w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 302, "step 0")
			wantFetched(t, got, "GET a.test/0")
		})
	})
	t.Run("D03 as many as allowed", func(t *testing.T) {
		w := newWeb(t, chain(10))
		w.each(t, get("http://a.test/0"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 200, "ok")
			wantHistory(t, w, a, 10)
			if a.head.GetUrl() != w.at("http://a.test/10") || a.report.GetHopCount() != 11 {
				t.Errorf("the answer is of %s after %d hops", a.head.GetUrl(), a.report.GetHopCount())
			}
		})
	})
	t.Run("D03 fewer than none are refused", func(t *testing.T) {
		for _, rpc := range rpcs {
			m := get(w.at("http://a.test/0"))
			m.Options.Redirect = redirects(-1)
			_, err := rpc.call(t.Context(), w.gate, m)
			wantRefused(t, rpc.name, err, "options.redirect.max_redirects")
		}
	})
}

func TestRedirectLoops(t *testing.T) {
	for name, all := range map[string]pages{
		"D04 to itself": {"a.test/": {302, "/", nil, "again"}},
		"D04 to and fro": {
			"a.test/": {302, "http://b.test/", nil, "there"},
			"b.test/": {302, "http://a.test/", nil, "back"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			newWeb(t, all).each(t, get("http://a.test/"), func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantFailure(t, a, "REDIRECT_LOOP")
				if len(got) != 11 || len(a.history) != 10 || a.failure.GetResponse().GetHead().GetStatus() != 302 {
					t.Errorf("%d requests, %d heads of history, the last response %v; want 11, 10 and a 302", len(got), len(a.history), a.failure.GetResponse().GetHead())
				}
			})
		})
	}
}

func TestMethodsAndBodiesOfRedirects(t *testing.T) {
	for _, c := range []struct {
		status int
		method string
		next   string // "" is the same, with its body
	}{
		{301, "POST", "GET"}, {302, "POST", "GET"}, {303, "POST", "GET"}, {303, "PUT", "GET"}, {303, "DELETE", "GET"},
		{301, "PUT", ""}, {302, "PATCH", ""}, {307, "POST", ""}, {308, "POST", ""}, {307, "PUT", ""}, {308, "GET", ""},
	} {
		t.Run(fmt.Sprintf("D05 %d %s", c.status, c.method), func(t *testing.T) {
			t.Parallel()
			w := newWeb(t, pages{"a.test/": {c.status, "/next", nil, ""}})
			m := get("http://a.test/")
			m.Request.Method, m.Request.Headers, m.Request.Body = c.method, headers("Content-Type", "text/x-sample"), raw("sample")
			w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, 200, "ok")
				want, body, kind, length := c.method, "sample", "text/x-sample", "6"
				if c.next != "" {
					want, body, kind, length = c.next, "", "", ""
				}
				wantFetched(t, got, c.method+" a.test/", want+" a.test/next")
				if len(got) != 2 {
					return
				}
				next := got[1]
				if string(got[0].Body) != "sample" || string(next.Body) != body || next.Get("Content-Type") != kind || next.Get("Content-Length") != length {
					t.Errorf("the bodies are %q and then %q, %q of %q bytes", got[0].Body, next.Body, next.Get("Content-Type"), next.Get("Content-Length"))
				}
			})
		})
	}
	t.Run("D05 HEAD stays HEAD", func(t *testing.T) {
		w := newWeb(t, pages{"a.test/": {303, "/next", nil, ""}})
		m := get("http://a.test/")
		m.Request.Method = "HEAD"
		w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 200, "")
			wantFetched(t, got, "HEAD a.test/", "HEAD a.test/next")
		})
	})
}

// secrets are fields that are for one origin, and some that say nothing of who
// asks. A caller cannot send Proxy-Authorization at all.
func secrets() []*fetchgatev1.HeaderField {
	return slices.Concat(
		headers("Authorization", "Bearer "+secret), headers("Cookie", "session="+secret), headers("X-Api-Key", secret),
		headers("Accept", "text/x-sample"), headers("Accept-Language", "de"), headers("Range", "bytes=0-9"), headers("If-None-Match", `"x"`))
}

// wantFields holds a request to those of secrets that it has.
func wantFields(t *testing.T, r fetchtest.Recorded, want ...string) {
	t.Helper()
	var has []string
	for _, f := range secrets() {
		if r.Get(f.GetName()) != "" {
			has = append(has, f.GetName())
		}
	}
	if !slices.Equal(has, want) {
		t.Errorf("%q has the fields %q, want %q", fetched([]fetchtest.Recorded{r}), has, want)
	}
}

var (
	allSecrets = []string{"Authorization", "Cookie", "X-Api-Key", "Accept", "Accept-Language", "Range", "If-None-Match"}
	noSecrets  = allSecrets[3:]
)

// TestFieldsOfRedirects: which of the caller's fields each origin gets.
func TestFieldsOfRedirects(t *testing.T) {
	a, b := "http://a.test/", "http://b.test/"
	for _, c := range []struct {
		name   string
		policy *fetchgatev1.RedirectPolicy
		route  []string
		want   [][]string
	}{
		{"D06 to the same origin all go along", nil, []string{a, a + "2"}, [][]string{allSecrets, allSecrets}},
		{"D06 to another host no secret goes along", nil, []string{a, b}, [][]string{allSecrets, noSecrets}},
		{"D06 with keep_fields the named one goes along", &fetchgatev1.RedirectPolicy{KeepFields: []string{"x-api-key"}},
			[]string{a, b}, [][]string{allSecrets, allSecrets[2:]}},
		{"D06 with remove_fields fewer go along", &fetchgatev1.RedirectPolicy{RemoveFields: []string{"accept-language"}},
			[]string{a, b}, [][]string{allSecrets, {"Accept", "Range", "If-None-Match"}}},
		{"D06 a lenient profile does not take the bound ones along", &fetchgatev1.RedirectPolicy{Profile: fetchgatev1.RedirectProfile_REDIRECT_PROFILE_URLLIB3.Enum()},
			[]string{a, b}, [][]string{allSecrets, allSecrets[2:]}},
		{"D07 a→b→b: secrets do not come back", nil, []string{a, b, b + "2"}, [][]string{allSecrets, noSecrets, noSecrets}},
		{"D07 a→b→a: secrets do not come back", nil, []string{a, b, a + "2"}, [][]string{allSecrets, noSecrets, noSecrets}},
		{"D07 b→a→b: secrets do not come back", nil, []string{b, a, b + "2"}, [][]string{allSecrets, noSecrets, noSecrets}},
		{"D07 a→a→b→a", nil, []string{a, a + "2", b, a + "3"}, [][]string{allSecrets, allSecrets, noSecrets, noSecrets}},
		{"D08 to a subdomain", nil, []string{a, "http://sub.a.test/"}, [][]string{allSecrets, noSecrets}},
		{"D08 from a subdomain", nil, []string{"http://sub.a.test/", a}, [][]string{allSecrets, noSecrets}},
		{"D08 to a name that begins the same", nil, []string{a, "http://a.test.evil.test/"}, [][]string{allSecrets, noSecrets}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all, short := pages{}, []string{}
			for i, url := range c.route {
				name := strings.TrimPrefix(url, "http://")
				short = append(short, "GET "+name)
				if i+1 < len(c.route) {
					all[name] = page{302, c.route[i+1], nil, ""}
				}
			}
			m := get(c.route[0])
			m.Request.Headers, m.Options.Redirect = secrets(), c.policy
			newWeb(t, all).each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, 200, "ok")
				wantFetched(t, got, short...)
				for i := range min(len(got), len(c.want)) {
					wantFields(t, got[i], c.want[i]...)
				}
			})
		})
	}
	t.Run("D06 keep_fields does not keep what is bound", func(t *testing.T) {
		w := newWeb(t, nil)
		for _, name := range []string{"Authorization", "cookie", "PROXY-AUTHORIZATION"} {
			for _, rpc := range rpcs {
				m := get(w.at(a))
				m.Options.Redirect = &fetchgatev1.RedirectPolicy{KeepFields: []string{name}}
				_, err := rpc.call(t.Context(), w.gate, m)
				wantRefused(t, rpc.name+" "+name, err, "options.redirect.keep_fields[0]")
			}
		}
	})
}

// TestFieldsToOtherPortsAndSchemes: an origin is a scheme, a host and a port.
func TestFieldsToOtherPortsAndSchemes(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	for name, l := range map[string]fetchtest.Listen{
		"D06 to another port":                    {},
		"D06 to another scheme of the same host": {Authority: authority},
	} {
		t.Run(name, func(t *testing.T) {
			to := newUpstreamOf(t, nil, l)
			from := newUpstreamOf(t, pages{"a.test/": {302, to.URLOf("a.test", "/x"), nil, ""}}, fetchtest.Listen{})
			from.start(t, fetchtest.Options{Trust: authority, Allow: []string{from.URLOf("a.test", ""), to.URLOf("a.test", "")}})
			m := get("http://a.test/")
			m.Request.Headers = secrets()
			from.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				wantAnswer(t, a, 200, "ok")
				wantFetched(t, got, "GET a.test/")
				all := to.Requests()
				wantFields(t, got[0], allSecrets...)
				wantFields(t, all[len(all)-1], noSecrets...)
			})
		})
	}
}

// TestDowngrades: from https to http goes only what a rule lets go.
func TestDowngrades(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	for _, c := range []struct{ name, allow, reason string }{
		{"D02 is refused", "", "REDIRECT_DENIED"},
		{"D02 is refused with false", "\n    dangerous_allow_downgrade: false", "REDIRECT_DENIED"},
		{"D02 is allowed by the target's rule", "\n    dangerous_allow_downgrade: true", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain := newUpstreamOf(t, nil, fetchtest.Listen{})
			secure := newUpstreamOf(t, pages{"a.test/": {302, plain.URLOf("b.test", "/x"), nil, ""}}, fetchtest.Listen{Authority: authority})
			secure.start(t, fetchtest.Options{
				Trust: authority, Allow: []string{secure.URLOf("a.test", "")},
				Extra: fmt.Sprintf("  - name: plain\n    dangerous_allow_loopback: true\n    origins: [%q]%s\n", plain.URLOf("b.test", ""), c.allow),
			})
			m := get(secure.URLOf("a.test", "/"))
			secure.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
				if c.reason == "" {
					wantAnswer(t, a, 200, "ok")
					return
				}
				wantFailure(t, a, c.reason)
				denial := a.failure.GetDenial()
				if denial.GetRule() != "plain" || a.failure.GetBlame() != fetchgatev1.Blame_BLAME_POLICY {
					t.Errorf("the denial is %v by %v", denial, a.failure.GetBlame())
				}
				if opened, _ := plain.Connections(); opened != 0 || slices.Contains(secure.network.dialed(), plain.Addr()) {
					t.Error("the http origin was dialed")
				}
				if len(a.history) != 1 || a.head != nil {
					t.Errorf("the history is %v and the head %v; want the redirect as history alone", a.history, a.head)
				}
			})
		})
	}
}

// TestRedirectsWithBodiesThatDoNotEnd: little of them is read, and the fetch goes on.
func TestRedirectsWithBodiesThatDoNotEnd(t *testing.T) {
	for name, step := range map[string]fetchtest.Step{
		"D15 a body for ever":         fetchtest.Steps(fetchtest.Write("\r\n"), fetchtest.Forever(strings.Repeat("x", 1<<10))),
		"D15 a chunk for ever":        fetchtest.Steps(fetchtest.Write("Transfer-Encoding: chunked\r\n\r\n"), fetchtest.Forever("400\r\n"+strings.Repeat("x", 1<<10)+"\r\n")),
		"D15 a body that never comes": fetchtest.Steps(fetchtest.Write("Content-Length: 10\r\n\r\nhello"), fetchtest.Hang()),
		"D15 a body of a gibibyte":    fetchtest.Steps(fetchtest.Write("Content-Length: 1073741824\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", 1<<10))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
				if r.Target == "/next" {
					return fetchtest.Answer(200, "ok")
				}
				return fetchtest.Steps(fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: /next\r\n"), step)
			}})
			n := &network{}
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}, Connect: n.connect})
			for i, rpc := range rpcs {
				began, before := time.Now(), n.read.Load()
				m := get(u.URL("/"))
				m.Options.Connection = fresh()
				a, err := rpc.call(within(t), g, m)
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, a, 200, "ok")
				// What is read is 64 KiB and a head, or one buffer more.
				if read := n.read.Load() - before; read > 64<<10+32<<10 {
					t.Errorf("%s: %d bytes were read", rpc.name, read)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("%s: it took %v", rpc.name, took)
				}
				if err := u.WaitClosed(within(t), 2*i+1); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestEveryHopIsDecided: by the rule of its own origin, for its method, at the
// address that its name has then.
func TestEveryHopIsDecided(t *testing.T) {
	two := func(t *testing.T, all pages, second string) *web {
		w := newUpstreamOf(t, all, fetchtest.Listen{})
		w.start(t, fetchtest.Options{
			Allow: []string{w.URLOf("a.test", "")},
			Extra: fmt.Sprintf("  - name: second\n    dangerous_allow_loopback: true\n    origins: [%q]\n%s", w.URLOf("b.test", ""), second),
		})
		return w
	}
	there := pages{"a.test/": {307, "http://b.test/", nil, ""}, "b.test/": {307, "http://a.test/2", nil, ""}}
	t.Run("D18 by two rules, with a connection each", func(t *testing.T) {
		w := two(t, there, "")
		m := get("http://a.test/")
		m.Options.Report, m.Options.Connection = full(), fresh()
		w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantAnswer(t, a, 200, "ok")
			var rules []string
			for _, h := range a.report.GetAttempts()[0].GetHops() {
				rules = append(rules, h.GetRule())
			}
			if want := []string{"test", "second", "test"}; !slices.Equal(rules, want) || a.report.GetRule() != "test" {
				t.Errorf("the rules are %q and at last %s, want %q", rules, a.report.GetRule(), want)
			}
			if n := len(w.network.dialed()); n != 3 {
				t.Errorf("there were %d dials for 3 hops", n)
			}
		})
	})
	t.Run("D18 for the method", func(t *testing.T) {
		w := two(t, there, "    methods: [GET]\n")
		m := get("http://a.test/")
		m.Request.Method = "POST"
		w.each(t, m, func(t *testing.T, a *answer, got []fetchtest.Recorded) {
			wantFailure(t, a, "REDIRECT_DENIED")
			wantFetched(t, got, "POST a.test/")
		})
	})
	for name, second := range map[string]string{
		"D18 at the address that the name has then": "10.1.2.3",
		"D18 not at the metadata address":           "169.254.169.254",
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t, pages{"a.test/": {302, "/2", nil, ""}}, "")
			m := get("http://a.test/")
			m.Options.Connection = fresh()
			for _, rpc := range rpcs {
				w.dns.Script("a.test", w.dns.Addresses("127.0.0.1"), w.dns.Addresses(second))
				w.network.dialed()
				a, err := rpc.call(within(t), w.gate, &request{Request: &fetchgatev1.HttpRequest{Url: w.at("http://a.test/")}, Options: m.Options})
				if err != nil {
					t.Fatal(err)
				}
				wantFailure(t, a, "ADDRESS_DENIED")
				if to := w.network.dialed(); !slices.Equal(to, []netip.AddrPort{w.Addr()}) {
					t.Errorf("%s: %v was dialed", rpc.name, to)
				}
			}
		})
	}
}

// TestTimeOfRedirects: one deadline spans the whole chain.
func TestTimeOfRedirects(t *testing.T) {
	const hop, total = 180 * time.Millisecond, 400 * time.Millisecond
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Steps(delay(hop), fetchtest.Answer(302, "", "Location: "+r.Target+"x"))
	}})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
	for _, rpc := range rpcs {
		for _, c := range []struct {
			name  string
			call  func(m *request) (*answer, error)
			early time.Duration // than total: the headroom for the answer
		}{
			{"D20 the total timeout spans all hops", func(m *request) (*answer, error) {
				m.Options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(total)}
				return rpc.call(within(t), g, m)
			}, 0},
			{"D20 the caller's deadline spans all hops", func(m *request) (*answer, error) {
				ctx, cancel := context.WithTimeout(t.Context(), total)
				defer cancel()
				return rpc.call(ctx, g, m)
			}, 25 * time.Millisecond},
		} {
			t.Run(c.name+"/"+rpc.name, func(t *testing.T) {
				best := patience
				for try := 1; try <= tries && best > total+50*time.Millisecond; try++ {
					began := time.Now()
					a, err := c.call(get(u.URL("/")))
					took := time.Since(began)
					if err != nil && try < tries {
						continue // the answer did not come in the time that it has
					}
					if err != nil {
						t.Fatal(err)
					}
					wantFailure(t, a, "TOTAL_TIMEOUT")
					if a.report.GetHopCount() != 3 || len(a.history) != 2 {
						t.Errorf("there were %d hops, %d in the history; want 3 and 2", a.report.GetHopCount(), len(a.history))
					}
					if took < total-c.early {
						t.Errorf("it ended after %v", took)
					}
					best = min(best, took)
				}
				if best > total+50*time.Millisecond {
					t.Errorf("it took %v, want %v", best, total)
				}
			})
		}
	}
}

// delay waits, unless the connection ends before.
func delay(d time.Duration) fetchtest.Step {
	return func(c *fetchtest.Conn) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-c.Ended():
			return net.ErrClosed
		}
	}
}
