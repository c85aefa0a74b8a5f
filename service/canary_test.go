package service_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// canary begins everything that is for an upstream or for its caller alone. The
// word behind it says where it was put.
const canary = "cnry"

// recorded has the trace of an RPC recorded, so that there are spans.
const recorded = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// hiding is the context of an RPC that says secrets to fetchgate itself.
func hiding(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", recorded,
		"authorization", "Bearer cnrymetadataauthorization", "cookie", "session=cnrymetadatacookie", "x-api-key", "cnrymetadatakey",
		"x-secret-bin", "cnrymetadatabin", "proxy-authorization", "Basic cnrymetadataproxy", "x-caller", "cnrymetadatacaller", "baggage", "user=cnrymetadatabaggage")
}

// hide puts secrets wherever a request of the caller's has room for them.
func hide(m *request) {
	r := m.Request
	for _, f := range [][2]string{
		{"Authorization", "Bearer cnryauthorization"}, {"Cookie", "session=cnrycookie"}, {"X-Api-Key", "cnryapikey"},
		{"X-Custom", "cnrycustom"}, {"Referer", "http://a.test/?cnryreferer"},
	} {
		if !slices.ContainsFunc(r.Headers, func(h *fetchgatev1.HeaderField) bool { return h.Name == f[0] }) {
			r.Headers = append(r.Headers, headers(f[0], f[1])...)
		}
	}
	r.Cookies = append(r.Cookies, &fetchgatev1.Cookie{Name: []byte("given"), Value: []byte("cnrygiven")})
	if r.RawTarget == "" {
		r.Params = append(r.Params, params("key", "cnryparam")...)
		if !strings.Contains(r.Url, "?") {
			r.Url += "?key=cnryquery&cnrybare"
		}
	}
	r.Url += "#cnryfragment"
}

// told is what fetchgate says of a fetch in words of its own.
func told(a *answer, err error) []string {
	s := status.Convert(err)
	said := []string{s.Message()}
	for _, d := range s.Details() {
		said = append(said, prototext.Format(d.(proto.Message)))
	}
	if a == nil {
		return said
	}
	for _, attempt := range a.report.GetAttempts() {
		said = append(said, attempt.GetMessage())
	}
	said = append(said, prototext.Format(a.report))
	if a.failure == nil {
		return said
	}
	failure := withoutResponse(a.failure)
	if failure.GetTlsFault() != nil {
		failure.Detail = nil // which is there to name the certificate
	}
	return append(said, failure.GetMessage(), prototext.Format(failure))
}

// evidence is everything that a fetchgate that has ended has left, by name.
func (w *observed) evidence(metrics string) map[string]string {
	var spans strings.Builder
	for _, m := range w.traces.sent {
		spans.WriteString(prototext.Format(m))
	}
	return map[string]string{
		"the log": w.text.String(), "the log as JSON": w.json.String(), "the audit record": w.audit.String(),
		"the metrics": metrics, "the spans": spans.String(),
	}
}

// check scrapes and ends a fetchgate and holds what it has said to what it may.
func (w *observed) check(t *testing.T, said []string) {
	t.Helper()
	_, metrics, err := w.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	w.end(t)
	all := w.evidence(metrics)
	for i, words := range said {
		all[fmt.Sprintf("what the caller is told (%d)", i)] = words
	}
	for where, text := range all {
		wantNoCanary(t, where, text)
		if where != "the metrics" {
			wantNoControls(t, where, text)
		}
	}
	for _, written := range []string{w.json.String(), w.audit.String()} {
		for line := range strings.Lines(written) {
			if !json.Valid([]byte(line)) {
				t.Errorf("the line is not JSON: %q", line)
			}
		}
	}
}

func wantNoCanary(t *testing.T, where, text string) {
	t.Helper()
	text = strings.ToLower(text)
	for _, hidden := range []string{canary, secret} {
		if i := strings.Index(text, hidden); i >= 0 {
			t.Errorf("%s holds a secret: %q", where, text[max(0, i-80):min(len(text), i+40)])
		}
	}
}

// wantNoControls wants nothing in text that a terminal would obey.
func wantNoControls(t *testing.T, where, text string) {
	t.Helper()
	obeyed := func(r rune) bool { return unicode.IsControl(r) && r != '\n' || r == unicode.ReplacementChar }
	if i := strings.IndexFunc(text, obeyed); i >= 0 {
		t.Errorf("%s holds a control character: %q", where, text[max(0, i-80):min(len(text), i+30)])
	}
}

