package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

func TestStreamToStandardOutput(t *testing.T) {
	events := []*fetchgatev1.StreamFetchResponse{{}, headEvent(200), dataEvent(0, "one\x00"), dataEvent(4, "two"), summaryEvent(nil)}
	for _, args := range [][]string{{"--stream"}, {"-o", "-"}} {
		r := getStream(t, events, nil, args...)
		r.wantCode(t, exitOK)
		if r.out != "one\x00two" || r.err != "" {
			t.Errorf("%q: stdout %q, stderr %q", args, r.out, r.err)
		}
	}
}

func TestStreamToFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.iso")
	length := &fetchgatev1.HeaderField{Name: "content-length", Value: []byte("7")}
	r := getStream(t, []*fetchgatev1.StreamFetchResponse{headEvent(200, length), dataEvent(0, "one"), dataEvent(3, "more"), summaryEvent(nil)}, nil, "-o", path)
	r.wantCode(t, exitOK)
	if body, err := os.ReadFile(path); err != nil || string(body) != "onemore" {
		t.Errorf("the file holds %q: %v", body, err)
	}
	if !strings.HasPrefix(r.err, "saved big.iso  7 B in ") || r.out != "" {
		t.Errorf("stdout %q, stderr %q", r.out, r.err)
	}
	wantOnly(t, path)
}

// TestStreamCutShort: whatever ends a stream before its whole body, there is a
// problem and no file; what was there before stays.
func TestStreamCutShort(t *testing.T) {
	incomplete := &fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_INCOMPLETE_BODY, Blame: fetchgatev1.Blame_BLAME_UPSTREAM}
	withdrawn := &fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN, Blame: fetchgatev1.Blame_BLAME_POLICY}
	draining := &fetchgatev1.Failure{Reason: fetchgatev1.FailureReason_FAILURE_REASON_DRAINING, Blame: fetchgatev1.Blame_BLAME_FETCHGATE}
	begun := []*fetchgatev1.StreamFetchResponse{headEvent(200), dataEvent(0, "half of it")}
	for name, c := range map[string]struct {
		more []*fetchgatev1.StreamFetchResponse
		err  error
		args []string
		code int
		says string
	}{
		"no summary":     {nil, nil, nil, exitRPC, "without its summary"},
		"failure":        {[]*fetchgatev1.StreamFetchResponse{summaryEvent(incomplete)}, nil, nil, exitFailed, "INCOMPLETE_BODY"},
		"withdrawn":      {[]*fetchgatev1.StreamFetchResponse{summaryEvent(withdrawn)}, nil, nil, exitDenied, "WITHDRAWN"},
		"draining":       {[]*fetchgatev1.StreamFetchResponse{summaryEvent(draining)}, refusedWith(codes.Unavailable, "draining"), nil, exitFailed, "DRAINING"},
		"rpc error":      {nil, refusedWith(codes.Internal, "a bug"), nil, exitRPC, "report it as a bug"},
		"gap":            {[]*fetchgatev1.StreamFetchResponse{dataEvent(11, "x"), summaryEvent(nil)}, nil, nil, exitRPC, "byte 11 of the body instead of 10"},
		"denied":         {nil, refusedWith(codes.PermissionDenied, "no"), nil, exitDenied, "denied by policy"},
		"status of 400+": {[]*fetchgatev1.StreamFetchResponse{headEvent(500)}, nil, []string{"--fail"}, exitStatus, "500"},
	} {
		for _, existing := range []string{"", "old"} {
			t.Run(name+existing, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "big.iso")
				if existing != "" {
					if err := os.WriteFile(path, []byte(existing), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				r := getStream(t, append(begun[:2:2], c.more...), c.err, append(c.args, "-o", path)...)
				r.wantCode(t, c.code)
				if !strings.Contains(r.err, c.says) {
					t.Errorf("stderr, want %q:\n%s", c.says, r.err)
				}
				if existing == "" {
					wantOnly(t, filepath.Dir(path))
					return
				}
				wantOnly(t, path)
				if body, _ := os.ReadFile(path); string(body) != existing {
					t.Errorf("the file that was there holds %q", body)
				}
			})
		}
	}
}

// TestStreamFailReports: --fail keeps the body from its sink, not the report
// from its reader.
func TestStreamFailReports(t *testing.T) {
	piece := strings.Repeat("x", maxUnwanted/2)
	for _, c := range []struct {
		events []*fetchgatev1.StreamFetchResponse
		says   string
	}{
		{[]*fetchgatev1.StreamFetchResponse{headEvent(404), dataEvent(0, "no "), dataEvent(3, "page"), summaryEvent(nil)}, "\nreport: "},
		{[]*fetchgatev1.StreamFetchResponse{headEvent(404), dataEvent(0, piece), dataEvent(maxUnwanted/2, piece), summaryEvent(nil)}, "\nreport: "},
		{[]*fetchgatev1.StreamFetchResponse{headEvent(404), dataEvent(0, piece), dataEvent(maxUnwanted/2, piece), dataEvent(maxUnwanted, "x"), summaryEvent(nil)},
			"\n  there is no report: it comes after the body, which has more than 1.0 MiB\n"},
	} {
		dir := t.TempDir()
		for _, args := range [][]string{{"--stream"}, {"-o", filepath.Join(dir, "page")}} {
			r := getStream(t, c.events, nil, append(args, "--fail", "--report")...)
			if r.code != exitStatus || r.out != "" || !strings.Contains(r.err, "\nfetchgate: the upstream answered 404\n") || !strings.Contains(r.err, c.says) {
				t.Errorf("%q: exit code %d, stdout %.20q; stderr, want %q:\n%s", args, r.code, r.out, c.says, r.err)
			}
		}
		wantOnly(t, dir)
	}
}

