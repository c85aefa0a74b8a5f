package body

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// meter stops a body that comes too slowly. Its clock runs only between begin
// and pause or end, while the upstream is waited for. A window opens when the
// body does and whenever enough bytes have come, and the body is too slow if a
// window lasts for the whole of min.Over.
//
// A nil meter measures nothing.
type meter struct {
	min  fetch.Throughput
	stop context.CancelCauseFunc

	mu     sync.Mutex
	since  time.Time     // when the clock was started, zero while it stands
	waited time.Duration // in this window, up to since
	came   int64         // bytes in this window
	closed bool
	slow   *fetch.Failure

	// timer runs expire when the window is full, or earlier: it is not moved
	// when the clock stops or a window ends, but looks again when it fires.
	timer *time.Timer
	armed bool
}

func (m *meter) open(min fetch.Throughput, stop context.CancelCauseFunc) { m.min, m.stop = min, stop }

// begin starts the clock.
func (m *meter) begin() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since = time.Now()
	if !m.armed {
		m.arm()
	}
}

// arm sets the timer to when the window is full if the clock runs on.
func (m *meter) arm() {
	m.armed = true
	if rest := m.min.Over - m.waited; m.timer == nil {
		m.timer = time.AfterFunc(rest, m.expire)
	} else {
		m.timer.Reset(rest)
	}
}

// pause stops the clock, if it runs.
func (m *meter) pause() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stand()
}

func (m *meter) stand() {
	if !m.since.IsZero() {
		m.waited += time.Since(m.since)
		m.since = time.Time{}
	}
}

// end stops the clock after n bytes have come.
func (m *meter) end(n int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stand()
	if m.came += int64(n); m.came >= m.min.Bytes {
		m.came, m.waited = 0, 0
	}
}

func (m *meter) expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.armed = false
	if m.closed || m.since.IsZero() {
		return
	}
	m.stand()
	m.since = time.Now()
	if m.waited < m.min.Over {
		m.arm()
		return
	}
	m.slow = fail(fetch.ReasonBodyTooSlow,
		fmt.Sprintf("fewer than %d bytes of the body came in %v of waiting for the upstream", m.min.Bytes, m.min.Over), nil)
	m.slow.LimitHit = &fetch.LimitHit{Limit: "min_throughput", Max: m.min.Bytes}
	m.stop(m.slow)
}

// failure is why the meter stopped the body, nil if it did not.
func (m *meter) failure() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slow == nil {
		return nil
	}
	return m.slow
}

// close makes sure that stop is not called any more.
func (m *meter) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.timer != nil {
		m.timer.Stop()
	}
}