// TestNoSecretIsTold: what a caller says to an upstream, and what the upstream
// answers, is in no evidence of fetchgate, however the fetch ends.
func TestNoSecretIsTold(t *testing.T) {
	t.Run("faults", secretsInFaults)
	t.Run("answers", secretsInAnswers)
	t.Run("redirects", secretsInRedirects)
	t.Run("certificates", secretsInCertificates)
	t.Run("resolver", secretsOfTheResolver)
	t.Run("refusals", secretsInRefusals)
	t.Run("ends", secretsInEnds)
	t.Run("unasked", secretsUnasked)
}

// TestNothingObeysAnUpstream (N01): an upstream's escape sequences reach no line
// that an operator reads.
func TestNothingObeysAnUpstream(t *testing.T) {
	inPlaces(t, "\x1b[31m\x07")
}

func secretsInFaults(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	for i, f := range faults {
		if f.want == "BODY_TOO_SLOW UPSTREAM BODY YES" {
			continue // it takes 30 s and says nothing that others do not
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, authority)
			f.arrange(s)
			w := observe(t, s.options)
			if s.before != nil {
				s.before(&fetchtest.Fetchgate{FetchServiceClient: w.FetchServiceClient, Conn: w.conn, Service: w.Service})
			}
			hide(s.request)
			rpc := rpcs[i%len(rpcs)]
			if s.inMessage {
				rpc = rpcs[0]
			}
			a, err := rpc.call(hiding(within(t)), w, s.request)
			if err != nil || a.failure == nil {
				t.Fatalf("got %v, %v; want a failure", a, err)
			}
			w.check(t, told(a, err))
			if spans := w.traces.all(); len(spans) < 1+s.attempts || !strings.Contains(w.audit.String(), `"reason":"`) || !strings.Contains(w.text.String(), "finished call") {
				t.Errorf("there are %d spans, the audit record %s and the log %s; want evidence", len(spans), w.audit.String(), w.text.String())
			}
		})
	}
}

// inPlaces has each place in which an upstream can write hold the same.
func inPlaces(t *testing.T, what string) {
	ask := func(t *testing.T, u *fetchtest.Upstream, change func(*request)) {
		w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
		m := bytesRequest(u)
		hide(m)
		change(m)
		var said []string
		for _, rpc := range rpcs {
			a, err := rpc.call(hiding(within(t)), w, m)
			if err != nil {
				t.Fatal(err)
			}
			said = append(said, told(a, err)...)
		}
		w.check(t, said)
	}
	for _, p := range places {
		if strings.HasPrefix(p.name, "host of") || strings.HasPrefix(p.name, "path of") || strings.HasPrefix(p.name, "scheme of") {
			continue // which are told
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			sent := strings.ReplaceAll(p.sent, "\xff", what)
			ask(t, fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(sent)), func(*request) {})
		})
	}
	for name, sent := range framesWith(what) {
		t.Run("HTTP/2 "+name, func(t *testing.T) {
			t.Parallel()
			ask(t, fetchtest.NewScript(t, fetchtest.Listen{}, h2Request(), sent.step()), requireH2)
		})
	}
	for _, p := range followed {
		if strings.HasPrefix(p.name, "path of") {
			continue
		}
		t.Run("redirect, "+p.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(asked *fetchtest.Recorded) fetchtest.Step {
				if strings.Contains(asked.Target, "cnryparam") {
					return fetchtest.Write(strings.ReplaceAll(p.sent, "\xff", what))
				}
				return fetchtest.Answer(200, "ok")
			}})
			ask(t, u.Upstream, func(*request) {})
		})
	}
}

// framesWith are answers over HTTP/2, by where they hold it.
func framesWith(what string) map[string]frames {
	return map[string]frames{
		"debug data of GOAWAY": func(w *frameWriter) error { return w.WriteGoAway(0, 2, []byte(what)) },
		"debug data of GOAWAY in the body": func(w *frameWriter) error {
			return w.then(w.head(false, ":status", "200", "content-length", "10"), func() error { return w.WriteGoAway(1, 2, []byte(what)) })
		},
		"field value":      func(w *frameWriter) error { return w.head(true, ":status", "200", "x", what) },
		"field name":       func(w *frameWriter) error { return w.head(true, ":status", "200", "x"+what, "1") },
		"status":           func(w *frameWriter) error { return w.head(true, ":status", "2"+what) },
		"pseudo-field":     func(w *frameWriter) error { return w.head(true, ":status", "200", ":"+what, "1") },
		"content-encoding": func(w *frameWriter) error { return w.head(true, ":status", "200", "content-encoding", what) },
	}
}

