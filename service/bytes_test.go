package service_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// A byte that is not UTF-8 in a protobuf string fails the whole RPC when it is
// encoded. So 0xFF is put wherever an upstream can write a byte: it has to
// arrive, or to be a failure in the answer.

// place is one in which an upstream can write a byte, over HTTP/1.1.
type place struct {
	name string
	// sent is what the upstream answers; the place is where it holds 0xFF.
	sent string
	// want is where the byte arrives, or else the reason of the failure.
	want string
}

var places = []place{
	{"before the head", "\xffHTTP/1.1 200 OK\r\n\r\n", "MALFORMED_HEAD"},
	{"version", "HTTP/1.\xff 200 OK\r\n\r\n", "MALFORMED_HEAD"},
	{"status", "HTTP/1.1 2\xff0 OK\r\n\r\n", "MALFORMED_HEAD"},
	{"reason phrase", "HTTP/1.1 200 \xff\r\n\r\n", "reason"},
	{"field name", "HTTP/1.1 200 OK\r\nX\xff: 1\r\n\r\n", "MALFORMED_HEAD"},
	{"field value", "HTTP/1.1 200 OK\r\nX: \xff\r\n\r\n", "field"},
	{"field without a colon", "HTTP/1.1 200 OK\r\nX\xff\r\n\r\n", "MALFORMED_HEAD"},
	{"folded field", "HTTP/1.1 200 OK\r\nX: 1\r\n \xff\r\n\r\n", "MALFORMED_HEAD"},
	{"Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: \xff\r\n\r\n", "MALFORMED_HEAD"},
	{"Transfer-Encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \xff\r\n\r\n", "MALFORMED_HEAD"},
	{"Connection", "HTTP/1.1 200 OK\r\nConnection: \xff\r\n\r\n", "field"},
	{"Content-Type", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=\xff\r\n\r\n", "field"},
	{"Content-Encoding", "HTTP/1.1 200 OK\r\nContent-Encoding: \xff, gzip\r\n\r\nhello", "field"},
	{"scheme of Location", "HTTP/1.1 302 \xff\r\nX: \xff\r\nLocation: \xff://a.test/\r\n\r\n\xff", "INVALID_REDIRECT_URL"},
	{"user of Location", "HTTP/1.1 302 Found\r\nLocation: http://\xff@a.test/\r\n\r\n", "INVALID_REDIRECT_URL"},
	{"host of Location", "HTTP/1.1 302 Found\r\nLocation: http://\xff/\xff\r\n\r\n", "INVALID_REDIRECT_URL"},
	{"port of Location", "HTTP/1.1 302 Found\r\nLocation: http://a.test:\xff/\r\n\r\n", "INVALID_REDIRECT_URL"},
	{"path of a Location that is denied", "HTTP/1.1 302 \xff\r\nLocation: http://a.test/\xff?\xff\r\n\r\n", "REDIRECT_DENIED"},
	{"Location of another status", "HTTP/1.1 201 Created\r\nLocation: http://\xff/\xff\r\n\r\n", "field"},
	{"cookie", "HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\xff; Path=/\xff; SameSite=\xff; Expires=\xff; \xff=\xff\r\n\r\n", "field cookie"},
	{"cookie without a name", "HTTP/1.1 200 OK\r\nSet-Cookie: \xff\r\n\r\n", "field"},
	{"cookie of another domain", "HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\xff; Domain=\xff; Path=\xff\r\n\r\n", "field"},
	{"Retry-After", "HTTP/1.1 503 No\r\nRetry-After: \xff\r\n\r\n", "field"},
	{"Trailer", "HTTP/1.1 200 OK\r\nTrailer: \xff\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "field"},
	{"reason phrase of an interim head", "HTTP/1.1 103 \xff\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "interim"},
	{"field value of an interim head", "HTTP/1.1 103 Hints\r\nLink: \xff\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "interim"},
	{"field name of an interim head", "HTTP/1.1 103 Hints\r\nX\xff: 1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "MALFORMED_HEAD"},
	{"body", "HTTP/1.1 200 OK\r\n\r\n\xff", "body"},
	{"coded body", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzipped([]byte("\xff")), "body"},
	{"broken coded body", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\xff\xff", "DECODE_FAILED"},
	{"chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\xff\r\n0\r\n\r\n", "body"},
	{"chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\xff\r\n", "INVALID_CHUNK"},
	{"chunk extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\xff\r\n \r\n0;a\xff\r\n\r\n", "nowhere"},
	{"end of a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \xff\xff0\r\n\r\n", "INVALID_CHUNK"},
	{"trailer value", "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: \xff\r\n\r\n", "trailer"},
	{"trailer name", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX\xff: 1\r\n\r\n", "INVALID_CHUNK"},
	{"head of a body that breaks off", "HTTP/1.1 200 \xff\r\nX: \xff\r\nContent-Length: 9\r\n\r\n\xff", "INCOMPLETE_BODY"},
	{"after the response", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\xff", "nowhere"},
}

// followed are the places in a redirect that is followed, over HTTP/1.1.
var followed = []place{
	{"reason phrase", "HTTP/1.1 302 \xff\r\nLocation: /next\r\n\r\n", "history"},
	{"field value", "HTTP/1.1 302 Found\r\nX: \xff\r\nLocation: /next\r\n\r\n", "history"},
	{"path of Location", "HTTP/1.1 302 Found\r\nLocation: /\xff\r\n\r\n", "history"},
	{"query of Location", "HTTP/1.1 302 Found\r\nLocation: /?\xff\r\n\r\n", "history"},
	{"fragment of Location", "HTTP/1.1 302 Found\r\nLocation: /next#\xff\r\n\r\n", "history"},
	{"cookie", "HTTP/1.1 302 Found\r\nSet-Cookie: \xff=\xff; Path=/\r\nLocation: /next\r\n\r\n", "history cookie"},
	{"path of a cookie", "HTTP/1.1 302 Found\r\nSet-Cookie: a=b; Path=/\xff\r\nLocation: /\xff\r\n\r\n", "history cookie"},
	{"interim head", "HTTP/1.1 103 \xff\r\nLink: \xff\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n", "interim"},
	{"body", "HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n\xff", "nowhere"},
	{"broken coded body", "HTTP/1.1 302 Found\r\nContent-Encoding: gzip\r\nLocation: /next\r\n\r\n\xff", "nowhere"},
	{"chunk size", "HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nLocation: /next\r\n\r\n\xff\r\n", "nowhere"},
	{"trailer", "HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nLocation: /next\r\n\r\n0\r\nX: \xff\r\n\r\n", "nowhere"},
}

// frames is what an upstream answers over HTTP/2.
type frames func(w *frameWriter) error

// h2places are the places over HTTP/2.
var h2places = []struct {
	name string
	sent frames
	want string
}{
	{"field value", func(w *frameWriter) error { return w.head(true, ":status", "200", "x", "\xff") }, "field"},
	{"field name", func(w *frameWriter) error { return w.head(true, ":status", "200", "x\xff", "1") }, "PROTOCOL_ERROR"},
	{"status", func(w *frameWriter) error { return w.head(true, ":status", "2\xff0") }, "PROTOCOL_ERROR"},
	{"pseudo-field", func(w *frameWriter) error { return w.head(true, ":status", "200", ":\xff", "1") }, "PROTOCOL_ERROR"},
	{"content-length", func(w *frameWriter) error { // which the library leaves out
		return w.head(true, ":status", "200", "content-length", "\xff")
	}, "nowhere"},
	{"content-type", func(w *frameWriter) error { return w.head(true, ":status", "200", "content-type", "\xff") }, "field"},
	{"content-encoding", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200", "content-encoding", "\xff"), func() error { return w.WriteData(1, true, []byte("x")) })
	}, "field"},
	{"interim head", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "103", "link", "\xff"), func() error { return w.head(true, ":status", "200") })
	}, "interim"},
	{"body", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200"), func() error { return w.WriteData(1, true, []byte("\xff")) })
	}, "body"},
	{"padding of the body", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200"), func() error { return w.WriteDataPadded(1, true, []byte("x"), []byte("\xff")) })
	}, "nowhere"},
	{"trailer value", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200", "trailer", "x"), func() error { return w.head(true, "x", "\xff") })
	}, "trailer"},
	{"trailer name", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200"), func() error { return w.head(true, "x\xff", "1") })
	}, "PROTOCOL_ERROR"},
	{"code of RST_STREAM", func(w *frameWriter) error { return w.WriteRSTStream(1, 0xffffffff) }, "STREAM_RESET"},
	{"code of RST_STREAM in the body", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200"), func() error { return w.WriteRSTStream(1, 0xffffffff) })
	}, "STREAM_RESET"},
	{"code of GOAWAY", func(w *frameWriter) error { return w.WriteGoAway(0, 0xffffffff, nil) }, "PROTOCOL_ERROR"},
	{"debug data of GOAWAY", func(w *frameWriter) error {
		return w.WriteGoAway(0, http2.ErrCodeInternal, []byte("\xff"))
	}, "PROTOCOL_ERROR"},
	{"debug data of GOAWAY in the body", func(w *frameWriter) error {
		return w.then(w.head(false, ":status", "200", "content-length", "10"), func() error {
			return w.WriteGoAway(1, http2.ErrCodeInternal, []byte("\xff"))
		})
	}, "PROTOCOL_ERROR"},
	{"setting", func(w *frameWriter) error {
		return w.then(w.WriteSettings(http2.Setting{ID: 0xffff, Val: 0xffffffff}), func() error { return w.head(true, ":status", "200") })
	}, "nowhere"},
	{"PING", func(w *frameWriter) error {
		return w.then(w.WritePing(false, [8]byte{0xff}), func() error { return w.head(true, ":status", "200") })
	}, "nowhere"},
	{"frame of an unknown type", func(w *frameWriter) error {
		return w.then(w.WriteRawFrame(0xff, 0xff, 1, []byte("\xff")), func() error { return w.head(true, ":status", "200") })
	}, "nowhere"},
	{"frame header", func(w *frameWriter) error {
		return w.WriteRawFrame(0xff, 0xff, 1<<31-1, bytes.Repeat([]byte{0xff}, 100))
	}, "DISCONNECTED"},
}

