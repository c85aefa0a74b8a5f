package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Whatever a caller writes into a request, the upstream receives exactly one
// request of exactly the intended bytes, or nothing at all.

// inner is a request that a caller tries to get past policy inside of another.
const inner = "GET /admin HTTP/1.1\r\nHost: inside\r\n\r\n"

// wiretap is a fetchgate and the upstream that it may reach, which closes every
// connection after what came on it was answered.
type wiretap struct {
	*fetchtest.Fetchgate
	upstream *fetchtest.Recorder
	sent     int // requests that went out
}

func startWiretap(t *testing.T) *wiretap {
	t.Helper()
	w := &wiretap{upstream: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Respond: fetchtest.Sequence(fetchtest.Answer(200, "ok", "Connection: close")),
	})}
	w.Fetchgate = fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(w.upstream.Upstream)}})
	return w
}

// fetch sends a request as set makes it of a plain one without default fields.
func (w *wiretap) fetch(t *testing.T, set func(*request)) error {
	t.Helper()
	m := &request{Request: &fetchgatev1.HttpRequest{
		Url: w.upstream.URL("/"), OmitDefaultFields: []string{"user-agent", "accept", "accept-encoding"},
	}}
	set(m)
	_, err := w.Fetch(within(t), m)
	return err
}

// wantNothing wants a request to be refused for the field of that path, before
// a connection is opened.
func (w *wiretap) wantNothing(t *testing.T, what, path string, set func(*request)) {
	t.Helper()
	before, _ := w.upstream.Connections()
	wantRefused(t, what, w.fetch(t, set), path)
	if after, _ := w.upstream.Connections(); after != before {
		t.Errorf("%s: %d connections were opened for a request that was refused", what, after-before)
	}
}

// wantWire wants exactly these bytes to arrive on a connection, HOST being the
// upstream's authority.
func (w *wiretap) wantWire(t *testing.T, what, wire string, set func(*request)) {
	t.Helper()
	opened, _ := w.upstream.Connections()
	before := len(w.upstream.Requests())
	if err := w.fetch(t, set); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	w.sent++
	if err := w.upstream.WaitClosed(within(t), opened+1); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	wire = strings.Replace(wire, "HOST", w.upstream.Addr().String(), 1)
	got := w.upstream.Requests()[before:]
	if len(got) != 1 {
		t.Errorf("%s: the upstream got %d requests, want one", what, len(got))
		return
	}
	if got[0].Err != nil || string(got[0].Raw) != wire {
		t.Errorf("%s: the upstream got, with error %v,\n%q\nwant\n%q", what, got[0].Err, got[0].Raw, wire)
	}
}

// wantNoMore ends the upstream, so that nothing is left to come, and counts.
func (w *wiretap) wantNoMore(t *testing.T) {
	t.Helper()
	w.upstream.Close()
	if got := w.upstream.Requests(); len(got) != w.sent || w.sent == 0 {
		t.Errorf("%d requests arrived, %d were sent", len(got), w.sent)
	}
}

// spellings are ways to write a field name in which lists of names go astray.
func spellings(name string) []string {
	lower, upper := strings.ToLower(name), strings.ToUpper(name)
	half := len(name) / 2
	return []string{name, lower, upper, lower[:half] + upper[half:], upper[:1] + lower[1:]}
}

// framing are the names of fields that fetchgate writes itself or never.
var framing = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "TE", "Trailer",
	"Keep-Alive", "Upgrade", "HTTP2-Settings", "Proxy-Authorization", "Proxy-Connection", "Proxy-Anything", "Proxy-",
	":authority", ":method", ":path", ":protocol", ":scheme", ":status", ":anything", ":",
}

// disguised are names that some recipients take for others, or cut short.
var disguised = []string{
	"Transfer_Encoding", "Content_Length", "X_Forwarded_For", // as CGI writes "-"
	"Tran\u017ffer-Encoding", "\u212aeep-Alive", // by letters that fold to ASCII
	"Transfer-Encoding ", " Transfer-Encoding", "Transfer-Encoding\t", "Transfer-Encoding:", "Transfer-Encoding\x00",
	"Transfer-Encoding\r\n", "X-B: c\r\nTransfer-Encoding", "",
}

