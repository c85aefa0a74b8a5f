package service_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Every failure that this version can give is brought about by a real fault and
// has to arrive, by either RPC, with everything that a caller decides by.

// fault is one way in which a fetch fails.
type fault struct {
	name string // says what goes wrong
	// want is the reason, the blame, the stage and request_sent, or "?" where
	// the upstream's end of the connection and ours race, and "retryable" where
	// it is.
	want    string
	arrange func(*scene)
}

var faults = []fault{
	{"the name does not exist", "NAME_NOT_FOUND NETWORK RESOLVE NO",
		func(s *scene) { s.name(fetchtest.NotFound()) }},
	{"the resolver fails", "RESOLVER_FAILED NETWORK RESOLVE NO retryable",
		func(s *scene) { s.name(fetchtest.ServFail()) }},
	{"the resolver does not answer", "RESOLVE_TIMEOUT NETWORK RESOLVE NO retryable",
		func(s *scene) {
			s.name(fetchtest.NoAnswer())
			s.timeouts().Dns = brief()
		}},

	{"nobody listens", "CONNECT_REFUSED NETWORK CONNECT NO retryable",
		func(s *scene) { s.to("http://" + closedAddress(s.t)) }},
	{"there is no route", "CONNECT_UNREACHABLE NETWORK CONNECT NO retryable",
		func(s *scene) { s.to("http://127.255.255.255") }}, // a broadcast address
	{"nobody accepts", "CONNECT_TIMEOUT NETWORK CONNECT NO retryable",
		func(s *scene) {
			s.to("http://" + fullAddress(s.t))
			s.timeouts().Connect = brief()
		}},
	{"all connections are busy", "POOL_TIMEOUT FETCHGATE WAIT NO retryable", occupyPool},

	{"the certificate is of an unknown authority", "TLS_VERIFY UPSTREAM TLS NO",
		func(s *scene) { s.certificate(fetchtest.NewAuthority(s.t), fetchtest.IssueOptions{}) }},
	{"the certificate is for other names", "TLS_NAME_MISMATCH UPSTREAM TLS NO",
		func(s *scene) {
			s.certificate(s.authority, fetchtest.IssueOptions{Names: []string{"other.test", "10.1.2.3"}})
		}},
	{"the certificate has expired", "TLS_EXPIRED UPSTREAM TLS NO",
		func(s *scene) {
			s.certificate(s.authority, fetchtest.IssueOptions{NotAfter: time.Now().Add(-time.Hour)})
		}},
	{"the certificate is not valid yet", "TLS_EXPIRED UPSTREAM TLS NO",
		func(s *scene) {
			s.certificate(s.authority, fetchtest.IssueOptions{NotBefore: time.Now().Add(time.Hour)})
		}},
	{"the upstream speaks TLS 1.1", "TLS_HANDSHAKE UPSTREAM TLS NO",
		func(s *scene) {
			s.secure(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, fetchtest.Hang())
			s.detail = &fetchgatev1.TlsFault{Alert: 70} // protocol_version
		}},
	{"the upstream speaks no TLS", "TLS_HANDSHAKE UPSTREAM TLS NO",
		func(s *scene) {
			s.script(fetchtest.Write("220 mail.test ESMTP " + secret + "\r\n"))
			s.https()
		}},
	{"the upstream does not offer HTTP/2", "TLS_HANDSHAKE UPSTREAM TLS NO",
		func(s *scene) {
			s.secure(&tls.Config{NextProtos: []string{"other"}}, fetchtest.Hang())
			requireH2(s.request)
			s.detail = &fetchgatev1.TlsFault{Alert: 120} // no_application_protocol
		}},
	{"the handshake does not end", "TLS_TIMEOUT UPSTREAM TLS NO retryable",
		func(s *scene) {
			s.script(fetchtest.Hang())
			s.https()
			s.timeouts().Tls = brief()
		}},
	{"the upstream closes during the handshake", "TLS_HANDSHAKE UPSTREAM TLS NO",
		func(s *scene) {
			s.script(readBytes(1))
			s.https()
		}},
	{"the connection is reset during the handshake", "CONNECTION_RESET NETWORK TLS NO retryable",
		func(s *scene) {
			s.script(readBytes(1), fetchtest.Reset())
			s.https()
		}},
	{"a client certificate is asked for by TLS 1.2", "TLS_CLIENT_CERTIFICATE CALLER TLS NO",
		func(s *scene) {
			s.secure(&tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, fetchtest.Hang())
			s.detail = &fetchgatev1.TlsFault{Alert: 40} // handshake_failure
		}},
	{"a client certificate is asked for by TLS 1.3", "TLS_CLIENT_CERTIFICATE CALLER TLS ?",
		func(s *scene) {
			s.secure(&tls.Config{ClientAuth: tls.RequireAnyClientCert}, fetchtest.Hang())
			s.detail = &fetchgatev1.TlsFault{Alert: 116} // certificate_required
		}},

	{"the upstream reads nothing", "WRITE_TIMEOUT UPSTREAM SEND YES",
		func(s *scene) {
			s.script(fetchtest.Hang())
			s.upload()
			s.timeouts().Write = brief()
		}},
	{"the upstream opens no window", "WRITE_TIMEOUT UPSTREAM SEND YES",
		func(s *scene) {
			s.hostile("no-window")
			s.upload()
			s.timeouts().Write = brief()
		}},
	{"the connection breaks during the upload", "WRITE_FAILED NETWORK SEND YES",
		func(s *scene) {
			s.script(readBytes(1<<10), fetchtest.Reset())
			s.upload()
		}},

	{"the upstream does not answer", "HEAD_TIMEOUT UPSTREAM HEAD YES retryable",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n"), fetchtest.Hang())
			s.timeouts().ResponseHeader = brief()
		}},
	{"the upstream does not answer over HTTP/2", "HEAD_TIMEOUT UPSTREAM HEAD YES retryable",
		func(s *scene) {
			s.hostile("silent")
			s.timeouts().ResponseHeader = brief()
		}},
	{"the upstream closes without an answer", "DISCONNECTED UPSTREAM HEAD YES retryable",
		func(s *scene) { s.script(fetchtest.Request()) }},
	{"the upstream closes without an answer over HTTP/2", "DISCONNECTED UPSTREAM HEAD YES retryable",
		func(s *scene) {
			s.script(h2Request())
			requireH2(s.request)
		}},
	{"the head breaks off", "CONNECTION_RESET NETWORK HEAD YES retryable",
		func(s *scene) { s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nX")) }},
	{"the connection is reset before the head", "CONNECTION_RESET NETWORK HEAD YES retryable",
		func(s *scene) { s.script(fetchtest.Request(), fetchtest.Reset()) }},
	{"the answer is not HTTP", "MALFORMED_HEAD UPSTREAM HEAD YES",
		func(s *scene) { s.script(fetchtest.Request(), fetchtest.Write("SSH-2.0-"+secret+"\r\n")) }},
	{"a field has no colon", "MALFORMED_HEAD UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n"+secret+"\r\n\r\n"))
		}},
	{"two lengths differ", "CONFLICTING_LENGTH UPSTREAM HEAD YES",
		func(s *scene) { s.script(fetchtest.Request(), fetchtest.Answer(200, "hello", "Content-Length: 4")) }},
	{"a length and chunks", "CONFLICTING_LENGTH UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "hello", "Transfer-Encoding: chunked"))
		}},
	{"the head has too many bytes", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "", "X-Large: "+strings.Repeat("x", 64<<10)))
			s.limit("max_response_field_bytes", 64<<10)
		}},
	{"the head has too many fields", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "", slices.Repeat([]string{"X: y"}, 256)...))
			s.limit("max_response_fields", 256)
		}},
	{"the head has more bytes than the caller takes", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "", "X-Large: "+strings.Repeat("x", 1<<10)))
			s.response().MaxHeadBytes = proto.Int32(1 << 10)
			s.limit("max_response_field_bytes", 1<<10)
		}},
	{"the head has more fields than the caller takes", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "", "X: y", "X: y"))
			s.response().MaxHeadFields = proto.Int32(2)
			s.limit("max_response_fields", 2)
		}},
	{"the head is a bomb", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.hostile("header-bomb")
			s.limit("max_response_field_bytes", 64<<10)
		}},
	{"there are too many interim heads", "TOO_MANY_INTERIM UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Repeat(6, "HTTP/1.1 103 Early Hints\r\n\r\n"), fetchtest.Answer(200, "ok"))
			s.limit("max_interim", 5)
		}},
	{"there are too many interim heads over HTTP/2", "TOO_MANY_INTERIM UPSTREAM HEAD YES",
		func(s *scene) {
			s.hostile("interim-flood")
			s.limit("max_interim", 5)
		}},
	{"the head over HTTP/2 has no status", "PROTOCOL_ERROR UPSTREAM HEAD YES",
		func(s *scene) { s.hostile("no-status") }},
	{"the connection ends without the stream", "PROTOCOL_ERROR UPSTREAM HEAD NO",
		func(s *scene) { s.hostile("goaway") }},
	{"the stream is reset before the head", "STREAM_RESET UPSTREAM HEAD YES",
		func(s *scene) { s.hostile("reset-internal-error") }},

	{"the body pauses", "BODY_TIMEOUT UPSTREAM BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Hang())
			s.timeouts().IdleRead = brief()
			s.arrived = "hello"
		}},
	{"the body is short", "INCOMPLETE_BODY UPSTREAM BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
			s.detail = &fetchgatev1.BodyShort{ReceivedBytes: 5, ExpectedBytes: proto.Int64(10)}
			s.arrived = "hello"
		}},
	{"the chunks break off", "INCOMPLETE_BODY UPSTREAM BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"))
			s.detail = &fetchgatev1.BodyShort{ReceivedBytes: 5}
			s.arrived = "hello"
		}},
	{"the connection is cut before TLS ends it", "INCOMPLETE_BODY UPSTREAM BODY YES",
		func(s *scene) {
			s.secure(&tls.Config{}, fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\nhello"), fetchtest.CloseWithoutNotify())
			s.detail = &fetchgatev1.BodyShort{ReceivedBytes: 5}
			s.arrived = "hello"
		}},
	{"the body is short over HTTP/2", "INCOMPLETE_BODY UPSTREAM BODY YES",
		func(s *scene) {
			s.script(h2Request(), frames(func(w *frameWriter) error {
				return w.then(w.head(false, ":status", "200", "content-length", "10"), func() error { return w.WriteData(1, false, []byte("hello")) })
			}).step())
			requireH2(s.request)
			s.detail = &fetchgatev1.BodyShort{ReceivedBytes: 5, ExpectedBytes: proto.Int64(10)}
			s.arrived = "hello"
		}},
	{"a chunk has no size", "INVALID_CHUNK UPSTREAM BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"+secret+"\r\n"))
			s.arrived = "hello"
		}},
	{"the body is larger than the caller takes", "BODY_TOO_LARGE CALLER BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "hello"))
			s.response().MaxBodyBytes = proto.Int64(4)
			s.limit("max_response_body_bytes", 4)
			s.arrived = "hell"
		}},
	{"the body does not fit into a message", "RESPONSE_TOO_LARGE CALLER BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, strings.Repeat("x", 3<<20+1)))
			s.limit("max_response_body_bytes", 3<<20)
			s.inMessage = true
		}},
	{"the body of unknown length does not fit into a message", "RESPONSE_TOO_LARGE CALLER BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Repeat(3<<20+1, "x"))
			s.limit("max_response_body_bytes", 3<<20)
			s.arrived = strings.Repeat("x", 3<<20)
			s.inMessage = true
		}},
	{"the body comes slowly", "BODY_TOO_SLOW UPSTREAM BODY YES",
		func(s *scene) {
			if testing.Short() {
				s.t.Skip("a body is measured over 30 s")
			}
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Hang())
			s.timeouts().Total = seconds(50)
			s.timeouts().MinThroughputBytesPerSecond = proto.Int64(2)
			s.limit("min_throughput", 60)
			s.arrived = "hello"
		}},
	{"the stream is reset in the body", "STREAM_RESET UPSTREAM BODY YES",
		func(s *scene) {
			s.hostile("reset-in-body")
			s.arrived = "hello"
		}},

	{"the coding is broken", "DECODE_FAILED UPSTREAM DECODE YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, secret+" is not gzip", "Content-Encoding: gzip"))
		}},
	{"the body is a bomb", "DECODED_TOO_LARGE UPSTREAM DECODE YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, gzipped(make([]byte, 2<<20)), "Content-Encoding: gzip"))
			s.limit("max_decoded_ratio", 100)
			s.arrivedLess = true
		}},
	{"there are too many codings", "TOO_MANY_CODINGS UPSTREAM DECODE YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(200, "hello", "Content-Encoding: gzip, gzip, gzip, gzip"))
			s.limit("max_codings", 3)
		}},

	{"the fetch takes too long before the head", "TOTAL_TIMEOUT CALLER HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Hang())
			s.timeouts().Total = brief()
		}},
	{"the fetch takes too long in the body", "TOTAL_TIMEOUT CALLER BODY YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Hang())
			s.timeouts().Total = brief()
			s.arrived = "hello"
		}},
	{"the attempt takes too long before the head", "ATTEMPT_TIMEOUT CALLER HEAD YES retryable",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Hang())
			s.timeouts().Attempt = brief()
		}},
	{"the attempt takes too long in the body", "ATTEMPT_TIMEOUT CALLER BODY YES retryable",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), fetchtest.Hang())
			s.timeouts().Attempt = brief()
			s.arrived = "hello"
		}},

	{"the redirects do not end", "TOO_MANY_REDIRECTS UPSTREAM HEAD YES",
		func(s *scene) {
			s.redirects(func(asked *fetchtest.Recorded) string { return asked.Target + "/more" })
			s.request.Options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(2)}
			s.limit("max_redirects", 2)
			s.hops = 3
		}},
	{"the redirects lead back", "REDIRECT_LOOP UPSTREAM HEAD YES",
		func(s *scene) {
			s.redirects(func(asked *fetchtest.Recorded) string { return asked.Target })
			s.request.Options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(3)}
			s.hops = 4
		}},
	{"the redirect leads nowhere", "INVALID_REDIRECT_URL UPSTREAM HEAD YES",
		func(s *scene) { s.redirectsTo("http://user:" + secret + "@127.0.0.1/") }},
	{"the redirect leads beyond the web", "UNSUPPORTED_SCHEME UPSTREAM HEAD YES",
		func(s *scene) { s.redirectsTo("ftp://127.0.0.1/" + secret) }},
	{"the redirect has too long a URL", "HEAD_TOO_LARGE UPSTREAM HEAD YES",
		func(s *scene) {
			s.redirectsTo("/" + strings.Repeat("x", fetch.MaxURLBytes))
			s.limit("max_url_bytes", fetch.MaxURLBytes)
		}},
	{"the redirect leads where no rule allows it", "REDIRECT_DENIED POLICY UNSPECIFIED YES",
		func(s *scene) {
			s.redirectsTo("http://other.test/?key=" + secret)
			s.denied("default-deny")
		}},
	{"the redirect leads from https to http", "REDIRECT_DENIED POLICY UNSPECIFIED YES",
		func(s *scene) {
			s.secureRedirectsTo("http://127.0.0.1/?key=" + secret)
			s.options.Allow = append(s.options.Allow, "http://127.0.0.1")
			s.denied("test")
		}},
	{"the redirect leads to a name of a denied address", "ADDRESS_DENIED POLICY RESOLVE YES",
		func(s *scene) {
			s.redirectsTo("http://inside.test/?key=" + secret)
			s.options.DNS = fetchtest.NewDNS(s.t)
			s.options.DNS.Set("inside.test", "10.0.0.1")
			s.options.Allow = append(s.options.Allow, "http://inside.test")
			s.denied("test")
		}},
	{"the redirect leads to nobody", "CONNECT_REFUSED NETWORK CONNECT YES retryable",
		func(s *scene) {
			closed := "http://" + closedAddress(s.t)
			s.redirectsTo(closed)
			s.options.Allow = append(s.options.Allow, closed)
			s.hops, s.last = 2, 0
		}},

	{"the status stays", "RETRIES_EXHAUSTED UPSTREAM HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Answer(503, "hello"))
			s.tries(2)
			s.last, s.arrived = 503, "hello"
		}},
	{"the status of a redirect's target stays", "RETRIES_EXHAUSTED UPSTREAM HEAD YES",
		func(s *scene) {
			u := fetchtest.NewScript(s.t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Answer(503, "hello"))
			s.redirectsTo(u.URL("/"))
			s.options.Allow = append(s.options.Allow, fetchtest.OriginOf(u))
			s.tries(2)
			s.hops, s.last, s.arrived = 2, 503, "hello"
		}},
	{"nobody listens, again and again", "RETRIES_EXHAUSTED NETWORK CONNECT NO",
		func(s *scene) {
			s.to("http://" + closedAddress(s.t))
			s.tries(3)
		}},
	{"the connection is reset, again and again", "RETRIES_EXHAUSTED NETWORK HEAD YES",
		func(s *scene) {
			s.script(fetchtest.Request(), fetchtest.Reset())
			s.tries(2)
		}},
	{"the address of a further attempt is denied", "ADDRESS_DENIED POLICY RESOLVE YES",
		func(s *scene) {
			u := fetchtest.NewScript(s.t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Answer(503, ""))
			s.to(u.URLOf("upstream.test", ""))
			s.denied("test")
			s.tries(2)
			s.hops = 1
			s.options.DNS = fetchtest.NewDNS(s.t)
			outside, inside := s.options.DNS.Addresses("127.0.0.1"), s.options.DNS.Addresses("10.0.0.1")
			s.options.DNS.Script("upstream.test", outside, inside, outside, inside)
		}},
}