func TestNoByteOfAnUpstreamFailsTheRPC(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(p.sent))
			checkPlace(t, u, bytesRequest(u), p.want)
		})
	}
	for _, p := range h2places {
		t.Run("HTTP/2 "+p.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewScript(t, fetchtest.Listen{}, h2Request(), p.sent.step())
			m := bytesRequest(u)
			requireH2(m)
			checkPlace(t, u, m, p.want)
		})
	}
}

// TestNoByteOfARedirectFailsTheRPC: the hops before the last one are an upstream's
// words too.
func TestNoByteOfARedirectFailsTheRPC(t *testing.T) {
	for _, p := range followed {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(asked *fetchtest.Recorded) fetchtest.Step {
				if asked.Target == "/" {
					return fetchtest.Write(p.sent)
				}
				return fetchtest.Answer(200, "ok")
			}})
			checkPlace(t, u.Upstream, bytesRequest(u.Upstream), p.want)
			if n := len(u.Requests()); n != 2*len(rpcs) {
				t.Errorf("%d requests, want that each redirect was followed", n)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		t.Parallel()
		redirect := frames(func(w *frameWriter) error {
			return w.head(true, ":status", "302", "location", "/next?\xff", "set-cookie", "\xff=\xff; Path=/", "x", "\xff")
		})
		last := frames(func(w *frameWriter) error { return w.head(true, ":status", "200") })
		u := fetchtest.NewScript(t, fetchtest.Listen{}, h2Request(), func(c *fetchtest.Conn) error {
			if c.Number()%2 == 1 {
				return redirect.step()(c)
			}
			return last.step()(c)
		})
		m := bytesRequest(u)
		requireH2(m)
		checkPlace(t, u, m, "history cookie")
	})
}

