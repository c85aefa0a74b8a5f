package service

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/fetchgate/fetchgate/service/config"
)

// TestHeldBytesFollowTheMemory: without a setting, what may be held is a quarter
// of what the process may use.
func TestHeldBytesFollowTheMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, c := range []struct {
		yaml         string
		memory, want int64
	}{
		{"log: {}", math.MaxInt64, 1 << 30},
		{"log: {}", 256 << 20, 64 << 20},
		{"log: {}", 32 << 20, 16 << 20},
		{"limits: {max_attempts: 2}", 256 << 20, 64 << 20},
		{"limits: {max_held_bytes: 33554432}", 256 << 20, 32 << 20},
	} {
		debug.SetMemoryLimit(c.memory)
		loaded, err := config.Parse("test.yaml", []byte(c.yaml))
		if err != nil {
			t.Fatal(err)
		}
		if got := limitsOf(loaded).MaxHeldBytes; got != c.want {
			t.Errorf("%s in %d bytes of memory: %d may be held, want %d", c.yaml, c.memory, got, c.want)
		}
	}
}
