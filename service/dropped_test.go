package service_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// gRPC drops what it cannot send without a word: with a connection that ends,
// and with a stream that is reset while a message is on its way to it.

// TestFailuresThatNobodyReads: the answers with failures come back with their
// connection, too, though they are made when the fetch is over.
func TestFailuresThatNobodyReads(t *testing.T) {
	lines := []string{"Location: /"}
	for i := range 2 {
		lines = append(lines, fmt.Sprintf("X-%d: %s", i, strings.Repeat("x", 6000)))
	}
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(302, "", lines...)
	}}).Upstream
	s := serve(t, holding(u, ""))
	caller := newDeaf(t, s, "127.0.0.1")
	caller.ask(t, 20, fetchgatev1.FetchService_Fetch_FullMethodName, get(u.URL("/")))
	wantHeld(t, s, atLeast(1<<20))
	caller.Close()
	wantHeld(t, s, nothing)
}

// TestCancelsLeaveNothing: fetches that are cancelled just as their answer is
// sent leave no place and no byte behind on a connection that stays.
func TestCancelsLeaveNothing(t *testing.T) {
	lasts := time.Second
	if !testing.Short() {
		lasts = 10 * time.Second
	}
	body := strings.Repeat("b", 40<<10)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		return fetchtest.Answer(200, body)
	}}).Upstream
	s := serve(t, holding(u, ", max_live_fetches: 1000"))
	c := fetchgatev1.NewFetchServiceClient(from(t, s, "127.0.0.1"))
	var answered, cancelled atomic.Int64
	var all sync.WaitGroup
	over, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	for range 8 {
		all.Go(func() {
			// The cancel closes in on the moment at which the answer is sent.
			for wait := 2 * time.Millisecond; over.Err() == nil; {
				ctx, cancel := context.WithCancel(t.Context())
				timer := time.AfterFunc(wait, cancel)
				_, err := c.Fetch(ctx, get(u.URL("/")))
				timer.Stop()
				cancel()
				if err == nil {
					wait -= wait / 50
					answered.Add(1)
				} else {
					wait += wait / 50
					cancelled.Add(1)
				}
			}
		})
	}
	all.Wait()
	if answered.Load() == 0 || cancelled.Load() == 0 {
		t.Errorf("%d were answered and %d cancelled: that tells nothing", answered.Load(), cancelled.Load())
	}
	wantHeld(t, s, nothing)
}

// TestDeadlinesOfOthersEndNoStream: a stream that is read goes on, while others
// of its connection run into their deadlines in the midst of their bodies.
func TestDeadlinesOfOthersEndNoStream(t *testing.T) {
	lasts := 3 * time.Second
	if !testing.Short() {
		lasts = 10 * time.Second
	}
	big := strings.Repeat("b", 1<<20)
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/endless" {
			return fetchtest.Steps(fetchtest.Write("HTTP/1.1 200 OK\r\n\r\n"), fetchtest.Forever(strings.Repeat("x", 64<<10)))
		}
		return fetchtest.Answer(200, big)
	}}).Upstream
	s := serve(t, holding(u, ", caller_stall: 1s"))
	conn := from(t, s, "127.0.0.1")
	c := fetchgatev1.NewFetchServiceClient(conn)
	long, err := c.StreamFetch(t.Context(), &fetchgatev1.StreamFetchRequest{Request: get(u.URL("/endless")).Request})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { // ends with the connection, below
		for {
			if _, err := long.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	began := time.Now()
	for i := 0; time.Since(began) < lasts; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(500+(i*700)%20000)*time.Microsecond)
		cut, err := c.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: get(u.URL("/big")).Request})
		for err == nil {
			_, err = cut.Recv()
		}
		cancel()
		select {
		case err := <-ended:
			t.Fatalf("the stream that is read ended after %v: %v", time.Since(began), err)
		default:
		}
	}
	conn.Close()
	<-ended
}