// TestNoByteOfARetryFailsTheRPC: what an attempt before the last one got is told
// in words, the last response as it is.
func TestNoByteOfARetryFailsTheRPC(t *testing.T) {
	for _, p := range []place{
		{"response", "HTTP/1.1 503 \xff\r\nX: \xff\r\nRetry-After: \xff\r\nSet-Cookie: \xff=\xff\r\n\r\n\xff", "RETRIES_EXHAUSTED"},
		{"broken head", "HTTP/1.1 503 \xff\r\nX", "RETRIES_EXHAUSTED"},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(p.sent))
			m := bytesRequest(u)
			m.Options.Retry = &fetchgatev1.RetryPolicy{
				MaxAttempts: proto.Int32(3), BackoffBase: millis(0),
				Exhausted: fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE.Enum(),
			}
			checkPlace(t, u, m, p.want)
			if opened, _ := u.Connections(); opened != 3*len(rpcs) {
				t.Errorf("%d connections, want 3 attempts by each RPC", opened)
			}
		})
	}
}

// bytesRequest asks for all that an upstream can send, over a connection of its
// own: the upstreams close theirs after one answer.
func bytesRequest(u *fetchtest.Upstream) *request {
	return &request{
		Request: &fetchgatev1.HttpRequest{Url: u.URL("/")},
		Options: &fetchgatev1.FetchOptions{
			Connection: &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true), CloseAfter: proto.Bool(true)},
			Response:   &fetchgatev1.ResponseOptions{Interim: proto.Bool(true)},
			Retry:      oneAttempt(),
		},
	}
}

