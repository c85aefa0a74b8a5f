package cookie

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The parts of a date, each of which is the beginning of a token (RFC 6265
// section 5.1.1). What follows a number is not a digit.
var (
	clockToken = regexp.MustCompile(`^(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\D|$)`)
	dayToken   = regexp.MustCompile(`^(\d{1,2})(?:\D|$)`)
	monthToken = regexp.MustCompile(`^(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)`)
	yearToken  = regexp.MustCompile(`^(\d{2,4})(?:\D|$)`)
)

const months = "janfebmaraprmayjunjulaugsepoctnovdec"

// parseDate reads the value of Expires (RFC 6265 section 5.1.1). The first token
// that can be a part which is still missing is that part.
func parseDate(value []byte) (time.Time, bool) {
	parts := [...]struct {
		pattern *regexp.Regexp
		found   []string
	}{{pattern: clockToken}, {pattern: dayToken}, {pattern: monthToken}, {pattern: yearToken}}
	for token := range strings.FieldsFuncSeq(lower(value), isDateDelimiter) {
		for i := range parts {
			p := &parts[i]
			if p.found != nil {
				continue
			}
			if p.found = p.pattern.FindStringSubmatch(token); p.found != nil {
				break
			}
		}
	}
	clock, day, month, year := parts[0].found, parts[1].found, parts[2].found, parts[3].found
	if clock == nil || day == nil || month == nil || year == nil {
		return time.Time{}, false
	}
	y, d := fullYear(number(year[1])), number(day[1])
	m := time.Month(1 + strings.Index(months, month[0])/3)
	hour, minute, second := number(clock[1]), number(clock[2]), number(clock[3])
	date := time.Date(y, m, d, hour, minute, second, 0, time.UTC)
	// A day that the month does not have becomes one of another month.
	exists := date.Day() == d && date.Month() == m
	return date, exists && y >= 1601 && hour <= 23 && minute <= 59 && second <= 59
}

func isDateDelimiter(r rune) bool {
	return r == '\t' || ' ' <= r && r <= '/' || ';' <= r && r <= '@' || '[' <= r && r <= '`' || '{' <= r && r <= '~'
}

// fullYear completes a year of two digits.
func fullYear(y int) int {
	switch {
	case y < 70:
		return y + 2000
	case y < 100:
		return y + 1900
	}
	return y
}

// number is for at most four digits, which cannot fail.
func number(digits string) int {
	n, _ := strconv.Atoi(digits)
	return n
}
