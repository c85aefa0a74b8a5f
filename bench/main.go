// Command bench measures what a fetch through fetchgate costs, beside a naive
// service of the same contract, in one interleaved run on this machine, and
// writes the table of docs/performance.md. It needs Linux (/proc) and the go
// command.
//
// With -flood it floods fetchgate in little memory instead.
//
// "bench upstream" is the HTTP server that both services fetch from; bench
// starts it by itself.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	module = "github.com/fetchgate/fetchgate/"

	// buildLimit is for building with nothing in the build cache.
	buildLimit = 5 * time.Minute

	// configuration is that of fetchgate, but for the upstream's address.
	configuration = `grpc:
  address: 127.0.0.1:0
http:
  address: 127.0.0.1:0
rules:
  - name: bench
    origins: ["http://%s"]
    dangerous_allow_loopback: true
`
)

// settings are how much is measured; all of them are above 0.
type settings struct {
	rounds    int           // how often each case is measured
	slice     time.Duration // how long one round of a unary case takes
	streamMiB int64         // how large one stream is
	limit     time.Duration // the whole run, after the build
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "upstream" {
		fail(serveUpstream(os.Stderr))
	}
	s := settings{rounds: 4, slice: 1500 * time.Millisecond, streamMiB: 1024, limit: 90 * time.Second}
	flag.BoolFunc("quick", "the same as -slice 400ms -stream-mib 128 -limit 20s", func(string) error {
		s.slice, s.streamMiB, s.limit = 400*time.Millisecond, 128, 20*time.Second
		return nil
	})
	isFlood := flag.Bool("flood", false, "flood fetchgate in little memory instead, and see what becomes of it")
	flag.IntVar(&s.rounds, "rounds", s.rounds, "how often each case is measured")
	flag.DurationVar(&s.slice, "slice", s.slice, "how long one round of a unary case takes")
	flag.Int64Var(&s.streamMiB, "stream-mib", s.streamMiB, "how large one stream is, in MiB")
	flag.DurationVar(&s.limit, "limit", s.limit, "how long the whole run may take, after the build")
	flag.Parse()
	if s.rounds <= 0 || s.slice <= 0 || s.streamMiB <= 0 || s.limit <= 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	measured := func() error { return run(ctx, s, os.Stdout) }
	if *isFlood {
		measured = func() error { return flood(ctx, os.Stdout) }
	}
	if err := measured(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// run builds what compare starts.
func run(ctx context.Context, s settings, out io.Writer) error {
	dir, err := os.MkdirTemp("", "fetchgate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir); err != nil {
		return err
	}
	return compare(ctx, s, dir, out)
}

// compare starts the programs in dir, measures, stops them and writes the table
// to out. A run in which one answer was wrong writes none.
func compare(ctx context.Context, s settings, dir string, out io.Writer) error {
	// Not a deadline: the services would be told of it, and end a moment before.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(s.limit, func() {
		cancel(fmt.Errorf("not done after %v: the machine is busy; try -quick or a longer -limit", s.limit))
	})
	defer limit.Stop()

	upstream, err := start(ctx, filepath.Join(dir, "bench"), "upstream")
	if err != nil {
		return err
	}
	defer upstream.stop()
	config := filepath.Join(dir, "fetchgate.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, upstream.address), 0o600); err != nil {
		return err
	}
	fetchgate, err := startPeer(ctx, filepath.Join(dir, "fetchgate"), "serve", "--config", config)
	if err != nil {
		return err
	}
	defer fetchgate.stop()
	naive, err := startPeer(ctx, filepath.Join(dir, "naive"))
	if err != nil {
		return err
	}
	defer naive.stop()

	peers := []*peer{fetchgate, naive}
	results, err := measure(ctx, s, cases("http://"+upstream.address, s), peers)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return writeTable(out, s, peers, results)
}

// build puts the binaries fetchgate, naive and bench into dir.
func build(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir,
		module+"cmd/fetchgate", module+"bench/naive", module+"bench")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, said)
	}
	return nil
}