// notYet are the reasons that this version cannot give, or that no upstream can
// bring about at will, and why.
var notYet = map[string]string{
	"TOO_MANY_DIALS":            "each connection must end between its handshake and its request",
	"PATH_AMBIGUOUS":            "no scene has a rule with paths",
	"WITHDRAWN":                 "it needs another configuration: TestRevokedStreams",
	"INTERNAL_FAULT":            "no known bug",
	"BODY_NOT_REWINDABLE":       "no Exchange",
	"PROXY_CONNECT":             "no proxies",
	"PROXY_STATUS":              "no proxies",
	"PROXY_AUTH":                "no proxies",
	"SOCKS_FAILED":              "no proxies",
	"TLS_PIN_MISMATCH":          "no scene has a TLS profile: TestTLSPins",
	"UPLOAD_ABORTED":            "no Exchange",
	"UPLOAD_LENGTH_MISMATCH":    "no Exchange",
	"CHARSET_UNKNOWN":           "no text",
	"INVALID_URL":               "it refuses the request",
	"ENTITY_CHANGED":            "no downloads",
	"DIGEST_MISMATCH":           "no downloads",
	"RANGE_REFUSED":             "no downloads",
	"CREDENTIAL_OUT_OF_BINDING": "it refuses the request: TestCredentialRefusals",
	"CREDENTIAL_UNAVAILABLE":    "no credential is fetched from elsewhere",
	"CHALLENGE_UNSUPPORTED":     "no credential answers challenges",
	"BREAKER_OPEN":              "no breakers",
	"UPSTREAM_QUOTA":            "no quotas",
	"HANDSHAKE_STATUS":          "no WebSocket",
	"HANDSHAKE_INVALID":         "no WebSocket",
	"WS_PROTOCOL_ERROR":         "no WebSocket",
}

