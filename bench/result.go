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
type series struct {
	costs, rates []float64
}

// result is one case with the series of each peer, in their order.
type result struct {
	workload
	series []series
}

// measure runs the rounds interleaved, each case on one peer after the other,
// so that what else the machine does meets all of them. A shorter round before
// them does not count.
func measure(ctx context.Context, s settings, cases []workload, peers []*peer) ([]result, error) {
	results := make([]result, len(cases))
	for i, w := range cases {
		results[i] = result{w, make([]series, len(peers))}
	}
	for round := range s.rounds + 1 {
		for i, w := range cases {
			for j, p := range peers {
				cost, rate, err := once(ctx, w, p, round == 0)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w\n%s said last: %s", p.name, w.name, err, p.name, p.said)
				}
				if round == 0 {
					continue
				}
				measured := &results[i].series[j]
				measured.costs = append(measured.costs, cost)
				measured.rates = append(measured.rates, rate)
			}
		}
	}
	return results, nil
}

// once measures one round of one case on one peer.
func once(ctx context.Context, w workload, p *peer, warming bool) (cost, rate float64, err error) {
	part := 1
	if warming {
		part = warmUp
	}
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	pieces, err := w.drive(ctx, p.client, part)
	if err != nil {
		return 0, 0, err
	}
	wall := time.Since(began)
	after, err := p.cpu()
	return (after - before).Seconds() / pieces * w.costScale, pieces * w.rateScale / wall.Seconds(), err
}

// writeTable writes the table in Markdown: the first peer, the second, and the
// first divided by the second.
func writeTable(out io.Writer, s settings, peers []*peer, results []result) error {
	fmt.Fprintf(out, "%s, %s %s/%s, %d CPUs, %d rounds; median (best round).\n\n", time.Now().UTC().Format(time.DateOnly),
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), s.rounds)
	fmt.Fprintf(out, "| case | unit | %s | %s | ratio |\n|---|---|---|---|---|\n", peers[0].name, peers[1].name)
	for _, r := range results {
		writeRow(out, r.name, r.cost, r.series[0].costs, r.series[1].costs, slices.Min)
		writeRow(out, r.name, r.rate, r.series[0].rates, r.series[1].rates, slices.Max)
	}
	var peaks [2]float64
	for i, p := range peers {
		var err error
		if peaks[i], err = p.peakMiB(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "| all of them | peak MiB resident | %.0f | %.0f | %.2f |\n", peaks[0], peaks[1], peaks[0]/peaks[1])
	return err
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

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