// TestFieldsThatAreNotTheCallers tries every name in every spelling, around a
// body that holds a request.
func TestFieldsThatAreNotTheCallers(t *testing.T) {
	w := startWiretap(t)
	names := disguised
	for _, name := range framing {
		names = append(names, spellings(name)...)
	}
	for _, name := range names {
		for _, value := range []string{"chunked", "0", "inside", "close, X-A", ""} {
			w.wantNothing(t, name+": "+value, "request.headers[1]", func(m *request) {
				m.Request.Method = "POST"
				m.Request.Headers = append(headers("X-A", "b"), headers(name, value)...)
				m.Request.Body = raw("0\r\n\r\n" + inner)
			})
		}
	}
	w.wantWire(t, "the same without them", "POST / HTTP/1.1\r\nHost: HOST\r\nX-A: b\r\nContent-Length: 42\r\n\r\n0\r\n\r\n"+inner, func(m *request) {
		m.Request.Method = "POST"
		m.Request.Headers = headers("X-A", "b")
		m.Request.Body = raw("0\r\n\r\n" + inner)
	})
	w.wantNoMore(t)
}

// TestFieldsOfProxiesAreTheCallers: what proxies tell upstreams of each other
// says nothing about the message itself, and goes out as given.
func TestFieldsOfProxiesAreTheCallers(t *testing.T) {
	w := startWiretap(t)
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via"} {
		w.wantWire(t, name, "GET / HTTP/1.1\r\nHost: HOST\r\n"+name+": for=127.0.0.1\r\n\r\n", func(m *request) {
			m.Request.Headers = headers(name, "for=127.0.0.1")
		})
	}
	w.wantNoMore(t)
}

const (
	alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	inToken      = alphanumeric + "!#$%&'*+-.^_`|~"    // RFC 9110 section 5.6.2
	inURLPath    = alphanumeric + "-._~!$&'()*+,;=:@/" // RFC 3986 section 3.3
	inFormValue  = alphanumeric + "-._~"
	visible      = inToken + `"(),/:;<=>?@[\]{}` // RFC 5234 appendix B.1
)

// slot is a part of a request that takes text from the caller.
type slot struct {
	name string
	set  func(m *request, text string)
	// path is that of the field; text that does not fit is refused by it.
	path string
	// wire is what goes out with a text, or empty when it does not fit. The text
	// is the letter a, what is tried, and the letter z.
	wire func(tried string) string
}