// TestEveryReasonIsBroughtAbout: a reason that is new in the contract fails
// until a fault brings it about or somebody says why none can.
func TestEveryReasonIsBroughtAbout(t *testing.T) {
	occurs := map[string]bool{"DRAINING": true} // by TestGraceRunsOut
	for _, f := range faults {
		reason, _, _ := strings.Cut(f.want, " ")
		occurs[reason] = true
	}
	values := map[string]bool{}
	for number, name := range fetchgatev1.FailureReason_name {
		reason := strings.TrimPrefix(name, "FAILURE_REASON_")
		values[reason] = true
		if number != 0 && occurs[reason] == (notYet[reason] != "") {
			t.Errorf("%s must be either among the faults or among those that cannot be yet", reason)
		}
	}
	for _, reason := range slices.Concat(slices.Collect(maps.Keys(occurs)), slices.Collect(maps.Keys(notYet))) {
		if !values[reason] {
			t.Errorf("the contract has no reason %s", reason)
		}
	}
}

func TestFailures(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, authority)
			f.arrange(s)
			g := fetchtest.Start(t, s.options)
			if s.before != nil {
				s.before(g)
			}
			for _, rpc := range rpcs {
				if s.inMessage && rpc.name != "Fetch" {
					continue
				}
				t.Run(rpc.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					a, err := rpc.call(ctx, g, s.request)
					if err != nil {
						t.Fatalf("the RPC failed, want the failure in the answer: %v", err)
					}
					s.check(t, f.want, a)
				})
			}
		})
	}
}