// checkPlace fetches by either RPC.
func checkPlace(t *testing.T, u *fetchtest.Upstream, m *request, want string) {
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
	for _, rpc := range rpcs {
		a, err := rpc.call(t.Context(), g, m)
		if err != nil {
			t.Errorf("%s: a byte of the upstream failed the RPC: %v", rpc.name, err)
			continue
		}
		if got := arrivals(a); got != want {
			t.Errorf("%s: the byte arrived as %q, want %q: %v", rpc.name, got, want, a.failure.GetMessage())
		}
	}
}

// arrivals says where in an answer there is a byte 0xFF, or the reason of its
// failure.
func arrivals(a *answer) string {
	if a.failure != nil {
		return strings.TrimPrefix(a.failure.GetReason().String(), "FAILURE_REASON_")
	}
	var found []string
	holds := func(where string, b []byte) {
		if bytes.Contains(b, []byte("\xff")) && !slices.Contains(found, where) {
			found = append(found, where)
		}
	}
	for _, head := range a.interim {
		holds("interim", head.GetReason())
		for _, f := range head.GetHeaders() {
			holds("interim", f.GetValue())
		}
	}
	for _, head := range a.history {
		holds("history", head.GetReason())
		for _, f := range head.GetHeaders() {
			holds("history", f.GetValue())
		}
	}
	holds("reason", a.head.GetReason())
	for _, f := range a.head.GetHeaders() {
		holds("field", f.GetValue())
	}
	holds("body", a.body)
	for _, f := range a.trailers {
		holds("trailer", f.GetValue())
	}
	for _, c := range a.cookies {
		holds("cookie", slices.Concat(c.GetName(), c.GetValue(), c.GetPath()))
	}
	if found == nil {
		return "nowhere"
	}
	return strings.Join(found, " ")
}

// frameWriter writes the frames of an HTTP/2 upstream, lawful or not.
type frameWriter struct {
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newFrameWriter(rw io.ReadWriter) *frameWriter {
	w := &frameWriter{Framer: http2.NewFramer(rw, rw)}
	w.AllowIllegalWrites = true
	w.encoder = hpack.NewEncoder(&w.block)
	return w
}

// head writes a head of these names and values on the first stream.
func (w *frameWriter) head(end bool, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := w.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			return err
		}
	}
	return w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block.Next(w.block.Len()), EndStream: end, EndHeaders: true})
}

// then goes on where there was no error.
func (*frameWriter) then(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

func (f frames) step() fetchtest.Step {
	return func(c *fetchtest.Conn) error { return f(newFrameWriter(c)) }
}

// h2Request begins a connection of HTTP/2 and reads up to the first request.
func h2Request() fetchtest.Step {
	return func(c *fetchtest.Conn) error {
		if err := readBytes(int64(len(http2.ClientPreface)))(c); err != nil {
			return err
		}
		w := newFrameWriter(c)
		err := w.WriteSettings()
		for err == nil {
			var frame http2.Frame
			if frame, err = w.ReadFrame(); err != nil {
				return err
			}
			switch f := frame.(type) {
			case *http2.HeadersFrame:
				return nil
			case *http2.SettingsFrame:
				if !f.IsAck() {
					err = w.WriteSettingsAck()
				}
			}
		}
		return err
	}
}

// TestNoByteOfACertificateFailsTheRPC: what is shown of a certificate is
// escaped, cut or left out.
func TestNoByteOfACertificateFailsTheRPC(t *testing.T) {
	const commonName, organization = 3, 10 // below id-at, RFC 5280 appendix A
	for _, c := range []struct {
		name     string
		template x509.Certificate
		reason   string
	}{
		{"subject in T.61", x509.Certificate{Subject: nameOf(commonName, asn1.TagT61String, "\xff")}, "TLS_VERIFY"},
		{"subject in UTF-8 that is none", x509.Certificate{Subject: nameOf(commonName, asn1.TagUTF8String, "\xff")}, "TLS_HANDSHAKE"},
		{"subject in ASCII that is none", x509.Certificate{Subject: nameOf(commonName, asn1.TagPrintableString, "\xff")}, "TLS_HANDSHAKE"},
		{"subject in UTF-16 that is none", x509.Certificate{Subject: nameOf(commonName, asn1.TagBMPString, "\xdc\xff")}, "TLS_HANDSHAKE"},
		{"subject that is cut within a character", x509.Certificate{Subject: nameOf(organization, asn1.TagUTF8String, strings.Repeat("\u20ac", 200))}, "TLS_VERIFY"},
		{"alternative name", x509.Certificate{ExtraExtensions: []pkix.Extension{alternativeName(2, "\xff")}}, "TLS_HANDSHAKE"},
		{"alternative name of another form", x509.Certificate{ExtraExtensions: []pkix.Extension{alternativeName(8, "\xff")}}, "TLS_NAME_MISMATCH"},
		{"other extension", x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte("\xff")}}}, "TLS_VERIFY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := fetchtest.NewScript(t, fetchtest.Listen{TLS: &tls.Config{Certificates: []tls.Certificate{selfSigned(t, &c.template)}}}, fetchtest.Hang())
			g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
			for _, rpc := range rpcs {
				a, err := rpc.call(t.Context(), g, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
				if err != nil {
					t.Errorf("%s: a byte of the certificate failed the RPC: %v", rpc.name, err)
				} else if got := arrivals(a); got != c.reason {
					t.Errorf("%s: got %s, want %s: %v", rpc.name, got, c.reason, a.failure)
				}
			}
		})
	}
}

