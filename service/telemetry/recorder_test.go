package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockedBuffer may be read while a log writes to it.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func withAudit(a *configv1.Audit) telemetry.Options {
	c := configuration()
	c.Config.Audit = a
	return telemetry.Options{Configuration: c, Registry: prometheus.NewRegistry()}
}

func TestFileSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	o := withAudit(&configv1.Audit{Sink: "file", File: path, MaxFileBytes: ptr(int64(1 << 20)), KeepFiles: ptr(int32(9))})
	r := newRecorder(t, o)
	const all = 5000
	for range all {
		record(t, r, typical())
	}
	closeRecorder(t, r)
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	lines := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 1<<20 {
			t.Errorf("%s has %d bytes", file, len(text))
		}
		for line := range strings.Lines(string(text)) {
			lines++
			if !strings.HasPrefix(line, `{"schema":1,`) || !strings.HasSuffix(line, "}\n") {
				t.Fatalf("%s: %q", file, line)
			}
		}
	}
	if lines != all {
		t.Errorf("%d lines in %q, want %d", lines, files, all)
	}
}

func TestNoSink(t *testing.T) {
	o := withAudit(&configv1.Audit{Sink: "none", OnFull: "refuse"})
	r := newRecorder(t, o)
	record(t, r, typical())
	if got := scrape(t, o.Registry.(*prometheus.Registry))["audit_queue_bytes{}"]; got != 0 {
		t.Errorf("%v", got)
	}
}

func TestFileThatCannotBeOpened(t *testing.T) {
	_, err := telemetry.New(withAudit(&configv1.Audit{Sink: "file", File: filepath.Join(t.TempDir(), "none", "f")}))
	if err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Errorf("%v", err)
	}
}

// A full disk, with either choice: no call waits; what is lost is counted, or
// fetches are refused.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	const all = 3000
	for _, onFull := range []string{"drop_and_count", "refuse"} {
		o := withAudit(&configv1.Audit{Sink: "file", File: "/dev/full", OnFull: onFull, MaxQueueBytes: ptr(int64(1 << 20))})
		var log lockedBuffer
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		r, err := telemetry.New(o)
		if err != nil {
			t.Fatal(err)
		}
		admitted := 0
		for range all {
			err := r.Begin("Fetch")
			if err == nil {
				admitted++
				r.End(context.Background(), typical())
				continue
			}
			var full *telemetry.Full
			if !errors.As(err, &full) || onFull == "drop_and_count" || !strings.Contains(err.Error(), "/dev/full") {
				t.Fatalf("%s: %v", onFull, err)
			}
		}
		got := scrape(t, o.Registry.(*prometheus.Registry))
		lost, queued := got["audit_records_lost_total{}"], got["audit_queue_bytes{}"]
		if onFull == "drop_and_count" && (admitted != all || lost == 0 || lost == all) {
			t.Errorf("drop_and_count: %d admitted, %v lost", admitted, lost)
		}
		if got := strings.Count(log.String(), "fetches are refused"); (got == 1) != (onFull == "refuse") || got > 1 {
			t.Errorf("%s: the log says %d times that fetches are refused", onFull, got)
		}
		if onFull == "refuse" && (admitted == all || admitted == 0 || lost != 0) {
			t.Errorf("refuse: %d admitted, %v lost", admitted, lost)
		}
		if queued == 0 || queued > 1<<20 {
			t.Errorf("%s: %v bytes queued", onFull, queued)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if err := r.Close(ctx); err == nil {
			t.Errorf("%s: the end is silent about what was not written", onFull)
		}
		cancel()
		if got := scrape(t, o.Registry.(*prometheus.Registry)); got["audit_records_lost_total{}"] < float64(admitted) {
			t.Errorf("%s: %v lost in the end, %d were never written", onFull, got["audit_records_lost_total{}"], admitted)
		}
	}
}

// A standard output whose reader has gone does not end the service.
func TestClosedPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	reader.Close()
	o := withAudit(nil)
	o.Stdout = writer
	r, err := telemetry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		record(t, r, typical())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.Close(ctx); err == nil {
		t.Error("the end is silent about what was not written")
	}
}

// A flood of failures from all sides: every one has its line or is counted, and
// no call waits for the sink.
func TestFlood(t *testing.T) {
	o := withAudit(&configv1.Audit{MaxQueueBytes: ptr(int64(1 << 20))})
	out := &output{}
	o.Stdout = out
	r := newRecorder(t, o)
	const callers, each = 8, 2000
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			report := deniedByAddress()
			for range each {
				record(t, r, report)
			}
		})
	}
	all.Wait()
	closeRecorder(t, r)
	got := scrape(t, o.Registry.(*prometheus.Registry))
	lines, lost := len(out.lines()), got["audit_records_lost_total{}"]
	if float64(lines)+lost != callers*each || got["audit_records_total{result=written,sink=stdout}"] != float64(lines) {
		t.Errorf("%d lines and %v lost of %d", lines, lost, callers*each)
	}
	if got["fetches_total{outcome=denied,reason=ADDRESS_DENIED,rpc=StreamFetch}"] != callers*each || got["fetches_in_flight{rpc=StreamFetch}"] != 0 {
		t.Errorf("the counters differ")
	}
}

// Reports end while configurations change.
func TestConfigureUnderLoad(t *testing.T) {
	r := newRecorder(t, observed(prometheus.NewRegistry()))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 500 {
				record(t, r, redirected())
			}
		})
	}
	all.Go(func() {
		for range 50 {
			if err := r.Configure(configuration()); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
}
