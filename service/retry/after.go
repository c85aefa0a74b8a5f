package retry

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// The forms of an HTTP-date (RFC 9110 section 5.6.7).
const (
	fixdate = "Mon, 02 Jan 2006 15:04:05 GMT"
	rfc850  = "Monday, 02-Jan-06 15:04:05 GMT"
	asctime = time.ANSIC
)

// maxDateBytes is the length of the longest HTTP-date, one of RFC 850 on a
// Wednesday. What is longer is not parsed, since errors of time copy it.
const maxDateBytes = len("Wednesday, 02-Jan-06 15:04:05 GMT")

// retryAfter reads the value of Retry-After (RFC 9110 section 10.2.3): seconds,
// or a date, which is 0 once it is past. It is false for anything else; what is
// longer than a Duration can say is the longest.
func retryAfter(value []byte, now time.Time) (time.Duration, bool) {
	s := strings.Trim(string(value), " \t")
	if s != "" && strings.Trim(s, "0123456789") == "" {
		seconds, err := strconv.ParseInt(s, 10, 64)
		if err != nil || seconds > math.MaxInt64/int64(time.Second) {
			return math.MaxInt64, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, ok := httpDate(s, now)
	if !ok {
		return 0, false
	}
	return max(0, date.Sub(now)), true
}

func httpDate(s string, now time.Time) (time.Time, bool) {
	if len(s) > maxDateBytes {
		return time.Time{}, false
	}
	if date, err := time.Parse(fixdate, s); err == nil {
		return date, true
	}
	if date, err := time.Parse(asctime, s); err == nil {
		return date, true
	}
	date, err := time.Parse(rfc850, s)
	if err != nil {
		return time.Time{}, false
	}
	return century(date, now), true
}

// century sets the century of a date whose year has two digits: it is the last
// one in which the date is not more than 50 years ahead of now.
func century(date, now time.Time) time.Time {
	years := date.Year() % 100
	date = date.AddDate(now.Year()/100*100+100+years-date.Year(), 0, 0)
	for date.After(now.AddDate(50, 0, 0)) {
		date = date.AddDate(-100, 0, 0)
	}
	return date
}
