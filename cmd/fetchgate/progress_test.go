package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// clock gives the instants of a download.
func clock(seconds float64) time.Time {
	return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func TestProgressInLog(t *testing.T) {
	var log strings.Builder
	p := newProgress(&log, "/tmp/big.iso", clock(0))
	p.total = 400 << 20
	for i := 1; i <= 250; i++ {
		p.add(1<<20, clock(float64(i)/10))
	}
	p.clear()
	p.saved(clock(25))
	want := `big.iso   25%  100 MiB / 400 MiB  10.0 MiB/s  ETA 30s
big.iso   50%  200 MiB / 400 MiB  10.0 MiB/s  ETA 20s
saved big.iso  250 MiB in 25s (10.0 MiB/s)
`
	if log.String() != want {
		t.Errorf("it says\n%swant\n%s", log.String(), want)
	}
}

func TestProgressOnTerminal(t *testing.T) {
	var screen strings.Builder
	width := 80
	p := newProgress(&screen, "big.iso", clock(0))
	p.width, p.total = func() int { return width }, 1<<30
	p.add(1<<20, clock(0.09))
	if screen.Len() != 0 {
		t.Errorf("it is drawn after 90 ms: %q", screen.String())
	}
	p.add(1<<29-1<<20, clock(4))
	want := "\rbig.iso   50%  ▕████████████            ▏  512 MiB / 1.0 GiB  128 MiB/s  ETA 4s"
	if got := screen.String(); got != want {
		t.Errorf("on the screen is\n%q, want\n%q", got, want)
	}
	for width = range 100 {
		screen.Reset()
		p.add(0, p.shown.Add(time.Second))
		line := strings.TrimRight(strings.TrimPrefix(screen.String(), "\r"), " ")
		if n := utf8.RuneCountInString(line); n >= max(width, 2) {
			t.Errorf("a line of %d characters on %d columns: %q", n, width, line)
		}
	}
	screen.Reset()
	p.clear()
	if got := screen.String(); strings.Trim(got, "\r ") != "" || !strings.HasSuffix(got, "\r") {
		t.Errorf("clearing draws %q", got)
	}
}

// TestProgressRedraws: the screen is not drawn more than ten times in a second.
func TestProgressRedraws(t *testing.T) {
	var screen strings.Builder
	p := newProgress(&screen, "big.iso", clock(0))
	p.width = func() int { return 80 }
	for i := range 5000 {
		p.add(1, clock(float64(i)/1000))
	}
	if n := strings.Count(screen.String(), "\r"); n < 45 || n > 50 {
		t.Errorf("drawn %d times in 5 s", n)
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 102297: "99.9 KiB", 102399: "100 KiB", 5 << 30: "5.0 GiB",
		212 << 20: "212 MiB", 1<<20 - 1: "1024 KiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0us", 341999: "341us", 1234567 * time.Nanosecond: "1.2ms", 24120 * time.Millisecond: "24.1s", 84200 * time.Millisecond: "1m24s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v is %q, want %q", d.Nanoseconds(), got, want)
		}
	}
}