// wantOnly fails the test unless path is a file that is alone in its directory
// or an empty directory.
func wantOnly(t *testing.T, path string) {
	t.Helper()
	about, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	dir, want := filepath.Dir(path), []string{filepath.Base(path)}
	if about.IsDir() {
		dir, want = path, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) || len(want) == 1 && entries[0].Name() != want[0] {
		t.Errorf("the directory holds %v, want %v", fs.FormatDirEntry(entries[0]), want)
	}
}

const hostile = "\x1b]0;owned\x07\x1b[2J\r\nfetchgate: all is well \xe2\x80\xae\xff"

// TestHostileText: an upstream, or what stands in for a service, cannot speak
// to the terminal but through the body.
func TestHostileText(t *testing.T) {
	t.Setenv("LC_ALL", "C") // so that charts are ASCII
	head := &fetchgatev1.HttpHead{Protocol: "HTTP/1.1\x1b[31m", Status: 404, Reason: []byte(hostile),
		Headers: []*fetchgatev1.HeaderField{{Name: "X\x1b", Value: []byte(hostile)}}}
	report := &fetchgatev1.FetchReport{Rule: "\x1b[1m", Attempts: []*fetchgatev1.Attempt{{Message: "\x1b[1m", Reason: 50,
		Hops: []*fetchgatev1.Hop{{Url: "http://\x1b", Connection: &fetchgatev1.ConnectionInfo{Tls: &fetchgatev1.TlsInfo{Version: "\x1b"}}}}}}}
	response := &fetchgatev1.FetchResponse{Report: report, Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{Head: head}}}
	failure := failedWith(&fetchgatev1.Failure{Message: "\x1b[2J\nnext: rm -rf"})
	refused := refusedWith(codes.PermissionDenied, "\x1b[2J\n", &errdetails.ErrorInfo{
		Domain: "fetchgate", Reason: "\x1b", Metadata: map[string]string{"rule": "\x1b\n"}})
	for name, r := range map[string]result{
		"report":  get(t, response, nil, "--report", "--fail"),
		"failure": get(t, failure, nil),
		"refused": get(t, nil, refused),
		"stream":  getStream(t, []*fetchgatev1.StreamFetchResponse{{Event: &fetchgatev1.StreamFetchResponse_Head{Head: head}}}, nil, "--stream", "--report", "--fail"),
	} {
		if r.code == exitOK || !strings.Contains(r.err, `\x1b`) {
			t.Errorf("%s: exit code %d, and no escape in %q", name, r.code, r.err)
		}
		wantPrintable(t, name, r.err)
	}
}

// wantPrintable fails the test unless text is lines of printable ASCII.
func wantPrintable(t *testing.T, what, text string) {
	t.Helper()
	for _, c := range []byte(text) {
		if c != '\n' && (c < ' ' || c >= 0x7f) {
			t.Errorf("%s prints the byte %#02x: %q", what, c, text)
			return
		}
	}
}

func TestBodyLength(t *testing.T) {
	field := func(name, value string) *fetchgatev1.HeaderField {
		return &fetchgatev1.HeaderField{Name: name, Value: []byte(value)}
	}
	for _, c := range []struct {
		fields []*fetchgatev1.HeaderField
		want   int64
	}{
		{nil, -1},
		{[]*fetchgatev1.HeaderField{field("content-LENGTH", "12")}, 12},
		{[]*fetchgatev1.HeaderField{field("Content-Length", "12"), field("Content-Encoding", "gzip")}, -1},
		{[]*fetchgatev1.HeaderField{field("Content-Length", "-1")}, -1},
		{[]*fetchgatev1.HeaderField{field("Content-Length", "99999999999999999999")}, -1},
	} {
		if got := bodyLength(&fetchgatev1.HttpHead{Headers: c.fields}); got != c.want {
			t.Errorf("%v: %d, want %d", c.fields, got, c.want)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add("HTTP/1.1", []byte("OK"), "Content-Length", []byte("12"))
	f.Add("HTTP/2", []byte(hostile), "X-\x1b", []byte(hostile))
	f.Fuzz(func(t *testing.T, protocol string, reason []byte, name string, value []byte) {
		head := &fetchgatev1.HttpHead{Protocol: protocol, Reason: reason, Headers: []*fetchgatev1.HeaderField{{Name: name, Value: value}}}
		var printed strings.Builder
		printHead(&printed, head)
		wantPrintable(t, "the head", printed.String())
		if n := strings.Count(printed.String(), "\n"); n != 2 {
			t.Errorf("%d lines, want one for the status and one for the field", n)
		}
		if n := bodyLength(head); n < -1 {
			t.Errorf("a body of %d bytes", n)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("Accept: */*")
	f.Add("no colon")
	f.Add(":\x00\xff")
	f.Fuzz(func(t *testing.T, line string) {
		fields, err := parseHeaders([]string{line})
		if err != nil {
			return
		}
		if rest, ok := strings.CutPrefix(line, fields[0].GetName()+":"); !ok || strings.Trim(rest, " \t") != string(fields[0].GetValue()) {
			t.Errorf("%q became %q", line, fields)
		}
	})
}