// nameOf is a name of one attribute, whose value has the bytes of content,
// whether they are right for its ASN.1 type or not.
func nameOf(attribute, tag int, content string) pkix.Name {
	return pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{
		Type:  asn1.ObjectIdentifier{2, 5, 4, attribute},
		Value: asn1.RawValue{Tag: tag, Bytes: []byte(content)},
	}}}
}

// alternativeName is a subjectAltName (RFC 5280 section 4.2.1.6) with one name
// of the form that has that tag.
func alternativeName(tag int, content string) pkix.Extension {
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(content)}})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

func selfSigned(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// FuzzUpstreamBytes has an upstream answer with any bytes and close. Whatever
// they are, the RPC succeeds, in time, and fetchgate finds no fault with itself.
func FuzzUpstreamBytes(f *testing.F) {
	for _, c := range fetchtest.ResponseCases(f) {
		f.Add(c.Raw, false)
	}
	for _, p := range slices.Concat(places, followed) {
		f.Add([]byte(p.sent), false)
	}
	for _, p := range h2places {
		var sent bytes.Buffer
		w := newFrameWriter(&sent)
		if err := w.then(w.WriteSettings(), func() error { return p.sent(w) }); err != nil {
			f.Fatal(err)
		}
		f.Add(sent.Bytes(), true)
	}
	// Inputs are tried one after the other, so there is one at a time.
	var sent atomic.Pointer[[]byte]
	write := func(c *fetchtest.Conn) error {
		_, err := c.Write(*sent.Load())
		return err
	}
	h1 := fetchtest.NewScript(f, fetchtest.Listen{}, fetchtest.Request(), write)
	h2 := fetchtest.NewScript(f, fetchtest.Listen{}, readBytes(int64(len(http2.ClientPreface))), write)
	g := fetchtest.Start(f, fetchtest.Options{Allow: []string{fetchtest.OriginOf(h1), fetchtest.OriginOf(h2)}, Log: io.Discard})
	toH1, toH2 := fuzzRequest(h1), fuzzRequest(h2)
	requireH2(toH2)
	f.Fuzz(func(t *testing.T, raw []byte, overH2 bool) {
		sent.Store(&raw)
		m := toH1
		if overH2 {
			m = toH2
		}
		for _, rpc := range rpcs {
			a, err := rpc.call(t.Context(), g, m)
			if err != nil {
				t.Fatalf("%s: the upstream failed the RPC: %v", rpc.name, err)
			}
			checkFuzzed(t, a)
		}
	})
}

// fuzzRequest does not wait for ever. It tries again and goes where redirects
// lead, back to the same upstream mostly.
func fuzzRequest(u *fetchtest.Upstream) *request {
	m := bytesRequest(u)
	m.Options.Timeouts = &fetchgatev1.Timeouts{Total: seconds(10)}
	m.Options.Retry = &fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(2), BackoffBase: millis(0), RespectRetryAfter: proto.Bool(false),
	}
	m.Options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(2)}
	return m
}

func checkFuzzed(t *testing.T, a *answer) {
	t.Helper()
	switch reason := a.failure.GetReason(); reason {
	case fetchgatev1.FailureReason_FAILURE_REASON_INTERNAL_FAULT, fetchgatev1.FailureReason_FAILURE_REASON_TOTAL_TIMEOUT:
		t.Fatalf("the failure is %v: %s", reason, a.failure.GetMessage())
	}
	for _, m := range []proto.Message{a.report, a.failure, &fetchgatev1.HttpResponse{
		Interim: a.interim, History: a.history, Head: a.head, Body: a.body, Trailers: a.trailers, Cookies: a.cookies,
	}} {
		if _, err := proto.Marshal(m); err != nil {
			t.Fatalf("the answer cannot be encoded again: %v", err)
		}
	}
}
