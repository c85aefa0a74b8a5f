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

// serveUpstream serves a body of N bytes at /N, until the process ends.
func serveUpstream(log io.Writer, files []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{size}", serveBytes)
	return listenAndServe(log, mux, files)
}

// listenAndServe serves HTTP/1.1 on a port of loopback that it says on log, with
// TLS if files are those of a certificate and its key.
func listenAndServe(log io.Writer, handler http.Handler, files []string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "HTTP %s\n", listener.Addr())
	if len(files) == 2 {
		return newServer(handler).ServeTLS(listener, files[0], files[1])
	}
	return newServer(handler).Serve(listener)
}

// newServer returns a server that does not offer HTTP/2: all services are to speak
// HTTP/1.1.
func newServer(handler http.Handler) *http.Server {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	return server
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
