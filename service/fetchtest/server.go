package fetchtest

import (
	"io"
	"log"
	"net/http"
	"testing"
)

// NewServer starts an HTTP/1.1 upstream that net/http serves: over TLS with a
// certificate of authority, or, when that is nil, over TCP. A handler must
// return when its request's context ends.
func NewServer(t testing.TB, handler http.Handler, authority *Authority) *Upstream {
	t.Helper()
	l := Listen{Authority: authority}
	u := newUpstream(t, l, l.tls("http/1.1"))
	server := &http.Server{
		Handler:   handler,
		ErrorLog:  log.New(io.Discard, "", 0),
		ConnState: u.noteState,
	}
	u.stop = func() { _ = server.Close() }
	u.running.Go(func() { _ = server.Serve(tracked{u}) })
	return u
}
