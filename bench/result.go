package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"
)

// series are the figures of one case and one service, one of each round.
// Allocations, in number and in bytes for each piece of work, are empty for a
// service that has no metrics.
type series struct {
	costs, rates, allocations, bytes []float64
}

// result is one case with the series of both services.
type result struct {
	workload
	series [2]series
}

// comparison is what one run measured.
type comparison struct {
	results []result
	peaks   [2][]float64 // MiB, one of each start
}

func newComparison(cases []workload) *comparison {
	c := &comparison{results: make([]result, len(cases))}
	for i, w := range cases {
		c.results[i].workload = w
	}
	return c
}

// measure runs the rounds interleaved, each case on one peer after the other,
// so that what else the machine does meets both of them; who is first changes
// with each round and start. A shorter round before them does not count.
func (c *comparison) measure(ctx context.Context, rounds int, peers [2]*peer) error {
	started := len(c.peaks[0]) // starts before this one
	for round := range rounds + 1 {
		for i := range c.results {
			for turn := range peers {
				j := (started + round + turn) % len(peers)
				p, r := peers[j], &c.results[i]
				into, part := &r.series[j], 1
				if round == 0 {
					into, part = new(series), warmUp
				}
				if err := into.add(ctx, r.workload, p, part); err != nil {
					return fmt.Errorf("%s, %s: %w\n%s said last: %s", p.name, r.name, err, p.name, p.said)
				}
			}
		}
	}
	for j, p := range peers {
		peak, err := p.peakMiB()
		if err != nil {
			return err
		}
		c.peaks[j] = append(c.peaks[j], peak)
	}
	return nil
}

// add measures 1/part of one round of one case on one peer.
func (s *series) add(ctx context.Context, w workload, p *peer, part int) error {
	var pieces float64
	var cpu, wall time.Duration
	allocated, err := p.allocated(ctx, func() error {
		before, err := p.cpu()
		if err != nil {
			return err
		}
		began := time.Now()
		if pieces, err = w.drive(ctx, p.client, part); err != nil {
			return err
		}
		wall = time.Since(began)
		after, err := p.cpu()
		cpu = after - before
		return err
	})
	if err != nil {
		return err
	}
	s.costs = append(s.costs, cpu.Seconds()/pieces*w.costScale)
	s.rates = append(s.rates, pieces*w.rateScale/wall.Seconds())
	if allocated != nil {
		s.allocations = append(s.allocations, allocated[allocations]/pieces)
		s.bytes = append(s.bytes, allocated[allocatedBytes]/pieces)
	}
	return nil
}

// write writes the table in Markdown.
func (c *comparison) write(out io.Writer, r *rig) error {
	rounds := fmt.Sprintf("%d rounds", r.rounds)
	if r.starts > 1 {
		rounds += fmt.Sprintf(" in each of %d starts", r.starts)
	}
	r.writeHead(out, "case", rounds)
	for _, measured := range c.results {
		a, b := measured.series[0], measured.series[1]
		writeRow(out, measured.name, measured.cost, a.costs, b.costs, slices.Min)
		writeRow(out, measured.name, measured.rate, a.rates, b.rates, slices.Max)
		if measured.allocates && len(a.allocations) > 0 && len(b.allocations) > 0 {
			writeRow(out, measured.name, "allocations per fetch", a.allocations, b.allocations, slices.Min)
			writeRow(out, measured.name, "KiB allocated per fetch", inKiB(a.bytes), inKiB(b.bytes), slices.Min)
		}
	}
	a, b := median(c.peaks[0]), median(c.peaks[1])
	_, err := fmt.Fprintf(out, "| all of them | peak MiB resident | %.0f | %.0f | %.2f |\n", a, b, a/b)
	return err
}

// writeHead writes what was compared, where and how often, and the head of the
// table: the first service, the second, and the first divided by the second.
func (r *rig) writeHead(out io.Writer, first, rounds string) {
	services := r.services()
	fmt.Fprintf(out, "%s, %s %s/%s, %d CPUs, %s; median (best round). %s.\n\n", time.Now().UTC().Format(time.DateOnly),
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), rounds, r.compared())
	fmt.Fprintf(out, "| %s | unit | %s | %s | ratio |\n|---|---|---|---|---|\n", first, services[0].name, services[1].name)
}

func writeRow(out io.Writer, name, unit string, a, b []float64, best func([]float64) float64) {
	fmt.Fprintf(out, "| %s | %s | %s (%s) | %s (%s) | %.2f (%.2f) |\n", name, unit, figure(median(a)), figure(best(a)),
		figure(median(b)), figure(best(b)), median(a)/median(b), best(a)/best(b))
}

// figure writes a number with about three digits.
func figure(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func inKiB(bytes []float64) []float64 {
	kib := make([]float64, len(bytes))
	for i, b := range bytes {
		kib[i] = b / 1024
	}
	return kib
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
