package fetchtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func lines(fields []fetch.Field) string {
	var s strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&s, "%s=%s|", f.Name, f.Value)
	}
	return s.String()
}

func TestRecorderKeepsEveryByte(t *testing.T) {
	const (
		first  = "POST /a?b=%2F HTTP/1.1\r\nhOsT: localhost\r\nX-B:  two \r\nx-a:\r\nX-B: \xff\r\nContent-Length: 5\r\n\r\nhello"
		second = "PUT * HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n01\r\nd\r\n0\r\nX-Sum: 4\r\n\r\n"
	)
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Authority: a}})
		conn := dial(t, r.Upstream, a)
		reader := bufio.NewReader(conn)
		for _, request := range []string{first, second} {
			send(t, conn, request)
			if status, body := answer(t, reader, "POST"); status != http.StatusOK || body != "ok" {
				t.Fatalf("got %d %q", status, body)
			}
		}
		got := r.Requests()
		if len(got) != 2 {
			t.Fatalf("%d requests were recorded, want 2", len(got))
		}
		for i, want := range []struct{ raw, line, fields, body, chunks, trailers string }{
			{first, "POST /a?b=%2F HTTP/1.1", "hOsT=localhost|X-B=two|x-a=|X-B=\xff|Content-Length=5|", "hello", "[]", ""},
			{second, "PUT * HTTP/1.1", "Host=localhost|Transfer-Encoding=chunked|", "abcd", "[3 1]", "X-Sum=4|"},
		} {
			g := got[i]
			if string(g.Raw) != want.raw || g.Err != nil || g.Conn != 1 || g.Host != "localhost" || (g.TLS == nil) != (a == nil) {
				t.Errorf("request %d: Raw %q, Err %v, Conn %d, Host %q, TLS %v", i, g.Raw, g.Err, g.Conn, g.Host, g.TLS)
			}
			if line := g.Method + " " + g.Target + " " + g.Proto; line != want.line || lines(g.Fields) != want.fields {
				t.Errorf("request %d: head %q %q", i, line, lines(g.Fields))
			}
			if string(g.Body) != want.body || g.Length != int64(len(want.body)) || fmt.Sprint(g.Chunks) != want.chunks || lines(g.Trailers) != want.trailers {
				t.Errorf("request %d: body %q of %d, chunks %v, trailers %q", i, g.Body, g.Length, g.Chunks, lines(g.Trailers))
			}
		}
	})
}

func TestRecorderServesAClient(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
			Listen: fetchtest.Listen{Authority: a, Split: fetchtest.Seed(t)},
			Respond: fetchtest.Sequence(
				fetchtest.Answer(503, "not yet", "Retry-After: 0"),
				fetchtest.Answer(200, "done"),
			),
		})
		c := client(t, a)
		for i, want := range []string{"503 not yet", "200 done", "200 done", "200 "} {
			method := http.MethodGet
			if i == 3 {
				method = http.MethodHead
			}
			request, err := http.NewRequestWithContext(within(t), method, r.URL("/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := c.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if got := fmt.Sprintf("%d %s", response.StatusCode, body); got != want || err != nil {
				t.Errorf("answer %d is %q, %v, want %q", i, got, err, want)
			}
		}
		if opened, _ := r.Connections(); opened != 1 {
			t.Errorf("%d connections for 4 requests, want 1: the recorder keeps connections alive", opened)
		}
	})
}

func TestRecorderRefusesWhatNoClientMaySend(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	for name, request := range map[string]string{
		"bare LF":                  "GET / HTTP/1.1\nHost: a\n\n",
		"bare CR":                  "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
		"two spaces":               "GET  / HTTP/1.1\r\n\r\n",
		"no version":               "GET /\r\n\r\n",
		"other version":            "GET / HTTP/1.2\r\n\r\n",
		"method not a token":       "G(T / HTTP/1.1\r\n\r\n",
		"target not ASCII":         "GET /\xff HTTP/1.1\r\n\r\n",
		"no colon":                 "GET / HTTP/1.1\r\nHost\r\n\r\n",
		"space before colon":       "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
		"folded line":              "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
		"NUL in value":             "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
		"two lengths":              head + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
		"length and chunked":       head + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"signed length":            head + "Content-Length: +1\r\n\r\na",
		"other coding":             head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":      "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunk size not hex":       head + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
		"bare LF after chunk size": head + "Transfer-Encoding: chunked\r\n\r\n1;a\na\r\n0\r\n\r\n",
		"bare CR after chunk size": head + "Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\n",
		"chunk longer than said":   head + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
		"endless head":             "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
			conn := dial(t, r.Upstream, nil)
			send(t, conn, request)
			reader := bufio.NewReader(conn)
			if status, body := answer(t, reader, "POST"); status != http.StatusBadRequest {
				t.Errorf("got %d %q, want 400", status, body)
			}
			if _, err := reader.ReadByte(); err != io.EOF {
				t.Errorf("after the answer: %v, want EOF", err)
			}
			if got := r.Requests(); len(got) != 1 || got[0].Err == nil {
				t.Errorf("recorded %v", got)
			}
		})
	}
}

