package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// TestGarbageOfLargeHeaps: the share of garbage follows the heap, both ways.
func TestGarbageOfLargeHeaps(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(garbage))
	collectGarbage(0)
	wantGarbage(t, garbage)
	large := make([]byte, largeHeap)
	wantGarbage(t, garbageOfLarge)
	runtime.KeepAlive(large)
	wantGarbage(t, garbage)
}

// wantGarbage collects until the setting is percent.
func wantGarbage(t *testing.T, percent uint64) {
	t.Helper()
	setting := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	for deadline := time.Now().Add(20 * time.Second); ; {
		runtime.GC()
		metrics.Read(setting)
		if setting[0].Value.Uint64() == percent {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("GOGC is %d, want %d", setting[0].Value.Uint64(), percent)
		}
		runtime.Gosched() // for the finalizer
	}
}
