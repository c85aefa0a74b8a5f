package fetchtest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
)

// RecordingConnect takes the place of what opens TCP connections, and keeps the
// address of every connection that would have been opened. With it a test
// proves that an address is not dialed. Its methods are safe for concurrent use.
type RecordingConnect struct {
	serve   func(net.Conn)
	running sync.WaitGroup // one serve for each connection

	mu        sync.Mutex
	closed    bool
	addresses []netip.AddrPort
	conns     []net.Conn // the upstreams' ends
}

// NewRecordingConnect returns a RecordingConnect whose connections are pipes in
// memory, the other end of which serve has until it returns. A nil serve means
// that every connection is refused.
func NewRecordingConnect(t testing.TB, serve func(net.Conn)) *RecordingConnect {
	r := &RecordingConnect{serve: serve}
	t.Cleanup(r.close)
	return r
}

// Connect records the address. Its error is that of a connection that was
// refused, or of ctx.
func (r *RecordingConnect) Connect(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses = append(r.addresses, address)
	err := ctx.Err()
	if err == nil && (r.serve == nil || r.closed) {
		err = syscall.ECONNREFUSED
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(address), Err: err}
	}
	near, far := net.Pipe()
	r.conns = append(r.conns, far)
	r.running.Go(func() {
		defer far.Close()
		r.serve(far)
	})
	return near, nil
}

// Addresses returns the addresses so far, in the order in which they came.
func (r *RecordingConnect) Addresses() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]netip.AddrPort(nil), r.addresses...)
}

// close closes the upstreams' ends and waits for who served them.
func (r *RecordingConnect) close() {
	r.mu.Lock()
	r.closed = true
	for _, conn := range r.conns {
		conn.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
