package listener

import (
	"container/heap"
	"math"
)

// busy is the idleSince of a connection that carries a stream.
const busy = math.MaxInt64

// byIdle is a heap of connections, the one that was last seen idle longest ago
// first. Connections do not touch it when they become busy or idle: what has
// become of them is looked at when one has to go. That keeps streams free of a
// lock that all connections share.
type byIdle []*admitted

// longest returns the connection that has been idle longest, or nil if all
// carry streams. No lastSeen is later than the truth, so the first whose
// lastSeen is the truth is it.
func (h *byIdle) longest(now int64) *admitted {
	for len(*h) > 0 {
		first := (*h)[0]
		since := first.idleSince.Load()
		if since == first.lastSeen {
			return first
		}
		if first.lastSeen >= now {
			return nil
		}
		first.lastSeen = min(since, now)
		heap.Fix(h, 0)
	}
	return nil
}

// Len, Less, Swap, Push and Pop are those of heap.Interface.
func (h byIdle) Len() int           { return len(h) }
func (h byIdle) Less(i, j int) bool { return h[i].lastSeen < h[j].lastSeen }

func (h byIdle) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *byIdle) Push(x any) {
	a := x.(*admitted)
	a.index = len(*h)
	*h = append(*h, a)
}

func (h *byIdle) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	a.index = -1
	return a
}