// TestStreamsHaveNoLimitOfSize: what is RESPONSE_TOO_LARGE for Fetch is not for
// StreamFetch.
func TestStreamsHaveNoLimitOfSize(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 4<<20/16)
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Answer(200, body))
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u)}})
	a, err := stream(t.Context(), g, &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil || a.failure != nil || string(a.body) != body {
		t.Errorf("got %d bytes, failure %v, error %v; want %d bytes", len(a.body), a.failure, err, len(body))
	}
}

// patience is the most that a test waits for what must happen; far more than
// any timeout that it sets.
const patience = time.Minute

// secret is what requests and faulty upstreams hold and no failure may show.
const secret = "hunter2"

// brief is the timeout that is to run out.
func brief() *durationpb.Duration { return durationpb.New(150 * time.Millisecond) }

// scene is what a fault is arranged in: a fetchgate that is going to be
// started, a request, and what is to be found in the answer.
type scene struct {
	t         *testing.T
	authority *fetchtest.Authority // that the fetchgate trusts
	options   fetchtest.Options
	request   *request
	before    func(*fetchtest.Fetchgate) // runs first; may be nil

	detail  proto.Message // the failure's; nil means none
	arrived string        // of the body
	// attempts and hops are how many there are, hops in each attempt.
	attempts, hops int
	// last is the status of the response that the failure is about; 0 means that
	// no response came, or the usual one.
	last int32
	rule string // that decides on the last hop
	// arrivedLess tells that how much of the body arrived is not fixed.
	arrivedLess bool
	// inMessage tells that the fault is one of Fetch alone.
	inMessage bool
}

