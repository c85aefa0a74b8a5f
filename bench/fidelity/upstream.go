package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// patience is how long an upstream waits for a request to become whole.
const patience = 10 * time.Second

// upstream is a TCP server on loopback that reads one request on each
// connection, answers with bytes that need not be HTTP, and hangs up.
type upstream struct {
	answer   string
	listener net.Listener
	serving  sync.WaitGroup

	mu       sync.Mutex
	requests [][]byte // one of each connection, exactly as it arrived
}

func listen(answer string) (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{answer: answer, listener: listener}
	u.serving.Go(u.serve)
	return u, nil
}

// close ends the upstream; what it was asked is then whole.
func (u *upstream) close() {
	u.listener.Close()
	u.serving.Wait()
}

// authority is where it listens: HOST:PORT.
func (u *upstream) authority() string { return u.listener.Addr().String() }

func (u *upstream) serve() {
	for {
		conn, err := u.listener.Accept()
		if err != nil {
			return
		}
		u.answerOne(conn)
	}
}

func (u *upstream) answerOne(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	request, err := readRequest(conn)
	u.mu.Lock()
	u.requests = append(u.requests, request)
	u.mu.Unlock()
	if err == nil {
		io.WriteString(conn, u.answer)
	}
}

// readRequest returns the bytes of one request, or those of its beginning and
// why the rest did not come.
func readRequest(r io.Reader) ([]byte, error) {
	var raw bytes.Buffer
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(r, &raw)))
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	return raw.Bytes(), err
}

// asked returns the bytes of the requests that arrived, with the port, which
// differs from run to run, out of them.
func (u *upstream) asked() [][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	requests := make([][]byte, len(u.requests))
	for i, r := range u.requests {
		requests[i] = []byte(u.portless(string(r)))
	}
	return requests
}

// portless puts the word PORT in the place of the upstream's port.
func (u *upstream) portless(text string) string {
	return strings.ReplaceAll(text, u.authority(), "127.0.0.1:PORT")
}

// listenAll starts an upstream for each probe.
func listenAll(probes []probe) ([]*upstream, error) {
	var upstreams []*upstream
	for _, p := range probes {
		u, err := listen(p.answer)
		if err != nil {
			closeAll(upstreams)
			return nil, errors.Join(errors.New("no upstream for the probe "+p.name), err)
		}
		upstreams = append(upstreams, u)
	}
	return upstreams, nil
}

func closeAll(upstreams []*upstream) {
	for _, u := range upstreams {
		u.close()
	}
}
