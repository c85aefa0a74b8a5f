package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// A flood is callers that open streams and answers and do not read them, and
// upstreams that send bombs, all at once.
const (
	floodMemory = "230MiB" // GOMEMLIMIT of fetchgate
	// floodMost is what may be resident then, in MiB.
	floodMost = 256

	floodCallers     = 10 // connections of callers that do not read
	floodStreams     = 40 // streams that nobody reads, of each
	floodAnswers     = 100
	floodBombs       = 1000
	floodTime        = 30 * time.Second
	floodWindow      = 64 << 10
	floodBombMiB     = 64
	floodAnswerBytes = 3 << 20
)

// flood builds fetchgate, floods it and writes what became of each fetch and how
// much memory it took; more than floodMost is an error.
func flood(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "fetchgate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir); err != nil {
		return err
	}
	return floodBuilt(ctx, dir, out)
}

// floodBuilt floods the fetchgate in dir.
func floodBuilt(ctx context.Context, dir string, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	upstream := &http.Server{Handler: floodUpstream()}
	serving := make(chan error, 1)
	go func() { serving <- upstream.Serve(listener) }() // ends with Close below
	defer func() {
		upstream.Close()
		<-serving
	}()
	origin := "http://" + listener.Addr().String()
	r := &rig{dir: dir}
	if err := r.configure(origin); err != nil {
		return err
	}
	run := r.services()[0]
	run.env = []string{"GOMEMLIMIT=" + floodMemory}
	fetchgate, err := startPeer(ctx, run)
	if err != nil {
		return err
	}
	defer fetchgate.stop()
	outcomes, err := drown(ctx, fetchgate.address, origin)
	if err != nil {
		return err
	}
	for _, what := range slices.Sorted(maps.Keys(outcomes)) {
		fmt.Fprintf(out, "%6d %s\n", outcomes[what], what)
	}
	return checkFlooded(ctx, fetchgate, origin, out)
}

// checkFlooded wants a fetchgate that still fetches and has kept to its memory.
func checkFlooded(ctx context.Context, p *peer, origin string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, floodTime)
	defer cancel()
	_, err := p.client.Fetch(ctx, &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Url: origin + "/"}}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("after the flood it does not fetch: %w", err)
	}
	peak, err := p.peakMiB()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%6.0f MiB resident at most, with GOMEMLIMIT=%s\n", peak, floodMemory)
	if peak > floodMost {
		return fmt.Errorf("%.0f MiB were resident, at most %d may be", peak, floodMost)
	}
	return nil
}

// floodUpstream answers /answer with as much as an answer may have, /stream
// without end, and /bomb with little that decodes to much.
func floodUpstream() http.Handler {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range floodBombMiB {
		z.Write(make([]byte, 1<<20))
	}
	z.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/answer", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, floodAnswerBytes)) })
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	return mux
}

// drown floods the service at address and counts what becomes of each fetch.
func drown(ctx context.Context, address, origin string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, floodTime)
	defer cancel()
	var mu sync.Mutex
	outcomes := map[string]int{}
	fetch := func(c fetchgatev1.FetchServiceClient, path string) {
		got, err := c.Fetch(ctx, &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Url: origin + path}})
		what := fmt.Sprintf("%s: %v", path, status.Code(err))
		if f := got.GetFailure(); f != nil {
			what += fmt.Sprintf(" %v of %s", f.GetReason(), f.GetLimitHit().GetLimit())
		}
		mu.Lock()
		defer mu.Unlock()
		outcomes[what]++
	}
	var all sync.WaitGroup
	for caller := range floodCallers + 1 {
		// Windows that do not grow: what is not read stays where it is.
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithStaticStreamWindowSize(floodWindow), grpc.WithStaticConnWindowSize(floodWindow))
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		c := fetchgatev1.NewFetchServiceClient(conn)
		if caller == floodCallers {
			for range floodBombs {
				all.Go(func() { fetch(c, "/bomb") })
			}
			break
		}
		for range floodStreams {
			if _, err := c.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: origin + "/stream"}}); err != nil {
				return nil, err
			}
		}
		for range floodAnswers {
			all.Go(func() { fetch(c, "/answer") })
		}
	}
	all.Wait()
	return outcomes, nil
}
