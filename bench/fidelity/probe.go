package main

import (
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// probe is one request, said in three ways, and the bytes that answer it.
type probe struct {
	name string
	// call is what a caller of the stock library writes; u is the upstream's
	// URL without a path.
	call string

	// The same request as a transport gets it, after the library has prepared
	// it: what an adapter would hand to fetchgate.
	method, target string
	// fields are lines in the order of the library. HOST is the upstream.
	fields []string
	// pieces are the body; nil means none. A body that is not streamed has one.
	pieces   []string
	streamed bool

	answer string
	// differs says why the caller of fetchgate gets something else than that of
	// the stock library. Empty: it must get the same.
	differs string
}

// ok answers what is asked for the sake of the request.
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// defaults are the fields that requests sends with every request, in its order,
// and then more.
func defaults(more ...string) []string {
	return append([]string{
		"Host: HOST",
		"User-Agent: python-requests/2.34.2",
		"Accept-Encoding: gzip, deflate, br",
		"Accept: */*",
		"Connection: keep-alive",
	}, more...)
}

// plainGet is a probe of an answer alone.
func plainGet(name, answer, differs string) probe {
	return probe{
		name: name, call: "requests.get(u)", method: "GET", target: "/", fields: defaults(),
		answer: answer, differs: differs,
	}
}

// probes are in the order of the page.
var probes = []probe{
	{
		name:   "Request: target, names, order",
		call:   "requests.get(u+'/a%2fb/%7e/../x?q=[1]&r=a b', headers={'x-lower':'1','X-UPPER':'2','User-Agent':None,'Accept':None,'aaa':'3'})",
		method: "GET", target: "/a%2Fb/x?q=%5B1%5D&r=a%20b",
		fields: []string{
			"Host: HOST", "User-Agent: python-urllib3/2.7.0", "Accept-Encoding: gzip, deflate, br",
			"Connection: keep-alive", "x-lower: 1", "X-UPPER: 2", "aaa: 3",
		},
		answer: ok,
	}, {
		name:   "Request: repeated fields",
		call:   "urllib3.request('GET', u, headers=urllib3.HTTPHeaderDict([('X-b','1'),('a','2'),('X-b','3')]), preload_content=False)",
		method: "GET", target: "/",
		fields: []string{
			"Host: HOST", "Accept-Encoding: identity", "User-Agent: python-urllib3/2.7.0", "X-b: 1", "X-b: 3", "a: 2",
		},
		answer: ok,
	}, {
		name: "Request: DELETE without a body", call: "requests.delete(u)",
		method: "DELETE", target: "/", fields: defaults("Content-Length: 0"), pieces: []string{""}, answer: ok,
	}, {
		name: "Request: GET with a body", call: "requests.get(u, data=b'xyz')",
		method: "GET", target: "/", fields: defaults("Content-Length: 3"), pieces: []string{"xyz"}, answer: ok,
	}, {
		name: "Request: streamed body", call: "requests.post(u, data=iter([b'ab', b'cde']))",
		method: "POST", target: "/", fields: defaults("Transfer-Encoding: chunked"), pieces: []string{"ab", "cde"}, streamed: true, answer: ok,
	}, {
		name: "Request: method of no RFC", call: "requests.request('purge', u)",
		method: "PURGE", target: "/", fields: defaults("Content-Length: 0"), pieces: []string{""}, answer: ok,
	},
	plainGet("Answer: names, order, repeats, reason",
		"HTTP/1.1 299 My Odd Reason\r\nzeta: 1\r\nX-mIxEd: a\r\nSet-Cookie: a=1\r\nalpha: 2\r\nset-cookie: b=2\r\nX-mixed: c\r\nContent-Length: 0\r\n\r\n",
		"fetchgate keeps each line in its place and under its own name. urllib3 moves the repeats of a name to its first line and spells them as there."),
	plainGet("Answer: bytes that are not ASCII", "HTTP/1.1 200 OK\r\nX-L: caf\xe9\r\nContent-Length: 0\r\n\r\n", ""),
	plainGet("Answer: no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ""),
	plainGet("Answer: HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nbody", ""),
	plainGet("Answer: status 999", "HTTP/1.1 999 Request denied\r\nContent-Length: 0\r\n\r\n", ""),
	plainGet("Answer: chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n1\r\nf\r\n0\r\n\r\n", ""),
	plainGet("Answer: 204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", ""),
	plainGet("Answer: 103, then 200", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"103 is an interim response (RFC 9110 section 15.2); http.client of this Python takes it for the final one. With options.response.interim, fetchgate gives both."),
	plainGet("Answer: space before the colon", "HTTP/1.1 200 OK\r\nX-Bad : 1\r\nContent-Length: 0\r\n\r\n",
		"Refused, see below. The stock library drops this field and all that follow it, Content-Length too."),
	plainGet("Answer: field without a colon", "HTTP/1.1 200 OK\r\nGARBAGE\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
		"Refused, see below. The stock library drops this line and all that follow it, Content-Length too."),
	plainGet("Answer: folded field", "HTTP/1.1 200 OK\r\nX-F: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"Refused, see below. The stock library gives a value with CRLF in it."),
	plainGet("Answer: Content-Length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"Refused, see below. This is how one response passes for two."),
	plainGet("Answer: Content-Length below 0", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
		"Refused, see below. The stock library reads to the end of the connection."),
	plainGet("Answer: body cut short", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"Both fail. fetchgate gives what came before."),
	plainGet("Answer: chunk cut short", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabc",
		"Both fail. fetchgate gives what came before, and does not say that a chunk ended."),
	plainGet("Answer: not HTTP", "SSH-2.0-OpenSSH\r\n",
		"Both fail. fetchgate never shows what a server said that does not speak HTTP."),
	plainGet("Answer: none", "", "Both fail."),
}

// header returns the fields for the upstream at authority.
func (p probe) header(authority string) []fetch.Field {
	fields := make([]fetch.Field, len(p.fields))
	for i, line := range p.fields {
		name, value, _ := strings.Cut(line, ": ")
		fields[i] = fetch.Field{Name: name, Value: []byte(strings.Replace(value, "HOST", authority, 1))}
	}
	return fields
}
