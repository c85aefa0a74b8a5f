package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

const (
	inFlight = 64
	// maxDataBytes is the most that a message of a stream may carry.
	maxDataBytes = 256 << 10
	// warmUp is how much shorter the first round is, which does not count.
	warmUp = 8
)

// workload is one case: what is asked of a service, and in which units.
type workload struct {
	name      string
	cost      string  // the unit of CPU time for each piece of work
	costScale float64 // how many of it are one second
	rate      string  // the unit of work in a second
	rateScale float64 // how many of it are one piece of work
	allocates bool    // what a piece allocates is worth a row
	// drive works for 1/part of a round and returns how many pieces it did: all
	// of them were answered rightly, or there is an error.
	drive func(ctx context.Context, client fetchgatev1.FetchServiceClient, part int) (float64, error)
}

func cases(origin string, s settings) []workload {
	unary := func(name string, size int) workload {
		url := fmt.Sprintf("%s/%d", origin, size)
		return workload{name, "CPU µs per fetch", 1e6, "fetches/s", 1, true,
			func(ctx context.Context, client fetchgatev1.FetchServiceClient, part int) (float64, error) {
				return fetchFor(ctx, client, url, page[:size], s.slice/time.Duration(part))
			}}
	}
	return []workload{
		unary("1 KiB, 64 in flight", 1<<10),
		unary("100 KiB, 64 in flight", 100<<10),
		{fmt.Sprintf("one stream of %d MiB", s.streamMiB), "CPU s per GiB", 1, "MB/s", (1 << 30) / 1e6, false,
			func(ctx context.Context, client fetchgatev1.FetchServiceClient, part int) (float64, error) {
				size := s.streamMiB << 20 / int64(part)
				return float64(size) / (1 << 30), streamOnce(ctx, client, fmt.Sprintf("%s/%d", origin, size), size)
			}},
	}
}

// fetchFor keeps inFlight fetches going for a while and returns how many were
// answered.
func fetchFor(ctx context.Context, client fetchgatev1.FetchServiceClient, url string, want []byte, d time.Duration) (float64, error) {
	var count atomic.Int64
	end := time.Now().Add(d)
	group, ctx := errgroup.WithContext(ctx)
	for range inFlight {
		group.Go(func() error {
			for time.Now().Before(end) {
				if err := fetchOnce(ctx, client, url, want); err != nil {
					return err
				}
				count.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(count.Load()), err
}

func fetchOnce(ctx context.Context, client fetchgatev1.FetchServiceClient, url string, want []byte) error {
	answer, err := client.Fetch(ctx, &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Method: http.MethodGet, Url: url}})
	if err != nil {
		return err
	}
	if failure := answer.GetFailure(); failure != nil {
		return fmt.Errorf("the fetch failed: %v", failure)
	}
	if status := answer.GetResponse().GetHead().GetStatus(); status != http.StatusOK {
		return fmt.Errorf("status %d instead of 200", status)
	}
	if body := answer.GetResponse().GetBody(); !bytes.Equal(body, want) {
		return fmt.Errorf("a body of %d bytes is not the one of %d bytes that the upstream sent", len(body), len(want))
	}
	return nil
}

// streamOnce fetches a stream of size bytes and checks that it comes whole.
func streamOnce(ctx context.Context, client fetchgatev1.FetchServiceClient, url string, size int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Method: http.MethodGet, Url: url}})
	if err != nil {
		return err
	}
	var status int32
	var offset int64
	var summary *fetchgatev1.StreamSummary
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch event := message.GetEvent().(type) {
		case *fetchgatev1.StreamFetchResponse_Head:
			status = event.Head.GetStatus()
		case *fetchgatev1.StreamFetchResponse_Summary:
			summary = event.Summary
		case *fetchgatev1.StreamFetchResponse_Data:
			if err := checkData(event.Data, offset); err != nil {
				return err
			}
			offset += int64(len(event.Data.GetData()))
		}
	}
	if status != http.StatusOK || offset != size || summary == nil || summary.GetFailure() != nil || summary.GetBodyBytes() != size {
		return fmt.Errorf("a stream with status %d and %d of %d bytes ended with the summary {%v}", status, offset, size, summary)
	}
	return nil
}

// checkData checks that d continues the body at offset.
func checkData(d *fetchgatev1.Data, offset int64) error {
	data := d.GetData()
	if d.GetOffsetBytes() != offset || len(data) == 0 || len(data) > maxDataBytes {
		return fmt.Errorf("a message of %d bytes says offset %d instead of %d", len(data), d.GetOffsetBytes(), offset)
	}
	if from := offset % period; !bytes.Equal(data, page[from:from+int64(len(data))]) {
		return fmt.Errorf("the %d bytes from offset %d on are not those that the upstream sent", len(data), offset)
	}
	return nil
}