func newScene(t *testing.T, authority *fetchtest.Authority) *scene {
	return &scene{
		t: t, authority: authority, attempts: 1, hops: 1, rule: "test",
		options: fetchtest.Options{Trust: authority},
		request: &request{
			Request: &fetchgatev1.HttpRequest{Headers: headers("Authorization", "Bearer "+secret)},
			Options: &fetchgatev1.FetchOptions{
				// The upstreams close theirs after one fault, at any moment.
				Connection: &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)},
				Retry:      oneAttempt(),
			},
		},
	}
}

// oneAttempt is the policy of a fetch whose fault is not to be tried again.
func oneAttempt() *fetchgatev1.RetryPolicy {
	return &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(1)}
}

// asIs is the policy of a fetch that wants a redirect itself.
func asIs() *fetchgatev1.RedirectPolicy {
	return &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(0)}
}

// tries has the fault tried so often, and told as a failure.
func (s *scene) tries(n int) {
	s.attempts = n
	s.request.Options.Retry = &fetchgatev1.RetryPolicy{
		MaxAttempts: proto.Int32(int32(n)), BackoffBase: millis(0),
		Exhausted: fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE.Enum(),
	}
}

// redirects is an upstream that redirects to where location says.
func (s *scene) redirects(location func(*fetchtest.Recorded) string) {
	s.to(fetchtest.OriginOf(s.redirector(fetchtest.Listen{}, location)))
}

func (s *scene) redirector(l fetchtest.Listen, location func(*fetchtest.Recorded) string) *fetchtest.Upstream {
	s.last = 302
	return fetchtest.NewRecorder(s.t, fetchtest.RecorderOptions{Listen: l, Respond: func(asked *fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(302, "", "Location: "+location(asked))
	}}).Upstream
}

func (s *scene) redirectsTo(location string) {
	s.redirects(func(*fetchtest.Recorded) string { return location })
}

// secureRedirectsTo is redirectsTo over TLS.
func (s *scene) secureRedirectsTo(location string) {
	s.to(fetchtest.OriginOf(s.redirector(fetchtest.Listen{Authority: s.authority}, func(*fetchtest.Recorded) string { return location })))
}

// denied has the rule deny the hop that the redirect leads to.
func (s *scene) denied(rule string) {
	s.rule, s.hops, s.last = rule, 2, 0
	s.detail = &fetchgatev1.Denial{Rule: rule, Generation: 1}
}

// to sends the request to an origin, with a secret in its query.
func (s *scene) to(origin string) {
	s.options.Allow = []string{origin}
	s.request.Request.Url = origin + "/path?key=" + secret
}

func (s *scene) name(answer fetchtest.DNSAnswer) {
	s.options.DNS = fetchtest.NewDNS(s.t)
	s.options.DNS.Script("upstream.test", answer)
	s.to("http://upstream.test")
}

func (s *scene) script(steps ...fetchtest.Step) {
	s.to(fetchtest.OriginOf(fetchtest.NewScript(s.t, fetchtest.Listen{}, steps...)))
}

// https has the request speak TLS with an upstream that does not.
func (s *scene) https() {
	s.request.Request.Url = strings.Replace(s.request.Request.Url, "http:", "https:", 1)
	s.options.Allow[0] = strings.Replace(s.options.Allow[0], "http:", "https:", 1)
}

