package server

import "testing"

func TestBuffersAreOfATier(t *testing.T) {
	p := newBufferPool(10, 20, 40)
	for n, want := range map[int]int{0: 10, 1: 10, 10: 10, 11: 20, 20: 20, 21: 40, 40: 40, 41: 41, 1000: 1000} {
		b := p.Get(n)
		if len(*b) != n || cap(*b) != want {
			t.Errorf("Get(%d) has length %d and capacity %d, want %d and %d", n, len(*b), cap(*b), n, want)
		}
		p.Put(b)
	}
}

// TestBuffersKeepTheirTier: a buffer that comes back with another length, or
// cut at its front, is never lent for more than it holds.
func TestBuffersKeepTheirTier(t *testing.T) {
	p := newBufferPool(10, 20)
	for _, spoil := range []func(*[]byte){
		func(b *[]byte) { *b = (*b)[:0] },
		func(b *[]byte) { *b = (*b)[:cap(*b)] },
		func(b *[]byte) { *b = (*b)[5:] },
		func(b *[]byte) { *b = (*b)[:3:3] },
		func(b *[]byte) { *b = nil },
	} {
		b := p.Get(20)
		spoil(b)
		p.Put(b)
		for range 3 {
			if b := p.Get(15); len(*b) != 15 || cap(*b) != 20 {
				t.Fatalf("length %d, capacity %d, want 15 and 20", len(*b), cap(*b))
			}
			if b := p.Get(10); len(*b) != 10 || cap(*b) != 10 {
				t.Fatalf("length %d, capacity %d, want 10 and 10", len(*b), cap(*b))
			}
		}
	}
}

// TestTiersFit: a unary body, a streamed message and a small copy of one each
// have a tier of their size.
func TestTiersFit(t *testing.T) {
	for _, n := range []int{firstBytes, dataBytes / 4, dataBytes, maxFirstBytes} {
		if b := buffers.Get(n); cap(*b) != n {
			t.Errorf("there is no tier of %d bytes", n)
		}
	}
	if b := buffers.Get(3 << 20); cap(*b) != 4<<20 {
		t.Errorf("the largest body is kept in %d bytes", cap(*b))
	}
}
