package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much of what is live may be garbage before it is collected, in percent.
// With garbage a fetch costs a tenth less than with garbageOfLarge, Go's own, and
// the limit on memory holds all the same. A heap that is large is so for what
// streams hold, which live long: there it would cost much memory and save little.
const (
	garbage        = 200
	garbageOfLarge = 100
	largeHeap      = 64 << 20 // live bytes
)

// collectGarbage decides now and after each collection when the next is due. Last
// is what is in force.
func collectGarbage(last int) {
	next := garbageFor(liveHeap())
	if next != last { // it stops the world
		debug.SetGCPercent(next)
	}
	// What nothing refers to is found by the next collection.
	runtime.SetFinalizer(new([16]byte), func(*[16]byte) { collectGarbage(next) })
}

func garbageFor(live uint64) int {
	if live >= largeHeap {
		return garbageOfLarge
	}
	return garbage
}

// liveHeap is how many bytes the last collection has left.
func liveHeap() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}
