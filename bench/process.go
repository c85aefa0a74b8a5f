package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

const (
	// tick is the unit of CPU time in /proc/PID/stat: USER_HZ is 100 on every
	// architecture that Go builds for (proc_pid_stat(5)).
	tick = 10 * time.Millisecond
	// stopGrace is how long a process may take to end after SIGTERM.
	stopGrace = 5 * time.Second
	// keptBytes is how much of what a process said is kept for an error.
	keptBytes = 4 << 10
)

// listens is the line that tells where a process listens.
var listens = regexp.MustCompile(`(?:gRPC|HTTP) +(127\.0\.0\.1:[0-9]+)\n`)

// process is a service or the upstream, running by itself.
type process struct {
	name    string
	address string
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	ended   chan struct{}
	said    *output
}

// start returns once the process listens. It ends with ctx or by stop.
func start(ctx context.Context, path string, args ...string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{
		name:   filepath.Base(path),
		cmd:    exec.CommandContext(ctx, path, args...),
		cancel: cancel,
		ended:  make(chan struct{}),
		said:   &output{address: make(chan string, 1)},
	}
	p.cmd.Stderr = p.said
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopGrace
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() { // stop waits for it
		defer close(p.ended)
		p.cmd.Wait()
	}()
	select {
	case p.address = <-p.said.address:
		return p, nil
	case <-p.ended:
		cancel()
		return nil, fmt.Errorf("%s ended before it listened: %s", p.name, p.said)
	}
}

// stop ends the process and waits for it.
func (p *process) stop() {
	p.cancel()
	<-p.ended
}

// cpu is the user and system time that the process has taken so far.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(stat))
}

// parseCPU adds utime and stime of /proc/PID/stat, its fields 14 and 15. The
// command's name, field 2, is in parentheses and may contain any byte.
func parseCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat has too few fields")
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 32)
	system, err2 := strconv.ParseUint(fields[12], 10, 32)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// peakMiB is the most memory that was resident at once (VmHWM), in MiB.
func (p *process) peakMiB() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kib float64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("no VmHWM in /proc/PID/status: %w", err)
	}
	return kib / 1024, nil
}

// peer is a service that is compared, with a stock client on one connection.
type peer struct {
	*process
	conn   *grpc.ClientConn
	client fetchgatev1.FetchServiceClient
}

func startPeer(ctx context.Context, path string, args ...string) (*peer, error) {
	p, err := start(ctx, path, args...)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.stop()
		return nil, err
	}
	return &peer{process: p, conn: conn, client: fetchgatev1.NewFetchServiceClient(conn)}, nil
}

// stop closes the connection first, so that a service has nothing to drain.
func (p *peer) stop() {
	p.conn.Close()
	p.process.stop()
}

// output keeps the last bytes that a process said and finds its address.
type output struct {
	address chan string

	mu    sync.Mutex
	kept  []byte
	found bool
}

// Write never fails.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, b...)
	if match := listens.FindSubmatch(o.kept); match != nil && !o.found {
		o.found = true
		o.address <- string(match[1])
	}
	o.kept = o.kept[max(0, len(o.kept)-keptBytes):]
	return len(b), nil
}

// String is what was said last.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.kept)
}
