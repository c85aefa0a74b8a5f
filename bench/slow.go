package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

const (
	// streamsPerConnection is below what fetchgate takes on one by default.
	streamsPerConnection = 500
	// opening is how many streams are opened at the same time.
	opening = 64
	// settledBytes is what each stream has brought when memory is read.
	settledBytes = 3 * pieceBytes
	// spare is how many descriptors, and connections, a process has beside those
	// of slow streams.
	spare = 100
	// maxSlow is the most slow streams: one upstream has no more ports of callers.
	maxSlow = 25_000
)

// roomFor raises the limit of open files, which the processes that bench starts
// inherit, and wants n slow streams to fit: the upstream and the service have one
// connection for each.
func roomFor(n int) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if most := min(uint64(files.Max)-spare, maxSlow); uint64(n) > most {
		return fmt.Errorf("-slow %d does not fit: at most %d with ulimit -n %d, and never more than %d", n, most, files.Max, maxSlow)
	}
	return nil
}

// slowSeries are figures for each open stream, one of each round. Those of the
// Go runtime are empty for a service that has no metrics.
type slowSeries struct {
	residentKiB, stackKiB, goroutines []float64
}

// compareSlow measures slow streams through one service after the other, in
// fresh processes each time, and writes the table to out.
func (r *rig) compareSlow(ctx context.Context, out io.Writer) error {
	var measured [2]slowSeries
	for range r.rounds {
		err := within(ctx, r.limit, func(ctx context.Context) error {
			for i, service := range r.services() {
				if err := r.measureSlow(ctx, service, &measured[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	r.writeSlow(out, measured)
	return nil
}

// measureSlow starts an upstream and a service, opens the streams and adds what
// they take to s.
func (r *rig) measureSlow(ctx context.Context, service program, s *slowSeries) error {
	upstream, err := r.startUpstream(ctx, "slow-upstream")
	if err != nil {
		return err
	}
	defer upstream.stop()
	origin := r.origin(upstream)
	if err := r.configure(origin); err != nil {
		return err
	}
	p, err := startPeer(ctx, service)
	if err != nil {
		return err
	}
	defer p.stop()
	clients, stop, err := p.clients((r.slow + streamsPerConnection - 1) / streamsPerConnection)
	if err != nil {
		return err
	}
	defer stop()
	before, err := p.taken(ctx)
	if err != nil {
		return err
	}
	err = hold(ctx, clients, origin+"/", r.slow, func(ctx context.Context) error {
		after, err := p.taken(ctx)
		s.add(before, after, float64(r.slow))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s, %d slow streams: %w\n%s said last: %s", p.name, r.slow, err, p.name, p.said)
	}
	return nil
}

// clients returns clients with a connection each. stop closes them.
func (p *peer) clients(count int) (clients []fetchgatev1.FetchServiceClient, stop func(), err error) {
	var conns []io.Closer
	stop = func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for range count {
		conn, err := dial(p.address)
		if err != nil {
			stop()
			return nil, nil, err
		}
		conns = append(conns, conn)
		clients = append(clients, fetchgatev1.NewFetchServiceClient(conn))
	}
	return clients, stop, nil
}

// taken is what a service has of the machine. Metrics is nil where there are
// none.
type taken struct {
	residentKiB float64
	metrics     map[string]float64
}

// taken reads the memory first, as to read the metrics takes some.
func (p *process) taken(ctx context.Context) (t taken, err error) {
	if t.residentKiB, err = p.memoryKiB("VmRSS"); err != nil || p.metrics == "" {
		return t, err
	}
	t.metrics, err = p.readMetrics(ctx)
	return t, err
}

func (s *slowSeries) add(before, after taken, streams float64) {
	s.residentKiB = append(s.residentKiB, (after.residentKiB-before.residentKiB)/streams)
	if after.metrics == nil {
		return
	}
	s.stackKiB = append(s.stackKiB, (after.metrics[stackBytes]-before.metrics[stackBytes])/streams/1024)
	s.goroutines = append(s.goroutines, (after.metrics[goroutines]-before.metrics[goroutines])/streams)
}

// hold opens n streams, calls measure once each of them has brought some pieces,
// while all of them go on, and ends them. That a stream ends by itself before, or
// brings what it should not, is an error.
func hold(ctx context.Context, clients []fetchgatev1.FetchServiceClient, url string, n int, measure func(context.Context) error) error {
	parent := ctx
	ctx, end := context.WithCancel(ctx)
	defer end()
	group, ctx := errgroup.WithContext(ctx)
	var settled atomic.Int64
	all, places := make(chan struct{}), make(chan struct{}, opening)
	for i := range n {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return errors.Join(group.Wait(), parent.Err())
		}
		f := follower{opened: func() { <-places }, settled: func() {
			if settled.Add(1) == int64(n) {
				close(all)
			}
		}}
		group.Go(func() error {
			if err := f.follow(ctx, clients[i%len(clients)], url); ctx.Err() == nil {
				return err
			}
			return nil // it was ended
		})
	}
	group.Go(func() error {
		select {
		case <-all:
			defer end()
			return measure(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return errors.Join(group.Wait(), parent.Err())
}

// follower reads a slow stream. Opened is called at its head, and settled when it
// has brought settledBytes.
type follower struct {
	opened, settled func()
}

// follow reads until ctx ends or something is wrong: it never returns nil.
func (f follower) follow(ctx context.Context, client fetchgatev1.FetchServiceClient, url string) error {
	stream, err := client.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Method: http.MethodGet, Url: url}})
	if err != nil {
		return err
	}
	var offset int64
	for headed := false; ; {
		message, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("a stream without end ended at offset %d: %w", offset, err)
		}
		switch event := message.GetEvent().(type) {
		case *fetchgatev1.StreamFetchResponse_Head:
			if status := event.Head.GetStatus(); status != http.StatusOK || headed {
				return fmt.Errorf("status %d instead of 200, once", status)
			}
			headed = true
			f.opened()
		case *fetchgatev1.StreamFetchResponse_Summary:
			return fmt.Errorf("a stream without end ended at offset %d with the summary {%v}", offset, event.Summary)
		case *fetchgatev1.StreamFetchResponse_Data:
			if err := checkData(event.Data, offset); err != nil || !headed {
				return cmp.Or(err, errors.New("a body without a head"))
			}
			before := offset
			offset += int64(len(event.Data.GetData()))
			if before < settledBytes && offset >= settledBytes {
				f.settled()
			}
		}
	}
}

// writeSlow writes the table in Markdown.
func (r *rig) writeSlow(out io.Writer, measured [2]slowSeries) {
	r.writeHead(out, "case", fmt.Sprintf("%d rounds", r.rounds))
	name := fmt.Sprintf("%d streams of %d bytes each %v", r.slow, pieceBytes, turn)
	a, b := measured[0], measured[1]
	writeRow(out, name, "KiB resident per stream", a.residentKiB, b.residentKiB, slices.Min)
	if len(a.goroutines) > 0 && len(b.goroutines) > 0 {
		writeRow(out, name, "KiB of stacks per stream", a.stackKiB, b.stackKiB, slices.Min)
		writeRow(out, name, "goroutines per stream", a.goroutines, b.goroutines, slices.Min)
	}
}
