package fetchtest

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// FuzzRequest holds the parser against net/http's: what ours takes as a whole
// request, theirs must not read in another way.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET"))
	f.Add([]byte("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.0\r\nA :b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		r := &Recorded{}
		p := parser{source: bufio.NewReader(bytes.NewReader(input)), request: r}
		err := p.head()
		if err == nil {
			err = p.body()
		}
		if !bytes.HasPrefix(input, r.Raw) {
			t.Fatalf("Raw %q is not what was read", r.Raw)
		}
		if err != nil {
			return
		}
		if r.Length != int64(len(r.Body)) {
			t.Fatalf("Length %d of body %q", r.Length, r.Body)
		}
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(input)))
		if err != nil {
			return
		}
		body, err := io.ReadAll(theirs.Body)
		if err != nil {
			t.Fatalf("net/http cannot read the body of %q: %v", input, err)
		}
		if theirs.Method != r.Method || theirs.RequestURI != r.Target || !bytes.Equal(body, r.Body) {
			t.Fatalf("net/http reads %s %s %q, we read %s %s %q",
				theirs.Method, theirs.RequestURI, body, r.Method, r.Target, r.Body)
		}
	})
}
