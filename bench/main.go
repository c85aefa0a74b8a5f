// Command bench measures what a fetch through fetchgate costs, beside a naive
// service of the same contract or beside the fetchgate of another git revision,
// in one interleaved run on this machine, and writes the table of
// docs/performance.md. It needs Linux (/proc), the go command, and git and tar
// for another revision.
//
// With -slow it measures the memory of slow streams instead, with -flood it
// floods fetchgate in little memory.
//
// "bench upstream" and "bench slow-upstream" are the HTTP servers that the
// services fetch from; bench starts them by itself.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings are what is measured, and how much; numbers are above 0 where nothing
// else is said.
type settings struct {
	rounds    int           // how often each case is measured
	starts    int           // how often the services are started anew
	slice     time.Duration // how long one round of a unary case takes
	streamMiB int64         // how large one stream is
	limit     time.Duration // the rounds of one start
	slow      int           // how many slow streams are open at once; 0: other cases
	tls       bool          // the upstream speaks TLS
	against   string        // the git revision to compare with; empty: naive
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "upstream":
			fail(serveUpstream(os.Stderr, os.Args[2:]))
		case "slow-upstream":
			fail(serveSlowly(os.Stderr, os.Args[2:]))
		}
	}
	s := settings{rounds: 4, starts: 1, slice: 1500 * time.Millisecond, streamMiB: 1024, limit: 90 * time.Second}
	isFlood := flag.Bool("flood", false, "flood fetchgate in little memory instead, and see what becomes of it")
	s.flags(flag.CommandLine)
	flag.Parse()
	if s.rounds <= 0 || s.starts <= 0 || s.slice <= 0 || s.streamMiB <= 0 || s.limit <= 0 || s.slow < 0 || flag.NArg() > 0 {
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

// flags has the command line set s, which holds the defaults.
func (s *settings) flags(f *flag.FlagSet) {
	f.BoolFunc("quick", "the same as -slice 400ms -stream-mib 128 -limit 20s", func(string) error {
		s.slice, s.streamMiB, s.limit = 400*time.Millisecond, 128, 20*time.Second
		return nil
	})
	f.StringVar(&s.against, "against", s.against, "compare with the fetchgate of this git `revision` instead of naive")
	f.IntVar(&s.rounds, "rounds", s.rounds, "how often each case is measured")
	f.IntVar(&s.starts, "starts", s.starts, "how often the services are started anew for all the rounds")
	f.DurationVar(&s.slice, "slice", s.slice, "how long one round of a unary case takes")
	f.Int64Var(&s.streamMiB, "stream-mib", s.streamMiB, "how large one stream is, in MiB")
	f.DurationVar(&s.limit, "limit", s.limit, "how long the rounds of one start may take; with -slow one round")
	f.IntVar(&s.slow, "slow", s.slow, "measure the memory of this many slow streams at once instead, such as 8000")
	f.BoolVar(&s.tls, "tls", s.tls, "the upstream speaks TLS, with HTTP/1.1")
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// run builds what is compared, measures it and writes the table to out. A run in
// which one answer was wrong writes none.
func run(ctx context.Context, s settings, out io.Writer) error {
	if s.slow > 0 {
		if err := roomFor(s.slow); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "fetchgate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir); err != nil {
		return err
	}
	r := &rig{settings: s, dir: dir}
	if s.against != "" {
		if r.commit, err = buildRevision(ctx, dir, s.against); err != nil {
			return err
		}
	}
	if s.slow > 0 {
		return r.compareSlow(ctx, out)
	}
	return r.compare(ctx, out)
}

// compare measures all cases, in as many starts as the settings say.
func (r *rig) compare(ctx context.Context, out io.Writer) error {
	upstream, err := r.startUpstream(ctx, "upstream")
	if err != nil {
		return err
	}
	defer upstream.stop()
	if err := r.configure(r.origin(upstream)); err != nil {
		return err
	}
	c := newComparison(cases(r.origin(upstream), r.settings))
	for range r.starts {
		if err := within(ctx, r.limit, func(ctx context.Context) error { return r.measureStart(ctx, c) }); err != nil {
			return err
		}
	}
	return c.write(out, r)
}

// measureStart starts the services, measures all rounds and stops them.
func (r *rig) measureStart(ctx context.Context, c *comparison) error {
	var peers [2]*peer
	for i, s := range r.services() {
		var err error
		if peers[i], err = startPeer(ctx, s); err != nil {
			return err
		}
		defer peers[i].stop()
	}
	return c.measure(ctx, r.rounds, peers)
}

// within ends work after limit and says so. That is not a deadline: the services
// would be told of one, and end a moment before.
func within(ctx context.Context, limit time.Duration, work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("not done after %v: the machine is busy; try -quick or a longer -limit", limit))
	})
	defer timer.Stop()
	err := work(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
