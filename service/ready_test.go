package service_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestReadyWithDeadSink: a dead audit sink is told by verbose; only once every
// fetch is refused for it the replica says no, until the sink is back. Callers
// learn nothing of where the record goes.
func TestReadyWithDeadSink(t *testing.T) {
	t.Parallel()
	for _, onFull := range []string{"drop_and_count", "refuse"} {
		t.Run(onFull, func(t *testing.T) {
			loaded, err := config.Parse("test.yaml", []byte("audit: {on_full: "+onFull+", max_queue_bytes: 1048576}\nrules: [{name: one, origins: [\"https://one.test\"]}]\n"))
			if err != nil {
				t.Fatal(err)
			}
			sink, log := &shut{}, &lines{}
			s := serveWith(t, service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", Stdout: sink, Log: slog.New(slog.NewTextHandler(log, nil))})
			refused := fill(t, s)
			if (refused != nil) != (onFull == "refuse") || refused != nil && strings.Contains(refused.Error(), "standard output") {
				t.Errorf("callers get %v", refused)
			}
			want := map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusOK}[onFull == "refuse"]
			eventually(t, func() error {
				if code, page, err := s.get("/readyz?verbose"); err != nil || code != want || !strings.Contains(page, "\naudit: the sink takes no lines") {
					return fmt.Errorf("/readyz?verbose says %d, %v\n%s", code, err, page)
				}
				return nil
			})
			if onFull == "refuse" && !strings.Contains(log.String(), "wait for standard output, which takes no lines; see to what reads it") {
				t.Errorf("the log does not say what to mend:\n%s", log.String())
			}
			sink.open.Store(true)
			eventually(t, func() error {
				if code, page, err := s.get("/readyz?verbose"); err != nil || code != http.StatusOK || strings.Contains(page, "audit:") {
					return fmt.Errorf("/readyz?verbose says %d, %v\n%s", code, err, page)
				}
				return nil
			})
		})
	}
}

// fill asks for denials until the record of a server is full, and returns the
// refusal, if there is one.
func fill(t *testing.T, s *server) error {
	t.Helper()
	for range 1200 {
		if _, err := whole(within(t), s, long(get("http://denied.test/"+strings.Repeat("p", 400)))); status.Code(err) != codes.PermissionDenied {
			return err
		}
	}
	return nil
}

// TestReadyTellsOutdatedLists: an outdated revocation list is told by check,
// verbose and metrics, and takes no replica away.
func TestReadyTellsOutdatedLists(t *testing.T) {
	c := serveTLSCallers(t, withLists, func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Steps() }, nil)
	due := time.Now().Add(-time.Minute).Truncate(time.Second)
	c.write(t, "lists.pem", c.authority.Revoke(due))
	eventually(t, func() error {
		code, page, err := c.get("/readyz?verbose")
		if err != nil || code != http.StatusOK || !strings.Contains(page, "\nrevocation_list: a newer one was due at "+due.UTC().Format(time.RFC3339)) {
			return fmt.Errorf("/readyz?verbose says %d, %v\n%s", code, err, page)
		}
		return nil
	})
	if got := c.sums(t, "fetchgate_listener_crl_next_update_timestamp_seconds"); got != float64(due.Unix()) {
		t.Errorf("the metric says %v, want %v", got, due.Unix())
	}
	if got := c.sums(t, "fetchgate_listener_certificate_not_after_timestamp_seconds"); got < float64(time.Now().Unix()) {
		t.Errorf("the certificate expires at %v", got)
	}
	checked, err := service.Check(c.dir + "/fetchgate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if said := service.Warnings(checked.Config, time.Now()); len(said) != 1 || !strings.Contains(said[0], "fetchgate.yaml:") || !strings.Contains(said[0], "is out of date") {
		t.Errorf("check says %q", said)
	}
	c.write(t, "lists.pem", []byte("no list"))
	c.look()
	eventually(t, func() error {
		if _, page, err := c.get("/readyz?verbose"); err != nil || !strings.Contains(page, "\nrefused: a file that the configuration names has changed and") {
			return fmt.Errorf("/readyz?verbose says %v\n%s", err, page)
		}
		if said := c.log.String(); !strings.Contains(said, "a file that the configuration names is refused") || !strings.Contains(said, "cannot be used; the last good ones stay\" changed=["+c.dir+"/lists.pem]") {
			return fmt.Errorf("the log does not name the file:\n%s", said)
		}
		return nil
	})
}
