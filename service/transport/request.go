package transport

import (
	"net/http"
	"net/textproto"
	"net/url"

	"golang.org/x/net/http/httpguts"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// ownFields are written by the engines alone. They arrive here only by mistake,
// since fetch.CheckField refuses them, and would then let one request pass for
// two (RFC 9112 section 11.2).
var ownFields = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true,
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Upgrade": true,
	"Http2-Settings": true, "Te": true, "Expect": true,
}

// checkRequest refuses what no engine may send. All of it was checked where the
// plan was made, so whatever is found here is a mistake of fetchgate's.
func checkRequest(r *fetch.Request) error {
	t := r.Timeouts
	switch {
	case r.Scheme != "http" && r.Scheme != "https", r.Host == "", r.Port == 0:
		return mistake("the request has no origin")
	case r.Route.Key == "":
		return mistake("the route has no pool key")
	case r.Route.TLS.Roots != nil && r.Route.TLS.RootsID == "":
		return mistake("the route's roots have no name, so that its pool key lacks them")
	case r.Route.MaxDials < 1:
		return mistake("the route allows no dial")
	case min(t.Pool, t.TLS, t.Head, t.Idle, t.Write) <= 0:
		return mistake("a timeout is not set")
	case !isToken(r.Method):
		return mistake("the method is not a token")
	case r.Method == http.MethodConnect:
		return mistake("CONNECT is not a method of a hop")
	case !isTarget(r.Target):
		return mistake("the request target is not visible ASCII that begins with '/', nor '*'")
	case !isHost(r.HostField):
		return mistake("the Host field is not a host")
	case (r.Framing == fetch.FramingLength && r.Length > 0 || r.Framing == fetch.FramingChunked) && r.Body == nil:
		return mistake("the request has framing and no body")
	case r.Framing == fetch.FramingLength && r.Length < 0:
		return mistake("the request has a length below 0")
	case r.Framing == fetch.FramingUpgrade:
		return mistake("this transport has no upgrade to another protocol")
	}
	return checkFields(r.Fields)
}

func checkFields(fields []fetch.Field) error {
	for _, f := range fields {
		switch {
		case !isToken(f.Name):
			return mistake("the name of a field is not a token")
		case ownFields[textproto.CanonicalMIMEHeaderKey(f.Name)]:
			return mistake("the field " + f.Name + " is the transport's own")
		case !httpguts.ValidHeaderFieldValue(string(f.Value)):
			return mistake("the value of the field " + f.Name + " has a control character")
		}
	}
	return nil
}

func mistake(what string) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonInternalFault, "fetchgate has a bug: "+what, nil)
	f.Stage, f.Sent = fetch.StageWait, fetch.SentNo
	return f
}

func isToken(s string) bool { return httpguts.ValidHeaderFieldName(s) }

func isTarget(target []byte) bool {
	if len(target) == 0 || target[0] != '/' && string(target) != "*" {
		return false
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// isHost accepts what both HTTP libraries write as it is: they would send an
// empty Host in place of another.
func isHost(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return httpguts.ValidHostHeader(s)
}

// httpRequest returns x's request as both HTTP libraries take it, but for its
// context. RequestURI of u, or what is left of it without the origin, is the
// exact target.
func httpRequest(x *exchange, u *url.URL) *http.Request {
	r := x.req
	req := &http.Request{
		Method: r.Method, URL: u, Host: x.authority,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header, len(r.Fields)+2),
		Close:  r.CloseAfter,
	}
	// Both write a User-Agent of their own where this key is missing.
	req.Header["User-Agent"] = nil
	for _, f := range r.Fields {
		key := textproto.CanonicalMIMEHeaderKey(f.Name)
		req.Header[key] = append(req.Header[key], string(f.Value))
	}
	if r.ExpectContinue && r.Framing != fetch.FramingNone {
		req.Header["Expect"] = []string{"100-continue"}
	}
	frame(req, x)
	return req
}

// frame says how the body of req is delimited.
func frame(req *http.Request, x *exchange) {
	switch {
	case x.req.Framing == fetch.FramingNone:
		return
	case x.req.Framing == fetch.FramingChunked:
		req.Body, req.ContentLength = x.upload, -1
		// Without this, the library reads ahead to find out about empty bodies.
		req.TransferEncoding = []string{"chunked"}
		if x.req.Trailers != nil {
			req.Trailer = x.upload.trailer
		}
	case x.req.Length == 0:
		// With this, a length of 0 is said for every method but GET and HEAD.
		req.Body, req.TransferEncoding = http.NoBody, []string{"identity"}
	default:
		req.Body, req.ContentLength = x.upload, x.req.Length
	}
}
