package server

import "sync"

// dataBytes is the most bytes of body in one streamed message.
const dataBytes = 128 << 10

// The first buffer of a whole body, which grows in tiers: as large as the head
// says the body is, but not more than maxFirstBytes on its word alone.
const (
	firstBytes    = 4 << 10
	maxFirstBytes = 512 << 10
)

// buffers lends the memory of bodies.
var buffers = newBufferPool(firstBytes, 32<<10, dataBytes, 512<<10, 1<<20, 4<<20)

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
