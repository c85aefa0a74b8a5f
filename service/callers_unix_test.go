package service_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// socketIn is where the unix socket of a test is.
func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fg") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "api.sock")
}

// overUnix is a connection of a caller to a unix socket.
func overUnix(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestCallersByUser: at the unix socket, who calls is whose process it is, in the
// answer and in the record; a token has to be of the same caller. TCP goes on
// with TLS, and proves no user.
func TestCallersByUser(t *testing.T) {
	const shopsToken = "fg_cnryshopstoken0123456789"
	path, authority := socketIn(t), fetchtest.NewAuthority(t)
	cert, key := fetchtest.WriteCertificate(t, authority.Issue(fetchtest.IssueOptions{}))
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	own, other := os.Getuid(), os.Getuid()+1
	for _, c := range []struct {
		name   string
		uids   [2]int // of billing and of shop
		token  string
		caller string // "" is nobody
		says   string
	}{
		{"the own user", [2]int{own, other}, "", "billing unix:uid=" + fmt.Sprint(own), ""},
		{"the user of another caller", [2]int{other, own}, "", "shop unix:uid=" + fmt.Sprint(own), ""},
		{"a user of nobody", [2]int{other, other + 1}, "", "", fmt.Sprintf("the user id %d of the process at the unix socket is of no caller here; ask the operator to add it to callers[].unix_uids, or show a token", own)},
		{"a user of nobody with a token", [2]int{other, other + 1}, shopsToken, "shop sha256:" + fmt.Sprintf("%x", sha256.Sum256([]byte(shopsToken)))[:12], ""},
		{"a user and the token of one", [2]int{other, own}, shopsToken, "shop unix:uid=" + fmt.Sprint(own), ""},
		{"a user and the token of two", [2]int{own, other}, shopsToken, "", fmt.Sprintf("the user id %d of the process and the token are of different callers", own)},
		{"a user and a token of nobody", [2]int{own, other}, nobodysToken, "", "the token is of no caller here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}, Extra: fmt.Sprintf(
				"grpc: {unix: {path: %q}, tls: {cert_file: %q, key_file: %q}}\ncallers:\n  - {name: billing, unix_uids: [%d]}\n  - {name: shop, unix_uids: [%d], token_sha256: [%x]}\n",
				path, cert, key, c.uids[0], c.uids[1], sha256.Sum256([]byte(shopsToken)))})
			client := fetchgatev1.NewFetchServiceClient(overUnix(t, path))
			for i, rpc := range rpcs {
				a, err := rpc.call(showing(within(t), c.token), client, get(upstream.URL("/")))
				line := w.lastLine(t, i+1)
				if got := strings.TrimSpace(line.Caller + " " + line.Identity); got != c.caller {
					t.Errorf("%s: the record names %q, want %q", rpc.name, got, c.caller)
				}
				if c.caller != "" && err != nil {
					t.Errorf("%s: %v", rpc.name, err)
				}
				if c.caller == "" && (status.Code(err) != codes.Unauthenticated || reasonIn(err) != "CALLER_UNKNOWN" || !strings.Contains(status.Convert(err).Message(), c.says)) {
					t.Errorf("%s: got %v, want UNAUTHENTICATED and %q", rpc.name, gotten(a, err), c.says)
				}
			}
			overTCP := (&proving{observed: w, authority: authority}).connect(t, nil)
			if _, err := whole(within(t), fetchgatev1.NewFetchServiceClient(overTCP), get(upstream.URL("/"))); status.Code(err) != codes.Unauthenticated {
				t.Errorf("over TCP without a proof: %v", err)
			}
		})
	}
}

// TestUnixSocketWithoutCallers: whoever may connect to the socket is anonymous, as
// on loopback. The socket has its permissions, takes over from one that is left,
// and goes with the service.
func TestUnixSocketWithoutCallers(t *testing.T) {
	path := socketIn(t)
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream.Upstream)}, Extra: fmt.Sprintf("grpc: {unix: {path: %q, mode: \"0604\"}}\n", path)})
	if about, err := os.Lstat(path); err != nil || about.Mode() != fs.ModeSocket|0o604 {
		t.Errorf("the socket is %v, %v", about.Mode(), err)
	}
	if w.UnixAddress() != path {
		t.Errorf("the service says that its socket is %q", w.UnixAddress())
	}
	for i, conn := range []*grpc.ClientConn{overUnix(t, path), w.conn} {
		if _, err := stream(within(t), fetchgatev1.NewFetchServiceClient(conn), get(upstream.URL("/"))); err != nil {
			t.Error(err)
		}
		if line := w.lastLine(t, i+1); line.Caller != "anonymous" || line.Identity != "" {
			t.Errorf("the caller is %q by %q", line.Caller, line.Identity)
		}
	}
	w.stop()
	if err := <-w.served; err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("the stop leaves %v, %v", entries, err)
	}
}