// secretsInAnswers asks an upstream that answers with secrets, once and after a
// retry, with each kind of body, and in each place.
func secretsInAnswers(t *testing.T) {
	t.Run("places", func(t *testing.T) { inPlaces(t, "cnryupstream") })
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(
		fetchtest.Answer(503, "cnryretried", "X-A: cnryretried", "Set-Cookie: a=cnryretried", "Retry-After: 0"),
		fetchtest.Write("HTTP/1.1 200 cnryphrase\r\nX-A: cnryfield\r\nSet-Cookie: a=cnryset\r\nContent-Length: 8\r\n\r\ncnrybody"),
	)})
	for name, body := range map[string]*fetchgatev1.Body{
		"none": nil, "raw": raw("cnryraw"), "form": form(params("key", "cnryform")...),
		"json": {Kind: &fetchgatev1.Body_Json{Json: []byte(`{"key":"cnryjson"}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream)}})
			var said []string
			for _, rpc := range rpcs {
				m := &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/"), Body: body, Method: "PUT"}, Options: &fetchgatev1.FetchOptions{Report: full()}}
				m.Options.Credentials = []*fetchgatev1.Credential{keyIn("X-Inline", "", "cnryinline", ""), keyIn("", "inline", "cnrycredentialparam", "")}
				hide(m)
				a, err := rpc.call(hiding(within(t)), w, m)
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, a, 200, "cnrybody")
				said = append(said, told(a, err)...)
			}
			w.check(t, said)
		})
	}
	sent := ""
	for _, r := range u.Requests() {
		sent += string(r.Raw)
	}
	for _, put := range []string{"inline", "credentialparam", "authorization", "cookie", "apikey", "custom", "given", "param", "query", "raw", "form", "json"} {
		if !strings.Contains(sent, canary+put) {
			t.Errorf("the upstream did not get %s%s, so nothing could leak", canary, put)
		}
	}
	if strings.Contains(sent, "cnryfragment") || strings.Contains(sent, "cnrymetadata") {
		t.Error("the upstream got what is not for it")
	}
}

// secretsInRedirects has the query of a Location be a secret.
func secretsInRedirects(t *testing.T) {
	elsewhere := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	for name, to := range map[string]string{
		"followed":     elsewhere.URL("/?key=cnrylocation&cnrybare#cnryfragment"),
		"denied":       "http://denied.test/?key=cnrylocation#cnryfragment",
		"unresolvable": "http://unknown.test/?key=cnrylocation",
		"invalid":      "http://user:cnryuserinfo@a.test/?cnrylocation",
		"a port":       "http://a.test:cnryport/",
		"nonsense":     "http://[a/?cnrylocation",
		"of a scheme":  "ftp://user:cnryuserinfo@a.test/?cnrylocation",
		"not escaped":  elsewhere.URL("/?key=cnrylocation\x1b[31m"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
				return fetchtest.Answer(302, "cnrybody", "Location: "+to, "Set-Cookie: a=cnryset")
			}})
			w := observe(t, fetchtest.Options{
				Allow: []string{fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(elsewhere.Upstream), "http://unknown.test"}, DNS: fetchtest.NewDNS(t),
			})
			var said []string
			for _, rpc := range rpcs {
				m := &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}, Options: &fetchgatev1.FetchOptions{Report: full()}}
				hide(m)
				a, err := rpc.call(hiding(within(t)), w, m)
				if err != nil || len(a.report.GetAttempts()) == 0 {
					t.Fatalf("got %v, %v; want a report", a, err)
				}
				said = append(said, told(a, err)...)
			}
			w.check(t, said)
		})
	}
}

// secretsInCertificates has an upstream prove another name, with one that a
// terminal would obey.
func secretsInCertificates(t *testing.T) {
	names := fetchtest.IssueOptions{CommonName: "cnrysubject\x1b[31m\n", Names: []string{"cnryname.test"}}
	for name, authority := range map[string]*fetchtest.Authority{"of another name": fetchtest.NewAuthority(t), "of nobody": nil} {
		t.Run(name, func(t *testing.T) {
			trusted := fetchtest.NewAuthority(t)
			if authority != nil {
				trusted = authority
			} else {
				authority = fetchtest.NewAuthority(t)
			}
			u := fetchtest.NewScript(t, fetchtest.Listen{TLS: &tls.Config{Certificates: []tls.Certificate{authority.Issue(names)}}}, fetchtest.Hang())
			w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Trust: trusted})
			m := get(u.URL("/"))
			hide(m)
			a, err := w.fetch(t, m)
			if a.failure.GetTlsFault() == nil {
				t.Fatalf("got %v, want what is wrong with the certificate", a.failure)
			}
			w.check(t, told(a, err))
		})
	}
}

// fetch fetches with secrets in the metadata of the RPC.
func (w *observed) fetch(t *testing.T, m *request) (*answer, error) {
	t.Helper()
	a, err := whole(hiding(within(t)), w, m)
	if err != nil {
		t.Fatal(err)
	}
	return a, err
}

// secretsOfTheResolver has a resolver fail in words of its own.
func secretsOfTheResolver(t *testing.T) {
	dns := fetchtest.NewDNS(t)
	dns.Script("upstream.test", func(context.Context) ([]netip.Addr, error) { return nil, errors.New("cnryresolver\x1b[31m\n said no") })
	w := observe(t, fetchtest.Options{Allow: []string{"http://upstream.test"}, DNS: dns})
	m := get("http://upstream.test/")
	hide(m)
	a, err := w.fetch(t, m)
	wantFailure(t, a, "RESOLVER_FAILED")
	w.check(t, told(a, err))
}

// refusedRequests are requests that are refused for the field that holds a
// secret, or what a terminal would obey where there is no secret: hosts,
// methods and names are told.
var refusedRequests = map[string]func(*request){
	"user of the URL":       func(m *request) { m.Request.Url = "http://user:cnryuserinfo@a.test/" },
	"scheme of the URL":     func(m *request) { m.Request.Url = "ftp://a.test/?cnryquery" },
	"no URL":                func(m *request) { m.Request.Url = "cnrytoken" },
	"port of the URL":       func(m *request) { m.Request.Url = "http://a.test:cnryport/?cnryquery" },
	"brackets of the URL":   func(m *request) { m.Request.Url = "http://[a/?cnryquery" },
	"host of the URL":       func(m *request) { m.Request.Url = "http://a b\x1b/?cnryquery" },
	"controls in the URL":   func(m *request) { m.Request.Url = "http://a.test/\r\n?key=cnryquery\r\n" },
	"length of the URL":     func(m *request) { m.Request.Url = "http://a.test/?" + strings.Repeat("cnryquery", 2<<10) },
	"target":                func(m *request) { m.Request.RawTarget = "cnrytarget" },
	"controls in a target":  func(m *request) { m.Request.RawTarget = "/\x1b?cnrytarget" },
	"target and params":     func(m *request) { m.Request.RawTarget, m.Request.Params = "/?cnrytarget", params("key", "cnryparam") },
	"method":                func(m *request) { m.Request.Method = "GET \x1b" },
	"field value":           func(m *request) { m.Request.Headers = headers("X-A", "cnryvalue\r\nX-B: cnryvalue") },
	"space around a value":  func(m *request) { m.Request.Headers = headers("X-A", " cnryvalue") },
	"Authorization":         func(m *request) { m.Request.Headers = headers("Authorization", "Bearer cnryvalue\n") },
	"Host":                  func(m *request) { m.Request.Headers = headers("Host", "cnryvalue") },
	"Content-Length":        func(m *request) { m.Request.Headers = headers("Content-Length", "cnryvalue") },
	"Transfer-Encoding":     func(m *request) { m.Request.Headers = headers("Transfer-Encoding", "cnryvalue") },
	"Proxy-Authorization":   func(m *request) { m.Request.Headers = headers("Proxy-Authorization", "Basic cnryvalue") },
	"name with the value":   func(m *request) { m.Request.Headers = headers("Authorization: Bearer cnryvalue\x1b", "") },
	"underscore":            func(m *request) { m.Request.Headers = headers("x_api_key", "cnryvalue") },
	"too many bytes":        func(m *request) { m.Request.Headers = headers("X-A", strings.Repeat("cnryvalue", 8<<10)) },
	"cookie value":          func(m *request) { m.Request.Cookies[0].Value = []byte("cnryvalue;\x1b") },
	"cookie name":           func(m *request) { m.Request.Cookies[0].Name = []byte("cnryname=\x1b") },
	"domain of a cookie":    func(m *request) { m.Request.Cookies[0].Domain = "a.test\x1b" },
	"path of a cookie":      func(m *request) { m.Request.Cookies[0].Path = []byte("cnryvalue;") },
	"JSON":                  func(m *request) { m.Request.Body.Kind = &fetchgatev1.Body_Json{Json: []byte(`{"key": cnryvalue`)} },
	"JSON that is not text": func(m *request) { m.Request.Body.Kind = &fetchgatev1.Body_Json{Json: []byte("\"cnryvalue\xff\x1b\"")} },
	"default field":         func(m *request) { m.Request.OmitDefaultFields = []string{"a\x1b"} },
	"affinity":              func(m *request) { connectionOf(m).Affinity = proto.String("cnryvalue \x1b") },
	"bearer":                func(m *request) { m.Options.Credentials = bearer("cnryvalue") },
	"bearer that is none":   func(m *request) { m.Options.Credentials = bearer("cnry value") },
	"basic": func(m *request) {
		m.Options.Credentials = []*fetchgatev1.Credential{basicPair("cnry:user", "cnryvalue")}
	},
	"key in a field": func(m *request) {
		m.Options.Credentials = []*fetchgatev1.Credential{keyIn("Host", "", "cnryvalue", "cnryprefix")}
	},
	"key in the query": func(m *request) {
		m.Options.Credentials = []*fetchgatev1.Credential{keyIn("", "k", "cnryvalue\x1b", "")}
	},
	"client certificate": func(m *request) {
		m.Options.Credentials = []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_ClientCertificate{
			ClientCertificate: &fetchgatev1.ClientCertificateCredential{CertificatePem: []byte("cnryvalue"), KeyPem: []byte("cnryvalue")},
		}}}
	},
	"name of a credential": func(m *request) { m.Options.Credentials = naming("", "cnryvalue\x1b").Options.Credentials },
	"proxy": func(m *request) {
		m.Options.Proxy = &fetchgatev1.ProxyOptions{Proxy: &fetchgatev1.ProxyOptions_Url{Url: "http://user:cnryvalue@proxy.test"}}
	},
	"authorities":     func(m *request) { m.Options.Tls = &fetchgatev1.TlsOptions{CaPem: []byte("cnryvalue")} },
	"resume token":    func(m *request) { m.Options.Download = &fetchgatev1.DownloadOptions{ResumeToken: []byte("cnryvalue")} },
	"trailer":         func(m *request) { m.Request.Trailers = headers("Host", "cnryvalue") },
	"name of a label": func(m *request) { m.Options.Labels = map[string]string{"a\x1b": "cnryvalue"} },
	"kept field": func(m *request) {
		m.Options.Redirect = &fetchgatev1.RedirectPolicy{KeepFields: []string{"Cookie: cnryvalue\x1b"}}
	},
	"field of retries": func(m *request) {
		m.Options.Retry = &fetchgatev1.RetryPolicy{ResponseHeaders: []string{"x: cnryvalue\x1b"}}
	},
	"method of retries":  func(m *request) { m.Options.Retry = &fetchgatev1.RetryPolicy{Methods: []string{"GET cnryvalue\x1b"}} },
	"everything at once": func(m *request) { m.Request.Headers = slices.Repeat(headers("X-A", "cnryvalue\x00"), 101) },
}

func connectionOf(m *request) *fetchgatev1.ConnectionOptions {
	m.Options.Connection = &fetchgatev1.ConnectionOptions{}
	return m.Options.Connection
}

func bearer(token string) []*fetchgatev1.Credential {
	return []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_Bearer{Bearer: &fetchgatev1.BearerCredential{Token: token}}}}
}

func secretsInRefusals(t *testing.T) {
	w := observe(t, fetchtest.Options{Allow: []string{"http://a.test"}})
	var said []string
	for _, name := range slices.Sorted(maps.Keys(refusedRequests)) {
		for _, rpc := range rpcs {
			m := &request{
				Request: &fetchgatev1.HttpRequest{
					Url: "http://a.test/?cnryquery", Body: raw("cnryraw"),
					Cookies: []*fetchgatev1.Cookie{{Name: []byte("a"), Value: []byte("cnrycookie")}},
				},
				Options: &fetchgatev1.FetchOptions{},
			}
			refusedRequests[name](m)
			a, err := rpc.call(hiding(within(t)), w, m)
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s by %s: got %v, want InvalidArgument", name, rpc.name, err)
			}
			for _, words := range told(a, err) {
				wantNoCanary(t, name, words)
				wantNoControls(t, name, words)
			}
			said = append(said, told(a, err)...)
		}
	}
	m := get("http://denied.test/")
	hide(m)
	a, err := whole(hiding(within(t)), w, m)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PermissionDenied", err)
	}
	w.check(t, append(said, told(a, err)...))
}

// secretsInEnds refuses a fetch for a limit, cancels one and cuts one in a
// drain.
func secretsInEnds(t *testing.T) {
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nX-A: cnryfield\r\n\r\ncnrybody"), fetchtest.Hang())
	w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}, Extra: "limits:\n  max_live_fetches: 1\ngrpc:\n  drain_grace: 200ms\n"})
	ask := func() *request {
		m := &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}}
		hide(m)
		return m
	}
	begin := func(ctx context.Context) grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse] {
		events, err := w.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: ask().Request})
		if err == nil {
			_, err = events.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	var said []string
	ctx, cancel := context.WithCancel(hiding(within(t)))
	events := begin(ctx)
	a, err := whole(hiding(within(t)), w, ask())
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
	said = append(said, told(a, err)...)
	cancel()
	for err = nil; err == nil; {
		_, err = events.Recv()
	}
	eventually(t, func() error {
		if !strings.Contains(w.audit.String(), `"canceled"`) && !strings.Contains(w.audit.String(), `"CANCELLED"`) {
			return errors.New("the audit record has no line of the fetch that was cancelled: " + w.audit.String())
		}
		return nil
	})
	events = begin(hiding(within(t)))
	_, metrics, err := w.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	said = append(said, cutShort(t, events)...)
	w.end(t)
	all := w.evidence(metrics)
	all["what the caller is told"] = strings.Join(said, "\n")
	for where, text := range all {
		wantNoCanary(t, where, text)
	}
	for _, reason := range []string{"OVERLOADED", "DRAINING"} {
		if !strings.Contains(w.audit.String(), reason) {
			t.Errorf("the audit record says nothing of %s: %s", reason, w.audit.String())
		}
	}
}

// cutShort is what a stream is told that a drain ends.
func cutShort(t *testing.T, events grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse]) []string {
	t.Helper()
	a := &answer{}
	for {
		event, err := events.Recv()
		if status.Code(err) == codes.Unavailable {
			return told(a, err)
		}
		if err != nil {
			t.Fatalf("got %v, want Unavailable", err)
		}
		if summary := event.GetSummary(); summary != nil {
			a.failure, a.report = summary.GetFailure(), summary.GetReport()
		}
	}
}

// secretsUnasked has an upstream speak on an idle connection. A library that
// logs by itself does so by the standard logger, which a process may send where
// the rest goes.
func secretsUnasked(t *testing.T) {
	var standard lines
	log.SetOutput(&standard)
	defer log.SetOutput(os.Stderr)
	answered, spoken := make(chan struct{}), make(chan struct{}, 2)
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
		fetchtest.Pause(answered), fetchtest.Write("HTTP/1.1 200 cnryunasked\x1b\r\n\r\ncnryunasked"),
		func(*fetchtest.Conn) error { spoken <- struct{}{}; return nil }, fetchtest.Hang())
	w := observe(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
	a, _ := w.fetch(t, get(u.URL("/")))
	close(answered)
	<-spoken
	again, err := w.fetch(t, get(u.URL("/")))
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Error(err)
	}
	wantAnswer(t, again, 200, "")
	w.check(t, append(told(a, nil), told(again, err)...))
	wantNoCanary(t, "the standard logger", standard.String())
	wantNoControls(t, "the standard logger", standard.String())
}