// secure is a script over TLS with a certificate of the trusted authority.
func (s *scene) secure(c *tls.Config, steps ...fetchtest.Step) {
	c.Certificates = []tls.Certificate{s.authority.Issue(fetchtest.IssueOptions{})}
	s.to(fetchtest.OriginOf(fetchtest.NewScript(s.t, fetchtest.Listen{TLS: c}, steps...)))
}

// certificate is an upstream whose certificate is refused.
func (s *scene) certificate(a *fetchtest.Authority, o fetchtest.IssueOptions) {
	o.CommonName = "upstream of the test"
	c := a.Issue(o)
	s.to(fetchtest.OriginOf(fetchtest.NewScript(s.t, fetchtest.Listen{TLS: &tls.Config{Certificates: []tls.Certificate{c}}}, fetchtest.Hang())))
	names := o.Names
	if names == nil {
		names = []string{"localhost", "*.test", "127.0.0.1", "::1"}
	}
	s.detail = &fetchgatev1.TlsFault{
		Subject: "CN=upstream of the test", Issuer: c.Leaf.Issuer.String(), Names: names,
		NotBeforeTime: timestamppb.New(c.Leaf.NotBefore), NotAfterTime: timestamppb.New(c.Leaf.NotAfter),
	}
}

// hostile is an upstream that speaks HTTP/2 as it should not be spoken.
func (s *scene) hostile(name string) {
	s.to(fetchtest.OriginOf(fetchtest.NewHostile(s.t, name, nil)))
	requireH2(s.request)
}

// upload is a body that is larger than the buffers of its connection.
func (s *scene) upload() {
	s.request.Request.Method = "POST"
	s.request.Request.Body = raw(strings.Repeat(secret+"\n", 3<<20/8))
	s.options.Connect = smallBuffers
}

// occupyPool lets another fetch have the only connection.
func occupyPool(s *scene) {
	s.script(fetchtest.Request(), fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Hang())
	s.options.Extra = "limits:\n  max_connections_per_route: 1\n"
	s.timeouts().Pool = brief()
	s.before = func(g *fetchtest.Fetchgate) {
		busy, err := g.StreamFetch(s.t.Context(), &fetchgatev1.StreamFetchRequest{Request: s.request.Request})
		if err != nil {
			s.t.Fatal(err)
		}
		if m, err := busy.Recv(); err != nil || m.GetHead() == nil {
			s.t.Fatalf("got %v, %v; want a head", m, err)
		}
	}
}

func (s *scene) timeouts() *fetchgatev1.Timeouts {
	if s.request.Options.Timeouts == nil {
		s.request.Options.Timeouts = &fetchgatev1.Timeouts{}
	}
	return s.request.Options.Timeouts
}

func (s *scene) response() *fetchgatev1.ResponseOptions {
	if s.request.Options.Response == nil {
		s.request.Options.Response = &fetchgatev1.ResponseOptions{}
	}
	return s.request.Options.Response
}

func (s *scene) limit(name string, most int64) {
	s.detail = &fetchgatev1.LimitHit{Limit: name, Maximum: most}
}

