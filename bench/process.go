package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	// startLimit is how long a process may take to listen.
	startLimit = 20 * time.Second
	// keptBytes is how much of what a process said is kept for an error.
	keptBytes = 4 << 10
)

// program is what is started as a process.
type program struct {
	name string // in tables and errors
	path string
	args []string
	env  []string // beside that of this process
	// says finds in what it says on standard error where it listens, and as a
	// second group where it serves metrics, if it does.
	says *regexp.Regexp
}

// process is a service or the upstream, running by itself.
type process struct {
	name    string
	address string
	metrics string // the address of /metrics, or empty
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	ended   chan struct{}
	said    *said
}

// start returns once the process listens. It ends with ctx or by stop.
func start(ctx context.Context, run program) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{
		name:   run.name,
		cmd:    exec.CommandContext(ctx, run.path, run.args...),
		cancel: cancel,
		ended:  make(chan struct{}),
		said:   &said{wanted: run.says, found: make(chan []string, 1)},
	}
	p.cmd.Env = append(os.Environ(), run.env...)
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
	case addresses := <-p.said.found:
		p.address, p.metrics = addresses[0], strings.Join(addresses[1:], "")
		return p, nil
	case <-p.ended:
		cancel()
		return nil, fmt.Errorf("%s ended before it listened: %s", p.name, p.said)
	case <-time.After(startLimit):
		p.stop()
		return nil, fmt.Errorf("%s did not say within %v where it listens: %s", p.name, startLimit, p.said)
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

// memoryKiB is a line of /proc/PID/status, in KiB: VmRSS is what is resident,
// VmHWM the most that was.
func (p *process) memoryKiB(line string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("\n"+line+":"))
	var kib float64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("no %s in /proc/PID/status: %w", line, err)
	}
	return kib, nil
}

// peakMiB is the most memory that was resident at once, in MiB.
func (p *process) peakMiB() (float64, error) {
	kib, err := p.memoryKiB("VmHWM")
	return kib / 1024, err
}

// peer is a service that is compared, with a stock client on one connection.
type peer struct {
	*process
	conn   *grpc.ClientConn
	client fetchgatev1.FetchServiceClient
}

func startPeer(ctx context.Context, run program) (*peer, error) {
	p, err := start(ctx, run)
	if err != nil {
		return nil, err
	}
	conn, err := dial(p.address)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &peer{process: p, conn: conn, client: fetchgatev1.NewFetchServiceClient(conn)}, nil
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// stop closes the connection first, so that a service has nothing to drain.
func (p *peer) stop() {
	p.conn.Close()
	p.process.stop()
}

// said keeps the last bytes that a process said and finds its addresses.
type said struct {
	wanted *regexp.Regexp
	found  chan []string // takes what the groups of wanted matched, once

	mu     sync.Mutex
	kept   []byte
	isDone bool
}

// Write never fails.
func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, b...)
	if match := s.wanted.FindStringSubmatch(string(s.kept)); !s.isDone && match != nil {
		s.isDone = true
		s.found <- match[1:]
	}
	s.kept = s.kept[max(0, len(s.kept)-keptBytes):]
	return len(b), nil
}

// String is what was said last.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.kept)
}