// TestUnixSocketIsNotTaken: what is at the path and lives, or is no socket, stays.
func TestUnixSocketIsNotTaken(t *testing.T) {
	start := func(path string) error {
		loaded, err := config.Parse("test.yaml", fmt.Appendf(nil, "grpc: {unix: {path: %q}}\n", path))
		if err != nil {
			t.Fatal(err)
		}
		s, err := service.New(service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			ctx, stop := context.WithCancel(t.Context())
			stop()
			err = errors.Join(errors.New("it starts"), s.Serve(ctx))
		}
		return err
	}
	file, alive := socketIn(t), socketIn(t)
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", alive)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]string{
		file:               "there is something else than a socket, which is left alone",
		filepath.Dir(file): "there is something else than a socket, which is left alone",
		alive:              "another server listens there",
		filepath.Join(filepath.Dir(file), "no/it"): "no such file or directory",
	} {
		if err := start(path); err == nil || !strings.Contains(err.Error(), "cannot listen on the unix socket "+path) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if content, err := os.ReadFile(file); string(content) != "precious" {
		t.Errorf("the file is %q, %v", content, err)
	}
	if c, err := net.Dial("unix", alive); err != nil {
		t.Errorf("the socket of another is gone: %v", err)
	} else {
		c.Close()
	}
}

// newHolding is an upstream whose answers do not end, but for /free.
func newHolding(t *testing.T) *fetchtest.Upstream {
	return fetchtest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/free" {
			return
		}
		io.WriteString(w, "hello")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), nil)
}

// askingOver is a server as callers on conn see it.
func askingOver(conn *grpc.ClientConn) *server {
	return &server{FetchServiceClient: fetchgatev1.NewFetchServiceClient(conn)}
}

// TestUserIsAPeer: the connections and fetches of one user count together, and
// beside those of addresses.
func TestUserIsAPeer(t *testing.T) {
	path := socketIn(t)
	upstream := newHolding(t)
	w := observeUntraced(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream)}, Extra: fmt.Sprintf(
		"grpc: {max_connections_per_peer: 2, unix: {path: %q}}\nlimits: {max_live_fetches_per_peer: 1}\n", path)})
	first, second := askingOver(overUnix(t, path)), askingOver(overUnix(t, path))
	first.begin(t, upstream)
	_, err := whole(within(t), second, get(upstream.URL("/free")))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "this user of the unix socket has as many fetches under way as it may, 1") {
		t.Errorf("the second fetch of the user: %v", err)
	}
	if _, err := whole(within(t), w, get(upstream.URL("/free"))); err != nil {
		t.Errorf("a fetch from an address: %v", err)
	}
	// Two connections are open; the next one closes before it greets.
	third, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.SetReadDeadline(time.Now().Add(patience))
	if n, err := third.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third connection of the user is taken: %d, %v", n, err)
	}
	_, metrics, err := w.get("/metrics")
	if want := `fetchgate_limit_rejections_total{limit="connections_per_peer",scope="peer"} 1`; err != nil || !strings.Contains(metrics, want) {
		t.Errorf("the metrics have no %s: %v", want, err)
	}
	if want := fmt.Sprintf("peer=\"unix:uid=%d\"", os.Getuid()); !strings.Contains(w.text.String(), want) {
		t.Errorf("the log names no %s:\n%s", want, w.text.String())
	}
}

// TestUnixConnectionsAreWatched: the frames that one sends are bounded as over
// TCP.
func TestUnixConnectionsAreWatched(t *testing.T) {
	path := socketIn(t)
	observeUntraced(t, fetchtest.Options{Extra: fmt.Sprintf("grpc: {unix: {path: %q}}\n", path)})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	settings := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 4, 0}, 0)
	c.SetDeadline(time.Now().Add(patience))
	// The write may fail when the server has had enough.
	_, _ = c.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), bytes.Repeat(settings, 1000)...))
	said, err := io.ReadAll(c)
	if !strings.Contains(string(said), "this connection sent more than the limit on settings") {
		t.Errorf("the end of the connection is %q, %v", said[max(0, len(said)-200):], err)
	}
}

// TestUnixUserIsWithdrawn: a fetch under way ends when its user is no caller any
// more.
func TestUnixUserIsWithdrawn(t *testing.T) {
	path, file := socketIn(t), filepath.Join(t.TempDir(), "fetchgate.yaml")
	upstream := newHolding(t)
	write := func(uid int) {
		t.Helper()
		yaml := fmt.Sprintf("grpc: {unix: {path: %q}}\nreload: {revoke_grace: 0s, watch: false}\ncallers:\n  - {name: billing, unix_uids: [%d]}\n", path, uid) +
			yamlOf(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(upstream)}})
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(os.Getuid())
	loaded, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Stdout: io.Discard})
	events := askingOver(overUnix(t, path)).begin(t, upstream)
	write(os.Getuid() + 1)
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	summary, _, err := rest(events)
	if f := summary.GetFailure(); err != nil || f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN || !strings.Contains(f.GetMessage(), "the caller is not") {
		t.Errorf("got %v, %v; want it to end since its caller is none any more", f, err)
	}
}
