package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// period is how often the bytes of a body repeat. It is prime, so that a piece
// that was moved, repeated or lost shows.
const period = 251

// page is the beginning of every body, longer than a message may be.
var page = newPage(period << 11)

func newPage(size int) []byte {
	page := make([]byte, size)
	for i := range page {
		page[i] = byte(i % period)
	}
	return page
}

// serveUpstream serves a body of N bytes at /N, on a port of loopback that it
// says on log, until the process ends.
func serveUpstream(log io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "HTTP %s\n", listener.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{size}", serveBytes)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(listener)
}

func serveBytes(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
	if err != nil || size < 0 {
		http.Error(w, "the path is the size of the body in bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for size > 0 && err == nil {
		var count int
		count, err = w.Write(page[:min(size, int64(len(page)))])
		size -= int64(count)
	}
}