// check holds an answer to what the scene leads to.
func (s *scene) check(t *testing.T, want string, a *answer) {
	t.Helper()
	if a.failure == nil {
		t.Fatalf("there is no failure, but the response %v %q", a.head, a.body)
	}
	if got := inWords(a.failure); !regexp.MustCompile("^" + strings.Replace(want, "?", "(NO|YES)", 1) + "$").MatchString(got) {
		t.Errorf("the failure is %s, want %s: %s", got, want, a.failure.GetMessage())
	}
	if got := withoutHint(t, detailOf(a.failure)); !sameMessage(got, s.detail) {
		t.Errorf("the detail is %v, want %v", got, s.detail)
	}
	wantStatus := s.last
	if strings.Contains(want, " BODY ") || strings.Contains(want, " DECODE ") {
		wantStatus = 200
	}
	if status := a.head.GetStatus(); status != wantStatus {
		t.Errorf("the status %d arrived, want %d", status, wantStatus)
	}
	if !s.arrivedLess && string(a.body) != s.arrived {
		t.Errorf("%d bytes of the body arrived, %.20q, want %d", len(a.body), a.body, len(s.arrived))
	}
	if a.failure.GetMessage() == "" {
		t.Error("the failure has no message")
	}
	s.checkHistory(t, a)
	for _, m := range []proto.Message{withoutResponse(a.failure), a.report} {
		if text := prototext.Format(m); strings.Contains(text, secret) {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	s.checkReport(t, a)
}

// checkHistory wants each head that was followed in the answer.
func (s *scene) checkHistory(t *testing.T, a *answer) {
	t.Helper()
	if want := s.hops - 1; len(a.history) != want || slices.ContainsFunc(a.history, func(h *fetchgatev1.HttpHead) bool { return h.GetStatus() != 302 }) {
		t.Errorf("the history is %v, want %d redirects", a.history, want)
	}
}

// checkReport wants the evidence whole, since nobody asked for it in vain.
func (s *scene) checkReport(t *testing.T, a *answer) {
	t.Helper()
	r := a.report
	if int(r.GetAttemptCount()) != s.attempts || int(r.GetHopCount()) != s.attempts*s.hops || r.GetRule() != s.rule || r.GetTotal().AsDuration() <= 0 || r.GetLimits() == nil {
		t.Errorf("the report is not that of %d attempts with %d hops, in full: %v", s.attempts, s.hops, r)
	}
	if len(r.GetAttempts()) != s.attempts || len(r.GetAttempts()[s.attempts-1].GetHops()) != s.hops {
		t.Fatalf("the report lists attempts other than %d with %d hops: %v", s.attempts, s.hops, r.GetAttempts())
	}
	attempt := r.GetAttempts()[s.attempts-1]
	hop := attempt.GetHops()[s.hops-1]
	same := attempt.GetReason() == a.failure.GetReason() && attempt.GetMessage() == a.failure.GetMessage()
	if a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_RETRIES_EXHAUSTED {
		// The attempt has its own reason, which the failure names; a response
		// is none.
		reason, _ := strings.CutPrefix(attempt.GetReason().String(), "FAILURE_REASON_")
		same = hop.GetStatus() != 0 && reason == "UNSPECIFIED" || strings.Contains(a.failure.GetMessage(), reason+": "+attempt.GetMessage())
	}
	if int(attempt.GetNumber()) != s.attempts || !same {
		t.Errorf("the attempt is number %d and failed with %v %q", attempt.GetNumber(), attempt.GetReason(), attempt.GetMessage())
	}
	if wantMethod := cmp.Or(s.request.Request.Method, "GET"); hop.GetMethod() != wantMethod || hop.GetStatus() != a.head.GetStatus() && a.head != nil {
		t.Errorf("the hop is %s, status %d", hop.GetMethod(), hop.GetStatus())
	}
	sent := a.failure.GetRequestSent() == fetchgatev1.RequestSent_REQUEST_SENT_YES
	if first := r.GetAttempts()[0].GetHops()[0]; sent && !strings.HasPrefix(first.GetConnection().GetRemoteAddress(), "127.0.0.1:") {
		t.Errorf("the request was sent over the connection %v", first.GetConnection())
	}
}

// inWords renders what a program decides by, as fault.want is written.
func inWords(f *fetchgatev1.Failure) string {
	words := []string{
		strings.TrimPrefix(f.GetReason().String(), "FAILURE_REASON_"),
		strings.TrimPrefix(f.GetBlame().String(), "BLAME_"),
		strings.TrimPrefix(f.GetStage().String(), "STAGE_"),
		strings.TrimPrefix(f.GetRequestSent().String(), "REQUEST_SENT_"),
	}
	if f.GetRetryable() {
		words = append(words, "retryable")
	}
	return strings.Join(words, " ")
}

// detailOf is the one detail that a failure has; nil if it has none.
func detailOf(f *fetchgatev1.Failure) proto.Message {
	m := f.ProtoReflect()
	set := m.WhichOneof(m.Descriptor().Oneofs().ByName("detail"))
	if set == nil {
		return nil
	}
	return m.Get(set).Message().Interface()
}

// withoutHint takes the hint out of a denial, which must have one.
func withoutHint(t *testing.T, detail proto.Message) proto.Message {
	t.Helper()
	denial, ok := detail.(*fetchgatev1.Denial)
	if !ok {
		return detail
	}
	if denial.GetHint() == "" {
		t.Error("the denial has no hint")
	}
	denial = proto.CloneOf(denial)
	denial.Hint = ""
	return denial
}

func sameMessage(a, b proto.Message) bool {
	if a == nil || b == nil {
		return a == b
	}
	return proto.Equal(a, b)
}

func withoutResponse(f *fetchgatev1.Failure) *fetchgatev1.Failure {
	f = proto.CloneOf(f)
	f.Response = nil
	return f
}

func gzipped(b []byte) string {
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	z.Write(b)
	z.Close()
	return coded.String()
}

// readBytes reads n bytes of what the peer sends.
func readBytes(n int64) fetchtest.Step {
	return func(c *fetchtest.Conn) error {
		_, err := io.CopyN(io.Discard, c, n)
		return err
	}
}

// closedAddress is an address that nobody listens on, and nobody can until the
// test ends: an outgoing connection has its port.
func closedAddress(t *testing.T) string {
	t.Helper()
	u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Hang())
	c, err := net.Dial("tcp", u.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

// fullAddress is an address whose listener never accepts and whose queue is
// full, so that the kernel drops every further SYN.
func fullAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	socket, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var shortened error
	if err := socket.Control(func(fd uintptr) { shortened = syscall.Listen(int(fd), 0) }); err != nil || shortened != nil {
		t.Fatal(err, shortened)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return l.Addr().String()
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("the queue of the listener does not fill")
	return ""
}

// smallBuffers connects like a service, but a socket takes only little that the
// upstream does not read: with the kernel's buffers a whole upload would fit.
func smallBuffers(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
	d := net.Dialer{Control: control}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetWriteBuffer(16 << 10)
}

// answer is what a caller gets, by whichever RPC.
type answer struct {
	report   *fetchgatev1.FetchReport
	failure  *fetchgatev1.Failure
	interim  []*fetchgatev1.HttpHead
	history  []*fetchgatev1.HttpHead
	cookies  []*fetchgatev1.Cookie
	head     *fetchgatev1.HttpHead
	body     []byte
	trailers []*fetchgatev1.HeaderField
}

// rpcs are the RPCs that fetch.
var rpcs = []struct {
	name string
	call func(context.Context, fetchgatev1.FetchServiceClient, *request, ...grpc.CallOption) (*answer, error)
}{{"Fetch", whole}, {"StreamFetch", stream}}

// whole fetches by Fetch.
func whole(ctx context.Context, c fetchgatev1.FetchServiceClient, m *request, o ...grpc.CallOption) (*answer, error) {
	got, err := c.Fetch(ctx, m, o...)
	if err != nil {
		return nil, err
	}
	a := &answer{report: got.GetReport(), failure: got.GetFailure()}
	response := got.GetResponse()
	if a.failure != nil {
		response = a.failure.GetResponse()
	}
	a.history, a.cookies = response.GetHistory(), response.GetCookies()
	a.interim, a.head, a.body, a.trailers = response.GetInterim(), response.GetHead(), response.GetBody(), response.GetTrailers()
	return a, nil
}

// stream fetches by StreamFetch. A stream that ends without a summary is an
// error.
func stream(ctx context.Context, c fetchgatev1.FetchServiceClient, m *request, o ...grpc.CallOption) (*answer, error) {
	events, err := c.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options}, o...)
	if err != nil {
		return nil, err
	}
	a := &answer{}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) && a.report == nil {
			return a, errors.New("the stream ended without a summary")
		}
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		if err := a.add(event); err != nil {
			return a, err
		}
	}
}

