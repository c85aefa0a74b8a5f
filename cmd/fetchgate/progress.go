package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// How often progress is shown: on a terminal, where one line is drawn again and
// again, and elsewhere, where each time adds a line to a log.
const (
	redrawEvery = 100 * time.Millisecond
	lineEvery   = 10 * time.Second
)

// progress shows how far a download is. It counts what is written to it.
type progress struct {
	w     io.Writer
	name  string
	width func() int // of the terminal; nil: w is none
	total int64      // bytes; -1: not known
	start time.Time

	done   int64
	shown  time.Time // when it was shown last
	length int       // of the line on the terminal, in characters
}

// newProgress begins at the instant start.
func newProgress(w io.Writer, path string, start time.Time) *progress {
	return &progress{w: w, name: filepath.Base(path), width: terminalWidth(w), total: -1, start: start, shown: start}
}

// terminalWidth returns what measures the terminal that w is, or nil.
func terminalWidth(w io.Writer) func() int {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return func() int {
		width, _, err := term.GetSize(int(file.Fd()))
		if err != nil || width <= 0 { // a terminal that does not know
			return 80
		}
		return width
	}
}

// Write counts b. It never fails: a download does not end because nobody
// watches it.
func (p *progress) Write(b []byte) (int, error) {
	p.add(len(b), time.Now())
	return len(b), nil
}

func (p *progress) add(n int, now time.Time) {
	p.done += int64(n)
	every := lineEvery
	if p.width != nil {
		every = redrawEvery
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	if p.width == nil {
		fmt.Fprintln(p.w, p.line(now, 0))
		return
	}
	p.draw(p.line(now, max(1, p.width()-1))) // the last column makes some terminals wrap
}

// draw replaces the line on the terminal.
func (p *progress) draw(line string) {
	length := utf8.RuneCountInString(line)
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.length-length)))
	p.length = length
}

// clear takes the line off the terminal.
func (p *progress) clear() {
	if p.length > 0 {
		p.draw("")
		fmt.Fprint(p.w, "\r")
	}
}

// saved ends it with the line that stays.
func (p *progress) saved(now time.Time) {
	p.clear()
	fmt.Fprintf(p.w, "saved %s  %s in %s (%s/s)\n", p.name, formatBytes(p.done), formatDuration(now.Sub(p.start)), formatBytes(p.rate(now)))
}

// rate is the mean of bytes per second so far.
func (p *progress) rate(now time.Time) int64 {
	return int64(float64(p.done) / max(now.Sub(p.start).Seconds(), 0.001))
}

// line is what there is to say, in at most width characters; 0 means any
// number, without a bar.
func (p *progress) line(now time.Time, width int) string {
	rate := p.rate(now)
	right := fmt.Sprintf("%s  %s/s", formatBytes(p.done), formatBytes(rate))
	if p.total <= 0 {
		return cut(p.name+"  "+right, width)
	}
	right = fmt.Sprintf("%s / %s  %s/s", formatBytes(p.done), formatBytes(p.total), formatBytes(rate))
	if rate > 0 {
		left := time.Duration(float64(p.total-p.done) / float64(rate) * float64(time.Second))
		right += "  ETA " + formatDuration(max(left, 0).Round(time.Second))
	}
	part := min(float64(p.done)/float64(p.total), 1)
	left := fmt.Sprintf("%s  %3.0f%%", p.name, 100*part)
	const frame = len("  ||  ")
	space := width - utf8.RuneCountInString(left) - utf8.RuneCountInString(right) - frame
	if space < 5 {
		return cut(left+"  "+right, width)
	}
	return fmt.Sprintf("%s  %s  %s", left, bar(part, min(space, 30)), right)
}

// bar draws a part of 0 to 1 in that many cells, each of which has eight steps.
func bar(part float64, cells int) string {
	steps := []rune(" ▏▎▍▌▋▊▉█")
	eighths := int(part * float64(cells) * 8)
	full, rest := eighths/8, eighths%8
	line := strings.Repeat("█", full)
	if full < cells {
		line += string(steps[rest]) + strings.Repeat(" ", cells-full-1)
	}
	return "▕" + line + "▏"
}

// cut shortens a line to width characters; 0 means any number.
func cut(line string, width int) string {
	runes := []rune(line)
	if width <= 0 || len(runes) <= width {
		return line
	}
	return string(runes[:width])
}

// formatBytes is a size as people read it: "512 B", "3.1 GiB", "212 MiB".
func formatBytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1<<10 && unit < 6 {
		value, unit = value/(1<<10), unit+1
	}
	// From 100 on, and where a decimal would round up to it, none is shown.
	if value >= 99.95 {
		return fmt.Sprintf("%.0f %ciB", value, "KMGTPE"[unit-1])
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit-1])
}

// formatDuration is a duration as people read it: "341us", "34.1ms", "24.1s",
// "1m24s".
func formatDuration(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return fmt.Sprintf("%dus", d.Microseconds())
}