func TestRecorderKeepsAnUploadThatWasCut(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{Authority: a}})
		conn := dial(t, r.Upstream, a)
		send(t, conn, "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
		conn.Close()
		got, err := r.WaitRequests(within(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		if string(got[0].Body) != "abc" || !errors.Is(got[0].Err, io.ErrUnexpectedEOF) {
			t.Errorf("recorded body %q and Err %v", got[0].Body, got[0].Err)
		}
	})
}

func TestRecorderCountsWhatItDoesNotKeep(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	conn := dial(t, r.Upstream, nil)
	const size = fetchtest.MaxKept + 1
	send(t, conn, fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", size))
	send(t, conn, strings.Repeat("a", size))
	answer(t, bufio.NewReader(conn), "POST")
	got := r.Requests()[0]
	if got.Length != size || len(got.Body) != fetchtest.MaxKept || len(got.Raw) != fetchtest.MaxKept || got.Err != nil {
		t.Errorf("Length %d, kept %d and %d, Err %v", got.Length, len(got.Body), len(got.Raw), got.Err)
	}
}

func TestRecorderContinues(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	conn := dial(t, r.Upstream, nil)
	reader := bufio.NewReader(conn)
	send(t, conn, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if status, _ := answer(t, reader, "POST"); status != http.StatusContinue {
		t.Fatalf("got %d before the body, want 100", status)
	}
	send(t, conn, "hello")
	if status, _ := answer(t, reader, "POST"); status != http.StatusOK {
		t.Errorf("got %d after the body, want 200", status)
	}
}

func TestRecorderAnswersEarly(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Early: func(*fetchtest.Recorded) (fetchtest.Step, bool) { return fetchtest.Answer(417, "no"), true },
	})
	conn := dial(t, r.Upstream, nil)
	reader := bufio.NewReader(conn)
	send(t, conn, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
	if status, _ := answer(t, reader, "POST"); status != 417 {
		t.Fatalf("got %d before the body, want 417", status)
	}
	send(t, conn, "hello")
	if rest, err := io.ReadAll(reader); len(rest) != 0 || err != nil {
		t.Errorf("a second answer came: %q, %v", rest, err)
	}
	if got := r.Requests(); len(got) != 1 || string(got[0].Body) != "hello" {
		t.Errorf("recorded %v", got)
	}
}

func TestRecorderKeepsWhatItReset(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Early: func(*fetchtest.Recorded) (fetchtest.Step, bool) { return fetchtest.Reset(), true },
	})
	conn := dial(t, r.Upstream, nil)
	send(t, conn, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection was not reset")
	}
	got, err := r.WaitRequests(within(t), 1)
	if err != nil || got[0].Method != "POST" || got[0].Err == nil {
		t.Errorf("recorded %v, %v", got, err)
	}
}

func TestRecorderSeesACallerGo(t *testing.T) {
	overBoth(t, func(t *testing.T, a *fetchtest.Authority) {
		r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
			Listen:  fetchtest.Listen{Authority: a},
			Respond: func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Hang() },
		})
		ctx, cancel := context.WithCancel(within(t))
		failed := make(chan error)
		c := client(t, a)
		go func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL("/"), strings.NewReader("hello"))
			if err == nil {
				var response *http.Response
				if response, err = c.Do(request); err == nil {
					response.Body.Close()
				}
			}
			failed <- err
		}()
		if _, err := r.WaitRequests(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if _, open := r.Connections(); open != 1 {
			t.Errorf("%d connections are open, want 1", open)
		}
		cancel()
		if err := r.WaitClosed(within(t), 1); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
	})
}

func TestWaitRequestsFails(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.WaitRequests(ended, 1); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("got %v", err)
	}
}

func TestRecorderTellsConnectionsApart(t *testing.T) {
	r := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	for range 3 {
		conn := dial(t, r.Upstream, nil)
		send(t, conn, "GET / HTTP/1.0\r\n\r\n")
		if rest, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(rest), "\r\n\r\nok") {
			t.Fatalf("got %q, %v", rest, err)
		}
		conn.Close()
	}
	var numbers []int
	for _, request := range r.Requests() {
		numbers = append(numbers, request.Conn)
	}
	if !slices.Equal(numbers, []int{1, 2, 3}) {
		t.Errorf("the connections are %v", numbers)
	}
}