func (a *answer) add(event *fetchgatev1.StreamFetchResponse) error {
	if a.report != nil {
		return fmt.Errorf("%v comes after the summary", event)
	}
	switch e := event.GetEvent().(type) {
	case *fetchgatev1.StreamFetchResponse_Interim:
		a.interim = append(a.interim, e.Interim)
	case *fetchgatev1.StreamFetchResponse_Hop:
		a.history = append(a.history, e.Hop)
	case *fetchgatev1.StreamFetchResponse_Head:
		a.head = e.Head
	case *fetchgatev1.StreamFetchResponse_Data:
		if e.Data.GetOffsetBytes() != int64(len(a.body)) {
			return fmt.Errorf("data at %d comes after %d bytes", e.Data.GetOffsetBytes(), len(a.body))
		}
		a.body = append(a.body, e.Data.GetData()...)
	case *fetchgatev1.StreamFetchResponse_Summary:
		a.cookies = e.Summary.GetCookies()
		a.report, a.failure, a.trailers = e.Summary.GetReport(), e.Summary.GetFailure(), e.Summary.GetTrailers()
		if e.Summary.GetBodyBytes() != int64(len(a.body)) {
			return fmt.Errorf("the summary says %d bytes after %d", e.Summary.GetBodyBytes(), len(a.body))
		}
		if last := a.failure.GetResponse(); last != nil {
			if a.head != nil {
				return fmt.Errorf("the failure is about the response %v, but another came before", last)
			}
			a.head, a.body = last.GetHead(), last.GetBody()
		}
	default:
		return fmt.Errorf("the event %v is not one that this version sends", event)
	}
	return nil
}

// TestDenialsOfTheFirstHopAreRPCErrors: nothing was sent, so there is no answer
// to put a failure into.
func TestDenialsOfTheFirstHopAreRPCErrors(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	dns := fetchtest.NewDNS(t)
	dns.Set("upstream.test", "127.0.0.1")
	rule := "rules:\n  - name: some\n    origins: [%q]\n"
	for _, c := range []struct {
		name, config, url string
		reason, rule      string
	}{
		{"the address of a name", fmt.Sprintf(rule, u.URLOf("upstream.test", "")), u.URLOf("upstream.test", "/"), "ADDRESS_DENIED", "some"},
		{"the address of a literal", fmt.Sprintf(rule, fetchtest.OriginOf(u.Upstream)), u.URL("/"), "ADDRESS_DENIED", "some"},
		{"the origin", fmt.Sprintf(rule, "https://other.test"), u.URL("/"), "DESTINATION_DENIED", "default-deny"},
		{"the method", fmt.Sprintf(rule, fetchtest.OriginOf(u.Upstream)) + "    methods: [PUT]\n", u.URL("/"), "DESTINATION_DENIED", "default-deny"},
		{"the port, without rules", "", u.URLOf("example.com", "/"), "DESTINATION_DENIED", "default-deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := fetchtest.Start(t, fetchtest.Options{Config: c.config, DNS: dns})
			for _, rpc := range rpcs {
				_, err := rpc.call(t.Context(), g, &request{Request: &fetchgatev1.HttpRequest{Url: c.url + "?key=" + secret}})
				checkDenial(t, rpc.name, err, c.reason, c.rule)
			}
		})
	}
	if opened, _ := u.Connections(); opened != 0 || len(u.Requests()) != 0 {
		t.Errorf("the upstream got %d connections and %d requests, want none", opened, len(u.Requests()))
	}
}

func checkDenial(t *testing.T, rpc string, err error, reason, rule string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.PermissionDenied || s.Message() == "" || strings.Contains(s.Message(), secret) {
		t.Errorf("%s: got %v, want PermissionDenied that shows no secret", rpc, err)
	}
	var found *errdetails.ErrorInfo
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			found = i
		}
	}
	if found.GetDomain() != "fetchgate" || found.GetReason() != reason || found.GetMetadata()["rule"] != rule || found.GetMetadata()["generation"] == "" {
		t.Errorf("%s: the error says %v, want fetchgate, %s, the rule %s and a generation", rpc, found, reason, rule)
	}
}
