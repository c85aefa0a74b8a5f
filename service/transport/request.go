package transport

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport/h1"
)

// neverSent are fields that no engine sends on anybody's word. They, and those
// that h1.Agrees knows, arrive here only by mistake, since fetch.CheckField
// refuses them, and would let one request pass for two (RFC 9112 section 11.2).
var neverSent = []string{"Proxy-Connection", "Keep-Alive", "Upgrade", "HTTP2-Settings"}

// isOwn tells whether the field is the transport's to write.
func isOwn(name string) bool {
	return h1.IsOwn(name) || slices.ContainsFunc(neverSent, func(never string) bool { return strings.EqualFold(never, name) })
}

// checkRequest refuses what no engine may send. All of it was checked where the
// plan was made, so whatever is found here is a mistake of fetchgate's.
func checkRequest(x *exchange) error {
	r := x.req
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
	case !fetch.IsToken(r.Method):
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
	case r.Trailers != nil && r.Framing != fetch.FramingChunked:
		return mistake("the request has trailers and no chunks")
	}
	for _, name := range r.TrailerNames {
		if err := checkField(fetch.Field{Name: name}); err != nil {
			return err
		}
	}
	return checkHead(x)
}

// checkHead lets those of the transport's own fields pass, once each, that say
// what is sent anyway in a verbatim request, and what to upgrade to.
func checkHead(x *exchange) error {
	upgrades := false
	for i, f := range x.req.Fields {
		again := slices.ContainsFunc(x.req.Fields[:i], func(other fetch.Field) bool { return strings.EqualFold(f.Name, other.Name) })
		switch {
		case !again && x.req.Framing == fetch.FramingUpgrade && strings.EqualFold(f.Name, "Upgrade") && h1.IsFieldText(f.Value):
			upgrades = true
		case !again && x.req.Verbatim && h1.IsOwn(f.Name) && h1.Agrees(f, x.req, x.authority):
		default:
			if err := checkField(f); err != nil {
				return err
			}
		}
	}
	if x.req.Framing == fetch.FramingUpgrade && !upgrades {
		return mistake("the request does not say what to upgrade to")
	}
	return nil
}

func checkFields(fields []fetch.Field) error {
	for _, f := range fields {
		if err := checkField(f); err != nil {
			return err
		}
	}
	return nil
}

// checkField refuses a field that is the transport's own.
func checkField(f fetch.Field) error {
	switch {
	case !fetch.IsToken(f.Name):
		return mistake("the name of a field is not a token")
	case isOwn(f.Name):
		return mistake("the field " + f.Name + " is the transport's own")
	case !h1.IsFieldText(f.Value):
		return mistake("the value of the field " + f.Name + " has a control character")
	}
	return nil
}

func mistake(what string) *fetch.Failure {
	f := fetch.Fail(fetch.ReasonInternalFault, "fetchgate has a bug: "+what, nil)
	f.Stage, f.Sent = fetch.StageWait, fetch.SentNo
	return f
}

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

// isHost accepts what the HTTP/2 library writes as it is: it would send an empty
// :authority in place of another.
func isHost(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return httpguts.ValidHostHeader(s)
}

// httpRequest returns x's request as the HTTP/2 library takes it, but for its
// context. What is left of u without the origin is the exact target.
func httpRequest(x *exchange, u *url.URL) *http.Request {
	r := x.req
	req := &http.Request{
		Method: r.Method, URL: u, Host: x.authority,
		Header: make(http.Header, len(r.Fields)+2),
		Close:  r.CloseAfter,
	}
	// The library writes a User-Agent of its own where this key is missing.
	req.Header["User-Agent"] = nil
	for i, f := range r.Fields {
		if r.Verbatim && isOwn(f.Name) {
			continue // RFC 9113 section 8.2.2
		}
		addFields(req.Header, r.Fields[i:i+1])
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
		req.Body, req.ContentLength = &x.upload, -1
		// Without this, the library reads ahead to find out about empty bodies.
		req.TransferEncoding = []string{"chunked"}
		if x.req.Trailers != nil {
			trail(req, x)
		}
	case x.req.Length == 0:
		// With this, a length of 0 is said for every method but GET and HEAD.
		req.Body, req.TransferEncoding = http.NoBody, []string{"identity"}
	default:
		req.Body, req.ContentLength = &x.upload, x.req.Length
	}
}

// trail has req end with the trailers of the upload. The library forgets those
// of which it was not told before, so that there may be none.
func trail(req *http.Request, x *exchange) {
	req.Trailer = make(http.Header, len(x.req.TrailerNames))
	for _, name := range x.req.TrailerNames {
		req.Trailer[textproto.CanonicalMIMEHeaderKey(name)] = nil
	}
	x.upload.ended = func(fields []fetch.Field) error {
		for _, f := range fields {
			if _, named := req.Trailer[textproto.CanonicalMIMEHeaderKey(f.Name)]; !named {
				return uploadFailure(fetch.ReasonUploadAborted, "over HTTP/2, trailers must be named before the body ends", nil)
			}
		}
		addFields(req.Trailer, fields)
		return nil
	}
}

func addFields(header http.Header, fields []fetch.Field) {
	for _, f := range fields {
		key := textproto.CanonicalMIMEHeaderKey(f.Name)
		header[key] = append(header[key], string(f.Value))
	}
}
