package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The metrics of the Go runtime that are read.
const (
	allocations    = "go_memstats_mallocs_total"
	allocatedBytes = "go_memstats_alloc_bytes_total"
	stackBytes     = "go_memstats_stack_inuse_bytes"
	goroutines     = "go_goroutines"
)

// metricsClient asks for text that is not compressed, as compressing it would be
// work that is measured.
var metricsClient = http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 10 * time.Second}

// readMetrics returns what the process's /metrics says of the Go runtime.
func (p *process) readMetrics(ctx context.Context) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := metricsClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics answers with %s", response.Status)
	}
	return parseMetrics(response.Body)
}

// parseMetrics takes the metrics that are read, which have no labels, from
// Prometheus's text format. One that is not there is an error.
func parseMetrics(text io.Reader) (map[string]float64, error) {
	found := map[string]float64{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case allocations, allocatedBytes, stackBytes, goroutines:
			value, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			found[name] = value
		}
	}
	for _, name := range []string{allocations, allocatedBytes, stackBytes, goroutines} {
		if _, ok := found[name]; !ok && lines.Err() == nil {
			return nil, fmt.Errorf("/metrics has no %s", name)
		}
	}
	return found, lines.Err()
}

// allocated calls work and returns what the service allocated for it, by metric,
// without what reading the metrics allocates. It is nil for a service that has
// no metrics.
func (p *process) allocated(ctx context.Context, work func() error) (map[string]float64, error) {
	if p.metrics == "" {
		return nil, work()
	}
	first, err := p.readMetrics(ctx)
	if err != nil {
		return nil, err
	}
	second, err := p.readMetrics(ctx)
	if err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	third, err := p.readMetrics(ctx)
	for name := range third {
		third[name] += first[name] - 2*second[name] // third - second, less second - first
	}
	return third, err
}