var slots = []slot{
	{
		"value of a field",
		func(m *request, text string) { m.Request.Headers = headers("X-A", text) }, "request.headers[0]",
		func(tried string) string {
			return ifNoControl(tried, "\t", "GET / HTTP/1.1\r\nHost: HOST\r\nX-A: a"+tried+"z\r\n\r\n")
		},
	}, {
		"name of a field",
		func(m *request, text string) { m.Request.Headers = headers(text, "v") }, "request.headers[0]",
		func(tried string) string {
			name := "a" + tried + "z"
			return ifOnly(tried, strings.ReplaceAll(inToken, "_", ""), "GET / HTTP/1.1\r\nHost: HOST\r\n"+name+": v\r\n\r\n")
		},
	}, {
		"value of a cookie",
		func(m *request, text string) { m.Request.Cookies = cookies("n", text) }, "request.cookies[0]",
		func(tried string) string {
			if tried == ";" {
				return "" // the next cookie would begin
			}
			return ifNoControl(tried, "\t", "GET / HTTP/1.1\r\nHost: HOST\r\nCookie: n=a"+tried+"z\r\n\r\n")
		},
	}, {
		"name of a cookie",
		func(m *request, text string) { m.Request.Cookies = cookies(text, "v") }, "request.cookies[0]",
		func(tried string) string {
			return ifOnly(tried, inToken, "GET / HTTP/1.1\r\nHost: HOST\r\nCookie: a"+tried+"z=v\r\n\r\n")
		},
	}, {
		"method",
		func(m *request, text string) { m.Request.Method = text }, "request.method",
		func(tried string) string {
			return ifOnly(tried, inToken, "a"+tried+"z / HTTP/1.1\r\nHost: HOST\r\n\r\n")
		},
	}, {
		"raw target",
		func(m *request, text string) { m.Request.RawTarget = "/" + text }, "request.raw_target",
		func(tried string) string {
			return ifOnly(tried, strings.ReplaceAll(visible, "#", ""), "GET /a"+tried+"z HTTP/1.1\r\nHost: HOST\r\n\r\n")
		},
	}, {
		"path",
		func(m *request, text string) { m.Request.Url += text }, "request.url",
		func(tried string) string {
			target := "/" + escaped("a"+tried+"z", inURLPath+"?")
			if tried == "#" {
				target = "/a"
			}
			return ifNoControl(tried, "", "GET "+target+" HTTP/1.1\r\nHost: HOST\r\n\r\n")
		},
	}, {
		"query",
		func(m *request, text string) { m.Request.Url += "?" + text }, "request.url",
		func(tried string) string {
			target := "/?" + escaped("a"+tried+"z", inURLPath+"?")
			if tried == "#" {
				target = "/?a"
			}
			return ifNoControl(tried, "", "GET "+target+" HTTP/1.1\r\nHost: HOST\r\n\r\n")
		},
	}, {
		"fragment",
		func(m *request, text string) { m.Request.Url += "#" + text }, "request.url",
		func(tried string) string {
			return ifNoControl(tried, "", "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")
		},
	}, {
		"parameter",
		func(m *request, text string) { m.Request.Params = params(text, text) }, "request.params",
		func(tried string) string {
			pair := formEscaped("a" + tried + "z")
			return "GET /?" + pair + "=" + pair + " HTTP/1.1\r\nHost: HOST\r\n\r\n"
		},
	}, {
		"field of a form",
		func(m *request, text string) {
			m.Request.Method, m.Request.Body = "POST", form(params(text, text)...)
		}, "request.body",
		func(tried string) string {
			pair := formEscaped("a" + tried + "z")
			body := pair + "=" + pair
			return fmt.Sprintf("POST / HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		},
	}, {
		"body",
		func(m *request, text string) { m.Request.Method, m.Request.Body = "PUT", raw(text) }, "request.body",
		func(tried string) string {
			return fmt.Sprintf("PUT / HTTP/1.1\r\nHost: HOST\r\nContent-Length: %d\r\n\r\na%sz", len(tried)+2, tried)
		},
	},
}

func cookies(name, value string) []*fetchgatev1.Cookie {
	return []*fetchgatev1.Cookie{{Name: []byte(name), Value: []byte(value)}}
}

// ifNoControl is wire if tried has no control character, except for some.
func ifNoControl(tried, except, wire string) string {
	isBad := func(r rune) bool { return (r < ' ' || r == 0x7f) && !strings.ContainsRune(except, r) }
	if strings.ContainsFunc(tried, isBad) {
		return ""
	}
	return wire
}

// ifOnly is wire if tried has no other characters than these.
func ifOnly(tried, characters, wire string) string {
	if strings.Trim(tried, characters) != "" {
		return ""
	}
	return wire
}

func escaped(text, legal string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if strings.IndexByte(legal, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func formEscaped(text string) string {
	return strings.ReplaceAll(escaped(text, inFormValue+" "), " ", "+")
}

// tried are every byte and what breaks lines in other places than ASCII.
func tried() []string {
	texts := []string{"\u0085", "\u2028", "\u2029", "\r\nX-B: c", "\r\n\r\n" + inner, " HTTP/1.1\r\nX-B: c\r\n\r\n" + inner, "\n\n" + inner}
	for c := range 256 {
		texts = append(texts, string([]byte{byte(c)}))
	}
	return texts
}

// TestEveryByteInEveryPlace says of each place by its own rules what goes out.
func TestEveryByteInEveryPlace(t *testing.T) {
	for _, p := range slots {
		t.Run(p.name, func(t *testing.T) {
			w := startWiretap(t)
			takesBytes := slices.Contains([]string{"value of a field", "value of a cookie", "name of a cookie", "body"}, p.name)
			for _, text := range tried() {
				if !takesBytes && !utf8.ValidString(text) {
					continue // a string of the contract is UTF-8
				}
				what := fmt.Sprintf("%q", text)
				set := func(m *request) { p.set(m, "a"+text+"z") }
				if wire := p.wire(text); wire != "" {
					w.wantWire(t, what, wire, set)
				} else {
					w.wantNothing(t, what, p.path, set)
				}
			}
			w.wantNoMore(t)
		})
	}
}

// TestRequestLines: what else makes another request, or another destination, of
// a request line.
func TestRequestLines(t *testing.T) {
	w := startWiretap(t)
	for _, method := range []string{
		"PRI", "CONNECT", "TRACE", "pri", "Connect", "tRACE", "get", "gEt", "Post", "delete", "options", "patch", "head", "put",
		" GET", "GET ", "GET /admin", "GET / HTTP/1.1\r\nX-B: c\r\n\r\nGET", "\r\nGET", "G\u00c9T", strings.Repeat("A", 33),
	} {
		w.wantNothing(t, "method "+method, "request.method", func(m *request) { m.Request.Method = method })
	}
	for _, target := range []string{
		"http://inside/admin", "https://inside/", "HTTP://inside/", "inside:80", "*", "?a", "#a", "\\admin", "admin", " /", "/ ",
		"/ HTTP/1.1\r\nHost: inside\r\n\r\n" + inner, "/a HTTP/1.0", "/\u2028", "/a#b",
	} {
		w.wantNothing(t, "target "+target, "request.raw_target", func(m *request) { m.Request.RawTarget = target })
	}
	for _, target := range []string{"/", "//inside/admin", "///", "/http://inside/", "/%0d%0aX-B:c", "/a/../b/./%2e%2e/c", "/a?b?c", "/?", "/\\x", "/\"<>^`{|}"} {
		w.wantWire(t, "target "+target, "GET "+target+" HTTP/1.1\r\nHost: HOST\r\n\r\n", func(m *request) { m.Request.RawTarget = target })
	}
	w.wantWire(t, "target *", "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", func(m *request) { m.Request.Method, m.Request.RawTarget = "OPTIONS", "*" })
	for _, path := range []string{"%0d%0aX-B:%20c", "%00", "//inside/admin", "..%2f..%2fadmin", "a/../../admin"} {
		w.wantWire(t, "path "+path, "GET /"+path+" HTTP/1.1\r\nHost: HOST\r\n\r\n", func(m *request) { m.Request.Url += path })
	}
	w.wantNoMore(t)
}

// TestHosts: nothing but the host and the port of the URL gets into the Host field.
func TestHosts(t *testing.T) {
	w := startWiretap(t)
	authority := w.upstream.Addr().String()
	for _, host := range []string{
		authority + "\r\nX-B: c", authority + " inside", authority + "\tinside", authority + "\\inside", authority + "%0d%0a", authority + "\x00",
		"inside\r\n\r\n" + inner + "@" + authority, "inside@" + authority, "@" + authority, authority + "@inside", authority + ",inside",
		"[" + authority + "]", authority + "\u0085", authority + "\u2028",
	} {
		w.wantNothing(t, "host "+host, "request.url", func(m *request) { m.Request.Url = "http://" + host + "/" })
	}
	for _, url := range []string{" http://" + authority + "/", "http://" + authority + "/ ", "http:" + authority, "//" + authority + "/", authority} {
		w.wantNothing(t, "URL "+url, "request.url", func(m *request) { m.Request.Url = url })
	}
	w.wantWire(t, "a scheme in upper case", "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", func(m *request) { m.Request.Url = "HTTP://" + authority })
	w.wantNoMore(t)
}

// TestPlacesOfCookies: where a cookie goes takes part in no message.
func TestPlacesOfCookies(t *testing.T) {
	w := startWiretap(t)
	for _, domain := range []string{"inside", "127.0.0.1\r\nX-B: c", ".127.0.0.1", "0.0.1", "1", "127.0.0.1 ", "127.0.0.1.", "test", "127.0.0.1;"} {
		w.wantNothing(t, "domain "+domain, "request.cookies[0]", func(m *request) {
			m.Request.Cookies = cookies("n", "v")
			m.Request.Cookies[0].Domain = domain
		})
	}
	for _, path := range []string{"a", "*", "?", "/\r\nX-B: c", "/\x00", "/\x7f", " /", strings.Repeat("/", 1025)} {
		w.wantNothing(t, "path "+path, "request.cookies[0]", func(m *request) {
			m.Request.Cookies = cookies("n", "v")
			m.Request.Cookies[0].Path = []byte(path)
		})
	}
	w.wantWire(t, "the same in order", "GET / HTTP/1.1\r\nHost: HOST\r\nCookie: n=v\r\n\r\n", func(m *request) {
		m.Request.Cookies = cookies("n", "v")
		m.Request.Cookies[0].Domain, m.Request.Cookies[0].Path = "127.0.0.1", []byte("/")
	})
	w.wantWire(t, "a Cookie field of the caller's own", "GET / HTTP/1.1\r\nHost: HOST\r\nCookie: a=b; n=v\r\n\r\n", func(m *request) {
		m.Request.Headers, m.Request.Cookies = headers("Cookie", "a=b"), cookies("n", "v")
	})
	w.wantNoMore(t)
}

// TestNamesOfDefaultFields: these take part in no message, but are told in answers.
func TestNamesOfDefaultFields(t *testing.T) {
	w := startWiretap(t)
	for _, name := range []string{"user-agent\r\nX-B: c", "host", "content-length", "user-agent ", "", "user_agent"} {
		w.wantNothing(t, "default field "+name, "request.omit_default_fields[0]", func(m *request) { m.Request.OmitDefaultFields = []string{name} })
	}
	w.wantWire(t, "the default fields themselves", "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", func(*request) {})
	w.wantNoMore(t)
}
