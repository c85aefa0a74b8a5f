package server

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"github.com/fetchgate/fetchgate/service/limit"
)

// dataBytes is the most bytes of body in one streamed message.
const dataBytes = 128 << 10

// The first buffer of a whole body, which grows in tiers: as large as the head
// says the body is, but not more than maxFirstBytes on its word alone.
const (
	firstBytes    = 4 << 10
	maxFirstBytes = 512 << 10
)

// leastBytes is the least buffer: gRPC tells of the end of none that has 1 KiB
// or less.
const leastBytes = 2 << 10

// buffers lends the memory of bodies.
var buffers = newBufferPool(leastBytes, firstBytes, 32<<10, dataBytes, 512<<10, 1<<20, 4<<20)

// bufferPool is a mem.BufferPool. Unlike grpc's it does not clear a buffer
// before it lends it again: that costs more than reading a body into it, and
// only the bytes that were written are ever sent.
type bufferPool struct {
	sizes []int
	tiers []sync.Pool
}

func newBufferPool(sizes ...int) *bufferPool {
	return &bufferPool{sizes: sizes, tiers: make([]sync.Pool, len(sizes))}
}

// Get lends a buffer of length n; its capacity is that of its tier.
func (p *bufferPool) Get(n int) *[]byte {
	for i, size := range p.sizes {
		if n > size {
			continue
		}
		b, ok := p.tiers[i].Get().(*[]byte)
		if !ok {
			made := make([]byte, size)
			b = &made
		}
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n)
	return &b
}

// size is the capacity of a buffer of length n.
func (p *bufferPool) size(n int) int {
	for _, size := range p.sizes {
		if n <= size {
			return size
		}
	}
	return n
}

// Put takes a buffer back. One that is not of a tier is left to the garbage
// collector.
func (p *bufferPool) Put(b *[]byte) {
	for i, size := range p.sizes {
		if cap(*b) == size {
			p.tiers[i].Put(b)
			return
		}
	}
}

// held is a pool whose buffers count against the memory that the server holds
// for its callers, until gRPC has sent them.
type held struct {
	pool  mem.BufferPool
	lease *limit.Lease
	// bytes are those that are out, and returned gets a word when some come
	// back: a stream waits for that, nobody else does.
	bytes    atomic.Int64
	returned chan struct{}
}

func newHeld(pool mem.BufferPool, lease *limit.Lease) *held {
	return &held{pool: pool, lease: lease}
}

// take lends a buffer of length n, or says that there is no memory for it,
// before any is allocated.
func (h *held) take(n int) (*[]byte, *limit.Refused) {
	size := buffers.size(n)
	if refused := h.lease.Take(size); refused != nil {
		return nil, refused
	}
	h.bytes.Add(int64(size))
	return h.pool.Get(n), nil
}

// Put takes a buffer back.
func (h *held) Put(b *[]byte) {
	size := cap(*b)
	h.pool.Put(b)
	h.lease.Give(size)
	h.bytes.Add(-int64(size))
	select {
	case h.returned <- struct{}{}:
	default:
	}
}

// Get makes it a mem.BufferPool, of which gRPC only uses Put.
func (h *held) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}
