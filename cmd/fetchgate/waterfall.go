package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// The stages of a hop in their order, and the wait between attempts.
const (
	stagePool = iota
	stageDNS
	stageConnect
	stageTLS
	stageSend
	stageFirstByte
	stageBody
	stageWait
	stageCount
)

var stageNames = [stageCount]string{"pool", "dns", "connect", "tls", "send", "first byte", "body", "wait"}

// The marks of the stages, in their order.
var (
	unicodeMarks = []rune("┈░▒▓╴─█·")
	asciiMarks   = []rune("pdcts-#.")
)

// chart draws what a fetch did on one scale of time.
type chart struct {
	width  int    // columns
	marks  []rune // of the stages
	frame  string // at both ends of the scale
	ending string // of a label that is cut
}

// newChart returns a chart as wide as the terminal that w is, or 80 columns.
func newChart(w io.Writer) chart {
	columns := 80
	if width := terminalWidth(w); width != nil {
		columns = width()
	}
	return chartOf(columns, isUTF8(os.Getenv))
}

func chartOf(columns int, unicode bool) chart {
	if unicode {
		return chart{columns, unicodeMarks, "│", "…"}
	}
	return chart{columns, asciiMarks, "|", "~"}
}

// isUTF8 reads the locale as POSIX does (XBD section 8.2): the first variable
// that is not empty decides.
func isUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(getenv(name)); locale != "" {
			return strings.HasSuffix(locale, "utf-8") || strings.HasSuffix(locale, "utf8")
		}
	}
	return false
}

// chartLine is one hop, or one wait. Times are seconds since the fetch began.
type chartLine struct {
	label string
	took  time.Duration
	spans []span
}

type span struct {
	stage      int
	start, end float64
}

// print draws the attempts of a report, if it has them.
func (c chart) print(w io.Writer, r *fetchgatev1.FetchReport) {
	lines := chartLines(r)
	if len(lines) == 0 {
		return
	}
	whole := seconds(r.GetTotal())
	used := map[int]bool{}
	for _, line := range lines {
		for _, s := range line.spans {
			whole, used[s.stage] = max(whole, s.end), used[s.stage] || s.end > s.start
		}
	}
	const took, gaps = 8, 7 // columns: a duration; spaces, the frame, and the last, which makes some terminals wrap
	label := min(max(c.width*2/5, 16), 60)
	cells := max(c.width-label-took-gaps, 10)
	for _, line := range lines {
		fmt.Fprintf(w, "  %s %*s %s%s%s\n", c.fit(line.label, label), took, formatDuration(line.took), c.frame, c.bar(line.spans, whole, cells), c.frame)
	}
	var legend []string
	for stage, name := range stageNames {
		if used[stage] {
			legend = append(legend, string(c.marks[stage])+" "+name)
		}
	}
	if len(legend) == 0 {
		return
	}
	fmt.Fprintf(w, "  scale %s: %s\n", formatDuration(toDuration(whole)), strings.Join(legend, "  "))
}

// fit makes a label as wide as its column.
func (c chart) fit(label string, columns int) string {
	runes := []rune(label)
	if len(runes) > columns {
		return string(runes[:columns-1]) + c.ending
	}
	return label + strings.Repeat(" ", columns-len(runes))
}

// bar draws spans. A cell shows what its middle falls into; what falls between
// two middles has the cell in which it begins, if that is free.
func (c chart) bar(spans []span, whole float64, cells int) string {
	line := []rune(strings.Repeat(" ", cells))
	if whole <= 0 {
		return string(line)
	}
	for _, s := range spans {
		shown := false
		for i := range line {
			if middle := (float64(i) + 0.5) / float64(cells) * whole; s.start <= middle && middle < s.end {
				line[i], shown = c.marks[s.stage], true
			}
		}
		if first := min(int(s.start/whole*float64(cells)), cells-1); !shown && s.end > s.start && line[first] == ' ' {
			line[first] = c.marks[s.stage]
		}
	}
	return string(line)
}

// chartLines are the waits and hops in their order. Attempts begin at their
// instants: what is left of a body may still be read while the next one waits. A
// report has no instants of hops: each begins where the one before it ended.
func chartLines(r *fetchgatev1.FetchReport) []chartLine {
	var lines []chartLine
	var origin *timestamppb.Timestamp
	now := 0.0
	for _, a := range r.GetAttempts() {
		wait := seconds(a.GetWait())
		start := now + wait // where no instant is known
		switch {
		case origin == nil:
			origin = a.GetStartTime()
		case a.GetStartTime() != nil:
			start = max(0, a.GetStartTime().AsTime().Sub(origin.AsTime()).Seconds())
		}
		if wait > 0 {
			lines = append(lines, chartLine{"  wait", a.GetWait().AsDuration(), []span{{stageWait, max(0, start-wait), start}}})
		}
		now = start
		for i, h := range a.GetHops() {
			line, end := hopLine(fmt.Sprintf("%d.%d", a.GetNumber(), i+1), h, now)
			lines, now = append(lines, line), end
		}
		if len(a.GetHops()) == 0 {
			lines = append(lines, chartLine{fmt.Sprintf("%d   %s", a.GetNumber(), enumName(a.GetReason().String(), "FAILURE_REASON_")), a.GetTotal().AsDuration(), nil})
		}
		now = max(now, start+seconds(a.GetTotal()))
	}
	return lines
}

// hopLine returns the line of a hop that begins at an instant, and its end.
func hopLine(number string, h *fetchgatev1.Hop, start float64) (chartLine, float64) {
	outcome := "---"
	if h.GetStatus() != 0 {
		outcome = fmt.Sprint(h.GetStatus())
	}
	t := h.GetTimings()
	_, place, found := strings.Cut(h.GetUrl(), "://")
	if !found {
		place = h.GetUrl()
	}
	line := chartLine{
		label: fmt.Sprintf("%s %s %s %s", number, outcome, escaped(h.GetMethod()), escaped(place)),
		took:  t.GetTotal().AsDuration(),
	}
	now := start
	for stage, took := range []*durationpb.Duration{t.GetPool(), t.GetDns(), t.GetConnect(), t.GetTls(), t.GetSend(), t.GetFirstByte()} {
		if s := seconds(took); s > 0 {
			line.spans = append(line.spans, span{stage, now, now + s})
			now += s
		}
	}
	end := max(now, start+seconds(t.GetTotal()))
	if t.GetFirstByte() != nil && end > now {
		line.spans = append(line.spans, span{stageBody, now, end})
	}
	return line, end
}

// seconds is a duration of a service, which may be nonsense: below 0 is 0.
func seconds(d *durationpb.Duration) float64 { return max(d.AsDuration().Seconds(), 0) }

// toDuration is the reverse; what is too long becomes the longest there is.
func toDuration(s float64) time.Duration {
	const longest = time.Duration(1<<63 - 1)
	if s >= longest.Seconds() {
		return longest
	}
	return time.Duration(s * float64(time.Second))
}
