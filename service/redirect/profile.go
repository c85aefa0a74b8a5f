package redirect

import "github.com/fetchgate/fetchgate/service/fetch"

// profile is what a library does with a redirect where others differ.
type profile struct {
	// rewrite returns the method of the next hop and whether the request's body
	// and what describes it are dropped.
	rewrite func(status int, method string) (next string, dropsBody bool)
	// bodyFields are dropped with the body, besides those of its framing.
	bodyFields []string
	// everyHop are dropped on every redirect: the library makes them anew.
	everyHop []string
	// keepsOffOrigin keeps all fields off-origin but those that are bound to
	// the origin; otherwise none is kept but those that are named.
	keepsOffOrigin bool
	// upgrades keeps what is bound to the origin from http, port 80, to https,
	// port 443, of the same host.
	upgrades bool
	// uriField follows a URI field where there is no Location.
	uriField bool
}

var profiles = map[fetch.RedirectProfile]profile{
	fetch.RedirectFetch: {
		rewrite: rewriteFetch,
		// The Standard's "request-body-header name".
		bodyFields: []string{"Content-Encoding", "Content-Language", "Content-Location", "Content-Type"},
	},
	fetch.RedirectRequests: {
		rewrite:        rewriteRequests,
		bodyFields:     []string{"Content-Type"},
		everyHop:       []string{"Cookie", "Proxy-Authorization"},
		keepsOffOrigin: true,
		upgrades:       true,
	},
	fetch.RedirectURLLib3: {
		rewrite: rewriteURLLib3,
		bodyFields: []string{"Content-Encoding", "Content-Language", "Content-Location", "Content-Type",
			"Digest", "Last-Modified"},
		keepsOffOrigin: true,
	},
	fetch.RedirectHTTPX: {
		rewrite:        rewriteHTTPX,
		everyHop:       []string{"Cookie"},
		keepsOffOrigin: true,
		upgrades:       true,
	},
	fetch.RedirectAIOHTTP: {
		rewrite:        rewriteAIOHTTP,
		keepsOffOrigin: true,
		uriField:       true,
	},
}

// profileOf returns the rules of name; of one that is not known, the Standard's,
// which keep the least.
func profileOf(name fetch.RedirectProfile) profile {
	if p, ok := profiles[name]; ok {
		return p
	}
	return profiles[fetch.RedirectFetch]
}

// rewriteFetch is the Fetch Standard's HTTP-redirect fetch.
func rewriteFetch(status int, method string) (string, bool) {
	switch {
	case (status == 301 || status == 302) && method == "POST",
		status == 303 && method != "GET" && method != "HEAD":
		return "GET", true
	}
	return method, false
}

// rewriteRequests drops the body even where the method stays.
func rewriteRequests(status int, method string) (string, bool) {
	return browserMethod(status, method), status < 307
}

// rewriteURLLib3 makes a GET of a HEAD as well.
func rewriteURLLib3(status int, method string) (string, bool) {
	if status == 303 {
		return "GET", true
	}
	return method, false
}

func rewriteHTTPX(status int, method string) (string, bool) {
	next := browserMethod(status, method)
	return next, next != method
}

// rewriteAIOHTTP drops the body of a GET, too, where the status is 303.
func rewriteAIOHTTP(status int, method string) (string, bool) {
	switch {
	case (status == 301 || status == 302) && method == "POST",
		status == 303 && method != "HEAD":
		return "GET", true
	}
	return method, false
}

// browserMethod is the method as requests and httpx take it from browsers.
func browserMethod(status int, method string) string {
	switch {
	case status == 301 && method == "POST",
		(status == 302 || status == 303) && method != "HEAD":
		return "GET"
	}
	return method
}
